//! Handshakes that wait for their part of a turn.
//!
//! A step of a handshake costs as much as relaying tens of requests. What clients that are being
//! served sent comes first in every turn; then handshakes get a part of it, and the rest waits.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::Shard;
use super::pressure;
use crate::close_reason::CloseReason;
use crate::connection::{Context, Event, Side};
use crate::limits::BLOCK_LEN;
use crate::ring::Received;
use crate::tls::hello::Hello;
use crate::trust::tally;

/// How long one turn of the loop spends on handshakes while others are being served. At least one
/// step is taken.
const TURN_BUDGET: Duration = Duration::from_micros(100);

/// And while nobody is. Longer turns take less of the CPU: what the ring and the wakeups of clients
/// cost is shared by more steps, and so is warming the caches.
const TURN_BUDGET_ALONE: Duration = Duration::from_millis(1);

/// So long after somebody was served, others may come.
const SERVED_LATELY: Duration = Duration::from_secs(1);

/// Clients that wait for an answer to their first message above which those that offer to resume are
/// answered first, which costs a part of a full handshake, and of each kind the newest: it is the one
/// that has not given up yet.
const OVERLOAD: usize = 64;

/// Clients that are reset in one turn of the loop because they waited too long.
const SHED_PER_TURN: usize = 64;

/// Connections whose clients sent a part of a handshake, each once. Each has a number, in the order in
/// which they came, so that one that has ended is found at once.
#[derive(Default)]
pub(super) struct Handshakes {
    /// Nothing has been spent on these yet.
    new: BTreeMap<u64, Waiting>,
    /// As those, but they offer to resume; told apart only under overload.
    resuming: BTreeMap<u64, Waiting>,
    /// These need one more step.
    begun: BTreeMap<u64, Waiting>,
    /// The number of the one that came last.
    last: u64,
    /// When a connection that had been answered before was last served.
    served: Option<Instant>,
}

/// A connection whose client waits for an answer.
#[derive(Clone, Copy)]
struct Waiting {
    key: u32,
    since: Instant,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Queue {
    New,
    Resuming,
    Begun,
}

/// Where a connection waits. Of one that is served meanwhile it leads nowhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    queue: Queue,
    number: u64,
    /// What its client wants is known, so far as a look at its message tells.
    is_told: bool,
}

impl Handshakes {
    fn push_begun(&mut self, key: u32, since: Instant) -> Place {
        self.push(Queue::Begun, Waiting { key, since })
    }

    /// Takes one whose client `sent` a part of its first message at least.
    fn push_new(&mut self, key: u32, since: Instant, sent: &[u8]) -> Place {
        let mut place = self.push(Queue::New, Waiting { key, since });
        self.look_again(&mut place, sent);
        place
    }

    fn push(&mut self, queue: Queue, waiting: Waiting) -> Place {
        self.last += 1;
        let number = self.last;
        self.queue(queue).insert(number, waiting);
        Place {
            queue,
            number,
            is_told: false,
        }
    }

    fn queue(&mut self, queue: Queue) -> &mut BTreeMap<u64, Waiting> {
        match queue {
            Queue::New => &mut self.new,
            Queue::Resuming => &mut self.resuming,
            Queue::Begun => &mut self.begun,
        }
    }

    /// Looks at the first message of one that waits, of which more has come; once it is whole, no
    /// more. It stays before those that came after it.
    fn look_again(&mut self, place: &mut Place, sent: &[u8]) {
        if !self.is_overloaded() || place.queue != Queue::New || place.is_told {
            return;
        }
        let hello = Hello::peek(sent);
        place.is_told = hello != Hello::Partial;
        if hello == Hello::Resuming
            && let Some(waiting) = self.new.remove(&place.number)
        {
            place.queue = Queue::Resuming;
            self.resuming.insert(place.number, waiting);
        }
    }

    /// The next to serve: those that something was spent on, so that it is not lost.
    fn pop(&mut self) -> Option<u32> {
        if let Some((_, begun)) = self.begun.pop_first() {
            return Some(begun.key);
        }
        let next = if self.is_overloaded() {
            self.resuming.pop_last().or_else(|| self.new.pop_last())
        } else {
            self.oldest()?.pop_first()
        };
        next.map(|(_, waiting)| waiting.key)
    }

