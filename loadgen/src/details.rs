//! All that a run measured, as it is written to JSON and read back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::client::{SlowOutcome, Step};
use crate::run::Measured;
use crate::series::Interval;
use crate::statistics::Latency;

/// What was asked for.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Settings {
    pub target: String,
    pub mode: String,
    pub confirm: String,
    pub connections: usize,
    pub threads: usize,
    pub cpus: Vec<usize>,
    pub duration_s: f64,
    pub warmup_s: f64,
    /// Bytes that each unit sends and expects back.
    pub size: usize,
    pub resume: f64,
    pub identities: usize,
    /// Units a second; `None` is a closed loop, or a ramp.
    pub rate: Option<f64>,
    pub arrival: Option<String>,
    /// Whether the server's certificate and signature were checked.
    pub server_checked: bool,
}

/// Latency of one phase in µs; `None` where there are too few samples.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Percentiles {
    pub count: u64,
    pub mean: Option<f64>,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub p999: Option<f64>,
    pub p9999: Option<f64>,
    pub max: Option<f64>,
}

impl Percentiles {
    pub fn new(latency: &Latency) -> Self {
        Self {
            count: latency.count(),
            mean: latency.mean_us(),
            p50: latency.quantile_us(0.5),
            p90: latency.quantile_us(0.9),
            p99: latency.quantile_us(0.99),
            p999: latency.quantile_us(0.999),
            p9999: latency.quantile_us(0.9999),
            max: latency.max_us(),
        }
    }
}

/// How the generator itself fared.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Generator {
    /// The busiest load thread's share of its CPU, 0 to 1.
    pub busy: f64,
    pub cpu_s: f64,
    /// Of what was due, what began.
    pub sent_ratio: f64,
    /// How long after it was due a unit began; only with a rate.
    pub late_p99_us: Option<f64>,
    /// Share of this host's CPU time that its hypervisor gave to others.
    pub stolen: f64,
    /// The share of the time that a load thread at most was ready and had no CPU.
    #[serde(default)]
    pub waited: f64,
    /// How long a load thread at most slept past the moment at which it was to wake.
    #[serde(default)]
    pub stood_still_s: f64,
}

/// What the server used, as far as it was watched.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Server {
    pub cpu_s: f64,
    /// CPUs that it kept busy.
    pub busy_cpus: f64,
    /// Bytes that its resident memory grew by.
    pub grew_bytes: Option<u64>,
    /// Threads that serve, see [`crate::cpu_time::Spread::threads`].
    #[serde(default)]
    pub threads: Option<usize>,
    /// CPU time of the busiest of these over the mean: 1 is even, `threads` is all on one.
    #[serde(default)]
    pub skew: Option<f64>,
}

/// One interval of a run.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Row {
    /// When it began, from the beginning of measuring.
    pub at_s: f64,
    pub len_s: f64,
    pub begun: u64,
    pub confirmed: u64,
    pub full: u64,
    pub resumed: u64,
    pub bytes: u64,
    pub failed: u64,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub max_us: Option<f64>,
    pub generator_cpu_s: f64,
    pub server_cpu_s: Option<f64>,
}

/// One step of a ramp.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct StepRow {
    pub rate: f64,
    pub begun: u64,
    pub confirmed_per_s: f64,
    pub failed: u64,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub server_cpu_us_per_unit: Option<f64>,
}

/// A point of the latency distribution.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Point {
    /// 0 to 1.
    pub quantile: f64,
    pub us: f64,
}

/// Everything about one run that is no verdict.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Details {
    pub settings: Settings,
    pub generator: Generator,
    pub server: Option<Server>,
    /// By phase of a connection.
    pub latency_us: BTreeMap<String, Percentiles>,
    /// Of whole units, as judged.
    pub distribution: Vec<Point>,
    pub series: Vec<Row>,
    /// Clients that had to be refused and were: by kind, and by what the refusal looked like.
    #[serde(default)]
    pub refused: BTreeMap<String, BTreeMap<String, u64>>,
    /// Peers that sent their handshake a byte at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow: Option<SlowOutcome>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepRow>,
}

impl Details {
    pub fn new(measured: &Measured, settings: Settings, steps: &[Step]) -> Self {
        let statistics = &measured.statistics;
        let phases = [
            ("connect", &statistics.connect),
            ("tls", &statistics.tls),
            ("tls_full", &statistics.full.tls),
            ("tls_resumed", &statistics.resumed.tls),
            ("confirm", &statistics.confirm),
            ("first_byte", &statistics.first_byte),
            ("unit", &statistics.plain),
            ("unit_from_due", &statistics.corrected),
        ];
        let server = measured.server_cpu.map(|cpu| Server {
            cpu_s: cpu.as_secs_f64(),
            busy_cpus: measured.per_s(cpu.as_secs_f64()),
            grew_bytes: measured.server_grew,
            threads: measured.server_spread.map(|spread| spread.threads),
            skew: measured.server_spread.map(|spread| spread.skew),
        });
        let mut refused: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for ((kind, failure), count) in &statistics.refused {
            let of_kind = refused.entry(kind.to_string()).or_default();
            of_kind.insert(failure.to_string(), *count);
        }
        Self {
            settings,
            generator: Generator {
                busy: statistics.own_busy,
                cpu_s: statistics.own_cpu.as_secs_f64(),
                sent_ratio: statistics.sent_ratio(),
                late_p99_us: statistics.late.quantile_us(0.99),
                stolen: measured.stolen,
                waited: statistics.own_waited,
                stood_still_s: statistics.stood_still.as_secs_f64(),
            },
            server,
            latency_us: phases
                .into_iter()
                .filter(|(_, latency)| latency.count() > 0)
                .map(|(name, latency)| (name.to_owned(), Percentiles::new(latency)))
                .collect(),
            distribution: distribution(statistics.latency()),
            series: rows(measured),
            refused,
            slow: measured.slow,
            steps: step_rows(measured, steps),
        }
    }
}

