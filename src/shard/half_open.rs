//! Who gives way when there are too many connections whose handshake is not done.
//!
//! A client that is there sends its first message right behind the connection, so the one that has
//! kept us waiting for longest is the one that most likely never will. Peers that only connect may
//! so hold every place, and a newcomer still gets one, in which it has time enough to speak. The
//! same holds among the clients of one source, where that has all the handshakes that it may.
//!
//! A client that was refused is let in no more: while it lingers, to take its alert, it gives way first.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Shard;
use super::entry::Entry;
use super::sources::Source;
use crate::close_reason::CloseReason;
use crate::connection::{Command, Event};

/// How long every client has to send its first message. It comes with the connection or right behind
/// it; this is for a client that does not get to run at once.
const HEARING: Duration = Duration::from_millis(10);

/// How long a client that was answered has for its part: round trips, and signing with a slow key.
const REPLY: Duration = Duration::from_secs(1);

/// Clients that wait for us and are passed over in the search for one.
const PASSED_OVER_MAX: usize = 16;

/// Arrivals that are never too many, so that few connections do not cause frequent searches.
const ARRIVALS_MIN: usize = 8;

/// Connections that are or were half open, the oldest first.
#[derive(Default)]
pub(super) struct HalfOpen {
    /// These were not answered when they were looked at last.
    unanswered: VecDeque<Arrival>,
    /// By the time of the answer.
    answered: VecDeque<Arrival>,
    /// These were found waiting for us. They are looked at again before a search, so that they neither
    /// hide others nor lose their place among them.
    passed_over: VecDeque<Arrival>,
}

/// Connections whose clients were refused and may be taking their alerts, the oldest first.
#[derive(Default)]
pub(super) struct Lingering(VecDeque<Arrival>);

impl Lingering {
    /// Remembers one, where so many connections are open; `lingers` says which still do.
    fn push(&mut self, refused: Arrival, open: usize, lingers: impl Fn(&Arrival) -> bool) {
        self.0.push_back(refused);
        if self.0.len() > 2 * open + ARRIVALS_MIN {
            self.0.retain(lingers);
        }
    }

    fn next(&mut self, lingers: impl Fn(&Arrival) -> bool) -> Option<u32> {
        while let Some(first) = self.0.pop_front() {
            if lingers(&first) {
                return Some(first.key);
            }
        }
        None
    }
}

/// A connection that came, or what happened to it since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) key: u32,
    /// Tells it from one before with that key.
    pub(super) number: u64,
    pub(super) at: Instant,
}

/// Whom a connection waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// It is half open no more.
    Over,
    /// What its client sent waits for its turn.
    WaitsForUs,
    /// Its client has not sent a whole first message.
    Unanswered,
    /// Since then.
    Answered(Instant),
}

impl HalfOpen {
    /// Remembers who came, and forgets who is half open no more once those are the most.
    pub(super) fn push(
        &mut self,
        arrival: Arrival,
        half_open: usize,
        state: impl Fn(&Arrival) -> State,
    ) {
        self.unanswered.push_back(arrival);
        if self.len() > 2 * half_open + ARRIVALS_MIN {
            for arrivals in [
                &mut self.unanswered,
                &mut self.answered,
                &mut self.passed_over,
            ] {
                arrivals.retain(|arrival| state(arrival) != State::Over);
            }
        }
    }

    /// The one that gives way: of those that were not answered the oldest, for nothing was spent on
    /// it, or else the oldest of the others; `None` where each may still be at its part.
    pub(super) fn next(&mut self, now: Instant, state: impl Fn(&Arrival) -> State) -> Option<u32> {
        self.look_again(&state);
        let waited = |arrival: Arrival| now.saturating_duration_since(arrival.at);
        let mut passed_over = 0;
        while passed_over < PASSED_OVER_MAX
            && let Some(first) = self.unanswered.front().copied()
        {
            let state = state(&first);
            if state == State::Unanswered && waited(first) < HEARING {
                break;
            }
            self.unanswered.pop_front();
            match state {
                State::Over => {}
                State::Answered(at) => self.was_answered(Arrival { at, ..first }),
                State::Unanswered => return Some(first.key),
                State::WaitsForUs => {
                    self.passed_over.push_back(first);
                    passed_over += 1;
                }
            }
        }
        while passed_over < 2 * PASSED_OVER_MAX
            && let Some(first) = self.answered.front().copied()
            && waited(first) >= REPLY
        {
            self.answered.pop_front();
            match state(&first) {
                State::Over => {}
                // Once more, to a second first message.
                State::Answered(at) if at > first.at => {
                    self.was_answered(Arrival { at, ..first });
                    passed_over += 1;
                }
                State::Answered(_) | State::Unanswered => return Some(first.key),
                State::WaitsForUs => {
                    self.passed_over.push_back(first);
                    passed_over += 1;
                }
            }
        }
        None
    }

    fn len(&self) -> usize {
        self.unanswered.len() + self.answered.len() + self.passed_over.len()
    }

