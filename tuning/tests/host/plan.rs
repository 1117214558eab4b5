//! What is decided for machines that differ in one thing.

use ringgate_tune::cpu_set::CpuSet;
use ringgate_tune::explain::Picture;
use ringgate_tune::layout::{Layout, Shards, Steering};
use ringgate_tune::plan::{Plan, PlanOptions, plan};

use crate::fixture::{Card, Driver, Machine};
use crate::machines;

const CARD: Card<'_> = Card {
    name: "eth0",
    driver: Driver::Intel,
    queues: 4,
    node: 0,
    irq: 40,
    cpus: ("0-3", "1"),
};

fn planned(machine: &Machine) -> Plan {
    Plan::new(&machine.inspect(), &PlanOptions::default())
}

/// The shards' CPUs and those of housekeeping.
fn places(layout: &Layout) -> (String, String) {
    let housekeeping = layout.housekeeping.to_string();
    (layout.shard_cpus().to_string(), housekeeping)
}

fn speeds(machine: &Machine, file: &str, values: &[&str]) {
    for (cpu, value) in values.iter().enumerate() {
        machine.sysfs(&format!("devices/system/cpu/cpu{cpu}/{file}"), value);
    }
}

#[test]
fn two_cpus_are_two_shards_and_no_housekeeping() {
    let here = machines::inspection("virtual_machine");
    let layout = plan(here, &PlanOptions::default());
    assert_eq!(places(&layout), ("0-1".to_owned(), "none".to_owned()));
    assert!(matches!(layout.shards, Shards::Pinned(_)));
}

#[test]
fn no_cpu_at_all_is_one_shard_that_is_not_pinned() {
    let layout = planned(&Machine::new("no_cpu")).layout;
    assert_eq!(layout.shards, Shards::Unpinned(1));
}

#[test]
fn without_sysfs_each_cpu_of_the_affinity_mask_is_a_core() {
    for (mask, shards, housekeeping) in [
        ("2", "2", "none"),
        ("2,7", "2,7", "none"),
        ("3,5-8", "5-8", "3"),
    ] {
        let machine = Machine::new(&format!("no_sysfs_plan_{mask}"));
        machine.allowed(mask);
        let here = machine.inspect();
        let plan = planned(&machine);
        let expected = (shards.to_owned(), housekeeping.to_owned());
        assert_eq!(places(&plan.layout), expected, "{mask}");
        assert!(matches!(plan.layout.shards, Shards::Pinned(_)), "{mask}");
        let read = Layout::parse("layout.toml".as_ref(), &plan.to_toml());
        assert_eq!(read.as_ref(), Ok(&plan.layout), "{mask}");
        assert!(plan.layout.misfits(&here).is_empty(), "{mask}");
    }
}

#[test]
fn little_cores_are_told_by_capacity_and_left_to_housekeeping() {
    let machine = Machine::regular("little", 1, 6, 1);
    speeds(
        &machine,
        "cpu_capacity",
        &["446", "446", "1024", "1024", "871", "1024"],
    );
    let plan = planned(&machine);
    assert_eq!(places(&plan.layout), ("2-5".to_owned(), "0-1".to_owned()));
    assert!(plan.why.housekeeping.contains("capacity 446"), "{plan:?}");
}

#[test]
fn a_kind_of_core_that_is_not_the_fast_one_is_left_to_housekeeping() {
    let machine = Machine::regular("third_kind", 1, 6, 1);
    machine.sysfs("devices/cpu_core/cpus", "0-2");
    machine.sysfs("devices/cpu_atom/cpus", "3-4");
    assert_eq!(
        places(&planned(&machine).layout),
        ("0-2".to_owned(), "3-5".to_owned())
    );
}

#[test]
fn a_frequency_below_four_fifths_of_the_fastest_is_slow() {
    let machine = Machine::regular("frequencies", 1, 4, 1);
    let file = "cpufreq/cpuinfo_max_freq";
    speeds(
        &machine,
        file,
        &["5000000", "4000000", "3999000", "5000000"],
    );
    assert_eq!(
        places(&planned(&machine).layout),
        ("0-1,3".to_owned(), "2".to_owned())
    );
}

#[test]
fn where_all_usable_cpus_are_slow_none_is() {
    let machine = Machine::regular("all_slow", 1, 8, 1);
    machine.sysfs("devices/cpu_atom/cpus", "4-7").allowed("4-7");
    assert_eq!(
        places(&planned(&machine).layout),
        ("5-7".to_owned(), "4".to_owned())
    );
}

