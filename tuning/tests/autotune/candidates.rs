//! What is tried on which host.

use std::fs;
use std::path::PathBuf;

use ringgate_tune::autotune::candidates::{CANDIDATES_MAX, Candidate, can_busy_poll, candidates};
use ringgate_tune::cpu_set::CpuSet;
use ringgate_tune::host::Host;
use ringgate_tune::inspection::Inspection;
use ringgate_tune::layout::why::Why;
use ringgate_tune::layout::{Layout, Shards, Steering};
use ringgate_tune::plan::{PlanOptions, plan};

/// A host with one socket, whose CPUs are numbered core by core, with `threads` siblings each.
fn host(name: &str, cores: u32, threads: u32, cpu_max: &str) -> Inspection {
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("candidates-{name}-{}", std::process::id()));
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    };
    let all = format!("0-{}", cores * threads - 1);
    write("sys/devices/system/cpu/possible", &all);
    write("sys/devices/system/cpu/online", &all);
    write("sys/devices/system/node/node0/cpulist", &all);
    for cpu in 0..cores * threads {
        let first = cpu / threads * threads;
        let entry = format!("sys/devices/system/cpu/cpu{cpu}/topology");
        let siblings = format!("{first}-{}", first + threads - 1);
        write(&format!("{entry}/core_cpus_list"), &siblings);
        write(&format!("{entry}/physical_package_id"), "0");
    }
    write("sys/fs/cgroup/cgroup.controllers", "cpu cpuset");
    write("sys/fs/cgroup/cpu.max", cpu_max);
    write("proc/self/cgroup", "0::/");
    write("proc/self/status", &format!("Cpus_allowed_list:\t{all}"));
    let host = Host {
        sysfs: root.join("sys"),
        proc: root.join("proc"),
    };
    let inspection = Inspection::read(&host, None);
    fs::remove_dir_all(&root).unwrap();
    inspection
}

fn names(candidates: &[Candidate]) -> Vec<&str> {
    candidates.iter().map(|it| it.name.as_str()).collect()
}

fn named<'c>(candidates: &'c [Candidate], name: &str) -> &'c Layout {
    let found = candidates.iter().find(|candidate| candidate.name == name);
    &found
        .unwrap_or_else(|| panic!("{name} in {:?}", names(candidates)))
        .layout
}

/// Everything that must be so of any list.
fn check(here: &Inspection, present: &Layout, made: &[Candidate]) {
    assert!(made.len() <= 1 + CANDIDATES_MAX);
    assert_eq!(&made[0].layout, present);
    for (at, candidate) in made.iter().enumerate() {
        let Candidate { name, why, layout } = candidate;
        assert!(
            made[..at]
                .iter()
                .all(|it| &it.layout != layout && &it.name != name)
        );
        assert!(!why.is_empty() && !why.contains('\n'));
        let text = layout.to_toml(&Why::default());
        let read = Layout::parse(&PathBuf::from(name), &text);
        assert_eq!(read.as_ref(), Ok(layout), "{text}");
        assert_eq!(layout.misfits(here), [""; 0], "{name}");
        assert!(
            (1..=here.usable.len()).contains(&layout.shard_count()),
            "{name}"
        );
        if at > 0 {
            assert!(
                layout
                    .housekeeping
                    .intersection(&layout.shard_cpus())
                    .is_empty(),
                "{name}"
            );
        }
    }
}

#[test]
fn a_host_with_siblings_has_twelve_that_differ() {
    let here = host("smt", 8, 2, "max 100000");
    let present = plan(&here, &PlanOptions::default());
    let made = candidates(&here, &present, true);
    check(&here, &present, &made);
    assert_eq!(made.len(), 1 + CANDIDATES_MAX, "{:?}", names(&made));
    let now = present.shard_count();
    assert!(named(&made, "smt-on").shard_count() > now);
    assert_eq!(named(&made, "one-more").shard_count(), now + 1);
    assert_eq!(named(&made, "one-fewer").shard_count(), now - 1);
    assert_eq!(named(&made, "every-cpu").shard_count(), 16);
    assert_eq!(named(&made, "unpinned").shards, Shards::Unpinned(now));
    assert_eq!(named(&made, "steering-cpu").steering, Steering::Cpu);
    assert!(named(&made, "sqpoll").ring.sqpoll_ms.is_some());
}

