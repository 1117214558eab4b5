//! Tells of upstreams that shards leave out because connects failed, and that are back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::report::escaped;
use crate::snapshot::{State, UpstreamAddress};

/// How often what shards count is looked at: an upstream gets no more than a line of each kind for it.
const LOOK: Duration = Duration::from_secs(1);

/// What was last seen of upstreams.
#[derive(Debug)]
pub(super) struct Ejections {
    next_at: Instant,
    seen: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    listener: Arc<str>,
    route: Arc<str>,
    address: UpstreamAddress,
    ejections: u64,
    is_out: bool,
}

impl Ejections {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next_at: now,
            seen: Vec::new(),
        }
    }

    /// Looks whether it is time, and tells what is new in `states`.
    pub(super) fn tick(&mut self, now: Instant, states: impl FnOnce() -> Vec<State>) {
        if now < self.next_at {
            return;
        }
        self.next_at = now + LOOK;
        let mut before = std::mem::take(&mut self.seen);
        // Of the others there is nothing to remember.
        let states = states().into_iter();
        for state in states.filter(|state| state.ejections > 0) {
            let known = before.iter().position(|seen| seen.is_of(&state));
            let known = known.map(|known| before.swap_remove(known));
            tell(known.as_ref(), &state);
            self.seen.push(Seen::of(state));
        }
    }
}

impl Seen {
    fn of(state: State) -> Self {
        Self {
            is_out: state.ejected_by > 0,
            ejections: state.ejections,
            listener: state.listener,
            route: state.route,
            address: state.address,
        }
    }

    fn is_of(&self, state: &State) -> bool {
        self.listener == state.listener
            && self.route == state.route
            && self.address == state.address
    }
}

fn tell(before: Option<&Seen>, state: &State) {
    let (ejections, was_out) = before.map_or((0, false), |seen| (seen.ejections, seen.is_out));
    let is_out = state.ejected_by > 0;
    let began = state.ejections > ejections;
    if !began && (is_out || !was_out) {
        return;
    }
    let [listener, route] = [&state.listener, &state.route].map(|name| escaped(name));
    let upstream = escaped(&state.address.to_string());
    if began {
        tracing::warn!(
            listener,
            route,
            upstream,
            shards = state.ejected_by,
            failures = state.failures,
            "connects to an upstream fail: it is left out"
        );
    }
    if !is_out {
        tracing::info!(
            listener,
            route,
            upstream,
            "no shard leaves the upstream out any more"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::control::fake::logged;

    fn state(port: u16, ejections: u64, ejected_by: usize) -> State {
        State {
            listener: Arc::from("front"),
            route: Arc::from("r"),
            address: UpstreamAddress::Tcp(([127, 0, 0, 1], port).into()),
            name: None,
            is_well: None,
            connections_max: None,
            open: 0,
            connects: 9,
            failures: 3,
            ejections,
            ejected_by,
        }
    }

    #[test]
    fn each_change_is_told_once_and_at_most_once_a_second() {
        let clock = Clock::manual(LOOK);
        let mut ejections = Ejections::new(clock.now());
        let mut look = |states: [State; 2]| {
            let text = logged(|| {
                for _ in 0..50 {
                    ejections.tick(clock.now(), || states.to_vec());
                }
            });
            clock.advance(LOOK);
            let out = text.matches("WARN connects to an upstream fail").count();
            let back = text.matches("INFO no shard leaves").count();
            assert_eq!(text.matches("upstream=\"127.0.0.1:2\"").count(), out + back);
            (out, back)
        };
        let other = || state(1, 0, 0);
        assert_eq!(look([other(), state(2, 0, 0)]), (0, 0));
        assert_eq!(look([other(), state(2, 1, 1)]), (1, 0));
        assert_eq!(look([other(), state(2, 1, 1)]), (0, 0));
        // Another shard; in another place.
        assert_eq!(look([state(2, 2, 2), other()]), (1, 0));
        assert_eq!(look([state(2, 2, 1), other()]), (0, 0));
        assert_eq!(look([state(2, 2, 0), other()]), (0, 1));
        assert_eq!(look([state(2, 2, 0), other()]), (0, 0));
        // Out and back, and out again, between two looks.
        assert_eq!(look([state(2, 7, 0), other()]), (1, 1));
        // One that begins anew.
        assert_eq!(look([state(2, 0, 0), other()]), (0, 0));
        assert_eq!(look([state(2, 1, 1), other()]), (1, 0));
        // However often it changes.
        let text = logged(|| {
            for times in 2..20 {
                ejections.tick(clock.now(), || vec![state(2, times, 0)]);
            }
        });
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}
