//! Whether the shards' loops turn: one that stands still serves nobody, and no restart of it but the
//! process's helps.

use std::time::{Duration, Instant};

/// When each shard was last seen to turn.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// The turns of its loop, and since when they have been that many.
    shards: Vec<(u64, Instant)>,
}

impl Pulse {
    /// Takes in the turns of each shard by `now`; those that have ended owe none.
    pub(super) fn feel(&mut self, now: Instant, turns: impl Iterator<Item = Option<u64>>) {
        for (shard, turns) in turns.enumerate() {
            if self.shards.len() == shard {
                self.shards.push((turns.unwrap_or(0), now));
            }
            let known = &mut self.shards[shard];
            if turns != Some(known.0) {
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
