//! Everything that is known of the running process at one time: what metrics and status are
//! written from.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use crate::close_reason::CloseReason;
use crate::control::reload::Status as ReloadStatus;
use crate::control::report::Refusal;
use crate::control::shards::{Port, Shard, Spread};
use crate::shard::mailbox::{Durations, HandshakeKind};
use crate::snapshot::{Expiry, Limits, NameState, Snapshot, State};

/// What the process is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Serving,
    Draining,
    Stopping,
}

/// The process at one time.
#[derive(Debug)]
pub(in crate::control) struct Observation {
    pub(super) stage: Stage,
    /// Since the Unix epoch.
    pub(super) now: Duration,
    pub(super) started: Duration,
    pub(super) reload: ReloadStatus,
    pub(super) shards: Vec<ShardFigures>,
    pub(super) skew: Option<f64>,
    pub(super) listeners: Vec<ListenerFigures>,
    pub(super) verdict_times: Durations,
    pub(super) upstreams: Vec<State>,
    pub(super) names: Vec<NameState>,
    /// What of the process is confined, and how.
    pub(super) confinement: Vec<(&'static str, String)>,
    pub(super) expiries: Vec<Expiry>,
    /// The last ones, the newest first.
    pub(super) refusals: Vec<Refusal>,
    /// Lines that were left out, by their kind, and those that whoever reads them was too slow for.
    pub(super) access_skipped: u64,
    pub(super) refusals_skipped: u64,
    pub(super) log_dropped: u64,
    pub(super) process: ProcessFigures,
}

/// One shard.
#[derive(Debug)]
pub(super) struct ShardFigures {
    pub(super) ended: bool,
    /// `None` where the kernel does not tell.
    pub(super) cpu: Option<Duration>,
    pub(super) accepted: u64,
    pub(super) open: u64,
    pub(super) connections_max: u64,
    pub(super) handshaking: u64,
    pub(super) handshakes_max: u64,
    pub(super) handshakes_waiting: u64,
    pub(super) identities_displaced: u64,
    pub(super) enters: u64,
    pub(super) submissions: u64,
    pub(super) completions: u64,
    pub(super) buffers_exhausted: u64,
    pub(super) overflows: u64,
    pub(super) operations_in_flight: u64,
    pub(super) slots_in_use: u64,
    pub(super) blocks_lent: u64,
    pub(super) parked: u64,
    pub(super) reports_lost: u64,
    pub(super) verdict_hits: u64,
    pub(super) verdict_misses: u64,
    pub(super) verdicts_evicted: u64,
    pub(super) verdicts_expired: u64,
    pub(super) tickets_issued: u64,
    pub(super) tickets_accepted: u64,
    pub(super) tickets_declined: u64,
    /// By the order of [`CloseReason::ALL`].
    pub(super) closed: Vec<u64>,
}

/// One listener, over all shards.
#[derive(Debug, Default)]
pub(super) struct ListenerFigures {
    pub(super) name: String,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) accepted: u64,
    pub(super) open: u64,
    pub(super) established: [u64; HandshakeKind::ALL.len()],
    /// By the order of [`CloseReason::ALL`].
    pub(super) refused: Vec<u64>,
    pub(super) closed: Vec<u64>,
    pub(super) bytes: [u64; 2],
    pub(super) handshake_times: Durations,
}

/// What the kernel counts of the process.
#[derive(Debug, Default)]
pub(super) struct ProcessFigures {
    pub(super) cpu: Option<Duration>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_descriptors: Option<u64>,
    pub(super) descriptors_max: Option<u64>,
}

/// What the control loop knows beside the shards.
pub(in crate::control) struct Known<'a> {
    pub(in crate::control) stage: Stage,
    pub(in crate::control) now: Duration,
    pub(in crate::control) started: Duration,
    pub(in crate::control) reload: &'a ReloadStatus,
    pub(in crate::control) snapshot: &'a Snapshot,
    pub(in crate::control) refusals: &'a VecDeque<Refusal>,
    pub(in crate::control) upstreams: Vec<State>,
    pub(in crate::control) names: Vec<NameState>,
    pub(in crate::control) confinement: Vec<(&'static str, String)>,
    pub(in crate::control) access_skipped: u64,
    pub(in crate::control) refusals_skipped: u64,
    pub(in crate::control) log_dropped: u64,
}

