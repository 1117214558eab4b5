//! The command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use core_affinity::CoreId;

use crate::client::{Ciphers, Confirm, Groups, Versions};
use crate::echo::{Echo, EchoOptions};
use crate::floor::Floor;
use crate::pki::{self, KeyKind, Pki, PkiOptions};
use crate::report::print;
use crate::threshold::Thresholds;
use crate::{demo, run_command, units};

/// How the process ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
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
    /// The raw cryptography of mutual TLS on this CPU.
    Floor {
        /// The kind of every key.
        #[arg(long, value_enum, default_value_t)]
        key: KeyKind,
    },
    /// A test PKI as files.
    Pki(PkiArgs),
    /// Load on a server.
    Run(Box<RunArgs>),
}

#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Measured time of each phase.
    #[arg(short, long, default_value = "3s", value_parser = units::duration)]
    pub duration: Duration,
    /// Write the result to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Measure nothing: leave terminator and echo running, and print commands to try by hand.
    #[arg(long)]
    pub keep: bool,
    /// The kind of every key.
    #[arg(long, value_enum, default_value_t)]
    pub key: KeyKind,
    /// Put an intermediate CA between each root and its leaves.
    #[arg(long)]
    pub intermediate: bool,
}

#[derive(Args, Debug)]
pub struct EchoArgs {
    /// Port 0 takes a free one.
    #[arg(default_value = "127.0.0.1:9000")]
    pub listen: SocketAddr,
    /// Expect a PROXY v2 header in front of each connection.
    #[arg(long)]
    pub proxy: bool,
    /// CPU of its one thread [default: not pinned].
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Connections at a time.
    #[arg(short, long, value_name = "N", default_value = "16384", value_parser = connections)]
    pub connections: usize,
}

#[derive(Args, Debug)]
pub struct PkiArgs {
    /// Where the files go.
    pub directory: PathBuf,
    /// Clients with good certificates.
    #[arg(long, default_value_t = 1)]
    pub clients: u32,
    /// Put an intermediate CA between each root and its leaves.
    #[arg(long)]
    pub intermediate: bool,
    /// The kind of every key.
    #[arg(long, value_enum, default_value_t)]
    pub key: KeyKind,
    /// The server's DNS name or IP address.
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Clients whose certificate has expired.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub expired: u32,
    /// Clients with a certificate of another CA.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub wrong_ca: u32,
}

/// What each connection does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Mode {
    /// Large echoes on held connections.
    Bulk,
    /// Connect, shake hands, one echo, close.
    Handshake,
    /// Small requests on held connections, one at a time each.
    Rr,
}

#[derive(Args, Debug)]
pub struct RunArgs {
    #[arg(value_name = "HOST:PORT")]
    pub target: String,
    #[arg(long, value_enum, default_value = "handshake")]
    pub mode: Mode,
    /// What counts as a served handshake.
    #[arg(long, value_enum, default_value = "echo")]
    pub confirm: Confirm,
    /// Connections at a time.
    #[arg(short, long, value_name = "N", default_value_t = 64, value_parser = connections)]
    pub connections: usize,
    /// Measured time, after the warm-up.
    #[arg(short, long, default_value = "10s", value_parser = measured_time)]
    pub duration: Duration,
    /// Units a second, whatever the server does (open loop). Without it each connection begins
    /// the next unit when the last has ended (closed loop).
    #[arg(short = 'R', long, value_parser = units::rate)]
    pub rate: Option<f64>,
    /// Load threads.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = threads)]
    pub threads: usize,
    /// What each unit sends and expects back [default: 1B handshake, 1KiB rr, 64KiB bulk].
    #[arg(long, value_parser = units::size)]
    pub size: Option<usize>,
    /// Time before measuring begins [default: 500ms, and with --resume 1ms for each identity, in
    /// which it gets its first session].
    #[arg(long, value_parser = units::duration)]
    pub warmup: Option<Duration>,
    /// How long connecting, the handshake and each unit may take.
    #[arg(long, default_value = "5s", value_parser = measured_time)]
    pub timeout: Duration,
    /// CAs that the server's certificate may come from.
    #[arg(long, value_name = "FILE", required_unless_present = "insecure")]
    pub ca: Option<PathBuf>,
    /// Believe any server and check no signature of it, which costs the generator least; the
    /// report says so.
    #[arg(long, conflicts_with = "ca")]
    pub insecure: bool,
    /// Certificate chain of the client.
    #[arg(
        long,
        value_name = "FILE",
        requires = "key",
        conflicts_with = "identities"
    )]
    pub cert: Option<PathBuf>,
    /// Key of the client.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Clients that connections present in turn: a directory made by `pki`, or how many to make
    /// with --issuer-cert and --issuer-key.
    #[arg(long, value_name = "DIR|N")]
    pub identities: Option<Identities>,
    /// CA that signs the clients of --identities N; `pki` leaves one as client-issuer.pem.
    #[arg(long, value_name = "FILE", requires = "issuer_key")]
    pub issuer_cert: Option<PathBuf>,
    /// Key of that CA.
    #[arg(long, value_name = "FILE", requires = "issuer_cert")]
    pub issuer_key: Option<PathBuf>,
    /// Share of connections that shall resume a session, 0 to 1; the share reached is reported.
    #[arg(long, value_name = "RATIO", default_value = "0", value_parser = units::ratio)]
    pub resume: f64,
    /// Cipher suites to offer, best first, as in TLS_AES_128_GCM_SHA256 [default: rustls's].
    #[arg(long, value_name = "NAMES")]
    pub ciphers: Option<Ciphers>,
    /// Groups to offer, best first, as in X25519,secp256r1 [default: rustls's].
    #[arg(long, value_name = "NAMES")]
    pub groups: Option<Groups>,
    /// TLS versions to offer [default: 1.3,1.2].
    #[arg(long, value_name = "VERSIONS")]
    pub tls: Option<Versions>,
    /// Name to ask for and to verify [default: HOST].
    #[arg(long, value_name = "NAME")]
    pub sni: Option<String>,
    /// CPUs of the load threads, in turn [default: not pinned].
    #[arg(long, value_delimiter = ',')]
    pub cpus: Vec<usize>,
    /// Processes whose CPU time, and that of their children, is the server's.
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pub server_pid: Vec<u32>,
    /// What must hold, as in p99<20ms,err<0.1%,sent>0.99
    #[arg(long, value_name = "CONDITIONS")]
    pub threshold: Option<Thresholds>,
    /// Write the result to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Print no table.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Where a pool of clients comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Identities {
    Directory(PathBuf),
    /// Made at the start.
    Made(u32),
}

