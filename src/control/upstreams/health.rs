//! Health checks: who is asked when, and what counts as well.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::probe::probe;
use crate::config::HealthCheck;
use crate::control::report::escaped;
use crate::limits::HEALTH_CHECKS_IN_FLIGHT_MAX;
use crate::snapshot::{Checked, Health};

/// What checks of one upstream have shown.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Checks in a row that say otherwise than what counts.
    contrary: u32,
}

impl Tally {
    /// Takes a check in; whether the upstream counts as something else from now on.
    fn note(&mut self, is_well: bool, health: &Health, check: &HealthCheck) -> bool {
        if is_well == health.is_well() {
            self.contrary = 0;
            return false;
        }
        self.contrary += 1;
        let needed = match is_well {
            true => check.healthy_after,
            false => check.unhealthy_after,
        };
        let changes = self.contrary >= needed;
        if changes {
            self.contrary = 0;
            health.set(is_well);
        }
        changes
    }
}

/// An upstream that is checked.
#[derive(Debug)]
struct Patient {
    /// Never another one's.
    id: u64,
    checked: Rc<Checked>,
    tally: Tally,
    next_at: Instant,
    is_asked: bool,
}

type Outcome = (u64, Result<(), String>);

/// Checks upstreams.
#[derive(Debug)]
pub(super) struct Checks {
    patients: Vec<Patient>,
    next_id: u64,
    in_flight: usize,
    /// Where the search for those that are due goes on: all have their turn, however many are under way.
    next: usize,
    /// Checks that have ended.
    outcomes: Rc<RefCell<Vec<Outcome>>>,
    jitter: Jitter,
}

impl Checks {
    pub(super) fn new() -> Self {
        Self {
            patients: Vec::new(),
            next_id: 0,
            in_flight: 0,
            next: 0,
            outcomes: Rc::default(),
            jitter: Jitter::new(RandomState::new().build_hasher().finish()),
        }
    }

    /// Checks these from now on. Those that were checked in the same way before go on as they were.
    pub(super) fn set(&mut self, all: Vec<Checked>, now: Instant) {
        let mut before = std::mem::take(&mut self.patients);
        for checked in all {
            let known = before
                .iter()
                .position(|patient| patient.checked.is(&checked));
            if let Some(known) = known {
                self.patients.push(before.swap_remove(known));
                continue;
            }
            self.next_id += 1;
            let within = checked.check.interval.mul_f64(self.jitter.next());
            self.patients.push(Patient {
                id: self.next_id,
                checked: Rc::new(checked),
                tally: Tally::default(),
                next_at: now + within,
                is_asked: false,
            });
        }
    }

    /// Starts the checks that are due and takes in those that have ended. Within an executor only,
    /// where there is somebody to check.
    pub(super) fn tick(&mut self, now: Instant) {
        let outcomes = self.outcomes.take();
        for (id, outcome) in outcomes {
            self.in_flight -= 1;
            self.note(id, &outcome, now);
        }
        for (id, checked) in self.due(now) {
            let outcomes = Rc::clone(&self.outcomes);
            glommio::spawn_local(async move {
                let outcome = probe(&checked).await;
                outcomes.borrow_mut().push((id, outcome));
            })
            .detach();
        }
    }

    /// Those that are due and may be asked now; they count as asked.
    fn due(&mut self, now: Instant) -> Vec<(u64, Rc<Checked>)> {
        let (len, begin, mut due) = (self.patients.len(), self.next, Vec::new());
        for at in (0..len).map(|offset| (begin + offset) % len) {
            if self.in_flight >= HEALTH_CHECKS_IN_FLIGHT_MAX {
                break;
            }
            let patient = &mut self.patients[at];
            if patient.is_asked || patient.next_at > now {
                continue;
            }
            patient.is_asked = true;
            self.in_flight += 1;
            self.next = at + 1;
            due.push((patient.id, Rc::clone(&patient.checked)));
        }
        due
    }

    fn note(&mut self, id: u64, outcome: &Result<(), String>, now: Instant) {
        let jitter = self.jitter.next();
        let mut patients = self.patients.iter_mut();
        // It may have gone meanwhile.
        let Some(patient) = patients.find(|patient| patient.id == id) else {
            return;
        };
        patient.is_asked = false;
        patient.next_at = now + jittered(patient.checked.check.interval, jitter);
        let checked = Rc::clone(&patient.checked);
        let is_news = patient
            .tally
            .note(outcome.is_ok(), &checked.health, &checked.check);
        if is_news {
            self.tell(&checked, outcome);
        }
    }

    fn tell(&self, checked: &Checked, outcome: &Result<(), String>) {
        let [listener, route] = [&checked.listener, &checked.route].map(|name| escaped(name));
        let upstream = escaped(&checked.address.to_string());
        let Err(problem) = outcome else {
            tracing::info!(listener, route, upstream, "upstream is well again");
            return;
        };
        let problem = escaped(problem);
        tracing::warn!(listener, route, upstream, problem, "upstream is unwell");
        let mut others = self.patients.iter().filter(|patient| {
            patient.checked.listener == checked.listener && patient.checked.route == checked.route
        });
        if !others.any(|patient| patient.checked.health.is_well()) {
            tracing::error!(
                listener,
                route,
                "every upstream of this route is unwell: connections go to all of them as if none \
                 were"
            );
        }
    }
}

