//! Makes trees of small files that look like a machine's sysfs and proc.

use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use ringgate_tune::host::Host;
use ringgate_tune::inspection::Inspection;

/// How a driver names its interrupts.
#[derive(Clone, Copy)]
pub enum Driver {
    /// `eth0-TxRx-0`, and one of the card's own name for the rest.
    Intel,
    /// `eth0-Tx-Rx-0`, and one for management.
    Ena,
    /// `mlx5_comp0@pci:...`, and one for events.
    Mellanox,
    /// A device on a PCI device, with two interrupts for each pair of queues.
    Virtio,
}

/// A network card to be made.
pub struct Card<'a> {
    pub name: &'a str,
    pub driver: Driver,
    pub queues: u32,
    pub node: i32,
    /// The numbers of its interrupts begin here; also its place on the bus.
    pub irq: u32,
    /// Where its interrupts may go and go.
    pub cpus: (&'a str, &'a str),
}

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
        entry("topology/core_cpus_list", siblings);
        // What is not looked at where the rest is there, a wide machine does without: files take
        // time to make.
        let has_all = cpu < 16;
        if has_all {
            entry("topology/thread_siblings_list", siblings);
        }
        let caches = [
            ("Data", 1, siblings),
            ("Instruction", 1, siblings),
            ("Unified", 3, llc),
        ];
        for (index, (kind, level, shared)) in caches.into_iter().enumerate() {
            if !has_all && level < 3 {
                continue;
            }
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
        self.process(cpus, 0)
    }

    /// The affinity mask and the seccomp mode.
    pub fn process(&self, cpus: &str, seccomp: u32) -> &Self {
        let flag = seccomp.min(1);
        self.proc(
            "self/status",
            &format!(
                "Name:\tcat\nNoNewPrivs:\t{flag}\nSeccomp:\t{seccomp}\nSeccomp_filters:\t{flag}\n\
                 Cpus_allowed:\tff\nCpus_allowed_list:\t{cpus}"
            ),
        )
    }

    /// Soft and hard limits of locked bytes and descriptors.
    pub fn resources(&self, locked: (&str, &str), descriptors: (&str, &str)) -> &Self {
        let mut text =
            "Limit                     Soft Limit           Hard Limit           Units".to_owned();
        for (name, (soft, hard), unit) in [
            ("Max stack size", ("8388608", "unlimited"), "bytes"),
            ("Max open files", descriptors, "files"),
            ("Max locked memory", locked, "bytes"),
        ] {
            text += &format!("\n{name:<25} {soft:<20} {hard:<20} {unit}");
        }
        self.proc("self/limits", &text)
    }

    /// What distributions set, and nothing in the way.
    pub fn settled(&self) -> &Self {
        self.resources(("8388608", "8388608"), ("1024", "524288"));
        self.sysfs("devices/system/cpu/isolated", "");
        for (name, value) in [
            ("kernel/osrelease", "6.12.0"),
            ("kernel/io_uring_disabled", "0"),
            ("kernel/numa_balancing", "1"),
            ("net/core/somaxconn", "4096"),
            ("net/core/netdev_max_backlog", "1000"),
            ("net/ipv4/tcp_max_syn_backlog", "1024"),
            ("net/ipv4/ip_local_port_range", "32768\t60999"),
        ] {
            self.proc(&format!("sys/{name}"), value);
        }
        self
    }

    /// A network card, with the links that sysfs has.
    pub fn card(&self, card: &Card<'_>) -> &Self {
        let Card { name, irq, .. } = *card;
        let bus = format!("0000:{irq:02x}:00.0");
        let pci = format!("devices/pci0000:00/{bus}");
        let device = match card.driver {
            Driver::Virtio => format!("{pci}/virtio{irq}"),
            _ => pci.clone(),
        };
        self.sysfs(&format!("{pci}/numa_node"), &card.node.to_string());
        let kind = match card.driver {
            Driver::Virtio => "virtio:d00000001v00001AF4",
            _ => "pci:v00008086d00001593",
        };
        self.sysfs(&format!("{device}/modalias"), kind);
        self.interface(&device, name, card.queues);
        let last = device.rsplit('/').next().unwrap();
        self.link(
            &format!("{device}/net/{name}/device"),
            &format!("../../../{last}"),
        );
        let mut names: Vec<String> = match card.driver {
            Driver::Intel => (0..card.queues)
                .map(|q| format!("{name}-TxRx-{q}"))
                .collect(),
            Driver::Ena => (0..card.queues)
                .map(|q| format!("{name}-Tx-Rx-{q}"))
                .collect(),
            Driver::Mellanox => (0..card.queues)
                .map(|q| format!("mlx5_comp{q}@pci:{bus}"))
                .collect(),
            Driver::Virtio => (0..card.queues)
                .flat_map(|q| ["input", "output"].map(|kind| format!("virtio{irq}-{kind}.{q}")))
                .collect(),
        };
        match card.driver {
            Driver::Intel => names.push(name.to_owned()),
            Driver::Ena => names.insert(0, format!("ena-mgmnt@pci:{bus}")),
            Driver::Mellanox => names.insert(0, format!("mlx5_async0@pci:{bus}")),
            Driver::Virtio => names.insert(0, format!("virtio{irq}-config")),
        }
        for (number, name) in (irq..).zip(&names) {
            self.sysfs(&format!("{pci}/msi_irqs/{number}"), "msix");
            self.irq(number, name, card.cpus);
        }
        self
    }

    /// An interrupt's name and where it goes.
    pub fn irq(&self, number: u32, name: &str, cpus: (&str, &str)) -> &Self {
        self.sysfs(&format!("kernel/irq/{number}/actions"), name);
        self.proc(&format!("irq/{number}/smp_affinity_list"), cpus.0);
        self.proc(&format!("irq/{number}/effective_affinity_list"), cpus.1)
    }

    /// A network interface of `device`, or where that is `devices/virtual`, of no device.
    pub fn interface(&self, device: &str, name: &str, queues: u32) -> &Self {
        let folder = format!("{device}/net/{name}");
        self.sysfs(&format!("{folder}/operstate"), "up");
        for queue in 0..queues {
            self.sysfs(&format!("{folder}/queues/rx-{queue}/rps_cpus"), "0");
            self.sysfs(&format!("{folder}/queues/tx-{queue}/xps_cpus"), "0");
        }
        self.link(&format!("class/net/{name}"), &format!("../../{folder}"))
    }

    fn link(&self, entry: &str, target: &str) -> &Self {
        let path = self.root.join("sys").join(entry);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    /// Every file of the tree.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    files.push(entry.path());
                }
            }
        }
        files.sort();
        files
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

    /// Takes a folder of proc away.
    pub fn without_proc(&self, entry: &str) -> &Self {
        fs::remove_dir_all(self.root.join("proc").join(entry)).unwrap();
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
