//! What a shard takes on of half-open connections, and how fast connections may come.

use std::time::Duration;

use super::document::{Entry, Table};
use crate::limits::{
    HANDSHAKE_QUEUE, HANDSHAKES_PER_SOURCE_MIN, HANDSHAKES_PER_SOURCE_SHARE, RATE_MAX,
    SOURCE_PREFIX_V4, SOURCE_PREFIX_V6,
};

const QUEUE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(300);

/// Bounds of connections whose handshake is not done, besides how many there may be in all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HalfOpenLimits {
    /// Handshakes going on at a time for one source; as many as there may be in all: no bound.
    pub per_source: usize,
    /// Bits of an IPv4 address that tell sources apart.
    pub prefix_v4: u8,
    /// Bits of an IPv6 address that tell sources apart.
    pub prefix_v6: u8,
    /// How long a client's first message waits for its answer before the client is reset.
    pub queue: Duration,
}

impl HalfOpenLimits {
    /// The defaults where `handshakes` may go on at a time.
    pub fn of(handshakes: usize) -> Self {
        let per_source = handshakes / HANDSHAKES_PER_SOURCE_SHARE;
        Self {
            per_source: per_source.max(HANDSHAKES_PER_SOURCE_MIN).min(handshakes),
            prefix_v4: SOURCE_PREFIX_V4,
            prefix_v6: SOURCE_PREFIX_V6,
            queue: HANDSHAKE_QUEUE,
        }
    }

    /// Reads them from `[limits]`.
    pub(super) fn read(table: Option<&Table<'_>>, handshakes: usize) -> Self {
        let entry = |key| table.and_then(|table| table.entry(key));
        let default = Self::of(handshakes);
        let per_source = entry("handshakes_per_source").and_then(|entry| {
            let per_source = entry.count(1..=crate::limits::CONNECTIONS_PER_SHARD_MAX)?;
            if per_source > handshakes {
                let problem = format!("is more than the {handshakes} handshakes of a shard");
                let remedy =
                    format!("lower it ({handshakes}: no bound), or raise limits.handshakes");
                entry.report(problem, remedy);
            }
            Some(per_source)
        });
        let bits = |key, max: u8| {
            let count = entry(key)?.count(1..=usize::from(max))?;
            u8::try_from(count).ok()
        };
        Self {
            per_source: per_source.unwrap_or(default.per_source),
            prefix_v4: bits("source_prefix_v4", 32).unwrap_or(default.prefix_v4),
            prefix_v6: bits("source_prefix_v6", 128).unwrap_or(default.prefix_v6),
            queue: entry("handshake_queue")
                .and_then(|entry| entry.duration(QUEUE))
                .unwrap_or(default.queue),
        }
    }
}

/// How fast connections may come, on all shards together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RateLimit {
    pub per_second: u32,
    /// How many may come at once after a quiet time; at least one for each shard.
    pub burst: u32,
}

impl std::fmt::Display for RateLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/s, {} at once", self.per_second, self.burst)
    }
}

/// Reads a rate and its burst, which is as much as a second brings unless given. `None`: not given;
/// a rate of 0 is no limit.
pub(super) fn rate(
    table: &Table<'_>,
    rate_key: &'static str,
    burst_key: &'static str,
) -> Option<Option<RateLimit>> {
    let number = |entry: &Entry<'_>, least: usize| {
        let count = entry.count(least..=RATE_MAX as usize)?;
        u32::try_from(count).ok()
    };
    let (rate, burst) = (table.entry(rate_key), table.entry(burst_key));
    let Some(rate) = rate else {
        if let Some(burst) = burst {
            let remedy = format!("add {rate_key}, connections a second, or remove this line");
            burst.report(format!("there is no {rate_key} beside it"), remedy);
        }
        return None;
    };
    let per_second = number(&rate, 0).unwrap_or(0);
    let burst = burst.and_then(|burst| number(&burst, 1));
    Some((per_second > 0).then(|| RateLimit {
        per_second,
        burst: burst.unwrap_or(per_second),
    }))
}
