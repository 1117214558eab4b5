//! `run`: load on a server that is there already.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use core_affinity::CoreId;
use rustls::{NamedGroup, ProtocolVersion, SignatureAlgorithm};
use rustls_pki_types::ServerName;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::args::{Identities, Mode, RunArgs};
use crate::cli::{Status, resolve};
use crate::client::{
    BadKind, BadShares, Confirm, Credentials, Offer, Pace, ServerTrust, Sources, Work, Workload,
};
use crate::cpu_time::Watched;
use crate::details::{Details, Settings};
use crate::floor::{Algorithms, Floor};
use crate::host::{descriptors, ephemeral_ports, lacks_descriptors};
use crate::outputs;
use crate::pki::{self, Credential, KeyKind};
use crate::progress::Progress;
use crate::report::{Handshakes, Phase, Report, SCHEMA, Unit, print};
use crate::run::{Measured, RunPlan, measure_watched};
use crate::series::interval_len;
use crate::statistics::Kind;
use crate::verdict::judge;

/// Measured time, time before it begins, and what each identity adds that is to have a session by then.
const DURATION: Duration = Duration::from_secs(10);
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
    match run_once(args) {
        Ok(status) => status,
        Err(Refused(status, error)) => {
            eprintln!("{error}");
            status
        }
    }
}

fn run_once(args: &RunArgs) -> Result<Status, Refused> {
    let prepared = prepare(args)?;
    let plan = &prepared.plan;
    let stop = Arc::new(AtomicBool::new(false));
    heed_signals(&stop);
    wait_for_start(args, &stop)?;
    let measured = {
        let interval_s = interval_len(plan.duration).as_secs_f64();
        let mut progress = Progress::new(!args.quiet, interval_s, plan.duration.as_secs_f64());
        measure_watched(plan, &stop, &mut |interval| progress.tell(interval))
    };
    let measured = measured.map_err(|error| Refused(Status::GeneratorLimit, error.to_string()))?;
    let report = report(args, &prepared, &measured);
    if !args.quiet {
        let connections = phases_of_connections(&measured);
        print(&format!(
            "{}{}{connections}{}\n",
            report.table(),
            steps_table(&report),
            report.verdict
        ));
    }
    outputs::write(args, &report, Some(&measured))?;
    Ok(report.status)
}

/// Waits for the common start of several hosts, or for Ctrl-C. Who comes too late would measure at
/// another time than the others, and nobody would know.
fn wait_for_start(args: &RunArgs, stop: &AtomicBool) -> Result<(), Refused> {
    const LOOK: Duration = Duration::from_millis(50);
    /// Nothing to those who look at minutes.
    const LATE_MAX: Duration = Duration::from_secs(1);
    let Some(start) = args.start_at.map(Duration::from_secs) else {
        return Ok(());
    };
    let now = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap_or_default()
    };
    let came = now();
    if came.saturating_sub(start) > LATE_MAX {
        let problem = format!(
            "--start-at {} is past: it is {} now, and the other hosts have begun; give all of them \
             a later moment, such as $(date -d '+1 minute' +%s)",
            start.as_secs(),
            came.as_secs()
        );
        return Err(Refused(Status::Usage, problem));
    }
    let left = || start.saturating_sub(now());
    while !left().is_zero() && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(left().min(LOOK));
    }
    Ok(())
}

/// Lets Ctrl-C and SIGTERM end a run.
pub fn heed_signals(stop: &Arc<AtomicBool>) {
    if let Err(error) = stop_by_hand(stop) {
        eprintln!("Ctrl-C will end this without a report: {error}");
    }
}

/// Ctrl-C and SIGTERM end the run and have it reported; a second one ends the process.
fn stop_by_hand(stop: &Arc<AtomicBool>) -> std::io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds nothing set yet.
        flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())?;
        flag::register(signal, stop.clone())?;
    }
    Ok(())
}

