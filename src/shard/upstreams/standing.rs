//! How an upstream stands with one shard: left out for connects that failed, or coming back.

use std::time::{Duration, Instant};

use crate::limits::EJECTED_MAX;
use crate::snapshot::Ejection;

/// The full share of connections.
pub(super) const WHOLE: u32 = 256;

/// The share that an upstream which came back begins with.
const SHARE_MIN: u32 = WHOLE / 16;

/// What connects have shown of an upstream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    /// Connects in a row that failed.
    failures: u32,
    /// Times in a row that it was left out.
    ejections: u32,
    /// Until when it is left out; from then on one connection finds out.
    ejected_until: Option<Instant>,
    /// That connection is on its way.
    is_probed: bool,
    /// When it last came back, or came first: its share grows from then on.
    since: Option<Instant>,
}

impl Standing {
    /// One that begins with a small share.
    pub(super) fn newcomer(now: Instant) -> Self {
        Self {
            since: Some(now),
            ..Self::default()
        }
    }

    /// Whether connections may go there, be it to find out whether it answers.
    pub(super) fn is_good(&self, now: Instant) -> bool {
        match self.ejected_until {
            None => true,
            Some(until) => until <= now && !self.is_probed,
        }
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.ejected_until.is_some()
    }

    /// A connection is on its way there; whether it is the one that finds out.
    pub(super) fn chosen(&mut self, now: Instant) -> bool {
        let is_probe = !self.is_probed && self.ejected_until.is_some_and(|until| until <= now);
        self.is_probed |= is_probe;
        is_probe
    }

    /// The one that finds out was given up before anybody knew.
    pub(super) fn abandoned(&mut self) {
        self.is_probed = false;
    }

    pub(super) fn answered(&mut self, now: Instant) {
        self.failures = 0;
        self.is_probed = false;
        if self.ejected_until.take().is_some() {
            self.since = Some(now);
        }
    }

    /// A health check found it well after it was not.
    pub(super) fn recovered(&mut self, now: Instant) {
        *self = Self::newcomer(now);
    }

    /// A connect failed, which was the one that finds out or another; whether it is left out from now
    /// on, which it is not where it is the last one.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        is_probe: bool,
        by: Option<Ejection>,
        is_last: bool,
    ) -> bool {
        // What was on its way when it was left out tells nothing new, however late it fails.
        if self
            .ejected_until
            .is_some_and(|until| now < until || !is_probe)
        {
            return false;
        }
        self.is_probed = false;
        self.failures = self.failures.saturating_add(1);
        let Some(Ejection { after, span }) = by else {
            return false;
        };
        let fails_again = self.ejected_until.is_some();
        if !fails_again && (self.failures < after || is_last) {
            return false;
        }
        // One that did well for longer than it was last left out begins anew.
        let is_relapse = fails_again
            || self
                .since
                .is_none_or(|since| now < since + spell(span, self.ejections));
        self.ejections = match is_relapse {
            true => self.ejections.saturating_add(1),
            false => 1,
        };
        self.ejected_until = Some(now + spell(span, self.ejections));
        true
    }

    /// Its share of connections, of [`WHOLE`].
    pub(super) fn share(&self, now: Instant, slow_start: Option<Duration>) -> u32 {
        let (Some(slow_start), Some(since)) = (slow_start, self.since) else {
            return WHOLE;
        };
        let elapsed = now.saturating_duration_since(since).as_millis();
        let grown = elapsed * u128::from(WHOLE) / slow_start.as_millis().max(1);
        u32::try_from(grown)
            .unwrap_or(WHOLE)
            .clamp(SHARE_MIN, WHOLE)
    }
}

