//! What the two sides may do to the stream of records, over real sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use ringgate::close_reason::CloseReason;
use ringgate::shard::Counters;
use ringgate::shard::mailbox::HandshakeKind;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::upstream::{Manner, Upstream};
use crate::world::{SERVER_NAME, TlsStream, World, finish, patterned};

/// A client whose ClientHello is still to be sent.
fn client(world: &World, version: &'static rustls::SupportedProtocolVersion) -> ClientConnection {
    let config = world.client_config(Some(&world.client()), &[version]);
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

fn hello(client: &mut ClientConnection) -> Vec<u8> {
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// Connects, and waits until the terminator has done what there was to do about it.
fn dial_and_settle(world: &World) -> TcpStream {
    let accepted = world.figure(Counters::accepted);
    let socket = world.dial();
    world.reaches("accepted", accepted + 1, Counters::accepted);
    socket
}

/// Sends `bytes` and waits until the terminator has received them, so that what is sent next is
/// another receive.
fn send_alone(world: &World, socket: &mut TcpStream, bytes: &[u8]) {
    let before = world.figure(Counters::completions);
    socket.write_all(bytes).unwrap();
    world.eventually("received", |terminator| {
        let mut mailboxes = terminator.mailboxes();
        mailboxes.any(|mailbox| mailbox.counters().completions() > before)
    });
}

/// An established connection on which one byte has gone both ways.
fn relaying(world: &World) -> TlsStream {
    let mut stream = world.connect(&world.client());
    echo(&mut stream, b"x");
    stream
}

fn echo(stream: &mut TlsStream, words: &[u8]) {
    stream.write_all(words).unwrap();
    let mut back = vec![0; words.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, words);
}

#[test]
fn hello_split_every_byte() {
    let upstream = Upstream::new(Manner::Echo);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let world = World::new(&upstream.toml(), "min_version = \"1.2\"");
        let len = hello(&mut client(&world, version)).len();
        let early = 1..12;
        let cuts: Vec<_> = early.chain((12..len).step_by(7)).chain([len - 1]).collect();
        for &cut in &cuts {
            let mut client = client(&world, version);
            let hello = hello(&mut client);
            let mut socket = dial_and_settle(&world);
            send_alone(&world, &mut socket, &hello[..cut]);
            socket.write_all(&hello[cut..]).unwrap();
            let mut stream = StreamOwned::new(client, socket);
            echo(&mut stream, b"whole");
            assert_eq!(finish(stream), b"", "cut at {cut}");
        }
        world.closed(CloseReason::Complete, cuts.len() as u64);
    }
}

#[test]
fn hello_a_byte_at_a_time() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let mut client = client(&world, &rustls::version::TLS13);
    let hello = hello(&mut client);
    let mut socket = dial_and_settle(&world);
    for byte in &hello {
        send_alone(&world, &mut socket, &[*byte]);
    }
    let mut stream = StreamOwned::new(client, socket);
    echo(&mut stream, b"whole");
    assert_eq!(finish(stream), b"");
}

/// The first bytes behind the handshake come with its last flight.
#[test]
fn data_behind_the_finished_is_delivered() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let mut client = client(&world, &rustls::version::TLS13);
    let mut socket = world.dial();
    socket.write_all(&hello(&mut client)).unwrap();
    while client.is_handshaking() {
        assert_ne!(client.read_tls(&mut socket).unwrap(), 0);
        client.process_new_packets().unwrap();
    }
    let early = patterned(40_000);
    client.writer().write_all(&early).unwrap();
    client.send_close_notify();
    let mut all = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut all).unwrap();
    }
    socket.write_all(&all).unwrap();
    let mut back = Vec::new();
    let mut stream = StreamOwned::new(client, socket);
    stream.read_to_end(&mut back).unwrap();
    assert!(back == early);
    assert!(upstream.visit().bytes == early);
    drop(stream);
    world.closed(CloseReason::Complete, 1);
}

/// The verdict comes with the Certificate, and the end with the Finished behind it.
#[test]
fn a_last_flight_in_two_parts_is_counted_for_what_it_was() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let leaf = world.client();
    let mut config = world.client_config(Some(&leaf), &[&rustls::version::TLS13]);
    config.resumption = Resumption::disabled();
    config.max_fragment_size = Some(128);
    let config = Arc::new(config);
    for cached in 0..3 {
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let mut client = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut socket = dial_and_settle(&world);
        while client.wants_write() {
            client.write_tls(&mut socket).unwrap();
        }
        while client.is_handshaking() {
            assert_ne!(client.read_tls(&mut socket).unwrap(), 0);
            client.process_new_packets().unwrap();
        }
        let mut last = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut last).unwrap();
        }
        let rest = last.split_off(last.len() - 1);
        send_alone(&world, &mut socket, &last);
        socket.write_all(&rest).unwrap();
        let mut stream = StreamOwned::new(client, socket);
        echo(&mut stream, b"whole");
        finish(stream);
        let counted = world.terminator(|terminator| {
            let mailbox = terminator.mailboxes().next().unwrap();
            let (_, counters) = &mailbox.listeners()[0];
            [HandshakeKind::Full, HandshakeKind::Cached].map(|kind| counters.established(kind))
        });
        assert_eq!(counted, [1, cached]);
    }
}

#[test]
fn key_update_once_both_ways() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let mut stream = relaying(&world);
    for round in [&b"one"[..], b"two", b"three"] {
        stream.conn.refresh_traffic_keys().unwrap();
        stream.flush().unwrap();
        // The answer comes though no data asks for a record.
        assert_ne!(stream.conn.read_tls(&mut stream.sock).unwrap(), 0);
        let state = stream.conn.process_new_packets().unwrap();
        assert_eq!(state.plaintext_bytes_to_read(), 0);
        echo(&mut stream, round);
    }
    assert_eq!(finish(stream), b"");
    assert_eq!(upstream.visit().bytes, b"xonetwothree");
    world.closed(CloseReason::Complete, 1);
}

