//! `run`: load on a server that is there already.

use std::sync::Arc;
use std::time::Duration;

use core_affinity::CoreId;
use rustls::SignatureAlgorithm;
use rustls_pki_types::ServerName;

use crate::cli::{Identities, Mode, RunArgs, Status, resolve};
use crate::client::{Confirm, Credentials, Offer, ServerTrust, Workload};
use crate::cpu_time::Watched;
use crate::floor::Floor;
use crate::pki::{self, Credential, KeyKind};
use crate::report::{Handshakes, Phase, Report, Unit, print};
use crate::run::{Measured, RunPlan, measure};
use crate::statistics::Kind;

/// Time before measuring begins, and what each identity adds that is to have a session by then.
const WARMUP: Duration = Duration::from_millis(500);
const FIRST_SESSION: Duration = Duration::from_millis(1);

/// The cryptography of one unit, where it is known.
#[derive(Clone, Copy, Debug, Default)]
struct Floors {
    unit_us: Option<f64>,
    resumed_us: Option<f64>,
}

/// Does what the arguments say.
pub fn run(args: &RunArgs) -> Status {
    let (plan, floors) = match prepare(args) {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("{error}");
            return Status::Usage;
        }
    };
    let measured = match measure(&plan) {
        Ok(measured) => measured,
        Err(error) => {
            eprintln!("{error}");
            return Status::GeneratorLimit;
        }
    };
    let (status, verdict) = judge(args, &measured);
    let report = Report {
        phases: phases(args, &measured, floors),
        handshakes: Some(Handshakes::new(&measured.statistics, args.resume)),
        identity: measured.identity,
        verdict,
    };
    if !args.quiet {
        let connections = phases_of_connections(&measured);
        print(&format!(
            "{}{connections}{}\n",
            report.table(),
            report.verdict
        ));
    }
    match args
        .json
        .as_deref()
        .map_or(Ok(()), |path| report.write_json(path))
    {
        Ok(()) => status,
        Err(error) => {
            eprintln!("{error}");
            Status::Usage
        }
    }
}

/// The rows of the report: all units, and where sessions were to be resumed each kind of handshake.
fn phases(args: &RunArgs, measured: &Measured, floors: Floors) -> Vec<Phase> {
    let (unit, name) = match args.mode {
        Mode::Bulk => (Unit::Byte, "bulk"),
        Mode::Handshake => (Unit::Handshake, "handshake"),
        Mode::Rr => (Unit::Request, "rr"),
    };
    let kinds = args.mode == Mode::Handshake && args.resume > 0.0;
    // A mix of both kinds has no floor of its own.
    let floor_us = floors.unit_us.filter(|_| !kinds);
    let mut phases = vec![Phase::new(name, unit, measured, floor_us)];
    if kinds {
        phases.push(Phase::of_kind(Kind::Full, measured, floors.unit_us));
        phases.push(Phase::of_kind(Kind::Resumed, measured, floors.resumed_us));
    }
    phases
}

fn prepare(args: &RunArgs) -> Result<(RunPlan, Floors), String> {
    let (target, host) = resolve(&args.target)?;
    let name = args.sni.as_ref().unwrap_or(&host);
    let server_name = ServerName::try_from(name.clone())
        .map_err(|_| format!("{name:?} is no name to ask for; give one with --sni"))?;
    let text = |error: pki::PkiError| error.to_string();
    let pool = match (&args.identities, &args.cert, &args.key) {
        (Some(Identities::Directory(directory)), ..) => pki::load_pool(directory).map_err(text)?,
        (Some(Identities::Made(count)), ..) => make_pool(args, *count)?,
        (None, Some(cert), Some(key)) => vec![pki::load_credential(cert, key).map_err(text)?],
        _ => Vec::new(),
    };
    let trust = match &args.ca {
        Some(ca) => ServerTrust::Roots(pki::load_anchors(ca).map_err(text)?),
        None => ServerTrust::Insecure,
    };
    let offer = Offer::new(
        args.ciphers.as_ref(),
        args.groups.as_ref(),
        args.tls.as_ref(),
    );
    let mut credentials =
        Credentials::new(&pool, trust, &offer).map_err(|error| error.to_string())?;
    if args.resume > 0.0 {
        credentials.keep_sessions(args.connections);
    }
    let newcomers = if args.resume > 0.0 {
        u32::try_from(credentials.count()).unwrap_or(u32::MAX)
    } else {
        0
    };
    let warmup = args.warmup.unwrap_or(WARMUP + FIRST_SESSION * newcomers);
    let size = args.size.unwrap_or(match args.mode {
        Mode::Bulk => 64 << 10,
        Mode::Handshake => 1,
        Mode::Rr => 1 << 10,
    });
    let plan = RunPlan {
        target,
        server_name,
        credentials: Arc::new(credentials),
        workload: Workload {
            handshakes: args.mode == Mode::Handshake,
            confirm: args.confirm,
            payload: payload(size),
            timeout: args.timeout,
        },
        connections: args.connections,
        rate: args.rate,
        warmup,
        duration: args.duration,
        units_max: None,
        resume: args.resume,
        threads: args.threads,
        cpus: args.cpus.iter().map(|&id| CoreId { id }).collect(),
        delivered: None,
        server: (!args.server_pid.is_empty()).then(|| Watched::Processes(args.server_pid.clone())),
    };
    // Refused before any load is made.
    if let Some(server) = &plan.server {
        server
            .read()
            .map_err(|error| format!("--server-pid: {error}"))?;
    }
    let floors = floors(args.mode, size, pool.first()).unwrap_or_default();
    Ok((plan, floors))
}

