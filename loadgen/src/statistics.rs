//! What a run counts: a histogram per phase of a connection, and errors by name.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::client::{Agreed, BadKind};
use crate::failure::Failure;

/// What a handshake was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Full,
    Resumed,
}

/// Handshakes of one kind.
#[derive(Clone, Debug, Default)]
pub struct OfKind {
    /// Served; only where each unit is a handshake.
    pub confirmed: u64,
    /// Connected to the client's Finished sent, served or not.
    pub tls: Latency,
    /// The whole unit from the moment it was begun.
    pub unit: Latency,
}

/// Latencies in nanoseconds from 1 µs to 10 minutes, with three significant digits.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        const LOW_NS: u64 = 1_000;
        const HIGH_NS: u64 = 600_000_000_000;
        Self(Histogram::new_with_bounds(LOW_NS, HIGH_NS, 3).expect("constant bounds are good"))
    }
}

impl Latency {
    pub fn record(&mut self, elapsed: Duration) {
        self.0
            .saturating_record(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency in µs that `quantile` of the samples stay under; `None` where fewer than two
    /// samples are expected beyond it.
    pub fn quantile_us(&self, quantile: f64) -> Option<f64> {
        // A count fits a float well enough to ask whether it is large.
        #[allow(clippy::cast_precision_loss)]
        let beyond = (1.0 - quantile) * self.count() as f64;
        // 1.0 - 0.999 is a little less than 0.001.
        (beyond > 2.0 - 1e-6).then(|| ns_to_us(self.0.value_at_quantile(quantile)))
    }

    /// In µs; `None` without samples.
    pub fn mean_us(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.0.mean() / 1e3)
    }

    /// Samples, in nanoseconds.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    pub fn max_us(&self) -> Option<f64> {
        (self.count() > 0).then(|| ns_to_us(self.0.max()))
    }

    /// Adds what another program counted, with other bounds perhaps.
    pub fn add_histogram(&mut self, other: &Histogram<u64>) {
        for step in other.iter_recorded() {
            self.0
                .saturating_record_n(step.value_iterated_to(), step.count_at_value());
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }
}

#[allow(clippy::cast_precision_loss)]
fn ns_to_us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// What one load thread, or all together, saw within the measured time.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Units that were confirmed: handshakes, requests or echoes.
    pub confirmed: u64,
    /// Bytes through the terminator, each direction counted.
    pub bytes: u64,
    /// Units that failed, by name.
    pub errors: BTreeMap<Failure, u64>,
    /// Clients that had to be refused and were, by what the refusal looked like.
    pub refused: BTreeMap<(BadKind, Failure), u64>,
    /// Units that were due (open loop) or begun (closed loop).
    pub due: u64,
    /// Units begun.
    pub begun: u64,
    pub full: OfKind,
    pub resumed: OfKind,
    /// What handshakes agreed on, and how many; a handful of rows.
    pub agreed: Vec<(Agreed, u64)>,
    /// SYN to connected.
    pub connect: Latency,
    /// Connected to the client's Finished sent.
    pub tls: Latency,
    /// Finished sent to the first byte of the echo, or the ticket: the server's acceptance.
    pub confirm: Latency,
    /// A request sent to the first byte of its answer.
    pub first_byte: Latency,
    /// The whole unit from the moment it was begun.
    pub plain: Latency,
    /// The whole unit from the moment it was due; only with a rate.
    pub corrected: Latency,
    /// From the moment a unit was due to that it was begun; only with a rate.
    pub late: Latency,
    /// CPU time of the load threads in the measured time.
    pub own_cpu: Duration,
    /// The busiest load thread's share of its CPU, 0 to 1.
    pub own_busy: f64,
    /// The share of the time, 0 to 1, that a load thread at most was ready to run and had no CPU.
    pub own_waited: f64,
    /// How long a load thread at most slept past the moment at which it was to wake.
    pub stood_still: Duration,
}

impl Statistics {
    pub fn fail(&mut self, failure: Failure) {
        *self.errors.entry(failure).or_default() += 1;
    }

    pub fn of_kind(&mut self, kind: Kind) -> &mut OfKind {
        match kind {
            Kind::Full => &mut self.full,
            Kind::Resumed => &mut self.resumed,
        }
    }

