//! Makes trees of small files that look like a machine's sysfs and proc.

use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ringgate_tune::host::Host;
use ringgate_tune::inspection::Inspection;

/// A machine's tree below cargo's folder for tests; gone when dropped.
pub struct Machine {
    root: PathBuf,
}

impl Machine {
    /// An empty tree; `name` is the test's, so that tests do not meet.
    pub fn new(name: &str) -> Self {
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{}", std::process::id()));
        // Left over where an earlier process of the same number was killed.
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        Self { root }
    }

    /// `sockets` sockets of `cores` cores each with `threads` SMT siblings, which are numbered as
    /// x86-64 does: every core's first sibling, then every core's second. Each socket is a memory
    /// node and has one last-level cache.
    pub fn regular(name: &str, sockets: u32, cores: u32, threads: u32) -> Self {
        let machine = Self::new(name);
        let all = sockets * cores;
        machine.cpu_lists(&format!("0-{}", all * threads - 1));
        for core in 0..all {
            let siblings: Vec<u32> = (0..threads).map(|thread| core + thread * all).collect();
            let socket = core / cores;
            let mine: Vec<u32> = (0..threads)
                .flat_map(|thread| {
                    (socket * cores..(socket + 1) * cores).map(move |c| c + thread * all)
                })
                .collect();
            for &cpu in &siblings {
                machine.cpu(cpu, socket, &list(&siblings), &list(&mine));
            }
            machine.sysfs(
                &format!("devices/system/node/node{socket}/cpulist"),
                &list(&mine),
            );
        }
        machine.allowed(&format!("0-{}", all * threads - 1));
        machine.group_v2("/", &[]);
        machine
    }

    /// Which CPUs there can be; all of them online.
    pub fn cpu_lists(&self, cpus: &str) -> &Self {
        self.sysfs("devices/system/cpu/possible", cpus);
        self.sysfs("devices/system/cpu/online", cpus)
    }

    /// One CPU's topology and caches: first-level ones of its own, an L3 shared with `llc`.
    pub fn cpu(&self, cpu: u32, package: u32, siblings: &str, llc: &str) -> &Self {
        let entry = |name: &str, text: &str| {
            self.sysfs(&format!("devices/system/cpu/cpu{cpu}/{name}"), text);
        };
        entry("topology/physical_package_id", &package.to_string());
        entry("topology/thread_siblings_list", siblings);
        entry("topology/core_cpus_list", siblings);
        let caches = [
            ("Data", 1, siblings),
            ("Instruction", 1, siblings),
            ("Unified", 3, llc),
        ];
        for (index, (kind, level, shared)) in caches.into_iter().enumerate() {
            entry(&format!("cache/index{index}/type"), kind);
            entry(&format!("cache/index{index}/level"), &level.to_string());
            entry(&format!("cache/index{index}/shared_cpu_list"), shared);
            entry(
                &format!("cache/index{index}/size"),
                if level == 3 { "32768K" } else { "48K" },
            );
        }
        self
    }

    /// Our cgroup v2 path and files of groups, by path below the mount.
    pub fn group_v2(&self, path: &str, files: &[(&str, &str)]) -> &Self {
        self.proc("self/cgroup", &format!("0::{path}"));
        self.sysfs("fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids");
        for (file, text) in files {
            self.sysfs(&format!("fs/cgroup/{file}"), text);
        }
        self
    }

    /// The affinity mask, as proc tells it.
    pub fn allowed(&self, cpus: &str) -> &Self {
        self.proc(
            "self/status",
            &format!("Name:\tcat\nCpus_allowed:\tff\nCpus_allowed_list:\t{cpus}"),
        )
    }

    pub fn sysfs(&self, entry: &str, text: &str) -> &Self {
        self.write(&format!("sys/{entry}"), text)
    }

    pub fn proc(&self, entry: &str, text: &str) -> &Self {
        self.write(&format!("proc/{entry}"), text)
    }

    /// Takes an entry of sysfs, or a whole folder, away.
    pub fn without(&self, entry: &str) -> &Self {
        let path = self.root.join("sys").join(entry);
        if path.is_dir() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        }
        .unwrap();
        self
    }

    /// Takes CPUs offline: they lose their topology and caches, and their node forgets them.
    pub fn offline(&self, cpus: RangeInclusive<u32>, online: &str) -> &Self {
        for cpu in cpus {
            self.without(&format!("devices/system/cpu/cpu{cpu}/topology"));
            self.without(&format!("devices/system/cpu/cpu{cpu}/cache"));
        }
        self.sysfs("devices/system/cpu/online", online);
        self.sysfs("devices/system/node/node0/cpulist", online)
    }

    pub fn host(&self) -> Host {
        Host {
            sysfs: self.root.join("sys"),
            proc: self.root.join("proc"),
        }
    }

    pub fn inspect(&self) -> Inspection {
        Inspection::read(&self.host(), None)
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
        self
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn list(cpus: &[u32]) -> String {
    cpus.iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(",")
}