    /// The queue of new ones at whose front the oldest is.
    fn oldest(&mut self) -> Option<&mut BTreeMap<u64, Waiting>> {
        let queues = [&mut self.resuming, &mut self.new].into_iter();
        let queues = queues.filter_map(|queue| Some((*queue.first_key_value()?.0, queue)));
        queues
            .min_by_key(|(number, _)| *number)
            .map(|(_, queue)| queue)
    }

    /// One that has waited since `since`, or longer, for its first answer.
    fn pop_waiting_since(&mut self, since: Instant) -> Option<u32> {
        let first = self.oldest()?.first_entry()?;
        (first.get().since <= since).then(|| first.remove().key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.unanswered() + self.begun.len()
    }

    fn unanswered(&self) -> usize {
        self.new.len() + self.resuming.len()
    }

    fn is_overloaded(&self) -> bool {
        self.unanswered() > OVERLOAD
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

    /// Forgets a connection that has ended, or is served out of its turn.
    pub(super) fn forget(&mut self, place: Option<Place>) {
        if let Some(place) = place {
            self.queue(place.queue).remove(&place.number);
        }
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
        let header = self.introduce(key, buffer);
        let len = self.ring.received(buffer).len() - header;
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return false;
        };
        if len == 0 {
            return true;
        }
        if entry.waiting.len() + len > BLOCK_LEN {
            self.overran(key);
        }
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return false;
        };
        if !entry.connection.is_handshaking() {
            return false;
        }
        let sent = &self.ring.received(buffer)[header..];
        entry.waiting.extend_from_slice(sent);
        // Whoever was not answered is still at its first message, in how many parts it may come.
        let place = match (entry.place.take(), entry.answered.is_some()) {
            (None, true) => self.handshakes.push_begun(key, self.now),
            (None, false) => self.handshakes.push_new(key, self.now, &entry.waiting),
            (Some(place), true) => place,
            (Some(mut place), false) => {
                self.handshakes.look_again(&mut place, &entry.waiting);
                place
            }
        };
        entry.place = Some(place);
        true
    }

    /// Has room for more of what a client sent, of which no more may wait.
    ///
    /// One that was answered is at its part, which it may send in one: its step comes now. Before the
    /// answer nobody has so much to say (nothing may follow a ClientHello but early data, which nobody
    /// is offered), and whoever goes on all the same is not served before those that wait.
    fn overran(&mut self, key: u32) {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        self.handshakes.forget(entry.place.take());
        if entry.answered.is_some() || entry.speaks_no_tls() {
            return self.take_step(key);
        }
        entry.waiting = Vec::new();
        let mut context = Context {
            now: self.now,
            pool: &mut self.pool,
            actions: &mut self.actions,
        };
        entry.connection.overran(&mut context);
        self.carry_out(key);
    }

