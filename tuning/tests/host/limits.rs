//! Affinity masks and control groups.

use ringgate_tune::cpu_set::CpuSet;
use ringgate_tune::inspection::Inspection;

use crate::fixture::Machine;

fn quota_of(host: &Inspection) -> Option<(u64, u64, &str)> {
    let quota = host.cgroup.quota.as_ref()?;
    Some((quota.quota_us, quota.period_us, &quota.entry))
}

#[test]
fn usable_is_online_and_allowed_and_in_the_cpuset() {
    let machine = Machine::regular("usable", 1, 8, 1);
    machine.offline(7..=7, "0-6").allowed("1-7");
    machine.group_v2("/", &[("cpuset.cpus.effective", "0-5")]);
    let host = machine.inspect();
    assert_eq!(host.usable.to_string(), "1-5");
    assert_eq!(host.affinity.unwrap().to_string(), "1-7");
    assert_eq!(host.cgroup.cpuset.unwrap().to_string(), "0-5");
}

#[test]
fn a_given_affinity_mask_comes_before_what_proc_says() {
    let machine = Machine::regular("given_mask", 1, 4, 1);
    let host = Inspection::read(&machine.host(), Some(CpuSet::parse("2-3").unwrap()));
    assert_eq!(host.usable.to_string(), "2-3");
}

#[test]
fn a_container_with_two_and_a_half_cpus() {
    let machine = Machine::regular("container", 1, 64, 1);
    machine.group_v2(
        "/",
        &[
            ("cpu.max", "250000 100000"),
            ("cpuset.cpus.effective", "0-63"),
        ],
    );
    let host = machine.inspect();
    assert_eq!(host.cgroup.version, Some(2));
    assert_eq!(
        quota_of(&host),
        Some((250_000, 100_000, "sys/fs/cgroup/cpu.max"))
    );
    assert!((host.cgroup.quota.as_ref().unwrap().cpus - 2.5).abs() < 1e-9);
    assert_eq!(host.usable.len(), 64);
}

#[test]
fn the_tightest_quota_on_the_way_up_counts() {
    for (own, above, tightest) in [
        ("max 100000", "50000 50000", "sys/fs/cgroup/pods/cpu.max"),
        ("400000 100000", "50000 50000", "sys/fs/cgroup/pods/cpu.max"),
        (
            "50000 100000",
            "50000 50000",
            "sys/fs/cgroup/pods/gate/cpu.max",
        ),
    ] {
        let machine = Machine::regular("tightest", 1, 8, 1);
        let files = [("pods/gate/cpu.max", own), ("pods/cpu.max", above)];
        machine.group_v2("/pods/gate", &files);
        assert_eq!(quota_of(&machine.inspect()).unwrap().2, tightest);
    }
}

#[test]
fn the_nearest_group_that_names_cpus_counts() {
    let machine = Machine::regular("nearest_cpuset", 1, 8, 1);
    let above = ("pods/cpuset.cpus.effective", "1,3,5,7");
    machine.group_v2("/pods/gate", &[above, ("cpuset.cpus.effective", "0-7")]);
    assert_eq!(machine.inspect().usable.to_string(), "1,3,5,7");
}

#[test]
fn no_quota_is_none() {
    let machine = Machine::regular("no_quota", 1, 2, 1);
    machine.group_v2("/a", &[("a/cpu.max", "max 100000")]);
    assert_eq!(machine.inspect().cgroup.quota, None);
}

#[test]
fn a_group_outside_of_the_mount_is_noted() {
    let machine = Machine::regular("outside", 1, 2, 1);
    machine.group_v2("/../../elsewhere", &[("cpu.max", "max 100000")]);
    let host = machine.inspect();
    assert_eq!(host.notes.len(), 1, "{:?}", host.notes);
    assert_eq!(host.notes[0].entry, "proc/self/cgroup");
}

#[test]
fn version_one_with_a_quota_and_a_cpuset() {
    let machine = Machine::regular("version_one", 1, 8, 1);
    machine.without("fs/cgroup");
    machine.proc(
        "self/cgroup",
        "4:cpuset:/jobs\n3:cpu,cpuacct:/docker/0f\n0::/",
    );
    machine.sysfs("fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000");
    machine.sysfs("fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000");
    machine.sysfs("fs/cgroup/cpuset/jobs/cpuset.cpus", "2-3");
    let host = machine.inspect();
    assert_eq!(host.cgroup.version, Some(1));
    let entry = "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us";
    assert_eq!(quota_of(&host), Some((150_000, 100_000, entry)));
    assert_eq!(host.usable.to_string(), "2-3");
    assert_eq!(host.notes, []);
}

#[test]
fn version_one_without_a_quota() {
    let machine = Machine::regular("version_one_free", 1, 2, 1);
    machine
        .without("fs/cgroup")
        .proc("self/cgroup", "1:cpu:/\n2:cpuset:/");
    machine.sysfs("fs/cgroup/cpu/cpu.cfs_quota_us", "-1");
    machine.sysfs("fs/cgroup/cpuset/cpuset.effective_cpus", "0-1");
    let host = machine.inspect();
    assert_eq!((host.cgroup.version, host.cgroup.quota), (Some(1), None));
    assert_eq!(host.notes, []);
}