/// What a run is made of.
pub struct Prepared {
    pub plan: RunPlan,
    /// Of the clients: their kind of key, and the links of a chain.
    presented: Option<(KeyKind, u32)>,
}

/// All that was measured, with the verdict.
pub fn report(args: &RunArgs, prepared: &Prepared, measured: &Measured) -> Report {
    let plan = &prepared.plan;
    let verdict = judge(measured, args.threshold.as_ref(), &notes(args, measured));
    let steps = plan.pace.as_ref().map(|pace| pace.steps.as_slice());
    let steps = steps.filter(|_| args.ramp.is_some()).unwrap_or_default();
    Report {
        schema: SCHEMA.to_owned(),
        phases: phases(
            args,
            measured,
            floors(args, prepared, measured).unwrap_or_default(),
        ),
        handshakes: Some(Handshakes::new(&measured.statistics, args.resume)),
        identity: measured.identity,
        verdict: verdict.text,
        status: verdict.status,
        search: None,
        details: Some(Details::new(measured, settings(args, plan), steps)),
    }
}

fn settings(args: &RunArgs, plan: &RunPlan) -> Settings {
    let name = |value: Option<clap::builder::PossibleValue>| {
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    };
    Settings {
        target: args.target.clone(),
        mode: name(args.mode.to_possible_value()),
        confirm: name(args.confirm.to_possible_value()),
        connections: plan.connections,
        threads: plan.threads,
        cpus: plan.cpus.iter().map(|cpu| cpu.id).collect(),
        duration_s: plan.duration.as_secs_f64(),
        warmup_s: plan.warmup.as_secs_f64(),
        size: plan.workload.payload.len(),
        resume: args.resume,
        identities: plan.credentials.count(),
        rate: plan
            .pace
            .as_ref()
            .filter(|_| args.ramp.is_none())
            .and_then(|pace| pace.steps.first())
            .map(|step| step.rate),
        arrival: plan
            .pace
            .as_ref()
            .map(|pace| name(pace.arrival.to_possible_value())),
        server_checked: !args.insecure,
    }
}

/// What is to be said beside the verdict.
fn notes(args: &RunArgs, measured: &Measured) -> Vec<String> {
    let mut notes = Vec::new();
    if args.insecure {
        notes.push("--insecure: any server was believed, unchecked".to_owned());
    }
    if args.confirm == Confirm::None && args.mode != Mode::Rr && args.mode != Mode::Bulk {
        notes.push("unconfirmed: the server may have refused these clients".to_owned());
    }
    if let Some(lost) = &measured.server_lost {
        notes.push(format!("CPU time of the server is not known: {lost}"));
    }
    if measured.stolen > 0.01 {
        let stolen = measured.stolen * 100.0;
        notes.push(format!("{stolen:.0}% of this host's CPU time was stolen"));
    }
    if measured.statistics.own_waited > 0.1 {
        let waited = measured.statistics.own_waited * 100.0;
        notes.push(format!(
            "a load thread waited {waited:.0}% of the time for a CPU that others used: times are \
             of this host's load too"
        ));
    }
    if let Some(late) = measured.statistics.late.quantile_us(0.99) {
        notes.push(format!(
            "units began within {late:.0} µs of the schedule at p99"
        ));
    }
    if let Some(spread) = measured.server_spread.filter(|spread| spread.threads > 1) {
        notes.push(format!(
            "skew {:.2}: the busiest of {} server threads beside the mean",
            spread.skew, spread.threads
        ));
    }
    if let Some(slow) = measured.slow {
        notes.push(format!(
            "slow peers made {} connections, of which the server ended {} and {} finished",
            slow.made, slow.ended, slow.finished
        ));
    }
    if args.mode == Mode::Hold {
        let held = measured.statistics.confirmed;
        notes.push(format!("{held} of {} connections held", args.connections));
        #[allow(clippy::cast_precision_loss)]
        if let Some(grew) = measured.server_grew
            && held > 0
        {
            let kib = grew as f64 / 1024.0 / held as f64;
            notes.push(format!("the server's memory grew by {kib:.1} KiB for each"));
        }
    }
    notes
}

