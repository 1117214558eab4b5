//! How long things took, in buckets that only one thread writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::add;

/// Counts of durations up to each of its bounds.
#[derive(Debug)]
pub struct Histogram<const BOUNDS: usize> {
    bounds_ns: &'static [u64; BOUNDS],
    /// The last is what was longer than every bound.
    counts: [AtomicU64; BOUNDS],
    beyond: AtomicU64,
    sum_ns: AtomicU64,
}

/// What a histogram holds at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Durations {
    /// The upper bound of each bucket in seconds, rising, and how many were not above it and above
    /// the one before; the last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// Of all of them, in seconds.
    pub sum: f64,
}

impl<const BOUNDS: usize> Histogram<BOUNDS> {
    /// `bounds_ns` rise.
    pub(super) const fn new(bounds_ns: &'static [u64; BOUNDS]) -> Self {
        Self {
            bounds_ns,
            counts: [const { AtomicU64::new(0) }; BOUNDS],
            beyond: AtomicU64::new(0),
            sum_ns: AtomicU64::new(0),
        }
    }

    pub(super) fn record(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.bounds_ns.partition_point(|&bound| bound < ns);
        add(self.counts.get(bucket).unwrap_or(&self.beyond), 1);
        add(&self.sum_ns, ns);
    }

    /// What was recorded so far.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub fn durations(&self) -> Durations {
        let seconds = |ns: u64| ns as f64 / 1e9;
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let bounds = self.bounds_ns.iter().map(|&bound| seconds(bound));
        let buckets = bounds.zip(self.counts.iter().map(load));
        Durations {
            buckets: buckets
                .chain([(f64::INFINITY, load(&self.beyond))])
                .collect(),
            sum: seconds(load(&self.sum_ns)),
        }
    }
}

impl Durations {
    /// Adds what another histogram of the same bounds holds.
    pub fn add(&mut self, other: &Self) {
        if self.buckets.is_empty() {
            self.clone_from(other);
            return;
        }
        for (own, other) in self.buckets.iter_mut().zip(&other.buckets) {
            own.1 += other.1;
        }
        self.sum += other.sum;
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|&(_, count)| count).sum()
    }

    /// The bound that at least `fraction` of the durations did not exceed; `None` where nothing was
    /// recorded. Infinite where it lies beyond the last bound.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of connections fit 52 bits"
    )]
    pub fn quantile(&self, fraction: f64) -> Option<f64> {
        let wanted = self.count() as f64 * fraction;
        let mut seen = 0;
        let reaches = |&&(_, count): &&(f64, u64)| {
            seen += count;
            seen > 0 && seen as f64 >= wanted
        };
        self.buckets.iter().find(reaches).map(|&(bound, _)| bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static BOUNDS: [u64; 3] = [1_000_000, 10_000_000, 100_000_000];

    #[test]
    fn durations_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let histogram = Histogram::new(&BOUNDS);
        for ms in [0, 1, 2, 10, 11, 100, 101, 5000] {
            histogram.record(Duration::from_millis(ms));
        }
        let durations = histogram.durations();
        let counts: Vec<u64> = durations.buckets.iter().map(|bucket| bucket.1).collect();
        assert_eq!(counts, [2, 2, 2, 2]);
        assert_eq!(durations.count(), 8);
        assert!((durations.sum - 5.225).abs() < 1e-9);
        assert_eq!(durations.quantile(0.5), Some(0.01));
        assert_eq!(durations.quantile(0.51), Some(0.1));
        assert_eq!(durations.quantile(1.0), Some(f64::INFINITY));
        assert_eq!(Histogram::new(&BOUNDS).durations().quantile(0.5), None);
    }

    #[test]
    fn sums_of_histograms_hold_what_both_held() {
        let [one, other] = [1, 50].map(|ms| {
            let histogram = Histogram::new(&BOUNDS);
            histogram.record(Duration::from_millis(ms));
            histogram.durations()
        });
        let mut sum = Durations::default();
        sum.add(&one);
        sum.add(&other);
        assert_eq!(sum.count(), 2);
        assert!((sum.sum - 0.051).abs() < 1e-9);
    }
}
