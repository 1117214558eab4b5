//! A client may leave at any moment, politely or not: everything it had comes back.

use std::sync::Arc;
use std::time::Duration;

use ringgate::shard::Counters;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::leaving::{Client, Leaving, POINTS, Point};
use crate::pki::Leaf;
use crate::upstream::{Manner, Upstream};
use crate::world::{SERVER_NAME, World, ends};

/// How often each point is tried.
const ROUNDS: usize = 100;

fn client(world: &World, leaf: &Leaf) -> Client {
    let config = world.client_config(Some(leaf), &[&rustls::version::TLS13]);
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    Client::new(tls, world.dial())
}

/// What is held while nobody is there.
fn held(world: &World) -> [u64; 5] {
    [
        world.figure(Counters::open),
        world.figure(Counters::handshaking),
        world.figure(Counters::slots_in_use),
        world.figure(Counters::operations_in_flight),
        world.figure(Counters::blocks_lent),
    ]
}

fn everything_comes_back(leaving: Leaving) {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let leaf = world.client();
    world.settled(0);
    let before = held(&world);
    assert_eq!((before[0], before[1], before[4]), (0, 0, 0));
    let mut count = 0;
    for point in POINTS {
        for _ in 0..ROUNDS {
            let mut client = client(&world, &leaf);
            client.go(point);
            client.leave(leaving);
        }
        count += ROUNDS as u64;
        world.reaches(&format!("ends after {point:?}"), count, |counters| {
            if matches!(point, Point::Flooding) {
                // Nobody reads the echo: such a connection lasts as long as a goodbye may take.
                world.clock.advance(Duration::from_millis(10));
            }
            ends(counters)
        });
        world.quiet();
        world.settled(0);
        assert_eq!(held(&world), before, "after {point:?}, {leaving:?}");
    }
    assert_eq!(world.ends(), count, "each ended once");
    assert_eq!(world.figure(Counters::accepted), count);
    // And it still serves.
    let mut client = client(&world, &leaf);
    client.go(Point::EndHeard);
}

#[test]
fn abort_at_every_point_with_a_fin() {
    everything_comes_back(Leaving::Fin);
}

#[test]
fn abort_at_every_point_with_a_reset() {
    everything_comes_back(Leaving::Reset);
}

#[test]
fn abort_at_every_point_half_closed() {
    everything_comes_back(Leaving::HalfClosed);
}
