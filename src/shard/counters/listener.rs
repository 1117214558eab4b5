//! What a shard counts of one listener.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::add;
use super::histogram::Histogram;
use crate::close_reason::CloseReason;

/// Upper bounds of handshake times, from accept to the client being let in.
static HANDSHAKE_BOUNDS_NS: [u64; 14] = [
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// How a client was let in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HandshakeKind {
    /// Its chain was checked.
    Full,
    /// The verdict on its chain was remembered.
    Cached,
    /// It came back with a ticket.
    Resumed,
    /// A full one, with a round trip more for a key exchange group that both know.
    Retried,
}

impl HandshakeKind {
    pub const ALL: [Self; 4] = [Self::Full, Self::Cached, Self::Resumed, Self::Retried];

    /// The stable name used in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Cached => "cached",
            Self::Resumed => "resumed",
            Self::Retried => "retried",
        }
    }
}

/// Figures of one listener on one shard. Only the shard writes.
#[derive(Debug)]
#[repr(align(128))]
pub struct ListenerCounters {
    accepted: AtomicU64,
    /// Connections of a listener that was given another name, which go on as this one's.
    adopted: AtomicU64,
    /// Connections that are over, or go on as another's.
    ended: AtomicU64,
    established: [AtomicU64; HandshakeKind::ALL.len()],
    /// Handshakes that ended without a client let in.
    refused: [AtomicU64; CloseReason::ALL.len()],
    closed: [AtomicU64; CloseReason::ALL.len()],
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    /// From accept to the client being let in.
    pub handshake_times: Histogram<14>,
}

impl Default for ListenerCounters {
    fn default() -> Self {
        let none = || [const { AtomicU64::new(0) }; CloseReason::ALL.len()];
        Self {
            accepted: AtomicU64::new(0),
            adopted: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            established: [const { AtomicU64::new(0) }; HandshakeKind::ALL.len()],
            refused: none(),
            closed: none(),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
            handshake_times: Histogram::new(&HANDSHAKE_BOUNDS_NS),
        }
    }
}

impl ListenerCounters {
    /// Connections accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        let [adopted, ended] = [&self.adopted, &self.ended].map(|it| it.load(Ordering::Relaxed));
        (self.accepted() + adopted).saturating_sub(ended)
    }

    /// Handshakes that ended with a client let in.
    pub fn established(&self, kind: HandshakeKind) -> u64 {
        self.established[kind as usize].load(Ordering::Relaxed)
    }

    /// Handshakes that ended for `reason`, without a client let in.
    pub fn refused(&self, reason: CloseReason) -> u64 {
        self.refused[reason as usize].load(Ordering::Relaxed)
    }

    /// Connections that ended for `reason`.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize].load(Ordering::Relaxed)
    }

    /// Plaintext bytes from clients and to them.
    pub fn bytes(&self) -> [u64; 2] {
        [&self.bytes_up, &self.bytes_down].map(|bytes| bytes.load(Ordering::Relaxed))
    }

    pub(in crate::shard) fn count_accepted(&self) {
        add(&self.accepted, 1);
    }

    /// A connection of `before` goes on as one of this listener.
    pub(in crate::shard) fn adopt_from(&self, before: &Self) {
        add(&before.ended, 1);
        add(&self.adopted, 1);
    }

    pub(in crate::shard) fn count_established(&self, kind: HandshakeKind, took: Duration) {
        add(&self.established[kind as usize], 1);
        self.handshake_times.record(took);
    }

    /// A connection is over; `refused` where no client had been let in.
    pub(in crate::shard) fn count_closed(&self, reason: CloseReason, refused: bool) {
        add(&self.ended, 1);
        add(&self.closed[reason as usize], 1);
        add(&self.refused[reason as usize], u64::from(refused));
    }

    pub(in crate::shard) fn count_bytes(&self, [up, down]: [u64; 2]) {
        add(&self.bytes_up, up);
        add(&self.bytes_down, down);
    }
}
