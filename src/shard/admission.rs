//! How many connections and handshakes a shard takes on.

use std::net::IpAddr;
use std::time::Instant;

use super::half_open::{Arrival, State};
use super::sources::{Source, Sources};
use crate::snapshot::Limits;

/// Counts what is open against the bounds.
pub(super) struct Admission {
    connections: usize,
    connections_max: usize,
    handshakes: usize,
    handshakes_max: usize,
    sources: Sources,
}

impl Admission {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            connections: 0,
            connections_max: limits.connections,
            handshakes: 0,
            handshakes_max: limits.handshakes,
            sources: Sources::new(&limits.half_open, limits.handshakes),
        }
    }

    /// Changes the bounds. What is open beyond them stays.
    pub(super) fn set_bounds(&mut self, limits: &Limits) {
        self.connections_max = limits.connections;
        self.handshakes_max = limits.handshakes;
        self.sources.set_bound(&limits.half_open, limits.handshakes);
    }

    /// What a client at `address` is counted under, if anything.
    pub(super) fn source(&self, address: IpAddr) -> Option<Source> {
        self.sources.of(address)
    }

    /// Whether `source` has all the handshakes going on that it may.
    pub(super) fn is_source_full(&self, source: Option<Source>) -> bool {
        self.sources.is_full(source)
    }

    /// Whether neither bound is reached.
    pub(super) fn has_room(&self) -> bool {
        self.connections < self.connections_max && self.has_room_for_handshake()
    }

    /// Whether there may be another handshake.
    pub(super) fn has_room_for_handshake(&self) -> bool {
        self.handshakes < self.handshakes_max
    }

    /// Counts a handshake that goes on under its source, which has just become known.
    pub(super) fn count_in_source(&mut self, source: Option<Source>) {
        self.sources.add(source);
    }

    /// Remembers a connection as one of `source`.
    pub(super) fn remember(
        &mut self,
        source: Option<Source>,
        arrival: Arrival,
        state: impl Fn(&Arrival) -> State,
    ) {
        self.sources.remember(source, arrival, state);
    }

    /// The client of `source` that gives way to another of it, if any.
    pub(super) fn next_of(
        &mut self,
        source: Option<Source>,
        now: Instant,
        state: impl Fn(&Arrival) -> State,
    ) -> Option<u32> {
        self.sources.next_of(source, now, state)
    }

    /// Counts a new connection, which begins with a handshake.
    pub(super) fn admit(&mut self, source: Option<Source>) {
        self.connections += 1;
        self.handshakes += 1;
        self.sources.add(source);
    }

    pub(super) fn handshake_done(&mut self, source: Option<Source>) {
        self.handshakes -= 1;
        self.sources.remove(source);
    }

    pub(super) fn connection_done(&mut self) {
        self.connections -= 1;
    }

    pub(super) fn connections(&self) -> usize {
        self.connections
    }

    pub(super) fn handshakes(&self) -> usize {
        self.handshakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::HalfOpenLimits;

    fn admission(connections: usize, handshakes: usize, per_source: usize) -> Admission {
        Admission::new(&Limits {
            connections,
            handshakes,
            half_open: HalfOpenLimits {
                per_source,
                ..HalfOpenLimits::of(handshakes)
            },
            buffer_blocks: 0,
        })
    }

    #[test]
    fn both_bounds_hold_and_free_up() {
        let mut admission = admission(3, 2, 2);
        for _ in 0..2 {
            assert!(admission.has_room());
            admission.admit(None);
        }
        assert!(!admission.has_room(), "a third handshake at once");
        admission.handshake_done(None);
        assert!(admission.has_room());
        admission.admit(None);
        admission.handshake_done(None);
        assert!(!admission.has_room(), "a fourth connection");
        admission.connection_done();
        assert!(admission.has_room());
        admission.admit(None);
        assert_eq!((admission.connections(), admission.handshakes()), (3, 2));
    }

    #[test]
    fn a_source_counts_as_long_as_its_handshake() {
        let mut admission = admission(10, 10, 1);
        let source = admission.source([10, 0, 0, 1].into());
        assert!(source.is_some() && !admission.is_source_full(source));
        admission.admit(source);
        assert!(admission.is_source_full(source));
        assert!(!admission.is_source_full(admission.source([10, 0, 0, 2].into())));
        admission.handshake_done(source);
        assert!(!admission.is_source_full(source), "its connection is open");
    }
}
