//! A run in equal intervals: what happened in each, over all load threads.

use std::time::{Duration, Instant};

use crate::statistics::{Kind, Latency};

/// Intervals that a run has at most; past it they get longer.
const INTERVALS_MAX: u32 = 600;

/// How long each interval of a run is: a second, or more in long runs; a tenth of it in short ones.
pub fn interval_len(duration: Duration) -> Duration {
    let second = Duration::from_secs(1);
    if duration <= 2 * second {
        return (duration / 10).max(Duration::from_millis(10));
    }
    let mut len = second;
    while len * INTERVALS_MAX < duration {
        len *= 2;
    }
    len
}

/// One interval.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    pub number: u32,
    /// Units served, and of these full and resumed handshakes.
    pub confirmed: u64,
    pub full: u64,
    pub resumed: u64,
    pub bytes: u64,
    pub failed: u64,
    pub begun: u64,
    /// Of whole units, from the due moment where there is one.
    pub latency: Latency,
    /// CPU time of the load threads.
    pub own_cpu: Duration,
    /// CPU time of the server; only in a whole run's series.
    pub server_cpu: Option<Duration>,
}

impl Interval {
    pub fn is_empty(&self) -> bool {
        self.confirmed == 0 && self.failed == 0 && self.begun == 0
    }

    fn add(&mut self, other: &Self) {
        self.confirmed += other.confirmed;
        self.full += other.full;
        self.resumed += other.resumed;
        self.bytes += other.bytes;
        self.failed += other.failed;
        self.begun += other.begun;
        self.latency.add(&other.latency);
        self.own_cpu += other.own_cpu;
    }
}

/// What one load thread notes in the interval that goes on.
#[derive(Debug)]
pub struct Notes {
    from: Instant,
    len: Duration,
    present: Interval,
    own_cpu: Duration,
}

impl Notes {
    /// Notes of a thread that has used `own_cpu` until now.
    pub fn new(from: Instant, len: Duration, own_cpu: Duration) -> Self {
        Self {
            from,
            len,
            present: Interval::default(),
            own_cpu,
        }
    }

    /// Measuring begins, and until now the thread has used `own_cpu`.
    pub fn start(&mut self, own_cpu: Duration) {
        self.own_cpu = own_cpu;
    }

    pub fn begun(&mut self) {
        self.present.begun += 1;
    }

    pub fn served(&mut self, kind: Option<Kind>, bytes: u64, latency: Duration) {
        self.present.confirmed += 1;
        match kind {
            Some(Kind::Full) => self.present.full += 1,
            Some(Kind::Resumed) => self.present.resumed += 1,
            None => {}
        }
        self.present.bytes += bytes;
        self.present.latency.record(latency);
    }

    pub fn failed(&mut self) {
        self.present.failed += 1;
    }

    /// When the present interval ends.
    pub fn ends(&self) -> Instant {
        self.from + self.len * (self.present.number + 1)
    }

    /// The interval that has ended by `now`, if one has.
    pub fn turn(&mut self, now: Instant, own_cpu: impl FnOnce() -> Duration) -> Option<Interval> {
        if now < self.ends() {
            return None;
        }
        let own_cpu = own_cpu();
        let passed = now.saturating_duration_since(self.from).as_nanos() / self.len.as_nanos();
        let next = Interval {
            number: u32::try_from(passed).unwrap_or(u32::MAX),
            ..Interval::default()
        };
        let mut ended = std::mem::replace(&mut self.present, next);
        ended.own_cpu = own_cpu.saturating_sub(self.own_cpu);
        self.own_cpu = own_cpu;
        Some(ended)
    }

    /// What was noted since the last interval ended.
    pub fn finish(mut self, own_cpu: Duration) -> Interval {
        self.present.own_cpu = own_cpu.saturating_sub(self.own_cpu);
        self.present
    }
}

/// All intervals of a run.
#[derive(Clone, Debug, Default)]
pub struct Series {
    pub len: Duration,
    pub intervals: Vec<Interval>,
}

impl Series {
    pub fn new(len: Duration) -> Self {
        Self {
            len,
            intervals: Vec::new(),
        }
    }

    /// Adds what one thread noted; what lies behind the end of the run goes into the last interval
    /// that was measured.
    pub fn add(&mut self, interval: &Interval, count: u32) {
        let number = interval.number.min(count.saturating_sub(1));
        while self.intervals.len() <= number as usize {
            let number = u32::try_from(self.intervals.len()).unwrap_or(u32::MAX);
            self.intervals.push(Interval {
                number,
                ..Interval::default()
            });
        }
        self.intervals[number as usize].add(interval);
    }

    /// Notes the server's CPU time in an interval.
    pub fn server_cpu(&mut self, number: usize, cpu: Duration) {
        if let Some(interval) = self.intervals.get_mut(number) {
            interval.server_cpu = Some(cpu);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_few_enough() {
        let s = Duration::from_secs;
        assert_eq!(interval_len(s(10)), s(1));
        assert_eq!(interval_len(s(1)), Duration::from_millis(100));
        assert_eq!(interval_len(s(600)), s(1));
        assert_eq!(interval_len(s(601)), s(2));
        assert_eq!(interval_len(s(86_400)), s(256));
        assert!(interval_len(Duration::from_millis(1)) > Duration::ZERO);
    }

    #[test]
    fn threads_add_up_in_each_interval() {
        let from = Instant::now();
        let len = Duration::from_secs(1);
        let mut series = Series::new(len);
        for _ in 0..2 {
            let mut notes = Notes::new(from, len, Duration::ZERO);
            notes.begun();
            notes.served(Some(Kind::Full), 2, Duration::from_millis(1));
            assert!(notes.turn(from, || Duration::ZERO).is_none());
            let first = notes.turn(from + len, || Duration::from_millis(300));
            series.add(&first.unwrap(), 2);
            notes.failed();
            series.add(&notes.finish(Duration::from_millis(400)), 2);
        }
        let [first, second] = &series.intervals[..] else {
            panic!("{series:?}")
        };
        assert_eq!((first.confirmed, first.full, first.bytes), (2, 2, 4));
        assert_eq!(first.latency.count(), 2);
        assert_eq!((second.failed, second.confirmed), (2, 0));
        assert_eq!(first.own_cpu, Duration::from_millis(600));
        assert_eq!(second.own_cpu, Duration::from_millis(200));
    }

    #[test]
    fn what_comes_late_counts_in_the_last_interval() {
        let mut series = Series::new(Duration::from_secs(1));
        let late = Interval {
            number: 7,
            failed: 1,
            ..Interval::default()
        };
        series.add(&late, 3);
        assert_eq!(series.intervals.len(), 3);
        assert_eq!(series.intervals[2].failed, 1);
    }
}
