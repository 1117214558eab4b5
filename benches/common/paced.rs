//! Requests at a set rate on connections that are kept: each is due at its moment, whatever has
//! become of the one before.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use ringgate::block::{Block, Pool};
use rustix::thread::set_current_timer_slack;

use crate::session::{Client, Credential, Session, Speech};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many there are, all connections together.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub connections: u32,
    pub per_second: u32,
    /// Bytes of a request, and of its answer.
    pub payload: usize,
}

/// How long requests took, in microseconds.
#[derive(Debug, Default)]
pub struct Latencies {
    /// From the moment that a request was due, in order.
    from_due: Vec<f64>,
    /// Of that, until it was sent: the client's own share.
    late: Vec<f64>,
}

impl Latencies {
    fn join(parts: impl Iterator<Item = Self>) -> Self {
        let mut whole = Self::default();
        for part in parts {
            whole.from_due.extend(part.from_due);
            whole.late.extend(part.late);
        }
        whole.from_due.sort_by(f64::total_cmp);
        whole.late.sort_by(f64::total_cmp);
        whole
    }

    /// The latency that so many of a hundred requests do not exceed.
    pub fn percentile(&self, percent: usize) -> f64 {
        at(&self.from_due, percent)
    }

    /// As [`Latencies::percentile`], of the delay before requests were sent.
    pub fn late(&self, percent: usize) -> f64 {
        at(&self.late, percent)
    }
}

fn at(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    *sorted.get(rank - 1).expect("requests that were measured")
}

/// Connections that are open.
pub struct Kept {
    pace: Pace,
    connections: Vec<Connection>,
}

impl Kept {
    pub fn open(target: SocketAddr, pace: Pace, speech: Speech, credential: &Credential) -> Self {
        let open = |_| Connection::open(target, &Client::new(speech, credential));
        Self {
            pace,
            connections: (0..pace.connections).map(open).collect(),
        }
    }

    /// Sends requests from `begin` on, and measures those that are due within the second of the two
    /// times, which follows the first.
    pub fn run(&mut self, begin: Instant, [warmup, duration]: [Duration; 2]) -> Latencies {
        let Pace {
            connections,
            per_second,
            payload,
        } = self.pace;
        let gap = Duration::from_secs(1) / per_second;
        thread::scope(|scope| {
            let run = |(connection, at): (_, u32)| {
                // In turn, so that never two are due at once.
                let first = begin + gap * at;
                scope.spawn(move || {
                    let schedule = Schedule {
                        next: first,
                        gap: gap * connections,
                        measured: begin + warmup,
                        end: begin + warmup + duration,
                    };
                    Connection::run(connection, schedule, &vec![7; payload])
                })
            };
            let threads: Vec<_> = self.connections.iter_mut().zip(0..).map(run).collect();
            let ended = threads.into_iter().map(|thread| thread.join());
            Latencies::join(ended.map(|part| part.expect("a server that answers")))
        })
    }
}

struct Schedule {
    next: Instant,
    gap: Duration,
    /// What is due before is not measured.
    measured: Instant,
    end: Instant,
}

struct Connection {
    stream: TcpStream,
    session: Session,
    block: Block,
    input: Vec<u8>,
}

impl Connection {
    fn open(target: SocketAddr, client: &Client) -> Self {
        let stream = TcpStream::connect(target).expect("a server that listens");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut connection = Self {
            stream,
            session: client.session(),
            block: Pool::new(1, 1).take().expect("a block"),
            input: vec![0; 16 << 10],
        };
        // With the greeting to the upstream, so that all is set up.
        connection.exchange(b"x");
        connection
    }

    fn run(&mut self, mut schedule: Schedule, request: &[u8]) -> Latencies {
        // By default a sleep ends up to 50 microseconds late (prctl, PR_SET_TIMERSLACK).
        set_current_timer_slack(NonZeroU64::new(1)).expect("prctl");
        let mut latencies = Latencies::default();
        while schedule.next < schedule.end {
            thread::sleep(schedule.next.saturating_duration_since(Instant::now()));
            let begun = Instant::now();
            self.exchange(request);
            if schedule.next >= schedule.measured {
                let micros = |moment: Instant| (moment - schedule.next).as_secs_f64() * 1e6;
                latencies.from_due.push(micros(Instant::now()));
                latencies.late.push(micros(begun));
            }
            schedule.next += schedule.gap;
        }
        latencies
    }

    /// A request and its answer, after a handshake where there was none.
    fn exchange(&mut self, request: &[u8]) {
        while !self.session.is_ready() {
            self.send();
            self.receive();
        }
        self.session.write(request);
        self.send();
        let mut left = request.len();
        while left > 0 {
            left -= self.receive();
        }
    }

    fn send(&mut self) {
        loop {
            self.session.take_output(&mut self.block);
            if self.block.is_empty() {
                return;
            }
            let sent = self.stream.write_all(self.block.filled());
            sent.expect("a server that reads");
            self.block.clear();
        }
    }

    /// Bytes of payload in what arrived.
    fn receive(&mut self) -> usize {
        let len = self.stream.read(&mut self.input);
        let len = len.expect("an answer in time");
        assert!(len > 0, "the server left first");
        self.session.receive(&self.input[..len])
    }
}
