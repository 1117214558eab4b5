//! Where handshakes come from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use super::half_open::{Arrival, HalfOpen, State};
use crate::snapshot::HalfOpenLimits;

/// The part of a client's address that tells sources apart.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Source {
    V4(u32),
    V6(u128),
}

/// Handshakes going on for each source that has any, so never more sources than handshakes. Keys are
/// hashed with a secret, because clients choose them.
pub(super) struct Sources {
    going_on: HashMap<Source, GoingOn>,
    /// `None`: nothing is counted.
    bound: Option<Bound>,
}

#[derive(Default)]
struct GoingOn {
    handshakes: usize,
    half_open: HalfOpen,
}

#[derive(Clone, Copy)]
struct Bound {
    max: usize,
    mask_v4: u32,
    mask_v6: u128,
}

impl Sources {
    /// Where `handshakes` may go on in all.
    pub(super) fn new(limits: &HalfOpenLimits, handshakes: usize) -> Self {
        let mut sources = Self {
            going_on: HashMap::new(),
            bound: None,
        };
        sources.set_bound(limits, handshakes);
        sources
    }

    /// Changes the bound. What is counted stays counted as it was.
    pub(super) fn set_bound(&mut self, limits: &HalfOpenLimits, handshakes: usize) {
        let mask_v4 = u32::MAX.checked_shl(32 - u32::from(limits.prefix_v4.min(32)));
        let mask_v6 = u128::MAX.checked_shl(128 - u32::from(limits.prefix_v6.min(128)));
        self.bound = (limits.per_source < handshakes).then(|| Bound {
            max: limits.per_source,
            mask_v4: mask_v4.unwrap_or(0),
            mask_v6: mask_v6.unwrap_or(0),
        });
    }

    /// The source of `address`, or `None` where sources are not told apart. An IPv4 client is one
    /// however it is written: as IPv6, all of them would be in one network.
    pub(super) fn of(&self, address: IpAddr) -> Option<Source> {
        let bound = self.bound?;
        Some(match address.to_canonical() {
            IpAddr::V4(address) => Source::V4(address.to_bits() & bound.mask_v4),
            IpAddr::V6(address) => Source::V6(address.to_bits() & bound.mask_v6),
        })
    }

    /// Whether a source has as many handshakes going on as it may.
    pub(super) fn is_full(&self, source: Option<Source>) -> bool {
        let (Some(source), Some(bound)) = (source, self.bound) else {
            return false;
        };
        let going_on = self.going_on.get(&source);
        going_on.is_some_and(|going_on| going_on.handshakes >= bound.max)
    }

    pub(super) fn add(&mut self, source: Option<Source>) {
        if let Some(source) = source {
            self.going_on.entry(source).or_default().handshakes += 1;
        }
    }

    /// Remembers a connection that was added to `source`.
    pub(super) fn remember(
        &mut self,
        source: Option<Source>,
        arrival: Arrival,
        state: impl Fn(&Arrival) -> State,
    ) {
        if let Some(going_on) = source.and_then(|source| self.going_on.get_mut(&source)) {
            going_on.half_open.push(arrival, going_on.handshakes, state);
        }
    }

    /// The client of `source` that gives way to another of it, if any.
    pub(super) fn next_of(
        &mut self,
        source: Option<Source>,
        now: Instant,
        state: impl Fn(&Arrival) -> State,
    ) -> Option<u32> {
        let going_on = self.going_on.get_mut(&source?)?;
        going_on.half_open.next(now, state)
    }

    pub(super) fn remove(&mut self, source: Option<Source>) {
        if let Some(source) = source
            && let Some(going_on) = self.going_on.get_mut(&source)
        {
            going_on.handshakes -= 1;
            if going_on.handshakes == 0 {
                self.going_on.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(per_source: usize, prefix_v4: u8, prefix_v6: u8) -> Sources {
        let limits = HalfOpenLimits {
            per_source,
            prefix_v4,
            prefix_v6,
            ..HalfOpenLimits::of(100)
        };
        Sources::new(&limits, 100)
    }

    fn of(sources: &Sources, address: &str) -> Option<Source> {
        sources.of(address.parse().unwrap())
    }

    #[test]
    fn each_source_has_its_own_bound() {
        let mut sources = sources(2, 32, 64);
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|address| of(&sources, address));
        assert_ne!(one, other);
        for _ in 0..2 {
            assert!(!sources.is_full(one));
            sources.add(one);
        }
        assert!(sources.is_full(one) && !sources.is_full(other));
        sources.remove(one);
        assert!(!sources.is_full(one));
        sources.remove(one);
        assert!(sources.going_on.is_empty(), "nothing is kept of who left");
    }

    #[test]
    fn prefixes_tell_sources_apart() {
        for (v4, v6, one, other, same) in [
            (32, 64, "10.0.0.1", "10.0.0.2", false),
            (24, 64, "10.0.0.1", "10.0.0.200", true),
            (24, 64, "10.0.0.1", "10.0.1.1", false),
            (1, 64, "10.0.0.1", "100.0.1.1", true),
            (1, 64, "10.0.0.1", "200.0.1.1", false),
            (32, 64, "fd00::1", "fd00::2", true),
            (32, 64, "fd00::1", "fd00:0:0:1::1", false),
            (32, 128, "fd00::1", "fd00::2", false),
            (32, 1, "fd00::1", "8000::", true),
            (32, 1, "fd00::1", "7000::", false),
            (32, 64, "0.0.0.0", "::", false),
            (32, 64, "::ffff:10.0.0.1", "::ffff:10.0.0.2", false),
            (32, 64, "::ffff:10.0.0.1", "10.0.0.1", true),
            (24, 64, "::ffff:10.0.0.1", "10.0.0.2", true),
        ] {
            let sources = sources(1, v4, v6);
            let is_same = of(&sources, one) == of(&sources, other);
            assert_eq!(is_same, same, "{one} {other} /{v4} /{v6}");
        }
    }

    #[test]
    fn no_bound_counts_nothing() {
        let sources = sources(100, 32, 64);
        assert_eq!(of(&sources, "10.0.0.1"), None);
        assert!(!sources.is_full(None));
    }

    #[test]
    fn another_bound_lets_go_of_what_was_counted_before() {
        let mut sources = sources(2, 32, 64);
        let before = of(&sources, "10.0.0.1");
        sources.add(before);
        let limits = HalfOpenLimits {
            per_source: 1,
            prefix_v4: 8,
            ..HalfOpenLimits::of(100)
        };
        sources.set_bound(&limits, 100);
        let after = of(&sources, "10.0.0.1");
        assert!(!sources.is_full(after));
        sources.add(after);
        assert!(sources.is_full(after));
        sources.set_bound(&limits, 1);
        sources.remove(before);
        sources.remove(after);
        assert!(sources.going_on.is_empty());
    }
}
