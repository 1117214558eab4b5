//! Load balancers that say in front of TLS who their clients are.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use ringgate::close_reason::CloseReason;
use ringgate::shard::Counters;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::introduction::{binary, block, line, tlv};
use crate::upstream::{Manner, Upstream, Visit};
use crate::world::{EVERYONE, FILES, SERVER_NAME, World, finish, load};

/// Connections from loopback are a load balancer's.
const FROM_HERE: &str = "accept_proxy = [\"10.0.0.0/8\", \"127.0.0.0/8\"]\n";
const FROM_ELSEWHERE: &str = "accept_proxy = [\"10.0.0.0/8\", \"fd00::/8\"]\n";
const ACCESS: &str = "[log]\naccess = true\n";

fn v4() -> [SocketAddr; 2] {
    ["192.0.2.7:4711", "198.51.100.1:443"].map(|text| text.parse().unwrap())
}

fn v6() -> [SocketAddr; 2] {
    ["[2001:db8::7]:4711", "[2001:db8::1]:443"].map(|text| text.parse().unwrap())
}

fn client(world: &World) -> ClientConnection {
    let config = world.client_config(Some(&world.client()), &[&rustls::version::TLS13]);
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

fn hello(client: &mut ClientConnection) -> Vec<u8> {
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// Speaks, hears the same, and goes.
fn exchange(client: ClientConnection, socket: TcpStream) {
    let mut stream = StreamOwned::new(client, socket);
    stream.write_all(b"words").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"words");
    assert_eq!(finish(stream), b"");
}

/// A whole connection behind `header`; its own address.
fn visit(world: &World, header: &[u8]) -> SocketAddr {
    let mut socket = world.dial();
    let own = socket.local_addr().unwrap();
    socket.write_all(header).unwrap();
    exchange(client(world), socket);
    own
}

fn told(visit: &Visit) -> [Option<SocketAddr>; 2] {
    let header = visit.header.as_ref().expect("a greeting");
    [header.source, header.destination]
}

/// Sends `bytes` and waits until the terminator has received them.
fn send_alone(world: &World, socket: &mut TcpStream, bytes: &[u8]) {
    let before = world.figure(Counters::completions);
    socket.write_all(bytes).unwrap();
    world.eventually("received", |terminator| {
        let mut mailboxes = terminator.mailboxes();
        mailboxes.any(|mailbox| mailbox.counters().completions() > before)
    });
}

/// Whatever comes until the connection is gone.
fn rest(mut socket: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is as good an end as any.
    let _ = socket.read_to_end(&mut rest);
    rest
}

#[test]
fn the_upstream_and_the_log_are_told_of_the_client() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), &format!("{FROM_HERE}{ACCESS}"));
    for (client, local, header) in [v4(), v6()].into_iter().flat_map(|[client, local]| {
        let tlvs = [tlv(0xea, b"\x01vpce-0123456789"), tlv(0x04, &[0; 700])].concat();
        [
            (client, local, line(client, local)),
            (client, local, binary(client, local, &[])),
            (client, local, binary(client, local, &tlvs)),
        ]
    }) {
        let own = visit(&world, &header);
        assert_eq!(told(&upstream.visit()), [Some(client), Some(local)]);
        let report = world.report();
        assert_eq!(report.reason, CloseReason::Complete);
        assert_eq!((report.peer, report.via), (client, Some(own)));
    }
}

#[test]
fn what_names_nobody_leaves_the_addresses() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), &format!("{FROM_HERE}{ACCESS}"));
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 192.0.2.7 192.0.2.1 1 2\r\n".to_vec(),
        block(0x20, 0x00, &[]),
        block(0x20, 0x11, &[1; 12]),
        block(0x21, 0x00, &[]),
    ] {
        let own = visit(&world, &header);
        assert_eq!(told(&upstream.visit()), [Some(own), Some(world.address())]);
        let report = world.report();
        assert_eq!((report.peer, report.via), (own, Some(own)));
    }
}

