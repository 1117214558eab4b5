//! The command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use core_affinity::CoreId;
use serde::{Deserialize, Serialize};

use crate::args::{DemoArgs, EchoArgs, PkiArgs, PlanArgs, RunArgs, SearchArgs};
use crate::echo::{Echo, EchoOptions};
use crate::pki::{self, Pki, PkiOptions};
use crate::report::{Report, print};
use crate::{capacity, compare, demo, floor, hlog, run_command, search};

/// How the process ends.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Held,
    /// The command line, or a file that it names, is wrong.
    Usage,
    /// The server did not do what it must.
    TargetFailed,
    /// The generator was at its limit: the result says nothing about the server.
    GeneratorLimit,
    ThresholdMissed,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(match status {
            Status::Held => 0,
            Status::Usage => 1,
            Status::TargetFailed => 2,
            Status::GeneratorLimit => 3,
            Status::ThresholdMissed => 99,
        })
    }
}

/// Capacity questions about mutual TLS, answered from measurements.
///
/// Exit codes: 0 held; 1 usage; 2 the target failed; 3 the generator was the limit, so the result
/// says nothing about the server; 99 a threshold was missed.
#[derive(Debug, Parser)]
#[command(name = "ringgate-loadgen", verbatim_doc_comment)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Terminator, echo upstream and load in one command, with a report.
    Demo(DemoArgs),
    /// An upstream that sends back what it gets, to put behind the server that is measured.
    Echo(EchoArgs),
    /// Two results beside each other, as ratios with confidence intervals.
    Compare {
        #[arg(value_name = "A.json")]
        first: PathBuf,
        #[arg(value_name = "B.json")]
        second: PathBuf,
    },
    /// The raw cryptography of mutual TLS on this CPU, for each kind of key and group.
    Floor,
    /// Histogram logs of several hosts into one: histograms add, percentiles never average.
    Merge {
        #[arg(value_name = "FILE.hlog", required = true)]
        logs: Vec<PathBuf>,
        /// Write what they hold together to this file.
        #[arg(long, value_name = "FILE")]
        hlog: Option<PathBuf>,
    },
    /// A test PKI as files.
    Pki(PkiArgs),
    /// Cores and hosts for a load, from what was measured.
    Plan(PlanArgs),
    /// Load on a server.
    Run(Box<RunArgs>),
    /// The highest rate at which conditions hold.
    Search(Box<SearchArgs>),
}

/// The first address of `HOST:PORT`, and its host.
pub fn resolve(target: &str) -> Result<(SocketAddr, String), String> {
    let example = "write it as in 127.0.0.1:8443 or server.example:8443";
    let host = match target.rsplit_once(':') {
        Some((host, _)) if !host.is_empty() => host,
        _ => return Err(format!("{target:?} has no host and port; {example}")),
    };
    let mut addresses = target
        .to_socket_addrs()
        .map_err(|error| format!("{target:?}: {error}; {example}"))?;
    let address = addresses
        .next()
        .ok_or_else(|| format!("{target:?} has no address"))?;
    Ok((address, host.trim_matches(['[', ']']).to_owned()))
}

/// Parses the arguments of the process and does what they say.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Where even this cannot be printed, there is nobody to tell.
            let _ = error.print();
            let status = if error.use_stderr() {
                Status::Usage
            } else {
                Status::Held
            };
            return status.into();
        }
    };
    // Thousands of connections need thousands of descriptors.
    ringgate::ring::raise_descriptor_limit();
    match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Echo(args) => run_echo(&args),
        Command::Floor => print_floor(),
        Command::Pki(args) => write_pki(&args),
        Command::Compare { first, second } => print_or_fail(compare_files(&first, &second)),
        Command::Merge { logs, hlog } => print_or_fail(merge_files(&logs, hlog.as_deref())),
        Command::Plan(args) => print_or_fail(capacity::plan(&args)),
        Command::Run(args) => run_command::run(&args),
        Command::Search(args) => search::run(&args),
    }
    .into()
}

/// Prints what came of files that a person named.
fn print_or_fail(result: Result<String, String>) -> Status {
    match result {
        Ok(text) => {
            print(&text);
            Status::Held
        }
        Err(error) => {
            eprintln!("{error}");
            Status::Usage
        }
    }
}

fn compare_files(first: &Path, second: &Path) -> Result<String, String> {
    compare::table(&Report::read(first)?, &Report::read(second)?)
}

