//! Which identity a connection presents.

use std::str::FromStr;

use super::Random;

/// How connections are spread over identities.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Distribution {
    /// Each as often as any other, in turn.
    #[default]
    Uniform,
    /// The n-th as often as 1/n to this power says: a few clients make most connections.
    Zipf(f64),
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPONENT_MAX: f64 = 10.0;
        if text == "uniform" {
            return Ok(Self::Uniform);
        }
        let exponent = text
            .strip_prefix("zipf:")
            .and_then(|text| text.parse().ok());
        let exponent = exponent.filter(|exponent| (0.0..=EXPONENT_MAX).contains(exponent));
        exponent
            .map(Self::Zipf)
            .ok_or_else(|| format!("{text:?} is no distribution; write uniform or zipf:1.1"))
    }
}

/// What a connection presents.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Presents {
    /// A good identity, by its number.
    Good(usize),
    /// One that must be refused: number of its pool, and within that.
    Bad(usize, usize),
}

/// Chooses for one load thread.
#[derive(Debug)]
pub(super) struct Choice {
    random: Random,
    good: usize,
    /// Zipf's distribution function; empty for turns.
    cumulated: Vec<f64>,
    /// Share and size of each pool that must be refused.
    bad: Vec<(f64, usize)>,
    bad_made: u64,
}

impl Choice {
    /// `good` is at least one.
    pub(super) fn new(
        distribution: Distribution,
        good: usize,
        bad: Vec<(f64, usize)>,
        seed: u64,
    ) -> Self {
        let mut cumulated = Vec::new();
        if let Distribution::Zipf(exponent) = distribution {
            let mut sum = 0.0;
            for number in 1..=good {
                // Far below 2^53.
                #[allow(clippy::cast_precision_loss)]
                let weight = (number as f64).powf(-exponent);
                sum += weight;
                cumulated.push(sum);
            }
            for value in &mut cumulated {
                *value /= sum;
            }
        }
        Self {
            random: Random::new(seed),
            good,
            cumulated,
            bad,
            bad_made: 0,
        }
    }

    /// What the connection with this number presents.
    pub(super) fn next(&mut self, number: u64) -> Presents {
        if !self.bad.is_empty() {
            let mut unit = self.random.unit();
            for (pool, (share, len)) in self.bad.iter().enumerate() {
                if unit < *share {
                    self.bad_made += 1;
                    return Presents::Bad(pool, turn(self.bad_made, *len));
                }
                unit -= share;
            }
        }
        if self.cumulated.is_empty() {
            return Presents::Good(turn(number, self.good));
        }
        let unit = self.random.unit();
        let found = self.cumulated.partition_point(|&value| value < unit);
        Presents::Good(found.min(self.good - 1))
    }
}

fn turn(number: u64, len: usize) -> usize {
    usize::try_from(number % len.max(1) as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(mut choice: Choice, good: usize) -> (Vec<u32>, u32) {
        let (mut counts, mut bad) = (vec![0; good], 0);
        for number in 0..10_000 {
            match choice.next(number) {
                Presents::Good(number) => counts[number] += 1,
                Presents::Bad(..) => bad += 1,
            }
        }
        (counts, bad)
    }

    #[test]
    fn turns_are_even() {
        let choice = Choice::new(Distribution::Uniform, 4, Vec::new(), 1);
        assert_eq!(counts(choice, 4), (vec![2_500; 4], 0));
    }

    #[test]
    fn zipf_prefers_the_first() {
        let choice = Choice::new(Distribution::Zipf(1.0), 3, Vec::new(), 1);
        let (counts, _) = counts(choice, 3);
        // 6/11, 3/11 and 2/11.
        for (count, expected) in counts.iter().zip([5_455_i32, 2_727, 1_818]) {
            let off = i32::try_from(*count).unwrap() - expected;
            assert!(off.abs() < 250, "{counts:?}");
        }
    }

    #[test]
    fn so_many_must_be_refused() {
        let choice = Choice::new(Distribution::Uniform, 2, vec![(0.1, 3), (0.05, 1)], 1);
        let (_, bad) = counts(choice, 2);
        assert!((1_350..=1_650).contains(&bad), "{bad} of about 1,500");
    }

    #[test]
    fn distributions_are_read() {
        assert_eq!("uniform".parse(), Ok(Distribution::Uniform));
        assert_eq!("zipf:1.1".parse(), Ok(Distribution::Zipf(1.1)));
        for text in ["", "zipf", "zipf:", "zipf:-1", "zipf:NaN", "normal"] {
            let error = text.parse::<Distribution>().unwrap_err();
            assert!(error.contains("zipf:1.1"), "{error}");
        }
    }
}
