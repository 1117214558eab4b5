//! When to look at which connection again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Pending timers. There is no removal: whoever is named by a timer checks whether it still means
/// anything, which is cheaper than taking it out.
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, u32)>>,
}

impl Timers {
    pub(super) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
        }
    }

    pub(super) fn push(&mut self, at: Instant, key: u32) {
        self.heap.push(Reverse((at, key)));
    }

    /// How many run, those that mean nothing any more included.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Forgets the timers that `means_something` denies.
    pub(super) fn retain(&mut self, mut means_something: impl FnMut(Instant, u32) -> bool) {
        self.heap
            .retain(|Reverse((at, key))| means_something(*at, *key));
    }

    /// When the next one fires.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// One that fired by `now`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<u32> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, key))| key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timers_that_mean_nothing_can_be_forgotten() {
        let (mut timers, start) = (Timers::new(), Instant::now());
        (0..10).for_each(|key| timers.push(start, key));
        timers.retain(|_, key| key % 2 == 0);
        assert_eq!(timers.len(), 5);
        assert_eq!(timers.pop(start).map(|key| key % 2), Some(0));
    }

    #[test]
    fn timers_fire_in_order_and_not_before_their_time() {
        let (mut timers, start) = (Timers::new(), Instant::now());
        for (offset_ms, key) in [(30, 3), (10, 1), (20, 2)] {
            timers.push(start + Duration::from_millis(offset_ms), key);
        }
        assert_eq!(timers.next(), Some(start + Duration::from_millis(10)));
        assert_eq!(timers.pop(start), None);
        let later = start + Duration::from_millis(20);
        assert_eq!(
            [timers.pop(later), timers.pop(later), timers.pop(later)],
            [Some(1), Some(2), None]
        );
    }
}