    /// Puts those back into their places that waited for us and do no more, of some each time.
    fn look_again(&mut self, state: impl Fn(&Arrival) -> State) {
        for _ in 0..self.passed_over.len().min(2 * PASSED_OVER_MAX) {
            let Some(first) = self.passed_over.pop_front() else {
                return;
            };
            match state(&first) {
                State::Over => {}
                State::WaitsForUs => self.passed_over.push_back(first),
                State::Answered(at) => self.was_answered(Arrival { at, ..first }),
                State::Unanswered => {
                    let before =
                        |other: &Arrival| (other.at, other.number) <= (first.at, first.number);
                    let at = self.unanswered.partition_point(before);
                    self.unanswered.insert(at, first);
                }
            }
        }
    }

    fn was_answered(&mut self, answered: Arrival) {
        let before = |other: &Arrival| other.at <= answered.at;
        let at = self.answered.partition_point(before);
        self.answered.insert(at, answered);
    }
}

fn state(entry: Option<&Entry>, arrival: &Arrival) -> State {
    match entry {
        Some(entry) if entry.number == arrival.number && entry.handshaking => {
            if !entry.waiting.is_empty() || entry.client.parked > 0 {
                State::WaitsForUs
            } else if let Some(at) = entry.answered {
                State::Answered(at)
            } else {
                State::Unanswered
            }
        }
        _ => State::Over,
    }
}

/// Whether the client of `refused` may still be taking its alert.
fn lingers(entry: Option<&Entry>, refused: &Arrival) -> bool {
    entry.is_some_and(|entry| {
        let is_refused = !entry.handshaking && entry.connection.session().is_none();
        entry.number == refused.number && is_refused && !entry.connection.is_closed()
    })
}

impl Shard {
    /// Remembers a connection that has just come, as one of a source where that is known.
    pub(super) fn remember_arrival(&mut self, arrival: Arrival, source: Option<Source>) {
        self.remember_in_source(arrival, source);
        let connections = &self.connections;
        let half_open = self.admission.handshakes();
        self.half_open.push(arrival, half_open, |arrival| {
            state(connections.get(arrival.key as usize), arrival)
        });
    }

    /// Remembers a connection as one of a source that has just become known.
    pub(super) fn remember_in_source(&mut self, arrival: Arrival, source: Option<Source>) {
        let connections = &self.connections;
        self.admission.remember(source, arrival, |arrival| {
            state(connections.get(arrival.key as usize), arrival)
        });
    }

    /// Remembers a connection whose client was refused.
    pub(super) fn remember_refused(&mut self, refused: Arrival) {
        let connections = &self.connections;
        self.lingering.push(refused, connections.len(), |refused| {
            lingers(connections.get(refused.key as usize), refused)
        });
    }

    /// Has a client that was refused, or else one that let us wait, give way to a newcomer; false
    /// where there is none.
    pub(super) fn make_room(&mut self) -> bool {
        let connections = &self.connections;
        // Who was refused is no handshake any more.
        let refused = self.admission.has_room_for_handshake().then(|| {
            self.lingering
                .next(|refused| lingers(connections.get(refused.key as usize), refused))
        });
        let gives_way = refused.flatten().or_else(|| {
            self.half_open.next(self.now, |arrival| {
                state(connections.get(arrival.key as usize), arrival)
            })
        });
        self.gives_way(gives_way)
    }

    /// The same among the clients of one source.
    pub(super) fn make_room_in(&mut self, source: Option<Source>) -> bool {
        let connections = &self.connections;
        let gives_way = self.admission.next_of(source, self.now, |arrival| {
            state(connections.get(arrival.key as usize), arrival)
        });
        self.gives_way(gives_way)
    }

    fn gives_way(&mut self, key: Option<u32>) -> bool {
        if let Some(key) = key {
            self.shed(key, CloseReason::GaveWay);
        }
        key.is_some()
    }

