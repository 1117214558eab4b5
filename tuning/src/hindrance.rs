//! What holds the terminator back here, with a remedy for each way that it may be started.

use serde::Serialize;

use crate::ability::{Abilities, Seccomp};
use crate::cgroup::Limits;
use crate::cpu_set::CpuSet;

/// The oldest kernel that the terminator runs on.
const KERNEL_LEAST: (u32, u32) = (6, 1);

/// Bytes of locked memory below which rings may be refused.
const LOCKED_MEMORY_LEAST: u64 = 1 << 20;

/// Descriptors below which a busy terminator runs out: a connection has two.
const DESCRIPTORS_LEAST: u64 = 65_536;

/// A limit, and how to lift it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Hindrance {
    pub problem: String,
    pub systemd: String,
    pub docker: String,
    pub kubernetes: String,
}

/// All of them, the worst first.
pub(crate) fn find(
    online: &CpuSet,
    usable: &CpuSet,
    affinity: Option<&CpuSet>,
    cgroup: &Limits,
    abilities: &Abilities,
) -> Vec<Hindrance> {
    let mut found = Vec::new();
    let mut add = |problem: String, [systemd, docker, kubernetes]: [&str; 3]| {
        found.push(Hindrance {
            problem,
            systemd: systemd.to_owned(),
            docker: docker.to_owned(),
            kubernetes: kubernetes.to_owned(),
        });
    };
    if let (Some(kernel), Some(version)) = (&abilities.kernel, abilities.kernel_version())
        && version < KERNEL_LEAST
    {
        let (major, minor) = KERNEL_LEAST;
        add(
            format!("kernel {kernel} is older than {major}.{minor}, the oldest that will do"),
            [
                "install a newer kernel",
                "install a newer kernel on the host; a container has the host's",
                "a node image with a newer kernel, and a nodeSelector for it",
            ],
        );
    }
    match abilities.io_uring_disabled {
        Some(0) | None => {}
        Some(level) => add(
            match level {
                1 => {
                    "kernel.io_uring_disabled = 1: only members of kernel.io_uring_group may have \
                      rings"
                        .to_owned()
                }
                _ => format!("kernel.io_uring_disabled = {level}: no one may have a ring"),
            },
            [
                "sysctl kernel.io_uring_disabled=0, or 1 with Group= the kernel.io_uring_group",
                "the same sysctl on the host; it is not a container's own",
                "the same sysctl on the node, for instance by its image; a pod cannot set it",
            ],
        ),
    }
    if abilities.seccomp == Some(Seccomp::Filter) {
        add(
            "a seccomp filter is on, and may refuse io_uring; `ringgate doctor` tells".to_owned(),
            [
                "SystemCallFilter= with io_uring_setup io_uring_enter io_uring_register",
                "--security-opt seccomp=FILE, a profile that allows io_uring_setup, io_uring_enter \
                 and io_uring_register",
                "securityContext.seccompProfile of type Localhost with such a profile",
            ],
        );
    }
    let too_low = |limit: Option<u64>, least: u64| limit.filter(|&limit| limit < least);
    if let Some(bytes) = abilities
        .locked_memory
        .and_then(|range| too_low(range.soft, LOCKED_MEMORY_LEAST))
    {
        add(
            format!(
                "{} KiB of locked memory: rings may be refused",
                bytes / 1024
            ),
            [
                "LimitMEMLOCK=infinity",
                "--ulimit memlock=-1",
                "capability IPC_LOCK in securityContext, or LimitMEMLOCK= in the unit of the node's \
                 container runtime",
            ],
        );
    }
    if let Some(count) = abilities
        .descriptors
        .and_then(|range| too_low(range.hard, DESCRIPTORS_LEAST))
    {
        add(
            format!("at most {count} descriptors: {} connections", count / 2),
            [
                "LimitNOFILE=1048576",
                "--ulimit nofile=1048576:1048576",
                "LimitNOFILE= in the unit of the node's container runtime",
            ],
        );
    }
    if let Some(quota) = cgroup.quota_below(usable.len()) {
        add(
            format!(
                "{:.2} CPUs of time at most: shards are not pinned, and stand still once it is used up",
                quota.cpus
            ),
            [
                "CPUQuota= empty, AllowedCPUs= in its place",
                "--cpuset-cpus in place of --cpus",
                "static CPU manager on the node: whole CPUs, requests equal to limits",
            ],
        );
    }
    let narrower = |cpus: &CpuSet| {
        let missing = online.difference(cpus);
        (!missing.is_empty()).then_some(missing)
    };
    if let Some(missing) = cgroup.cpuset.as_ref().and_then(narrower) {
        add(
            format!("the control group leaves out CPUs {missing}"),
            [
                "AllowedCPUs= of the unit and of its slices",
                "--cpuset-cpus",
                "static CPU manager: a whole number of CPUs, as many as are wanted",
            ],
        );
    }
    // A cpuset narrows the mask as well.
    let mask = affinity.filter(|mask| {
        let left = cgroup
            .cpuset
            .as_ref()
            .map_or_else(|| online.clone(), |cpuset| online.intersection(cpuset));
        !left.difference(mask).is_empty()
    });
    if let Some(missing) = mask.and_then(narrower) {
        add(
            format!("the affinity mask leaves out CPUs {missing}"),
            [
                "CPUAffinity= of the unit, or of the manager in system.conf",
                "start without `taskset`",
                "start without `taskset`; the node's runtime may have a mask of its own",
            ],
        );
    }
    let unused = abilities.isolated.intersection(online).difference(usable);
    if !unused.is_empty() {
        add(
            format!("CPUs {unused} are isolated: only who asks for them by name runs there"),
            [
                "CPUAffinity= with them",
                "--cpuset-cpus with them",
                "static CPU manager without them in reservedSystemCPUs",
            ],
        );
    }
    found
}
