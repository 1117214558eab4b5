//! A host of four CPUs and one network card, as small files, with an `ethtool` that turns them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ringgate_tune::host::Host;
use ringgate_tune::inspection::Inspection;
use ringgate_tune::layout::{HostShape, Layout};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_ringgate-tune");

/// Turns every knob that there is.
pub const EVERYTHING: &str = r#"
[[nic]]
name = "eth0"
queues = 2
irqs = [{ name = "eth0-TxRx-0", cpus = "1" }, { name = "eth0-TxRx-1", cpus = "2" }]
rps = [{ queue = 0, cpus = "1-2" }]
xps = [{ queue = 0, cpus = "1" }, { queue = 1, cpus = "2" }]
coalesce = { rx-usecs = 8 }
napi_defer_hard_irqs = 2
gro_flush_timeout_ns = 200000
[sysctl]
"net.core.somaxconn" = 4096
"net.ipv4.ip_local_port_range" = "1024 65535"
"#;

/// The values that [`EVERYTHING`] turns.
pub const EVERYTHING_WRITES: usize = 11;

/// Keeps channels and coalescing in files, and makes and unmakes queues as a kernel does.
const ETHTOOL: &str = r#"#!/bin/sh
cd "${0%/*}/.." || exit 1
case $1 in
-l)
    printf 'Channel parameters for eth0:\nPre-set maximums:\nCombined:\t8\n'
    printf 'Current hardware settings:\nRX:\t\tn/a\nTX:\t\tn/a\nOther:\t\tn/a\n'
    read -r count < ethtool/channels
    printf 'Combined:\t%s\n' "$count" ;;
-c)
    read -r usecs < ethtool/rx-usecs
    printf 'Coalesce parameters for eth0:\nAdaptive RX: n/a  TX: n/a\nrx-usecs:\t%s\n' "$usecs"
    printf 'tx-usecs:\tn/a\n' ;;
-L)
    # Some drivers free the interrupts of queues that go.
    [ ! -e ethtool/frees-interrupts ] || for queue in 0 1 2 3; do
        actions=sys/kernel/irq/4$queue affinity=proc/irq/4$queue
        if [ "$queue" -ge "$4" ]; then
            rm -rf $actions $affinity
        elif [ ! -e $actions ]; then
            mkdir -p $actions $affinity
            echo "eth0-TxRx-$queue" > $actions/actions
            echo 0-3 > $affinity/smp_affinity_list
        fi
    done
    for queue in 0 1 2 3 4 5 6 7; do
        rx=sys/class/net/eth0/queues/rx-$queue tx=sys/class/net/eth0/queues/tx-$queue
        if [ "$queue" -ge "$4" ]; then
            [ ! -e $rx ] || rm -r $rx $tx
        elif [ ! -e $rx ] || [ ! -e $tx ]; then
            mkdir -p $rx.new $tx.new
            echo 0 > $rx.new/rps_cpus
            echo 0 > $tx.new/xps_cpus
            [ -e $rx ] || mv $rx.new $rx
            [ -e $tx ] || mv $tx.new $tx
            rm -rf $rx.new $tx.new
        fi
    done
    echo "$4" > ethtool/channels.new && mv ethtool/channels.new ethtool/channels ;;
-C)
    echo "$4" > ethtool/rx-usecs.new && mv ethtool/rx-usecs.new ethtool/rx-usecs ;;
esac
"#;

