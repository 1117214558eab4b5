//! A program that is given up when it does not end.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// How long the end may take once it is killed, and its last words after its end. A program that
/// the kernel holds, as a driver that hangs does, does not end at all.
const LAST: Duration = Duration::from_secs(1);

/// What `command` says, and how it ends.
///
/// # Errors
///
/// It cannot be started, or does not end `within` that time: it and what it started is killed then.
pub(super) fn output(mut command: Command, within: Duration) -> io::Result<Output> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Its own group: what it starts ends with it.
        .process_group(0);
    let mut child = command.spawn()?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = match ended(&mut child, within) {
        Ok(Some(status)) => status,
        outcome => {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = ended(&mut child, LAST);
            outcome?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("did not end within {within:?}"),
            ));
        }
    };
    Ok(Output {
        status,
        stdout: stdout.recv_timeout(LAST).unwrap_or_default(),
        stderr: stderr.recv_timeout(LAST).unwrap_or_default(),
    })
}

fn ended(child: &mut Child, within: Duration) -> io::Result<Option<ExitStatus>> {
    let until = Instant::now() + within;
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= until {
            return Ok(status);
        }
        thread::sleep(LOOK);
    }
}

/// Reads to the end beside us, so that a full pipe holds nobody up.
fn drain(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is kept.
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        command
    }

    #[test]
    fn what_it_says_is_read_whole_with_its_status() {
        let script = "head -c 300000 /dev/zero; echo no >&2; exit 3";
        let output = output(sh(script), Duration::from_secs(20)).unwrap();
        assert_eq!(output.stdout.len(), 300_000);
        assert_eq!(output.stderr, b"no\n");
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn who_does_not_end_is_killed_with_what_it_started() {
        let file = std::env::temp_dir().join(format!("program-{}", std::process::id()));
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        let begun = Instant::now();
        let error = output(sh(&script), Duration::from_millis(500)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(60));
        let started = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        // A dead one may wait for whoever inherited it.
        let lives = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", started.trim()));
            status.is_ok_and(|status| !status.contains("State:\tZ"))
        };
        while lives() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{started}");
            thread::sleep(LOOK);
        }
    }

    #[test]
    fn one_that_is_not_there_is_not_found() {
        let missing = Command::new("ringgate-no-such-program");
        let error = output(missing, Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
