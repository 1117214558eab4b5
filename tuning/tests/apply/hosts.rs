//! Real knobs: those of a veth pair in a network namespace, and interrupts of this host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringgate_tune::host::Host;
use ringgate_tune::inspection::Inspection;
use ringgate_tune::layout::HostShape;
use rustix::process::geteuid;

use crate::crash::find;
use crate::fixture::{PROGRAM, ended};

/// Turns what a veth pair and a namespace have.
const KNOBS: &str = r#"
[[nic]]
name = "gate"
rps = [{ queue = 0, cpus = "0" }, { queue = 1, cpus = "" }]
xps = [{ queue = 0, cpus = "0" }, { queue = 1, cpus = "0" }]
napi_defer_hard_irqs = 2
gro_flush_timeout_ns = 200000
[sysctl]
"net.core.somaxconn" = 8191
"net.ipv4.tcp_max_syn_backlog" = 1023
"net.ipv4.ip_local_port_range" = "1024 65535"
"#;

const FILES: [&str; 11] = [
    "/sys/class/net/gate/queues/rx-0/rps_cpus",
    "/sys/class/net/gate/queues/rx-1/rps_cpus",
    "/sys/class/net/gate/queues/rx-3/rps_cpus",
    "/sys/class/net/gate/queues/tx-0/xps_cpus",
    "/sys/class/net/gate/queues/tx-1/xps_cpus",
    "/sys/class/net/gate/queues/tx-3/xps_cpus",
    "/sys/class/net/gate/napi_defer_hard_irqs",
    "/sys/class/net/gate/gro_flush_timeout",
    "/proc/sys/net/core/somaxconn",
    "/proc/sys/net/ipv4/tcp_max_syn_backlog",
    "/proc/sys/net/ipv4/ip_local_port_range",
];

fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// A layout of this host and the state directory beside it; gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = format!("hosts-{name}-{}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// The program with its state, and a layout where there is one.
    fn command(&self, inside: Command, command: &str, rest: Option<&str>) -> Command {
        let mut program = inside;
        program
            .arg(PROGRAM)
            .arg(command)
            .arg("--state")
            .arg(self.0.join("state"));
        if let Some(rest) = rest {
            let here = Inspection::read(&Host::default(), None);
            let HostShape {
                online,
                cores,
                nodes,
            } = HostShape::of(&here);
            let file = self.0.join("layout.toml");
            let text = format!(
                "version = 1\n[host]\nonline = \"{online}\"\ncores = {cores}\nnodes = {nodes}\n\
                 [shards]\ncount = 1\n{rest}"
            );
            fs::write(&file, text).unwrap();
            program.arg(file);
        }
        program
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A network namespace with one end of a veth pair, `gate`; gone when dropped.
struct Namespace {
    name: String,
    ip: PathBuf,
}

impl Namespace {
    /// `None`, with a notice, where there can be none.
    fn new(name: &str) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let name = format!("ringgate-tune-{name}-{}", std::process::id());
        let ip = find("ip")?;
        let mut add = Command::new(&ip);
        let (code, _, said) = ended(add.args(["netns", "add", &name]));
        if code != Some(0) {
            eprintln!("skipped: no network namespaces here: {said}");
            return None;
        }
        let namespace = Self { name, ip };
        let mut link = Command::new(&namespace.ip);
        link.args(["-n", &namespace.name])
            .args("link add gate numrxqueues 4 numtxqueues 4 type veth peer name peer".split(' '));
        let (code, _, said) = ended(&mut link);
        if code != Some(0) {
            eprintln!("skipped: no veth pairs here: {said}");
            return None;
        }
        Some(namespace)
    }

    /// What runs inside, in its own mounts, with the namespace's sysfs.
    fn inside(&self) -> Command {
        let mut command = Command::new(&self.ip);
        command.args(["netns", "exec", &self.name]);
        command
    }

    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let (code, text, said) = ended(self.inside().args(["sh", "-c", script]));
        assert_eq!(code, Some(0), "{script}: {said}");
        text
    }

    /// The values of [`FILES`].
    fn values(&self) -> Vec<String> {
        let values = self.sh(&format!("cat {}", FILES.join(" ")));
        values.lines().map(str::to_owned).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let mut delete = Command::new(&self.ip);
        let _ = delete.args(["netns", "delete", &self.name]).status();
    }
}

#[test]
fn real_knobs_are_turned_verified_and_turned_back() {
    let Some(inside) = Namespace::new("knobs") else {
        return;
    };
    let folder = Folder::new("knobs");
    let mut rest = KNOBS.to_owned();
    // Where the program finds it too: root's path may lack /usr/sbin.
    if !inside.sh("command -v ethtool || true").is_empty() {
        rest = rest.replace("name = \"gate\"", "name = \"gate\"\nqueues = 2");
    }
    // A queue that goes takes this along.
    inside.sh("echo 1 > /sys/class/net/gate/queues/rx-3/rps_cpus");
    inside.sh("echo 1 > /sys/class/net/gate/queues/tx-3/xps_cpus");
    inside.sh("echo 1 > /sys/class/net/gate/queues/rx-1/rps_cpus");
    let before = inside.values();
    let run = |command: &str, layout: Option<&str>| {
        ended(&mut folder.command(inside.inside(), command, layout))
    };
    let (code, _, said) = run("apply", Some(&rest));
    assert_eq!(code, Some(0), "{said}");
    let (code, lines, said) = run("verify", Some(&rest));
    assert_eq!(code, Some(0), "{lines}{said}");
    assert_eq!(inside.sh("cat /proc/sys/net/core/somaxconn"), "8191\n");
    inside.sh("echo 4000 > /proc/sys/net/core/somaxconn");
    let (code, lines, _) = run("verify", Some(&rest));
    assert_eq!(code, Some(2), "{lines}");
    let drift: Vec<&str> = lines
        .lines()
        .filter(|line| !line.starts_with("ok "))
        .collect();
    assert_eq!(drift, ["drift  net.core.somaxconn: 4000, wanted 8191"]);
    let (code, lines, said) = run("revert", None);
    assert_eq!(code, Some(2), "{lines}{said}");
    let foreign: Vec<&str> = lines
        .lines()
        .filter(|line| line.contains("someone"))
        .collect();
    assert_eq!(foreign.len(), 1, "{lines}");
    assert!(foreign[0].starts_with("net.core.somaxconn: changed by someone else to 4000"));
    let mut expected = before;
    expected[8] = "4000".to_owned();
    assert_eq!(inside.values(), expected, "{lines}");
}

