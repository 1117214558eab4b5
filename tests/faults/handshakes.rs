//! Peers that do not finish their handshake, and peers that do nothing but handshakes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::gate::{Client, Gate, LIMIT, close, echoed};
use crate::load::Load;
use crate::plan::Plan;
use crate::program::skip;

/// Of the servers here; what a handshake that has not ended by then may take longer.
const TIMEOUT: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(1);

/// Pause between two looks at many peers.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Whoever does not finish its handshake.
struct Peer {
    socket: TcpStream,
    began: Instant,
}

impl Peer {
    /// From one of many loopback addresses, which have ports of their own.
    fn from(source: usize, server: SocketAddr) -> Self {
        let [high, low] = u16::try_from(source).unwrap().to_be_bytes();
        let source = SocketAddr::from((Ipv4Addr::new(127, 1, high, low), 0));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&source.into()).unwrap();
        let began = Instant::now();
        socket.connect(&server.into()).unwrap();
        let socket = socket.into();
        Self { socket, began }
    }

    /// When its end can be read, how long it lasted.
    fn ended(&mut self) -> Option<Duration> {
        self.socket.set_nonblocking(true).unwrap();
        loop {
            match self.socket.read(&mut [0; 512]) {
                Ok(0) => return Some(self.began.elapsed()),
                // An alert.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(_) => return Some(self.began.elapsed()),
            }
        }
    }
}

/// Waits until the server has ended all of them; how long the one lasted that lasted longest.
#[track_caller]
fn reaped(mut peers: Vec<Peer>) -> Duration {
    let until = Instant::now() + LIMIT;
    let mut longest = Duration::ZERO;
    while !peers.is_empty() {
        assert!(Instant::now() < until, "{} were not reaped", peers.len());
        let mut polled: Vec<_> = peers
            .iter()
            .map(|peer| PollFd::new(&peer.socket, PollFlags::IN))
            .collect();
        poll(&mut polled, Some(&Timespec::default())).unwrap();
        let is_ready: Vec<bool> = polled.iter().map(|it| !it.revents().is_empty()).collect();
        let mut is_ready = is_ready.into_iter();
        peers.retain_mut(|peer| {
            let lasted = is_ready.next().unwrap().then(|| peer.ended()).flatten();
            longest = longest.max(lasted.unwrap_or_default());
            lasted.is_none()
        });
        thread::sleep(LOOK_AGAIN);
    }
    longest
}

fn plan() -> Plan {
    Plan::with(&format!("handshake_timeout = \"{}s\"", TIMEOUT.as_secs()))
}

/// Sees to it that so many descriptors can be open here and in what is started; otherwise says that
/// the test is skipped.
fn has_descriptors(wanted: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let most = limit.maximum.unwrap_or(u64::MAX);
    let has = most >= wanted && setrlimit(Resource::Nofile, raised).is_ok();
    if !has {
        skip(&format!("{wanted} descriptors are wanted, {most} allowed"));
    }
    has
}

#[test]
fn silent_handshakes() {
    const SILENT: usize = 10_000;
    const SOURCES: usize = 200;
    if !has_descriptors(16_000) {
        return;
    }
    let gate = Plan {
        limits: "connections = 7000\nhandshakes = 7000",
        ..plan()
    }
    .start();
    let client = gate.client(&gate.leaf());
    let (tally, (longest, opened)) = Load::LIGHT.during(&client, || {
        let began = Instant::now();
        let peers = (0..SILENT).map(|peer| Peer::from(peer % SOURCES, gate.address));
        let peers = peers.collect();
        let opened = began.elapsed();
        (reaped(peers), opened)
    });
    println!("{SILENT} in {opened:?}, the last gone after {longest:?}, {tally:?}");
    tally.assert_all_served();
    assert!(longest < TIMEOUT + GRACE, "reaped after {longest:?}");
}

/// What no client says, each of which cannot become a handshake any more.
fn garbage() -> Vec<Vec<u8>> {
    let noise: Vec<u8> = (0..4096_u32)
        .map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    let record = |kind: u8, len: u16, body: &[u8]| {
        let [high, low] = len.to_be_bytes();
        [&[kind, 3, 1, high, low], body].concat()
    };
    vec![
        [&[0xff], &noise[..]].concat(),
        b"GET / HTTP/1.1\r\nHost: server.example\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        vec![0; 512],
        // A record longer than any may be, a hello that is noise, data before any handshake.
        record(22, 0xffff, &noise),
        record(22, 512, &[&[1, 0, 1, 0xfc], &noise[..508]].concat()),
        record(23, 64, &noise[..64]),
        record(21, 2, &[2, 40]),
    ]
}