#[test]
fn a_quota_counts_whole_cpus_and_is_at_least_one_shard() {
    for (quota, shards) in [("50000", 1), ("199999", 1), ("300000", 3), ("799999", 7)] {
        let machine = Machine::regular("quota", 1, 8, 1);
        machine.group_v2("/", &[("cpu.max", &format!("{quota} 100000"))]);
        assert_eq!(planned(&machine).layout.shards, Shards::Unpinned(shards));
    }
}

#[test]
fn a_quota_that_cannot_be_used_up_keeps_no_shard_from_its_cpu() {
    for quota in ["800000", "9900000"] {
        let machine = Machine::regular("ample_quota", 1, 8, 1);
        machine.group_v2("/", &[("cpu.max", &format!("{quota} 100000"))]);
        let layout = planned(&machine).layout;
        assert_eq!(places(&layout), ("1-7".to_owned(), "0".to_owned()));
        let told = machine.inspect().hindrances;
        assert!(
            told.iter().all(|it| !it.problem.contains("of time")),
            "{told:?}"
        );
    }
}

#[test]
fn housekeeping_comes_from_the_node_without_a_card() {
    for (node, housekeeping, first) in [(0, "4", 0), (1, "0", 4), (-1, "0", 1)] {
        let machine = Machine::regular("nodes", 2, 4, 1);
        machine.card(&Card {
            node,
            queues: 8,
            ..CARD
        });
        let layout = planned(&machine).layout;
        assert_eq!(layout.housekeeping.to_string(), housekeeping);
        let Shards::Pinned(shards) = layout.shards else {
            panic!("pinned")
        };
        assert_eq!((shards[0].cpu, shards[0].node), (first, Some(first / 4)));
    }
}

#[test]
fn interrupts_that_cannot_be_moved_are_named_and_left_out() {
    let machine = Machine::regular("immovable", 1, 4, 1);
    machine.card(&CARD);
    machine.sysfs("kernel/debug/irq/irqs/40", "IRQD_AFFINITY_MANAGED");
    machine.irq(41, "two names,eth0-TxRx-1", ("0-3", "0"));
    machine.irq(43, "eth0-TxRx-2", ("0-3", "0"));
    let plan = planned(&machine);
    let names: Vec<&str> = plan.layout.nics[0]
        .irqs
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["eth0-TxRx-2"]);
    // Shards without an interrupt of their own are no reason to steer by CPU.
    assert!(!plan.why.steering.contains("--steering cpu"), "{plan:?}");
    let text = plan.to_toml();
    for named in [
        "IRQ 40 `eth0-TxRx-0` stays where it is: the kernel places it and refuses to move it.",
        "IRQ 41 `two names,eth0-TxRx-1` stays where it is: its name cannot be written",
        "IRQ 43 `eth0-TxRx-2` stays where it is: another one has the same name.",
    ] {
        let text = text.replace("\n#", "");
        assert!(text.contains(named), "{named} in {text}");
    }
}

#[test]
fn an_interrupt_without_an_affinity_file_is_named() {
    let machine = Machine::regular("no_affinity", 1, 4, 1);
    machine.card(&CARD).without_proc("irq/42");
    let text = planned(&machine).to_toml().replace("\n#", "");
    assert!(
        text.contains("IRQ 42 `eth0-TxRx-2` stays where it is: it has no smp_affinity_list"),
        "{text}"
    );
}

#[test]
fn packets_are_no_longer_spread_where_each_shard_has_a_queue() {
    let machine = Machine::regular("rps_off", 1, 4, 1);
    machine.card(&CARD);
    machine.sysfs("class/net/eth0/queues/rx-2/rps_cpus", "f");
    let nic = &planned(&machine).layout.nics[0];
    assert_eq!(nic.rps, [(2, CpuSet::default())]);
}

