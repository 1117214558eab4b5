//! A closed loop of clients on a ring: each begins its next unit when the last has ended.
#![allow(dead_code, reason = "each bench uses its part")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ringgate::block::Pool;
use ringgate::limits::RECEIVE_BUFFERS;
use ringgate::ring::{
    Descriptor, DescriptorKind, Operation, Outcome, ReceiveEnd, Received, Ring, RingOptions,
    Target, Token,
};

use crate::running::cpu_time;
use crate::session::{Client, Credential, Session, Speech};

/// A connection of its own for one byte there and back.
pub const CONNECT: Work = Work {
    clients: 32,
    payload: 1,
    connects: true,
};
/// A request and its answer.
pub const REQUESTS: Work = Work {
    clients: 32,
    payload: 1 << 10,
    connects: false,
};
/// Streams.
pub const BULK: Work = Work {
    clients: 8,
    payload: 64 << 10,
    connects: false,
};

/// How long a load waits for a unit before it gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub clients: usize,
    /// Bytes that each unit sends and gets back.
    pub payload: usize,
    /// Whether each unit has a connection of its own.
    pub connects: bool,
}

/// What a load measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub units: u64,
    /// Those of the warm-up too.
    pub all: u64,
    /// Of the server's threads.
    pub cpu: Duration,
    /// How long it was measured.
    pub took: Duration,
    /// Units on resumed connections.
    pub resumed: u64,
}

impl Measured {
    /// CPU time of the server for each unit, in microseconds.
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    pub fn per_unit(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.units as f64
    }

    /// The share of units on resumed connections.
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    pub fn share_resumed(&self) -> f64 {
        self.resumed as f64 / self.units as f64
    }
}

struct Slot {
    client: Client,
    live: Option<Live>,
    /// Tells completions of a connection that has ended from those of the next one.
    generation: u32,
}

struct Live {
    descriptor: Descriptor,
    session: Session,
    connecting: Option<Operation>,
    receiving: Option<Operation>,
    sending: Option<Operation>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// The next unit can begin once the session is ready.
    Idle,
    /// This many bytes of the unit have not come back.
    Awaits(usize),
    /// The direction to the server is to be closed once all is sent.
    Leaves,
    /// The server has been told, and ends the connection.
    Left,
}

/// Runs `work` against `target`, and takes the time of the threads `server` for `duration` after
/// `warmup`.
pub fn run(
    target: SocketAddr,
    server: &[i32],
    work: Work,
    speech: Speech,
    credential: &Credential,
    [warmup, duration]: [Duration; 2],
) -> Measured {
    let slots = (0..work.clients).map(|_| Slot {
        client: Client::new(speech, credential),
        live: None,
        generation: 0,
    });
    let mut load = Load {
        ring: Ring::new(&RingOptions::default()).expect("a ring"),
        pool: Pool::new(work.clients * 2, usize::from(RECEIVE_BUFFERS)),
        target: Target::Tcp(target),
        slots: slots.collect(),
        payload: vec![7; work.payload],
        work,
        units: 0,
        resumed: 0,
    };
    load.begin();
    load.turn_until(Instant::now() + warmup);
    let cpu = || {
        server
            .iter()
            .map(|&thread| cpu_time(thread))
            .sum::<Duration>()
    };
    let begun = Instant::now();
    let before = (load.units, load.resumed, cpu());
    load.turn_until(Instant::now() + duration);
    Measured {
        units: load.units - before.0,
        all: load.units,
        cpu: cpu() - before.2,
        took: begun.elapsed(),
        resumed: load.resumed - before.1,
    }
}

struct Load {
    ring: Ring,
    pool: Pool,
    target: Target,
    slots: Vec<Slot>,
    payload: Vec<u8>,
    work: Work,
    units: u64,
    resumed: u64,
}

impl Load {
    fn begin(&mut self) {
        for index in 0..self.slots.len() {
            self.connect(index);
        }
    }

    fn turn_until(&mut self, until: Instant) {
        let (mut seen, mut moved) = (self.units, Instant::now());
        loop {
            let now = Instant::now();
            if now >= until {
                return;
            }
            if self.units > seen {
                (seen, moved) = (self.units, now);
            }
            assert!(now - moved < PATIENCE, "no unit has ended in {PATIENCE:?}");
            let wait = (until - now).min(PATIENCE);
            self.ring.wait(Some(wait)).expect("a ring that works");
            while let Some(completion) = self.ring.next_completion() {
                self.complete(completion.token, completion.outcome);
            }
        }
    }

