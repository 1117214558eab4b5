//! So many lines a second and no more, spread over the second: what is left out is counted and told.

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// How often it is told how many lines were left out.
const TELL: Duration = Duration::from_secs(10);

/// How many lines may be written of those that there are.
#[derive(Debug)]
pub(super) struct Pace {
    /// Lines a second, and how many may still be written of the second since `since`.
    rate: u64,
    left: u64,
    since: Instant,
    /// Lines that this second has had so far, and as many as it is expected to have: at least the
    /// rate, and what the one before had.
    came: u64,
    expected: u64,
    /// A line is written whenever this reaches `expected`; each adds the rate. So what is written is
    /// spread over what comes.
    due: u64,
    /// Lines that were left out, ever and since it was last told.
    skipped: u64,
    untold: u64,
    told: Instant,
}

impl Pace {
    pub(super) fn new(rate: u64, now: Instant) -> Self {
        Self {
            rate,
            left: rate,
            since: now,
            came: 0,
            expected: rate,
            due: 0,
            skipped: 0,
            untold: 0,
            told: now,
        }
    }

    /// From now on at most so many lines a second.
    pub(super) fn set_rate(&mut self, rate: u64) {
        if rate != self.rate {
            self.left = self.left.min(rate);
            (self.expected, self.due) = (self.came.max(rate), 0);
            self.rate = rate;
        }
    }

    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// Lines that were left out.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Whether a line may be written; otherwise it is counted.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        let elapsed = now.duration_since(self.since);
        if elapsed >= SECOND {
            // A second without a line promises no more of them.
            let before = if elapsed < 2 * SECOND { self.came } else { 0 };
            self.expected = before.max(self.rate);
            (self.since, self.came, self.left) = (now, 0, self.rate);
        }
        self.came += 1;
        self.due += self.rate;
        let is_due = self.due >= self.expected;
        if is_due {
            self.due = (self.due - self.expected).min(self.expected);
        }
        let admits = is_due && self.left > 0;
        if admits {
            self.left -= 1;
        } else {
            self.skipped += 1;
            self.untold += 1;
        }
        admits
    }

    /// How many lines were left out since that was last told, where it is time to tell it.
    pub(super) fn take_untold(&mut self, now: Instant) -> Option<u64> {
        if self.untold == 0 || now.duration_since(self.told) < TELL {
            return None;
        }
        self.told = now;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of `lines` in the second that begins at `now` are written.
    fn written(pace: &mut Pace, now: Instant, lines: u32) -> Vec<u32> {
        let admits = |line: &u32| pace.admits(now + SECOND * *line / lines);
        (0..lines).filter(admits).collect()
    }

    #[test]
    fn what_is_written_is_spread_over_the_second() {
        let start = Instant::now();
        let mut pace = Pace::new(10, start);
        // Nothing is known of the first second.
        assert_eq!(written(&mut pace, start, 30), (0..10).collect::<Vec<_>>());
        for second in 1..5 {
            let lines = written(&mut pace, start + SECOND * second, 30);
            assert_eq!(lines.len(), 10, "{lines:?}");
            assert!(lines.windows(2).all(|pair| pair[1] - pair[0] == 3));
        }
        // Half as many again: two of three.
        written(&mut pace, start + SECOND * 5, 15);
        let lines = written(&mut pace, start + SECOND * 6, 15);
        assert_eq!(lines.len(), 10, "{lines:?}");
        assert!(lines.windows(2).all(|pair| pair[1] - pair[0] <= 2));
        // No more than there may be, though more comes than before.
        assert_eq!(written(&mut pace, start + SECOND * 7, 600).len(), 10);
        // Nothing is left out where all may be written, the first after a rest among them.
        assert_eq!(written(&mut pace, start + SECOND * 20, 10).len(), 10);
        assert_eq!(written(&mut pace, start + SECOND * 21, 10).len(), 10);
    }

    #[test]
    fn what_was_left_out_is_told_every_so_often() {
        let start = Instant::now();
        let mut pace = Pace::new(2, start);
        written(&mut pace, start, 5);
        assert_eq!(pace.take_untold(start + TELL / 2), None);
        assert_eq!(pace.take_untold(start + TELL), Some(3));
        assert_eq!(pace.take_untold(start + 2 * TELL), None);
        // As little is expected as there may be.
        let mut other = Pace::new(1000, start);
        other.set_rate(1);
        assert_eq!(written(&mut other, start, 3), [0]);
        pace.set_rate(1);
        written(&mut pace, start + 2 * TELL, 3);
        assert_eq!(
            (pace.take_untold(start + 3 * TELL), pace.skipped()),
            (Some(2), 5)
        );
    }
}
