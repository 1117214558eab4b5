//! Peers that take nothing for a while: what is held for them stays bounded, nobody else notices,
//! and not a byte is lost.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::admin::{ADMIN, metric};
use crate::gate::{Client, FRONT, Gate, LIMIT, Stream, close};
use crate::load::Load;
use crate::plan::Plan;
use crate::process;

/// Connections that are stuck.
const STUCK: usize = 4;

/// How long nothing moves on a connection that is stuck.
const STILL: Duration = Duration::from_millis(200);

/// What the server may hold for all of them, and how much that may change while they are stuck.
const HELD_MAX: usize = 8 << 20;
const FLAT: usize = 2 << 20;

/// A stream's bytes are these over and over; a prime number of them, so that no shift goes unseen.
fn pattern() -> Vec<u8> {
    const LEN: u32 = 65_521;
    let bytes = (0..LEN).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[1]);
    bytes.collect()
}

/// Writes until nobody takes anything any more; how many bytes that were.
fn write_until_stuck(stream: &mut Stream) -> usize {
    let pattern = pattern();
    let (mut written, mut moved) = (0, Instant::now());
    let until = moved + LIMIT;
    stream.sock.set_nonblocking(true).unwrap();
    while moved.elapsed() < STILL {
        assert!(Instant::now() < until, "it takes everything");
        match stream.write(&pattern[written % pattern.len()..]) {
            Ok(len) => (written, moved) = (written + len, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{error}"),
        }
    }
    stream.sock.set_nonblocking(false).unwrap();
    written
}

/// Reads `len` bytes, which must be the pattern's.
fn read_pattern(reader: &mut impl Read, len: usize) {
    let (pattern, mut buffer) = (pattern(), vec![0; 64 * 1024]);
    let mut at = 0;
    while at < len {
        let most = buffer.len().min(len - at);
        let read = reader.read(&mut buffer[..most]).unwrap();
        assert_ne!(read, 0, "{} bytes are missing", len - at);
        for &byte in &buffer[..read] {
            assert_eq!(byte, pattern[at % pattern.len()], "at {at}");
            at += 1;
        }
    }
}

/// Reads what comes back on a stream, `len` bytes of the pattern, while what it still holds goes out.
fn take_back(mut stream: Stream, len: usize) {
    let (pattern, mut buffer) = (pattern(), vec![0; 64 * 1024]);
    let (mut at, until) = (0, Instant::now() + LIMIT);
    stream.sock.set_nonblocking(true).unwrap();
    while at < len {
        assert!(Instant::now() < until, "{} bytes are missing", len - at);
        let (tls, socket) = (&mut stream.conn, &mut stream.sock);
        let moved = [tls.write_tls(socket), tls.read_tls(socket)];
        tls.process_new_packets().unwrap();
        let before = at;
        while let Ok(read @ 1..) = tls.reader().read(&mut buffer) {
            for &byte in &buffer[..read] {
                assert_eq!(byte, pattern[at % pattern.len()], "at {at}");
                at += 1;
            }
        }
        if at == before && moved.iter().all(Result::is_err) {
            thread::sleep(Duration::from_millis(1));
        }
    }
    stream.sock.set_nonblocking(false).unwrap();
    close(&mut stream).unwrap();
}

/// Has clients write until they are stuck and looks at the server's memory; `other` is served
/// meanwhile. What each client has written.
fn get_stuck(gate: &Gate, streams: &mut [Stream], other: &Client) -> Vec<usize> {
    let (tally, written) = Load::LIGHT.during(other, || {
        let before = process::memory(gate.id());
        let written: Vec<usize> = thread::scope(|scope| {
            let writers = streams.iter_mut();
            let writers = writers.map(|stream| scope.spawn(move || write_until_stuck(stream)));
            let writers: Vec<_> = writers.collect();
            writers.into_iter().map(|it| it.join().unwrap()).collect()
        });
        let stuck = process::memory(gate.id());
        thread::sleep(STILL);
        let later = process::memory(gate.id());
        let (grown, sent) = (stuck.saturating_sub(before), written.iter().sum::<usize>());
        println!("{sent} bytes sent, memory grown by {grown}, then {stuck} to {later}");
        assert!(grown <= HELD_MAX, "grown by {grown} bytes");
        assert!(later <= stuck + FLAT, "grows on: {stuck} to {later} bytes");
        written
    });
    tally.assert_all_served();
    written
}

/// Has `other` come and go once, so that what is made once for everybody is there.
fn warm_up(other: &Client) {
    close(&mut other.connect().unwrap()).unwrap();
}

#[test]
fn slow_reader() {
    let gate = Plan::new().start();
    let client = gate.client(&gate.leaf());
    warm_up(&client);
    let mut streams: Vec<_> = (0..STUCK).map(|_| client.connect().unwrap()).collect();
    let written = get_stuck(&gate, &mut streams, &client);
    // What comes back was read by nobody yet.
    thread::scope(|scope| {
        for (stream, len) in streams.into_iter().zip(written) {
            scope.spawn(move || take_back(stream, len));
        }
    });
    process::assert_idle(gate.id());
}

/// A second listener that leads to `upstream`.
fn second_listener(upstream: SocketAddr) -> String {
    FRONT
        .replace("\"front\"", "\"second\"")
        .replace("127.0.0.1:8080", &upstream.to_string())
}

#[test]
fn slow_upstream() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut gate = Plan {
        more: second_listener(upstream.local_addr().unwrap()),
        ..Plan::new()
    }
    .start();
    let line = gate.line("listening");
    let second = crate::gate::field(&line, "address")
        .unwrap()
        .parse()
        .unwrap();
    let client = gate.client(&gate.leaf());
    warm_up(&client);
    let to_slow = client.at(second);
    let opened = (0..STUCK).map(|_| {
        let mut stream = to_slow.dial().unwrap();
        stream.write_all(b"x").unwrap();
        let (mut accepted, _) = upstream.accept().unwrap();
        accepted.set_read_timeout(Some(LIMIT)).unwrap();
        accepted.read_exact(&mut [0]).unwrap();
        (stream, accepted)
    });
    let (mut streams, accepted): (Vec<Stream>, Vec<TcpStream>) = opened.unzip();
    let written = get_stuck(&gate, &mut streams, &client);
    thread::scope(|scope| {
        for ((mut stream, mut accepted), len) in streams.into_iter().zip(accepted).zip(written) {
            scope.spawn(move || read_pattern(&mut accepted, len));
            // Its session kept what the socket did not take; the end of the upstream comes then.
            scope.spawn(move || {
                stream.flush().unwrap();
                close(&mut stream).unwrap();
            });
        }
    });
    process::assert_idle(gate.id());
}

