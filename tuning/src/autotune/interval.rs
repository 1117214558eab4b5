//! Statistics of pairs: what the ratio of two layouts is, and between what it lies.
//!
//! Everything is in natural logarithms of ratios: ln 1.02 is about 0.02, twice as good and half as
//! good are equally far from 0, and the mean of logarithms does not prefer the side that was the
//! divisor.

use serde::Serialize;

/// A mean, and between what it lies with a confidence of 95 %; natural logarithms of ratios.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    /// Deviation of one sample.
    pub deviation: f64,
    pub samples: usize,
}

impl Interval {
    /// Student's interval for the mean of independent samples; `None` of no sample. One alone has
    /// no bounds.
    #[expect(clippy::cast_precision_loss, reason = "samples are few")]
    pub fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() {
            return None;
        }
        let n = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / n;
        if samples.len() == 1 {
            return Some(Self {
                mean,
                low: f64::NEG_INFINITY,
                high: f64::INFINITY,
                deviation: f64::INFINITY,
                samples: 1,
            });
        }
        let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
        let deviation = (squares / (n - 1.0)).sqrt();
        let half = student(samples.len() - 1) * deviation / n.sqrt();
        Some(Self {
            mean,
            low: mean - half,
            high: mean + half,
            deviation,
            samples: samples.len(),
        })
    }

    /// How far from 0 the interval reaches, on either side.
    pub fn reach(&self) -> f64 {
        self.low.abs().max(self.high.abs())
    }
}

/// The two-sided 95 % quantile of Student's distribution: the value that a t variable with so many
/// degrees of freedom is beyond, on either side, with a probability of 5 %. From the table of
/// "critical values of Student's t distribution" of the NIST/SEMATECH e-Handbook of Statistical
/// Methods, 1.3.6.7.2; between its rows linear in 1/degrees, as is common.
#[expect(clippy::cast_precision_loss, reason = "degrees are few")]
pub fn student(degrees: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    const BEYOND: [(f64, f64); 5] = [
        (30.0, 2.042),
        (40.0, 2.021),
        (60.0, 2.000),
        (120.0, 1.980),
        (f64::INFINITY, 1.960),
    ];
    let Some(row) = degrees.checked_sub(1) else {
        return f64::INFINITY;
    };
    if let Some(value) = TABLE.get(row) {
        return *value;
    }
    let degrees = degrees as f64;
    let pair = BEYOND.windows(2).find(|pair| degrees <= pair[1].0);
    let [(from, high), (to, low)] = pair.map_or([BEYOND[4]; 2], |pair| [pair[0], pair[1]]);
    let part = (1.0 / from - 1.0 / degrees) / (1.0 / from - 1.0 / to);
    high + (low - high) * part
}

/// Samples of each of two measurements, with this deviation, after which an effect of `effect`
/// would be told from noise four times of five: half an interval of noise and half an interval of
/// the candidate lie below it then, with room for 0.84 deviations of the difference of both means.
/// `None` where it would take more than a million.
#[expect(clippy::cast_precision_loss, reason = "samples are below 2^52")]
pub fn samples_to_see(effect: f64, deviation: f64) -> Option<usize> {
    const MOST: usize = 1_000_000;
    const FOUR_OF_FIVE: f64 = 0.84;
    let enough = |n: usize| {
        let room = 2.0 * student(n - 1) + FOUR_OF_FIVE * 2.0_f64.sqrt();
        deviation / (n as f64).sqrt() * room <= effect
    };
    let (mut low, mut high) = (2, MOST);
    if !enough(high) {
        return None;
    }
    while low < high {
        let middle = low.midpoint(high);
        if enough(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Some(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The probability that a t variable lies beyond ±t, by Simpson's rule on its density.
    fn beyond(t: f64, degrees: u32) -> f64 {
        const STEPS: i32 = 20_000;
        let nu = f64::from(degrees);
        let density = |x: f64| (1.0 + x * x / nu).powf(-(nu + 1.0) / 2.0);
        let simpson = |from: f64, to: f64| {
            let h = (to - from) / f64::from(STEPS);
            let inner: f64 = (1..STEPS)
                .map(|i| {
                    f64::from(if i % 2 == 0 { 2 } else { 4 }) * density(from + h * f64::from(i))
                })
                .sum();
            (density(from) + inner + density(to)) * h / 3.0
        };
        // Γ((ν+1)/2) / Γ(ν/2) / √(νπ), by Γ(z+1) = z Γ(z) from ν = 1 or 2 upwards.
        let mut ratio = if degrees % 2 == 1 {
            std::f64::consts::PI.powf(-0.5)
        } else {
            std::f64::consts::PI.sqrt() / 2.0
        };
        let mut at = if degrees % 2 == 1 { 1.0 } else { 2.0 };
        while at < nu {
            ratio *= (at + 1.0) / at;
            at += 2.0;
        }
        1.0 - 2.0 * simpson(0.0, t) * ratio / (nu * std::f64::consts::PI).sqrt()
    }

    #[test]
    fn quantiles_leave_five_percent_outside() {
        for degrees in (1..=30).chain([35, 40, 50, 60, 90, 120, 200, 1000]) {
            let outside = beyond(student(degrees), u32::try_from(degrees).unwrap());
            assert!((outside - 0.05).abs() < 1e-4, "{degrees}: {outside}");
        }
        assert_eq!(student(0), f64::INFINITY);
        assert!((student(usize::MAX) - 1.96).abs() < 1e-9);
    }

    #[test]
    fn an_interval_is_the_one_of_the_textbook() {
        // Mean 5, deviation √(10/4), t(4) = 2.776: half is 2.776 · 1.5811 / √5.
        let interval = Interval::of(&[3.0, 4.0, 5.0, 6.0, 7.0]).unwrap();
        assert_eq!((interval.mean, interval.samples), (5.0, 5));
        assert!((interval.deviation - 1.581_139).abs() < 1e-6);
        assert!((interval.high - 6.962_9).abs() < 1e-4, "{interval:?}");
        assert!((interval.low - 3.037_1).abs() < 1e-4);
        assert!((interval.reach() - 6.962_9).abs() < 1e-4);
        assert_eq!(Interval::of(&[]), None);
        assert_eq!(Interval::of(&[1.0]).unwrap().reach(), f64::INFINITY);
    }

    #[test]
    fn an_interval_holds_the_truth_as_often_as_it_says() {
        let mut random = crate::random::Random::new(11);
        let held = (0..4_000).filter(|_| {
            let samples: Vec<f64> = (0..8).map(|_| 0.3 + 2.0 * random.normal()).collect();
            let interval = Interval::of(&samples).unwrap();
            interval.low <= 0.3 && 0.3 <= interval.high
        });
        let share = held.count() as f64 / 4_000.0;
        assert!((share - 0.95).abs() < 0.012, "{share}");
    }

    #[test]
    fn smaller_effects_take_more_samples() {
        let wide = samples_to_see(0.08, 0.03).unwrap();
        let narrow = samples_to_see(0.02, 0.03).unwrap();
        // (5.11 · 0.03 / 0.02)² is 59, and t is a little wider than the normal.
        assert!((58..=62).contains(&narrow), "{narrow}");
        assert!(wide < 10, "{wide}");
        assert_eq!(samples_to_see(0.0001, 1.0), None);
        assert_eq!(samples_to_see(0.02, 0.0), Some(2));
    }
}
