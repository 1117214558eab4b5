//! `ringgate check` as a user runs it.

use std::fs::File;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use crate::scratch::Scratch;
use crate::{front, front_with};

fn ringgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringgate"))
        .args(arguments)
        .output()
        .unwrap()
}

fn check(scratch: &Scratch) -> (Option<i32>, String, String) {
    let file = scratch.path("ringgate.toml");
    let output = ringgate(&["check", "-c", file.to_str().unwrap()]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn a_sound_configuration_is_ok() {
    let scratch = Scratch::new();
    // This runs by the real clock, by which the certificates of the tests may have expired.
    let (code, stdout, stderr) = check(&scratch);
    assert_eq!(code, Some(0));
    let mut lines = stdout.lines();
    assert_eq!(
        [lines.next(), lines.next()],
        [
            Some("config ok: 1 listener on 1 address, 1 route"),
            Some("first to expire:")
        ]
    );
    let server = format!(
        "  certificate {} (subject CN=server): ",
        scratch.path("server.pem").display()
    );
    assert!(lines.next().is_some_and(|line| line.starts_with(&server)));
    assert!(
        lines
            .next()
            .is_some_and(|line| line.contains("trust anchor"))
    );
    assert_eq!(lines.next(), None);
    assert!(
        stderr.is_empty() || stderr.starts_with("warning: "),
        "{stderr}"
    );
}

/// As `| head -1` does.
#[test]
fn whoever_reads_standard_output_may_have_seen_enough() {
    let scratch = Scratch::new();
    let file = scratch.path("ringgate.toml");
    let file = file.to_str().unwrap();
    let certificate = scratch.path("server.pem");
    let explain = [
        "explain",
        "--cert",
        certificate.to_str().unwrap(),
        "-c",
        file,
    ];
    for arguments in [&["check", "-c", file][..], &["doctor"], &explain] {
        let start = |stdout: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate"));
            command
                .args(arguments)
                .stdout(stdout)
                .stderr(Stdio::piped());
            command.spawn().unwrap().wait_with_output().unwrap()
        };
        let expected = start(Stdio::piped()).status.code();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = start(writer.into());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), expected, "{arguments:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
        // Where there is no room, nobody has seen it.
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = start(full.into());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(text.contains("standard output: "), "{text}");
    }
}

#[test]
fn every_error_goes_to_standard_error_at_once() {
    let scratch = Scratch::new();
    scratch.write(
        "ringgate.toml",
        front_with("upstream", "upstream = 1") + "\ncolour = 2\n",
    );
    scratch.set_mode("server.key", 0o640);
    let (code, stdout, stderr) = check(&scratch);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert_eq!(stderr.matches("remedy: ").count(), 3, "{stderr}");
    assert!(stderr.contains("3 errors in "), "{stderr}");
}

/// As Kubernetes mounts secrets for a pod with `fsGroup`: root keeps them, the pod's group reads them.
#[test]
fn a_key_that_root_keeps_may_be_read_by_the_group_of_another_user() {
    const NOBODY: u32 = 65_534;
    let scratch = Scratch::new();
    scratch.write("stek.key", [b'7'; 32]);
    scratch.write("ringgate.toml", front("[resumption]\nstek = \"stek.key\""));
    let keys = ["server.key", "stek.key"];
    for key in keys {
        if let Err(error) = chown(scratch.path(key), Some(0), Some(NOBODY)) {
            eprintln!("skipped: only root gives files away: {error}");
            return;
        }
    }
    let said_as = |user: u32| {
        Command::new(env!("CARGO_BIN_EXE_ringgate"))
            .args([
                "check",
                "-c",
                scratch.path("ringgate.toml").to_str().unwrap(),
            ])
            .uid(user)
            .gid(user)
            .output()
            .map(|output| {
                let said = String::from_utf8(output.stderr).unwrap();
                (output.status.success(), said)
            })
    };
    let count = |said: &str| said.matches("is open to group or others").count();
    for (mode, refused) in [(0o440, 0), (0o640, 0), (0o460, 2), (0o444, 2)] {
        keys.iter().for_each(|key| scratch.set_mode(key, mode));
        match said_as(NOBODY) {
            Ok((is_sound, said)) => {
                assert_eq!(count(&said), refused, "{mode:o}: {said}");
                assert_eq!(is_sound, refused == 0, "{mode:o}: {said}");
            }
            Err(error) => return eprintln!("skipped: nobody cannot run this: {error}"),
        }
        // To the owner itself 0600 is enough.
        assert_eq!(count(&said_as(0).unwrap().1), 2);
    }
}

#[test]
fn run_refuses_what_check_refuses() {
    let scratch = Scratch::new();
    scratch.write("ringgate.toml", front("colour = 2\n"));
    let output = ringgate(&["run", "-c", scratch.path("ringgate.toml").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown key"));
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in [&[][..], &["check"], &["check", "-c"], &["chek", "-c", "x"]] {
        assert_eq!(ringgate(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let version = ringgate(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("ringgate 0."));
}
