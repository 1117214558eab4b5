//! The program, killed at each of its system calls.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::fixture::{EVERYTHING, Tree, ended};

/// What changes something that lasts, and what opens files.
const CALLS: [&str; 7] = [
    "write,pwrite64",
    "fsync,fdatasync",
    "rename,renameat,renameat2",
    "unlink,unlinkat",
    "mkdir,mkdirat",
    "flock,ftruncate",
    "openat",
];

/// More calls of one kind than the program makes on the small host.
const CALLS_MAX: usize = 1000;

/// One without interrupts and `ethtool`, so that the reading is short and every run the same.
const FILES: &str = r#"
[[nic]]
name = "eth0"
rps = [{ queue = 0, cpus = "1-2" }]
xps = [{ queue = 1, cpus = "2" }]
gro_flush_timeout_ns = 200000
[sysctl]
"net.core.somaxconn" = 4096
"#;

pub fn find(program: &str) -> Option<PathBuf> {
    let found = ["/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .into_iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: no program `{program}` here");
    }
    found
}

/// `strace` that kills at the `at`-th of `calls`.
fn killer(strace: &Path, calls: &str, at: usize) -> Command {
    let mut command = Command::new(strace);
    command
        .args(["-qq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={calls}"));
    command
        .arg("-e")
        .arg(format!("inject={calls}:signal=SIGKILL:when={at}"));
    command
}

/// Kills `apply` at every call of every kind, and reverts after each.
fn killed_apply(name: &str, layout: &str, calls: &[&str]) {
    let Some(strace) = find("strace") else {
        return;
    };
    for calls in calls {
        let tree = Tree::new(&format!("{name}-{}", calls.replace(',', "-")));
        let before = tree.values();
        let mut halfway = 0;
        for at in 1..=CALLS_MAX {
            let killer = killer(&strace, calls, at);
            let (code, _, said) = ended(&mut tree.wrapped(killer, "apply", Some(layout)));
            halfway += usize::from(code != Some(0) && tree.values() != before);
            let (reverted, lines, error) = ended(&mut tree.command("revert", None));
            assert_eq!(reverted, Some(0), "{calls} {at}: {said}{lines}{error}");
            assert_eq!(tree.values(), before, "{calls} {at}: {said}{lines}");
            assert_eq!(tree.journal(), None);
            if code == Some(0) {
                assert!(
                    at > 1 || *calls == "unlink,unlinkat",
                    "{calls}: nothing was killed"
                );
                let writes = ["write,pwrite64", "openat"].contains(calls);
                assert!(halfway > 2 || !writes, "{calls}: none was killed halfway");
                break;
            }
            assert!(at < CALLS_MAX, "{calls}: no run ends by itself: {said}");
        }
    }
}

#[test]
fn killed_at_any_call_revert_restores() {
    // Two processors have more to do at once than one after the other.
    thread::scope(|scope| {
        let (openat, others) = CALLS.split_last().unwrap();
        scope.spawn(|| killed_apply("killed-open", FILES, &[openat]));
        killed_apply("killed", FILES, others);
    });
}

#[test]
fn killed_between_counts_of_queues_and_the_rest_revert_restores() {
    killed_apply(
        "killed-queues",
        EVERYTHING,
        &["write,pwrite64", "rename,renameat,renameat2"],
    );
}

#[test]
fn a_killed_second_apply_is_reverted_to_what_was_first() {
    let Some(strace) = find("strace") else {
        return;
    };
    let tree = Tree::new("killed-second");
    let before = tree.values();
    let second = FILES
        .replace("4096", "8192")
        .replace("gro_flush_timeout_ns = 200000\n", "");
    for at in 1..=CALLS_MAX {
        let (code, ..) = ended(&mut tree.command("apply", Some(FILES)));
        assert_eq!(code, Some(0));
        let killer = killer(&strace, "write", at);
        let (code, _, said) = ended(&mut tree.wrapped(killer, "apply", Some(&second)));
        let (reverted, lines, error) = ended(&mut tree.command("revert", None));
        assert_eq!(reverted, Some(0), "write {at}: {said}{lines}{error}");
        assert_eq!(tree.values(), before, "write {at}: {said}{lines}");
        if code == Some(0) {
            assert!(at > 3);
            return;
        }
    }
    panic!("no run ends by itself");
}

#[test]
fn a_killed_revert_is_taken_up_again() {
    let Some(strace) = find("strace") else {
        return;
    };
    for calls in ["write", "unlink,unlinkat", "openat", "fsync"] {
        let tree = Tree::new(&format!("killed-revert-{}", &calls[..4]));
        let before = tree.values();
        for at in 1..=CALLS_MAX {
            let (code, ..) = ended(&mut tree.command("apply", Some(FILES)));
            assert_eq!(code, Some(0));
            let killer = killer(&strace, calls, at);
            let (code, ..) = ended(&mut tree.wrapped(killer, "revert", None));
            let (reverted, lines, error) = ended(&mut tree.command("revert", None));
            assert_eq!(reverted, Some(0), "{calls} {at}: {lines}{error}");
            assert_eq!(tree.values(), before, "{calls} {at}: {lines}");
            assert_eq!(tree.journal(), None);
            if code == Some(0) {
                assert!(at > 1, "{calls}: nothing was killed");
                break;
            }
            assert!(at < CALLS_MAX, "{calls}: no run ends by itself");
        }
    }
}
