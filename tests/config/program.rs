//! `ringgate check` as a user runs it.

use std::process::{Command, Output};

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