/// Numbers that differ from one process to the next, so that hosts do not check at the same instant.
#[derive(Debug)]
struct Jitter(u64);

impl Jitter {
    fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// From 0 to 1 (xorshift64).
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let [a, b, c, d, ..] = self.0.to_le_bytes();
        f64::from(u32::from_le_bytes([a, b, c, d])) / f64::from(u32::MAX)
    }
}

/// Between nine and eleven tenths of `interval`.
fn jittered(interval: Duration, jitter: f64) -> Duration {
    interval.mul_f64(0.9 + jitter / 5.0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::config::{Greeting, UpstreamAddress};
    use crate::control::fake::logged;

    const SECOND: Duration = Duration::from_secs(1);

    fn check() -> HealthCheck {
        HealthCheck {
            interval: 2 * SECOND,
            timeout: SECOND,
            healthy_after: 2,
            unhealthy_after: 3,
            http: None,
        }
    }

    fn checked(port: u16) -> Checked {
        Checked {
            listener: Arc::from("front"),
            route: Arc::from("r"),
            address: UpstreamAddress::Tcp(([127, 0, 0, 1], port).into()),
            greeting: Greeting::Off,
            check: check(),
            health: Arc::default(),
        }
    }

    #[test]
    fn so_many_checks_in_a_row_change_what_counts() {
        let (mut tally, health, check) = (Tally::default(), Health::default(), check());
        let mut note = |well| tally.note(well, &health, &check);
        let changes = [false, false, true, false, false, false, false].map(&mut note);
        assert_eq!(changes, [false, false, false, false, false, true, false]);
        assert!(!health.is_well());
        let changes = [true, false, true, true, true].map(note);
        assert_eq!(changes, [false, false, false, true, false]);
        assert!(health.is_well());
    }

    #[test]
    fn changes_are_told_once_and_so_is_that_nobody_is_left() {
        let now = Clock::manual(SECOND).now();
        let mut checks = Checks::new();
        checks.set(vec![checked(1), checked(2)], now);
        let text = logged(|| {
            for id in [1, 2] {
                for _ in 0..5 {
                    checks.note(id, &Err("it sleeps\n".to_owned()), now);
                }
            }
        });
        assert_eq!(text.matches("upstream is unwell").count(), 2, "{text}");
        assert_eq!(text.matches("every upstream").count(), 1, "{text}");
        assert!(
            text.contains("127.0.0.1:2") && text.contains("it sleeps"),
            "{text}"
        );
        let text = logged(|| {
            for _ in 0..5 {
                checks.note(1, &Ok(()), now);
            }
        });
        assert_eq!(text.matches("well again").count(), 1, "{text}");
    }

    #[test]
    fn what_was_checked_before_goes_on_and_what_is_gone_is_forgotten() {
        let now = Clock::manual(SECOND).now();
        let mut checks = Checks::new();
        let stays = checked(1);
        checks.set(vec![stays.clone(), checked(2)], now);
        checks.note(1, &Err(String::new()), now);
        checks.set(vec![checked(3), stays.clone()], now);
        assert_eq!(checks.patients[1].tally.contrary, 1);
        checks.note(2, &Err(String::new()), now);
        let otherwise = Checked {
            check: HealthCheck {
                interval: 9 * SECOND,
                ..check()
            },
            ..stays
        };
        checks.set(vec![otherwise], now);
        assert_eq!(checks.patients[0].tally.contrary, 0);
        assert_eq!(checks.patients[0].checked.check.interval, 9 * SECOND);
    }

    #[test]
    fn all_are_checked_however_long_some_take() {
        let clock = Clock::manual(SECOND);
        let mut checks = Checks::new();
        let count = u16::try_from(4 * HEALTH_CHECKS_IN_FLIGHT_MAX).unwrap();
        checks.set((1..=count).map(checked).collect(), clock.now());
        let mut asked = std::collections::BTreeSet::new();
        // Each answers so late that the first are due again.
        for _ in 0..4 {
            clock.advance(3 * SECOND);
            let due = checks.due(clock.now());
            assert_eq!(due.len(), HEALTH_CHECKS_IN_FLIGHT_MAX);
            assert!(checks.due(clock.now()).is_empty());
            for (id, _) in due {
                asked.insert(id);
                checks.in_flight -= 1;
                checks.note(id, &Err(String::new()), clock.now());
            }
        }
        assert_eq!(asked.len(), usize::from(count));
    }

    #[test]
    fn intervals_spread_over_a_tenth_each_way() {
        let mut jitter = Jitter::new(7);
        let all: Vec<_> = (0..1000)
            .map(|_| jittered(1000 * SECOND, jitter.next()).as_secs())
            .collect();
        assert!(all.iter().all(|it| (900..=1100).contains(it)), "{all:?}");
        for tenth in 0..10 {
            let from = 900 + tenth * 20;
            let count = all.iter().filter(|&&it| (from..from + 20).contains(&it));
            assert!((50..=150).contains(&count.count()), "from {from}");
        }
        assert_ne!(Jitter::new(8).next(), Jitter::new(10).next());
    }
}
