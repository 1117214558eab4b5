//! Small programs that stand in for the terminator and the load generator.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Says that it listens, and waits for its end.
pub const SERVES: &str = "echo '2026 INFO listening address=127.0.0.1:1' >&2\nexec sleep 600";

/// A folder with a server and a load generator; gone when dropped.
pub struct Stage {
    pub root: PathBuf,
}

impl Stage {
    /// Both are shell scripts. They find the folder as `$ROOT`; `$LAYOUT` is the server's layout,
    /// `$RESULT` the file for the load's result.
    pub fn new(name: &str, server: &str, load: &str) -> Self {
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("autotune-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("tmp")).unwrap();
        let stage = Self { root };
        let head = |option: &str, name: &str| {
            format!(
                "#!/bin/sh\nROOT='{}'\necho $$ >>\"$ROOT/pids\"\necho \"$0 $*\" >>\"$ROOT/calls\"\n\
                 before=\nfor it; do [ \"$before\" = {option} ] && {name}=$it; before=$it; done\n",
                stage.root.display()
            )
        };
        script(&stage.server(), &(head("--layout", "LAYOUT") + server));
        script(&stage.load(), &(head("--json", "RESULT") + load));
        stage
    }

    pub fn server(&self) -> PathBuf {
        self.root.join("ringgate")
    }

    pub fn load(&self) -> PathBuf {
        self.root.join("ringgate-loadgen")
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.root.join(name)).unwrap_or_default()
    }

    /// Fails unless every process that wrote its number has ended.
    pub fn expect_nothing_left(&self) {
        let pids = self.read("pids");
        assert!(!pids.is_empty(), "nothing was started");
        for pid in pids.lines() {
            // What a script started may wait for whoever adopted it to reap it: Z.
            until(&format!("the end of process {pid}"), || {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
                state.is_empty() || state.starts_with('Z')
            });
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// A load that confirms so many a second.
pub fn confirms(rate: &str) -> String {
    format!(
        "printf '{{\"schema\":\"ringgate-loadgen/1\",\"phases\":[{{\"name\":\"handshake\",\
         \"confirmed_per_s\":%s,\"p99_us\":2500.5,\"server_cpu_us_per_unit\":360.5}}]}}' {rate} \
         >\"$RESULT\"\n"
    )
}

/// Waits until `is` holds, and fails if it never does.
pub fn until(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Another process writes it: one that this process had open for writing, a fork in another thread
/// could hold open, and what is open for writing cannot be run.
fn script(path: &Path, text: &str) {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(path);
    let mut child = shell.stdin(Stdio::piped()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
}
