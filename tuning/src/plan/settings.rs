//! Steering, memory and kernel settings, and what is only advised.

use super::ground::Ground;
use super::network::Wires;
use super::place::Places;
use crate::ability::SYSCTLS;
use crate::cpu_set::CpuSet;
use crate::layout::{Memory, Shard, Steering, Sysctl};

/// Connections that may wait to be accepted; the terminator asks for as many.
const BACKLOG: u64 = 4096;

/// The ports that a connection to an upstream may take.
const PORTS: (u64, u64) = (1024, 65535);

pub(super) fn steering(
    wanted: Steering,
    places: &Places,
    wires: &Wires,
    problems: &mut Vec<String>,
) -> (Steering, String) {
    let pinned = places.pinned();
    let hash = "the kernel chooses the shard by a hash of addresses and ports (SO_REUSEPORT)";
    let offer = match wires.queue_each && pinned.len() > 1 {
        true => {
            "; each shard has queues of its own here, so \"cpu\" (--steering cpu) would keep a \
                 connection on the core that takes its interrupts"
        }
        false => "",
    };
    match wanted {
        Steering::Hash => (Steering::Hash, format!("{hash}{offer}")),
        Steering::Cpu if pinned.is_empty() => {
            let problem = "--steering cpu needs shards that are pinned: by \"hash\" then";
            problems.push(problem.to_owned());
            (Steering::Hash, hash.to_owned())
        }
        Steering::Cpu => {
            problems.extend(unreached(pinned, wires.reach.as_ref()));
            let why = "each connection goes to the shard that serves the CPU which took its \
                       interrupt (--steering cpu)";
            (Steering::Cpu, why.to_owned())
        }
    }
}

/// Which shards no packet would come to.
fn unreached(pinned: &[(Shard, String)], reach: Option<&CpuSet>) -> Option<String> {
    let Some(reach) = reach else {
        return Some(
            "--steering cpu: on which CPUs packets arrive is not known here, so a shard may get no \
             connection; look at the accepts of each shard"
                .to_owned(),
        );
    };
    let is_idle = |shard: &Shard| shard.serves.intersection(reach).is_empty();
    let idle = pinned
        .iter()
        .map(|(shard, _)| shard)
        .filter(|shard| is_idle(shard));
    let idle: CpuSet = idle.map(|shard| shard.cpu).collect();
    (!idle.is_empty()).then(|| {
        format!(
            "--steering cpu: no packets arrive on the CPUs that the shards on {idle} serve, so they \
             get no connection; steer by \"hash\", or spread interrupts to them"
        )
    })
}

pub(super) fn memory(ground: &Ground<'_>) -> (Memory, String) {
    let why = match ground.has_nodes {
        true => {
            "a shard's memory comes from its own node while there is some; \"bind\" would end it \
             where there is none left"
        }
        false => "one memory node: there is nothing to choose",
    };
    (Memory::Local, why.to_owned())
}

pub(super) fn sysctls(
    ground: &Ground<'_>,
    places: &Places,
    wires: &Wires,
) -> (Vec<Sysctl>, Vec<String>) {
    let [
        somaxconn,
        syn_backlog,
        ports,
        device_backlog,
        numa_balancing,
    ] = SYSCTLS;
    let now = |name: &str| ground.here.abilities.sysctl(name);
    let mut settings = Vec::new();
    let mut at_least = |name: &str, least: u64, what: &str| {
        let number = now(name).and_then(|value| value.parse::<u64>().ok());
        let value = number.map_or(least, |number| number.max(least));
        let is_now = match number {
            None => "what it is now is not known".to_owned(),
            Some(now) if now > least => format!("is {now} already, more than {least}: kept"),
            Some(now) => format!("now {now}"),
        };
        settings.push((
            name.to_owned(),
            value.to_string(),
            format!("{what}; {is_now}"),
        ));
    };
    at_least(
        somaxconn,
        BACKLOG,
        "a shard's listener lets 4096 connections wait to be accepted",
    );
    at_least(
        syn_backlog,
        BACKLOG,
        "counts only where net.ipv4.tcp_syncookies is 0: so many may be half open then; elsewhere the \
         listener's backlog bounds them",
    );
    if wires.spreads {
        let what = "packets that RPS has queued for one CPU before it drops some";
        at_least(device_backlog, BACKLOG, what);
    }
    let range: Option<Vec<u64>> = now(ports).map(|value| {
        value
            .split(' ')
            .map_while(|port| port.parse().ok())
            .collect()
    });
    let (low, high) = match range.as_deref() {
        Some(&[low, high]) => (low.min(PORTS.0), high.max(PORTS.1)),
        _ => PORTS,
    };
    let is_now = now(ports).map_or_else(
        || "what it is now is not known".to_owned(),
        |now| format!("now {now}"),
    );
    settings.push((
        ports.to_owned(),
        format!("{low} {high}"),
        format!(
            "each connection to an upstream takes a port; name those of listeners in \
             net.ipv4.ip_local_reserved_ports; {is_now}"
        ),
    ));
    let nodes: std::collections::BTreeSet<_> = places
        .pinned()
        .iter()
        .map(|(shard, _)| shard.node)
        .collect();
    if let Some(now) = now(numa_balancing).filter(|_| nodes.len() > 1) {
        let why = format!(
            "shards are pinned on {} nodes with memory of their own: nothing to move; now {now}",
            nodes.len()
        );
        settings.push((numa_balancing.to_owned(), "0".to_owned(), why));
    }
    settings
        .into_iter()
        .map(|(name, value, why)| (Sysctl { name, value }, why))
        .unzip()
}

pub(super) fn advice(ground: &Ground<'_>, places: &Places) -> Vec<String> {
    let here = ground.here;
    let mut advice = Vec::new();
    let shards: CpuSet = places.pinned().iter().map(|(shard, _)| shard.cpu).collect();
    let (housekeeping, _) = &places.housekeeping;
    if !shards.is_empty() && !housekeeping.is_empty() {
        advice.push(format!(
            "irqaffinity={housekeeping}: interrupts of devices that are not named above stay off \
             the shards."
        ));
        let missing = shards.difference(&here.abilities.nohz_full);
        if !missing.is_empty() {
            advice.push(format!(
                "nohz_full={shards} rcu_nocbs={shards}: fewer timer ticks on the shards, where they \
                 are alone on their CPUs; measure, each system call costs more."
            ));
        }
    }
    if ground.has_nodes {
        let nodes = here
            .topology
            .nodes
            .iter()
            .filter(|node| !node.cpus.is_empty());
        advice.push(format!(
            "Firmware: this plan is for {} memory nodes; their number (NPS, SNC) is set there.",
            nodes.count()
        ));
    }
    match here.abilities.io_uring_disabled {
        None | Some(0) => {}
        Some(level) => advice.push(format!(
            "kernel.io_uring_disabled is {level}, which is yours to decide: rings need 0, or 1 and \
             membership in kernel.io_uring_group."
        )),
    }
    if advice.is_empty() {
        advice.push("none is advised here.".to_owned());
    }
    advice
}
