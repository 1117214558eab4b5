//! CPUs, cores, caches and nodes of machines where all is in order.

use crate::fixture::Machine;

#[test]
fn one_socket_of_eight_cores_with_smt() {
    let host = Machine::regular("one_socket_smt", 1, 8, 2).inspect();
    assert_eq!(host.usable.to_string(), "0-15");
    assert_eq!(host.topology.cores.len(), 8);
    assert_eq!(host.topology.cores[3].to_string(), "3,11");
    assert!(host.topology.has_smt());
    let llcs = &host.topology.llcs;
    assert_eq!(llcs.len(), 1);
    assert_eq!(
        (llcs[0].level, llcs[0].cpus.to_string().as_str()),
        (3, "0-15")
    );
    assert_eq!(llcs[0].size.as_deref(), Some("32768K"));
    assert_eq!(host.topology.cpus[9].node, Some(0));
    assert_eq!(host.notes, []);
}

#[test]
fn two_sockets_are_two_nodes_and_two_caches() {
    let host = Machine::regular("two_sockets", 2, 2, 2).inspect();
    let nodes: Vec<String> = host
        .topology
        .nodes
        .iter()
        .map(|node| node.cpus.to_string())
        .collect();
    assert_eq!(nodes, ["0-1,4-5", "2-3,6-7"]);
    let llcs: Vec<String> = host
        .topology
        .llcs
        .iter()
        .map(|llc| llc.cpus.to_string())
        .collect();
    assert_eq!(llcs, nodes);
    let seventh = &host.topology.cpus[7];
    assert_eq!((seventh.package, seventh.node), (Some(1), Some(1)));
    assert_eq!(seventh.siblings.to_string(), "3,7");
}

#[test]
fn a_virtual_machine_of_two_cpus() {
    let host = Machine::regular("virtual_machine", 1, 2, 1).inspect();
    assert_eq!(host.topology.cores.len(), 2);
    assert!(!host.topology.has_smt());
    // No cpufreq and no capacity in a guest: nothing said, and nothing to complain of.
    assert_eq!(host.topology.speeds, []);
    assert_eq!(host.notes, []);
}

#[test]
fn cpus_that_are_offline_are_possible_but_not_usable() {
    let machine = Machine::regular("offline", 1, 8, 1);
    machine.offline(4..=6, "0-3,7");
    let host = machine.inspect();
    assert_eq!(host.possible.to_string(), "0-7");
    assert_eq!(host.online.to_string(), "0-3,7");
    assert_eq!(host.usable.to_string(), "0-3,7");
    assert_eq!(host.topology.cpus.len(), 5);
    assert_eq!(host.notes, []);
}

#[test]
fn an_offline_sibling_leaves_a_core_of_one() {
    let machine = Machine::regular("offline_sibling", 1, 2, 2);
    machine.offline(2..=2, "0-1,3").cpu(0, 0, "0", "0-1,3");
    let host = machine.inspect();
    let cores: Vec<String> = host
        .topology
        .cores
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(cores, ["0", "1,3"]);
}

#[test]
fn slower_cpus_and_clusters_are_told_apart() {
    let machine = Machine::regular("hybrid", 1, 4, 1);
    for cpu in 0..4 {
        let folder = format!("devices/system/cpu/cpu{cpu}");
        let (khz, capacity, cluster) = match cpu {
            0 | 1 => ("5200000", "1024", "0-1"),
            _ => ("3900000", "640", "2-3"),
        };
        machine.sysfs(&format!("{folder}/cpufreq/cpuinfo_max_freq"), khz);
        machine.sysfs(&format!("{folder}/cpu_capacity"), capacity);
        machine.sysfs(&format!("{folder}/topology/cluster_cpus_list"), cluster);
    }
    let host = machine.inspect();
    let speeds: Vec<_> = host
        .topology
        .speeds
        .iter()
        .map(|speed| {
            (
                speed.cpus.to_string(),
                speed.capacity,
                speed.max_frequency_khz,
            )
        })
        .collect();
    assert_eq!(
        speeds,
        [
            ("0-1".to_owned(), Some(1024), Some(5_200_000)),
            ("2-3".to_owned(), Some(640), Some(3_900_000)),
        ]
    );
    let clusters: Vec<String> = host
        .topology
        .clusters
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(clusters, ["0-1", "2-3"]);
}

#[test]
fn a_cluster_that_is_one_core_is_no_cluster() {
    let machine = Machine::regular("core_clusters", 1, 2, 1);
    for cpu in 0..2 {
        let entry = format!("devices/system/cpu/cpu{cpu}/topology/cluster_cpus_list");
        machine.sysfs(&entry, &cpu.to_string());
    }
    assert_eq!(machine.inspect().topology.clusters, []);
}

#[test]
fn the_last_level_is_the_highest_that_holds_data() {
    let machine = Machine::regular("two_levels", 1, 2, 1);
    for cpu in 0..2 {
        let cache = format!("devices/system/cpu/cpu{cpu}/cache");
        machine.without(&format!("{cache}/index2"));
        // A made-up instruction cache of a higher level must not win.
        machine.sysfs(&format!("{cache}/index1/level"), "2");
    }
    let llcs = machine.inspect().topology.llcs;
    let found: Vec<_> = llcs
        .iter()
        .map(|llc| (llc.level, llc.cpus.to_string()))
        .collect();
    assert_eq!(found, [(1, "0".to_owned()), (1, "1".to_owned())]);
}
