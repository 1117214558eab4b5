//! `demo`: a terminator, an echo upstream and load, in one process.

use std::fs::DirBuilder;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use core_affinity::CoreId;
use ringgate::clock::Clock;
use ringgate::terminator::Terminator;
use rustls::RootCertStore;
use rustls_pki_types::ServerName;

use crate::args::DemoArgs;
use crate::cli::Status;
use crate::client::{
    Close, Confirm, Credentials, Distribution, Offer, ServerTrust, Sources, Work, Workload,
};
use crate::cpu_time::Watched;
use crate::echo::{Echo, EchoOptions};
use crate::failure::Failure;
use crate::floor::{Algorithms, Floor};
use crate::identity_check::{Delivered, IdentityCounts};
use crate::pki::{self, Credential, Pki, PkiOptions};
use crate::report::{Phase, Report, SCHEMA, Unit, print};
use crate::run::{Measured, RunPlan, measure};
use crate::run_command::payload;

/// Clients with certificates of their own.
const CLIENTS: u32 = 16;

const WARMUP: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that the echo upstream holds at a time.
const ECHO_CONNECTIONS: u32 = 2048;

const SERVER_NAME: &str = "ringgate.demo.example";

/// Does what the arguments say.
pub fn run(args: &DemoArgs) -> Status {
    match Demo::start(args).and_then(|demo| {
        if args.keep {
            demo.keep()
        } else {
            demo.measure(args)
        }
    }) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("{error}");
            Status::TargetFailed
        }
    }
}

/// Everything that runs.
struct Demo {
    pki: Pki,
    floor: Floor,
    delivered: Arc<Delivered>,
    terminator: Terminator,
    address: SocketAddr,
    echo: Echo,
    load_cpu: Option<CoreId>,
    shares_cpu: bool,
    directory: Directory,
}