/// How long an upstream is left out the `ejections`th time in a row: `span`, doubled each time.
fn spell(span: Duration, ejections: u32) -> Duration {
    let doubled = 1_u32.checked_shl(ejections.saturating_sub(1));
    let spell = doubled.map_or(EJECTED_MAX, |factor| span.saturating_mul(factor));
    spell.min(EJECTED_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    const EJECTION: Option<Ejection> = Some(Ejection {
        after: 3,
        span: Duration::from_secs(5),
    });

    #[test]
    fn it_is_left_out_after_so_many_failures_in_a_row() {
        let (clock, mut standing) = (Clock::manual(SECOND), Standing::default());
        let now = clock.now();
        assert!(!standing.failed(now, false, EJECTION, false));
        assert!(!standing.failed(now, false, EJECTION, false));
        standing.answered(now);
        assert!(!standing.failed(now, false, EJECTION, false));
        assert!(!standing.failed(now, false, EJECTION, false));
        assert!(standing.is_good(now));
        assert!(standing.failed(now, false, EJECTION, false));
        assert!(!standing.is_good(now) && standing.is_ejected());
        assert!(
            !standing.failed(now, false, EJECTION, false),
            "it is out already"
        );
    }

    #[test]
    fn the_last_one_stays_and_so_does_any_without_ejection() {
        let now = Clock::manual(SECOND).now();
        let mut standing = Standing::default();
        for _ in 0..10 {
            assert!(!standing.failed(now, false, EJECTION, true));
            assert!(!standing.failed(now, false, None, false));
        }
        assert!(standing.is_good(now));
        assert!(
            standing.failed(now, false, EJECTION, false),
            "another came up"
        );
    }

    #[test]
    fn one_connection_finds_out_whether_it_answers_again() {
        let (clock, mut standing) = (Clock::manual(SECOND), Standing::default());
        for _ in 0..3 {
            standing.failed(clock.now(), false, EJECTION, false);
        }
        clock.advance(5 * SECOND);
        assert!(standing.is_good(clock.now()));
        assert!(standing.chosen(clock.now()));
        assert!(!standing.is_good(clock.now()), "one at a time");
        assert!(
            !standing.chosen(clock.now()),
            "it is another that finds out"
        );
        standing.abandoned();
        assert!(standing.is_good(clock.now()), "the next finds out");
        assert!(standing.chosen(clock.now()));
        standing.answered(clock.now());
        assert!(standing.is_good(clock.now()) && !standing.is_ejected());
    }

    #[test]
    fn what_began_before_it_was_left_out_finds_nothing_out() {
        let (clock, mut standing) = (Clock::manual(SECOND), Standing::default());
        for _ in 0..3 {
            standing.failed(clock.now(), false, EJECTION, false);
        }
        clock.advance(5 * SECOND);
        assert!(!standing.failed(clock.now(), false, EJECTION, false));
        assert!(standing.is_good(clock.now()), "nobody has found out");
        assert!(standing.chosen(clock.now()));
        assert!(!standing.failed(clock.now(), false, EJECTION, false));
        assert!(!standing.is_good(clock.now()), "it is on its way still");
        assert!(standing.failed(clock.now(), true, EJECTION, false));
    }

    #[test]
    fn it_is_left_out_for_longer_each_time_up_to_a_bound() {
        let (clock, mut standing) = (Clock::manual(SECOND), Standing::default());
        for _ in 0..2 {
            standing.failed(clock.now(), false, EJECTION, false);
        }
        let mut spells = Vec::new();
        for _ in 0..9 {
            let is_last = !spells.is_empty();
            assert_eq!(standing.chosen(clock.now()), is_last);
            assert!(standing.failed(clock.now(), is_last, EJECTION, is_last));
            let from = clock.now();
            while !standing.is_good(clock.now()) {
                clock.advance(SECOND);
            }
            spells.push((clock.now() - from).as_secs());
        }
        assert_eq!(spells, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        // It comes back, falls out at once, and later does well for long.
        standing.answered(clock.now());
        for _ in 0..3 {
            standing.failed(clock.now(), false, EJECTION, false);
        }
        clock.advance(299 * SECOND);
        assert!(!standing.is_good(clock.now()));
        clock.advance(SECOND);
        standing.answered(clock.now());
        clock.advance(300 * SECOND);
        for _ in 0..3 {
            standing.failed(clock.now(), false, EJECTION, false);
        }
        clock.advance(5 * SECOND);
        assert!(standing.is_good(clock.now()));
        assert!(standing.chosen(clock.now()));
        assert!(standing.failed(clock.now(), true, EJECTION, false));
        clock.advance(9 * SECOND);
        assert!(!standing.is_good(clock.now()));
        clock.advance(SECOND);
        assert!(standing.is_good(clock.now()));
    }

    #[test]
    fn the_share_grows_from_small_to_whole() {
        let clock = Clock::manual(SECOND);
        let standing = Standing::newcomer(clock.now());
        let share = || standing.share(clock.now(), Some(16 * SECOND));
        assert_eq!(share(), SHARE_MIN);
        clock.advance(4 * SECOND);
        assert_eq!(share(), WHOLE / 4);
        clock.advance(12 * SECOND);
        assert_eq!(share(), WHOLE);
        clock.advance(Duration::from_secs(1 << 30));
        assert_eq!(share(), WHOLE);
        assert_eq!(standing.share(clock.now(), None), WHOLE);
        let settled = Standing::default();
        assert_eq!(settled.share(clock.now(), Some(SECOND)), WHOLE);
    }
}