    /// Takes the header that a load balancer sends in front of a handshake; how many bytes of it came.
    fn introduce(&mut self, key: u32, buffer: &Received) -> usize {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return 0;
        };
        let mut context = Context {
            now: self.now,
            pool: &mut self.pool,
            actions: &mut self.actions,
        };
        let bytes = self.ring.received(buffer);
        let was_introducing = entry.connection.is_introducing();
        let taken = entry.connection.introduce(bytes, &mut context);
        let is_introduced = was_introducing && !entry.connection.is_introducing();
        // A header that is no good has ended the connection.
        if is_introduced && entry.connection.is_handshaking() {
            self.count_introduced(key);
        }
        taken
    }

    /// Resets those whose first message has waited for so long that they will not wait for its answer
    /// any more.
    pub(super) fn shed_handshakes(&mut self) {
        let patience = self.snapshot.limits.half_open.queue;
        let Some(since) = self.now.checked_sub(patience) else {
            return;
        };
        for _ in 0..SHED_PER_TURN {
            let Some(key) = self.handshakes.pop_waiting_since(since) else {
                return;
            };
            if let Some(entry) = self.connections.get_mut(key as usize) {
                entry.waiting = Vec::new();
                entry.place = None;
            }
            self.shed(key, CloseReason::Overloaded);
        }
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

    /// Takes the end of a side's stream where it has to wait, or gives it back.
    ///
    /// What a client said before its end comes first, when it is its turn. One that was never
    /// answered cannot end its handshake any more, so nothing is spent on it; but whoever speaks no
    /// TLS is told so, which takes a look at the first byte.
    pub(super) fn keeps_end(
        &mut self,
        key: u32,
        side: Side,
        end: io::Result<()>,
    ) -> Option<io::Result<()>> {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return Some(end);
        };
        if side == Side::Upstream || entry.waiting.is_empty() {
            return Some(end);
        }
        if entry.answered.is_some() {
            entry.end_behind = Some(end);
            return None;
        }
        let is_told = entry.speaks_no_tls();
        self.handshakes.forget(entry.place.take());
        if is_told {
            self.take_step(key);
        } else {
            entry.waiting = Vec::new();
        }
        Some(end)
    }

    fn take_step(&mut self, key: u32) {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        entry.has_begun = true;
        entry.place = None;
        let mut bytes = std::mem::take(&mut entry.waiting);
        // Of what was done elsewhere.
        tally::take();
        self.dispatch(key, Event::Received(Side::Client, &mut bytes));
        let tally = tally::take();
        self.inbox.counters().count_step(&tally);
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        entry.verdict_remembered |= tally.verdict_remembered;
        if let Some(end) = entry.end_behind.take() {
            self.dispatch(key, Event::Ended(Side::Client, end));
        }
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

    const LATER: Duration = Duration::from_secs(9);

    /// First messages: the beginning of one that offers nothing, and one with a pre_shared_key.
    const FULL: &[u8] = &[22, 3, 1];
    const RESUMING: &[u8] = &{
        // Both headers, random, three empty vectors, and one extension of four bytes.
        let mut hello = [0; 5 + 4 + 34 + 1 + 2 + 1 + 2 + 4];
        [hello[0], hello[4]] = [22, 48];
        [hello[5], hello[8]] = [1, 44];
        [hello[48], hello[50]] = [4, 41];
        hello
    };

    /// Where keys from 0 on wait, the next one a millisecond behind the one before.
    fn waiting(start: Instant, all: &[(usize, &[u8])]) -> (Handshakes, Vec<Place>) {
        let mut handshakes = Handshakes::default();
        let messages = all
            .iter()
            .flat_map(|&(n, sent)| std::iter::repeat_n(sent, n));
        let places = (0..).zip(messages).map(|(key, sent)| {
            let since = start + Duration::from_millis(u64::from(key));
            handshakes.push_new(key, since, sent)
        });
        let places = places.collect();
        (handshakes, places)
    }

    #[test]
    fn what_has_begun_comes_first_and_the_oldest_of_the_others() {
        let start = Instant::now();
        let (mut handshakes, _) = waiting(start, &[(2, FULL), (1, RESUMING)]);
        handshakes.push_begun(7, start);
        handshakes.push_begun(6, start);
        let order: Vec<_> = std::iter::from_fn(|| handshakes.pop()).collect();
        assert_eq!(order, [7, 6, 0, 1, 2]);
        assert!(handshakes.is_empty());
    }

    #[test]
    fn under_overload_the_newest_comes_first() {
        let (mut handshakes, _) = waiting(Instant::now(), &[(OVERLOAD + 2, FULL)]);
        let count = u32::try_from(OVERLOAD).unwrap() + 2;
        assert_eq!(handshakes.pop(), Some(count - 1));
        assert_eq!(handshakes.pop(), Some(count - 2));
        assert_eq!(handshakes.pop(), Some(0), "no overload any more");
    }

    #[test]
    fn under_overload_those_that_resume_come_before() {
        let all = [(OVERLOAD + 1, FULL), (2, RESUMING), (1, FULL)];
        let (mut handshakes, _) = waiting(Instant::now(), &all);
        let first = u32::try_from(OVERLOAD).unwrap() + 1;
        let order: Vec<_> = (0..4).filter_map(|_| handshakes.pop()).collect();
        assert_eq!(order, [first + 1, first, first + 2, first - 1]);
        assert_eq!(handshakes.pop(), Some(0), "no overload any more");
    }

    #[test]
    fn a_message_that_came_in_parts_is_looked_at_again() {
        let (overload, start) = (u32::try_from(OVERLOAD).unwrap() + 1, Instant::now());
        let (mut handshakes, mut places) = waiting(start, &[(OVERLOAD + 3, FULL)]);
        handshakes.look_again(&mut places[OVERLOAD + 1], RESUMING);
        handshakes.look_again(&mut places[OVERLOAD + 2], &RESUMING[..20]);
        assert_eq!(handshakes.pop(), Some(overload));
        assert_eq!(
            handshakes.pop(),
            Some(overload + 1),
            "the newest of the others"
        );
        assert_eq!(handshakes.len(), OVERLOAD + 1);
        handshakes.look_again(&mut places[OVERLOAD + 1], RESUMING);
        assert_eq!(handshakes.len(), OVERLOAD + 1, "it waits no more");
    }

    #[test]
    fn a_message_that_is_whole_is_looked_at_once() {
        const WHOLE: &[u8] = &[22, 3, 1, 0, 1, 1];
        let (mut handshakes, mut places) = waiting(Instant::now(), &[(OVERLOAD + 2, WHOLE)]);
        let [unlooked, looked] = [0, OVERLOAD + 1];
        assert!(!places[unlooked].is_told, "there was no overload");
        assert!(places[looked].is_told);
        handshakes.look_again(&mut places[looked], RESUMING);
        assert_eq!(handshakes.resuming.len(), 0);
        handshakes.look_again(&mut places[unlooked], RESUMING);
        assert_eq!(handshakes.resuming.len(), 1);
    }

    #[test]
    fn one_that_turns_out_to_resume_keeps_its_place() {
        let start = Instant::now();
        let (mut handshakes, mut places) =
            waiting(start, &[(OVERLOAD + 1, FULL), (1, RESUMING), (1, FULL)]);
        handshakes.look_again(&mut places[3], RESUMING);
        assert_eq!(handshakes.pop(), Some(65), "the newest that resumes");
        let found = std::iter::from_fn(|| handshakes.pop_waiting_since(start + LATER));
        assert!(found.eq((0..65).chain([66])));
    }

    #[test]
    fn who_waited_too_long_is_found_the_oldest_first() {
        let start = Instant::now();
        let (mut handshakes, _) = waiting(start, &[(OVERLOAD + 1, FULL), (2, RESUMING)]);
        handshakes.push_begun(9_999, start);
        let since = start + Duration::from_millis(OVERLOAD as u64 + 1);
        let found = std::iter::from_fn(|| handshakes.pop_waiting_since(since));
        assert!(found.eq(0..=u32::try_from(OVERLOAD).unwrap() + 1));
        assert_eq!(handshakes.len(), 2, "one came later, one has begun");
    }

    #[test]
    fn who_has_ended_is_not_served() {
        let start = Instant::now();
        let (mut handshakes, places) = waiting(start, &[(OVERLOAD + 1, FULL), (1, RESUMING)]);
        let begun = handshakes.push_begun(9_999, start);
        for place in places.into_iter().chain([begun]) {
            handshakes.forget(Some(place));
        }
        handshakes.forget(None);
        assert_eq!(handshakes.pop(), None);
    }

    #[test]
    fn very_many_that_leave_are_forgotten_one_by_one() {
        let (mut handshakes, places) = waiting(Instant::now(), &[(100_000, FULL)]);
        for (left, place) in (0..100_000).rev().zip(places) {
            handshakes.forget(Some(place));
            assert_eq!(handshakes.len(), left);
            handshakes.forget(Some(place));
        }
        assert!(handshakes.is_empty());
    }
}
