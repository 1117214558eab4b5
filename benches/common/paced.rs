//! Requests at a set rate, on connections that are kept or on a new one each: each is due at its moment,
//! whatever has become of the one before.
#![allow(dead_code, reason = "each bench uses its part")]

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
    /// The longest.
    pub fn longest(&self) -> f64 {
        at(&self.from_due, 100, 100)
    }

    /// The latency that so many of a thousand requests do not exceed.
    pub fn per_mille(&self, per_mille: usize) -> f64 {
        at(&self.from_due, per_mille, 1000)
    }

    pub fn count(&self) -> usize {
        self.from_due.len()
    }
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
        at(&self.from_due, percent, 100)
    }

    /// As [`Latencies::percentile`], of the delay before requests were sent.
    pub fn late(&self, percent: usize) -> f64 {
        at(&self.late, percent, 100)
    }
}

fn at(sorted: &[f64], part: usize, whole: usize) -> f64 {
    let rank = (sorted.len() * part).div_ceil(whole).max(1);
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
    pub fn run(&mut self, begin: Instant, times: [Duration; 2]) -> Latencies {
        let request = &vec![7; self.pace.payload];
        self.pace.run(
            begin,
            times,
            self.connections.iter_mut(),
            |connection, schedule| schedule.run(|| connection.exchange(request)),
        )
    }
}

/// Clients that come for one request each.
pub struct Newcomers<'a> {
    pub target: SocketAddr,
    pub pace: Pace,
    pub speech: Speech,
    pub credential: &'a Credential,
}

impl Newcomers<'_> {
    /// As [`Kept::run`]: from the moment that a client was due to the end of its answer, everything
    /// before it included.
    pub fn run(&self, begin: Instant, times: [Duration; 2]) -> Latencies {
        let request = &vec![7; self.pace.payload];
        self.pace
            .run(begin, times, 0..self.pace.connections, |_, schedule| {
                let client = Client::new(self.speech, self.credential);
                schedule.run(|| {
                    let mut connection = Connection::connect(self.target, &client);
                    connection.exchange(request);
                    connection.leave();
                })
            })
    }
}

impl Pace {
    /// Has as many threads as there are connections take their turns.
    fn run<T: Send>(
        self,
        begin: Instant,
        [warmup, duration]: [Duration; 2],
        clients: impl Iterator<Item = T>,
        work: impl Fn(T, Schedule) -> Latencies + Sync,
    ) -> Latencies {
        let gap = Duration::from_secs(1) / self.per_second;
        let work = &work;
        thread::scope(|scope| {
            let run = |(client, at): (T, u32)| {
                let schedule = Schedule {
                    // In turn, so that never two are due at once.
                    next: begin + gap * at,
                    gap: gap * self.connections,
                    measured: begin + warmup,
                    end: begin + warmup + duration,
                };
                scope.spawn(move || work(client, schedule))
            };
            let threads: Vec<_> = clients.zip(0..).map(run).collect();
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

impl Schedule {
    fn run(mut self, mut work: impl FnMut()) -> Latencies {
        // By default a sleep ends up to 50 microseconds late (prctl, PR_SET_TIMERSLACK).
        set_current_timer_slack(NonZeroU64::new(1)).expect("prctl");
        let mut latencies = Latencies::default();
        while self.next < self.end {
            thread::sleep(self.next.saturating_duration_since(Instant::now()));
            let begun = Instant::now();
            work();
            if self.next >= self.measured {
                let micros = |moment: Instant| (moment - self.next).as_secs_f64() * 1e6;
                latencies.from_due.push(micros(Instant::now()));
                latencies.late.push(micros(begun));
            }
            self.next += self.gap;
        }
        latencies
    }
}

struct Connection {
    stream: TcpStream,
    session: Session,
    block: Block,
    input: Vec<u8>,
}

impl Connection {
    /// With the greeting to the upstream, so that all is set up.
    fn open(target: SocketAddr, client: &Client) -> Self {
        let mut connection = Self::connect(target, client);
        connection.exchange(b"x");
        connection
    }

    fn connect(target: SocketAddr, client: &Client) -> Self {
        let stream = TcpStream::connect(target).expect("a server that listens");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self {
            stream,
            session: client.session(),
            block: Pool::new(1, 1).take().expect("a block"),
            input: vec![0; 16 << 10],
        }
    }

    /// Ends it in due form, without waiting for the server to.
    fn leave(mut self) {
        if self.session.says_goodbye() {
            self.send();
        }
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
