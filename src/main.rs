//! The `ringgate` program: reads arguments, starts the parts, reports how it ended.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use ringgate::clock::Clock;
use ringgate::config;
use ringgate::control::{self, Control, Ending, ShardHandle};
use ringgate::snapshot::Snapshot;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A mutual-TLS terminator: it proves who a client is, decides whether it may enter, and relays
/// it to an upstream that learns who came.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Terminates TLS as the configuration says, until SIGTERM
    Run(ConfigArgument),
    /// Checks a configuration and every file it names, and prints all that is wrong
    Check(ConfigArgument),
}

#[derive(Args, Debug)]
struct ConfigArgument {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    // Usage errors end here, with exit code 2.
    let outcome = match Arguments::parse().command {
        Command::Run(ConfigArgument { config }) => run(&config),
        Command::Check(ConfigArgument { config }) => check(&config),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{}", message.trim_end());
            ExitCode::FAILURE
        }
    }
}

fn check(file: &Path) -> Result<(), String> {
    let snapshot = load(file)?;
    eprint!("{}", warnings(&snapshot));
    let count = |number: usize, one: &str, several: &str| {
        format!("{number} {}", if number == 1 { one } else { several })
    };
    let listeners = &snapshot.listeners;
    let addresses = listeners
        .iter()
        .map(|listener| listener.addresses.len())
        .sum();
    let routes = listeners.iter().map(|listener| listener.routes.len()).sum();
    println!(
        "config ok: {} on {}, {}",
        count(listeners.len(), "listener", "listeners"),
        count(addresses, "address", "addresses"),
        count(routes, "route", "routes")
    );
    Ok(())
}

fn run(file: &Path) -> Result<(), String> {
    let snapshot = load(file)?;
    control::log::init(snapshot.log);
    for warning in &snapshot.warnings {
        tracing::warn!("{warning}");
    }
    let control = Control::new(Clock::system()).map_err(|error| error.to_string())?;
    let (drain_timeout, access) = (snapshot.drain_timeout, snapshot.log.access);
    let shards = start_shards(snapshot)?;
    match control.run(shards, drain_timeout, access) {
        Ending::Drained | Ending::Stopped => Ok(()),
        Ending::ShardLost => Err("a shard ended by itself; its log lines say why".to_owned()),
        Ending::Unresponsive => Err("shards did not end when told to".to_owned()),
    }
}

/// Starts one shard on each CPU of the snapshot's plan.
fn start_shards(_snapshot: Snapshot) -> Result<Vec<ShardHandle>, String> {
    Err("this build has no data plane yet; `ringgate check` works".to_owned())
}

/// Everything that the configuration says, or everything that is wrong with it.
fn load(file: &Path) -> Result<Snapshot, String> {
    match Snapshot::load_file(file, &Clock::system()) {
        Ok((_, snapshot)) => Ok(snapshot),
        Err(errors) => {
            let (count, noun) = (
                errors.len(),
                if errors.len() == 1 { "error" } else { "errors" },
            );
            Err(format!(
                "{}{count} {noun} in {}",
                config::render(&errors),
                file.display()
            ))
        }
    }
}

fn warnings(snapshot: &Snapshot) -> String {
    snapshot
        .warnings
        .iter()
        .map(|warning| format!("warning: {warning}\n"))
        .collect()
}
