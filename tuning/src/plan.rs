//! From an inspection to a layout: where the shards of this host should run, and why.

use crate::cpu_set::CpuSet;
use crate::inspection::Inspection;
use crate::layout::{HostShape, Layout, Memory, Ring, Shard, Shards, Steering};

/// What the user decides; the rest follows from the host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlanOptions {
    /// Physical cores that no shard gets, where there are more than two.
    pub reserve: usize,
    /// One shard for each SMT sibling, instead of for each physical core.
    pub smt: bool,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            reserve: 1,
            smt: false,
        }
    }
}

/// Plans the layout of the host that was inspected. There is at least one shard, also where no CPU
/// is known to be usable.
pub fn plan(here: &Inspection, options: &PlanOptions) -> Layout {
    let cores: Vec<CpuSet> = here
        .topology
        .cores
        .iter()
        .map(|core| core.intersection(&here.usable))
        .filter(|core| !core.is_empty())
        .collect();
    let reserved = match cores.len() {
        0..=2 => 0,
        cores => options.reserve.min(cores - 1),
    };
    let housekeeping = cores[..reserved].iter().flat_map(CpuSet::iter).collect();
    let cpus = cores[reserved..].iter().flat_map(|core| {
        let threads = if options.smt { core.len() } else { 1 };
        core.iter().take(threads)
    });
    let shards: Vec<Shard> = cpus
        .map(|cpu| Shard {
            cpu,
            node: None,
            serves: CpuSet::default(),
            listeners: None,
        })
        .collect();
    Layout {
        host: HostShape::of(here),
        shards: match &here.cgroup.quota {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "whole CPUs of a quota, which is not negative"
            )]
            Some(quota) => Shards::Unpinned((quota.cpus as usize).clamp(1, shards.len().max(1))),
            None if shards.is_empty() => Shards::Unpinned(1),
            None => Shards::Pinned(shards),
        },
        housekeeping,
        memory: Memory::default(),
        steering: Steering::default(),
        ring: Ring::default(),
        nics: Vec::new(),
        sysctls: Vec::new(),
    }
}