#[test]
fn a_kernel_setting_that_is_higher_already_is_kept() {
    let machine = Machine::regular("higher", 1, 2, 1);
    machine.settled();
    machine.proc("sys/net/core/somaxconn", "65535");
    machine.proc("sys/net/ipv4/ip_local_port_range", "1000 64000");
    let layout = planned(&machine).layout;
    let value = |name: &str| {
        let sysctl = layout.sysctls.iter().find(|sysctl| sysctl.name == name);
        sysctl.map(|sysctl| sysctl.value.as_str())
    };
    assert_eq!(value("net.core.somaxconn"), Some("65535"));
    assert_eq!(value("net.ipv4.tcp_max_syn_backlog"), Some("4096"));
    assert_eq!(value("net.ipv4.ip_local_port_range"), Some("1000 65535"));
    assert_eq!(value("net.core.netdev_max_backlog"), None);
    assert_eq!(value("kernel.numa_balancing"), None);
}

#[test]
fn interrupts_that_nobody_places_take_no_core_from_shards() {
    let here = machines::inspection("four_queues");
    let of = |place_interrupts| {
        let options = PlanOptions {
            place_interrupts,
            ..PlanOptions::default()
        };
        plan(here, &options)
    };
    let (placed, left) = (of(true), of(false));
    assert!(!placed.nics.is_empty());
    assert_eq!(left.nics, []);
    assert_eq!(left.housekeeping, placed.housekeeping);
    assert!(placed.shard_count() < left.shard_count());
    assert_eq!(
        left.shard_count() + left.housekeeping.len(),
        here.topology.cores.len()
    );
}

#[test]
fn steering_by_cpu_says_which_shards_would_get_nothing() {
    let machine = Machine::regular("unreached", 2, 8, 1);
    machine.card(&CARD);
    let options = PlanOptions {
        steering: Steering::Cpu,
        ..PlanOptions::default()
    };
    // Four queues for 15 shards: packets are spread over those of the card's node alone.
    let plan = Plan::new(&machine.inspect(), &options);
    assert_eq!(plan.layout.steering, Steering::Cpu);
    assert_eq!(plan.problems.len(), 1);
    assert!(
        plan.problems[0].contains("the shards on 9-15 serve"),
        "{:?}",
        plan.problems
    );
}

#[test]
fn steering_by_cpu_without_pinned_shards_falls_back_to_hash() {
    let here = machines::inspection("container");
    let options = PlanOptions {
        steering: Steering::Cpu,
        ..PlanOptions::default()
    };
    let plan = Plan::new(here, &options);
    assert_eq!(plan.layout.steering, Steering::Hash);
    assert_eq!(plan.problems.len(), 1);
}

#[test]
fn an_unknown_card_is_named_with_those_that_are_there() {
    let here = machines::inspection("bond");
    let options = PlanOptions {
        nics: vec!["eth9".to_owned(), "eth2".to_owned()],
        ..PlanOptions::default()
    };
    let plan = Plan::new(here, &options);
    let named = "no network interface is called `eth9`; there are eth0, eth1, eth2, bond0";
    assert_eq!(plan.problems, [named]);
    // The one that is there is planned for, though it is down.
    assert_eq!(plan.layout.nics[0].name, "eth2");
    assert_eq!(plan.layout.nics.len(), 1);
}

#[test]
fn more_interrupts_than_active_queues_hint_at_more_queues() {
    let machine = Machine::regular("inactive", 1, 4, 1);
    machine.card(&CARD);
    for queue in 1..4 {
        machine.without(&format!(
            "devices/pci0000:00/0000:28:00.0/net/eth0/queues/rx-{queue}"
        ));
    }
    let text = planned(&machine).to_toml();
    assert!(text.contains("`ethtool -L eth0 combined 3`"), "{text}");
}

#[test]
fn a_wide_host_with_few_shards_folds_what_is_idle() {
    let here = machines::inspection("chiplets");
    let mut layout = plan(here, &PlanOptions::default());
    layout.nics.clear();
    if let Shards::Pinned(shards) = &mut layout.shards {
        shards.truncate(3);
    }
    let picture = Picture {
        layout: &layout,
        here,
    };
    let picture = picture.to_string();
    assert!(picture.lines().count() < 40, "{picture}");
    assert!(
        picture.contains("8 cores, CPUs 16-23,80-87: idle\n"),
        "{picture}"
    );
}

#[test]
fn more_cores_than_the_terminator_takes_shards_are_named() {
    let machine = Machine::new("vast");
    machine.cpu_lists("0-1199");
    let plan = planned(&machine);
    assert_eq!(plan.layout.shard_count(), 1024);
    assert!(
        plan.problems[0].contains("the terminator takes 1024"),
        "{:?}",
        plan.problems
    );
}
