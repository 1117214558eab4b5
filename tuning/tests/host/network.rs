//! Network cards, their queues and interrupts.

use ringgate_tune::ability::Seccomp;
use ringgate_tune::inspection::Inspection;
use ringgate_tune::nic::Nic;

use crate::fixture::{Card, Driver, Machine};

const CARD: Card<'_> = Card {
    name: "eth0",
    driver: Driver::Intel,
    queues: 2,
    node: 0,
    irq: 40,
    cpus: ("0-3", "1"),
};

fn names(host: &Inspection) -> Vec<&str> {
    host.nics.iter().map(|nic| nic.name.as_str()).collect()
}

/// The interrupts as `number name queue`.
fn irqs(nic: &Nic) -> Vec<String> {
    let irqs = nic.irqs.iter();
    irqs.map(|irq| {
        let queue = irq
            .queue
            .map_or_else(|| "-".to_owned(), |queue| queue.to_string());
        format!(
            "{} {} {queue}",
            irq.number,
            irq.name.as_deref().unwrap_or("-")
        )
    })
    .collect()
}

#[test]
fn a_card_has_its_node_queues_and_interrupts() {
    let machine = Machine::regular("card", 1, 4, 1);
    machine.card(&CARD);
    machine.sysfs("class/net/eth0/queues/rx-1/rps_cpus", "00000000,0000000c");
    let host = machine.inspect();
    let nic = &host.nics[0];
    assert_eq!((nic.node, nic.state.as_deref()), (Some(0), Some("up")));
    assert_eq!((nic.rx.len(), nic.tx.len()), (2, 2));
    assert_eq!(nic.rx[1].cpus.as_ref().unwrap().to_string(), "2-3");
    assert_eq!(
        irqs(nic),
        ["40 eth0-TxRx-0 0", "41 eth0-TxRx-1 1", "42 eth0 -"]
    );
    assert_eq!(nic.irqs[0].affinity.as_ref().unwrap().to_string(), "0-3");
    assert_eq!(nic.irqs[0].effective.as_ref().unwrap().to_string(), "1");
    assert_eq!(host.notes, []);
}

#[test]
fn a_virtio_card_has_the_interrupts_and_the_node_of_the_device_below_it() {
    let machine = Machine::regular("virtio_card", 2, 2, 1);
    machine.card(&Card {
        driver: Driver::Virtio,
        node: 1,
        ..CARD
    });
    let host = machine.inspect();
    assert_eq!(host.nics[0].node, Some(1));
    assert_eq!(
        irqs(&host.nics[0]),
        [
            "41 virtio40-input.0 0",
            "42 virtio40-output.0 0",
            "43 virtio40-input.1 1",
            "44 virtio40-output.1 1",
            "40 virtio40-config -",
        ]
    );
}

#[test]
fn the_interrupts_of_a_bridge_above_a_card_are_not_the_cards() {
    let machine = Machine::regular("bridge_above", 1, 2, 1);
    machine.card(&CARD);
    machine.without("devices/pci0000:00/0000:28:00.0/msi_irqs");
    machine.sysfs("devices/pci0000:00/msi_irqs/40", "msix");
    machine.sysfs("devices/pci0000:00/numa_node", "0");
    assert_eq!(machine.inspect().nics[0].irqs, []);
}

#[test]
fn a_card_without_msi_has_the_one_line_that_is_named_after_it() {
    let machine = Machine::regular("one_line", 1, 2, 1);
    machine.card(&CARD);
    machine.without("devices/pci0000:00/0000:28:00.0/msi_irqs");
    machine.sysfs("devices/pci0000:00/0000:28:00.0/irq", "17");
    machine.irq(17, "eth0", ("0-1", "0"));
    assert_eq!(irqs(&machine.inspect().nics[0]), ["17 eth0 0"]);
    machine.sysfs("devices/pci0000:00/0000:28:00.0/irq", "0");
    assert_eq!(machine.inspect().nics[0].irqs, []);
}

#[test]
fn names_that_sysfs_does_not_have_come_from_the_table_of_interrupts() {
    let machine = Machine::regular("interrupts", 1, 2, 1);
    machine.card(&CARD).without("kernel/irq");
    machine.proc(
        "interrupts",
        "  CPU0 CPU1\n 40: 1 2 PCI-MSIX 0-edge eth0-rx-1\n 41: 1 2 PCI-MSIX 1-edge eth0-rx-2",
    );
    // Counted from 1 by the driver, from 0 here; 42 has no name and belongs to no one.
    assert_eq!(
        irqs(&machine.inspect().nics[0]),
        ["40 eth0-rx-1 0", "41 eth0-rx-2 1"]
    );
}