fn merge_files(paths: &[PathBuf], to: Option<&Path>) -> Result<String, String> {
    let logs = paths
        .iter()
        .map(|path| hlog::read(path))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(to) = to {
        let mut entries: Vec<hlog::Entry> = logs.iter().flatten().cloned().collect();
        entries.sort_by_key(|entry| entry.at);
        hlog::write(to, &entries)?;
    }
    let mut table = format!(
        "{:<16} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
        "µs", "samples", "p50", "p90", "p99", "p99.9", "p99.99"
    );
    for (tag, latency) in hlog::merge(&logs) {
        let cells: String = [0.5, 0.9, 0.99, 0.999, 0.9999]
            .map(|quantile| {
                let us = latency.quantile_us(quantile);
                let us = us.map_or_else(|| "-".to_owned(), |us| format!("{us:.0}"));
                format!(" {us:>9}")
            })
            .concat();
        let name = tag.as_deref().unwrap_or("unit");
        table.push_str(&format!("{name:<16} {:>10}{cells}\n", latency.count()));
    }
    Ok(table)
}

/// Runs until the process is ended.
fn run_echo(args: &EchoArgs) -> Status {
    let echo = Echo::start(EchoOptions {
        listen: args.listen,
        delivered: args.proxy.then(Arc::default),
        cpu: args.cpu.map(|id| CoreId { id }),
        connections: u32::try_from(args.connections).unwrap_or(u32::MAX),
    });
    match echo {
        Ok(echo) => {
            print(&format!("{} sends back what it gets\n", echo.address()));
            loop {
                std::thread::park();
            }
        }
        Err(error) => {
            eprintln!("{error}; is the address free, and one of this host?");
            Status::Usage
        }
    }
}

fn print_floor() -> Status {
    let Ok(table) = floor::table() else {
        eprintln!("the cryptographic library failed on this CPU");
        return Status::GeneratorLimit;
    };
    print(&table);
    Status::Held
}

