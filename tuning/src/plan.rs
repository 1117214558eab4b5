//! From an inspection to a layout: where the shards of this host should run, and why.

mod ground;
mod network;
mod place;
mod settings;

use crate::inspection::Inspection;
use crate::layout::why::Why;
use crate::layout::{HostShape, Layout, Ring, Shards, Steering};
use ground::Ground;
use network::Wires;
use place::Places;

pub(crate) use ground::slow_cpus;

/// What the user decides; the rest follows from the host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlanOptions {
    /// Physical cores that no shard gets, where there are more than two.
    pub reserve: usize,
    /// One shard for each SMT sibling, instead of for each physical core.
    pub smt: bool,
    pub steering: Steering,
    /// Network cards or bonds; empty stands for every card that is up.
    pub nics: Vec<String>,
    /// Places the cards' interrupts and queues, and gives cores to them where queues are few. Off
    /// for a layout that is run and not applied: interrupts stay where they are then, and a core
    /// that was given to them would be idle.
    pub place_interrupts: bool,
}

impl Default for PlanOptions {
    /// Those of `ringgate-tune plan`.
    fn default() -> Self {
        Self {
            reserve: 1,
            smt: false,
            steering: Steering::Hash,
            nics: Vec::new(),
            place_interrupts: true,
        }
    }
}

/// A layout, and the reason for each of its values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    pub layout: Layout,
    pub why: Why,
    /// What was asked for and cannot be, or will disappoint, each with what was done in its place.
    pub problems: Vec<String>,
}

impl Plan {
    /// Plans the layout of the host that was inspected. There is at least one shard, also where no
    /// CPU is known to be usable.
    pub fn new(here: &Inspection, options: &PlanOptions) -> Self {
        let mut problems = missing_nics(here, &options.nics);
        let ground = Ground::new(here, &options.nics);
        let places = Places::new(&ground, options, &mut problems);
        let wires = Wires::new(&ground, &places, options.place_interrupts);
        let (steering, steering_why) =
            settings::steering(options.steering, &places, &wires, &mut problems);
        let (memory, memory_why) = settings::memory(&ground);
        let (sysctls, sysctls_why) = settings::sysctls(&ground, &places, &wires);
        let advice = settings::advice(&ground, &places);
        let (nics, nics_why) = wires.cards.into_iter().unzip();
        let (shards, shards_why) = match places.shards {
            Ok(pinned) => {
                let (shards, why) = pinned.into_iter().unzip();
                (Shards::Pinned(shards), why)
            }
            Err((count, why)) => (Shards::Unpinned(count), vec![why]),
        };
        let (housekeeping, housekeeping_why) = places.housekeeping;
        let layout = Layout {
            host: HostShape::of(here),
            shards,
            housekeeping,
            memory,
            steering,
            ring: Ring::default(),
            nics,
            sysctls,
        };
        let why = Why {
            host: "another host, or CPUs that came or went, make this layout a misfit".to_owned(),
            shards_rule: places.rule,
            shards: shards_why,
            housekeeping: housekeeping_why,
            memory: memory_why,
            steering: steering_why,
            ring: "SQPOLL, busy polling and NAPI settings stay off until they are measured to be \
                   better here: `ringgate-tune autotune`"
                .to_owned(),
            no_nic: wires.none,
            nics: nics_why,
            sysctls: sysctls_why,
            advice,
        };
        Self {
            layout,
            why,
            problems,
        }
    }

    /// `layout.toml`, with the reasons as comments.
    pub fn to_toml(&self) -> String {
        let mut text = String::from("# Planned by `ringgate-tune plan`; the comments say why.\n");
        for problem in &self.problems {
            text += &format!("# Take note: {problem}\n");
        }
        text + &self.layout.to_toml(&self.why)
    }
}

/// The layout of [`Plan::new`], for who needs no reasons.
pub fn plan(here: &Inspection, options: &PlanOptions) -> Layout {
    Plan::new(here, options).layout
}

/// One sentence for each of `names` that is neither a card nor a bond of this host.
pub fn missing_nics(here: &Inspection, names: &[String]) -> Vec<String> {
    let nics = here.nics.iter().map(|nic| &nic.name);
    let known: Vec<&String> = nics
        .chain(here.bonds.iter().map(|bond| &bond.name))
        .collect();
    let there = match known.is_empty() {
        true => "there is no network card here: plan without `--nic`".to_owned(),
        false => {
            let known: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
            format!("there are {}", known.join(", "))
        }
    };
    let missing = names.iter().filter(|name| !known.contains(name));
    missing
        .map(|name| {
            format!(
                "no network interface is called `{}`; {there}",
                name.escape_debug()
            )
        })
        .collect()
}
