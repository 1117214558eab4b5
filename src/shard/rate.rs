//! Rates of connections: one shard's part of a limit, and what of it is used up.
//!
//! A limit of `r` a second and `b` at once on `n` shards is a token bucket of `b / n` on each, which
//! gains `r / n` a second; a bucket holds at least one token, or its shard would never take anybody.
//! So over any time `t` all shards together take at most `r * t + max(b, n)`.
//!
//! Tokens are told as time, as in the generic cell rate algorithm (ITU-T I.371): one is the interval
//! at which they come, and a bucket is known by when it will be full again. Fractions need no care.

use std::time::{Duration, Instant};

use crate::snapshot::RateLimit;

const SECOND_NS: u64 = 1_000_000_000;

/// One shard's part of a limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Rate {
    /// Nanoseconds in which a token comes; never none.
    interval: u64,
    /// Nanoseconds in which an empty bucket becomes full; at least one interval.
    depth: u64,
}

impl Rate {
    /// The part of one of `shards`.
    pub(super) fn of(limit: RateLimit, shards: usize) -> Self {
        let shards = u64::try_from(shards.max(1)).unwrap_or(u64::MAX);
        // Rounded to the side of fewer tokens.
        let interval = shards
            .saturating_mul(SECOND_NS)
            .div_ceil(u64::from(limit.per_second.max(1)));
        let depth = scale(u64::from(limit.burst), interval, shards);
        Self {
            interval,
            depth: depth.max(interval),
        }
    }
}

/// What is left of a rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    full_at: Instant,
    /// Of the rate that it was used under last.
    interval: u64,
}

impl Bucket {
    pub(super) fn full(now: Instant) -> Self {
        Self {
            full_at: now,
            interval: 1,
        }
    }

    /// Takes a token, unless there is none.
    pub(super) fn take(&mut self, now: Instant, rate: &Rate) -> bool {
        let is_there = self.has_token(now, rate);
        if is_there {
            self.full_at += Duration::from_nanos(rate.interval);
        }
        is_there
    }

    /// Whether there is a token. Those that are missing go on missing under another rate, up to a
    /// bucket that is empty.
    pub(super) fn has_token(&mut self, now: Instant, rate: &Rate) -> bool {
        let mut missing = self.missing(now);
        if self.interval != rate.interval {
            missing = scale(missing, rate.interval, self.interval);
            self.interval = rate.interval;
        }
        missing = missing.min(rate.depth);
        self.full_at = now + Duration::from_nanos(missing);
        missing + rate.interval <= rate.depth
    }

    /// Nanoseconds until it is full.
    pub(super) fn missing(&self, now: Instant) -> u64 {
        let missing = self.full_at.saturating_duration_since(now);
        u64::try_from(missing.as_nanos()).unwrap_or(u64::MAX)
    }
}

fn scale(value: u64, by: u64, of: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(by) / u128::from(of);
    // Depths are far smaller, and cap it.
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(per_second: u32, burst: u32) -> RateLimit {
        RateLimit { per_second, burst }
    }

    fn taken(bucket: &mut Bucket, now: Instant, rate: &Rate) -> u32 {
        let takes = std::iter::from_fn(|| bucket.take(now, rate).then_some(()));
        u32::try_from(takes.take(1 << 21).count()).unwrap()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let (rate, start) = (Rate::of(limit(10, 5), 1), Instant::now());
        let mut bucket = Bucket::full(start);
        assert_eq!(taken(&mut bucket, start, &rate), 5);
        for tenth in 1..=20 {
            let now = start + Duration::from_millis(100 * tenth);
            assert_eq!(taken(&mut bucket, now, &rate), 1);
        }
        let rested = start + Duration::from_secs(3600);
        assert_eq!(taken(&mut bucket, rested, &rate), 5);
    }

    #[test]
    fn a_limit_of_less_than_the_shards_is_had_in_parts() {
        let (rate, start) = (Rate::of(limit(1, 1), 4), Instant::now());
        let mut bucket = Bucket::full(start);
        assert_eq!(taken(&mut bucket, start, &rate), 1);
        let nearly = start + Duration::from_millis(3_999);
        assert_eq!(taken(&mut bucket, nearly, &rate), 0);
        let then = start + Duration::from_secs(4);
        assert_eq!(taken(&mut bucket, then, &rate), 1);
    }

    #[test]
    fn what_is_used_up_stays_so_under_another_rate() {
        let start = Instant::now();
        let rates = [(100, 4), (1, 4), (5_000, 4)].map(|(r, b)| Rate::of(limit(r, b), 1));
        for before in &rates {
            for after in &rates {
                let mut bucket = Bucket::full(start);
                assert_eq!(taken(&mut bucket, start, before), 4);
                assert_eq!(taken(&mut bucket, start, after), 0);
                let mut bucket = Bucket::full(start);
                assert!(bucket.take(start, before));
                assert_eq!(taken(&mut bucket, start, after), 3);
            }
        }
        let small = Rate::of(limit(100, 1), 1);
        let mut bucket = Bucket::full(start);
        assert_eq!(taken(&mut bucket, start, &rates[0]), 4);
        let soon = start + Duration::from_millis(10);
        assert_eq!(taken(&mut bucket, soon, &small), 0);
        let then = soon + Duration::from_millis(10);
        assert_eq!(taken(&mut bucket, then, &small), 1, "it was no emptier");
    }

    #[test]
    fn the_largest_and_the_smallest_are_within_range() {
        let start = Instant::now();
        for (per_second, burst) in [(1, u32::MAX), (u32::MAX, 1), (u32::MAX, u32::MAX), (1, 1)] {
            for shards in [1, 7, crate::limits::SHARDS_MAX] {
                let rate = Rate::of(limit(per_second, burst), shards);
                assert!(rate.interval > 0 && rate.depth >= rate.interval);
                assert!(Bucket::full(start).take(start, &rate));
            }
        }
    }

    proptest! {
        /// Whatever comes when, on whichever shard: over any window all of them together take no
        /// more than the limit.
        #[test]
        fn all_shards_together_keep_to_the_limit(
            per_second in 1..5_000_u32,
            burst in 1..200_u32,
            shards in 1..9_usize,
            tries in prop::collection::vec((0..9_usize, 0..50_000_000_u64), 1..400),
        ) {
            let (rate, start) = (Rate::of(limit(per_second, burst), shards), Instant::now());
            let mut buckets = vec![Bucket::full(start); shards];
            let (mut at, mut taken) = (0, Vec::new());
            for (shard, later) in tries {
                at += later;
                if buckets[shard % shards].take(start + Duration::from_nanos(at), &rate) {
                    taken.push(at);
                }
            }
            let at_once = u128::from(burst).max(shards as u128);
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let allowed = u128::from(per_second) * u128::from(to - from)
                        + at_once * u128::from(SECOND_NS);
                    let count = (last - first + 1) as u128;
                    prop_assert!(count * u128::from(SECOND_NS) <= allowed);
                }
            }
        }

        /// And no less: who comes no faster than the limit is taken every time.
        #[test]
        fn who_keeps_to_the_limit_is_never_refused(
            per_second in 1..5_000_u32,
            burst in 1..200_u32,
            shards in 1..9_usize,
        ) {
            let (rate, start) = (Rate::of(limit(per_second, burst), shards), Instant::now());
            let mut bucket = Bucket::full(start);
            for step in 0..200 {
                let now = start + Duration::from_nanos(rate.interval * step);
                prop_assert!(bucket.take(now, &rate));
            }
        }
    }
}