#[test]
fn an_interrupt_that_the_kernel_manages_is_told() {
    let machine = Machine::regular("managed", 1, 2, 1);
    machine.card(&CARD);
    machine.sysfs(
        "kernel/debug/irq/irqs/41",
        "handler: handle_edge_irq\ndstate: 0x1\n  IRQD_AFFINITY_MANAGED",
    );
    let managed: Vec<u32> = machine.inspect().nics[0]
        .irqs
        .iter()
        .filter(|irq| irq.managed)
        .map(|irq| irq.number)
        .collect();
    assert_eq!(managed, [41]);
}

#[test]
fn what_is_no_card_is_read_where_it_is_named() {
    let machine = Machine::regular("named", 1, 2, 1);
    machine.card(&CARD);
    for name in ["lo", "br0", "veth7"] {
        machine.interface("devices/virtual", name, 1);
    }
    assert_eq!(names(&machine.inspect()), ["eth0"]);
    let named = Inspection::read_with(&machine.host(), None, &["veth7".to_owned()]);
    assert_eq!(names(&named), ["eth0", "veth7"]);
}

#[test]
fn a_bond_stands_for_its_members_also_where_they_are_no_cards() {
    let machine = Machine::regular("bond_members", 1, 2, 1);
    machine.card(&CARD);
    machine.interface("devices/virtual", "veth0", 1);
    machine.interface("devices/virtual", "bond0", 1);
    machine.sysfs("devices/virtual/net/bond0/bonding/slaves", "eth0 veth0");
    let host = machine.inspect();
    assert_eq!(names(&host), ["eth0", "veth0"]);
    assert_eq!(host.bonds[0].members, ["eth0", "veth0"]);
}

#[test]
fn what_the_kernel_allows_is_read() {
    let machine = Machine::regular("abilities", 1, 4, 1);
    machine.settled().process("0-3", 2);
    machine.resources(("65536", "unlimited"), ("1024", "4096"));
    machine.proc("sys/kernel/io_uring_disabled", "2");
    machine.sysfs("devices/system/cpu/isolated", "2-3");
    machine.sysfs("devices/system/cpu/nohz_full", "(null)");
    let host = machine.inspect();
    let abilities = &host.abilities;
    assert_eq!(abilities.kernel_version(), Some((6, 12)));
    assert_eq!(abilities.io_uring_disabled, Some(2));
    assert_eq!(abilities.seccomp, Some(Seccomp::Filter));
    assert_eq!(abilities.no_new_privs, Some(true));
    assert_eq!(abilities.locked_memory.unwrap().hard, None);
    assert_eq!(abilities.isolated.to_string(), "2-3");
    assert!(abilities.nohz_full.is_empty());
    assert_eq!(
        abilities.sysctl("net.ipv4.ip_local_port_range"),
        Some("32768 60999")
    );
    assert_eq!(host.notes, []);
}

#[test]
fn each_limit_that_is_in_the_way_has_a_remedy() {
    let machine = Machine::regular("hindrances", 1, 4, 1);
    machine.settled().process("0-1", 2);
    machine.resources(("65536", "65536"), ("1024", "4096"));
    machine.proc("sys/kernel/io_uring_disabled", "1");
    machine.proc("sys/kernel/osrelease", "5.15.0-generic");
    machine.sysfs("devices/system/cpu/isolated", "3");
    let files = [
        ("cpu.max", "150000 100000"),
        ("cpuset.cpus.effective", "0-2"),
    ];
    machine.group_v2("/", &files);
    let host = machine.inspect();
    let found: Vec<&str> = host
        .hindrances
        .iter()
        .map(|it| it.problem.as_str())
        .collect();
    for (at, problem) in [
        "kernel 5.15.0-generic is older than 6.1",
        "kernel.io_uring_disabled = 1",
        "a seccomp filter is on",
        "64 KiB of locked memory",
        "at most 4096 descriptors",
        "1.50 CPUs of time",
        "the control group leaves out CPUs 3",
        "the affinity mask leaves out CPUs 2-3",
        "CPUs 3 are isolated",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(found[at].starts_with(problem), "{problem} in {found:#?}");
    }
    assert_eq!(found.len(), 9);
    for it in &host.hindrances {
        assert!(!it.systemd.is_empty() && !it.docker.is_empty() && !it.kubernetes.is_empty());
    }
}

#[test]
fn nothing_is_in_the_way_of_a_settled_machine() {
    let machine = Machine::regular("no_hindrance", 1, 4, 1);
    machine
        .settled()
        .group_v2("/", &[("cpuset.cpus.effective", "0-3")]);
    assert_eq!(machine.inspect().hindrances, []);
}
