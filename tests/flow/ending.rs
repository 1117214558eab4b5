//! Ends that time or the operator brings. The clock stands still unless a test moves it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ringgate::close_reason::CloseReason;
use ringgate::shard::Counters;
use ringgate::shard::mailbox::Command;

use crate::upstream::{Manner, Upstream};
use crate::world::{TlsStream, World, finish};

const SECOND: Duration = Duration::from_secs(1);

/// The end of what a plain client is sent.
fn read_to_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = socket.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    bytes
}

fn echo(stream: &mut TlsStream, words: &[u8]) {
    stream.write_all(words).unwrap();
    let mut back = vec![0; words.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, words);
}

fn relaying(world: &World) -> TlsStream {
    let mut stream = world.connect(&world.client());
    echo(&mut stream, b"x");
    stream
}

/// Reads the end of a session: a close_notify, or this is an error.
fn said_goodbye(stream: &mut TlsStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("close_notify");
    assert_eq!(rest, b"");
}

#[test]
fn a_silent_client_is_ended_by_the_handshake_deadline() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "handshake_timeout = \"10s\"");
    let mut clients: Vec<_> = (0..20).map(|_| world.dial()).collect();
    world.reaches("handshakes", 20, Counters::handshaking);
    world.clock.advance(10 * SECOND - Duration::from_millis(1));
    // A client that comes later shows that the shard has seen that time, and has its own deadline.
    let mut stream = relaying(&world);
    assert_eq!(world.figure(Counters::handshaking), 20);
    world.clock.advance(Duration::from_millis(1));
    world.closed(CloseReason::HandshakeTimeout, 20);
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"");
    }
    echo(&mut stream, b"still here");
    finish(stream);
    world.quiet();
    assert_eq!((world.upstream_connects(), upstream.connections()), (1, 1));
}

/// Every byte is progress, and none of it moves the deadline.
#[test]
fn slow_hello() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "handshake_timeout = \"10s\"");
    let mut client = world.dial();
    world.reaches("accepted", 1, Counters::accepted);
    // The header of a record of 100 bytes, then its body, a byte a second.
    for byte in [22, 3, 1, 0, 100, 1, 0, 0, 96] {
        let before = world.figure(Counters::completions);
        client.write_all(&[byte]).unwrap();
        world.eventually("received", |terminator| {
            let mut mailboxes = terminator.mailboxes();
            mailboxes.any(|mailbox| mailbox.counters().completions() > before)
        });
        world.clock.advance(SECOND);
    }
    assert_eq!(world.ends(), 0, "{}", world.reasons());
    world.clock.advance(SECOND);
    world.closed(CloseReason::HandshakeTimeout, 1);
    assert_eq!(read_to_end(&mut client), b"");
    assert_eq!(world.upstream_connects(), 0);
}

/// As a client that answers the server's flight with nothing.
#[test]
fn slow_finished() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "handshake_timeout = \"10s\"");
    let mut stream = world.connect(&world.client());
    let mut hello = Vec::new();
    stream.conn.write_tls(&mut hello).unwrap();
    stream.sock.write_all(&hello).unwrap();
    stream.sock.read_exact(&mut [0; 100]).unwrap();
    world.clock.advance(10 * SECOND);
    world.closed(CloseReason::HandshakeTimeout, 1);
    read_to_end(&mut stream.sock);
    assert_eq!(world.upstream_connects(), 0);
}

#[test]
fn an_idle_connection_ends_with_close_notify() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "idle_timeout = \"60s\"");
    let mut stream = relaying(&world);
    world.settled(1);
    // Traffic moves this deadline.
    for _ in 0..3 {
        world.clock.advance(40 * SECOND);
        echo(&mut stream, b"still here");
        world.settled(1);
    }
    world.clock.advance(60 * SECOND);
    said_goodbye(&mut stream);
    drop(stream);
    world.closed(CloseReason::IdleTimeout, 1);
    assert_eq!(world.ends(), 1);
    upstream.visit();
}

