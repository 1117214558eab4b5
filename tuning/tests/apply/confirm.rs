//! `--confirm-within`: kept when it is confirmed, else as before.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::fixture::{EVERYTHING, Tree, ended};

/// An `apply` that waits to be confirmed; killed when dropped.
pub struct Waiting {
    child: Child,
    /// `None` after its session ended.
    said: Option<BufReader<ChildStderr>>,
}

impl Waiting {
    /// Applies [`EVERYTHING`], up to where it waits.
    #[track_caller]
    pub fn apply(tree: &Tree, within: &str) -> Self {
        let mut command = tree.command("apply", Some(EVERYTHING));
        command.args(["--confirm-within", within]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut lines = said.by_ref().lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains("waits ")), "it ended");
        Self {
            child,
            said: Some(said),
        }
    }

    /// The exit code, and what it says from now on.
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        if let Some(rest) = &mut self.said {
            rest.read_to_string(&mut said).unwrap();
        }
        (self.child.wait().unwrap().code(), said)
    }

    fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.arg(format!("-{name}"))
            .arg(self.child.id().to_string());
        let (code, _, said) = ended(&mut kill);
        assert_eq!(code, Some(0), "{said}");
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn confirmed_it_stays_though_its_session_ended() {
    let tree = Tree::new("confirmed");
    let waiting = Waiting::apply(&tree, "60s");
    waiting.signal("HUP");
    let applied = tree.values();
    let (code, lines, said) = ended(&mut tree.command("confirm", None));
    assert_eq!(code, Some(0), "{lines}{said}");
    let (code, said) = waiting.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(tree.values(), applied);
    assert!(tree.journal().is_some());
    // Once is enough.
    let (code, _, said) = ended(&mut tree.command("confirm", None));
    assert_eq!(code, Some(1));
    assert!(said.contains("nothing waits to be confirmed"), "{said}");
}

#[test]
fn without_an_answer_in_time_it_is_taken_back() {
    let tree = Tree::new("late");
    let before = tree.values();
    let (code, said) = Waiting::apply(&tree, "500ms").end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("not confirmed within 500ms"), "{said}");
    assert!(said.contains("nothing is changed"), "{said}");
    assert_eq!(tree.values(), before);
    assert_eq!(tree.journal(), None);
}

#[test]
fn where_its_session_and_its_output_are_gone_it_is_taken_back() {
    let tree = Tree::new("hung-up");
    let before = tree.values();
    let mut waiting = Waiting::apply(&tree, "300ms");
    waiting.said = None;
    waiting.signal("HUP");
    let (code, _) = waiting.end();
    assert_eq!(code, Some(1));
    assert_eq!(tree.values(), before);
    assert_eq!(tree.journal(), None);
}

#[test]
fn sigterm_takes_it_back_at_once() {
    for name in ["TERM", "INT"] {
        let tree = Tree::new(&format!("signal-{name}"));
        let before = tree.values();
        let waiting = Waiting::apply(&tree, "60s");
        assert_ne!(tree.values(), before);
        // Left alone: somebody else has a reason for it.
        tree.set("proc/sys/net/core/somaxconn", "777");
        waiting.signal(name);
        let (code, said) = waiting.end();
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("interrupted before it was confirmed"),
            "{said}"
        );
        assert!(said.contains("changed by someone else to 777"), "{said}");
        tree.set("proc/sys/net/core/somaxconn", "128");
        assert_eq!(tree.values(), before);
        assert_eq!(tree.journal(), None);
    }
}

#[test]
fn taken_back_is_what_was_before_this_apply() {
    let tree = Tree::new("onto");
    ended(&mut tree.command("apply", Some(EVERYTHING)));
    let (first, journal) = (tree.values(), tree.journal().unwrap());
    let second = EVERYTHING
        .replace("4096", "8192")
        .replace("queues = 2", "queues = 4");
    let mut command = tree.command("apply", Some(&second));
    let (code, _, said) = ended(command.args(["--confirm-within", "100ms"]));
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(tree.values(), first);
    assert_eq!(tree.journal().unwrap(), journal);
}

#[test]
fn a_waiter_that_is_killed_leaves_it_to_revert() {
    let tree = Tree::new("killed");
    let before = tree.values();
    drop(Waiting::apply(&tree, "60s"));
    let (code, _, said) = ended(&mut tree.command("confirm", None));
    assert_eq!(code, Some(1), "{said}");
    let (code, lines, _) = ended(&mut tree.command("revert", None));
    assert_eq!(code, Some(0), "{lines}");
    assert_eq!(tree.values(), before);
    // What is left of it is in nobody's way.
    let waiting = Waiting::apply(&tree, "60s");
    let (code, ..) = ended(&mut tree.command("confirm", None));
    assert_eq!(code, Some(0));
    assert_eq!(waiting.end().0, Some(0));
}
