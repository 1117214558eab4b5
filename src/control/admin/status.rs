//! `/status`: everything that is known, as JSON, for people at three in the morning and for
//! `ringgate ctl status`.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::desk::Answer;
use super::observation::{Observation, Stage};
use crate::close_reason::CloseReason;
use crate::control::report::{Refusal, escaped};
use crate::shard::mailbox::HandshakeKind;

/// What `/status` says. Times are seconds since the Unix epoch, durations seconds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    pub version: String,
    pub stage: Stage,
    pub started: f64,
    pub now: f64,
    pub configuration: Configuration,
    pub listeners: Vec<Listener>,
    pub shards: Vec<Shard>,
    /// Connections accepted by the busiest shard over the mean of all; none came yet where absent.
    pub skew: Option<f64>,
    pub upstreams: Vec<Upstream>,
    /// DNS names of upstreams, and where they lead.
    pub names: Vec<Name>,
    /// How the process is confined: "active", "off", or why it is not.
    pub confinement: std::collections::BTreeMap<String, String>,
    /// The first to expire first.
    pub expiries: Vec<Expiring>,
    /// The newest first.
    pub refusals: Vec<Refusal>,
}

/// How reloads have gone.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Configuration {
    /// 0 for what the process started with.
    pub generation: u64,
    pub last_attempt: Option<f64>,
    pub last_success: Option<f64>,
    /// What was wrong at the last attempt.
    pub errors: Vec<String>,
}

/// What `/reload` says.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Reloaded {
    /// Of what is served now.
    pub generation: u64,
    /// What was wrong with what was read; empty where it is served.
    pub errors: Vec<String>,
}

/// What `/revoke/dry-run` says.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct DryRun {
    /// Open connections whose client was judged again, because what decides about it has changed.
    pub judged: u64,
    /// Those that a reload now would end, where [revocation] live is "close".
    pub lost: u64,
    /// Some of those.
    pub examples: Vec<Withdrawn>,
    /// What is wrong with the configuration or its files; nobody was judged then.
    pub errors: Vec<String>,
}

/// An open connection whose client would no longer be let in.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Withdrawn {
    pub reason: String,
    pub listener: String,
    pub peer: SocketAddr,
    /// The load balancer that it came from, if it came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<SocketAddr>,
    /// As in the log.
    pub connection: String,
    pub detail: String,
}

/// One listener, over all shards.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Listener {
    pub name: String,
    pub addresses: Vec<SocketAddr>,
    pub accepted: u64,
    pub open: u64,
    pub handshakes: Handshakes,
    /// Connections that ended, by why.
    pub closed: Counts,
    /// Plaintext bytes.
    pub bytes_from_clients: u64,
    pub bytes_to_clients: u64,
}

/// Handshakes that ended.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Handshakes {
    /// Clients let in, by how.
    pub established: Counts,
    /// Clients not let in, by why.
    pub refused: Counts,
    /// Bounds that half and 99 % of the handshakes did not exceed.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
}

/// Counts by name; those that are 0 are left out.
pub type Counts = std::collections::BTreeMap<String, u64>;

/// One shard.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Shard {
    pub ended: bool,
    pub cpu_seconds: Option<f64>,
    pub accepted: u64,
    pub open: u64,
    pub handshaking: u64,
    pub blocks_lent: u64,
    pub operations_in_flight: u64,
    pub slots_in_use: u64,
    pub buffers_exhausted: u64,
    pub overflows: u64,
    pub reports_lost: u64,
}

/// One upstream of one route, over all shards.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Upstream {
    pub listener: String,
    pub route: String,
    pub address: String,
    /// The DNS name that it was found by.
    pub name: Option<String>,
    /// What health checks say; absent without them.
    pub healthy: Option<bool>,
    pub open: u64,
    pub open_max: Option<usize>,
    pub connects: u64,
    pub failures: u64,
    pub ejections: u64,
    /// Shards that leave it out now.
    pub ejected_by: usize,
}

/// A DNS name.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Name {
    pub name: String,
    pub addresses: Vec<SocketAddr>,
    /// Look-ups that failed.
    pub failures: u64,
}