/// With a long idle timeout, what ends a half-closed connection is its own.
#[test]
fn a_half_closed_connection_has_a_deadline_of_its_own() {
    let upstream = Upstream::new(Manner::Hold);
    let world = World::new(
        &upstream.toml(),
        // A ticket would wait for an answer, leave by itself, and move the deadline.
        "idle_timeout = \"168h\"\nhalf_close_timeout = \"30s\"\n[resumption]\ntickets = 0",
    );
    let mut stream = world.connect(&world.client());
    stream.write_all(b"all").unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    // The upstream has seen the end, and keeps its own side open.
    assert_eq!(upstream.visit().bytes, b"all");
    world.clock.advance(30 * SECOND);
    said_goodbye(&mut stream);
    drop(stream);
    world.closed(CloseReason::IdleTimeout, 1);
    upstream.open_gate();
}

/// A client that leaves nothing unread and does not close is cut off a second after our goodbye.
#[test]
fn a_client_that_does_not_leave_is_cut_off() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "idle_timeout = \"60s\"");
    let mut stream = relaying(&world);
    world.settled(1);
    world.clock.advance(60 * SECOND);
    said_goodbye(&mut stream);
    // The FIN behind it: the second has begun.
    assert_eq!(stream.sock.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(world.ends(), 0);
    world.clock.advance(SECOND);
    world.closed(CloseReason::IdleTimeout, 1);
    world.quiet();
}

/// What comes of a connect, if it fails.
fn connect_error(world: &World) -> Option<ErrorKind> {
    let outcome = TcpStream::connect_timeout(&world.address(), SECOND / 10);
    outcome.err().map(|error| error.kind())
}

fn is_refused(world: &World) -> bool {
    connect_error(world) == Some(ErrorKind::ConnectionRefused)
}

fn refuses_new_clients(world: &World) {
    let until = std::time::Instant::now() + crate::world::LIMIT;
    loop {
        match connect_error(world) {
            Some(ErrorKind::ConnectionRefused) => return,
            // The drain has not begun, or goes on for as long as the round trip of a handshake of TCP. The
            // shard gets its time before the clock does.
            _ => {
                std::thread::sleep(SECOND / 200);
                world.clock.advance(SECOND / 100);
            }
        }
        assert!(std::time::Instant::now() < until, "still accepting");
    }
}

#[test]
fn a_drain_lets_what_is_open_finish() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let mut streams: Vec<_> = (0..5).map(|_| relaying(&world)).collect();
    let within = 30 * SECOND;
    world.command(|| Command::Drain { within });
    refuses_new_clients(&world);
    world.clock.advance(20 * SECOND);
    for stream in &mut streams {
        echo(stream, b"still served");
    }
    assert!(!world.terminator(|terminator| terminator.ended()));
    for stream in streams {
        assert_eq!(finish(stream), b"");
    }
    world.closed(CloseReason::Complete, 5);
    world.eventually("the shard ends", |terminator| terminator.ended());
}

#[test]
fn a_drains_deadline_ends_the_rest() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let mut streams: Vec<_> = (0..5).map(|_| relaying(&world)).collect();
    // One that is still shaking hands, and must not hold the drain up either.
    let mut silent = world.dial();
    world.reaches("handshakes", 1, Counters::handshaking);
    world.command(|| Command::Drain {
        within: 30 * SECOND,
    });
    refuses_new_clients(&world);
    // A second drain does not put the first one's end off.
    world.command(|| Command::Drain {
        within: 300 * SECOND,
    });
    world.clock.advance(30 * SECOND);
    for stream in &mut streams {
        said_goodbye(stream);
    }
    drop(streams);
    assert_eq!(read_to_end(&mut silent), b"");
    world.closed(CloseReason::Drained, 6);
    world.eventually("the shard ends", |terminator| terminator.ended());
    for _ in 0..5 {
        assert_eq!(upstream.visit().bytes, b"x");
    }
}

#[test]
fn a_drain_with_nothing_open_ends_after_the_last_call() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    world.command(|| Command::Drain {
        within: 300 * SECOND,
    });
    world.eventually("the shard ends", |terminator| {
        world.clock.advance(SECOND / 10);
        terminator.ended()
    });
    assert!(is_refused(&world));
}

#[test]
fn a_stop_ends_everything_now() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let mut stream = relaying(&world);
    let mut silent = world.dial();
    world.reaches("handshakes", 1, Counters::handshaking);
    world.command(|| Command::Stop);
    said_goodbye(&mut stream);
    assert_eq!(read_to_end(&mut silent), b"");
    drop(stream);
    world.closed(CloseReason::Shutdown, 2);
    world.eventually("the shard ends", |terminator| terminator.ended());
    assert!(is_refused(&world));
}
