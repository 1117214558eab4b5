//! Hosts that lack what a start needs: the error names cause and remedy, and nothing stays behind.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::gate::LIMIT;
use crate::plan::Plan;
use crate::program::{find, skip};

/// Exit code and words of a program that ends by itself.
#[track_caller]
pub fn outcome(command: &mut Command) -> (Option<i32>, String) {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let reader = thread::spawn(move || {
        let mut said = Vec::new();
        let _ = stderr.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    });
    let until = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() > until => break None,
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    let Some(status) = status else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{command:?} did not end: {}", reader.join().unwrap());
    };
    (status.code(), reader.join().unwrap())
}

/// Asserts that a start through `through` fails with exit code 1 and words that hold `parts`, and
/// that the address is free then.
#[track_caller]
fn fails(through: &[&str], parts: &[&str]) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let plan = Plan {
        address: Box::leak(address.to_string().into_boxed_str()),
        through: through.iter().map(|&word| word.to_owned()).collect(),
        ..Plan::new()
    };
    let (code, said) = outcome(&mut plan.command());
    assert_eq!(code, Some(1), "{said}");
    for part in parts {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    TcpListener::bind(address).expect("nobody listens there any more");
}

/// `strace` that has `io_uring_setup` fail with `error`, if it may trace.
fn setup_fails_with(error: &str) -> Option<Vec<String>> {
    let strace = find("strace")?;
    let inject = format!("inject=io_uring_setup:error={error}");
    let words = ["-f", "-qq", "-e", "trace=io_uring_setup", "-e", &inject];
    let words = words
        .into_iter()
        .chain(["-e", "signal=none", "-o", "/dev/null"]);
    let words = words.map(str::to_owned);
    let through: Vec<_> = [strace.to_str()?.to_owned()]
        .into_iter()
        .chain(words)
        .collect();
    let (code, said) = outcome(Command::new(&through[0]).args(&through[1..]).arg("true"));
    if code != Some(0) {
        skip(&format!("strace does not work here: {}", said.trim()));
        return None;
    }
    Some(through)
}

fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[test]
fn io_uring_disabled() {
    let Some(through) = setup_fails_with("EPERM") else {
        return;
    };
    fails(
        &borrowed(&through),
        &["io_uring", "kernel.io_uring_disabled=0"],
    );
}

#[test]
fn old_kernel() {
    // Before 5.1 there was no io_uring; before 6.1 it did not know these flags.
    for error in ["ENOSYS", "EINVAL"] {
        let Some(through) = setup_fails_with(error) else {
            return;
        };
        fails(&borrowed(&through), &["io_uring", "6.1 or newer"]);
    }
}

/// Becomes the program that it is given under a seccomp filter that has io_uring_setup fail with
/// the error that it is given first.
const UNDER_SECCOMP: &str = "
import ctypes, os, struct, sys
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
IO_URING_SETUP, ERRNO, ALLOW = 425, 0x00050000, 0x7fff0000
code = [(LOAD, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, IO_URING_SETUP),
        (RETURN, 0, 0, ERRNO | int(sys.argv[1])), (RETURN, 0, 0, ALLOW)]
filter = b''.join(struct.pack('HBBI', *line) for line in code)
buffer = ctypes.create_string_buffer(filter)
program = struct.pack('HL', len(code), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
    sys.exit('no filter: ' + os.strerror(ctypes.get_errno()))
os.execv(sys.argv[2], sys.argv[2:])
";

#[test]
fn seccomp() {
    const EPERM: &str = "1";
    const ENOSYS: &str = "38";
    let Some(python) = find("python3") else {
        return;
    };
    // Docker's profile says EPERM, others say ENOSYS.
    for error in [EPERM, ENOSYS] {
        let through = [python.to_str().unwrap(), "-c", UNDER_SECCOMP, error];
        fails(&through, &["io_uring", "seccomp profile"]);
    }
}
