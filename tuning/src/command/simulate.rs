//! `ringgate-tune simulate`.

use std::process::ExitCode;

use clap::Args;

use ringgate_tune::simulation::Kind;
use ringgate_tune::simulation::report::{Load, Question, Simulation};
use ringgate_tune::units;

use super::{fail, print};

/// As many shards as the terminator takes.
const SHARDS_MAX: usize = 1024;
const CONNECTIONS_MAX: usize = 1_000_000;

/// Values of a list: what is asked for is a table for people.
const LIST_MAX: usize = 32;

#[derive(Args)]
pub struct Simulate {
    /// Shards of the host.
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "2,4,8,16,24,32,48,64,96,128",
        value_parser = shards
    )]
    shards: Vec<usize>,
    /// New connections a second for each shard, instead of a utilisation.
    #[arg(
        long,
        value_name = "RATE,...",
        value_delimiter = ',',
        conflicts_with = "utilisation",
        value_parser = units::rate
    )]
    rate_per_shard: Vec<f64>,
    /// Mean utilisation of the shards.
    #[arg(
        long,
        value_name = "RATIO,...",
        value_delimiter = ',',
        default_value = "0.5,0.7,0.85",
        value_parser = utilisation
    )]
    utilisation: Vec<f64>,
    /// CPU time that a connection costs its shard, by kind: measure it with
    /// `ringgate-loadgen run --server-pid`.
    #[arg(
        long,
        value_name = "KIND:TIME,...",
        value_delimiter = ',',
        default_value = "full:367us,resumed:249us",
        value_parser = cost
    )]
    cost: Vec<(String, f64)>,
    /// Share of connections that resume a session, 0 to 1; only with a cost of `resumed`
    /// [default: 0.9 where there is one].
    #[arg(long, value_name = "RATIO", value_parser = share)]
    resume: Option<f64>,
    /// Connections that stay.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = connections)]
    connections: usize,
    /// Another one gives other draws; the same one gives the same table.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

impl Simulate {
    pub fn run(self) -> ExitCode {
        let kinds = match kinds(&self.cost, self.resume) {
            Ok(kinds) => kinds,
            Err(problem) => return fail(&problem),
        };
        let lists = [
            ("--shards", self.shards.len()),
            ("--rate-per-shard", self.rate_per_shard.len()),
            ("--utilisation", self.utilisation.len()),
        ];
        if let Some((name, len)) = lists.into_iter().find(|(_, len)| *len > LIST_MAX) {
            return fail(&format_args!(
                "{name} has {len} values; give {LIST_MAX} at most"
            ));
        }
        let load = match self.rate_per_shard {
            rates if rates.is_empty() => Load::Utilisation(self.utilisation),
            rates => Load::RatePerShard(rates),
        };
        let simulation = Simulation::run(&Question {
            shards: self.shards,
            load,
            kinds,
            connections: self.connections,
            seed: self.seed,
        });
        if self.json {
            let json = serde_json::to_string_pretty(&simulation);
            print(&(json.expect("a simulation has string keys and finite numbers only") + "\n"))
        } else {
            print(&simulation.to_string())
        }
    }
}

/// One cost is every connection's; those of `full` and `resumed` are mixed by `resume`.
fn kinds(costs: &[(String, f64)], resume: Option<f64>) -> Result<Vec<Kind>, String> {
    const RESUME: f64 = 0.9;
    let kind = |(name, us): &(String, f64), share| Kind {
        name: name.clone(),
        us: *us,
        share,
    };
    let named = |wanted| costs.iter().find(|(name, _)| name == wanted);
    match (costs, named("full"), named("resumed")) {
        ([only], ..) if resume.is_none_or(|resume| resume == 0.0) => Ok(vec![kind(only, 1.0)]),
        ([only], ..) => Err(format!(
            "--resume needs the costs of both kinds, and --cost names `{}` alone; give \
             full:TIME,resumed:TIME",
            only.0
        )),
        ([_, _], Some(full), Some(resumed)) => {
            let resume = resume.unwrap_or(RESUME);
            Ok(vec![kind(full, 1.0 - resume), kind(resumed, resume)])
        }
        _ => {
            let names: Vec<&str> = costs.iter().map(|(name, _)| name.as_str()).collect();
            Err(format!(
                "--cost names {}; give one kind, or full:TIME,resumed:TIME",
                names.join(", ")
            ))
        }
    }
}

fn cost(text: &str) -> Result<(String, f64), String> {
    let (name, time) = text
        .split_once(':')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("`{text}`: expected KIND:TIME, as in full:367us"))?;
    Ok((name.to_owned(), units::micros(time)?))
}

fn shards(text: &str) -> Result<usize, String> {
    count(text, SHARDS_MAX)
}

fn connections(text: &str) -> Result<usize, String> {
    count(text, CONNECTIONS_MAX)
}

fn count(text: &str, max: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=max).contains(&count) => Ok(count),
        _ => Err(format!("`{text}`: expected a number from 1 to {max}")),
    }
}

fn utilisation(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
        _ => Err(format!(
            "`{text}`: expected a ratio above 0 and below 1; a queue that gets more than it can \
             serve never settles"
        )),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err(format!("`{text}`: expected a ratio from 0 to 1")),
    }
}
