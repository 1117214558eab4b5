//! Means with confidence intervals, from the intervals of runs.

use serde::{Deserialize, Serialize};

/// A value, and between what it lies with a confidence of 95 %.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    /// A value that is taken as it is.
    pub fn exact(value: f64) -> Self {
        Self {
            value,
            low: value,
            high: value,
        }
    }

    /// Half of the interval.
    pub fn spread(&self) -> f64 {
        (self.high - self.low) / 2.0
    }

    pub fn scaled(&self, by: f64) -> Self {
        Self {
            value: self.value * by,
            low: self.low * by,
            high: self.high * by,
        }
    }

    /// The sum of values that are independent of each other: their spreads add as squares.
    pub fn sum(terms: &[Self]) -> Self {
        let value: f64 = terms.iter().map(|term| term.value).sum();
        let spread = terms
            .iter()
            .map(|term| term.spread().powi(2))
            .sum::<f64>()
            .sqrt();
        Self {
            value,
            low: value - spread,
            high: value + spread,
        }
    }
}

/// Samples that stand for one figure of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Samples {
    pub count: usize,
    pub mean: f64,
    /// Of the mean.
    pub standard_error: f64,
}

impl Samples {
    /// `None` without any.
    #[allow(clippy::cast_precision_loss)]
    pub fn new(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = if values.len() > 1 {
            values
                .iter()
                .map(|value| (value - mean).powi(2))
                .sum::<f64>()
                / (count - 1.0)
        } else {
            f64::INFINITY
        };
        Some(Self {
            count: values.len(),
            mean,
            standard_error: (variance / count).sqrt(),
        })
    }

    /// The mean with its interval; without bounds where there is but one sample.
    pub fn estimate(&self) -> Estimate {
        let spread = self.standard_error * student(self.count.saturating_sub(1));
        Estimate {
            value: self.mean,
            low: self.mean - spread,
            high: self.mean + spread,
        }
    }

    /// `self` by `base`: the relative errors add as squares (delta method), with the degrees of
    /// freedom of the smaller sample, which errs on the side of a wide interval.
    pub fn ratio_to(&self, base: &Self) -> Option<Estimate> {
        if base.mean <= 0.0 || self.mean <= 0.0 {
            return None;
        }
        let value = self.mean / base.mean;
        let relative = ((self.standard_error / self.mean).powi(2)
            + (base.standard_error / base.mean).powi(2))
        .sqrt();
        let spread = value * relative * student(self.count.min(base.count).saturating_sub(1));
        Some(Estimate {
            value,
            low: value - spread,
            high: value + spread,
        })
    }
}

/// The two-sided 95 % quantile of Student's distribution.
fn student(degrees: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    const NORMAL: f64 = 1.960;
    match degrees.checked_sub(1) {
        None => f64::INFINITY,
        Some(index) => TABLE.get(index).copied().unwrap_or(NORMAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_have_intervals() {
        let samples = Samples::new(&[9.0, 10.0, 11.0]).unwrap();
        let estimate = samples.estimate();
        assert!((estimate.value - 10.0).abs() < 1e-9);
        // 4.303 / sqrt(3)
        assert!((estimate.spread() - 2.484).abs() < 0.001, "{estimate:?}");
        assert_eq!(Samples::new(&[]), None);
        let alone = Samples::new(&[5.0]).unwrap().estimate();
        assert!(alone.high.is_infinite() || alone.high.is_nan());
    }

    #[test]
    fn ratios_hold_what_they_are_made_of() {
        let base = Samples::new(&[99.0, 100.0, 101.0, 100.0]).unwrap();
        let other = Samples::new(&[198.0, 200.0, 202.0, 200.0]).unwrap();
        let ratio = other.ratio_to(&base).unwrap();
        assert!((ratio.value - 2.0).abs() < 1e-9);
        assert!(
            ratio.low < 2.0 && ratio.low > 1.9 && ratio.high < 2.1,
            "{ratio:?}"
        );
        assert_eq!(other.ratio_to(&Samples::default()), None);
    }

    #[test]
    fn sums_add_spreads_as_squares() {
        let term = |spread: f64| Estimate {
            value: 10.0,
            low: 10.0 - spread,
            high: 10.0 + spread,
        };
        let sum = Estimate::sum(&[term(3.0), term(4.0), Estimate::exact(1.0)]);
        assert!((sum.value - 21.0).abs() < 1e-9 && (sum.spread() - 5.0).abs() < 1e-9);
    }
}