fn write_pki(args: &PkiArgs) -> Status {
    let defaults = PkiOptions::default();
    let options = PkiOptions {
        clients: args.clients,
        expired: args.expired,
        revoked: args.revoked,
        intermediate: args.intermediate,
        key: args.key,
        server_name: args.server_name.clone().unwrap_or(defaults.server_name),
        wrong_ca: args.wrong_ca,
    };
    match Pki::generate(&options).and_then(|pki| pki::write(&pki, &args.directory)) {
        Ok(()) => {
            let directory = args.directory.display();
            print(&format!(
                "the server gets {directory}/server.pem, server.key and, to verify clients, \
                 client-ca.pem\nthe load gets --ca {directory}/ca.pem --identities {directory}, \
                 and knows the server as {}, localhost and 127.0.0.1\n",
                options.server_name
            ));
            Status::Held
        }
        Err(error) => {
            eprintln!("{error}");
            Status::Usage
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::args::{Identities, Mode};
    use crate::client::{Arrival, Confirm};

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("ringgate-loadgen").chain(line.split_whitespace()))
    }

    fn run_args(line: &str) -> RunArgs {
        match parse(line).unwrap().command {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_letters_people_know() {
        let args = run_args(
            "run 127.0.0.1:8443 -t 2 -c 32 -d 5s -R 2k --mode rr --size 2KiB --insecure \
             --threshold p99<20ms,err<0.1% --cpus 1,2 --server-pid 7",
        );
        assert_eq!(
            (args.threads, args.connections, args.rate),
            (2, 32, Some(2000.0))
        );
        assert_eq!(
            (args.duration, args.size),
            (Some(Duration::from_secs(5)), Some(2048))
        );
        assert_eq!((args.mode, args.confirm), (Mode::Rr, Confirm::Echo));
        assert_eq!((args.cpus, args.server_pid), (vec![1, 2], vec![7]));
        assert!(args.threshold.is_some());
        let args = run_args("run a.example:1 --ca ca.pem --confirm none --identities pki");
        assert_eq!((args.mode, args.confirm), (Mode::Handshake, Confirm::None));
        let directory = Some(Identities::Directory(PathBuf::from("pki")));
        assert_eq!(args.identities, directory);
        let args = run_args(
            "run a:1 --insecure --resume 70% --identities 100 --issuer-cert c --issuer-key k \
             --ciphers TLS_AES_128_GCM_SHA256 --groups X25519 --tls 1.3 --confirm ticket",
        );
        assert_eq!(args.identities, Some(Identities::Made(100)));
        assert_eq!((args.resume, args.confirm), (0.7, Confirm::Ticket));
        let args = run_args(
            "run a:1 --insecure --ramp 1k:3k:1k/2s --arrival uniform --sources 4 --mode hold \
             --ciphers TLS_AES_128_GCM_SHA256 --groups X25519 --tls 1.3",
        );
        assert_eq!(args.ramp.unwrap().steps().len(), 3);
        assert_eq!((args.arrival, args.sources), (Arrival::Uniform, Some(4)));
        assert_eq!(args.mode, Mode::Hold);
        assert!(args.ciphers.is_some() && args.groups.is_some() && args.tls.is_some());
    }

    #[test]
    fn what_is_wrong_is_refused_and_named() {
        for (line, named) in [
            ("run", "HOST:PORT"),
            ("run a:1", "--ca"),
            ("run a:1 --insecure --cert c.pem", "--key"),
            ("run a:1 --insecure --key c.key", "--cert"),
            ("run a:1 --insecure --ca f", "cannot be used"),
            ("run a:1 --insecure -c 0", "1 to 1000000"),
            ("run a:1 --insecure -t 0", "1 to 1024"),
            ("run a:1 --insecure -d 0s", "more than nothing"),
            ("run a:1 --insecure -d 10", "10s or 500ms"),
            ("run a:1 --insecure -R 0", "5000 or 5k"),
            ("run a:1 --insecure --size 0", "1KiB"),
            ("run a:1 --insecure --mode walk", "handshake"),
            ("run a:1 --insecure --ramp 1k", "1k:20k:1k/10s"),
            (
                "run a:1 --insecure --ramp 1k:2k:1k/1s -R 5",
                "cannot be used",
            ),
            ("run a:1 --insecure --arrival bursts", "poisson"),
            ("run a:1 --insecure --sources 0", "1 to"),
            ("run a:1 --insecure --bad lost:1%", "wrong-ca:1%"),
            ("run a:1 --insecure --identity-dist normal", "zipf:1.1"),
            ("run a:1 --insecure --close later", "rst"),
            ("run a:1 --insecure --slow 0", "1 to"),
            ("run a:1 --insecure --reqs-per-conn 0", "1 to"),
            ("run a:1 --insecure --confirm maybe", "ticket"),
            ("run a:1 --insecure --resume 1.5", "0.1%"),
            ("run a:1 --insecure --identities 0", "1 to 1000000"),
            ("run a:1 --insecure --issuer-cert c", "--issuer-key"),
            (
                "run a:1 --insecure --ciphers NULL",
                "TLS_AES_128_GCM_SHA256",
            ),
            ("run a:1 --insecure --groups ffdhe2048", "X25519"),
            ("run a:1 --insecure --tls 1.1", "1.3"),
            ("run a:1 --insecure --threshold p98<1s", "p99.9"),
            (
                "run a:1 --insecure --cert c --key k --identities d",
                "cannot be used",
            ),
            ("search a:1 --insecure", "--slo"),
            ("search a:1 --insecure --slo p99<1s --precision 90%", "50%"),
            ("plan --rate 50k", "--from"),
            ("plan --from r.json --rate 50k --utilisation 0", "above 0"),
            ("compare a.json", "B.json"),
            ("merge", "FILE.hlog"),
            ("echo nowhere", "nowhere"),
            ("pki", "<DIRECTORY>"),
            ("pki d --key rsa1024", "rsa2048"),
            ("demo --duration never", "500ms"),
            ("walk", "walk"),
        ] {
            let error = parse(line).unwrap_err();
            let text = error.to_string();
            assert!(error.use_stderr() && text.contains(named), "{line}: {text}");
        }
    }

    #[test]
    fn targets_resolve_or_say_why_not() {
        let (address, host) = resolve("127.0.0.1:8443").unwrap();
        assert_eq!((address.port(), host.as_str()), (8443, "127.0.0.1"));
        assert_eq!(resolve("[::1]:443").unwrap().1, "::1");
        for target in ["", ":443", "localhost", "127.0.0.1:99999", "a b:1"] {
            assert!(
                resolve(target).unwrap_err().contains("127.0.0.1:8443"),
                "{target}"
            );
        }
    }
}
