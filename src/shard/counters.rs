//! What a shard counts. Only the shard writes; the control plane reads.

mod histogram;
mod listener;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::Pool;
use crate::close_reason::CloseReason;
use crate::ring::Ring;
use crate::trust::cache::CacheFigures;
use crate::trust::tally::Tally;

pub use histogram::{Durations, Histogram};
pub use listener::{HandshakeKind, ListenerCounters};

/// Upper bounds of the times that verdicts take.
static VERDICT_BOUNDS_NS: [u64; 11] = [
    1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
    25_000_000,
];

/// Figures of one shard. Aligned so that no other thread's data shares a cache line with them.
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    accepted: AtomicU64,
    established: AtomicU64,
    open: AtomicU64,
    handshaking: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    enters: AtomicU64,
    submissions: AtomicU64,
    completions: AtomicU64,
    buffers_exhausted: AtomicU64,
    parked: AtomicU64,
    reports_lost: AtomicU64,
    upstream_connects: AtomicU64,
    blocks_lent: AtomicU64,
    blocks_lent_max: AtomicU64,
    operations_in_flight: AtomicU64,
    slots_in_use: AtomicU64,
    verdict_hits: AtomicU64,
    verdict_misses: AtomicU64,
    verdicts_evicted: AtomicU64,
    verdicts_expired: AtomicU64,
    resumed: AtomicU64,
    generation: AtomicU64,
    overflows: AtomicU64,
    tickets_issued: AtomicU64,
    tickets_accepted: AtomicU64,
    tickets_declined: AtomicU64,
    /// How long verdicts on presented chains took, remembered or not.
    pub verdict_times: Histogram<11>,
    closed: [AtomicU64; CloseReason::ALL.len()],
}

macro_rules! figures {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        impl Counters {
            $($(#[$doc])* pub fn $name(&self) -> u64 {
                self.$name.load(Ordering::Relaxed)
            })*
        }
    };
}

figures! {
    /// Connections accepted.
    accepted;
    /// Handshakes that ended with a client let in.
    established;
    /// Connections open now.
    open;
    /// Handshakes going on now.
    handshaking;
    /// Plaintext bytes from clients.
    bytes_up;
    /// Plaintext bytes to clients.
    bytes_down;
    /// `io_uring_enter` calls.
    enters;
    /// Entries submitted.
    submissions;
    /// Completions taken.
    completions;
    /// Receives that found no buffer.
    buffers_exhausted;
    /// Times that what was received had to wait for blocks.
    parked;
    /// Reports that found the queue to the control plane full.
    reports_lost;
    /// Connects to upstreams that were started.
    upstream_connects;
    /// Blocks that connections hold now.
    blocks_lent;
    /// Blocks that connections held at once at most.
    blocks_lent_max;
    /// Ring operations whose completion is still to come.
    operations_in_flight;
    /// Direct descriptors in use.
    slots_in_use;
    /// Chains whose verdict was remembered.
    verdict_hits;
    /// Chains whose verdict was not, or had expired.
    verdict_misses;
    /// Verdicts that made room for others.
    verdicts_evicted;
    /// Verdicts that were remembered, but stood no more.
    verdicts_expired;
    /// The generation of the installation that the shard works from.
    generation;
    /// Handshakes that were resumed, of those that ended with a client let in.
    resumed;
    /// Times that the ring's completion queue was found overflown.
    overflows;
    /// Tickets given to clients.
    tickets_issued;
    /// Tickets offered by clients that they could resume with.
    tickets_accepted;
    /// Tickets offered by clients that were not, or no longer, good for that.
    tickets_declined;
}

