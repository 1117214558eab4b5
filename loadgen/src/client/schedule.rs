//! When units are due.

use std::time::{Duration, Instant};

/// When the next unit is due. A closed loop begins one whenever a connection is idle; an open loop
/// at a fixed pace, whatever the server does.
#[derive(Clone, Copy, Debug)]
pub enum Schedule {
    Closed,
    Open {
        start: Instant,
        interval: Duration,
        issued: u64,
    },
}

impl Schedule {
    /// A closed loop, or an open one with `rate` units a second from `start` on.
    pub fn new(rate: Option<f64>, start: Instant) -> Self {
        match rate {
            None => Self::Closed,
            Some(rate) => Self::Open {
                start,
                interval: Duration::from_secs_f64(1.0 / rate),
                issued: 0,
            },
        }
    }

    /// Takes the next unit if it is due at `now`: the moment that it was due.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        let Self::Open { issued, .. } = self else {
            return Some(now);
        };
        let number = *issued;
        let due = self.due(number).filter(|due| *due <= now)?;
        if let Self::Open { issued, .. } = self {
            *issued += 1;
        }
        Some(due)
    }

    /// The moment to wake up for; `None` in a closed loop.
    pub fn next_due(&self) -> Option<Instant> {
        match self {
            Self::Closed => None,
            Self::Open { issued, .. } => self.due(*issued),
        }
    }

    /// From the start and not from unit to unit, so that roundings do not add up.
    fn due(&self, number: u64) -> Option<Instant> {
        let Self::Open {
            start, interval, ..
        } = self
        else {
            return None;
        };
        let ns = u64::try_from(interval.as_nanos())
            .ok()?
            .checked_mul(number)?;
        start.checked_add(Duration::from_nanos(ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_keeps_its_pace_when_units_start_late() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut schedule = Schedule::new(Some(100.0), start);
        assert_eq!(schedule.take(at(0)), Some(at(0)));
        assert_eq!(
            (schedule.take(at(9)), schedule.next_due()),
            (None, Some(at(10)))
        );
        assert_eq!(
            schedule.take(at(35)),
            Some(at(10)),
            "due when it was due, not when begun"
        );
        assert_eq!(schedule.take(at(35)), Some(at(20)));
        assert_eq!(schedule.take(at(35)), Some(at(30)));
        assert_eq!(schedule.take(at(35)), None);
    }

    #[test]
    fn a_closed_loop_is_always_due() {
        let now = Instant::now();
        let mut schedule = Schedule::new(None, now);
        assert_eq!(
            (schedule.take(now), schedule.take(now)),
            (Some(now), Some(now))
        );
        assert_eq!(schedule.next_due(), None);
    }
}
