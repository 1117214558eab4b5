//! The machines that layouts are held against.

use std::sync::OnceLock;

use ringgate_tune::inspection::Inspection;

use crate::fixture::{Card, Driver, Machine};

/// Makes a machine whose folder has the name that is given.
type Make = fn(&str) -> Machine;

/// Names, and what makes the machine of that name.
pub const ALL: [(&str, Make); 15] = [
    ("one_socket", one_socket),
    ("two_sockets", two_sockets),
    ("chiplets", chiplets),
    ("hybrid", hybrid),
    ("aarch64", aarch64),
    ("virtual_machine", virtual_machine),
    ("container", container),
    ("odd_cpuset", odd_cpuset),
    ("one_queue", one_queue),
    ("four_queues", four_queues),
    ("bond", bond),
    ("offline", offline),
    ("missing", missing),
    ("small_smt", small_smt),
    ("lone_core", lone_core),
];

/// The machine of a name, for one test.
pub fn make(name: &str, test: &str) -> Machine {
    let (_, make) = ALL.iter().find(|(other, _)| *other == name).unwrap();
    make(&format!("{test}-{name}"))
}

/// What is read of the machine of a name; made once, for a large one has thousands of files.
pub fn inspection(name: &str) -> &'static Inspection {
    static READ: [OnceLock<Inspection>; ALL.len()] = [const { OnceLock::new() }; ALL.len()];
    let at = ALL.iter().position(|(other, _)| *other == name).unwrap();
    READ[at].get_or_init(|| make(name, "shared").inspect())
}

/// One socket of 8 cores with SMT; a card with a queue for each core.
fn one_socket(name: &str) -> Machine {
    let machine = Machine::regular(name, 1, 8, 2);
    machine
        .settled()
        .sysfs("devices/system/cpu/smt/control", "on");
    machine.card(&card("eth0", Driver::Intel, 8, 0, "0-15"));
    machine
}

/// Two sockets; the card is on the second, and has more queues than there are cores.
fn two_sockets(name: &str) -> Machine {
    let machine = Machine::regular(name, 2, 12, 2);
    machine
        .settled()
        .sysfs("devices/system/cpu/smt/control", "on");
    machine.card(&card("eth0", Driver::Mellanox, 63, 1, "0-47"));
    machine
}

/// A server of 64 cores with SMT and a cache for each eight; 63 queues are one short of the cores.
fn chiplets(name: &str) -> Machine {
    let machine = Machine::new(name);
    machine
        .cpu_lists("0-127")
        .allowed("0-127")
        .group_v2("/", &[])
        .settled();
    machine.sysfs("devices/system/node/node0/cpulist", "0-127");
    for core in 0..64 {
        let first = core / 8 * 8;
        let llc = format!("{first}-{},{}-{}", first + 7, first + 64, first + 71);
        for cpu in [core, core + 64] {
            machine.cpu(cpu, 0, &format!("{core},{}", core + 64), &llc);
        }
    }
    machine.card(&card("eth0", Driver::Mellanox, 63, 0, "0-127"));
    machine
}

