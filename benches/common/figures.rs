//! Figures of several rounds.
#![allow(dead_code, reason = "each bench uses its part")]

/// The least, the median and the greatest.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub low: f64,
    pub middle: f64,
    pub high: f64,
}

impl Spread {
    /// `None` where there are no figures.
    pub fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let at = sorted.len() / 2;
        let middle = match sorted.len().is_multiple_of(2) {
            true => f64::midpoint(sorted[at - 1], sorted[at]),
            false => sorted[at],
        };
        Some(Self { low, middle, high })
    }

    pub fn scaled(self, by: f64) -> Self {
        Self {
            low: self.low * by,
            middle: self.middle * by,
            high: self.high * by,
        }
    }

    /// The median with `unit`, and the range.
    pub fn text(self, digits: usize, unit: &str) -> String {
        let Self { low, middle, high } = self;
        format!("{middle:.digits$}{unit} ({low:.digits$}–{high:.digits$})")
    }
}