/// A directory for keys that only this user may read, removed at the end unless it is to be kept.
struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl Demo {
    fn start(args: &DemoArgs) -> Result<Self, String> {
        let pki = Pki::generate(&PkiOptions {
            clients: CLIENTS,
            intermediate: args.intermediate,
            key: args.key,
            server_name: SERVER_NAME.to_owned(),
            wrong_ca: 1,
            ..PkiOptions::default()
        })
        .map_err(|error| error.to_string())?;
        let directory = make_directory(args.keep)?;
        pki::write(&pki, &directory.path).map_err(|error| error.to_string())?;

        let cpus = core_affinity::get_core_ids().unwrap_or_default();
        let server_cpu = *cpus.first().ok_or("no CPU to run on: is /proc there?")?;
        let load_cpu = cpus.get(1).or_else(|| cpus.first()).copied();
        let floor = on_cpu(server_cpu, Floor::measure, Algorithms::of_key(args.key))?
            .map_err(|_| "the cryptographic library failed on this CPU")?;
        let delivered = Arc::new(Delivered::default());
        let echo = Echo::start(EchoOptions {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            delivered: Some(delivered.clone()),
            cpu: load_cpu,
            connections: ECHO_CONNECTIONS,
        })
        .map_err(|error| error.to_string())?;

        let address = free_address()?;
        let config = directory.path.join("ringgate.toml");
        std::fs::write(&config, configuration(address, server_cpu, echo.address()))
            .map_err(|error| format!("{}: {error}", config.display()))?;
        let terminator =
            Terminator::start_file(&config, &Clock::system()).map_err(|error| error.to_string())?;
        Ok(Self {
            pki,
            floor,
            delivered,
            terminator,
            address,
            echo,
            load_cpu,
            shares_cpu: cpus.len() < 2,
            directory,
        })
    }

    /// Prints commands to try by hand and runs until the process is ended.
    fn keep(self) -> Result<Status, String> {
        let path = &self.directory.path;
        let commands = commands(self.address, path);
        print(&format!(
            "{commands}\nCtrl-C ends it; the files in {} stay.\n",
            path.display()
        ));
        loop {
            std::thread::park();
        }
    }

    fn measure(self, args: &DemoArgs) -> Result<Status, String> {
        let mut faults = self.refusals()?;
        let mut identity = IdentityCounts::default();
        let mut phases = Vec::new();
        let links = u32::try_from(self.pki.clients[0].chain.len()).unwrap_or(u32::MAX);
        for (name, unit, connections, size, resume, floor_us) in [
            (
                "full handshakes",
                Unit::Handshake,
                32,
                1,
                0.0,
                self.floor.full_handshake_us(links),
            ),
            (
                "resumed handshakes",
                Unit::Handshake,
                32,
                1,
                1.0,
                self.floor.resumed_handshake_us(),
            ),
            (
                "1 KiB requests",
                Unit::Request,
                32,
                1 << 10,
                0.0,
                self.floor.request_1k_us(),
            ),
            (
                "bulk 64 KiB",
                Unit::Byte,
                8,
                64 << 10,
                0.0,
                self.floor.byte_us(),
            ),
        ] {
            eprintln!("{name}, {connections} connections ...");
            let mut credentials = self.credentials(&self.pki.clients)?;
            if resume > 0.0 {
                credentials.keep_sessions(connections);
            }
            let plan = RunPlan {
                connections,
                resume,
                duration: args.duration,
                server: Some(Watched::Threads(self.terminator.thread_ids())),
                workload: Workload {
                    work: match unit {
                        Unit::Handshake => Work::Handshakes,
                        Unit::Byte | Unit::Connection | Unit::Request => Work::Requests,
                    },
                    payload: payload(size),
                    ..echoed_byte()
                },
                ..self.plan(credentials)?
            };
            let measured = measure(&plan).map_err(|error| error.to_string())?;
            identity.add(measured.identity);
            faults.extend(phase_fault(name, &measured));
            faults.extend(resumption_fault(name, resume, &measured));
            phases.push(Phase::new(name, unit, &measured, Some(floor_us)));
        }
        let broken = self.echo.counters().malformed();
        if broken > 0 {
            faults.push(format!(
                "{broken} upstream connections came without a PROXY header"
            ));
        }
        if identity.mismatched > 0 || identity.checked == 0 {
            faults.push(format!(
                "{} of {} connections delivered another identity than the client presented",
                identity.mismatched, identity.checked
            ));
        }
        let shares_cpu = self.shares_cpu;
        if let Err(error) = self.terminator.stop() {
            faults.push(format!("a shard had failed: {error}"));
        }
        finish(args, phases, identity, &faults, shares_cpu)
    }

    /// One client without a certificate and one of another CA: neither may be served, and neither
    /// may cost the upstream a connection. The faults that were found.
    fn refusals(&self) -> Result<Vec<String>, String> {
        eprintln!("clients that must be refused ...");
        let mut faults = Vec::new();
        for (who, pool) in [
            ("a client without a certificate", &[][..]),
            ("a client of another CA", &self.pki.wrong_ca[..]),
        ] {
            let plan = RunPlan {
                connections: 1,
                units_max: Some(1),
                warmup: Duration::ZERO,
                duration: TIMEOUT,
                delivered: None,
                ..self.plan(self.credentials(pool)?)?
            };
            let before = self.echo.counters().accepted();
            let measured = measure(&plan).map_err(|error| error.to_string())?;
            let upstream = self.echo.counters().accepted() - before;
            faults.extend(refusal_fault(who, &measured, upstream));
        }
        Ok(faults)
    }

    fn credentials(&self, pool: &[Credential]) -> Result<Credentials, String> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.pki.server_ca.clone())
            .map_err(|error| error.to_string())?;
        let credentials = Credentials::new(pool, ServerTrust::Roots(roots), &Offer::of_the_floor());
        credentials.map_err(|error| error.to_string())
    }

    fn plan(&self, credentials: Credentials) -> Result<RunPlan, String> {
        Ok(RunPlan {
            target: self.address,
            server_name: ServerName::try_from(SERVER_NAME).map_err(|error| error.to_string())?,
            credentials: Arc::new(credentials),
            workload: echoed_byte(),
            connections: 1,
            pace: None,
            warmup: WARMUP,
            duration: TIMEOUT,
            units_max: None,
            resume: 0.0,
            sources: Sources::Any,
            distribution: Distribution::Uniform,
            slow: 0,
            threads: 1,
            cpus: self.load_cpu.into_iter().collect(),
            delivered: Some(self.delivered.clone()),
            server: None,
        })
    }
}

