//! Changing over to another configuration while clients are being served.

use std::io::{Read, Write};
use std::sync::Arc;

use ringgate::close_reason::CloseReason;
use ringgate::shard::Counters;

use crate::upstream::{Manner, Upstream};
use crate::world::{EVERYONE, FILES, TlsStream, World, finish, load};

/// What the folder's configuration says once `text` is written into it.
pub fn install(world: &World, text: &str) -> Vec<String> {
    let file = world
        .folder
        .write("ringgate.toml", &format!("{text}\n[shards]\ncount = 1\n"));
    let snapshot = Arc::new(load(&file, &world.clock));
    snapshot.look_up_names(None).unwrap();
    world.install(&snapshot).unwrap()
}

pub fn listener(address: &str, upstream: &Upstream) -> String {
    let upstream = upstream.toml();
    format!("[[listener]]\naddress = \"{address}\"\n{FILES}upstream = {upstream}\n{EVERYONE}\n")
}

pub fn echo(stream: &mut TlsStream) {
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

#[test]
fn open_connections_stay_and_new_ones_are_served_anew() {
    let [before, after] = [(); 2].map(|()| Upstream::new(Manner::Echo));
    let world = World::new(&before.toml(), "");
    let address = world.address();
    let leaf = world.client();
    let mut old = world.connect(&leaf);
    echo(&mut old);
    assert!(install(&world, &listener("127.0.0.1:0", &after)).is_empty());
    assert_eq!(world.address(), address, "the socket stays");
    echo(&mut old);
    let mut new = world.connect(&leaf);
    echo(&mut new);
    finish(new);
    assert_eq!((before.connections(), after.connections()), (1, 1));
    finish(old);
    world.closed(CloseReason::Complete, 2);
    world.quiet();
    assert_eq!(world.figure(Counters::accepted), 2);
}

#[test]
fn listeners_come_and_go() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let (first, leaf) = (world.address(), world.client());
    let mut old = world.connect(&leaf);
    echo(&mut old);
    let second = listener("127.0.0.2:0", &upstream);
    install(
        &world,
        &format!("{}{second}", listener("127.0.0.1:0", &upstream)),
    );
    assert_eq!(world.addresses().len(), 2);
    assert_eq!(world.addresses()[0], first);
    let mut stream = world.connect(&leaf);
    stream.sock = std::net::TcpStream::connect(world.addresses()[1]).unwrap();
    echo(&mut stream);
    finish(stream);
    install(&world, &second);
    assert_ne!(world.address(), first);
    let mut stream = world.connect(&leaf);
    echo(&mut stream);
    finish(stream);
    world.reaches("open sockets of listeners that are gone", 1, |_| {
        u64::from(std::net::TcpStream::connect(first).is_err())
    });
}

#[test]
fn limits_change_as_far_as_they_can() {
    let upstream = Upstream::new(Manner::Echo);
    let text = |limits: &str| format!("{}[limits]\n{limits}\n", listener("127.0.0.1:0", &upstream));
    let world = World::with(|_, _, _| {}, &text("connections = 2"));
    let leaf = world.client();
    let mut streams = [world.connect(&leaf), world.connect(&leaf)];
    streams.iter_mut().for_each(echo);
    assert!(install(&world, &text("connections = 1")).is_empty());
    streams.iter_mut().for_each(echo);
    let [first, second] = streams;
    finish(first);
    world.reaches("connections open", 1, Counters::open);
    let mut turned_away = world.connect(&leaf);
    assert!(
        turned_away
            .write_all(b"x")
            .and_then(|()| turned_away.flush())
            .is_err()
    );
    world.closed(CloseReason::TooManyConnections, 1);
    let notes = install(&world, &text("connections = 1000000"));
    assert!(
        notes.len() == 1 && notes[0].contains("limits.connections = 1000000 needs a restart"),
        "{notes:?}"
    );
    let mut third = world.connect(&leaf);
    echo(&mut third);
    finish(third);
    finish(second);
}

#[test]
fn an_address_that_cannot_be_had_changes_nothing() {
    let [before, after] = [(); 2].map(|()| Upstream::new(Manner::Echo));
    let world = World::new(&before.toml(), "");
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let text = format!(
        "{}{}",
        listener("127.0.0.1:0", &after),
        listener(&taken, &after)
    );
    let file = world
        .folder
        .write("other.toml", &format!("{text}\n[shards]\ncount = 1\n"));
    let error = world
        .install(&Arc::new(load(&file, &world.clock)))
        .unwrap_err();
    assert!(error.to_string().contains(&taken), "{error}");
    drop(holder);
    let mut stream = world.connect(&world.client());
    echo(&mut stream);
    finish(stream);
    assert_eq!((before.connections(), after.connections()), (1, 0));
}
