//! Where "now" comes from. Nothing else in the data plane asks the operating system for the time,
//! so that tests can say what time it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of monotonic and of calendar time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Manual {
        origin: Instant,
        unix_start: Duration,
        elapsed_ns: Arc<AtomicU64>,
    },
    System,
}

impl Clock {
    /// The operating system's clocks.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still at `unix_start` (time since the Unix epoch) until advanced.
    /// Clones share their time.
    pub fn manual(unix_start: Duration) -> Self {
        Self(Source::Manual {
            origin: Instant::now(),
            unix_start,
            elapsed_ns: Arc::new(AtomicU64::new(0)),
        })
    }

    /// Moves a manual clock on; does nothing to the system's.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual { elapsed_ns, .. } = &self.0 {
            let ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
            elapsed_ns.fetch_add(ns, Ordering::Relaxed);
        }
    }

    /// Monotonic time, for deadlines.
    pub fn now(&self) -> Instant {
        match &self.0 {
            Source::Manual {
                origin, elapsed_ns, ..
            } => *origin + Duration::from_nanos(elapsed_ns.load(Ordering::Relaxed)),
            Source::System => Instant::now(),
        }
    }

    /// Calendar time since the Unix epoch, for certificates and tickets.
    pub fn unix(&self) -> Duration {
        match &self.0 {
            Source::Manual {
                unix_start,
                elapsed_ns,
                ..
            } => *unix_start + Duration::from_nanos(elapsed_ns.load(Ordering::Relaxed)),
            Source::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_both_times_and_its_clones() {
        let clock = Clock::manual(Duration::from_secs(1_000));
        let (now, twin) = (clock.now(), clock.clone());
        clock.advance(Duration::from_millis(1_500));
        assert_eq!(twin.now() - now, Duration::from_millis(1_500));
        assert_eq!(twin.unix(), Duration::from_millis(1_001_500));
    }
}