fn echoed_byte() -> Workload {
    Workload {
        work: Work::Handshakes,
        confirm: Confirm::Echo,
        payload: payload(1),
        requests_per_connection: None,
        close: Close::Fin,
        timeout: TIMEOUT,
    }
}

/// Why a client that must be refused was not, or not without cost.
fn refusal_fault(who: &str, measured: &Measured, upstream: u64) -> Option<String> {
    let statistics = &measured.statistics;
    if statistics.confirmed > 0 {
        return Some(format!("{who} was served"));
    }
    if upstream > 0 {
        return Some(format!("{who} cost the upstream {upstream} connections"));
    }
    let refused = statistics.failed() > 0 && statistics.errors.keys().all(Failure::is_refusal);
    (!refused).then(|| {
        let errors: Vec<String> = statistics.errors.keys().map(ToString::to_string).collect();
        format!("{who} was not refused but met: {}", errors.join(", "))
    })
}

fn phase_fault(name: &str, measured: &Measured) -> Option<String> {
    let statistics = &measured.statistics;
    if statistics.confirmed == 0 {
        return Some(format!("{name}: nothing was served"));
    }
    if statistics.failed() > 0 {
        return Some(format!(
            "{name}: {} of {} failed",
            statistics.failed(),
            statistics.confirmed
        ));
    }
    let lost = measured.server_lost.as_ref();
    lost.map(|lost| format!("{name}: CPU time of the server: {lost}"))
}

/// Why a phase of resumed handshakes was none, or delivered none of their identities.
fn resumption_fault(name: &str, resume: f64, measured: &Measured) -> Option<String> {
    const NEARLY_ALL: f64 = 0.9;
    let ratio = measured.statistics.resumed_ratio();
    if resume > 0.0 && (ratio < NEARLY_ALL || measured.identity.resumed_checked == 0) {
        return Some(format!("{name}: only {:.0}% were resumed", ratio * 100.0));
    }
    None
}

/// Prints the report, writes it, and says how it went.
fn finish(
    args: &DemoArgs,
    phases: Vec<Phase>,
    identity: IdentityCounts,
    faults: &[String],
    shares_cpu: bool,
) -> Result<Status, String> {
    let mut verdict = if faults.is_empty() {
        format!(
            "held: all served, each of {} connections delivered the identity that its client \
             presented, {} of them after a resumption, and clients without a certificate or of \
             another CA were refused without an upstream connection",
            identity.checked, identity.resumed_checked
        )
    } else {
        format!("failed: {}", faults.join("; "))
    };
    if shares_cpu {
        verdict.push_str(
            "; server and load share this machine's one CPU, so rates and latencies \
                          are of both",
        );
    }
    let status = if faults.is_empty() {
        Status::Held
    } else {
        Status::TargetFailed
    };
    let report = Report {
        phases,
        handshakes: None,
        identity,
        verdict,
        status,
        search: None,
        details: None,
        schema: SCHEMA.to_owned(),
    };
    let delivered = identity.checked - identity.mismatched;
    print(&format!(
        "\n{}\nidentities delivered as presented: {delivered} of {}\n{}\n",
        report.table(),
        identity.checked,
        report.verdict
    ));
    if let Some(path) = &args.json {
        report.write_json(path)?;
    }
    Ok(status)
}

