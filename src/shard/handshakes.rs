//! Handshakes that wait for their part of a turn.
//!
//! A step of a handshake costs as much as relaying tens of requests. What clients that are being
//! served sent comes first in every turn; then handshakes get a part of it, and the rest waits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Shard;
use super::pressure;
use crate::connection::{Event, Side};
use crate::limits::BLOCK_LEN;
use crate::ring::Received;
use crate::trust::tally;

/// How long one turn of the loop spends on handshakes while others are being served. At least one
/// step is taken.
const TURN_BUDGET: Duration = Duration::from_micros(100);

/// And while nobody is. Longer turns take less of the CPU: what the ring and the wakeups of clients
/// cost is shared by more steps, and so is warming the caches.
const TURN_BUDGET_ALONE: Duration = Duration::from_millis(1);

/// So long after somebody was served, others may come.
const SERVED_LATELY: Duration = Duration::from_secs(1);

/// Clients that wait for an answer to their first message above which the newest is answered first:
/// it is the one that has not given up yet.
const OVERLOAD: usize = 64;

/// Connections whose clients sent a part of a handshake, each once.
#[derive(Default)]
pub(super) struct Handshakes {
    /// Nothing has been spent on these yet, the oldest first.
    new: VecDeque<u32>,
    /// These need one more step, the oldest first.
    begun: VecDeque<u32>,
    /// When a connection that had been answered before was last served.
    served: Option<Instant>,
}

impl Handshakes {
    fn push(&mut self, key: u32, has_begun: bool) {
        if has_begun {
            self.begun.push_back(key);
        } else {
            self.new.push_back(key);
        }
    }

    /// The next to serve: those that something was spent on, so that it is not lost.
    fn pop(&mut self) -> Option<u32> {
        let newest_first = self.is_overloaded();
        self.begun.pop_front().or_else(|| {
            if newest_first {
                self.new.pop_back()
            } else {
                self.new.pop_front()
            }
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.new.is_empty() && self.begun.is_empty()
    }

    fn is_overloaded(&self) -> bool {
        self.new.len() > OVERLOAD
    }

    /// A connection that had been answered before is being served: others must not wait long.
    pub(super) fn make_way(&mut self, now: Instant) {
        self.served = Some(now);
    }

    /// How long a turn may be.
    fn budget(&self, now: Instant) -> Duration {
        match self.served {
            Some(served) if now.saturating_duration_since(served) < SERVED_LATELY => TURN_BUDGET,
            _ => TURN_BUDGET_ALONE,
        }
    }

    /// Forgets a connection that has ended.
    pub(super) fn forget(&mut self, key: u32) {
        self.new.retain(|&waiting| waiting != key);
        self.begun.retain(|&waiting| waiting != key);
    }
}

impl Shard {
    /// Whether what a client sent can be kept for its handshake, which takes no block.
    pub(super) fn has_room_for_handshake(&mut self, key: u32, buffer: &Received) -> bool {
        let len = self.ring.received(buffer).len();
        self.connections.get(key as usize).is_some_and(|entry| {
            let is_next = entry.connection.is_handshaking() && entry.client.parked == 0;
            is_next && entry.waiting.len() + len <= BLOCK_LEN
        })
    }

    /// Keeps what a handshaking client sent until it is its turn. False where there is no handshake
    /// any more.
    pub(super) fn keeps_for_handshake(&mut self, key: u32, buffer: &Received) -> bool {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return false;
        };
        if !entry.connection.is_handshaking() {
            return false;
        }
        let len = self.ring.received(buffer).len();
        if entry.waiting.len() + len > BLOCK_LEN {
            // A connection is never given more at once than a receive can bring.
            self.handshakes.forget(key);
            self.take_step(key);
        }
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return false;
        };
        if !entry.connection.is_handshaking() {
            return false;
        }
        if entry.waiting.is_empty() {
            self.handshakes.push(key, entry.has_begun);
        }
        entry.waiting.extend_from_slice(self.ring.received(buffer));
        true
    }

    /// Goes on with handshakes for a part of the turn.
    pub(super) fn go_on_with_handshakes(&mut self) {
        if self.handshakes.is_empty() {
            return;
        }
        let began = self.clock.now();
        let budget = self.handshakes.budget(began);
        while pressure::has_room(&self.pool)
            && let Some(key) = self.handshakes.pop()
        {
            self.take_step(key);
            if self.clock.now() - began >= budget {
                return;
            }
        }
    }

    /// A handshaking client has ended its stream, or reset it. What it sent before comes first,
    /// unless others wait and nothing is lost: then nothing is spent on it.
    pub(super) fn client_left_handshake(&mut self, key: u32, side: Side) {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        if side == Side::Upstream || entry.waiting.is_empty() {
            return;
        }
        self.handshakes.forget(key);
        if !entry.has_begun && self.handshakes.is_overloaded() {
            entry.waiting = Vec::new();
        } else {
            self.take_step(key);
        }
    }

    fn take_step(&mut self, key: u32) {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        entry.has_begun = true;
        let mut bytes = std::mem::take(&mut entry.waiting);
        // Of what was done elsewhere.
        tally::take();
        self.dispatch(key, Event::Received(Side::Client, &mut bytes));
        self.inbox.counters().count_step(&tally::take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_short_while_others_are_served() {
        let (mut handshakes, now) = (Handshakes::default(), Instant::now());
        assert_eq!(handshakes.budget(now), TURN_BUDGET_ALONE);
        handshakes.make_way(now);
        let later = now + SERVED_LATELY;
        assert_eq!(handshakes.budget(now), TURN_BUDGET);
        assert_eq!(
            handshakes.budget(later - Duration::from_nanos(1)),
            TURN_BUDGET
        );
        assert_eq!(handshakes.budget(later), TURN_BUDGET_ALONE);
    }

    #[test]
    fn what_has_begun_comes_first_and_the_oldest_of_the_others() {
        let mut handshakes = Handshakes::default();
        for (key, has_begun) in [(1, false), (2, true), (3, false), (4, true)] {
            handshakes.push(key, has_begun);
        }
        let order: Vec<_> = std::iter::from_fn(|| handshakes.pop()).collect();
        assert_eq!(order, [2, 4, 1, 3]);
        assert!(handshakes.is_empty());
    }

    #[test]
    fn under_overload_the_newest_comes_first() {
        let mut handshakes = Handshakes::default();
        let count = u32::try_from(OVERLOAD).unwrap() + 2;
        (0..count).for_each(|key| handshakes.push(key, false));
        assert_eq!(handshakes.pop(), Some(count - 1));
        assert_eq!(handshakes.pop(), Some(count - 2));
        assert_eq!(handshakes.pop(), Some(0), "no overload any more");
    }

    #[test]
    fn who_has_ended_is_not_served() {
        let mut handshakes = Handshakes::default();
        handshakes.push(1, false);
        handshakes.push(2, true);
        handshakes.forget(1);
        handshakes.forget(2);
        assert_eq!(handshakes.pop(), None);
    }
}