#[test]
fn a_header_and_a_hello_come_together_or_a_byte_at_a_time() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), FROM_HERE);
    let [source, local] = v4();
    for header in [line(source, local), binary(source, local, &[])] {
        let mut together = client(&world);
        let mut socket = world.dial();
        let whole = [&header[..], &hello(&mut together)].concat();
        socket.write_all(&whole).unwrap();
        exchange(together, socket);
        assert_eq!(told(&upstream.visit())[0], Some(source));

        let mut apart = client(&world);
        let whole = [header, hello(&mut apart)].concat();
        let accepted = world.figure(Counters::accepted);
        let mut socket = world.dial();
        world.reaches("accepted", accepted + 1, Counters::accepted);
        for byte in whole {
            send_alone(&world, &mut socket, &[byte]);
        }
        exchange(apart, socket);
        assert_eq!(told(&upstream.visit())[0], Some(source));
    }
    world.closed(CloseReason::Complete, 4);
}

/// Or anybody could say who he is.
#[test]
fn a_header_from_an_address_that_is_not_listed_is_no_tls() {
    let [source, local] = v4();
    for header in [line(source, local), binary(source, local, &[])] {
        let upstream = Upstream::new(Manner::Echo);
        let world = World::new(&upstream.toml(), FROM_ELSEWHERE);
        let mut client = client(&world);
        let mut socket = world.dial();
        socket
            .write_all(&[header, hello(&mut client)].concat())
            .unwrap();
        assert_eq!(rest(socket), b"");
        let report = world.refused(CloseReason::NotTls, &upstream);
        assert!(report.detail.contains("accept_proxy"), "{report:?}");
        assert!(report.peer.ip().is_loopback() && report.via.is_none());
    }
}

#[test]
fn who_is_not_listed_is_a_client_like_any() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), &format!("{FROM_ELSEWHERE}{ACCESS}"));
    let own = visit(&world, b"");
    assert_eq!(told(&upstream.visit())[0], Some(own));
    let report = world.report();
    assert_eq!((report.peer, report.via), (own, None));
}

#[test]
fn a_load_balancer_must_say_who_its_client_is() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), FROM_HERE);
    let mut socket = world.dial();
    let own = socket.local_addr().unwrap();
    socket.write_all(&hello(&mut client(&world))).unwrap();
    assert_eq!(rest(socket), b"");
    let report = world.refused(CloseReason::ProxyHeaderInvalid, &upstream);
    assert_eq!((report.peer, report.via), (own, Some(own)));
    for part in ["no PROXY header", "TLS", "accept_proxy"] {
        assert!(report.detail.contains(part), "{part} in {report:?}");
    }
}

#[test]
fn headers_that_cannot_be_accepted() {
    let [source, local] = v4();
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), FROM_HERE);
    let mut count = 0;
    for (header, part) in [
        (b"\xff\xff".to_vec(), "something else (0xff)"),
        (b"PROXY TCP4 nobody nobody 1 2\r\n".to_vec(), "PROXY v1"),
        (b"PROXY UNKNOWN ".repeat(9), "more than 107 bytes"),
        (block(0x31, 0x11, &[1; 12]), "version 3"),
        (block(0x21, 0x33, &[0; 216]), "family 0x33"),
        (block(0x21, 0x10, &[1; 12]), "family 0x10"),
        (binary(source, local, &tlv(3, &[0; 4])), "checksum"),
        (binary(source, local, &[3, 0, 9]), "TLV"),
        (block(0x20, 0, &[0; 4081]), "4097 bytes: at most 4096"),
    ] {
        let mut socket = world.dial();
        socket.write_all(&header).unwrap();
        assert_eq!(rest(socket), b"", "{part}");
        count += 1;
        world.closed(CloseReason::ProxyHeaderInvalid, count);
        let report = world.report();
        assert!(report.detail.contains(part), "{part} in {report:?}");
    }
    world.quiet();
    assert_eq!(world.ends(), count);
    assert_eq!((world.upstream_connects(), upstream.connections()), (0, 0));
}

#[test]
fn slow_header() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(
        &upstream.toml(),
        &format!("{FROM_HERE}handshake_timeout = \"10s\""),
    );
    let mut socket = world.dial();
    world.reaches("accepted", 1, Counters::accepted);
    for byte in b"PROXY TCP" {
        send_alone(&world, &mut socket, &[*byte]);
        world.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(world.ends(), 0, "{}", world.reasons());
    world.clock.advance(Duration::from_secs(1));
    world.closed(CloseReason::HandshakeTimeout, 1);
    assert_eq!(rest(socket), b"");
    assert_eq!(world.upstream_connects(), 0);
}