/// Runs `work` on a thread that is pinned to `cpu`.
fn on_cpu<A: Send + 'static, T: Send + 'static>(
    cpu: CoreId,
    work: impl FnOnce(A) -> T + Send + 'static,
    argument: A,
) -> Result<T, String> {
    let thread = std::thread::spawn(move || {
        core_affinity::set_for_current(cpu);
        work(argument)
    });
    thread
        .join()
        .map_err(|_| "timing the cryptography panicked".to_owned())
}

fn make_directory(keep: bool) -> Result<Directory, String> {
    let name = format!("ringgate-demo-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .map_err(|error| {
            format!(
                "{}: {error}; remove it, or set TMPDIR to another directory",
                path.display()
            )
        })?;
    Ok(Directory { path, keep })
}

/// An address on loopback that nobody listens on.
fn free_address() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("no free port on 127.0.0.1: {error}"))
}

fn configuration(address: SocketAddr, cpu: CoreId, upstream: SocketAddr) -> String {
    format!(
        "[shards]\n\
         cpus = [{}]\n\
         [[listener]]\n\
         address = \"{address}\"\n\
         certificate = \"server.pem\"\n\
         key = \"server.key\"\n\
         client_ca = \"client-ca.pem\"\n\
         upstream = \"{upstream}\"\n\
         rule = [{{ name = \"demo clients\", allow = {{ uri = \"spiffe://{}/client/*\" }} }}]\n",
        cpu.id,
        pki::TRUST_DOMAIN
    )
}

/// Commands to try by hand.
fn commands(address: SocketAddr, directory: &Path) -> String {
    let files = directory.display();
    let s_client = format!(
        "openssl s_client -connect {address} -servername {SERVER_NAME} -CAfile {files}/ca.pem \
         -verify_return_error -quiet"
    );
    // The upstream sends the request itself back, which curl takes for HTTP/0.9.
    let curl = format!("curl --http0.9 --max-time 2 --cacert {files}/ca.pem");
    let client = |name: &str, certificate: &str, key: &str| {
        format!("{certificate} {files}/{name}.pem {key} {files}/{name}.key")
    };
    format!(
        "Ringgate listens on {address}; its upstream sends back what it gets.\n\n\
         Gets in (type a line, it comes back):\n  {s_client} {}\n  {curl} {} https://{address}/\n\n\
         Refused, as its certificate comes from another CA:\n  {s_client} {}\n  \
         {curl} {} https://{address}/\n\n\
         Refused, as it has none:\n  {s_client}\n",
        client("client-1", "-cert", "-key"),
        client("client-1", "--cert", "--key"),
        client("wrong-ca-1", "-cert", "-key"),
        client("wrong-ca-1", "--cert", "--key"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(confirmed: u64, failure: Option<Failure>) -> Measured {
        let mut measured = Measured::default();
        measured.statistics.confirmed = confirmed;
        if let Some(failure) = failure {
            measured.statistics.fail(failure);
        }
        measured
    }

    #[test]
    fn only_a_refusal_without_cost_is_one() {
        let alert = || Some(Failure::Alert(rustls::AlertDescription::UnknownCA.into()));
        assert_eq!(refusal_fault("x", &measured(0, alert()), 0), None);
        let served = refusal_fault("x", &measured(1, None), 1).unwrap();
        assert_eq!(served, "x was served");
        let costly = refusal_fault("x", &measured(0, alert()), 1).unwrap();
        assert_eq!(costly, "x cost the upstream 1 connections");
        let hung = refusal_fault("x", &measured(0, Some(Failure::TlsTimeout)), 0).unwrap();
        assert_eq!(hung, "x was not refused but met: tls_timeout");
        assert!(
            refusal_fault("x", &measured(0, None), 0).is_some(),
            "nothing happened at all"
        );
    }

    #[test]
    fn a_phase_that_served_nothing_is_a_fault() {
        assert!(phase_fault("x", &measured(0, None)).is_some());
        assert!(phase_fault("x", &measured(5, Some(Failure::TcpReset))).is_some());
        assert!(phase_fault("x", &measured(5, None)).is_none());
    }
}
