//! What each command takes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::client::{
    Arrival, BadShares, Ciphers, Close, Confirm, Distribution, Groups, Sources, Versions,
};
use crate::pki::{self, KeyKind};
use crate::threshold::Thresholds;
use crate::units::{self, Ramp};

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
    /// Clients whose certificate is revoked by client-crl.pem.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub revoked: u32,
    /// Clients with a certificate of another CA.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub wrong_ca: u32,
}

/// What each connection does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Mode {
    /// Large echoes on connections that stay.
    Bulk,
    /// Connect, shake hands, one echo, close.
    Handshake,
    /// Connect, shake hands, one echo; then nothing until the end.
    Hold,
    /// Small requests on connections that stay, one at a time each.
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
    /// Measured time, after the warm-up [default: 10s, or that of the ramp].
    #[arg(short, long, value_parser = measured_time)]
    pub duration: Option<Duration>,
    /// Units a second, whatever the server does (open loop). Without it each connection begins
    /// the next unit when the last has ended (closed loop).
    #[arg(short = 'R', long, value_parser = units::rate)]
    pub rate: Option<f64>,
    /// How units follow each other at a rate.
    #[arg(long, value_enum, default_value_t)]
    pub arrival: Arrival,
    /// Rates one after the other, as in 1k:20k:1k/10s: from 1000 to 20000 a second in steps of
    /// 1000, each for 10 s.
    #[arg(long, value_name = "FROM:TO:STEP/TIME", conflicts_with_all = ["rate", "duration"])]
    pub ramp: Option<Ramp>,
    /// Load threads.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = threads)]
    pub threads: usize,
    /// Requests on a connection before it is closed and made anew [default: no end].
    #[arg(long, value_name = "N", value_parser = requests)]
    pub reqs_per_conn: Option<u64>,
    /// Addresses of 127.0.0.0/8 that connections come from, each with ephemeral ports of its own
    /// [default: as many as a server on loopback needs].
    #[arg(long, value_name = "N", value_parser = sources)]
    pub sources: Option<u32>,
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
    /// How connections are spread over identities: uniform, or zipf:1.1.
    #[arg(long, value_name = "DISTRIBUTION", default_value = "uniform")]
    pub identity_dist: Distribution,
    /// Shares of connections that must be refused, as in
    /// expired:1%,revoked:1%,wrong-ca:1%,none:1%; all but none need --identities DIR with such
    /// clients. One that is served is an error of the worst kind.
    #[arg(long, value_name = "SHARES")]
    pub bad: Option<BadShares>,
    /// Peers beside the load that send their handshake a byte at a time.
    #[arg(long, value_name = "N", value_parser = connections)]
    pub slow: Option<usize>,
    /// How connections end.
    #[arg(long, value_enum, default_value_t)]
    pub close: Close,
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
    /// CPUs of the load threads, in turn [default: the last ones of this process].
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
    /// Write a line for each second to this file.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write histograms to this file, for HdrHistogram's tools and for `merge`.
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
    /// Write one page for people to this file; it needs no network.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Begin at this moment, in seconds of Unix time: several hosts at once.
    #[arg(long, value_name = "SECONDS")]
    pub start_at: Option<u64>,
    /// Print no table.
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Args, Debug)]
pub struct SearchArgs {
    #[command(flatten)]
    pub run: RunArgs,
    /// What must hold, as in p99<20ms,err<0.1%
    #[arg(long, value_name = "CONDITIONS")]
    pub slo: Thresholds,
    /// The first rate that is tried.
    #[arg(long, value_name = "RATE", default_value = "200", value_parser = units::rate)]
    pub start: f64,
    /// How close the answer comes to the rate that fails.
    #[arg(long, value_name = "RATIO", default_value = "5%", value_parser = precision)]
    pub precision: f64,
    /// CPUs of the server [default: as many as it kept busy, rounded up].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub server_cpus: Option<u32>,
}

#[derive(Args, Debug)]
pub struct PlanArgs {
    /// Results of run, search or demo: what handshakes, requests and bytes cost.
    #[arg(long, value_name = "RESULT.json", required = true, num_args = 1..)]
    pub from: Vec<PathBuf>,
    /// Connections a second.
    #[arg(long, value_parser = units::rate)]
    pub rate: f64,
    /// Share of them that resumes a session.
    #[arg(long, value_name = "RATIO", default_value = "0", value_parser = units::ratio)]
    pub resume: f64,
    /// What must hold; a search among the results must have been for the same.
    #[arg(long, value_name = "CONDITIONS")]
    pub slo: Option<Thresholds>,
    /// Requests a second of 1 KiB and its answer.
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    pub requests: Option<f64>,
    /// Bytes a second, in both directions together, as in 500M.
    #[arg(long, value_name = "RATE", value_parser = units::bytes_per_s)]
    pub bytes: Option<f64>,
    /// How busy a server may be, instead of as busy as in the search.
    #[arg(long, value_name = "RATIO", value_parser = utilisation)]
    pub utilisation: Option<f64>,
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub cores_per_host: u32,
    /// A run to check the plan by: what it took of the server is printed beside what the costs say.
    #[arg(long, value_name = "RESULT.json")]
    pub beside: Option<PathBuf>,
}

fn precision(text: &str) -> Result<f64, String> {
    match units::ratio(text) {
        Ok(ratio) if (0.001..=0.5).contains(&ratio) => Ok(ratio),
        _ => Err("expected a ratio from 0.1% to 50%".to_owned()),
    }
}

fn utilisation(text: &str) -> Result<f64, String> {
    match units::ratio(text) {
        Ok(ratio) if ratio > 0.0 => Ok(ratio),
        _ => Err("expected a ratio above 0, up to 100%".to_owned()),
    }
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

fn requests(text: &str) -> Result<u64, String> {
    count(text, 1 << 32).map(|count| count as u64)
}

fn sources(text: &str) -> Result<u32, String> {
    count(text, Sources::MAX as usize).map(|count| u32::try_from(count).unwrap_or(Sources::MAX))
}

fn threads(text: &str) -> Result<usize, String> {
    count(text, 1_024)
}

fn count(text: &str, max: usize) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=max).contains(count));
    count.ok_or_else(|| format!("expected a number from 1 to {max}"))
}
