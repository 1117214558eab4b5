//! How long a client that was let in may stay.

use std::time::{Duration, Instant};

use super::Shard;
use super::entry::Entry;
use crate::clock::Clock;
use crate::close_reason::CloseReason;
use crate::connection::{Command, Event};
use crate::snapshot::Tenure;

/// The calendar is looked at this often, because it can be set and its pace is not that of timers.
const CALENDAR_LOOK: Duration = Duration::from_secs(3600);

/// When a connection's time is up at the latest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TimeUp {
    /// The connection ends, for this reason.
    At(Instant, CloseReason),
    /// Not yet; look again then.
    LookAgain(Instant),
}

impl TimeUp {
    pub(super) fn instant(self) -> Instant {
        match self {
            Self::At(instant, _) | Self::LookAgain(instant) => instant,
        }
    }
}

impl Shard {
    /// Finds out when the time of an open connection is up, and sees to it that this is noticed.
    pub(super) fn begin_tenure(&mut self, key: u32) {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        let tenure = entry.front.listener.tenure;
        entry.time_up = match tenure {
            Tenure {
                until_expiry: false,
                max_age: None,
            } => None,
            _ => time_up(entry, tenure, self.now, &self.clock),
        };
        self.arm(key);
    }

    /// Ends a connection whose time is up.
    pub(super) fn time_is_up(&mut self, key: u32, reason: CloseReason) {
        if let Some(entry) = self.connections.get_mut(key as usize) {
            entry.time_up = None;
        }
        self.dispatch(key, Event::Command(Command::End(reason)));
    }
}

fn time_up(entry: &Entry, tenure: Tenure, now: Instant, clock: &Clock) -> Option<TimeUp> {
    let session = entry.connection.session()?;
    let expiry = tenure
        .until_expiry
        .then(|| until_expiry(session.client.peer().not_after(), clock))
        .map(|left| {
            if left <= CALENDAR_LOOK {
                TimeUp::At(now + left, CloseReason::ExpiredWhileOpen)
            } else {
                TimeUp::LookAgain(now + CALENDAR_LOOK)
            }
        });
    let max_age = tenure.max_age.map(|age| {
        let age = jittered(age, entry.connection.unique_id());
        TimeUp::At(entry.accepted_at + age, CloseReason::MaxAge)
    });
    [expiry, max_age]
        .into_iter()
        .flatten()
        .min_by_key(|time_up| time_up.instant())
}

/// The time left of a chain that is valid through the second `not_after`.
fn until_expiry(not_after: i64, clock: &Clock) -> Duration {
    let end = u64::try_from(not_after.saturating_add(1)).unwrap_or(0);
    Duration::from_secs(end).saturating_sub(clock.unix())
}

/// Between nine and eleven tenths of `age`, by which connection it is.
fn jittered(age: Duration, unique_id: u128) -> Duration {
    // Neighbouring numbers are to land far apart (Knuth's multiplicative hash).
    const GOLDEN: u32 = 0x9e37_79b9;
    let [a, b, c, d, ..] = unique_id.to_le_bytes();
    let spread = u32::from_le_bytes([a, b, c, d]).wrapping_mul(GOLDEN);
    age * 9 / 10 + (age / 5).mul_f64(f64::from(spread) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_spread_over_a_tenth_each_way() {
        let age = Duration::from_secs(1000);
        let ages: Vec<_> = (0..1000).map(|id| jittered(age, id).as_secs()).collect();
        assert!(
            ages.iter().all(|age| (900..=1100).contains(age)),
            "{ages:?}"
        );
        for tenth in 0..10_u64 {
            let from = 900 + tenth * 20;
            let count = ages.iter().filter(|&&age| (from..from + 20).contains(&age));
            assert!((50..=150).contains(&count.count()), "from {from}");
        }
    }

    #[test]
    fn a_chain_is_valid_through_its_last_second() {
        let clock = Clock::manual(Duration::from_millis(10_999));
        assert_eq!(until_expiry(10, &clock), Duration::from_millis(1));
        assert_eq!(until_expiry(9, &clock), Duration::ZERO);
        assert_eq!(until_expiry(-1, &clock), Duration::ZERO);
    }
}