/// The rows of the report: all units, and where sessions were to be resumed each kind of handshake.
fn phases(args: &RunArgs, measured: &Measured, floors: Floors) -> Vec<Phase> {
    let (unit, name) = match args.mode {
        Mode::Bulk => (Unit::Byte, "bulk"),
        Mode::Handshake => (Unit::Handshake, "handshake"),
        Mode::Hold => (Unit::Connection, "hold"),
        Mode::Rr => (Unit::Request, "rr"),
    };
    let kinds = args.mode == Mode::Handshake && args.resume > 0.0;
    let resumed = measured.statistics.resumed_ratio();
    let mixed = |(full, of_resumed): (f64, f64)| full * (1.0 - resumed) + of_resumed * resumed;
    let floor_us = if kinds {
        floors.unit_us.zip(floors.resumed_us).map(mixed)
    } else {
        floors.unit_us
    };
    let mut phases = vec![Phase::new(name, unit, measured, floor_us)];
    if kinds {
        phases.push(Phase::of_kind(Kind::Full, measured, floors.unit_us));
        phases.push(Phase::of_kind(Kind::Resumed, measured, floors.resumed_us));
    }
    phases
}

/// Reads what the arguments name, and refuses what cannot be run.
pub fn prepare(args: &RunArgs) -> Result<Prepared, Refused> {
    outputs::check(args)?;
    let (target, host) = resolve(&args.target)?;
    let name = args.sni.as_ref().unwrap_or(&host);
    let server_name = ServerName::try_from(name.clone())
        .map_err(|_| format!("{name:?} is no name to ask for; give one with --sni"))?;
    let text = |error: pki::PkiError| error.to_string();
    let pool = match (&args.identities, &args.cert, &args.key) {
        (Some(Identities::Directory(directory)), ..) => {
            pki::load_pool(directory, "client").map_err(text)?
        }
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
    add_bad(args, &mut credentials)?;
    let newcomers = if args.resume > 0.0 {
        u32::try_from(credentials.count()).unwrap_or(u32::MAX)
    } else {
        0
    };
    let warmup = args.warmup.unwrap_or(WARMUP + FIRST_SESSION * newcomers);
    let size = args.size.unwrap_or(match args.mode {
        Mode::Bulk => 64 << 10,
        Mode::Handshake | Mode::Hold => 1,
        Mode::Rr => 1 << 10,
    });
    let duration = match &args.ramp {
        Some(ramp) => ramp.lasts(),
        None => args.duration.unwrap_or(DURATION),
    };
    let sources = sources(args, target.ip())?;
    // Those of a ring are counted by thread; only such of chosen sources are the process's.
    let connections = match sources {
        Sources::Any => args.connections.div_ceil(args.threads),
        Sources::Loopback(_) => args.connections,
    };
    if let Some(lack) = lacks_descriptors(connections, descriptors()) {
        return Err(Refused(Status::GeneratorLimit, lack));
    }
    let plan = RunPlan {
        target,
        server_name,
        credentials: Arc::new(credentials),
        workload: Workload {
            work: match args.mode {
                Mode::Handshake => Work::Handshakes,
                Mode::Hold => Work::Hold,
                Mode::Bulk | Mode::Rr => Work::Requests,
            },
            confirm: args.confirm,
            payload: payload(size),
            requests_per_connection: args.reqs_per_conn,
            close: args.close,
            timeout: args.timeout,
        },
        connections: args.connections,
        pace: pace(args),
        warmup,
        duration,
        units_max: None,
        resume: args.resume,
        threads: args.threads,
        sources,
        distribution: args.identity_dist,
        slow: args.slow.unwrap_or(0),
        cpus: cpus(args)?,
        delivered: None,
        server: (!args.server_pid.is_empty()).then(|| Watched::Processes(args.server_pid.clone())),
    };
    // Refused before any load is made.
    if let Some(server) = &plan.server {
        server
            .read()
            .map_err(|error| format!("--server-pid: {error}"))?;
    }
    let presented = pool.first().and_then(presented);
    Ok(Prepared { plan, presented })
}

/// Loads what must be refused.
fn add_bad(args: &RunArgs, credentials: &mut Credentials) -> Result<(), String> {
    let Some(BadShares(shares)) = &args.bad else {
        return Ok(());
    };
    if args.mode != Mode::Handshake || args.confirm == Confirm::None {
        return Err(
            "--bad needs --mode handshake, and --confirm echo or ticket to see who is served"
                .to_owned(),
        );
    }
    for (kind, share) in shares {
        let pool = match (kind, &args.identities) {
            (BadKind::None, _) => Vec::new(),
            (_, Some(Identities::Directory(directory))) => {
                pki::load_pool(directory, kind.name()).map_err(|error| error.to_string())?
            }
            _ => {
                return Err(format!(
                    "--bad {kind} needs --identities DIR, made by `ringgate-loadgen pki DIR \
                     --{kind} N`"
                ));
            }
        };
        credentials
            .add_bad(*kind, *share, &pool)
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Why nothing was run.
pub struct Refused(pub Status, pub String);

impl From<String> for Refused {
    fn from(error: String) -> Self {
        Self(Status::Usage, error)
    }
}

fn pace(args: &RunArgs) -> Option<Pace> {
    let steps = match (&args.ramp, args.rate) {
        (Some(ramp), _) => ramp.steps(),
        (None, Some(rate)) => return Some(Pace::steady(rate, args.arrival)),
        (None, None) => return None,
    };
    Some(Pace {
        steps,
        arrival: args.arrival,
    })
}

/// The CPUs that were named, or the last ones of this process: servers tend to have the first.
fn cpus(args: &RunArgs) -> Result<Vec<CoreId>, String> {
    let own = core_affinity::get_core_ids().unwrap_or_default();
    if !args.cpus.is_empty() {
        let foreign = args.cpus.iter().find(|&&id| !own.contains(&CoreId { id }));
        if let Some(foreign) = foreign {
            let usable: Vec<String> = own.iter().map(|cpu| cpu.id.to_string()).collect();
            return Err(format!(
                "--cpus {foreign}: this process may run on {}",
                usable.join(",")
            ));
        }
        return Ok(args.cpus.iter().map(|&id| CoreId { id }).collect());
    }
    let mut last: Vec<CoreId> = own.iter().rev().take(args.threads).copied().collect();
    last.reverse();
    Ok(last)
}

/// Where connections come from. Each address has so many ephemeral ports; a server on loopback can
/// be reached from many.
fn sources(args: &RunArgs, target: IpAddr) -> Result<Sources, Refused> {
    let on_loopback = target.is_loopback() && target.is_ipv4();
    if let Some(count) = args.sources {
        if !on_loopback {
            return Err(Refused::from(format!(
                "--sources are addresses of 127.0.0.0/8, from which {target} cannot be reached"
            )));
        }
        return Ok(Sources::Loopback(count));
    }
    // A third is left to others and to connections that end.
    let usable = (ephemeral_ports() * 2 / 3).max(1);
    if args.connections <= usable {
        return Ok(Sources::Any);
    }
    if on_loopback {
        let count = args.connections.div_ceil(usable);
        return Ok(Sources::Loopback(
            u32::try_from(count)
                .unwrap_or(Sources::MAX)
                .min(Sources::MAX),
        ));
    }
    if args.connections > ephemeral_ports() {
        let error = format!(
            "{} connections to one address need as many ephemeral ports and this host has {}: \
             lower -c, widen net.ipv4.ip_local_port_range, or add load hosts",
            args.connections,
            ephemeral_ports()
        );
        return Err(Refused(Status::GeneratorLimit, error));
    }
    Ok(Sources::Any)
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

/// Key and links of a client's chain. The server's key is taken to be of the same kind.
fn presented(client: &Credential) -> Option<(KeyKind, u32)> {
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&client.key).ok()?;
    let key = match key.algorithm() {
        SignatureAlgorithm::ECDSA => KeyKind::P256,
        SignatureAlgorithm::ED25519 => KeyKind::Ed25519,
        SignatureAlgorithm::RSA => KeyKind::Rsa2048,
        _ => return None,
    };
    Some((key, u32::try_from(client.chain.len()).ok()?))
}

/// The floors, where they are known: with a client certificate, for sizes that are timed, and with
/// what most handshakes agreed on.
fn floors(args: &RunArgs, prepared: &Prepared, measured: &Measured) -> Option<Floors> {
    let (key, links) = prepared.presented?;
    let agreed = measured.statistics.agreed.iter();
    let (most, _) = agreed.max_by_key(|(agreed, count)| (agreed.group.is_some(), *count))?;
    let floor = Floor::measure(Algorithms {
        key,
        group: most.group.unwrap_or(NamedGroup::X25519),
        suite: most.suite,
    });
    let floor = floor.ok()?;
    let size = prepared.plan.workload.payload.len();
    Some(Floors {
        unit_us: match args.mode {
            Mode::Bulk => Some(floor.byte_us()),
            Mode::Handshake | Mode::Hold => Some(floor.full_handshake_us(links)),
            Mode::Rr => (size == 1 << 10).then(|| floor.request_1k_us()),
        },
        // A session of TLS 1.2 is resumed without a key exchange.
        resumed_us: (most.version == ProtocolVersion::TLSv1_3)
            .then(|| floor.resumed_handshake_us()),
    })
}

/// The rows of a ramp.
fn steps_table(report: &Report) -> String {
    let steps = report.details.as_ref().map(|details| &details.steps[..]);
    let mut table = String::new();
    let ms =
        |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{:.2} ms", us / 1e3));
    for step in steps.unwrap_or_default() {
        let cpu = step
            .server_cpu_us_per_unit
            .map_or_else(|| "-".to_owned(), |us| format!("{us:.1} µs"));
        table.push_str(&format!(
            "{:>8.0}/s due: {:>8.0}/s served, p50 {}, p99 {}, {} errors, server CPU {cpu}\n",
            step.rate,
            step.confirmed_per_s,
            ms(step.p50_us),
            ms(step.p99_us),
            step.failed,
        ));
    }
    table
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
    for ((kind, failure), count) in &statistics.refused {
        lines.push_str(&format!(
            "{count} refused as they must be: {kind}, by {failure}\n"
        ));
    }
    let mut rows = Vec::new();
    for (name, latency) in [
        ("TCP connect", &statistics.connect),
        ("TLS", &statistics.tls),
        ("confirmation", &statistics.confirm),
        ("first byte", &statistics.first_byte),
        ("unit, from due", &statistics.corrected),
        ("unit, from begun", &statistics.plain),
    ] {
        if latency.count() > 0 {
            let percentiles = [0.5, 0.9, 0.99, 0.999, 0.9999].map(|quantile| {
                latency
                    .quantile_us(quantile)
                    .map_or_else(|| "-".to_owned(), |us| format!("{us:.0}"))
            });
            rows.push((name, percentiles));
        }
    }
    if rows.is_empty() {
        return lines;
    }
    lines.push_str(&format!(
        "{:<16} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
        "µs", "p50", "p90", "p99", "p99.9", "p99.99"
    ));
    for (name, [p50, p90, p99, p999, p9999]) in rows {
        lines.push_str(&format!(
            "{name:<16} {p50:>9} {p90:>9} {p99:>9} {p999:>9} {p9999:>9}\n"
        ));
    }
    lines
}