/// Has the server find that all clients have spoken at the same moment, and each of them answered.
fn speak_at_once(gate: &Gate, streams: &mut [Stream], len: usize) {
    let pattern = pattern();
    process::stop(gate.id());
    for stream in &mut *streams {
        stream.write_all(&pattern[..len]).unwrap();
    }
    gate.signal(rustix::process::Signal::CONT);
    for stream in streams {
        read_pattern(stream, len);
    }
}

#[test]
fn buffer_exhaustion() {
    const SPEAKERS: usize = 200;
    let gate = Plan {
        shards: 1,
        limits: "connections = 512",
        more: ADMIN.to_owned(),
        ..Plan::new()
    }
    .start();
    let client = gate.client(&gate.leaf());
    let mut streams: Vec<_> = (0..SPEAKERS).map(|_| client.connect().unwrap()).collect();
    const { assert!(SPEAKERS > 4 * ringgate::limits::RECEIVE_BUFFERS as usize) };
    for _ in 0..3 {
        speak_at_once(&gate, &mut streams, 20_000);
    }
    assert!(
        metric(&gate, "ringgate_ring_buffers_exhausted_total") > 0.0,
        "it did not lack any"
    );
    process::assert_idle(gate.id());
    streams.iter_mut().for_each(|it| close(it).unwrap());
}

#[test]
fn cq_overflow() {
    /// Four times as many completions as entries are kept.
    const LAYOUT: &str = "version = 1\n[host]\nonline = \"0-9999\"\ncores = 1\nnodes = 1\n\
                          [shards]\ncount = 1\n[ring]\nentries = 64\n";
    const KEPT: usize = 4 * 64;
    const IDLE: Duration = Duration::from_secs(10);
    const SPEAKERS: usize = 300;
    const NEWCOMERS: usize = 100;
    let gate = Plan {
        layout: Some(LAYOUT),
        limits: "connections = 1024",
        more: ADMIN.to_owned(),
        ..Plan::with(&format!("idle_timeout = \"{}s\"", IDLE.as_secs()))
    }
    .start();
    let client = gate.client(&gate.leaf());
    let mut streams: Vec<_> = (0..SPEAKERS).map(|_| client.connect().unwrap()).collect();
    const { assert!(SPEAKERS > KEPT) };
    speak_at_once(&gate, &mut streams, 1_000);
    // The same with others that come meanwhile, and with all that end at once.
    process::stop(gate.id());
    let newcomers: Vec<_> = (0..NEWCOMERS).map(|_| client.dial().unwrap()).collect();
    for stream in &mut streams {
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    }
    gate.signal(rustix::process::Signal::CONT);
    for mut stream in newcomers {
        crate::gate::echoed(&mut stream).unwrap();
        close(&mut stream).unwrap();
    }
    for mut stream in streams {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    // Whose time is up all at once, each is told so in the same turn: that is more than are kept,
    // whatever the kernel does to spread completions over turns.
    let streams: Vec<_> = (0..SPEAKERS).map(|_| client.connect().unwrap()).collect();
    process::stop(gate.id());
    thread::sleep(IDLE);
    gate.signal(rustix::process::Signal::CONT);
    for mut stream in streams {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    let overflows = metric(&gate, "ringgate_ring_overflows_total");
    assert!(overflows > 0.0, "all were kept");
    process::assert_idle(gate.id());
}
