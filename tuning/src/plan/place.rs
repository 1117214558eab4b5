//! Who lives on which core: housekeeping, interrupts, and shards on the rest.

use std::collections::BTreeMap;

use super::PlanOptions;
use super::ground::{Core, Ground, cpu};
use crate::cpu_set::CpuSet;
use crate::layout::{SHARDS_MAX, Shard};
use crate::nic::Nic;
use crate::topology::Cpu;

/// Up to so many CPUs, each of them takes interrupts. This and the next two are the steps of
/// Seastar's perftune.
const ALL_TAKE_INTERRUPTS_UP_TO_CPUS: usize = 4;

/// Up to so many cores, one CPU takes the interrupts.
const ONE_CPU_UP_TO_CORES: usize = 4;

/// Beyond that, a core for each so many.
const CORES_PER_INTERRUPT_CORE: usize = 16;

/// The CPUs that take the interrupts of cards with fewer queues than shards.
#[derive(Clone, Debug)]
pub(super) struct InterruptCpus {
    /// In the order in which queues get them.
    pub cpus: Vec<u32>,
    pub why: String,
}

pub(super) struct Places {
    /// Pinned ones, each with its reason, or a number of such that are not, with one for all.
    pub shards: Result<Vec<(Shard, String)>, (usize, String)>,
    /// What holds for all of them.
    pub rule: String,
    pub housekeeping: (CpuSet, String),
    /// By the card's memory node.
    pub interrupts: BTreeMap<Option<u32>, InterruptCpus>,
}

impl Places {
    pub fn new(ground: &Ground<'_>, options: &PlanOptions, problems: &mut Vec<String>) -> Self {
        let (slow, fast): (Vec<&Core>, Vec<&Core>) =
            ground.cores.iter().partition(|core| core.is_slow);
        let (kept, mut shard_cores) = reserve(ground, &slow, fast, options.reserve, problems);
        let kept_cpus: CpuSet = kept.iter().flat_map(|core| core.cpus.iter()).collect();
        if let Some(unpinned) = unpinned(ground, &shard_cores, options) {
            let why = "nobody is pinned, so nobody needs to be kept apart".to_owned();
            return Self {
                shards: Err(unpinned),
                rule: String::new(),
                housekeeping: (CpuSet::default(), why),
                interrupts: BTreeMap::new(),
            };
        }
        let housekeeping = match kept_cpus.is_empty() {
            false => (kept_cpus.clone(), kept_why(ground, &kept)),
            true => leftover(ground, &shard_cores, options),
        };
        // Of each core the first CPU, or all, but those of housekeeping.
        let places = |core: &Core| -> CpuSet {
            let threads = if options.smt { usize::MAX } else { 1 };
            let free = core.cpus.difference(&housekeeping.0);
            free.iter().take(threads).collect()
        };
        let shard_cpus: CpuSet = shard_cores
            .iter()
            .flat_map(|core| places(core).iter().collect::<Vec<_>>())
            .collect();
        let mut interrupts = BTreeMap::new();
        for card in ground
            .cards
            .iter()
            .filter(|card| options.place_interrupts && is_scarce(card, shard_cpus.len()))
        {
            let node = card.node.filter(|_| ground.has_nodes);
            interrupts.entry(node).or_insert_with(|| {
                interrupt_cpus(
                    ground,
                    node,
                    (&housekeeping.0, &kept),
                    &shard_cpus,
                    &mut shard_cores,
                )
            });
        }
        let nodes = ground.card_nodes();
        let rank = |core: &Core| nodes.iter().position(|&node| Some(node) == core.node);
        shard_cores.sort_by_key(|core| {
            (
                rank(core).unwrap_or(nodes.len()),
                core.node,
                core.llc,
                core.first,
            )
        });
        let mut shards: Vec<(Shard, String)> = Vec::new();
        for core in &shard_cores {
            for cpu in places(core).iter() {
                let shard = Shard {
                    cpu,
                    node: core.node.filter(|_| ground.has_nodes),
                    serves: CpuSet::default(),
                    listeners: None,
                };
                shards.push((shard, shard_why(ground, core)));
            }
        }
        if shards.len() > SHARDS_MAX {
            problems.push(format!(
                "{} shards would fit, the terminator takes {SHARDS_MAX}: the rest stays idle",
                shards.len()
            ));
            shards.truncate(SHARDS_MAX);
        }
        serve(ground, &mut shards);
        Self {
            shards: Ok(shards),
            rule: rule(ground, options),
            housekeeping,
            interrupts,
        }
    }

