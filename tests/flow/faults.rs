//! Upstreams that are down, slow or rude, and how several share the work.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use ringgate::close_reason::CloseReason;
use ringgate::ring::Target;
use ringgate::shard::Counters;
use rustls::AlertDescription;
use socket2::{Domain, Socket, Type};

use crate::upstream::{Manner, Upstream};
use crate::world::{TlsStream, World, alert, ends, finish};

const SECOND: Duration = Duration::from_secs(1);

/// An address on which nobody listens.
pub fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A listener that answers no more connects: its queue is full.
struct Unanswering {
    socket: Socket,
    _queued: TcpStream,
}

impl Unanswering {
    fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        // Linux queues one connection more than it is asked to, and then drops every SYN.
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self {
            socket,
            _queued: TcpStream::connect(address).unwrap(),
        }
    }

    fn toml(&self) -> String {
        let address = self.socket.local_addr().unwrap().as_socket().unwrap();
        format!("\"{address}\"")
    }
}

pub fn echo(stream: &mut TlsStream, words: &[u8]) {
    stream.write_all(words).unwrap();
    let mut back = vec![0; words.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, words);
}

/// What the report of an only connection says of the upstream that was tried last.
fn check_upstream_report(world: &World, reason: CloseReason) -> Option<std::sync::Arc<Target>> {
    let report = world.ended(reason);
    let identity = report.identity.expect("the client was let in");
    assert_eq!(identity.uris, [crate::world::CLIENT_ID]);
    let service = report.service.expect("the client was let in");
    assert_eq!(service.rule.as_ref(), "everyone");
    service.upstream
}

#[test]
fn upstream_down() {
    let world = World::new(&format!("\"{}\"", nobody()), "");
    let stream = world.connect(&world.client());
    assert_eq!(alert(stream), AlertDescription::InternalError);
    check_upstream_report(&world, CloseReason::UpstreamUnreachable);
    assert_eq!(world.upstream_connects(), 1);
}

#[test]
fn a_missing_unix_socket_is_an_upstream_that_is_down() {
    let world = World::new("\"unix:nothing-here.sock\"", "");
    let stream = world.connect(&world.client());
    assert_eq!(alert(stream), AlertDescription::InternalError);
    check_upstream_report(&world, CloseReason::UpstreamUnreachable);
}

#[test]
fn the_next_upstream_serves_where_one_is_down() {
    let upstream = Upstream::new(Manner::Echo);
    let both = format!("[\"{}\", {}]", nobody(), upstream.toml());
    let world = World::new(&both, "");
    for count in 1..=10 {
        let mut stream = world.connect(&world.client());
        echo(&mut stream, b"served");
        finish(stream);
        world.closed(CloseReason::Complete, count);
    }
    assert_eq!(upstream.connections(), 10);
    assert!(world.upstream_connects() > 10, "the dead one is tried too");
    world.quiet();
    assert_eq!(world.ends(), 10);
}

#[test]
fn all_upstreams_down() {
    let three = format!("[\"{}\", \"{}\", \"{}\"]", nobody(), nobody(), nobody());
    let world = World::new(&three, "");
    let stream = world.connect(&world.client());
    assert_eq!(alert(stream), AlertDescription::InternalError);
    check_upstream_report(&world, CloseReason::UpstreamUnreachable);
    assert_eq!(world.upstream_connects(), 3);
}

#[test]
fn upstream_resets() {
    let upstream = Upstream::new(Manner::Reset);
    let world = World::new(&upstream.toml(), "");
    let stream = world.connect(&world.client());
    assert_eq!(alert(stream), AlertDescription::InternalError);
    let target = check_upstream_report(&world, CloseReason::UpstreamReset);
    assert!(
        matches!(target.as_deref(), Some(Target::Tcp(address)) if *address == upstream.address),
        "{target:?}"
    );
}

#[test]
fn upstream_slow_connect() {
    let slow = Unanswering::new();
    let world = World::new(&slow.toml(), "connect_timeout = \"5s\"");
    let mut stream = world.connect(&world.client());
    stream.write_all(b"x").unwrap();
    world.reaches("connects", 1, Counters::upstream_connects);
    world.clock.advance(5 * SECOND);
    assert_eq!(alert(stream), AlertDescription::InternalError);
    check_upstream_report(&world, CloseReason::UpstreamConnectTimeout);
}

#[test]
fn the_next_upstream_serves_where_one_does_not_answer() {
    let (slow, upstream) = (Unanswering::new(), Upstream::new(Manner::Echo));
    let both = format!("[{}, {}]", slow.toml(), upstream.toml());
    let world = World::new(&both, "connect_timeout = \"5s\"");
    let mut stream = world.connect(&world.client());
    stream.write_all(b"x").unwrap();
    world.reaches("connects", 1, Counters::upstream_connects);
    assert_eq!(upstream.connections(), 0);
    world.clock.advance(5 * SECOND);
    stream.read_exact(&mut [0; 1]).unwrap();
    finish(stream);
    world.closed(CloseReason::Complete, 1);
    assert_eq!(upstream.visit().bytes, b"x");
}

/// A client that leaves while its upstream does not answer takes the connect with it.
#[test]
fn a_client_that_leaves_during_a_connect_leaves_nothing_behind() {
    let slow = Unanswering::new();
    let world = World::new(&slow.toml(), "connect_timeout = \"5s\"");
    world.reaches("slots", 8, Counters::slots_in_use);
    for count in 1..=20 {
        let mut stream = world.connect(&world.client());
        stream.conn.complete_io(&mut stream.sock).unwrap();
        if count % 2 == 0 {
            world.reaches("connects", count, Counters::upstream_connects);
        }
        drop(stream);
        world.reaches("ends", count, ends);
    }
    world.quiet();
    world.settled(0);
    world.reaches("slots", 8, Counters::slots_in_use);
}

/// Serves one after the other and says how many went to each.
fn served_one_by_one(balance: &str, count: usize) -> Vec<usize> {
    let upstreams = [(); 3].map(|()| Upstream::new(Manner::Echo));
    let all = upstreams.each_ref().map(Upstream::toml).join(", ");
    let world = World::new(&format!("[{all}]"), &format!("balance = \"{balance}\""));
    for _ in 0..count {
        let mut stream = world.connect(&world.client());
        echo(&mut stream, b"x");
        finish(stream);
    }
    upstreams.iter().map(Upstream::connections).collect()
}

#[test]
fn round_robin_takes_turns() {
    assert_eq!(served_one_by_one("round-robin", 12), [4, 4, 4]);
}

#[test]
fn least_connections_takes_the_idle_one() {
    let upstreams = [(); 2].map(|()| Upstream::new(Manner::Echo));
    let all = upstreams.each_ref().map(Upstream::toml).join(", ");
    let world = World::new(&format!("[{all}]"), "balance = \"least-connections\"");
    let open = || {
        let mut stream = world.connect(&world.client());
        echo(&mut stream, b"x");
        stream
    };
    // One stays; whatever comes and goes goes to the other.
    let stays = open();
    let busy = upstreams.iter().position(|each| each.connections() == 1);
    let busy = busy.expect("one of them is busy");
    for count in 1..=5 {
        finish(open());
        world.closed(CloseReason::Complete, count);
    }
    assert_eq!(upstreams[busy].connections(), 1);
    assert_eq!(upstreams[1 - busy].connections(), 5);
    finish(stays);
}