#[test]
fn two_cpus_get_only_what_they_can_have() {
    let here = host("two", 2, 1, "max 100000");
    let present = plan(&here, &PlanOptions::default());
    assert_eq!(present.shard_count(), 2);
    let made = candidates(&here, &present, false);
    check(&here, &present, &made);
    let names = names(&made);
    for absent in [
        "planned",
        "smt-on",
        "one-more",
        "every-cpu",
        "sqpoll",
        "busy-poll",
        "half",
    ] {
        assert!(!names.contains(&absent), "{names:?}");
    }
    for there in [
        "one-fewer",
        "unpinned",
        "housekeeping-reserved",
        "steering-cpu",
    ] {
        assert!(names.contains(&there), "{names:?}");
    }
}

#[test]
fn one_cpu_has_no_other_count_of_shards() {
    let here = host("one", 1, 1, "max 100000");
    let present = plan(&here, &PlanOptions::default());
    let made = candidates(&here, &present, false);
    check(&here, &present, &made);
    assert!(made.iter().all(|made| made.layout.shard_count() == 1));
}

#[test]
fn under_a_quota_nothing_is_pinned_and_no_more_is_started() {
    let here = host("quota", 8, 1, "250000 100000");
    let present = plan(&here, &PlanOptions::default());
    assert_eq!(present.shards, Shards::Unpinned(2));
    let made = candidates(&here, &present, true);
    check(&here, &present, &made);
    for candidate in &made {
        let count = candidate.layout.shard_count();
        assert!(
            matches!(candidate.layout.shards, Shards::Unpinned(1..=2)),
            "{count}"
        );
    }
}

#[test]
fn what_each_shard_serves_is_left_alone() {
    let here = host("listeners", 4, 1, "max 100000");
    let mut present = plan(&here, &PlanOptions::default());
    let Shards::Pinned(shards) = &mut present.shards else {
        panic!("{present:?}");
    };
    shards[0].listeners = Some(vec!["front".to_owned()]);
    shards[1].listeners = Some(vec!["back".to_owned()]);
    let shards = present.shards.clone();
    let made = candidates(&here, &present, false);
    assert!(made.len() > 2, "rings and steering are left to try");
    assert!(
        made.iter()
            .all(|candidate| candidate.layout.shards == shards)
    );
}

#[test]
fn what_is_on_is_tried_off() {
    let here = host("off", 4, 2, "max 100000");
    let mut present = plan(
        &here,
        &PlanOptions {
            smt: true,
            ..PlanOptions::default()
        },
    );
    present.steering = Steering::Cpu;
    (present.ring.sqpoll_ms, present.ring.busy_poll_us) = (Some(1), Some(20));
    let made = candidates(&here, &present, true);
    check(&here, &present, &made);
    assert_eq!(named(&made, "steering-hash").steering, Steering::Hash);
    assert_eq!(named(&made, "sqpoll-off").ring.sqpoll_ms, None);
    assert_eq!(named(&made, "busy-poll-off").ring.busy_poll_us, None);
    // Without SMT it is what the planner says, so it is not tried twice.
    let off = named(&made, "planned").shard_cpus();
    let core = |cpus: &str| CpuSet::parse(cpus).unwrap();
    for siblings in ["0-1", "2-3", "4-5", "6-7"] {
        assert!(core(siblings).intersection(&off).len() < 2, "{off}");
    }
}

#[test]
fn busy_polling_needs_a_kernel_that_has_it() {
    for (release, can) in [
        ("6.9.0", true),
        ("6.18.44-generic", true),
        ("7.0", true),
        ("6.8.0-31-generic", false),
        ("5.15.0", false),
        ("odd", false),
    ] {
        assert_eq!(can_busy_poll(release), can, "{release}");
    }
}
