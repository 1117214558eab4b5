//! Connections that stay: placed once, then asking at an equal rate each.

use serde::Serialize;

use super::queue::quantile;
use super::{Placement, TABLE_LEN};
use crate::random::Random;

/// Times that all connections are placed anew, and placements of a point in all, as far as that
/// leaves [`DRAWS_MIN`].
const DRAWS_MAX: usize = 1_000;
const DRAWS_MIN: usize = 100;
const PLACEMENTS: usize = 5_000_000;

/// How uneven shards are, over many draws.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Skew {
    pub shards: usize,
    pub placement: Placement,
    pub connections: usize,
    pub draws: usize,
    /// Connections of the busiest shard over the mean.
    pub median: f64,
    pub p99: f64,
}

/// Places `connections` on `shards` many times.
#[expect(clippy::cast_precision_loss, reason = "counts are below 2^52")]
pub fn draw(shards: usize, connections: usize, placement: Placement, seed: u64) -> Skew {
    let mut random = Random::new(seed);
    let draws = match placement {
        Placement::InTurn => 1,
        _ => (PLACEMENTS / connections).clamp(DRAWS_MIN, DRAWS_MAX),
    };
    let mean = connections as f64 / shards as f64;
    let mut skews: Vec<f64> = (0..draws)
        .map(|_| {
            let mut held = vec![0_u32; shards];
            for connection in 0..connections {
                held[match placement {
                    Placement::Hash => random.below(shards),
                    Placement::Steering => random.below(TABLE_LEN) % shards,
                    Placement::InTurn => connection % shards,
                }] += 1;
            }
            f64::from(held.into_iter().max().unwrap_or_default()) / mean
        })
        .collect();
    Skew {
        shards,
        placement,
        connections,
        draws,
        median: quantile(&mut skews, 0.5),
        p99: quantile(&mut skews, 0.99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_balls_as_bins_have_their_known_maximum() {
        // For 1000 balls in 1000 bins nearly every draw has a maximum of 5 or 6: with a Poisson
        // count in each bin, P(max <= 4) is 2.5 %, P(max <= 5) 55 %, P(max <= 6) 92 %.
        let skew = draw(1000, 1000, Placement::Hash, 1);
        assert_eq!(skew.median, 5.0);
        assert!((7.0..=8.0).contains(&skew.p99), "{skew:?}");
    }

    #[test]
    fn two_bins_are_uneven_as_a_binomial_is() {
        // The maximum is N/2 + |X|, X normal with deviation √N/2: the median of |X| is 0.6745 of
        // it, the 99th percentile 2.576.
        let skew = draw(2, 10_000, Placement::Hash, 2);
        assert!((skew.median - 1.006_745).abs() < 0.001, "{skew:?}");
        assert!((skew.p99 - 1.025_76).abs() < 0.004, "{skew:?}");
    }

    #[test]
    fn many_balls_have_the_maximum_of_raab_and_steger() {
        let skew = draw(64, 20_000, Placement::Hash, 3);
        let mean = 20_000.0 / 64.0_f64;
        // Their leading term is an upper end that is reached slowly.
        let most = 1.0 + (2.0 * 64.0_f64.ln() / mean).sqrt();
        assert!(
            skew.median < most && skew.median > 1.0 + 0.75 * (most - 1.0),
            "{skew:?}"
        );
    }

    #[test]
    fn in_turn_differs_by_one_connection_at_most() {
        let skew = draw(16, 1000, Placement::InTurn, 1);
        assert_eq!((skew.median, skew.p99), (63.0 / 62.5, 63.0 / 62.5));
    }

    #[test]
    fn a_seed_gives_one_result() {
        let with = |seed| draw(32, 50_021, Placement::Hash, seed);
        assert_eq!(with(1), with(1));
        assert_ne!(with(1), with(2));
    }
}
