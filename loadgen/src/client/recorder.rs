//! What one load thread writes down while it runs.

use std::time::{Duration, Instant};

use super::BadKind;
use crate::failure::Failure;
use crate::series::Notes;
use crate::statistics::{Kind, Statistics};

/// Statistics of the measured time: what ends before `from` or after `until` does not count.
#[derive(Debug)]
pub struct Recorder {
    pub statistics: Statistics,
    pub from: Instant,
    pub until: Instant,
    /// Whether units have a due time of their own.
    pub open_loop: bool,
    pub notes: Notes,
}

/// A unit that was served.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    pub due: Instant,
    pub begun: Instant,
    /// Of the handshake, where each unit is one.
    pub kind: Option<Kind>,
    /// In both directions.
    pub bytes: u64,
}

impl Recorder {
    pub fn counts(&self, now: Instant) -> bool {
        (self.from..self.until).contains(&now)
    }

    /// Errors after the end still count: a unit that hangs must not vanish.
    pub fn fail(&mut self, failure: Failure, now: Instant) {
        if now >= self.from {
            self.notes.failed();
            self.statistics.fail(failure);
        }
    }

    /// A client that must be refused was refused.
    pub fn refuse(&mut self, kind: BadKind, failure: Failure, now: Instant) {
        if now >= self.from {
            self.statistics.refuse(kind, failure);
        }
    }

    /// A unit that was due at `due` begins.
    pub fn begin(&mut self, due: Instant, now: Instant) {
        if self.counts(due) {
            self.statistics.begun += 1;
            self.notes.begun();
            if self.open_loop {
                self.statistics
                    .late
                    .record(now.saturating_duration_since(due));
            }
        }
    }

    /// The thread was to wake at `wake` and did at `now`. What that is late beyond a scheduler's turn
    /// is time in which this host stood still, as one does that is suspended.
    pub fn woke(&mut self, wake: Instant, now: Instant) {
        const TURN: Duration = Duration::from_millis(100);
        let late = now.saturating_duration_since(wake.max(self.from));
        if late > TURN {
            self.statistics.stood_still += late;
        }
    }

    pub fn serve(&mut self, served: &Served, now: Instant) {
        if !self.counts(now) {
            return;
        }
        let statistics = &mut self.statistics;
        let plain = now.saturating_duration_since(served.begun);
        let corrected = now.saturating_duration_since(served.due);
        statistics.confirmed += 1;
        statistics.bytes += served.bytes;
        statistics.plain.record(plain);
        if let Some(kind) = served.kind {
            let of_kind = statistics.of_kind(kind);
            of_kind.confirmed += 1;
            of_kind.unit.record(plain);
        }
        if self.open_loop {
            statistics.corrected.record(corrected);
        }
        let latency: Duration = if self.open_loop { corrected } else { plain };
        self.notes.served(served.kind, served.bytes, latency);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_oversleeping_within_the_run_is_standing_still() {
        let from = Instant::now();
        let at = |ms: u64| from + Duration::from_millis(ms);
        let mut recorder = Recorder {
            statistics: Statistics::default(),
            from: at(100),
            until: at(10_000),
            open_loop: true,
            notes: Notes::new(from, Duration::from_secs(1), Duration::ZERO),
        };
        recorder.woke(at(200), at(190));
        recorder.woke(at(200), at(290));
        assert_eq!(recorder.statistics.stood_still, Duration::ZERO);
        recorder.woke(at(0), at(300));
        recorder.woke(at(400), at(2_400));
        assert_eq!(
            recorder.statistics.stood_still,
            Duration::from_millis(2_200)
        );
    }
}