/// Clients that are made for this run.
fn make_pool(args: &RunArgs, count: u32) -> Result<Vec<Credential>, String> {
    let (Some(certificate), Some(key)) = (&args.issuer_cert, &args.issuer_key) else {
        return Err(format!(
            "--identities {count} makes clients and needs their CA: --issuer-cert and \
             --issuer-key, which `ringgate-loadgen pki DIR` leaves as client-issuer.pem and .key"
        ));
    };
    pki::make_pool(certificate, key, count).map_err(|error| error.to_string())
}

/// Bytes that differ from their neighbours, so that a shifted echo is noticed.
pub fn payload(size: usize) -> Arc<[u8]> {
    (0..size)
        .map(|index| (index % 251).to_le_bytes()[0])
        .collect()
}

/// The floors, where they are known: with a client certificate, and for sizes that were timed. The
/// server's key is taken to be of the client's kind.
fn floors(mode: Mode, size: usize, client: Option<&Credential>) -> Option<Floors> {
    let client = client?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&client.key).ok()?;
    let key = match key.algorithm() {
        SignatureAlgorithm::ECDSA => KeyKind::P256,
        SignatureAlgorithm::ED25519 => KeyKind::Ed25519,
        SignatureAlgorithm::RSA => KeyKind::Rsa2048,
        _ => return None,
    };
    let floor = Floor::measure(key).ok()?;
    let unit_us = match mode {
        Mode::Bulk => Some(floor.byte_us()),
        Mode::Handshake => Some(floor.full_handshake_us(u32::try_from(client.chain.len()).ok()?)),
        Mode::Rr => (size == 1 << 10).then(|| floor.request_1k_us()),
    };
    Some(Floors {
        unit_us,
        resumed_us: Some(floor.resumed_handshake_us()),
    })
}

/// The verdict in plain words.
fn judge(args: &RunArgs, measured: &Measured) -> (Status, String) {
    let mut notes = vec![if measured.open_loop {
        "open loop: latency from the moment each unit was due".to_owned()
    } else {
        "closed loop: latency from the moment each unit was begun".to_owned()
    }];
    if args.insecure {
        notes.push("--insecure: any server was believed, unchecked".to_owned());
    }
    if args.confirm == Confirm::None && args.mode == Mode::Handshake {
        notes.push("unconfirmed: the server may have refused these clients".to_owned());
    }
    let statistics = &measured.statistics;
    let missed = args
        .threshold
        .as_ref()
        .map(|thresholds| thresholds.missed(statistics, measured.confirmed_per_s()))
        .unwrap_or_default();
    let (status, first) = if let Some(limit) = measured.generator_limit() {
        let text = format!("the generator was the limit ({limit}): nothing is said of the server");
        (Status::GeneratorLimit, text)
    } else if statistics.confirmed == 0 {
        (
            Status::TargetFailed,
            "failed: nothing was served".to_owned(),
        )
    } else if !missed.is_empty() {
        (
            Status::ThresholdMissed,
            format!("missed: {}", missed.join("; ")),
        )
    } else if args.threshold.is_none() && statistics.failed() > 0 {
        let text = format!("failed: {} units were not served", statistics.failed());
        (Status::TargetFailed, text)
    } else {
        (Status::Held, "held".to_owned())
    };
    notes.insert(0, first);
    (status, notes.join("; "))
}

/// Percentiles of each phase of a connection; with a rate also those from the beginning of a unit.
fn phases_of_connections(measured: &Measured) -> String {
    let statistics = &measured.statistics;
    let mut lines = String::new();
    for (agreed, count) in &statistics.agreed {
        lines.push_str(&format!("{count} handshakes agreed on {agreed}\n"));
    }
    let resumed = statistics.resumed.tls.count();
    if resumed > 0 {
        let all = resumed + statistics.full.tls.count();
        lines.push_str(&format!(
            "{resumed} of {all} handshakes resumed a session\n"
        ));
    }
    let plain = ("unit, from its beginning", &statistics.plain);
    for (name, latency) in [
        ("TCP connect", &statistics.connect),
        ("TLS", &statistics.tls),
        ("confirmation", &statistics.confirm),
    ]
    .into_iter()
    .chain(measured.open_loop.then_some(plain))
    {
        let show = |quantile| {
            latency
                .quantile_us(quantile)
                .map_or_else(|| "-".to_owned(), |us| format!("{us:.0}"))
        };
        if latency.count() > 0 {
            lines.push_str(&format!(
                "{name}: p50 {} µs, p99 {} µs, p99.9 {} µs\n",
                show(0.5),
                show(0.99),
                show(0.999)
            ));
        }
    }
    lines
}
