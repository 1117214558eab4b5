//! Peers that send their handshake a byte at a time, beside the load: what they cost others shows in
//! the load's figures.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringgate::block::{Block, Pool};
use ringgate::ring::{
    Completion, Descriptor, DescriptorKind, Operation, Outcome, ReceiveEnd, Ring, RingOptions,
    Target,
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use super::slot::token;
use super::{DriverError, Session};

/// How long each peer waits from byte to byte.
const PACE: Duration = Duration::from_millis(100);

/// How often bytes go out.
const TICK: Duration = Duration::from_millis(10);

/// What the slow peers of a run do.
#[derive(Clone, Debug)]
pub struct SlowPlan {
    pub target: SocketAddr,
    pub server_name: ServerName<'static>,
    pub config: Arc<ClientConfig>,
    /// Peers at a time; one that ended is made anew.
    pub peers: usize,
    pub until: Instant,
    pub stop: Arc<AtomicBool>,
}

/// What became of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct SlowOutcome {
    /// Connections that were made.
    pub made: u64,
    /// Of these, ended by the server before their handshake was done.
    pub ended: u64,
    /// Of these, done with their handshake all the same.
    pub finished: u64,
    pub bytes: u64,
}

/// Runs the peers until the plan's end.
pub fn run(plan: SlowPlan) -> Result<SlowOutcome, DriverError> {
    let ring = Ring::new(&RingOptions {
        entries: 256,
        descriptors: u32::try_from(plan.peers + 16).unwrap_or(u32::MAX),
        ..RingOptions::default()
    })?;
    let mut slow = Slow {
        ring,
        pool: Pool::new(2 * plan.peers, 64),
        target: Target::Tcp(plan.target),
        peers: std::iter::repeat_with(|| None).take(plan.peers).collect(),
        generations: vec![0; plan.peers],
        outcome: SlowOutcome::default(),
        plan,
    };
    slow.run()?;
    Ok(slow.outcome)
}

struct Slow {
    ring: Ring,
    pool: Pool,
    plan: SlowPlan,
    target: Target,
    peers: Vec<Option<Peer>>,
    generations: Vec<u32>,
    outcome: SlowOutcome,
}

struct Peer {
    session: Session,
    descriptor: Descriptor,
    operations: [Option<Operation>; 3],
    connected: bool,
    /// What is still to be sent.
    left: Option<Block>,
    next_byte: Instant,
}

const CONNECTING: usize = 0;
const RECEIVING: usize = 1;
const SENDING: usize = 2;

impl Slow {
    fn run(&mut self) -> Result<(), DriverError> {
        loop {
            let now = Instant::now();
            if now >= self.plan.until || self.plan.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            for index in 0..self.peers.len() {
                match &self.peers[index] {
                    None => self.connect(index, now),
                    Some(peer) if peer.connected && peer.next_byte <= now => {
                        self.send_byte(index, now);
                    }
                    Some(_) => {}
                }
            }
            self.ring.wait(Some(TICK))?;
            while let Some(completion) = self.ring.next_completion() {
                self.complete(completion);
            }
        }
    }

    fn connect(&mut self, index: usize, now: Instant) {
        let Ok(session) = Session::new(&self.plan.config, &self.plan.server_name) else {
            return;
        };
        self.generations[index] = self.generations[index].wrapping_add(1);
        let token = token(index, self.generations[index]);
        let kind = DescriptorKind::Direct;
        // Without a descriptor it is tried again with the next tick.
        if let Ok((descriptor, connecting)) = self.ring.connect(&self.target, kind, token) {
            self.peers[index] = Some(Peer {
                session,
                descriptor,
                operations: [Some(connecting), None, None],
                connected: false,
                left: None,
                next_byte: now,
            });
        }
    }

    fn send_byte(&mut self, index: usize, now: Instant) {
        let token = token(index, self.generations[index]);
        let Some(peer) = &mut self.peers[index] else {
            return;
        };
        if peer.operations[RECEIVING].is_none() {
            peer.operations[RECEIVING] = Some(self.ring.receive(&peer.descriptor, token));
        }
        if peer.operations[SENDING].is_some() {
            return;
        }
        if peer.left.is_none() && peer.session.wants_output() {
            peer.left = self.pool.take();
            if let Some(block) = &mut peer.left {
                peer.session.take_output(block);
            }
        }
        let Some(left) = &mut peer.left else { return };
        let Some(&byte) = left.filled().first() else {
            if let Some(block) = peer.left.take() {
                self.pool.give(block);
            }
            return;
        };
        // There are two for each peer.
        let Some(mut block) = self.pool.take() else {
            return;
        };
        left.consume(1);
        block.append(&[byte]);
        peer.operations[SENDING] = Some(self.ring.send(&peer.descriptor, block, token));
        peer.next_byte = now + PACE;
        self.outcome.bytes += 1;
    }

    fn complete(&mut self, completion: Completion) {
        let Completion { token, outcome } = completion;
        let index = usize::try_from(token.0 & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        let known = self
            .generations
            .get(index)
            .is_some_and(|generation| u64::from(*generation) == token.0 >> 32);
        let peer = self.peers.get_mut(index).and_then(Option::as_mut);
        let Some(peer) = peer.filter(|_| known) else {
            return self.complete_stale(outcome);
        };
        match outcome {
            Outcome::Connected(result) => {
                peer.operations[CONNECTING] = None;
                if result.is_err() {
                    return self.end(index);
                }
                peer.connected = true;
                self.outcome.made += 1;
            }
            Outcome::Received { buffer, more } => {
                let bytes = self.ring.received(&buffer);
                let taken = peer.session.receive(bytes, |_| Ok(()));
                self.ring.give_back(buffer);
                if !more {
                    peer.operations[RECEIVING] = None;
                }
                let done = !peer.session.is_handshaking();
                if taken.is_err() {
                    self.outcome.ended += 1;
                    self.end(index);
                } else if done {
                    self.outcome.finished += 1;
                    self.end(index);
                }
            }
            // Begun anew with the next tick; at once it would only end again.
            Outcome::ReceiveEnded(ReceiveEnd::BuffersExhausted) => {
                peer.operations[RECEIVING] = None;
            }
            Outcome::ReceiveEnded(_) => {
                self.outcome.ended += 1;
                self.end(index);
            }
            Outcome::Sent { block, .. } => {
                peer.operations[SENDING] = None;
                self.pool.give(block);
            }
            Outcome::Accepted(_) | Outcome::Woken => {}
        }
    }

    fn complete_stale(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Received { buffer, .. } => self.ring.give_back(buffer),
            Outcome::Sent { block, .. } => self.pool.give(block),
            _ => {}
        }
    }

    fn end(&mut self, index: usize) {
        if let Some(peer) = self.peers[index].take() {
            for operation in peer.operations.into_iter().flatten() {
                self.ring.cancel(operation);
            }
            if let Some(block) = peer.left {
                self.pool.give(block);
            }
            self.ring.close(peer.descriptor);
        }
    }
}