    pub fn pinned(&self) -> &[(Shard, String)] {
        self.shards.as_deref().unwrap_or_default()
    }

    /// The CPUs of a shard's core that are the shard's: siblings without a shard, too.
    pub fn own(ground: &Ground<'_>, shard: &Shard) -> CpuSet {
        let core = ground.core_of(shard.cpu).map(|core| &core.cpus);
        core.map_or_else(CpuSet::default, |core| core.intersection(&shard.serves))
    }
}

/// Whether a card has fewer queues than there are shards.
fn is_scarce(card: &Nic, shards: usize) -> bool {
    (1..shards).contains(&card.queues())
}

/// Splits the cores into those of housekeeping and those of shards; of the latter there is one,
/// unless there is no core at all.
fn reserve<'g>(
    ground: &Ground<'_>,
    slow: &[&'g Core],
    fast: Vec<&'g Core>,
    wanted: usize,
    problems: &mut Vec<String>,
) -> (Vec<&'g Core>, Vec<&'g Core>) {
    let most = match ground.cores.len() {
        0..=2 => 0,
        _ => fast.len().saturating_sub(1),
    };
    let whole = wanted.saturating_sub(slow.len());
    if whole > most && wanted > 1 {
        let cores = ground.cores.len();
        problems.push(match most + slow.len() {
            0 => format!("--reserve {wanted}: of {cores} usable cores none can be given away"),
            most => format!(
                "--reserve {wanted}: of {cores} usable cores {most} can be reserved, so that one is \
                 left for a shard"
            ),
        });
    }
    let nodes = ground.card_nodes();
    let has_card = |core: &Core| core.node.is_some_and(|node| nodes.contains(&node));
    let mut order = fast;
    // Stable: the lowest cores of the nodes that have no card come first.
    if ground.has_nodes {
        order.sort_by_key(|core| has_card(core));
    }
    let shards = order.split_off(whole.min(most));
    (slow.iter().copied().chain(order).collect(), shards)
}

/// Under a quota, and where no CPU is known.
fn unpinned(
    ground: &Ground<'_>,
    shard_cores: &[&Core],
    options: &PlanOptions,
) -> Option<(usize, String)> {
    if ground.cores.is_empty() {
        let why = "no CPU is known to be usable: one thread, left to the scheduler".to_owned();
        return Some((1, why));
    }
    // As many CPUs of time as there are CPUs can never be used up: so a Kubernetes node may leave
    // the quota on for a container that has CPUs of its own.
    let quota = ground.here.cgroup.quota_below(ground.here.usable.len())?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole CPUs of a quota, which is not negative"
    )]
    let allowed = quota.cpus as usize;
    let places = match options.smt {
        true => shard_cores.iter().map(|core| core.cpus.len()).sum(),
        false => shard_cores.len(),
    };
    let why = format!(
        "{} allows {:.2} CPUs of time on {} usable ones: no more threads than that, and not pinned: \
         a pinned thread is stopped though another CPU would have time",
        quota.entry,
        quota.cpus,
        ground.here.usable.len()
    );
    Some((allowed.min(places).clamp(1, SHARDS_MAX), why))
}