    /// Resets a client whose handshake is not done.
    pub(super) fn shed(&mut self, key: u32, reason: CloseReason) {
        self.dispatch(key, Event::Command(Command::Cut(reason)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half-open connections by number, each in a state.
    struct Crowd {
        half_open: HalfOpen,
        states: Vec<State>,
        start: Instant,
    }

    impl Crowd {
        /// One comes each millisecond.
        fn new(states: &[State]) -> Self {
            Self::since(Instant::now(), states)
        }

        fn since(start: Instant, states: &[State]) -> Self {
            let mut crowd = Self {
                half_open: HalfOpen::default(),
                states: Vec::new(),
                start,
            };
            states.iter().for_each(|&state| crowd.comes(state));
            crowd
        }

        fn comes(&mut self, state: State) {
            let number = self.states.len();
            self.states.push(state);
            let arrival = Arrival {
                key: u32::try_from(number).unwrap(),
                number: number as u64,
                at: self.start + Duration::from_millis(number as u64),
            };
            let half_open = self.states.iter().filter(|&&state| state != State::Over);
            let (count, states) = (half_open.count(), &self.states);
            self.half_open
                .push(arrival, count, |arrival| states[arrival.key as usize]);
        }

        fn gives_way(&mut self, at_ms: u64) -> Option<u32> {
            let now = self.start + Duration::from_millis(at_ms);
            let states = &self.states;
            let next = self
                .half_open
                .next(now, |arrival| states[arrival.key as usize]);
            if let Some(key) = next {
                self.states[key as usize] = State::Over;
            }
            next
        }
    }

    use State::{Answered, Over, Unanswered, WaitsForUs};

    /// Answered so many milliseconds after the start.
    fn answered(start: Instant, ms: u64) -> State {
        Answered(start + Duration::from_millis(ms))
    }

    #[test]
    fn the_oldest_that_sent_nothing_gives_way() {
        let start = Instant::now();
        let first = answered(start, 0);
        let states = [first, WaitsForUs, Unanswered, Over, Unanswered];
        let mut crowd = Crowd::since(start, &states);
        let order: Vec<_> = std::iter::from_fn(|| crowd.gives_way(999)).collect();
        assert_eq!(order, [2, 4], "a whole second for those answered");
    }

    #[test]
    fn who_was_answered_and_says_nothing_gives_way_after_those() {
        let start = Instant::now();
        let [first, third] = [0, 2].map(|ms| answered(start, ms));
        let mut crowd = Crowd::since(start, &[first, WaitsForUs, third, Unanswered]);
        let order: Vec<_> = std::iter::from_fn(|| crowd.gives_way(1_001)).collect();
        assert_eq!(
            order,
            [3, 0],
            "the third was answered less than a second ago"
        );
        assert_eq!(crowd.gives_way(1_002), Some(2));
        assert_eq!(crowd.gives_way(99_999), None, "we let it wait");
    }

    #[test]
    fn a_second_runs_from_the_last_answer() {
        let start = Instant::now();
        let states = [900, 10, 20].map(|ms| answered(start, ms));
        let mut crowd = Crowd::since(start, &states);
        assert_eq!(crowd.gives_way(1_009), None);
        assert_eq!(crowd.gives_way(1_010), Some(1), "though it came later");
        crowd.states[2] = answered(start, 1_000);
        assert_eq!(crowd.gives_way(1_899), None);
        assert_eq!(crowd.gives_way(1_900), Some(0));
        assert_eq!(crowd.gives_way(1_999), None);
        assert_eq!(crowd.gives_way(2_000), Some(2));
    }

    #[test]
    fn who_lingers_is_forgotten_with_its_connection() {
        let mut lingering = Lingering::default();
        for key in 0..10_000 {
            let at = Instant::now();
            let number = key.into();
            lingering.push(Arrival { key, number, at }, 2, |refused| refused.key == 3);
            assert!(lingering.0.len() <= 2 * 2 + ARRIVALS_MIN);
        }
        assert_eq!(lingering.next(|refused| refused.key == 3), Some(3));
        assert_eq!(lingering.next(|refused| refused.key == 3), None);
    }

    #[test]
    fn everybody_has_time_for_the_first_message() {
        let mut crowd = Crowd::new(&[Unanswered, Unanswered]);
        assert_eq!(crowd.gives_way(9), None);
        assert_eq!(crowd.gives_way(10), Some(0));
        assert_eq!(crowd.gives_way(10), None);
    }

    #[test]
    fn who_waits_for_us_is_looked_at_again_when_it_does_no_more() {
        let mut crowd = Crowd::new(&[WaitsForUs, Unanswered, WaitsForUs]);
        assert_eq!(crowd.gives_way(500), Some(1));
        assert_eq!(crowd.gives_way(500), None);
        crowd.states[0] = Unanswered;
        assert_eq!(crowd.gives_way(500), Some(0), "a part of a message only");
    }

    #[test]
    fn who_was_passed_over_keeps_its_place() {
        let mut crowd = Crowd::new(&[WaitsForUs, WaitsForUs, Unanswered]);
        assert_eq!(crowd.gives_way(5), None, "the third may still speak");
        crowd.comes(Unanswered);
        (crowd.states[0], crowd.states[1]) = (Unanswered, Unanswered);
        assert_eq!(crowd.gives_way(10), Some(0));
        let order: Vec<_> = std::iter::from_fn(|| crowd.gives_way(500)).collect();
        assert_eq!(order, [1, 2, 3]);
    }

    #[test]
    fn very_many_that_wait_for_us_hide_nobody() {
        let mut states = vec![WaitsForUs; 10 * PASSED_OVER_MAX];
        states.push(Unanswered);
        let mut crowd = Crowd::new(&states);
        let found = (0..11).find_map(|_| crowd.gives_way(9_999));
        assert_eq!(found, Some(10 * u32::try_from(PASSED_OVER_MAX).unwrap()));
    }

    #[test]
    fn what_is_remembered_stays_within_what_is_half_open() {
        let start = Instant::now();
        let mut crowd = Crowd::since(start, &[Unanswered, answered(start, 1)]);
        for _ in 0..10_000 {
            crowd.comes(Over);
            let len = crowd.half_open.len();
            assert!(len <= 2 * 2 + ARRIVALS_MIN, "{len}");
        }
        assert_eq!(crowd.gives_way(20_000), Some(0));
        assert_eq!(crowd.gives_way(20_000), Some(1));
    }
}