    fn connect(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.generation = slot.generation.wrapping_add(1);
        let token = token(index, slot.generation);
        let connected = self
            .ring
            .connect(&self.target, DescriptorKind::Direct, token);
        let (descriptor, connecting) = connected.expect("a descriptor for a client");
        slot.live = Some(Live {
            descriptor,
            session: slot.client.session(),
            connecting: Some(connecting),
            receiving: None,
            sending: None,
            stage: Stage::Idle,
        });
    }

    fn complete(&mut self, token: Token, outcome: Outcome) {
        let index = usize::try_from(token.0 & u64::from(u32::MAX)).expect("an index");
        let slot = &mut self.slots[index];
        if u64::from(slot.generation) != token.0 >> 32 || slot.live.is_none() {
            return match outcome {
                Outcome::Received { buffer, .. } => self.ring.give_back(buffer),
                Outcome::Sent { block, .. } => self.pool.give(block),
                _ => {}
            };
        }
        match outcome {
            Outcome::Connected(result) => {
                result.expect("a server that listens");
                self.live(index).connecting = None;
                self.receive(index);
                self.advance(index);
            }
            Outcome::Received { buffer, more } => self.received(index, buffer, more),
            Outcome::ReceiveEnded(ReceiveEnd::BuffersExhausted) => self.receive(index),
            Outcome::ReceiveEnded(end) => self.ended(index, &end),
            Outcome::Sent { mut block, result } => {
                block.consume(result.expect("a server that reads"));
                self.live(index).sending = None;
                assert!(block.is_empty(), "a send waits for all");
                self.pool.give(block);
                self.advance(index);
            }
            Outcome::Accepted(_) | Outcome::Woken => {}
        }
    }

    fn live(&mut self, index: usize) -> &mut Live {
        self.slots[index]
            .live
            .as_mut()
            .expect("a connection that is there")
    }

    fn receive(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let live = slot.live.as_mut().expect("a connection that is there");
        let token = token(index, slot.generation);
        live.receiving = Some(self.ring.receive(&live.descriptor, token));
    }

    fn received(&mut self, index: usize, buffer: Received, more: bool) {
        let bytes = &*self.ring.received(&buffer);
        let live = self.slots[index]
            .live
            .as_mut()
            .expect("a connection that is there");
        let payload = live.session.receive(bytes);
        if let Stage::Awaits(left) = &mut live.stage {
            *left = left.checked_sub(payload).expect("no more than was sent");
        }
        if live.stage == Stage::Awaits(0) {
            self.units += 1;
            self.resumed += u64::from(live.session.is_resumed());
            live.stage = match self.work.connects {
                false => Stage::Idle,
                true if live.session.says_goodbye() => Stage::Left,
                true => Stage::Leaves,
            };
        }
        self.ring.give_back(buffer);
        if !more {
            self.receive(index);
        }
        self.advance(index);
    }

    /// Begins a unit where none is under way, and sends what there is to send.
    fn advance(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let live = slot.live.as_mut().expect("a connection that is there");
        if live.stage == Stage::Idle && live.session.is_ready() {
            live.stage = Stage::Awaits(self.payload.len());
            live.session.write(&self.payload);
        }
        if live.sending.is_some() {
            return;
        }
        let mut block = self.pool.take().expect("a block for each client");
        live.session.take_output(&mut block);
        if !block.is_empty() {
            let token = token(index, slot.generation);
            live.sending = Some(self.ring.send(&live.descriptor, block, token));
            return;
        }
        self.pool.give(block);
        if live.stage == Stage::Leaves {
            self.ring.shutdown_send(&live.descriptor);
            live.stage = Stage::Left;
        }
    }

    /// The server has ended the connection, which it does last.
    fn ended(&mut self, index: usize, end: &ReceiveEnd) {
        let live = self.slots[index]
            .live
            .take()
            .expect("a connection that is there");
        assert_eq!(live.stage, Stage::Left, "the server left first: {end:?}");
        for operation in [live.connecting, live.sending].into_iter().flatten() {
            self.ring.cancel(operation);
        }
        self.ring.close(live.descriptor);
        self.connect(index);
    }
}

fn token(index: usize, generation: u32) -> Token {
    Token(u64::from(generation) << 32 | index as u64)
}
