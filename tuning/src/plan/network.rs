//! Where the interrupts and queues of network cards go.

use std::collections::BTreeSet;

use super::ground::Ground;
use super::place::{InterruptCpus, Places};
use crate::cpu_set::CpuSet;
use crate::layout::why::NicWhy;
use crate::layout::{self, Shard, is_name};
use crate::nic::{Irq, Nic};
use crate::units::counted;

/// The cards, and what follows from them for others.
pub(super) struct Wires {
    pub cards: Vec<(layout::Nic, NicWhy)>,
    /// Why there is no card; blank where there is one.
    pub none: String,
    /// Whether each card has a queue for each shard.
    pub queue_each: bool,
    /// Whether packets are spread by software.
    pub spreads: bool,
    /// The CPUs on which packets reach the network stack; unknown where a card's interrupts are.
    pub reach: Option<CpuSet>,
}

/// A shard as its packets see it.
struct Target<'a> {
    index: usize,
    shard: &'a Shard,
    /// The CPUs of its core that no other shard has.
    own: CpuSet,
}

impl Wires {
    /// No card is placed unless `place` says so.
    pub fn new(ground: &Ground<'_>, places: &Places, place: bool) -> Self {
        let mut wires = Self {
            cards: Vec::new(),
            none: String::new(),
            queue_each: place && !ground.cards.is_empty(),
            spreads: false,
            reach: Some(CpuSet::default()),
        };
        wires.none = if !place {
            "Network cards are left as they are."
        } else if places.pinned().is_empty() {
            "Network cards are left as they are: no shard has a CPU to which interrupts could go."
        } else if ground.here.nics.is_empty() {
            "There is no network card here (in a container they are the host's): interrupts and \
             queues are left as they are."
        } else if ground.cards.is_empty() {
            "No network card is up: interrupts and queues are left as they are; name one with --nic."
        } else {
            ""
        }
        .to_owned();
        if !wires.none.is_empty() {
            wires.reach = None;
            return wires;
        }
        for card in &ground.cards {
            if is_name(&card.name) {
                wires.card(ground, places, card);
            }
        }
        wires
    }

    fn card(&mut self, ground: &Ground<'_>, places: &Places, card: &Nic) {
        let targets = targets(ground, places, card);
        let mut planned = Card::new(ground, card, targets.len());
        let node = card.node.filter(|_| ground.has_nodes);
        match places.interrupts.get(&node) {
            Some(interrupts) if card.queues() < targets.len() => {
                planned.scarce(ground, interrupts, &targets);
            }
            _ => planned.queue_each(ground, &targets),
        }
        planned.left_alone();
        self.queue_each &= planned.queue_each;
        self.spreads |= planned.nic.rps.iter().any(|(_, cpus)| !cpus.is_empty());
        let cpus = planned.reach.iter();
        match &mut self.reach {
            Some(reach) if !planned.reach.is_empty() => cpus.for_each(|cpu| reach.insert(cpu)),
            reach => *reach = None,
        }
        self.cards.push((planned.nic, planned.why));
    }
}

/// The shards, those on the card's own node first.
fn targets<'p>(ground: &Ground<'_>, places: &'p Places, card: &Nic) -> Vec<Target<'p>> {
    let shards = places.pinned().iter().enumerate();
    let mut targets: Vec<Target<'_>> = shards
        .map(|(index, (shard, _))| Target {
            index,
            shard,
            own: Places::own(ground, shard),
        })
        .collect();
    targets.sort_by_key(|target| card.node.is_some() && target.shard.node != card.node);
    targets
}

/// One card on its way into the layout.
struct Card<'a> {
    card: &'a Nic,
    nic: layout::Nic,
    why: NicWhy,
    queue_each: bool,
    reach: CpuSet,
}

