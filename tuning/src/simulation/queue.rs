//! Connections that come, are served and go.

use serde::Serialize;

use super::{Cost, Placement, TABLE_LEN};
use crate::random::Random;

/// Arrivals of a point, and at least so many for each shard. Waits of neighbours are alike, so that
/// a p99 needs far more of them than the hundreds that lie beyond it.
const ARRIVALS_MIN: usize = 1_000_000;
const ARRIVALS_PER_SHARD_MIN: usize = 4_000;

/// One part in so many arrivals comes first and is not counted: queues begin empty.
const WARMUP_PART: usize = 10;

/// One point of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    pub shards: usize,
    pub placement: Placement,
    /// New connections a second, of the whole host.
    pub rate_per_s: f64,
    /// λ s / n: what was asked for.
    pub offered_utilisation: f64,
    /// Work that came over time that passed, of all shards and of the one with most; above 1 the
    /// rest of it still waits.
    pub utilisation: f64,
    pub busiest_utilisation: f64,
    /// The busiest shard's work over the mean. It goes to its value in the long run as the simulated
    /// time grows.
    pub skew: f64,
    /// `None` where a shard has more to do than it can: latency grows as long as it lasts.
    pub mean_us: Option<f64>,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    /// Arrivals that are counted, and the time in which they came.
    pub arrivals: usize,
    pub simulated_s: f64,
}

/// Simulates `shards` shards at a mean utilisation of `utilisation`. Placements with the same seed
/// see the same arrivals with the same costs.
#[expect(clippy::cast_precision_loss, reason = "counts are below 2^52")]
pub fn simulate(
    shards: usize,
    utilisation: f64,
    cost: &Cost,
    placement: Placement,
    seed: u64,
) -> Point {
    let mut random = Random::new(seed);
    let (mut gaps, mut costs, mut places) = (random.fork(), random.fork(), random.fork());
    let n = shards as f64;
    let gap_us = cost.mean_us() / (utilisation * n);
    let all = ARRIVALS_MIN.max(shards * ARRIVALS_PER_SHARD_MIN);
    let warmup = all / WARMUP_PART;
    let mut free_at = vec![0.0_f64; shards];
    let mut work = vec![0.0_f64; shards];
    let mut latencies = Vec::with_capacity(all - warmup);
    let (mut now, mut began) = (0.0, 0.0);
    for arrival in 0..all {
        now += gaps.exponential(gap_us);
        let cost_us = cost.draw(&mut costs);
        let shard = match placement {
            Placement::Hash => places.below(shards),
            Placement::Steering => places.below(TABLE_LEN) % shards,
            Placement::InTurn => arrival % shards,
        };
        // Lindley's recursion: a queue that is served in order needs no other state.
        let done = now.max(free_at[shard]) + cost_us;
        free_at[shard] = done;
        if arrival < warmup {
            began = now;
            continue;
        }
        work[shard] += cost_us;
        latencies.push(done - now);
    }
    let simulated_us = now - began;
    let mean_work = work.iter().sum::<f64>() / n;
    let busiest = work.iter().copied().fold(0.0, f64::max);
    let settles = utilisation * placement.skew_in_the_long_run(shards) < 1.0;
    let arrivals = latencies.len();
    let mean_us = latencies.iter().sum::<f64>() / arrivals as f64;
    Point {
        shards,
        placement,
        rate_per_s: 1e6 / gap_us,
        offered_utilisation: utilisation,
        utilisation: mean_work / simulated_us,
        busiest_utilisation: busiest / simulated_us,
        skew: busiest / mean_work,
        mean_us: settles.then_some(mean_us),
        p50_us: settles.then(|| quantile(&mut latencies, 0.5)),
        p99_us: settles.then(|| quantile(&mut latencies, 0.99)),
        arrivals,
        simulated_s: simulated_us / 1e6,
    }
}

/// The value that the part `part` of `values` does not exceed; of at least one value.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a position in a vector"
)]
pub(super) fn quantile(values: &mut [f64], part: f64) -> f64 {
    let at = (part * values.len() as f64).ceil() as usize;
    let at = at.clamp(1, values.len()) - 1;
    *values.select_nth_unstable_by(at, f64::total_cmp).1
}