    /// Counts a handshake by what it agreed on.
    pub fn agree(&mut self, agreed: Agreed) {
        self.agree_times(agreed, 1);
    }

    fn agree_times(&mut self, agreed: Agreed, times: u64) {
        match self.agreed.iter_mut().find(|(known, _)| *known == agreed) {
            Some((_, count)) => *count += times,
            None => self.agreed.push((agreed, times)),
        }
    }

    /// Resumed of all handshakes that were done.
    #[allow(clippy::cast_precision_loss)]
    pub fn resumed_ratio(&self) -> f64 {
        let (full, resumed) = (self.full.tls.count(), self.resumed.tls.count());
        if resumed == 0 {
            0.0
        } else {
            resumed as f64 / (full + resumed) as f64
        }
    }

    pub fn refuse(&mut self, kind: BadKind, failure: Failure) {
        *self.refused.entry((kind, failure)).or_default() += 1;
    }

    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Failed of all that ended.
    #[allow(clippy::cast_precision_loss)]
    pub fn error_ratio(&self) -> f64 {
        let ended = self.failed() + self.confirmed;
        if ended == 0 {
            0.0
        } else {
            self.failed() as f64 / ended as f64
        }
    }

    /// Begun of all that were due.
    #[allow(clippy::cast_precision_loss)]
    pub fn sent_ratio(&self) -> f64 {
        if self.due == 0 {
            1.0
        } else {
            self.begun as f64 / self.due as f64
        }
    }

    /// The latency to judge by: from the due moment where there is one.
    pub fn latency(&self) -> &Latency {
        if self.corrected.count() > 0 {
            &self.corrected
        } else {
            &self.plain
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.confirmed += other.confirmed;
        self.bytes += other.bytes;
        self.due += other.due;
        self.begun += other.begun;
        for (failure, count) in &other.errors {
            *self.errors.entry(failure.clone()).or_default() += count;
        }
        for (own, others) in [
            (&mut self.full, &other.full),
            (&mut self.resumed, &other.resumed),
        ] {
            own.confirmed += others.confirmed;
            own.tls.add(&others.tls);
            own.unit.add(&others.unit);
        }
        for (agreed, count) in &other.agreed {
            self.agree_times(*agreed, *count);
        }
        for (refusal, count) in &other.refused {
            *self.refused.entry(refusal.clone()).or_default() += count;
        }
        self.connect.add(&other.connect);
        self.tls.add(&other.tls);
        self.confirm.add(&other.confirm);
        self.first_byte.add(&other.first_byte);
        self.late.add(&other.late);
        self.plain.add(&other.plain);
        self.corrected.add(&other.corrected);
        self.own_cpu += other.own_cpu;
        self.own_busy = self.own_busy.max(other.own_busy);
        self.own_waited = self.own_waited.max(other.own_waited);
        self.stood_still = self.stood_still.max(other.stood_still);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_and_left_out_where_samples_are_few() {
        let mut latency = Latency::default();
        for us in 1..=2_000 {
            latency.record(Duration::from_micros(us));
        }
        let p50 = latency.quantile_us(0.5).unwrap();
        assert!((999.0..=1_001.5).contains(&p50), "{p50}");
        let p99 = latency.quantile_us(0.99).unwrap();
        assert!((1_979.0..=1_982.0).contains(&p99), "{p99}");
        assert!(latency.quantile_us(0.999).is_some());
        assert_eq!(latency.quantile_us(0.9999), None);
        assert_eq!(Latency::default().quantile_us(0.5), None);
    }

    #[test]
    fn threads_add_up() {
        let mut one = Statistics {
            confirmed: 3,
            due: 10,
            begun: 5,
            own_busy: 0.5,
            ..Default::default()
        };
        one.fail(Failure::TcpReset);
        one.plain.record(Duration::from_millis(1));
        let mut two = Statistics {
            own_busy: 0.75,
            ..one.clone()
        };
        two.fail(Failure::TlsTimeout);
        one.add(&two);
        assert_eq!((one.confirmed, one.failed(), one.plain.count()), (6, 3, 2));
        assert_eq!(one.errors[&Failure::TcpReset], 2);
        assert!((one.error_ratio() - 1.0 / 3.0).abs() < 1e-9);
        assert!((one.sent_ratio() - 0.5).abs() < 1e-9);
        assert!((one.own_busy - 0.75).abs() < 1e-9);
    }
}
