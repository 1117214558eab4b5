//! Entries that are missing or say what cannot be: a note each, never a panic, and the rest stands.

use ringgate_tune::inspection::Inspection;

use crate::fixture::Machine;

/// The notes as `entry: problem (CPUs)`.
fn notes(host: &Inspection) -> Vec<String> {
    host.notes
        .iter()
        .map(|note| format!("{}: {} ({})", note.entry, note.problem, note.cpus))
        .collect()
}

#[test]
fn an_empty_tree_is_all_notes() {
    let host = Machine::new("empty").inspect();
    assert!(host.usable.is_empty());
    let notes = notes(&host);
    for entry in [
        "sys/devices/system/cpu/possible: missing",
        "sys/devices/system/cpu/online: missing",
        "sys/devices/system/cpu: no CPU is usable",
        "sys/devices/system/node: missing",
        "sys/fs/cgroup: holds no cgroup hierarchy",
        "proc/self/cgroup: missing",
        "proc/self/status: missing",
    ] {
        assert!(
            notes.iter().any(|note| note.starts_with(entry)),
            "{entry} in {notes:#?}"
        );
    }
}

#[test]
fn what_many_cpus_lack_is_one_note() {
    let machine = Machine::regular("lacking", 1, 4, 1);
    for cpu in 1..4 {
        machine.without(&format!("devices/system/cpu/cpu{cpu}/topology"));
    }
    let host = machine.inspect();
    assert_eq!(
        notes(&host),
        [
            "sys/devices/system/cpu/cpu*/topology/physical_package_id: missing (1-3)",
            "sys/devices/system/cpu/cpu*/topology/thread_siblings_list: missing (1-3)",
        ]
    );
    assert_eq!(
        host.topology.cores.len(),
        4,
        "each CPU is taken for a core of its own"
    );
}

#[test]
fn without_an_online_list_every_possible_cpu_counts_and_a_note_says_so() {
    let machine = Machine::regular("no_online", 1, 2, 1);
    machine.without("devices/system/cpu/online");
    let host = machine.inspect();
    assert_eq!(host.usable.to_string(), "0-1");
    let notes = notes(&host).join("\n");
    assert!(
        notes.contains("every possible CPU is taken to be online: 0-1"),
        "{notes}"
    );
}

#[test]
fn without_sysfs_the_affinity_mask_is_what_is_usable_and_a_note_says_so() {
    let machine = Machine::new("no_sysfs");
    machine.allowed("3,5-8");
    let host = machine.inspect();
    assert_eq!(host.usable.to_string(), "3,5-8");
    assert!(host.hindrances.is_empty(), "{:?}", host.hindrances);
    let notes = notes(&host).join("\n");
    assert!(
        notes.contains("every CPU of the affinity mask is taken to be online: 3,5-8"),
        "{notes}"
    );
}

#[test]
fn without_a_possible_list_the_folders_are_counted() {
    let machine = Machine::regular("no_possible", 1, 4, 1);
    machine.without("devices/system/cpu/possible");
    assert_eq!(machine.inspect().possible.to_string(), "0-3");
}

#[test]
fn text_that_cannot_be_is_noted_and_skipped() {
    let machine = Machine::regular("odd_text", 1, 2, 1);
    machine.sysfs("devices/system/cpu/cpu0/topology/core_cpus_list", "0-x");
    machine.sysfs("devices/system/cpu/cpu1/topology/core_cpus_list", "0");
    machine.sysfs("devices/system/cpu/cpu1/cpu_capacity", "fast");
    machine.sysfs("devices/system/cpu/cpu1/cache/index2/level", "");
    machine.sysfs("devices/system/node/node0/cpulist", "0-99999999");
    machine.group_v2("/", &[("cpu.max", "lots")]);
    let host = machine.inspect();
    assert_eq!(host.usable.to_string(), "0-1");
    assert_eq!(host.topology.cores.len(), 2);
    assert_eq!(
        notes(&host),
        [
            "sys/devices/system/cpu/cpu*/cache/index2/level: `` is not the number that is expected (1)",
            "sys/devices/system/cpu/cpu*/cpu_capacity: `fast` is not the number that is expected (1)",
            "sys/devices/system/cpu/cpu*/topology/core_cpus_list: `0-x` is neither a CPU nor a range \
             of CPUs (0)",
            "sys/devices/system/cpu/cpu*/topology/core_cpus_list: `0` does not hold the CPU itself (1)",
            "sys/devices/system/node/node0/cpulist: CPU 99999999 is past the highest possible, 65535 \
             (none)",
            "sys/fs/cgroup/cpu.max: `lots` is not of the form `QUOTA PERIOD` (none)",
        ]
    );
}

#[test]
fn a_folder_where_a_file_should_be_is_noted() {
    let machine = Machine::regular("folder", 1, 2, 1);
    machine.without("devices/system/cpu/cpu0/topology/physical_package_id");
    machine.sysfs("devices/system/cpu/cpu0/topology/physical_package_id/x", "");
    let notes = notes(&machine.inspect());
    assert_eq!(notes.len(), 1);
    assert!(
        notes[0].contains("physical_package_id: cannot be read: "),
        "{notes:?}"
    );
}

#[test]
fn an_unknown_socket_is_no_socket() {
    let machine = Machine::regular("negative_package", 1, 1, 1);
    machine.sysfs("devices/system/cpu/cpu0/topology/physical_package_id", "-1");
    let host = machine.inspect();
    assert_eq!(host.topology.cpus[0].package, None);
    assert_eq!(host.notes, []);
}
