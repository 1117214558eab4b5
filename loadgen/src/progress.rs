//! A line a second while a run goes on, for people who watch.

use std::io::{IsTerminal, Write};

use crate::series::Interval;

/// Prints over one line of the terminal; nothing where there is none.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
    interval_s: f64,
    intervals: u32,
    failed: u64,
}

impl Progress {
    pub fn new(wanted: bool, interval_s: f64, duration_s: f64) -> Self {
        // Less than the intervals that a run may have.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let intervals = (duration_s / interval_s).ceil() as u32;
        Self {
            shown: wanted && std::io::stderr().is_terminal(),
            interval_s,
            intervals,
            failed: 0,
        }
    }

    pub fn tell(&mut self, interval: &Interval) {
        self.failed += interval.failed;
        if self.shown {
            // What cannot be shown is not worth an error.
            let _ = write!(std::io::stderr(), "\r\x1b[K{}", self.line(interval));
        }
    }

    fn line(&self, interval: &Interval) -> String {
        #[allow(clippy::cast_precision_loss)]
        let rate = interval.confirmed as f64 / self.interval_s;
        let p99 = interval
            .latency
            .quantile_us(0.99)
            .map_or_else(|| "-".to_owned(), |us| format!("{:.2} ms", us / 1e3));
        let cpu = interval.own_cpu.as_secs_f64() / self.interval_s * 100.0;
        format!(
            "{}/{}  {rate:.0}/s  p99 {p99}  {} errors  generator {cpu:.0}% CPU",
            interval.number + 1,
            self.intervals,
            self.failed
        )
    }
}

impl Drop for Progress {
    /// The line vanishes.
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_line_has_rate_p99_errors_and_own_cpu() {
        let mut interval = Interval {
            number: 1,
            confirmed: 3_000,
            failed: 2,
            own_cpu: Duration::from_millis(250),
            ..Interval::default()
        };
        for _ in 0..3_000 {
            interval.latency.record(Duration::from_millis(2));
        }
        let mut progress = Progress::new(false, 1.0, 10.0);
        progress.tell(&interval);
        assert_eq!(
            progress.line(&interval),
            "2/10  3000/s  p99 2.00 ms  2 errors  generator 25% CPU"
        );
    }
}