fn kept_why(ground: &Ground<'_>, kept: &[&Core]) -> String {
    let slow: CpuSet = cpus_of(kept.iter().copied().filter(|core| core.is_slow));
    let whole: Vec<&Core> = kept.iter().copied().filter(|core| !core.is_slow).collect();
    let mut why = Vec::new();
    if !slow.is_empty() {
        let because = ground.slow_because.as_deref().unwrap_or("they are slow");
        why.push(format!("CPUs {slow} are too slow for shards: {because}"));
    }
    if !whole.is_empty() {
        let cores: Vec<String> = whole.iter().map(|core| core.cpus.to_string()).collect();
        let where_from = match (ground.has_nodes, ground.card_nodes().as_slice()) {
            (true, [_, ..]) if ground.cards_on(whole[0].node).is_none() => {
                let node = whole[0]
                    .node
                    .map_or_else(|| "unknown".to_owned(), |n| n.to_string());
                format!("from node {node}, which has no card")
            }
            _ => "the lowest, where the kernel's own work is".to_owned(),
        };
        why.push(format!(
            "core {} ({where_from}) for the control plane and all else: {} of {} cores reserved",
            cores.join(" and "),
            whole.len(),
            ground.cores.len()
        ));
    }
    why.join("; ")
}

/// Housekeeping without a core of its own: SMT siblings that no shard takes.
fn leftover(ground: &Ground<'_>, shard_cores: &[&Core], options: &PlanOptions) -> (CpuSet, String) {
    let cores = ground.cores.len();
    let siblings: CpuSet = match options.smt {
        true if ground.here.usable.len() > 2 && options.reserve > 0 => {
            let first = shard_cores.first().map(|core| &core.cpus);
            first
                .filter(|cpus| cpus.len() > 1)
                .and_then(|cpus| cpus.iter().last())
                .into_iter()
                .collect()
        }
        true => CpuSet::default(),
        false => shard_cores
            .iter()
            .flat_map(|core| core.cpus.iter().skip(1))
            .collect(),
    };
    let asked = match cores {
        1 => "one usable core is too few to give it away".to_owned(),
        2 => "two usable cores are too few to give one away".to_owned(),
        _ => format!("--reserve {}", options.reserve),
    };
    let rest = match siblings.is_empty() {
        true => "the control plane runs beside the shards, where the scheduler likes",
        false => "the control plane gets SMT siblings that have no shard",
    };
    (siblings, format!("{asked}: {rest}"))
}

fn cpus_of<'c>(cores: impl Iterator<Item = &'c Core>) -> CpuSet {
    cores.flat_map(|core| core.cpus.iter()).collect()
}

/// Chooses the CPUs that take a card's interrupts; cores that it takes from shards leave
/// `shard_cores`.
fn interrupt_cpus(
    ground: &Ground<'_>,
    node: Option<u32>,
    (housekeeping, kept): (&CpuSet, &[&Core]),
    shard_cpus: &CpuSet,
    shard_cores: &mut Vec<&Core>,
) -> InterruptCpus {
    let here = |core: &&&Core| node.is_none() || core.node == node;
    let all = cpus_of(ground.cores.iter());
    if all.len() <= ALL_TAKE_INTERRUPTS_UP_TO_CPUS {
        let (shared, apart): (Vec<u32>, Vec<u32>) =
            all.iter().partition(|&cpu| shard_cpus.contains(cpu));
        let why = format!(
            "with {} usable CPUs each takes interrupts, those without a shard first",
            all.len()
        );
        return InterruptCpus {
            cpus: [apart, shared].concat(),
            why,
        };
    }
    if ground.cores.len() <= ONE_CPU_UP_TO_CORES {
        let cpu = housekeeping.first().or_else(|| all.first());
        let why = format!(
            "with {} usable cores one CPU takes them",
            ground.cores.len()
        );
        return InterruptCpus {
            cpus: cpu.into_iter().collect(),
            why,
        };
    }
    let cores = ground.cores.iter().filter(|core| here(&core)).count();
    let wanted = cores.div_ceil(CORES_PER_INTERRUPT_CORE).max(1);
    let mut chosen: Vec<&Core> = kept.iter().filter(here).take(wanted).copied().collect();
    let from_housekeeping = chosen.len();
    while chosen.len() < wanted && shard_cores.len() > 1 {
        let Some(at) = shard_cores.iter().position(|core| here(&core)) else {
            break;
        };
        chosen.push(shard_cores.remove(at));
    }
    let whose = match (from_housekeeping, chosen.len()) {
        (_, 0) => "shared with shards, for want of others",
        (0, _) => "which get no shard",
        (kept, all) if kept == all => "which are housekeeping's",
        _ => "housekeeping's first, the others get no shard",
    };
    if chosen.is_empty() {
        chosen.extend(
            ground
                .cores
                .iter()
                .find(|core| here(&core))
                .or_else(|| ground.cores.first()),
        );
    }
    let place = node.map_or_else(String::new, |node| format!(" of node {node}"));
    let why = format!(
        "one core for each {CORES_PER_INTERRUPT_CORE} begun of the {cores} usable{place} takes \
         them: CPUs {}, {whose}",
        cpus_of(chosen.iter().copied())
    );
    InterruptCpus {
        cpus: chosen.iter().flat_map(|core| core.cpus.iter()).collect(),
        why,
    }
}