impl<'a> Card<'a> {
    fn new(ground: &Ground<'_>, card: &'a Nic, shards: usize) -> Self {
        let node = match (card.node, ground.has_nodes) {
            (Some(node), true) => format!("on node {node}, "),
            (None, true) => "its node is not known, ".to_owned(),
            (_, false) => String::new(),
        };
        let mut bonds = ground.here.bonds.iter();
        let bond = bonds.find(|bond| bond.members.contains(&card.name));
        let bond = bond.map_or_else(String::new, |bond| format!("member of {}, ", bond.name));
        let name = format!(
            "{}: {node}{bond}{} for {}.",
            card.name,
            counted(card.queues(), "queue"),
            counted(shards, "shard")
        );
        Self {
            card,
            nic: layout::Nic {
                name: card.name.clone(),
                ..layout::Nic::default()
            },
            why: NicWhy {
                name,
                ..NicWhy::default()
            },
            queue_each: false,
            reach: CpuSet::default(),
        }
    }

    /// As many queues as shards, or more: each shard has one, whose interrupt comes to its core.
    fn queue_each(&mut self, ground: &Ground<'_>, targets: &[Target<'_>]) {
        let shards = targets.len();
        if self.card.queues() == 0 {
            self.why
                .left
                .push("It tells of no queues: nothing to place.".to_owned());
            return;
        }
        if self.card.queues() > shards {
            self.nic.queues = u32::try_from(shards).ok();
            self.why.queues = format!(
                "{} of its {} queues: one for each shard. Interrupts past that are spread in turn, \
                 for the case that the number cannot be changed.",
                shards,
                self.card.queues()
            );
        }
        let shard_cpus: CpuSet = targets.iter().map(|target| target.shard.cpu).collect();
        for (irq, queue) in queue_irqs(self.card) {
            let target = &targets[queue % shards];
            let siblings = ground
                .core_of(target.shard.cpu)
                .map(|core| core.cpus.difference(&shard_cpus));
            let sibling = siblings.and_then(|cpus| cpus.first());
            let cpu = sibling.unwrap_or(target.shard.cpu);
            let place = match sibling {
                Some(_) => format!("the SMT sibling of its CPU {}", target.shard.cpu),
                None => "its own CPU".to_owned(),
            };
            let turn = if queue < shards { "" } else { ", in turn" };
            let why = format!("queue {queue} to shard {}{turn}: {place}", target.index);
            if self.place(irq, cpu, why) {
                self.reach.insert(cpu);
            }
        }
        // Interrupts that cannot be moved leave shards without.
        self.queue_each = self.reach.len() == shards;
        for queue in &self.card.rx {
            if queue.cpus.as_ref().is_some_and(|cpus| !cpus.is_empty()) {
                self.nic.rps.push((queue.index, CpuSet::default()));
                self.why
                    .rps
                    .push("off: the card spreads the packets itself".to_owned());
            }
        }
        self.xps(targets);
    }

    /// Fewer queues than shards: some CPUs take the interrupts, and spread the packets.
    fn scarce(&mut self, ground: &Ground<'_>, interrupts: &InterruptCpus, targets: &[Target<'_>]) {
        self.why.name += &format!(" Fewer queues than shards: {}.", interrupts.why);
        let queues = self.card.interrupt_queues();
        let mut before = None;
        let mut nth = 0;
        for (irq, queue) in queue_irqs(self.card) {
            // A queue's second interrupt goes to a CPU that the queues have left free.
            nth = if before == Some(queue) { nth + 1 } else { 0 };
            before = Some(queue);
            let cpu = interrupts.cpus[(queue + nth * queues) % interrupts.cpus.len()];
            let whose = targets.iter().find(|target| target.shard.cpu == cpu);
            let place = match whose {
                Some(target) => format!("where shard {} is, too", target.index),
                None => "which has no shard".to_owned(),
            };
            self.place(irq, cpu, format!("queue {queue} to CPU {cpu}, {place}"));
        }
        let first = interrupts.cpus.first();
        let home = first
            .and_then(|&cpu| ground.core_of(cpu))
            .and_then(|core| core.node);
        let node = self.card.node.or(home).filter(|_| ground.has_nodes);
        let near = targets
            .iter()
            .filter(|target| node.is_none() || target.shard.node == node);
        let cpus: CpuSet = near.map(|target| target.shard.cpu).collect();
        let place = node.map_or_else(String::new, |node| format!(" of node {node}"));
        if cpus.is_empty() {
            self.why
                .left
                .push(format!("No shard is{place}: packets are not spread (RPS)."));
        } else {
            for queue in &self.card.rx {
                self.nic.rps.push((queue.index, cpus.clone()));
                let why = format!("spread over the {}{place}", counted(cpus.len(), "shard"));
                self.why.rps.push(why);
            }
            self.reach = cpus;
        }
        self.xps(targets);
        let named = self.card.interrupt_queues();
        if named > self.card.queues() {
            self.why.left.push(format!(
                "Its interrupts are named for {named} queues: `ethtool -L {} combined {}` may turn \
                 on more than {}; plan anew then.",
                self.card.name,
                named.min(targets.len()),
                self.card.queues()
            ));
        }
    }

    /// Transmit queues in turn to the cores of shards; one queue alone has no choice.
    fn xps(&mut self, targets: &[Target<'_>]) {
        let queues = self.card.tx.len().min(targets.len());
        if queues < 2 {
            return;
        }
        for (at, queue) in self.card.tx.iter().take(queues).enumerate() {
            let users = || targets.iter().skip(at).step_by(queues);
            let cpus = users().flat_map(|target| target.own.iter()).collect();
            let shards: Vec<String> = users().map(|target| target.index.to_string()).collect();
            let plural = if shards.len() == 1 { "" } else { "s" };
            self.nic.xps.push((queue.index, cpus));
            let why = format!("the core{plural} of shard{plural} {}", shards.join(", "));
            self.why.xps.push(why);
        }
    }

    /// Whether the interrupt can be given a place.
    fn place(&mut self, irq: &Irq, cpu: u32, why: String) -> bool {
        let name = irq.name.as_deref().unwrap_or_default();
        let is_there = |name: &str| self.nic.irqs.iter().any(|(other, _)| other == name);
        let stays = |because: &str| {
            format!(
                "IRQ {} `{}` stays where it is: {because}.",
                irq.number,
                name.escape_debug()
            )
        };
        if irq.managed {
            self.why
                .left
                .push(stays("the kernel places it and refuses to move it"));
        } else if irq.affinity.is_none() {
            self.why
                .left
                .push(stays("it has no smp_affinity_list, so it cannot be moved"));
        } else if !is_name(name) {
            self.why
                .left
                .push(stays("its name cannot be written in a layout"));
        } else if is_there(name) {
            self.why.left.push(stays("another one has the same name"));
        } else {
            self.nic
                .irqs
                .push((name.to_owned(), CpuSet::from_iter([cpu])));
            self.why.irqs.push(why);
            return true;
        }
        false
    }

    /// Names what is no queue's interrupt.
    fn left_alone(&mut self) {
        if self.card.irqs.is_empty() {
            let text = "Its interrupts are not told (sysfs has no msi_irqs for it).";
            self.why.left.push(text.to_owned());
        }
        if !self.nic.irqs.is_empty() {
            let text = "irqbalance, where it runs, moves interrupts again: stop it, or ban these.";
            self.why.left.push(text.to_owned());
        }
        let others = self.card.irqs.iter().filter(|irq| irq.queue.is_none());
        let names: BTreeSet<&str> = others.filter_map(|irq| irq.name.as_deref()).collect();
        if !names.is_empty() {
            let names: Vec<String> = names
                .iter()
                .map(|name| name.escape_debug().to_string())
                .collect();
            self.why.left.push(format!(
                "No queue's interrupt, left alone: {}.",
                names.join(", ")
            ));
        }
    }
}

/// The interrupts of queues, each with its queue.
fn queue_irqs(card: &Nic) -> impl Iterator<Item = (&Irq, usize)> {
    let irqs = card.irqs.iter();
    irqs.filter_map(|irq| Some((irq, usize::try_from(irq.queue?).ok()?)))
}