/// The host's tree below cargo's folder for tests; gone when dropped.
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// `name` is the test's, so that tests do not meet.
    pub fn new(name: &str) -> Self {
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("apply-{name}-{}", std::process::id()));
        // Left over where an earlier process of the same number was killed.
        let _ = fs::remove_dir_all(&root);
        let tree = Self { root };
        tree.fill();
        tree
    }

    fn fill(&self) {
        self.set("sys/devices/system/cpu/possible", "0-3");
        self.set("sys/devices/system/cpu/online", "0-3");
        for cpu in 0..4 {
            let topology = format!("sys/devices/system/cpu/cpu{cpu}/topology");
            self.set(&format!("{topology}/physical_package_id"), "0");
            self.set(&format!("{topology}/core_cpus_list"), &cpu.to_string());
        }
        self.set("proc/self/status", "Cpus_allowed_list:\t0-3");
        self.set("proc/self/cgroup", "0::/");
        self.set("sys/fs/cgroup/cgroup.controllers", "cpu cpuset");
        self.set("proc/sys/kernel/random/boot_id", "one");
        let net = "sys/class/net/eth0";
        for queue in 0..4 {
            // Queues 2 and 3 have something to lose.
            let mask = format!("00000000,0000000{}", queue / 2);
            self.set(&format!("{net}/queues/rx-{queue}/rps_cpus"), &mask);
            self.set(&format!("{net}/queues/tx-{queue}/xps_cpus"), &mask);
            let number = 40 + queue;
            let name = format!("eth0-TxRx-{queue}");
            self.set(&format!("sys/kernel/irq/{number}/actions"), &name);
            self.set(&format!("proc/irq/{number}/smp_affinity_list"), "0-3");
        }
        self.set(&format!("{net}/napi_defer_hard_irqs"), "0");
        self.set(&format!("{net}/gro_flush_timeout"), "0");
        self.set("proc/sys/net/core/somaxconn", "128");
        self.set("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999");
        self.set("ethtool/channels", "4");
        self.set("ethtool/rx-usecs", "50");
        self.set("bin/ethtool", ETHTOOL);
        let program = self.path("bin/ethtool");
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn path(&self, entry: &str) -> PathBuf {
        self.root.join(entry)
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// The journal's text, where there is one.
    pub fn journal(&self) -> Option<String> {
        fs::read_to_string(self.state().join("journal.json")).ok()
    }

    pub fn host(&self) -> Host {
        Host {
            sysfs: self.path("sys"),
            proc: self.path("proc"),
        }
    }

    pub fn set(&self, entry: &str, text: &str) {
        let path = self.path(entry);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    /// The first line of an entry: what a reader takes of it.
    pub fn get(&self, entry: &str) -> String {
        let text = fs::read_to_string(self.path(entry)).unwrap();
        text.lines().next().unwrap_or_default().to_owned()
    }

    pub fn remove(&self, entry: &str) {
        fs::remove_file(self.path(entry)).unwrap();
    }

    /// Every value of the tree by its path; none of what the program keeps for itself.
    pub fn values(&self) -> BTreeMap<PathBuf, String> {
        let files = self.bytes().into_iter();
        let files = files.filter(|(path, _)| !path.starts_with(self.state()));
        files
            .map(|(path, bytes)| {
                let text = String::from_utf8(bytes).unwrap();
                (path, text.lines().next().unwrap_or_default().to_owned())
            })
            .collect()
    }

    /// Everything that there is, byte by byte.
    pub fn bytes(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let (mut files, mut folders) = (BTreeMap::new(), vec![self.root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    files.insert(path.clone(), Vec::new());
                    folders.push(path);
                } else if let Ok(bytes) = fs::read(&path) {
                    files.insert(path, bytes);
                }
            }
        }
        files
    }

    /// A layout of this host: two shards, and `rest`.
    pub fn layout_text(&self, rest: &str) -> String {
        let shape = HostShape::of(&Inspection::read(&self.host(), None));
        format!(
            "version = 1\n[host]\nonline = \"{}\"\ncores = {}\nnodes = {}\n[shards]\n\
             list = [{{ cpu = 1 }}, {{ cpu = 2 }}]\nhousekeeping = \"0\"\n{rest}",
            shape.online, shape.cores, shape.nodes
        )
    }

    pub fn layout(&self, rest: &str) -> Layout {
        Layout::parse(Path::new("layout.toml"), &self.layout_text(rest)).unwrap()
    }

    /// The same as a file, which is no part of the tree.
    pub fn layout_file(&self, rest: &str) -> PathBuf {
        let file = self.root.with_extension("toml");
        fs::write(&file, self.layout_text(rest)).unwrap();
        file
    }

    /// A command with its layout where it takes one, and the tree's `ethtool` before all others.
    pub fn command(&self, command: &str, layout: Option<&str>) -> Command {
        let mut program = Command::new(PROGRAM);
        self.arguments(&mut program, command, layout);
        program
    }

    /// The same by way of `wrapper`, which gets the program as its last words.
    pub fn wrapped(&self, mut wrapper: Command, command: &str, layout: Option<&str>) -> Command {
        wrapper.arg(PROGRAM);
        self.arguments(&mut wrapper, command, layout);
        wrapper
    }

    fn arguments(&self, program: &mut Command, command: &str, layout: Option<&str>) {
        program.arg(command).arg("--state").arg(self.state());
        if let Some(rest) = layout {
            let host = self.host();
            program.arg("--sysfs").arg(host.sysfs);
            program.arg("--proc").arg(host.proc);
            program.arg(self.layout_file(rest));
        }
        program.env("PATH", self.search_path());
        program.env("RINGGATE_TUNE_ETHTOOL", self.path("bin/ethtool"));
    }

    pub fn search_path(&self) -> String {
        format!(
            "{}:/usr/sbin:/usr/bin:/sbin:/bin",
            self.path("bin").display()
        )
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
        let _ = fs::remove_file(self.root.with_extension("toml"));
    }
}

/// Runs it to its end: exit code, standard output, standard error.
#[track_caller]
pub fn ended(command: &mut Command) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}