/// Adds to a counter that only this thread writes: no locked instruction is needed.
pub(super) fn add(counter: &AtomicU64, by: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(by),
        Ordering::Relaxed,
    );
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            accepted: AtomicU64::new(0),
            established: AtomicU64::new(0),
            open: AtomicU64::new(0),
            handshaking: AtomicU64::new(0),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
            enters: AtomicU64::new(0),
            submissions: AtomicU64::new(0),
            completions: AtomicU64::new(0),
            buffers_exhausted: AtomicU64::new(0),
            parked: AtomicU64::new(0),
            reports_lost: AtomicU64::new(0),
            upstream_connects: AtomicU64::new(0),
            verdict_hits: AtomicU64::new(0),
            verdict_misses: AtomicU64::new(0),
            verdicts_evicted: AtomicU64::new(0),
            verdicts_expired: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            blocks_lent: AtomicU64::new(0),
            blocks_lent_max: AtomicU64::new(0),
            operations_in_flight: AtomicU64::new(0),
            slots_in_use: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            overflows: AtomicU64::new(0),
            tickets_issued: AtomicU64::new(0),
            tickets_accepted: AtomicU64::new(0),
            tickets_declined: AtomicU64::new(0),
            verdict_times: Histogram::new(&VERDICT_BOUNDS_NS),
            closed: [const { AtomicU64::new(0) }; CloseReason::ALL.len()],
        }
    }
}

impl Counters {
    /// Connections that ended for `reason`.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize].load(Ordering::Relaxed)
    }

    pub(super) fn count_parked(&self) {
        add(&self.parked, 1);
    }

    pub(super) fn count_accepted(&self) {
        add(&self.accepted, 1);
    }

    pub(super) fn count_established(&self, resumed: bool) {
        add(&self.established, 1);
        add(&self.resumed, u64::from(resumed));
    }

    /// What a step of a handshake led to.
    pub(super) fn count_step(&self, tally: &Tally) {
        if let Some(took) = tally.verdict_took {
            self.verdict_times.record(took);
        }
        for (counter, by) in [
            (&self.tickets_issued, tally.tickets_issued),
            (&self.tickets_accepted, tally.tickets_accepted),
            (&self.tickets_declined, tally.tickets_declined),
        ] {
            if by > 0 {
                add(counter, by);
            }
        }
    }

    pub(super) fn count_upstream_connect(&self) {
        add(&self.upstream_connects, 1);
    }

    pub(super) fn count_lost_report(&self) {
        add(&self.reports_lost, 1);
    }

    pub(super) fn count_bytes(&self, [up, down]: [u64; 2]) {
        add(&self.bytes_up, up);
        add(&self.bytes_down, down);
    }

    pub(super) fn count_closed(&self, reason: CloseReason) {
        add(&self.closed[reason as usize], 1);
    }

    pub(super) fn set_generation(&self, generation: u64) {
        // What the shard let go of is gone for whoever reads this.
        self.generation.store(generation, Ordering::Release);
    }

    pub(super) fn set_open(&self, open: usize, handshaking: usize) {
        self.open.store(open as u64, Ordering::Relaxed);
        self.handshaking
            .store(handshaking as u64, Ordering::Relaxed);
    }

    pub(super) fn set_pool(&self, pool: &Pool) {
        self.blocks_lent
            .store(pool.lent() as u64, Ordering::Relaxed);
        self.blocks_lent_max
            .store(pool.lent_max() as u64, Ordering::Relaxed);
    }

    pub(super) fn set_verdicts(&self, figures: CacheFigures) {
        self.verdict_hits.store(figures.hits, Ordering::Relaxed);
        self.verdict_misses.store(figures.misses, Ordering::Relaxed);
        self.verdicts_evicted
            .store(figures.evicted, Ordering::Relaxed);
        self.verdicts_expired
            .store(figures.expired, Ordering::Relaxed);
    }

    pub(super) fn set_ring(&self, ring: &Ring) {
        let in_flight = ring.operations_in_flight() as u64;
        self.operations_in_flight
            .store(in_flight, Ordering::Relaxed);
        self.slots_in_use
            .store(ring.slots_in_use() as u64, Ordering::Relaxed);
        let ring = ring.counters();
        self.enters.store(ring.enters, Ordering::Relaxed);
        self.submissions.store(ring.submissions, Ordering::Relaxed);
        self.completions.store(ring.completions, Ordering::Relaxed);
        self.buffers_exhausted
            .store(ring.buffers_exhausted, Ordering::Relaxed);
        self.overflows.store(ring.overflows, Ordering::Relaxed);
    }
}