impl FromStr for Identities {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Directory(PathBuf::from(text)));
        }
        let made = text.parse().ok();
        let made = made.filter(|made| (1..=pki::CLIENTS_MAX).contains(made));
        made.map(Self::Made)
            .ok_or_else(|| format!("expected a number from 1 to {}", pki::CLIENTS_MAX))
    }
}

fn measured_time(text: &str) -> Result<Duration, String> {
    match units::duration(text) {
        Ok(Duration::ZERO) => Err("must be more than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

fn connections(text: &str) -> Result<usize, String> {
    count(text, 1_000_000)
}

fn threads(text: &str) -> Result<usize, String> {
    count(text, 1_024)
}

fn count(text: &str, max: usize) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=max).contains(count));
    count.ok_or_else(|| format!("expected a number from 1 to {max}"))
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
        Command::Floor { key } => print_floor(key),
        Command::Pki(args) => write_pki(&args),
        Command::Run(args) => run_command::run(&args),
    }
    .into()
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

fn print_floor(key: KeyKind) -> Status {
    let Ok(floor) = Floor::measure(key) else {
        eprintln!("the cryptographic library failed on this CPU");
        return Status::GeneratorLimit;
    };
    let mut table = format!("µs for each operation on this CPU, {key:?}:\n");
    for (name, us) in [
        ("X25519 key pair and agreement", floor.key_exchange_us),
        ("signature", floor.sign_us),
        ("verification", floor.verify_us),
        ("HKDF extract and expand, SHA-256", floor.hkdf_us),
        ("AES-128-GCM, 1 KiB", floor.aead_1k_us),
        ("AES-128-GCM, 16 KiB", floor.aead_16k_us),
        (
            "full mutual handshake on the server, chain verdict known",
            floor.full_handshake_us(0),
        ),
        (
            "the same, and one signature of the chain",
            floor.full_handshake_us(1),
        ),
        (
            "resumed mutual handshake on the server",
            floor.resumed_handshake_us(),
        ),
    ] {
        table.push_str(&format!("  {us:>9.3}  {name}\n"));
    }
    print(&table);
    Status::Held
}

fn write_pki(args: &PkiArgs) -> Status {
    let defaults = PkiOptions::default();
    let options = PkiOptions {
        clients: args.clients,
        expired: args.expired,
        intermediate: args.intermediate,
        key: args.key,
        server_name: args.server_name.clone().unwrap_or(defaults.server_name),
        wrong_ca: args.wrong_ca,
    };
    match Pki::generate(&options).and_then(|pki| pki::write(&pki, &args.directory)) {
        Ok(()) => Status::Held,
        Err(error) => {
            eprintln!("{error}");
            Status::Usage
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (Duration::from_secs(5), Some(2048))
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
            ("run a:1 --insecure --mode hold", "handshake"),
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
