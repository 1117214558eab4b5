//! The tables of a simulation.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::queue::{Point, simulate};
use super::stay::{Skew, draw};
use super::{Cost, Kind, Placement};

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub shards: Vec<usize>,
    pub load: Load,
    pub kinds: Vec<Kind>,
    /// Connections that stay.
    pub connections: usize,
    pub seed: u64,
}

/// How much comes.
#[derive(Clone, Debug, PartialEq)]
pub enum Load {
    /// New connections a second for each shard.
    RatePerShard(Vec<f64>),
    /// Mean utilisations.
    Utilisation(Vec<f64>),
}

/// All that was simulated; serialises to the JSON of `simulate --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Simulation {
    pub seed: u64,
    pub kinds: Vec<Kind>,
    pub mean_cost_us: f64,
    /// Connections that come and go.
    pub points: Vec<Point>,
    /// Connections that stay.
    pub skews: Vec<Skew>,
}

impl Simulation {
    pub fn run(question: &Question) -> Self {
        let cost = Cost::Kinds(question.kinds.clone());
        let mean_cost_us = cost.mean_us();
        let utilisations: Vec<f64> = match &question.load {
            Load::RatePerShard(rates) => {
                rates.iter().map(|rate| rate * mean_cost_us / 1e6).collect()
            }
            Load::Utilisation(utilisations) => utilisations.clone(),
        };
        let (mut points, mut skews) = (Vec::new(), Vec::new());
        for &shards in &question.shards {
            for &utilisation in &utilisations {
                points.extend(Placement::ALL.map(|placement| {
                    simulate(shards, utilisation, &cost, placement, question.seed)
                }));
            }
            skews.extend(
                Placement::ALL
                    .map(|placement| draw(shards, question.connections, placement, question.seed)),
            );
        }
        Self {
            seed: question.seed,
            kinds: question.kinds.clone(),
            mean_cost_us,
            points,
            skews,
        }
    }
}

impl Display for Simulation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "A new connection costs its shard {:.0} µs:",
            self.mean_cost_us
        )?;
        for kind in &self.kinds {
            write!(
                f,
                " {} {:.0} µs ({:.0} %)",
                kind.name,
                kind.us,
                kind.share * 1e2
            )?;
        }
        writeln!(f, "; seed {}\n", self.seed)?;
        writeln!(
            f,
            "{:>6}  {:<9} {:>9} {:>12} {:>8} {:>10} {:>10} {:>6}",
            "shards", "placed", "new/s", "utilisation", "busiest", "p50", "p99", "skew"
        )?;
        for point in &self.points {
            writeln!(
                f,
                "{:>6}  {:<9} {:>9.0} {:>10.1} % {:>6.1} % {:>10} {:>10} {:>6.3}",
                point.shards,
                point.placement.name(),
                point.rate_per_s,
                point.utilisation * 1e2,
                point.busiest_utilisation * 1e2,
                latency(point.p50_us),
                latency(point.p99_us),
                point.skew
            )?;
        }
        if self.points.iter().any(|point| point.p99_us.is_none()) {
            writeln!(
                f,
                "grows: a shard has more to do than it can; latency grows as long as that lasts"
            )?;
        }
        let connections = self.skews.first().map_or(0, |skew| skew.connections);
        writeln!(
            f,
            "\n{connections} connections that stay, each asking at the same rate; skew is the \
             busiest shard's part over the mean\n"
        )?;
        writeln!(
            f,
            "{:>6}  {:<9} {:>12} {:>12}  mean utilisation when the busiest is full",
            "shards", "placed", "median skew", "p99 skew"
        )?;
        for skew in &self.skews {
            writeln!(
                f,
                "{:>6}  {:<9} {:>12.3} {:>12.3}  {:.0} %",
                skew.shards,
                skew.placement.name(),
                skew.median,
                skew.p99,
                1e2 / skew.p99
            )?;
        }
        Ok(())
    }
}

fn latency(us: Option<f64>) -> String {
    match us {
        None => "grows".to_owned(),
        Some(us) if us < 1e3 => format!("{us:.0} µs"),
        Some(us) if us < 1e6 => format!("{:.2} ms", us / 1e3),
        Some(us) => format!("{:.2} s", us / 1e6),
    }
}