/// Load balancers open connections, say that they are their own, or nothing, and close them.
#[test]
fn health_checks_are_no_clients() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), FROM_HERE);
    for count in 1..=3 {
        drop(world.dial());
        let mut socket = world.dial();
        socket.write_all(&block(0x20, 0x00, &[])).unwrap();
        drop(socket);
        world.closed(CloseReason::ClientGoneInHandshake, 2 * count);
    }
    world.quiet();
    assert_eq!(world.ends(), 6);
    assert!(world.report_if_any().is_none(), "a line in the log");
}

/// Or one of them, who says nothing more, would keep all the others out.
#[test]
fn clients_behind_a_balancer_are_sources_of_their_own() {
    let upstream = Upstream::new(Manner::Echo);
    let limits = "[limits]\nhandshakes = 8\nhandshakes_per_source = 2\n";
    let world = World::new(&upstream.toml(), &format!("{FROM_HERE}{limits}"));
    let local = v4()[1];
    let from = |last: u8| line(SocketAddr::from(([192, 0, 2, last], 4711)), local);
    let introduced = |last: u8| {
        let mut socket = world.dial();
        send_alone(&world, &mut socket, &from(last));
        socket
    };
    let mut held: Vec<_> = (0..2).map(|_| introduced(7)).collect();
    world.reaches("handshakes", 2, Counters::handshaking);
    for count in 1..=2 {
        assert_eq!(rest(introduced(7)), b"");
        world.closed(CloseReason::HandshakesPerSource, count);
    }
    // Others notice nothing, and nor do those of whom nothing is known yet.
    visit(&world, &from(8));
    let _unknown: Vec<_> = (0..3).map(|_| world.dial()).collect();
    world.reaches("handshakes", 5, Counters::handshaking);
    visit(&world, &from(8));
    // Once it has fewer, it may have another.
    drop(held.pop());
    world.reaches("handshakes", 4, Counters::handshaking);
    held.push(introduced(7));
    world.reaches("handshakes", 5, Counters::handshaking);
    // Header and first message in one; who says nothing gives way.
    world.clock.advance(Duration::from_millis(10));
    let mut client = client(&world);
    let mut socket = world.dial();
    let whole = [from(7), hello(&mut client)].concat();
    socket.write_all(&whole).unwrap();
    exchange(client, socket);
    world.closed(CloseReason::GaveWay, 1);
    world.closed(CloseReason::HandshakesPerSource, 2);
    assert_eq!(rest(held.remove(0)), b"", "the oldest");
}

#[test]
fn a_reload_changes_who_introduces() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let [source, local] = v4();
    let install = |more: &str| {
        let toml = upstream.toml();
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n{FILES}upstream = {toml}\n{EVERYONE}\n\
             {more}\n[shards]\ncount = 1\n"
        );
        let file = world.folder.write("ringgate.toml", &text);
        let notes = world.install(&Arc::new(load(&file, &world.clock)));
        assert!(notes.unwrap().is_empty(), "a restart");
    };
    let own = visit(&world, b"");
    assert_eq!(told(&upstream.visit())[0], Some(own));
    install(FROM_HERE);
    visit(&world, &line(source, local));
    assert_eq!(told(&upstream.visit())[0], Some(source));
    install(FROM_ELSEWHERE);
    let own = visit(&world, b"");
    assert_eq!(told(&upstream.visit())[0], Some(own));
    world.closed(CloseReason::Complete, 3);
}

#[test]
fn networks_of_ipv6_count() {
    let upstream = Upstream::new(Manner::Echo);
    let listener = |networks: &str| {
        let toml = upstream.toml();
        format!(
            "[[listener]]\naddress = \"[::1]:0\"\n{FILES}upstream = {toml}\n{EVERYONE}\n\
             accept_proxy = {networks}\n"
        )
    };
    let [source, local] = v4();
    let world = World::with(|_, _, _| {}, &listener("\"::1\""));
    visit(&world, &line(source, local));
    assert_eq!(told(&upstream.visit())[0], Some(source));
    let world = World::with(|_, _, _| {}, &listener("[\"::2\", \"0.0.0.0/0\"]"));
    let own = visit(&world, b"");
    assert_eq!(told(&upstream.visit())[0], Some(own));
}