#[test]
fn key_update_flood() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let mut stream = relaying(&world);
    for _ in 0..=ringgate::limits::KEY_UPDATES_PER_WINDOW_MAX {
        stream.conn.refresh_traffic_keys().unwrap();
    }
    let mut updates = Vec::new();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut updates).unwrap();
    }
    stream.sock.write_all(&updates).unwrap();
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(
        crate::world::alert_in(&error),
        rustls::AlertDescription::UnexpectedMessage
    );
    drop(stream);
    world.closed(CloseReason::KeyUpdateFlood, 1);
    assert_eq!(world.ends(), 1);
}

#[test]
fn close_notify_during_handshake() {
    const CLOSE_NOTIFY: [u8; 7] = [21, 3, 3, 0, 2, 1, 0];
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let upstream = Upstream::new(Manner::Echo);
        let world = World::new(&upstream.toml(), "min_version = \"1.2\"");
        let hello = hello(&mut client(&world, version));
        let mut socket = world.dial();
        socket
            .write_all(&[&hello[..], &CLOSE_NOTIFY].concat())
            .unwrap();
        // The server's flight, and then the end: not a wait for the deadline.
        let mut flight = Vec::new();
        socket.read_to_end(&mut flight).unwrap();
        drop(socket);
        world.refused(CloseReason::ClientGoneInHandshake, &upstream);
    }
}

/// What came before a cut is delivered, and the cut is no clean end.
#[test]
fn truncation() {
    let upstream = Upstream::new(Manner::Hold);
    upstream.open_gate();
    let world = World::new(&upstream.toml(), "");
    let mut stream = world.connect(&world.client());
    let sent = patterned(100_000);
    stream.write_all(&sent).unwrap();
    stream.sock.shutdown(Shutdown::Write).unwrap();
    assert!(upstream.visit().bytes == sent);
    world.closed(CloseReason::ClientTruncated, 1);
    world.quiet();
    assert_eq!(world.ends(), 1);
}

/// A cut in the middle of a record delivers the records before it, and not a byte of that one.
#[test]
fn truncation_within_a_record() {
    let upstream = Upstream::new(Manner::Hold);
    upstream.open_gate();
    let world = World::new(&upstream.toml(), "");
    let mut stream = world.connect(&world.client());
    stream.write_all(b"whole").unwrap();
    stream.conn.writer().write_all(&[7; 1000]).unwrap();
    let mut record = Vec::new();
    stream.conn.write_tls(&mut record).unwrap();
    stream.sock.write_all(&record[..record.len() - 1]).unwrap();
    stream.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(upstream.visit().bytes, b"whole");
    world.closed(CloseReason::ClientTruncated, 1);
}

#[test]
fn a_reset_by_the_client() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let stream = relaying(&world);
    let socket = socket2::SockRef::from(&stream.sock);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    world.closed(CloseReason::ClientReset, 1);
    world.quiet();
    assert_eq!(upstream.visit().bytes, b"x");
}

/// A fatal alert from the client ends the connection and is told apart from a cut.
#[test]
fn an_alert_from_the_client() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    // A client that trusts other servers.
    let mut config = world.client_config(Some(&world.client()), &[&rustls::version::TLS13]);
    let stranger = World::new(&upstream.toml(), "");
    let trusting = stranger.client_config(None, &[&rustls::version::TLS13]);
    config.dangerous().set_certificate_verifier(
        rustls::client::WebPkiServerVerifier::builder_with_provider(
            Arc::new({
                let mut roots = rustls::RootCertStore::empty();
                roots.add(stranger.server_ca.certificate.clone()).unwrap();
                roots
            }),
            trusting.crypto_provider().clone(),
        )
        .build()
        .unwrap(),
    );
    let mut stream = world.connect_with(config, SERVER_NAME);
    stream.write_all(b"x").unwrap_err();
    let _ = stream.flush();
    drop(stream);
    let report = world.refused(CloseReason::ClientAlert, &upstream);
    assert!(report.detail.contains("alert"), "{}", report.detail);
}

#[test]
fn half_close_upstream_first() {
    let upstream = Upstream::new(Manner::Say(b"all that I have to say"));
    let world = World::new(&upstream.toml(), "");
    let mut stream = world.connect(&world.client());
    stream.write_all(b"before ").unwrap();
    let mut words = Vec::new();
    // Ends with close_notify, not with a cut: rustls would say so.
    stream.read_to_end(&mut words).unwrap();
    assert_eq!(words, b"all that I have to say");
    let sent = patterned(1 << 20);
    stream.write_all(&sent).unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    let visit = upstream.visit();
    assert!(visit.clean && visit.bytes == [b"before ", &sent[..]].concat());
    drop(stream);
    world.closed(CloseReason::Complete, 1);
    assert_eq!(world.ends(), 1);
}

#[test]
fn half_close_client_first() {
    let upstream = Upstream::new(Manner::Answer);
    let world = World::new(&upstream.toml(), "");
    let mut stream = world.connect(&world.client());
    let sent = patterned(1 << 20);
    stream.write_all(&sent).unwrap();
    assert!(finish(stream) == sent, "the answer changed");
    let visit = upstream.visit();
    assert!(visit.clean && visit.bytes == sent);
    world.closed(CloseReason::Complete, 1);
    assert_eq!(world.ends(), 1);
}