#[test]
fn garbage_senders() {
    const EACH: usize = 60;
    let mut gate = plan().start();
    let client = gate.client(&gate.leaf());
    let (tally, longest) = Load::LIGHT.during(&client, || {
        let peers =
            (0..EACH).flat_map(|round| garbage().into_iter().map(move |words| (round, words)));
        let peers = peers.map(|(round, words)| {
            let mut peer = Peer::from(round, gate.address);
            peer.socket.write_all(&words).unwrap();
            peer
        });
        reaped(peers.collect())
    });
    println!("the last gone after {longest:?}, {tally:?}");
    tally.assert_all_served();
    assert!(longest < TIMEOUT + GRACE, "ended after {longest:?}");
    let line = gate.line("not_tls");
    assert!(line.contains("no TLS client"), "{line}");
}

/// Has each peer say a byte now and then until the server has ended it; how long the one lasted
/// that lasted longest, and the one that did not.
#[track_caller]
fn trickle(mut peers: Vec<(Peer, Vec<u8>)>) -> [Duration; 2] {
    let until = Instant::now() + LIMIT;
    let mut lasted = Vec::new();
    let count = peers.len();
    for at in 0.. {
        peers.retain_mut(|(peer, words)| {
            let ended = peer.ended();
            lasted.extend(ended);
            assert!(at < words.len(), "it was let say all it had");
            // Whether it still listens shows the next time.
            let _ = peer.socket.write(&words[at..=at]);
            ended.is_none()
        });
        if lasted.len() == count {
            break;
        }
        assert!(Instant::now() < until, "{} were not ended", peers.len());
        thread::sleep(LOOK_AGAIN);
    }
    let longest = lasted.iter().max().unwrap();
    let shortest = lasted.iter().min().unwrap();
    [*longest, *shortest]
}

/// Asserts that peers who say `words` slowly are ended by the deadline, and not before; and that
/// nobody else notices.
fn are_ended(mut gate: Gate, peer: impl Fn(&Client, usize) -> (Peer, Vec<u8>)) {
    const SLOW: usize = 50;
    let client = gate.client(&gate.leaf());
    let (tally, [longest, shortest]) = Load::LIGHT.during(&client, || {
        let newcomer = client.newcomer();
        trickle((0..SLOW).map(|at| peer(&newcomer, at)).collect())
    });
    println!("they lasted {shortest:?} to {longest:?}, {tally:?}");
    tally.assert_all_served();
    assert!(shortest >= TIMEOUT, "it ended after {shortest:?}");
    assert!(longest < TIMEOUT + GRACE, "it lasted {longest:?}");
    for _ in 0..SLOW {
        let line = gate.line("client refused");
        assert!(line.contains("\"handshake_timeout\""), "{line}");
    }
}

#[test]
fn slow_hello() {
    let gate = plan().start();
    let server = gate.address;
    are_ended(gate, |client, at| {
        let mut hello = Vec::new();
        let mut session = client.session();
        session.write_tls(&mut hello).unwrap();
        (Peer::from(at, server), hello)
    });
}

#[test]
fn slow_finished() {
    let gate = plan().start();
    let server = gate.address;
    are_ended(gate, |client, at| {
        let (mut peer, mut session) = (Peer::from(at, server), client.session());
        session.write_tls(&mut peer.socket).unwrap();
        while session.is_handshaking() {
            assert_ne!(session.read_tls(&mut peer.socket).unwrap(), 0);
            session.process_new_packets().unwrap();
        }
        let mut flight = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut flight).unwrap();
        }
        (peer, flight)
    });
}

/// Newcomers of a storm, and the least that somebody who stays is answered meanwhile, for each of
/// them. How much later an answer comes is measured by the bench `storm`.
const NEWCOMERS: usize = 300;
const ANSWERS_PER_NEWCOMER: [usize; 2] = [1, 4];

#[test]
fn handshake_storm() {
    const CLOUDS: usize = 3;
    let gate = Plan {
        shards: 1,
        ..plan()
    }
    .start();
    let client = gate.client(&gate.leaf());
    let mut stays = client.connect().unwrap();
    let newcomer = client.newcomer();
    let mut latencies = thread::scope(|scope| {
        let clouds = (0..CLOUDS).map(|_| {
            scope.spawn(|| {
                for _ in 0..NEWCOMERS / CLOUDS {
                    let mut stream = newcomer.connect().expect("a newcomer is served");
                    close(&mut stream).expect("a newcomer is served to the end");
                }
            })
        });
        let clouds: Vec<_> = clouds.collect();
        let mut latencies = Vec::new();
        while clouds.iter().any(|cloud| !cloud.is_finished()) {
            let began = Instant::now();
            echoed(&mut stays).expect("who stays is served on");
            latencies.push(began.elapsed());
        }
        latencies
    });
    latencies.sort_unstable();
    let answers = latencies.len();
    let [median, p99] = [answers / 2, answers * 99 / 100].map(|at| latencies[at]);
    println!("{answers} answers during {NEWCOMERS} handshakes: p50 {median:?}, p99 {p99:?}");
    let [least, each] = ANSWERS_PER_NEWCOMER;
    assert!(answers * each >= NEWCOMERS * least, "{answers} answers");
    close(&mut stays).unwrap();
}