/// Something that expires.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Expiring {
    pub kind: String,
    pub file: String,
    pub name: String,
    pub until: i64,
    pub days: f64,
}

/// Writes what was observed.
pub(in crate::control) fn status(observation: &Observation) -> Answer {
    Answer::json(StatusCode::OK, &Status::of(observation))
}

impl Status {
    fn of(observation: &Observation) -> Self {
        let seconds = |time: Duration| time.as_secs_f64();
        let now = i64::try_from(observation.now.as_secs()).unwrap_or(i64::MAX);
        let reload = &observation.reload;
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            stage: observation.stage,
            started: seconds(observation.started),
            now: seconds(observation.now),
            configuration: Configuration {
                generation: reload.generation,
                last_attempt: reload.last_attempt.map(seconds),
                last_success: reload.last_success.map(seconds),
                errors: reload.errors.clone(),
            },
            listeners: observation.listeners.iter().map(listener).collect(),
            shards: observation.shards.iter().map(shard).collect(),
            skew: observation.skew,
            upstreams: observation.upstreams.iter().map(upstream).collect(),
            names: observation.names.iter().map(name).collect(),
            confinement: observation
                .confinement
                .iter()
                .map(|(part, state)| ((*part).to_owned(), state.clone()))
                .collect(),
            expiries: observation
                .expiries
                .iter()
                .map(|expiry| Expiring {
                    kind: expiry.kind.label().to_owned(),
                    file: escaped(&expiry.file.display().to_string()),
                    name: escaped(&expiry.name),
                    until: expiry.until,
                    days: super::metrics::days(expiry.left(now)),
                })
                .collect(),
            refusals: observation.refusals.clone(),
        }
    }
}

fn listener(figures: &super::observation::ListenerFigures) -> Listener {
    let by_reason = |counts: &[u64]| {
        let counts = CloseReason::ALL.iter().zip(counts);
        let counts = counts.map(|(reason, &count)| (reason.label(), count));
        named(counts)
    };
    let kinds = HandshakeKind::ALL.into_iter();
    let kinds = kinds.map(|kind| (kind.label(), figures.established[kind as usize]));
    // Beyond the last bound nobody knows how long.
    let bound = |fraction| {
        let bound = figures.handshake_times.quantile(fraction);
        bound.filter(|bound: &f64| bound.is_finite())
    };
    Listener {
        name: escaped(&figures.name),
        addresses: figures.addresses.clone(),
        accepted: figures.accepted,
        open: figures.open,
        handshakes: Handshakes {
            established: named(kinds),
            refused: by_reason(&figures.refused),
            p50: bound(0.5),
            p99: bound(0.99),
        },
        closed: by_reason(&figures.closed),
        bytes_from_clients: figures.bytes[0],
        bytes_to_clients: figures.bytes[1],
    }
}

fn upstream(state: &crate::snapshot::State) -> Upstream {
    Upstream {
        listener: escaped(&state.listener),
        route: escaped(&state.route),
        address: escaped(&state.address.to_string()),
        name: state.name.as_ref().map(ToString::to_string),
        healthy: state.is_well,
        open: state.open,
        open_max: state.connections_max,
        connects: state.connects,
        failures: state.failures,
        ejections: state.ejections,
        ejected_by: state.ejected_by,
    }
}

fn name(state: &crate::snapshot::NameState) -> Name {
    Name {
        name: state.name.to_string(),
        addresses: state.addresses.clone(),
        failures: state.failures,
    }
}

fn named<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> Counts {
    let counts = counts.filter(|&(_, count)| count > 0);
    counts
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}

fn shard(figures: &super::observation::ShardFigures) -> Shard {
    Shard {
        ended: figures.ended,
        cpu_seconds: figures.cpu.map(|cpu| cpu.as_secs_f64()),
        accepted: figures.accepted,
        open: figures.open,
        handshaking: figures.handshaking,
        blocks_lent: figures.blocks_lent,
        operations_in_flight: figures.operations_in_flight,
        slots_in_use: figures.slots_in_use,
        buffers_exhausted: figures.buffers_exhausted,
        overflows: figures.overflows,
        reports_lost: figures.reports_lost,
    }
}