/// Eight fast cores with SMT and eight efficient ones without; a card with four queues.
fn hybrid(name: &str) -> Machine {
    let machine = Machine::new(name);
    machine
        .cpu_lists("0-23")
        .allowed("0-23")
        .group_v2("/", &[])
        .settled();
    for cpu in 0..24 {
        let siblings = match cpu {
            0..16 => format!("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1),
            _ => cpu.to_string(),
        };
        machine.cpu(cpu, 0, &siblings, "0-23");
        let khz = if cpu < 16 { "5200000" } else { "4100000" };
        machine.sysfs(
            &format!("devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq"),
            khz,
        );
    }
    machine.sysfs("devices/system/node/node0/cpulist", "0-23");
    machine.sysfs("devices/cpu_core/cpus", "0-15");
    machine.sysfs("devices/cpu_atom/cpus", "16-23");
    machine.card(&card("enp1s0", Driver::Intel, 4, -1, "0-23"));
    machine
}

/// Sixteen equal cores without SMT, as clouds have them.
fn aarch64(name: &str) -> Machine {
    let machine = Machine::regular(name, 1, 16, 1);
    machine
        .settled()
        .sysfs("devices/system/cpu/smt/control", "notsupported");
    for cpu in 0..16 {
        machine.sysfs(&format!("devices/system/cpu/cpu{cpu}/cpu_capacity"), "1024");
    }
    machine.card(&card("ens5", Driver::Ena, 8, -1, "0-15"));
    machine
}

/// Two CPUs and a paravirtual card with one pair of queues.
fn virtual_machine(name: &str) -> Machine {
    let machine = Machine::regular(name, 1, 2, 1);
    machine
        .settled()
        .sysfs("devices/system/cpu/smt/control", "notsupported");
    machine.card(&card("eth0", Driver::Virtio, 1, -1, "0-1"));
    machine
}

/// 64 CPUs, of whose time two and a half are ours; behind a filter, with one half of a pair.
fn container(name: &str) -> Machine {
    let machine = Machine::regular(name, 1, 64, 1);
    machine.settled().process("0-63", 2);
    machine.resources(("65536", "65536"), ("1024", "4096"));
    machine.group_v2(
        "/",
        &[
            ("cpu.max", "250000 100000"),
            ("cpuset.cpus.effective", "0-63"),
        ],
    );
    machine.interface("devices/virtual", "eth0", 1);
    machine.interface("devices/virtual", "lo", 1);
    machine
}

/// Siblings are neighbours, and of each core only the second is ours.
fn odd_cpuset(name: &str) -> Machine {
    let machine = Machine::new(name);
    machine
        .cpu_lists("0-15")
        .allowed("1,3,5,7,9,11,13,15")
        .settled();
    for cpu in 0..16 {
        let first = cpu / 2 * 2;
        machine.cpu(cpu, 0, &format!("{first}-{}", first + 1), "0-15");
    }
    machine.sysfs("devices/system/node/node0/cpulist", "0-15");
    let cpuset = ("jobs/cpuset.cpus.effective", "1,3,5,7,9,11,13,15");
    machine.group_v2("/jobs", &[cpuset]);
    machine.card(&card("eth0", Driver::Intel, 16, 0, "0-15"));
    machine
}

/// A card that has one queue for eight cores with SMT.
fn one_queue(name: &str) -> Machine {
    let machine = Machine::regular(name, 1, 8, 2);
    machine
        .settled()
        .card(&card("eth0", Driver::Intel, 1, 0, "0-15"));
    machine
}

/// Two nodes of 20 cores; four queues, which have interrupt cores on their own node.
fn four_queues(name: &str) -> Machine {
    let machine = Machine::regular(name, 2, 20, 1);
    machine
        .settled()
        .card(&card("eth0", Driver::Intel, 4, 0, "0-39"));
    machine
}

/// Two cards that act as one, and a third that is not connected.
fn bond(name: &str) -> Machine {
    let machine = Machine::regular(name, 1, 8, 2);
    machine.settled();
    machine.card(&card("eth0", Driver::Intel, 8, 0, "0-15"));
    machine.card(&Card {
        irq: 80,
        ..card("eth1", Driver::Intel, 8, 0, "0-15")
    });
    machine.card(&Card {
        irq: 120,
        ..card("eth2", Driver::Intel, 8, 0, "0-15")
    });
    machine.sysfs("devices/pci0000:00/0000:78:00.0/net/eth2/operstate", "down");
    machine.interface("devices/virtual", "bond0", 1);
    machine.sysfs("devices/virtual/net/bond0/bonding/slaves", "eth0 eth1");
    machine
}

/// Eight cores, of which three are offline.
fn offline(name: &str) -> Machine {
    let machine = Machine::regular(name, 1, 8, 1);
    machine.settled();
    for cpu in 0..8 {
        machine.cpu(cpu, 0, &cpu.to_string(), "0-3,7");
    }
    machine.offline(4..=6, "0-3,7");
    machine.card(&card("eth0", Driver::Intel, 4, 0, "0-3,7"));
    machine
}

/// Four CPUs of which nothing but the number is known, and a card without interrupts.
fn missing(name: &str) -> Machine {
    let machine = Machine::new(name);
    machine.cpu_lists("0-3");
    machine.interface("devices/platform/wire", "eth0", 2);
    machine.sysfs("devices/platform/wire/net/eth0/device/uevent", "");
    machine
}

/// Two cores with SMT, as a cloud sells "4 CPUs"; as many queues as CPUs.
fn small_smt(name: &str) -> Machine {
    let machine = Machine::regular(name, 1, 2, 2);
    machine
        .settled()
        .card(&card("eth0", Driver::Virtio, 4, -1, "0-3"));
    machine
}

/// One core with SMT, as a cloud sells "2 CPUs".
fn lone_core(name: &str) -> Machine {
    let machine = Machine::regular(name, 1, 1, 2);
    machine
        .settled()
        .card(&card("eth0", Driver::Virtio, 1, -1, "0-1"));
    machine
}

fn card<'a>(name: &'a str, driver: Driver, queues: u32, node: i32, cpus: &'a str) -> Card<'a> {
    Card {
        name,
        driver,
        queues,
        node,
        irq: 40,
        cpus: (cpus, "0"),
    }
}
