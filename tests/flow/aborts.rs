//! A client may leave at any moment, politely or not: everything it had comes back.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use ringgate::shard::Counters;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::pki::Leaf;
use crate::upstream::{Manner, Upstream};
use crate::world::{SERVER_NAME, World, ends, patterned};

/// How often each point is tried.
const ROUNDS: usize = 100;

/// Where a client leaves.
#[derive(Clone, Copy, Debug)]
enum Point {
    Connected,
    FirstByte,
    HalfHello,
    Hello,
    ServersFlight,
    HalfFinished,
    Finished,
    FirstData,
    HalfRecord,
    Echoed,
    KeyUpdated,
    Flooding,
    SaidGoodbye,
    EndHeard,
}

const POINTS: [Point; 14] = [
    Point::Connected,
    Point::FirstByte,
    Point::HalfHello,
    Point::Hello,
    Point::ServersFlight,
    Point::HalfFinished,
    Point::Finished,
    Point::FirstData,
    Point::HalfRecord,
    Point::Echoed,
    Point::KeyUpdated,
    Point::Flooding,
    Point::SaidGoodbye,
    Point::EndHeard,
];

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    Fin,
    Reset,
    /// A FIN, and then a while of listening.
    HalfClosed,
}

struct Client {
    tls: ClientConnection,
    socket: TcpStream,
}

impl Client {
    fn new(world: &World, leaf: &Leaf) -> Self {
        let config = world.client_config(Some(leaf), &[&rustls::version::TLS13]);
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        Self {
            tls: ClientConnection::new(Arc::new(config), name).unwrap(),
            socket: world.dial(),
        }
    }

    fn output(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut output).unwrap();
        }
        output
    }

    fn flush(&mut self) {
        let output = self.output();
        self.socket.write_all(&output).unwrap();
    }

    fn say(&mut self, words: &[u8]) {
        self.tls.writer().write_all(words).unwrap();
        self.flush();
    }

    /// Reads until `len` bytes of plaintext are there.
    fn hear(&mut self, len: usize) {
        let mut heard = 0;
        let mut buffer = [0; 100];
        while heard < len {
            assert_ne!(self.tls.read_tls(&mut self.socket).unwrap(), 0);
            self.tls.process_new_packets().unwrap();
            heard += self.tls.reader().read(&mut buffer).unwrap_or(0);
        }
    }

    /// Goes as far as `point`.
    fn go(&mut self, point: Point) {
        let hello = self.output();
        match point {
            Point::Connected => return,
            Point::FirstByte => return self.socket.write_all(&hello[..1]).unwrap(),
            Point::HalfHello => {
                return self.socket.write_all(&hello[..hello.len() / 2]).unwrap();
            }
            _ => self.socket.write_all(&hello).unwrap(),
        }
        if matches!(point, Point::Hello) {
            return;
        }
        while self.tls.is_handshaking() {
            assert_ne!(self.tls.read_tls(&mut self.socket).unwrap(), 0);
            self.tls.process_new_packets().unwrap();
        }
        let finished = self.output();
        match point {
            Point::ServersFlight => return,
            Point::HalfFinished => {
                let half = &finished[..finished.len() / 2];
                return self.socket.write_all(half).unwrap();
            }
            _ => self.socket.write_all(&finished).unwrap(),
        }
        self.go_on(point);
    }

    /// As far as `point`, once the handshake is done.
    fn go_on(&mut self, point: Point) {
        match point {
            Point::Finished => {}
            Point::FirstData => self.say(b"x"),
            Point::HalfRecord => {
                self.tls.writer().write_all(&[7; 5000]).unwrap();
                let record = self.output();
                self.socket.write_all(&record[..2500]).unwrap();
            }
            Point::Flooding => {
                // What does not fit is left unsaid: nobody reads the echo.
                self.tls.set_buffer_limit(None);
                self.tls.writer().write_all(&patterned(1 << 20)).unwrap();
                let flood = self.output();
                self.socket.set_nonblocking(true).unwrap();
                let _ = self.socket.write(&flood);
                self.socket.set_nonblocking(false).unwrap();
            }
            _ => {
                self.say(b"x");
                self.hear(1);
            }
        }
        match point {
            Point::KeyUpdated => {
                self.tls.refresh_traffic_keys().unwrap();
                self.flush();
            }
            Point::SaidGoodbye | Point::EndHeard => {
                self.tls.send_close_notify();
                self.flush();
            }
            _ => {}
        }
        if matches!(point, Point::EndHeard) {
            let mut rest = Vec::new();
            self.socket.read_to_end(&mut rest).unwrap();
        }
    }

    fn leave(mut self, leaving: Leaving) {
        match leaving {
            Leaving::Fin => {}
            Leaving::Reset => {
                let socket = socket2::SockRef::from(&self.socket);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
            }
            Leaving::HalfClosed => {
                // Fails where the terminator has closed already.
                let _ = self.socket.shutdown(Shutdown::Write);
                let _ = self.socket.read(&mut [0; 64]);
            }
        }
    }
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
            let mut client = Client::new(&world, &leaf);
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
    let mut client = Client::new(&world, &leaf);
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
