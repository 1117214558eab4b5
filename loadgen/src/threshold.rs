//! `--threshold 'p99<20ms,err<0.1%,sent>0.99'`: what a run must hold.

use std::fmt;
use std::str::FromStr;

use crate::statistics::Statistics;
use crate::units;

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thresholds(Vec<Threshold>);

#[derive(Clone, Debug, PartialEq)]
struct Threshold {
    metric: Metric,
    above: bool,
    limit: f64,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Metric {
    ErrorRatio,
    /// In microseconds.
    Quantile(f64),
    /// Confirmed units a second.
    Rate,
    SentRatio,
}

/// Why a text is no threshold.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ThresholdError {
    #[error("{0:?} has no < or >; write it as in p99<20ms")]
    Comparison(String),
    #[error("{0:?} is no metric; there are p50, p90, p95, p99, p99.9, p99.99, err, rate and sent")]
    Metric(String),
    #[error(transparent)]
    Limit(#[from] units::UnitError),
}

impl FromStr for Thresholds {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',')
            .map(|part| part.trim().parse())
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl FromStr for Threshold {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at = text
            .find(['<', '>'])
            .ok_or_else(|| ThresholdError::Comparison(text.to_owned()))?;
        let (name, limit) = (text[..at].trim(), text[at + 1..].trim());
        let metric = match name {
            "err" => Metric::ErrorRatio,
            "rate" => Metric::Rate,
            "sent" => Metric::SentRatio,
            "p50" => Metric::Quantile(0.5),
            "p90" => Metric::Quantile(0.9),
            "p95" => Metric::Quantile(0.95),
            "p99" => Metric::Quantile(0.99),
            "p99.9" | "p999" => Metric::Quantile(0.999),
            "p99.99" | "p9999" => Metric::Quantile(0.9999),
            other => return Err(ThresholdError::Metric(other.to_owned())),
        };
        let limit = match metric {
            Metric::ErrorRatio | Metric::SentRatio => units::ratio(limit)?,
            Metric::Quantile(_) => units::duration(limit)?.as_secs_f64() * 1e6,
            Metric::Rate => units::rate(limit)?,
        };
        let above = text.as_bytes()[at] == b'>';
        Ok(Self {
            metric,
            above,
            limit,
            text: text.to_owned(),
        })
    }
}

impl Thresholds {
    /// Whether one of them is about errors.
    pub fn bounds_errors(&self) -> bool {
        self.0
            .iter()
            .any(|threshold| threshold.metric == Metric::ErrorRatio)
    }

    /// The conditions that do not hold, with what was measured.
    pub fn missed(&self, statistics: &Statistics, confirmed_per_s: f64) -> Vec<String> {
        let missed = self.0.iter().filter_map(|threshold| {
            let measured = match threshold.metric {
                Metric::ErrorRatio => Some(statistics.error_ratio()),
                Metric::Quantile(quantile) => statistics.latency().quantile_us(quantile),
                Metric::Rate => Some(confirmed_per_s),
                Metric::SentRatio => Some(statistics.sent_ratio()),
            };
            match measured {
                // What cannot be judged has not been held.
                None => Some(format!("{threshold}: too few samples")),
                Some(value) if threshold.holds(value) => None,
                Some(value) => Some(format!("{threshold}: measured {}", threshold.show(value))),
            }
        });
        missed.collect()
    }
}

impl Threshold {
    fn holds(&self, value: f64) -> bool {
        if self.above {
            value > self.limit
        } else {
            value < self.limit
        }
    }

    fn show(&self, value: f64) -> String {
        match self.metric {
            Metric::ErrorRatio | Metric::SentRatio => format!("{:.3}%", value * 100.0),
            Metric::Quantile(_) => format!("{value:.0}us"),
            Metric::Rate => format!("{value:.0} a second"),
        }
    }
}

impl fmt::Display for Thresholds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<&str> = self.0.iter().map(|one| one.text.as_str()).collect();
        f.write_str(&all.join(","))
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::failure::Failure;

    #[test]
    fn thresholds_hold_or_are_missed() {
        let mut statistics = Statistics {
            confirmed: 999,
            ..Statistics::default()
        };
        statistics.fail(Failure::TlsTimeout);
        for _ in 0..1_000 {
            statistics.plain.record(Duration::from_millis(10));
        }
        let missed = |text: &str| {
            text.parse::<Thresholds>()
                .unwrap()
                .missed(&statistics, 500.0)
        };
        assert!(missed("p99<20ms, err<1%, sent>0.99, rate>400").is_empty());
        assert_eq!(missed("p99<9ms").len(), 1);
        assert_eq!(
            missed("err<0.1%"),
            ["err<0.1%: measured 0.100%"],
            "below, not at"
        );
        assert_eq!(missed("rate>1k"), ["rate>1k: measured 500 a second"]);
        assert_eq!(missed("p99.99<1s"), ["p99.99<1s: too few samples"]);
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "", "p99", "p99=3ms", "p98<3ms", "p99<3", "err<200%", "rate>0", "p99<1ms,",
        ] {
            assert!(text.parse::<Thresholds>().is_err(), "{text}");
        }
    }
}
