//! Numbers that look random and are the same in every build with the same seed: a simulation that
//! someone else repeats has to give the same table.

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). A few
/// lines of our own, because crates do not promise the sequence from one version to the next.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One with a sequence of its own.
    pub fn fork(&mut self) -> Self {
        Self(self.next_u64())
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to but not including 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub fn unit(&mut self) -> f64 {
        const STEPS: f64 = (1_u64 << 53) as f64;
        (self.next_u64() >> 11) as f64 / STEPS
    }

    /// From 0 up to but not including `end`, by the high half of a product (Lemire, 2019, without
    /// the rejection: `end` is so small that the bias is below 2⁻⁵⁰).
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the result is below `end`, which is a usize"
    )]
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next_u64()) * end as u128) >> 64) as usize
    }

    /// With the given mean: the time between events that know nothing of each other.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// Normal with mean 0 and deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sequence() {
        let mut random = Random::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.next_u64()).collect();
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut random = Random::new(7);
        let n = 100_000;
        let mut mean = |mut draw: Box<dyn FnMut(&mut Random) -> f64>| {
            (0..n).map(|_| draw(&mut random)).sum::<f64>() / f64::from(n)
        };
        for (found, expected) in [
            (mean(Box::new(Random::unit)), 0.5),
            (mean(Box::new(|random| random.exponential(3.0))), 3.0),
            (mean(Box::new(Random::normal)), 0.0),
            (mean(Box::new(|random| random.normal().powi(2))), 1.0),
            (
                mean(Box::new(|random| f64::from(u8::from(random.below(4) == 3)))),
                0.25,
            ),
        ] {
            assert!((found - expected).abs() < 0.04, "{found} for {expected}");
        }
    }
}
