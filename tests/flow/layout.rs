//! Shards that run where a layout says.

use std::io::{Read, Write};

use ringgate::config::ShardPlan;
use ringgate::layout::{Layout, Memory, Placement, Shard, Shards, Steering};
use ringgate::shard::Counters;
use ringgate::terminator::StartError;
use ringgate_tune::cpu_set::CpuSet;

use crate::upstream::{Manner, Upstream};
use crate::world::{EVERYONE, FILES, World, finish};

/// The layout that is planned for this host, with these shards.
fn layout(shards: Shards) -> Layout {
    let planned = Placement::planned(&ShardPlan::Planned).unwrap().layout;
    Layout { shards, ..planned }
}

fn cpus() -> Vec<u32> {
    let cores = core_affinity::get_core_ids().unwrap();
    let ids = cores
        .into_iter()
        .map(|core| u32::try_from(core.id).unwrap());
    ids.collect()
}

fn on(cpu: u32) -> Shard {
    Shard {
        cpu,
        node: None,
        serves: CpuSet::default(),
        listeners: None,
    }
}

/// Listeners of these names, all to one upstream.
fn listeners(names: &[&str], upstream: &Upstream) -> String {
    let one = |name: &&str| {
        format!(
            "[[listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:0\"\n{FILES}upstream = {}\n\
             {EVERYONE}\n",
            upstream.toml()
        )
    };
    names.iter().map(one).collect()
}

fn start(config: &str, layout: &Layout) -> Result<World, StartError> {
    World::start_on(|_, _, _| {}, config, Some(layout))
}

/// Connections that each shard has accepted.
fn accepted(world: &World) -> Vec<u64> {
    world.terminator(|terminator| {
        let mailboxes = terminator.mailboxes();
        mailboxes
            .map(|mailbox| mailbox.counters().accepted())
            .collect()
    })
}

/// One connection to the first listener that sends a byte and gets it back.
fn echo(world: &World) {
    let mut stream = world.connect(&world.client());
    stream.write_all(b"x").unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
    finish(stream);
}

#[test]
fn connections_are_steered_to_the_shard_that_serves_the_cpu_they_came_by() {
    const CONNECTIONS: u64 = 8;
    let upstream = Upstream::new(Manner::Echo);
    let cpu = cpus()[0];
    // On loopback the CPU of the client takes the packets; every CPU is the second shard's.
    let everything = cpus().into_iter().collect();
    let nothing = CpuSet::from_iter([u32::from(u16::MAX)]);
    let place = |serves| Shard { serves, ..on(cpu) };
    let mut layout = layout(Shards::Pinned(vec![place(nothing), place(everything)]));
    layout.steering = Steering::Cpu;
    let world = start(&listeners(&["front"], &upstream), &layout).unwrap();
    (0..CONNECTIONS).for_each(|_| echo(&world));
    assert_eq!(accepted(&world), [0, CONNECTIONS]);
}

#[test]
fn a_shard_accepts_for_the_listeners_that_the_layout_gives_it() {
    const CONNECTIONS: u64 = 8;
    let upstream = Upstream::new(Manner::Echo);
    let cpu = cpus()[0];
    let place = |names: &[&str]| Shard {
        listeners: Some(names.iter().map(|&name| name.to_owned()).collect()),
        ..on(cpu)
    };
    let shards = Shards::Pinned(vec![place(&["back"]), place(&["front", "back"])]);
    let world = start(&listeners(&["front", "back"], &upstream), &layout(shards)).unwrap();
    (0..CONNECTIONS).for_each(|_| echo(&world));
    assert_eq!(accepted(&world), [0, CONNECTIONS]);
}

#[test]
fn listeners_that_a_layout_does_not_place_keep_it_from_starting() {
    let upstream = Upstream::new(Manner::Echo);
    let config = listeners(&["front", "back"], &upstream);
    for (names, expected) in [
        (&["front"][..], "gives the listener `back` to no shard"),
        (
            &["front", "bakc"],
            "listener `bakc`, and the configuration has front, back",
        ),
    ] {
        let listeners = Some(names.iter().map(|&name| name.to_owned()).collect());
        let shard = Shard {
            listeners,
            ..on(cpus()[0])
        };
        let error = start(&config, &layout(Shards::Pinned(vec![shard])));
        let text = error.err().expect("no start").to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_kernel_thread_may_take_the_submissions() {
    let upstream = Upstream::new(Manner::Echo);
    let mut layout = layout(Shards::Pinned(vec![on(cpus()[0])]));
    layout.ring.sqpoll_ms = Some(1);
    let world = start(&listeners(&["front"], &upstream), &layout).unwrap();
    // Also after a pause in which that thread went to sleep.
    for _ in 0..3 {
        echo(&world);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(world.figure(Counters::accepted), 3);
}

#[test]
fn a_wait_may_look_at_the_network_card_itself() {
    let upstream = Upstream::new(Manner::Echo);
    let mut layout = layout(Shards::Unpinned(1));
    layout.ring.busy_poll_us = Some(50);
    layout.ring.entries = Some(256);
    match start(&listeners(&["front"], &upstream), &layout) {
        Ok(world) => echo(&world),
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.contains("busy polling") && text.contains("6.9"),
                "{text}"
            );
            println!("SKIPPED: {text}");
        }
    }
}

#[test]
fn memory_of_a_node_that_is_not_there_keeps_it_from_starting() {
    let upstream = Upstream::new(Manner::Echo);
    let shard = Shard {
        node: Some(1023),
        ..on(cpus()[0])
    };
    let mut layout = layout(Shards::Pinned(vec![shard]));
    layout.memory = Memory::Bind;
    let error = start(&listeners(&["front"], &upstream), &layout);
    let text = error.err().expect("no start").to_string();
    assert!(text.contains("node 1023 must be there"), "{text}");
}

#[test]
fn a_cpu_that_is_not_there_keeps_it_from_starting() {
    let upstream = Upstream::new(Manner::Echo);
    let layout = layout(Shards::Pinned(vec![on(1020)]));
    let error = start(&listeners(&["front"], &upstream), &layout);
    let text = error.err().expect("no start").to_string();
    assert!(text.contains("bring CPU 1020 online"), "{text}");
}
