//! When units are due.

use std::time::{Duration, Instant};

use super::Random;

/// How units follow each other at one rate.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Arrival {
    /// As from many clients that know nothing of each other: exponential gaps.
    #[default]
    Poisson,
    /// Equal gaps.
    Uniform,
}

/// Units a second, one rate after the other; the last goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    /// Each rate is more than none.
    pub steps: Vec<Step>,
    pub arrival: Arrival,
}

/// A rate, and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub rate: f64,
    pub lasts: Duration,
}

impl Pace {
    /// One rate for as long as it takes.
    pub fn steady(rate: f64, arrival: Arrival) -> Self {
        let lasts = Duration::MAX;
        Self {
            steps: vec![Step { rate, lasts }],
            arrival,
        }
    }

    /// The share of one of `threads`.
    pub fn share(&self, threads: usize) -> Self {
        // Far below 2^53.
        #[allow(clippy::cast_precision_loss)]
        let threads = threads as f64;
        let mut pace = self.clone();
        for step in &mut pace.steps {
            step.rate /= threads;
        }
        pace
    }

    /// The same with its first rate for `time` before all else.
    pub fn after_warmup(mut self, time: Duration) -> Self {
        if let Some(first) = self.steps.first_mut() {
            first.lasts = first.lasts.saturating_add(time);
        }
        self
    }
}

/// When the next unit is due. A closed loop begins one whenever a connection is idle; an open loop
/// at its pace, whatever the server does.
#[derive(Debug)]
pub enum Schedule {
    Closed,
    Open(Open),
}

#[derive(Debug)]
pub struct Open {
    steps: std::vec::IntoIter<Step>,
    arrival: Arrival,
    random: Random,
    /// The step that goes on: when it began, when it ends (`None`: never), its rate, and where in
    /// it the next unit is due.
    began: Instant,
    ends: Option<Instant>,
    rate: f64,
    next_s: f64,
    issued: u64,
}

impl Schedule {
    /// A closed loop, or an open one from `start` on. `share` is this thread's place among all, 0
    /// up to 1, so that threads with equal gaps do not begin in step.
    pub fn new(pace: Option<Pace>, start: Instant, share: f64, seed: u64) -> Self {
        let Some(Pace { steps, arrival }) = pace else {
            return Self::Closed;
        };
        let mut open = Open {
            steps: steps.into_iter(),
            arrival,
            random: Random::new(seed),
            began: start,
            ends: Some(start),
            rate: 0.0,
            next_s: 0.0,
            issued: 0,
        };
        if !open.next_step(share) {
            return Self::Closed;
        }
        Self::Open(open)
    }

    /// Takes the next unit if it is due at `now`: the moment that it was due.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        match self {
            Self::Closed => Some(now),
            Self::Open(open) => {
                let due = open.due().filter(|due| *due <= now)?;
                open.advance();
                Some(due)
            }
        }
    }

    /// The moment to wake up for; `None` in a closed loop.
    pub fn next_due(&self) -> Option<Instant> {
        match self {
            Self::Closed => None,
            Self::Open(open) => open.due(),
        }
    }
}

impl Open {
    fn due(&self) -> Option<Instant> {
        self.began
            .checked_add(Duration::try_from_secs_f64(self.next_s).ok()?)
    }

    /// Moves on by one unit. From the beginning of the step and not from unit to unit where gaps
    /// are equal, so that roundings do not add up.
    fn advance(&mut self) {
        self.issued += 1;
        // Far below 2^53.
        #[allow(clippy::cast_precision_loss)]
        match self.arrival {
            Arrival::Uniform => self.next_s = self.issued as f64 / self.rate,
            Arrival::Poisson => self.next_s += self.gap(),
        }
        if self.ends.is_some_and(|ends| self.due() >= Some(ends)) {
            self.next_step(0.0);
        }
    }

    /// Exponential with the mean of the rate.
    fn gap(&mut self) -> f64 {
        -(1.0 - self.random.unit()).ln() / self.rate
    }

    /// Begins the next step; without one the present step goes on.
    fn next_step(&mut self, share: f64) -> bool {
        let Some(step) = self.steps.next() else {
            self.ends = None;
            return false;
        };
        self.began = self.ends.unwrap_or(self.began);
        self.ends = self.began.checked_add(step.lasts);
        self.rate = step.rate;
        self.issued = 0;
        self.next_s = match self.arrival {
            Arrival::Uniform => share / self.rate,
            // What is left of an exponential gap is exponential again.
            Arrival::Poisson => self.gap(),
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uniform(rate: f64, start: Instant) -> Schedule {
        Schedule::new(Some(Pace::steady(rate, Arrival::Uniform)), start, 0.0, 1)
    }

    #[test]
    fn an_open_loop_keeps_its_pace_when_units_start_late() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut schedule = uniform(100.0, start);
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
        let mut schedule = Schedule::new(None, now, 0.0, 1);
        assert_eq!(
            (schedule.take(now), schedule.take(now)),
            (Some(now), Some(now))
        );
        assert_eq!(schedule.next_due(), None);
    }

    /// Units due in each of `seconds` seconds.
    fn per_second(mut schedule: Schedule, start: Instant, seconds: u8) -> Vec<u32> {
        let mut counts = vec![0; usize::from(seconds)];
        let end = start + Duration::from_secs(seconds.into());
        while let Some(due) = schedule.take(end) {
            if let Some(count) = counts.get_mut(usize::try_from((due - start).as_secs()).unwrap()) {
                *count += 1;
            }
        }
        counts
    }

    #[test]
    fn a_ramp_goes_from_rate_to_rate() {
        let start = Instant::now();
        let step = |rate| Step {
            rate,
            lasts: Duration::from_secs(2),
        };
        for arrival in [Arrival::Uniform, Arrival::Poisson] {
            let steps = vec![step(1_000.0), step(4_000.0)];
            let pace = Pace { steps, arrival };
            let schedule = Schedule::new(Some(pace), start, 0.0, 1);
            let counts = per_second(schedule, start, 6);
            for (count, rate) in counts
                .iter()
                .zip([1_000, 1_000, 4_000, 4_000, 4_000, 4_000])
            {
                // Five standard deviations of a Poisson count.
                let spread = f64::from(rate).sqrt() * 5.0;
                let off = (f64::from(*count) - f64::from(rate)).abs();
                assert!(off <= spread, "{arrival:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn poisson_gaps_vary_as_much_as_they_are_long() {
        let start = Instant::now();
        let pace = Pace::steady(1_000.0, Arrival::Poisson);
        let mut schedule = Schedule::new(Some(pace), start, 0.0, 1);
        let far = start + Duration::from_secs(20);
        let mut before = start;
        let mut gaps = Vec::new();
        while let Some(due) = schedule.take(far) {
            gaps.push((due - before).as_secs_f64());
            before = due;
        }
        #[allow(clippy::cast_precision_loss)]
        let count = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / count;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count;
        let variation = variance.sqrt() / mean;
        assert!((variation - 1.0).abs() < 0.05, "{variation}");
    }

    #[test]
    fn threads_with_equal_gaps_do_not_begin_in_step() {
        let start = Instant::now();
        let pace = Pace::steady(100.0, Arrival::Uniform).share(2);
        let mut second = Schedule::new(Some(pace), start, 0.5, 2);
        let due = second.take(start + Duration::from_secs(1)).unwrap();
        assert_eq!(due - start, Duration::from_millis(10));
    }
}