impl Cost {
    fn draw(&self, random: &mut Random) -> f64 {
        match self {
            Self::Exponential { mean_us } => random.exponential(*mean_us),
            Self::Kinds(kinds) => {
                let mut left = random.unit();
                for kind in kinds {
                    left -= kind.share;
                    if left < 0.0 {
                        return kind.us;
                    }
                }
                // Shares that add up to a little less than 1.
                kinds.last().map_or(0.0, |kind| kind.us)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn fixed(us: f64) -> Cost {
        mixed(&[(us, 1.0)])
    }

    fn mixed(kinds: &[(f64, f64)]) -> Cost {
        let kinds = kinds.iter().map(|&(us, share)| Kind {
            name: String::new(),
            us,
            share,
        });
        Cost::Kinds(kinds.collect())
    }

    fn near(found: f64, expected: f64, tolerance: f64) {
        let off = (found / expected - 1.0).abs();
        assert!(off < tolerance, "{found}, expected {expected}");
    }

    #[test]
    fn m_d_1_waits_as_pollaczek_and_khinchine_say() {
        for (utilisation, shards) in [(0.5, 1), (0.7, 2), (0.7, 16), (0.85, 8)] {
            let point = simulate(shards, utilisation, &fixed(100.0), Placement::Hash, 1);
            let wait = point.mean_us.unwrap() - 100.0;
            near(
                wait,
                100.0 * utilisation / (2.0 * (1.0 - utilisation)),
                0.06,
            );
            near(point.utilisation, utilisation, 0.02);
        }
    }

    #[test]
    fn m_g_1_waits_longer_the_more_costs_differ() {
        // E[S] = 190 µs and E[S²] = 0.9 · 100² + 0.1 · 1000².
        let cost = mixed(&[(100.0, 0.9), (1000.0, 0.1)]);
        near(cost.mean_us(), 190.0, 1e-9);
        let point = simulate(2, 0.6, &cost, Placement::Hash, 3);
        let rate_per_us = 0.6 / 190.0;
        let expected = rate_per_us * 109_000.0 / (2.0 * 0.4);
        near(point.mean_us.unwrap() - 190.0, expected, 0.08);
    }

    #[test]
    fn m_m_1_has_exponential_latency() {
        let cost = Cost::Exponential { mean_us: 100.0 };
        let point = simulate(4, 0.7, &cost, Placement::Hash, 5);
        let mean = 100.0 / 0.3;
        near(point.mean_us.unwrap(), mean, 0.05);
        near(point.p50_us.unwrap(), mean * 2.0_f64.ln(), 0.05);
        near(point.p99_us.unwrap(), mean * 100.0_f64.ln(), 0.08);
    }

    #[test]
    fn in_turn_waits_least_and_alone_is_all_the_same() {
        let p99 = |shards, placement| {
            simulate(shards, 0.8, &fixed(300.0), placement, 9)
                .p99_us
                .unwrap()
        };
        assert!(p99(16, Placement::InTurn) < 0.5 * p99(16, Placement::Hash));
        near(p99(16, Placement::Steering), p99(16, Placement::Hash), 0.05);
        let alone = Placement::ALL.map(|placement| p99(1, placement));
        assert!(alone.iter().all(|p99| *p99 == alone[0]), "{alone:?}");
    }

    #[test]
    fn a_table_that_shards_do_not_divide_loads_some_of_them_more() {
        // 48 shards: 32 of them have three entries of 128, the others two.
        let long_run = Placement::Steering.skew_in_the_long_run(48);
        near(long_run, 3.0 * 48.0 / 128.0, 1e-9);
        let point = simulate(48, 0.7, &fixed(300.0), Placement::Steering, 2);
        assert!(point.skew > long_run, "{}", point.skew);
        near(point.skew, long_run, 0.06);
        let over = simulate(48, 0.9, &fixed(300.0), Placement::Steering, 2);
        assert!(over.p99_us.is_none() && over.busiest_utilisation > 1.0);
        assert_eq!(Placement::Steering.skew_in_the_long_run(64), 1.0);
    }

    #[test]
    fn a_seed_gives_one_result() {
        let with = |seed| simulate(8, 0.6, &fixed(250.0), Placement::Hash, seed);
        assert_eq!(with(4), with(4));
        assert_ne!(with(4).p99_us, with(5).p99_us);
    }

    #[test]
    fn quantiles_are_values_that_were_there() {
        let mut values: Vec<f64> = (1..=100).map(f64::from).collect();
        values.reverse();
        for (part, expected) in [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            assert_eq!(quantile(&mut values, part), expected);
        }
    }
}
