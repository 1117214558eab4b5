//! More clients than may come: who is turned away, how, and who is served all the same.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use ringgate::close_reason::CloseReason;
use ringgate::shard::Counters;
use rustls::AlertDescription;
use socket2::{Domain, Socket, Type};

use crate::pki;
use crate::reload::{echo, install, listener};
use crate::upstream::{Manner, Upstream};
use crate::world::{LIMIT, TlsStream, World, alert, ends, finish};

const NOTHING: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);

/// A connection from this address of the host.
fn dial_from(world: &World, source: [u8; 4]) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let source = SocketAddr::from((Ipv4Addr::from(source), 0));
    socket.bind(&source.into()).unwrap();
    socket.connect(&world.address().into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// A client that says nothing, and has been taken on.
fn silent(world: &World, source: [u8; 4]) -> TcpStream {
    let before = world.figure(Counters::accepted);
    let socket = dial_from(world, source);
    world.reaches("accepted", before + 1, Counters::accepted);
    socket
}

/// Checks that the peer ended the connection with a reset, and said nothing before.
#[track_caller]
fn assert_reset(socket: &mut TcpStream) {
    let heard = socket.read(&mut [0; 1]);
    assert_eq!(heard.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// A client is served as ever.
#[track_caller]
fn served(world: &World) {
    let mut stream = world.connect(&world.client());
    echo(&mut stream);
    finish(stream);
}

fn world(upstream: &Upstream, more: &str) -> World {
    let text = text(upstream, more);
    World::with(|_, _, _| {}, &text)
}

/// A listener with these lines, and tables behind them.
fn text(upstream: &Upstream, more: &str) -> String {
    format!("{}{more}\n", listener("127.0.0.1:0", upstream))
}

#[test]
fn one_source_has_only_its_part_of_the_handshakes() {
    const SOURCE: [u8; 4] = [127, 0, 0, 2];
    let upstream = Upstream::new(Manner::Echo);
    let limits = |per_source: usize, prefix: usize| {
        let more = format!(
            "[limits]\nhandshakes = 8\nhandshakes_per_source = {per_source}\n\
             source_prefix_v4 = {prefix}"
        );
        text(&upstream, &more)
    };
    let world = World::with(|_, _, _| {}, &limits(3, 32));
    let mut held: Vec<_> = (0..3).map(|_| silent(&world, SOURCE)).collect();
    for count in 1..=3 {
        let mut refused = silent(&world, SOURCE);
        world.closed(CloseReason::HandshakesPerSource, count);
        assert_reset(&mut refused);
    }
    world.reaches("handshakes", 3, Counters::handshaking);
    // Others notice nothing, and nor does it once it has fewer.
    served(&world);
    drop(held.pop());
    world.reaches("handshakes", 2, Counters::handshaking);
    held.push(silent(&world, SOURCE));
    world.reaches("handshakes", 3, Counters::handshaking);
    assert!(world.report_if_any().is_none(), "who is shed is counted");

    install(&world, &limits(4, 32));
    held.push(silent(&world, SOURCE));
    assert_reset(&mut silent(&world, SOURCE));
    install(&world, &limits(1, 8));
    // Its neighbours are the same source now.
    let _first = silent(&world, [127, 0, 0, 3]);
    assert_reset(&mut silent(&world, [127, 0, 0, 4]));
    world.closed(CloseReason::HandshakesPerSource, 5);
    install(&world, &limits(8, 32));
    served(&world);
}

#[test]
fn silent_peers_of_many_sources_keep_nobody_out() {
    const PEERS: u8 = 40;
    let upstream = Upstream::new(Manner::Echo);
    let world = world(&upstream, "[limits]\nhandshakes = 8");
    let mut peers: Vec<_> = (2..PEERS + 2)
        .map(|last| {
            world.clock.advance(NOTHING);
            silent(&world, [127, 0, 0, last])
        })
        .collect();
    let gave_way = u64::from(PEERS) - 8;
    world.closed(CloseReason::GaveWay, gave_way);
    world.reaches("handshakes", 8, Counters::handshaking);
    // The oldest went.
    for peer in &mut peers[..usize::try_from(gave_way).unwrap()] {
        assert_reset(peer);
    }
    world.clock.advance(NOTHING);
    // The first has the place of one of them, and the others that place.
    (0..4).for_each(|_| served(&world));
    world.closed(CloseReason::GaveWay, gave_way + 1);
    // Where nobody has had time to speak yet it is the newcomer that is reset.
    let _newer: Vec<_> = (2..10)
        .map(|last| silent(&world, [127, 0, 1, last]))
        .collect();
    assert_reset(&mut silent(&world, [127, 0, 1, 10]));
    world.closed(CloseReason::TooManyConnections, 1);
    world.closed(CloseReason::GaveWay, gave_way + 8);
    assert!(world.report_if_any().is_none(), "who is shed is counted");
}

#[test]
fn who_does_not_go_on_gives_way_too() {
    let upstream = Upstream::new(Manner::Echo);
    let world = world(&upstream, "[limits]\nhandshakes = 1");
    // The beginning of a first message.
    let mut begun = silent(&world, [127, 0, 0, 2]);
    let before = world.figure(Counters::completions);
    begun.write_all(&[22, 3, 1]).unwrap();
    world.eventually("that it was received", |terminator| {
        let mut mailboxes = terminator.mailboxes();
        mailboxes.all(|mailbox| mailbox.counters().completions() > before)
    });
    world.clock.advance(NOTHING);
    let mut answered = world.connect(&world.client());
    answered.conn.write_tls(&mut answered.sock).unwrap();
    answered.sock.read_exact(&mut [0; 1]).unwrap();
    assert_reset(&mut begun);
    world.closed(CloseReason::GaveWay, 1);
    // That one was answered, which cost something: it has a second for its part.
    world.clock.advance(SECOND - Duration::from_nanos(1));
    assert_reset(&mut silent(&world, [127, 0, 0, 2]));
    world.closed(CloseReason::TooManyConnections, 1);
    world.clock.advance(Duration::from_nanos(1));
    served(&world);
    world.closed(CloseReason::GaveWay, 2);
}

#[test]
fn the_second_for_an_answer_begins_with_ours() {
    let upstream = Upstream::new(Manner::Echo);
    let world = world(&upstream, "[limits]\nhandshakes = 1");
    let mut answered = world.connect(&world.client());
    world.reaches("accepted", 1, Counters::accepted);
    world.clock.advance(SECOND - NOTHING);
    answered.conn.write_tls(&mut answered.sock).unwrap();
    answered.sock.read_exact(&mut [0; 1]).unwrap();
    world.clock.advance(SECOND - Duration::from_nanos(1));
    assert_reset(&mut silent(&world, [127, 0, 0, 2]));
    world.closed(CloseReason::TooManyConnections, 1);
    world.clock.advance(Duration::from_nanos(1));
    served(&world);
    world.closed(CloseReason::GaveWay, 1);
}

#[test]
fn silent_peers_of_a_full_source_give_way_to_others_of_it() {
    const SOURCE: [u8; 4] = [127, 0, 0, 1];
    let upstream = Upstream::new(Manner::Echo);
    let limits = "[limits]\nhandshakes = 8\nhandshakes_per_source = 3";
    let world = world(&upstream, limits);
    let mut elsewhere = silent(&world, [127, 0, 0, 2]);
    let mut held: Vec<_> = (0..3).map(|_| silent(&world, SOURCE)).collect();
    assert_reset(&mut silent(&world, SOURCE));
    world.closed(CloseReason::HandshakesPerSource, 1);
    world.clock.advance(NOTHING);
    (0..4).for_each(|_| served(&world));
    world.closed(CloseReason::GaveWay, 1);
    assert_reset(&mut held[0]);
    held.push(silent(&world, SOURCE));
    // It is not the source's own.
    elsewhere.set_nonblocking(true).unwrap();
    let heard = elsewhere.read(&mut [0; 1]);
    assert_eq!(heard.unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn who_lingers_after_a_refusal_gives_way_first() {
    const CONNECTIONS: usize = 3;
    let upstream = Upstream::new(Manner::Echo);
    let world = world(&upstream, &format!("[limits]\nconnections = {CONNECTIONS}"));
    let mut refused: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut socket = dial_from(&world, [127, 0, 0, 2]);
            // A ClientHello without anything in it.
            socket.write_all(&[22, 3, 1, 0, 4, 1, 0, 0, 0]).unwrap();
            socket.read_exact(&mut [0; 7]).unwrap();
            socket
        })
        .collect();
    world.reaches("handshakes", 0, Counters::handshaking);
    assert_eq!(world.figure(Counters::open), CONNECTIONS as u64);
    served(&world);
    world.reaches("ended", 2, ends);
    assert_eq!(world.report().reason, CloseReason::ProtocolViolation);
    // The oldest went, with its own reason.
    let end = refused[0].read(&mut [0; 1]);
    assert!(matches!(end, Ok(0)) || end.unwrap_err().kind() == ErrorKind::ConnectionReset);
    world.closed(CloseReason::GaveWay, 0);
}

#[test]
fn a_listener_takes_no_more_than_its_rate() {
    let upstream = Upstream::new(Manner::Echo);
    let world = world(&upstream, "rate = 2\nburst = 3");
    let refused = |count| {
        let mut socket = silent(&world, [127, 0, 0, 1]);
        world.closed(CloseReason::RateLimited, count);
        assert_reset(&mut socket);
    };
    (0..3).for_each(|_| served(&world));
    refused(1);
    world.clock.advance(SECOND / 2);
    served(&world);
    refused(2);
    // What is used up stays used up, whatever the rate is now.
    install(&world, &text(&upstream, "rate = 1\nburst = 3"));
    refused(3);
    world.clock.advance(SECOND / 2);
    refused(4);
    world.clock.advance(SECOND / 2);
    served(&world);
    refused(5);
    install(&world, &text(&upstream, ""));
    (0..9).for_each(|_| served(&world));
    assert!(world.report_if_any().is_none(), "who is shed is counted");
}

#[test]
fn nobody_gives_way_to_one_beyond_the_rate() {
    const SOURCE: [u8; 4] = [127, 0, 0, 2];
    let upstream = Upstream::new(Manner::Echo);
    let limits = "rate = 1\nburst = 2\n[limits]\nhandshakes = 2\nhandshakes_per_source = 1";
    let world = world(&upstream, limits);
    let mut first = silent(&world, SOURCE);
    world.clock.advance(NOTHING);
    let mut second = silent(&world, SOURCE);
    world.closed(CloseReason::GaveWay, 1);
    assert_reset(&mut first);
    world.clock.advance(NOTHING);
    for count in 1..=3 {
        assert_reset(&mut silent(&world, SOURCE));
        world.closed(CloseReason::RateLimited, count);
    }
    world.closed(CloseReason::GaveWay, 1);
    second.set_nonblocking(true).unwrap();
    let heard = second.read(&mut [0; 1]);
    assert_eq!(heard.unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn who_finds_no_place_uses_nothing_of_the_rate_up() {
    let upstream = Upstream::new(Manner::Echo);
    let world = world(&upstream, "rate = 1\nburst = 2\n[limits]\nhandshakes = 1");
    let _silent = silent(&world, [127, 0, 0, 2]);
    for count in 1..=3 {
        assert_reset(&mut silent(&world, [127, 0, 0, 3]));
        world.closed(CloseReason::TooManyConnections, count);
    }
    world.clock.advance(NOTHING);
    served(&world);
    world.closed(CloseReason::RateLimited, 0);
}

#[test]
fn shards_share_a_rate() {
    const BURST: u64 = 20;
    let upstream = Upstream::new(Manner::Echo);
    let more = format!("rate = 1\nburst = {BURST}\n[shards]\ncount = 2");
    let world = World::start(|_, _, _| {}, &text(&upstream, &more)).unwrap();
    let sockets: Vec<_> = (0..80).map(|_| silent(&world, [127, 0, 0, 1])).collect();
    let refused = |counters: &Counters| counters.closed(CloseReason::RateLimited);
    world.reaches("that came", sockets.len() as u64, |counters| {
        counters.handshaking() + refused(counters)
    });
    let taken = sockets.len() as u64 - world.figure(refused);
    // A shard may by chance get fewer than its part.
    assert!((BURST / 2..=BURST).contains(&taken), "{taken}");
}

#[test]
fn a_client_connects_no_faster_than_its_identity_may() {
    let upstream = Upstream::new(Manner::Echo);
    let limit = |lines: &str| text(&upstream, lines);
    let world = World::with(
        |_, _, _| {},
        &limit("identity_rate = 1\nidentity_burst = 2"),
    );
    let connect = |leaf: &pki::Leaf| {
        let mut stream = world.connect(leaf);
        echo(&mut stream);
        finish(stream);
    };
    let refused = |leaf: &pki::Leaf, count| {
        let before = world.upstream_connects();
        assert_eq!(alert(world.connect(leaf)), AlertDescription::InternalError);
        world.closed(CloseReason::IdentityRateLimited, count);
        assert_eq!(world.upstream_connects(), before, "no upstream connection");
        world.report()
    };
    let leaf = world.client();
    (0..2).for_each(|_| connect(&leaf));
    let report = refused(&leaf, 1);
    assert_eq!(report.reason, CloseReason::IdentityRateLimited);
    assert!(report.detail.contains("1/s, 2 at once"), "{report:?}");
    let identity = report.identity.expect("it was let in");
    assert_eq!(identity.spiffe_id(), Some(crate::world::CLIENT_ID));
    // Another certificate of the same client changes nothing; another client is another matter.
    refused(&world.client(), 2);
    let other = pki::uri("spiffe://example.org/other");
    let other = world
        .client_ca
        .issue(pki::client_with("other", vec![other]));
    (0..2).for_each(|_| connect(&other));
    refused(&other, 3);
    // Without an ID it is the certificate that counts.
    for count in [4, 5] {
        let nameless = world.client_ca.issue(pki::client_with("client", vec![]));
        (0..2).for_each(|_| connect(&nameless));
        refused(&nameless, count);
    }
    install(&world, &limit("identity_rate = 2\nidentity_burst = 9"));
    world.clock.advance(SECOND / 2);
    connect(&leaf);
    install(&world, &limit("identity_rate = 1\nidentity_burst = 1"));
    refused(&leaf, 6);
    world.clock.advance(SECOND);
    connect(&leaf);
    refused(&leaf, 7);
    let own = "identity_rate = 1\nserver_names = [\"x.y\"]\n[[listener.route]]\nname = \"free\"\n\
               server_names = [\"app.example\"]\nidentity_rate = 0";
    install(&world, &limit(own));
    (0..9).for_each(|_| connect(&leaf));
}

fn relaying(world: &World) -> TlsStream {
    let mut stream = world.connect(&world.client());
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    stream
}

/// The terminator closes a new connection without a word.
fn turned_away(world: &World) {
    let before = world.figure(|counters| counters.closed(CloseReason::TooManyConnections));
    let mut socket = world.dial();
    world.closed(CloseReason::TooManyConnections, before + 1);
    let mut said = Vec::new();
    // A reset is as good an end as any.
    let _ = socket.read_to_end(&mut said);
    assert_eq!(said, b"");
}

#[test]
fn no_more_connections_than_allowed_and_again_when_some_have_left() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "[limits]\nconnections = 3");
    let mut open: Vec<_> = (0..3).map(|_| relaying(&world)).collect();
    for round in 0..3 {
        for _ in 0..10 {
            turned_away(&world);
        }
        finish(open.remove(0));
        world.reaches("open", 2, Counters::open);
        open.push(relaying(&world));
        assert_eq!(world.figure(Counters::open), 3, "round {round}");
    }
    for stream in &mut open {
        stream.write_all(b"y").unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
    }
    assert_eq!(world.figure(Counters::accepted), 6 + 30);
    assert_eq!((world.upstream_connects(), upstream.connections()), (6, 6));
}

#[test]
fn no_more_handshakes_than_allowed_and_again_when_some_are_over() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(
        &upstream.toml(),
        "handshake_timeout = \"10s\"\n[limits]\nconnections = 100\nhandshakes = 4",
    );
    // Those that are let in count no more.
    let mut open: Vec<_> = (0..8).map(|_| relaying(&world)).collect();
    let mut silent: Vec<_> = (0..4).map(|_| world.dial()).collect();
    world.reaches("handshakes", 4, Counters::handshaking);
    for _ in 0..10 {
        turned_away(&world);
    }
    // One leaves, and the rest is ended by the deadline.
    drop(silent.pop());
    world.reaches("handshakes", 3, Counters::handshaking);
    open.push(relaying(&world));
    world.clock.advance(Duration::from_secs(10));
    world.closed(CloseReason::HandshakeTimeout, 3);
    world.reaches("handshakes", 0, Counters::handshaking);
    for _ in 0..4 {
        open.push(relaying(&world));
    }
    world.closed(CloseReason::TooManyConnections, 10);
    assert_eq!(
        (world.upstream_connects(), upstream.connections()),
        (13, 13)
    );
}