#[test]
fn the_undo_script_works_on_real_knobs() {
    let Some(inside) = Namespace::new("script") else {
        return;
    };
    let folder = Folder::new("script");
    let before = inside.values();
    let (code, script, said) = ended(&mut folder.command(inside.inside(), "apply", Some(KNOBS)));
    assert_eq!(code, Some(0), "{said}");
    assert_ne!(inside.values(), before);
    inside.sh(&script);
    assert_eq!(inside.values(), before);
}

#[test]
fn a_journal_is_of_one_network_namespace() {
    let Some(inside) = Namespace::new("other") else {
        return;
    };
    let folder = Folder::new("other");
    let before = inside.values();
    let (code, _, said) = ended(&mut folder.command(inside.inside(), "apply", Some(KNOBS)));
    assert_eq!(code, Some(0), "{said}");
    let applied = inside.values();
    // Another one has no such card: it would take everything for gone.
    for (command, layout) in [("revert", None), ("apply", Some("[ring]\nentries = 64\n"))] {
        let outside = Command::new("env");
        let (code, _, said) = ended(&mut folder.command(outside, command, layout));
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("the journal is of the network namespace net:["),
            "{said}"
        );
        assert_eq!(inside.values(), applied);
    }
    let (code, lines, said) = ended(&mut folder.command(inside.inside(), "revert", None));
    assert_eq!(code, Some(0), "{lines}{said}");
    assert_eq!(inside.values(), before);
}

#[test]
fn where_sys_or_proc_is_read_only_nothing_changes() {
    let Some(inside) = Namespace::new("readonly") else {
        return;
    };
    let folder = Folder::new("readonly");
    let before = inside.values();
    for (mount, named) in [
        ("mount -o remount,bind,ro /sys", "/sys/class/net/gate/"),
        (
            "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys",
            "/proc/sys/net/",
        ),
    ] {
        let mut wrapper = inside.inside();
        wrapper.args(["sh", "-c", &format!("{mount} && exec \"$@\""), "sh"]);
        let (code, out, said) = ended(&mut folder.command(wrapper, "apply", Some(KNOBS)));
        assert_eq!((code, &*out), (Some(1), ""), "{said}");
        assert!(
            said.contains(named) && said.contains("Read-only file system"),
            "{said}"
        );
        assert!(said.contains("mount it read-write"), "{said}");
        assert!(said.contains("nothing is changed"), "{said}");
        assert_eq!(inside.values(), before);
    }
    assert!(!folder.0.join("state/journal.json").exists());
}

#[test]
fn an_interrupt_that_this_kernel_keeps_is_said_to_stay() {
    if !is_root() {
        return;
    }
    let Some((name, present, cpu)) = kept_interrupt() else {
        eprintln!("skipped: every interrupt of this host can be moved");
        return;
    };
    let folder = Folder::new("kept");
    let rest =
        format!("[[nic]]\nname = \"any\"\nirqs = [{{ name = {name:?}, cpus = \"{cpu}\" }}]\n");
    let run = |command: &str, layout: Option<&str>| {
        ended(&mut folder.command(Command::new("env"), command, layout))
    };
    let (code, _, said) = run("apply", Some(&rest));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains(&format!(
            "interrupt {name}: the kernel keeps it where it is"
        )),
        "{said}"
    );
    let (code, lines, _) = run("verify", Some(&rest));
    assert_eq!(code, Some(0), "{lines}");
    assert!(
        lines.contains(&format!("stays  interrupt {name}: {present}")),
        "{lines}"
    );
    let (code, lines, _) = run("revert", None);
    assert_eq!(code, Some(0), "{lines}");
}

/// The name of an interrupt whose file the kernel shows read-only, where it is, and one CPU of
/// those.
fn kept_interrupt() -> Option<(String, String, u32)> {
    let mut names: Vec<(String, PathBuf)> = Vec::new();
    for entry in fs::read_dir("/sys/kernel/irq").ok()?.flatten() {
        let actions = fs::read_to_string(entry.path().join("actions")).unwrap_or_default();
        names.push((actions.trim().to_owned(), entry.path()));
    }
    names.iter().find_map(|(name, path)| {
        let once = names.iter().filter(|(other, _)| other == name).count() == 1;
        let number = path.file_name()?.to_str()?;
        let file = format!("/proc/irq/{number}/smp_affinity_list");
        let mode = fs::metadata(&file).ok()?.permissions().mode();
        let present = fs::read_to_string(file).ok()?.trim().to_owned();
        let cpu = present.split([',', '-']).next()?.parse().ok()?;
        let several = present.contains([',', '-']);
        let plain = !name.is_empty() && !name.contains([',', '"', '\\']);
        (once && plain && several && mode & 0o222 == 0).then(|| (name.clone(), present, cpu))
    })
}
