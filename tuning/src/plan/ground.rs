//! What a plan is made on: the cores that may be used, which of them are slow, and the cards.

use crate::cpu_set::CpuSet;
use crate::inspection::Inspection;
use crate::nic::Nic;
use crate::topology::Cpu;

/// Per cent of the fastest CPU's speed below which one is slow. Turbo frequencies of equal cores
/// differ by less, cores of another kind by more.
const SLOW_BELOW_PERCENT: u64 = 80;

/// A physical core that may be used.
#[derive(Clone, Debug)]
pub(super) struct Core {
    /// Its usable CPUs; never empty.
    pub cpus: CpuSet,
    pub first: u32,
    pub node: Option<u32>,
    /// The first CPU of its last-level cache, which stands for the cache.
    pub llc: Option<u32>,
    pub is_slow: bool,
}

pub(super) struct Ground<'a> {
    pub here: &'a Inspection,
    /// In the order of their first CPU.
    pub cores: Vec<Core>,
    pub cards: Vec<&'a Nic>,
    /// What tells slow CPUs from others; `None` where none is.
    pub slow_because: Option<String>,
    /// Whether several memory nodes have CPUs.
    pub has_nodes: bool,
}

impl<'a> Ground<'a> {
    pub fn new(here: &'a Inspection, nics: &[String]) -> Self {
        let (slow, because) = slow_cpus(here);
        let topology = &here.topology;
        let mut cores = Vec::new();
        for cpus in &topology.cores {
            let cpus = cpus.intersection(&here.usable);
            let Some(first) = cpus.first() else { continue };
            let cpu = cpu(here, first);
            let llc = cpu.and_then(|cpu| cpu.llc.as_ref());
            cores.push(Core {
                first,
                node: cpu.and_then(|cpu| cpu.node),
                llc: llc.and_then(|llc| llc.cpus.first()),
                is_slow: slow.contains(first),
                cpus,
            });
        }
        cores.sort_by_key(|core| core.first);
        let nodes = topology.nodes.iter().filter(|node| !node.cpus.is_empty());
        Self {
            here,
            cores,
            cards: cards(here, nics),
            slow_because: because.filter(|_| !slow.is_empty()),
            has_nodes: nodes.count() > 1,
        }
    }

    /// The memory nodes of the cards, each once.
    pub fn card_nodes(&self) -> Vec<u32> {
        crate::topology::distinct(self.cards.iter().filter_map(|card| card.node))
    }

    /// The cards on a memory node, as `eth0, eth1`.
    pub fn cards_on(&self, node: Option<u32>) -> Option<String> {
        let on = |card: &&&Nic| card.node.is_some() && card.node == node;
        let names: Vec<&str> = self
            .cards
            .iter()
            .filter(on)
            .map(|card| card.name.as_str())
            .collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    pub fn core_of(&self, cpu: u32) -> Option<&Core> {
        self.cores.iter().find(|core| core.cpus.contains(cpu))
    }
}

/// What the kernel tells of a CPU that is online.
pub(super) fn cpu(here: &Inspection, id: u32) -> Option<&Cpu> {
    here.topology.cpus.iter().find(|cpu| cpu.id == id)
}

/// The usable CPUs that are clearly slower than others, and how that is known. Empty where all are
/// alike.
pub(crate) fn slow_cpus(here: &Inspection) -> (CpuSet, Option<String>) {
    let efficient = here.efficient.intersection(&here.usable);
    if !efficient.is_empty() {
        return match efficient == here.usable {
            true => (CpuSet::default(), None),
            false => (efficient, Some("they are efficient cores".to_owned())),
        };
    }
    let usable: Vec<&Cpu> = here
        .topology
        .cpus
        .iter()
        .filter(|cpu| here.usable.contains(cpu.id))
        .collect();
    type Speed = fn(&Cpu) -> Option<u64>;
    let of_capacity: Speed = |cpu| cpu.capacity.map(u64::from);
    let of_frequency: Speed = |cpu| cpu.max_frequency_khz;
    for (speed, what, unit) in [(of_capacity, "capacity", 1), (of_frequency, "MHz", 1000)] {
        let Some(fastest) = usable.iter().filter_map(|cpu| speed(cpu)).max() else {
            continue;
        };
        let is_slow =
            |speed: u64| speed.saturating_mul(100) < fastest.saturating_mul(SLOW_BELOW_PERCENT);
        let slow = usable.iter().filter(|cpu| speed(cpu).is_some_and(is_slow));
        let slow: Vec<&&Cpu> = slow.collect();
        let best = slow.iter().filter_map(|cpu| speed(cpu)).max();
        let because = best.map(|best| {
            format!(
                "{what} {} is less than {SLOW_BELOW_PERCENT} % of the fastest CPU's, {}",
                best / unit,
                fastest / unit
            )
        });
        return (slow.iter().map(|cpu| cpu.id).collect(), because);
    }
    (CpuSet::default(), None)
}

/// The cards that are meant by `names`, or where there are none, those that are up.
fn cards<'a>(here: &'a Inspection, names: &[String]) -> Vec<&'a Nic> {
    let mut wanted: Vec<&String> = Vec::new();
    for name in names {
        match here.bonds.iter().find(|bond| bond.name == *name) {
            Some(bond) => wanted.extend(&bond.members),
            None => wanted.push(name),
        }
    }
    let is_wanted = |nic: &&Nic| match names.is_empty() {
        true => nic.is_up(),
        false => wanted.contains(&&nic.name),
    };
    here.nics.iter().filter(is_wanted).collect()
}