/// Quantiles that are ever closer to one: two more for each halving of what is left.
fn distribution(latency: &Latency) -> Vec<Point> {
    let mut points = Vec::new();
    let mut left = 1.0;
    while let Some(us) = latency.quantile_us(1.0 - left) {
        points.push(Point {
            quantile: 1.0 - left,
            us,
        });
        left *= std::f64::consts::FRAC_1_SQRT_2;
    }
    points
}

fn rows(measured: &Measured) -> Vec<Row> {
    let len_s = measured.series.len.as_secs_f64();
    let duration_s = measured.duration.as_secs_f64();
    let row = |interval: &Interval| {
        let at_s = f64::from(interval.number) * len_s;
        Row {
            at_s,
            len_s: len_s.min(duration_s - at_s).max(0.0),
            begun: interval.begun,
            confirmed: interval.confirmed,
            full: interval.full,
            resumed: interval.resumed,
            bytes: interval.bytes,
            failed: interval.failed,
            p50_us: interval.latency.quantile_us(0.5),
            p99_us: interval.latency.quantile_us(0.99),
            max_us: interval.latency.max_us(),
            generator_cpu_s: interval.own_cpu.as_secs_f64(),
            server_cpu_s: interval.server_cpu.map(|cpu| cpu.as_secs_f64()),
        }
    };
    measured.series.intervals.iter().map(row).collect()
}

/// The intervals of each step together.
#[allow(clippy::cast_precision_loss)]
fn step_rows(measured: &Measured, steps: &[Step]) -> Vec<StepRow> {
    let len = measured.series.len;
    let mut ends = std::time::Duration::ZERO;
    let mut rows = Vec::new();
    for step in steps {
        let began = ends;
        ends = ends.saturating_add(step.lasts);
        let middle = |interval: &Interval| len * interval.number + len / 2;
        let own: Vec<&Interval> = measured
            .series
            .intervals
            .iter()
            .filter(|interval| (began..ends).contains(&middle(interval)))
            .collect();
        if own.is_empty() {
            continue;
        }
        let mut latency = Latency::default();
        for interval in &own {
            latency.add(&interval.latency);
        }
        let sum = |of: fn(&Interval) -> u64| own.iter().map(|interval| of(interval)).sum::<u64>();
        let confirmed = sum(|interval| interval.confirmed);
        let server_cpu: Option<f64> = own
            .iter()
            .map(|interval| interval.server_cpu.map(|cpu| cpu.as_secs_f64() * 1e6))
            .sum();
        rows.push(StepRow {
            rate: step.rate,
            begun: sum(|interval| interval.begun),
            confirmed_per_s: confirmed as f64 / (len.as_secs_f64() * own.len() as f64),
            failed: sum(|interval| interval.failed),
            p50_us: latency.quantile_us(0.5),
            p99_us: latency.quantile_us(0.99),
            server_cpu_us_per_unit: server_cpu
                .filter(|_| confirmed > 0)
                .map(|cpu| cpu / confirmed as f64),
        });
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::series::Series;

    fn measured() -> Measured {
        let mut measured = Measured {
            duration: Duration::from_secs(4),
            server_cpu: Some(Duration::from_secs(2)),
            series: Series::new(Duration::from_secs(1)),
            ..Measured::default()
        };
        for number in 0..4 {
            let mut interval = Interval {
                number,
                confirmed: 1_000,
                begun: 1_000,
                ..Interval::default()
            };
            for us in 1..=1_000_u64 {
                let latency = Duration::from_micros(us * (1 + u64::from(number / 2)));
                interval.latency.record(latency);
                measured.statistics.plain.record(latency);
            }
            measured.series.add(&interval, 4);
            measured
                .series
                .server_cpu(number as usize, Duration::from_millis(500));
        }
        measured.statistics.confirmed = 4_000;
        measured
    }

    #[test]
    fn each_step_of_a_ramp_has_its_own_figures() {
        let step = |rate| Step {
            rate,
            lasts: Duration::from_secs(2),
        };
        let steps = [step(1_000.0), step(2_000.0)];
        let details = Details::new(&measured(), Settings::default(), &steps);
        let [first, second] = &details.steps[..] else {
            panic!("{:?}", details.steps)
        };
        assert_eq!((first.rate, first.confirmed_per_s), (1_000.0, 1_000.0));
        assert_eq!(first.server_cpu_us_per_unit, Some(500.0));
        let (first, second) = (first.p99_us.unwrap(), second.p99_us.unwrap());
        assert!((first - 990.0).abs() < 2.0 && (second - 1_980.0).abs() < 4.0);
    }

    #[test]
    fn the_distribution_goes_as_far_as_there_are_samples() {
        let details = Details::new(&measured(), Settings::default(), &[]);
        let last = details.distribution.last().unwrap();
        assert!((0.999..1.0).contains(&last.quantile), "{last:?}");
        assert!(details.distribution.is_sorted_by(|a, b| a.us <= b.us));
        assert!(details.distribution.len() < 64);
        assert!(details.latency_us.contains_key("unit"));
        assert!(!details.latency_us.contains_key("unit_from_due"));
    }

    #[test]
    fn it_reads_back_as_it_was_written() {
        let details = Details::new(&measured(), Settings::default(), &[]);
        let text = serde_json::to_string(&details).unwrap();
        let back: Details = serde_json::from_str(&text).unwrap();
        assert_eq!((back.series, back.steps), (details.series, details.steps));
        assert_eq!(back.latency_us, details.latency_us);
    }
}
