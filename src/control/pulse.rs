//! Whether the shards' loops turn: one that stands still serves nobody, and no restart of it but the
//! process's helps.

use std::time::{Duration, Instant};

/// Between two looks there are milliseconds.
const HELD_UP: Duration = Duration::from_millis(1500);

/// When each shard was last seen to turn.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    felt: Option<Instant>,
    /// The turns of its loop, and since when they have been that many.
    shards: Vec<(u64, Instant)>,
}

impl Pulse {
    /// Takes in the turns of each shard by `now`; those that have ended owe none.
    pub(super) fn feel(&mut self, now: Instant, turns: impl Iterator<Item = Option<u64>>) {
        // Whoever did not look for as long as that was held up itself, and so may they have been: by a
        // host that slept, or a process that was stopped.
        let is_late = |felt| now.saturating_duration_since(felt) >= HELD_UP;
        let begins_anew = self.felt.replace(now).is_none_or(is_late);
        for (shard, turns) in turns.enumerate() {
            if self.shards.len() == shard {
                self.shards.push((turns.unwrap_or(0), now));
            }
            let known = &mut self.shards[shard];
            if turns != Some(known.0) || begins_anew {
                *known = (turns.unwrap_or(0), now);
            }
        }
    }

    /// A shard that has not turned for as long as `patience`.
    pub(super) fn stands_still(&self, now: Instant, patience: Duration) -> Option<usize> {
        let is_late = |at: &Instant| now.saturating_duration_since(*at) >= patience;
        self.shards.iter().position(|(_, at)| is_late(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_held_up_itself_blames_nobody() {
        const PATIENCE: Duration = Duration::from_secs(2);
        let (mut pulse, start) = (Pulse::default(), Instant::now());
        let mut looks = |ms: u64| {
            let now = start + Duration::from_millis(ms);
            pulse.feel(now, [Some(7), None].into_iter());
            pulse.stands_still(now, PATIENCE)
        };
        assert_eq!([0, 1_000, 1_900].map(&mut looks), [None; 3]);
        assert_eq!(looks(2_000), Some(0));
        assert_eq!(looks(9_000), None, "it did not look for seven seconds");
        assert_eq!([10_000, 10_900].map(&mut looks), [None; 2]);
        assert_eq!(looks(11_000), Some(0));
    }
}