/// Looks at everything.
pub(in crate::control) fn observe<P: Port>(known: Known<'_>, shards: &[Shard<P>]) -> Observation {
    let mut verdict_times = Durations::default();
    for shard in shards {
        verdict_times.add(&shard.port().counters().verdict_times.durations());
    }
    let limits = known.reload.limits.unwrap_or(known.snapshot.limits);
    Observation {
        stage: known.stage,
        now: known.now,
        started: known.started,
        reload: known.reload.clone(),
        shards: shards
            .iter()
            .map(|shard| of_shard(shard.port(), &limits))
            .collect(),
        skew: Spread::of(shards).skew(),
        listeners: listeners(known.snapshot, shards),
        verdict_times,
        upstreams: known.upstreams,
        names: known.names,
        confinement: known.confinement,
        expiries: known.snapshot.expiries.clone(),
        refusals: known.refusals.iter().rev().cloned().collect(),
        access_skipped: known.access_skipped,
        refusals_skipped: known.refusals_skipped,
        log_dropped: known.log_dropped,
        process: of_process(),
    }
}

fn of_shard(port: &impl Port, limits: &Limits) -> ShardFigures {
    let counters = port.counters();
    ShardFigures {
        ended: port.ended(),
        cpu: port.thread_id().and_then(cpu_of_thread),
        accepted: counters.accepted(),
        open: counters.open(),
        connections_max: limits.connections as u64,
        handshaking: counters.handshaking(),
        handshakes_max: limits.handshakes as u64,
        handshakes_waiting: counters.handshakes_waiting(),
        identities_displaced: counters.identities_displaced(),
        enters: counters.enters(),
        submissions: counters.submissions(),
        completions: counters.completions(),
        buffers_exhausted: counters.buffers_exhausted(),
        overflows: counters.overflows(),
        operations_in_flight: counters.operations_in_flight(),
        slots_in_use: counters.slots_in_use(),
        blocks_lent: counters.blocks_lent(),
        parked: counters.parked(),
        reports_lost: counters.reports_lost(),
        verdict_hits: counters.verdict_hits(),
        verdict_misses: counters.verdict_misses(),
        verdicts_evicted: counters.verdicts_evicted(),
        verdicts_expired: counters.verdicts_expired(),
        tickets_issued: counters.tickets_issued(),
        tickets_accepted: counters.tickets_accepted(),
        tickets_declined: counters.tickets_declined(),
        closed: CloseReason::ALL
            .iter()
            .map(|&reason| counters.closed(reason))
            .collect(),
    }
}

fn listeners<P: Port>(snapshot: &Snapshot, shards: &[Shard<P>]) -> Vec<ListenerFigures> {
    let figures = |listener: &crate::snapshot::Listener| {
        let mut sum = ListenerFigures {
            name: listener.name.to_string(),
            addresses: listener.addresses.clone(),
            refused: vec![0; CloseReason::ALL.len()],
            closed: vec![0; CloseReason::ALL.len()],
            ..ListenerFigures::default()
        };
        let counters = shards.iter().flat_map(|shard| shard.port().listeners());
        for (_, counters) in counters.filter(|(name, _)| *name == listener.name) {
            sum.accepted += counters.accepted();
            sum.open += counters.open();
            for kind in HandshakeKind::ALL {
                sum.established[kind as usize] += counters.established(kind);
            }
            for (at, &reason) in CloseReason::ALL.iter().enumerate() {
                sum.refused[at] += counters.refused(reason);
                sum.closed[at] += counters.closed(reason);
            }
            for (sum, bytes) in sum.bytes.iter_mut().zip(counters.bytes()) {
                *sum += bytes;
            }
            sum.handshake_times
                .add(&counters.handshake_times.durations());
        }
        sum
    };
    let listeners = snapshot.listeners.iter();
    listeners.map(|listener| figures(listener)).collect()
}

/// CPU time of a thread of this process: schedstat's first figure, in nanoseconds.
fn cpu_of_thread(thread: i32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    Some(Duration::from_nanos(
        text.split_whitespace().next()?.parse().ok()?,
    ))
}

fn of_process() -> ProcessFigures {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    ProcessFigures {
        cpu: cpu_of_process(),
        resident_bytes: resident_bytes(),
        open_descriptors: std::fs::read_dir("/proc/self/fd")
            .ok()
            // The directory itself is open meanwhile.
            .map(|entries| entries.count().saturating_sub(1) as u64),
        descriptors_max: limit.current,
    }
}

/// User and system time of the process (proc(5), stat: fields 14 and 15, in clock ticks).
fn cpu_of_process() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name before may hold anything.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_millis(ticks * 1000 / per_second.max(1)))
}

fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