fn rule(ground: &Ground<'_>, options: &PlanOptions) -> String {
    let smt = ground.cores.iter().any(|core| core.cpus.len() > 1);
    let each = match (smt, options.smt) {
        (true, true) => "One shard for each CPU, SMT siblings too (--smt on)",
        (true, false) => {
            "One shard for each physical core; the SMT sibling is left to interrupts or idle"
        }
        (false, _) => "One shard for each physical core",
    };
    let mut order = Vec::new();
    let nodes = ground.card_nodes();
    if ground.has_nodes {
        order.push(
            match nodes.first().and_then(|&node| ground.cards_on(Some(node))) {
                Some(cards) => format!("node {} of {cards} first", nodes[0]),
                None => "by node".to_owned(),
            },
        );
    }
    if ground.here.topology.llcs.len() > 1 {
        order.push("by last-level cache".to_owned());
    }
    match order.is_empty() {
        true => format!("{each}."),
        false => format!("{each}; {}.", order.join(", then ")),
    }
}

fn shard_why(ground: &Ground<'_>, core: &Core) -> String {
    let cpu = cpu(ground.here, core.first);
    let siblings = cpu.map_or(&core.cpus, |cpu| &cpu.siblings);
    let mut why = vec![format!("core {siblings}")];
    let llc = cpu.and_then(|cpu| cpu.llc.as_ref());
    why.extend(llc.map(|llc| format!("L{} {}", llc.level, llc.cpus)));
    if ground.has_nodes {
        why.extend(core.node.map(|node| format!("node {node}")));
        why.extend(
            ground
                .cards_on(core.node)
                .map(|cards| format!("with {cards}")),
        );
    }
    why.join(", ")
}

/// Gives each online CPU to the shard that is nearest, and of several to the one with the fewest.
fn serve(ground: &Ground<'_>, shards: &mut [(Shard, String)]) {
    if shards.is_empty() {
        return;
    }
    let here = ground.here;
    let at: Vec<_> = shards
        .iter()
        .map(|(shard, _)| cpu(here, shard.cpu))
        .collect();
    let llc = |cpu: &Cpu| cpu.llc.as_ref().and_then(|llc| llc.cpus.first());
    for id in here.online.iter() {
        let it = cpu(here, id);
        let distance = |shard: &Shard, home: Option<&Cpu>| {
            let (Some(it), Some(home)) = (it, home) else {
                return 5;
            };
            if shard.cpu == id {
                0
            } else if home.siblings.contains(id) {
                1
            } else if llc(it).is_some() && llc(it) == llc(home) {
                2
            } else if it.node.is_some() && it.node == home.node {
                3
            } else if it.package.is_some() && it.package == home.package {
                4
            } else {
                5
            }
        };
        let nearest = (0..shards.len()).min_by_key(|&index| {
            let shard = &shards[index].0;
            (distance(shard, at[index]), shard.serves.len(), index)
        });
        if let Some(nearest) = nearest {
            shards[nearest].0.serves.insert(id);
        }
    }
}
