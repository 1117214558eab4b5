//! `/metrics`: OpenMetrics text.

use std::fmt::Error;
use std::time::Duration;

use hyper::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::desk::Answer;
use super::observation::{ListenerFigures, Observation, ShardFigures};
use crate::close_reason::CloseReason;
use crate::control::report::escaped;
use crate::shard::mailbox::{Durations, HandshakeKind};
use crate::snapshot::{Expiry, NameState, State};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds.
const DAY: i64 = 86_400;

/// A metric's labels. No peer chooses what is in them: the configuration and this program do.
type Labels = Vec<(&'static str, String)>;

/// A figure of a shard.
type OfShard = fn(&ShardFigures) -> u64;

/// Writes what was observed.
pub(in crate::control) fn metrics(observation: Observation) -> Answer {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(observation));
    let mut body = String::new();
    match encode(&mut body, &registry) {
        Ok(()) => Answer {
            status: StatusCode::OK,
            content_type: CONTENT_TYPE,
            body,
        },
        Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

impl Collector for Observation {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut families = Families(encoder);
        self.write_listeners(&mut families)?;
        self.write_verdicts(&mut families)?;
        self.write_upstreams(&mut families)?;
        self.write_shards(&mut families)?;
        self.write_configuration(&mut families)?;
        self.write_process(&mut families)
    }
}

/// Writes families of metrics.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn counter<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels, V)>,
    ) -> Result<(), Error> {
        self.family(name, help, MetricType::Counter, rows, |metric, value| {
            metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }

    fn gauge<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels, V)>,
    ) -> Result<(), Error> {
        self.family(name, help, MetricType::Gauge, rows, |metric, value| {
            metric.encode_gauge(&value)
        })
    }

    fn histogram<'d>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels, &'d Durations)>,
    ) -> Result<(), Error> {
        self.family(name, help, MetricType::Histogram, rows, |metric, times| {
            let count = times.count();
            metric.encode_histogram::<NoLabelSet>(times.sum, count, &times.buckets, None)
        })
    }

    fn family<V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        rows: impl IntoIterator<Item = (Labels, V)>,
        write: impl Fn(&mut MetricEncoder<'_>, V) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in rows {
            if labels.is_empty() {
                write(&mut family, value)?;
            } else {
                write(&mut family.encode_family(&labels)?, value)?;
            }
        }
        Ok(())
    }
}

impl Observation {
    fn write_listeners(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let each = |of: fn(&ListenerFigures) -> u64| {
            let listeners = self.listeners.iter();
            listeners.map(move |listener| (vec![label(listener)], of(listener)))
        };
        families.counter(
            "ringgate_connections_accepted",
            "Connections accepted",
            each(|listener| listener.accepted),
        )?;
        families.gauge(
            "ringgate_connections_open",
            "Connections open now, those in their handshake included",
            each(|listener| listener.open),
        )?;
        let listeners = || self.listeners.iter();
        let established = listeners().flat_map(|listener| {
            HandshakeKind::ALL.into_iter().map(|kind| {
                let labels = handshake(listener, kind.label(), "established");
                (labels, listener.established[kind as usize])
            })
        });
        let refused = listeners().flat_map(|listener| {
            let counts = counted(&listener.refused);
            counts.map(|(reason, count)| (handshake(listener, "none", reason.label()), count))
        });
        families.counter(
            "ringgate_handshakes",
            "Handshakes that ended: how clients were let in, and why they were not",
            established.chain(refused),
        )?;
        let closed = listeners().flat_map(|listener| {
            counted(&listener.closed).map(|(reason, count)| {
                let reason = ("reason", reason.label().to_owned());
                (vec![label(listener), reason], count)
            })
        });
        families.counter(
            "ringgate_connections_closed",
            "Connections that ended, by why",
            closed,
        )?;
        let shed = CloseReason::ALL.iter().enumerate();
        let shed = shed.filter(|(_, reason)| reason.is_shed());
        families.counter(
            "ringgate_shed",
            "Clients that were reset to protect the others, by why",
            shed.map(|(at, reason)| {
                // Not by listener: those of one that is gone were shed all the same.
                let count: u64 = self.shards.iter().map(|shard| shard.closed[at]).sum();
                (vec![("reason", reason.label().to_owned())], count)
            }),
        )?;
        let received = listeners().flat_map(|listener| {
            let [up, down] = listener.bytes;
            [("client", up), ("upstream", down)].map(|(side, bytes)| {
                let side = ("side", side.to_owned());
                (vec![label(listener), side], bytes)
            })
        });
        families.counter(
            "ringgate_received_bytes",
            "Plaintext bytes relayed, by the side that sent them",
            received,
        )?;
        families.histogram(
            "ringgate_handshake_duration_seconds",
            "From accept to the client being let in",
            listeners().map(|listener| (vec![label(listener)], &listener.handshake_times)),
        )
    }

    fn write_verdicts(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let sum = |of: OfShard| {
            let sum: u64 = self.shards.iter().map(of).sum();
            [(Labels::new(), sum)]
        };
        families.histogram(
            "ringgate_verdict_duration_seconds",
            "How long verdicts on presented chains took, remembered or not",
            [(Labels::new(), &self.verdict_times)],
        )?;
        families.counter(
            "ringgate_verdict_cache_hits",
            "Chains whose verdict was remembered",
            sum(|shard| shard.verdict_hits),
        )?;
        families.counter(
            "ringgate_verdict_cache_misses",
            "Chains whose verdict was not remembered, or stood no more",
            sum(|shard| shard.verdict_misses),
        )?;
        families.counter(
            "ringgate_verdict_cache_evictions",
            "Verdicts that made room for others",
            sum(|shard| shard.verdicts_evicted),
        )?;
        families.counter(
            "ringgate_verdict_cache_expirations",
            "Verdicts that were remembered, but stood no more",
            sum(|shard| shard.verdicts_expired),
        )?;
        let tickets: [(&str, OfShard); 3] = [
            ("issued", |shard| shard.tickets_issued),
            ("accepted", |shard| shard.tickets_accepted),
            ("declined", |shard| shard.tickets_declined),
        ];
        families.counter(
            "ringgate_tickets",
            "Session tickets issued, and offered ones accepted or declined",
            tickets.into_iter().map(|(outcome, of)| {
                let count: u64 = self.shards.iter().map(of).sum();
                (vec![("outcome", outcome.to_owned())], count)
            }),
        )
    }

    fn write_upstreams(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let each = |of: fn(&State) -> Option<u64>| {
            let states = self.upstreams.iter();
            states.filter_map(move |state| Some((upstream(state), of(state)?)))
        };
        families.gauge(
            "ringgate_upstream_up",
            "Whether health checks find an upstream well; absent without checks",
            each(|state| state.is_well.map(u64::from)),
        )?;
        families.gauge(
            "ringgate_upstream_connections",
            "Connections open to an upstream now",
            each(|state| Some(state.open)),
        )?;
        families.gauge(
            "ringgate_upstream_connections_limit",
            "Connections that may be open to an upstream; absent without a limit",
            each(|state| state.connections_max.map(|limit| limit as u64)),
        )?;
        families.gauge(
            "ringgate_upstream_ejected",
            "Shards that leave an upstream out now, because connects failed",
            each(|state| Some(state.ejected_by as u64)),
        )?;
        families.counter(
            "ringgate_upstream_connects",
            "Connects to an upstream that were started",
            each(|state| Some(state.connects)),
        )?;
        families.counter(
            "ringgate_upstream_connect_failures",
            "Connects to an upstream that failed",
            each(|state| Some(state.failures)),
        )?;
        families.counter(
            "ringgate_upstream_ejections",
            "Times that a shard began to leave an upstream out",
            each(|state| Some(state.ejections)),
        )?;
        let name = |state: &NameState| vec![("name", state.name.to_string())];
        families.gauge(
            "ringgate_upstream_name_addresses",
            "Addresses that a DNS name leads to",
            self.names
                .iter()
                .map(|state| (name(state), state.addresses.len() as u64)),
        )?;
        families.counter(
            "ringgate_upstream_name_lookup_failures",
            "Look-ups of a DNS name that failed",
            self.names.iter().map(|state| (name(state), state.failures)),
        )
    }

    fn write_shards(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let counters: [(&str, &str, OfShard); 8] = [
            (
                "ringgate_shard_connections_accepted",
                "Connections accepted, by shard",
                |shard| shard.accepted,
            ),
            ("ringgate_ring_enters", "Calls of io_uring_enter", |shard| {
                shard.enters
            }),
            (
                "ringgate_ring_submissions",
                "Entries submitted to the ring",
                |shard| shard.submissions,
            ),
            (
                "ringgate_ring_completions",
                "Completions taken from the ring",
                |shard| shard.completions,
            ),
            (
                "ringgate_ring_buffers_exhausted",
                "Receives that found no buffer (ENOBUFS)",
                |shard| shard.buffers_exhausted,
            ),
            (
                "ringgate_ring_overflows",
                "Times that the completion queue was found overflown",
                |shard| shard.overflows,
            ),
            (
                "ringgate_received_waited",
                "Times that what was received had to wait for a block",
                |shard| shard.parked,
            ),
            (
                "ringgate_identity_buckets_displaced",
                "Rates of identities that made room for others",
                |shard| shard.identities_displaced,
            ),
        ];
        for (name, help, of) in counters {
            families.counter(name, help, self.by_shard(of))?;
        }
        let gauges: [(&str, &str, OfShard); 7] = [
            (
                "ringgate_shard_connections_open",
                "Connections open now, by shard",
                |shard| shard.open,
            ),
            (
                "ringgate_connections_limit",
                "Connections that may be open at once, by shard",
                |shard| shard.connections_max,
            ),
            (
                "ringgate_handshakes_open",
                "Handshakes going on now (half-open connections), by shard",
                |shard| shard.handshaking,
            ),
            (
                "ringgate_handshakes_limit",
                "Handshakes that may go on at once, by shard",
                |shard| shard.handshakes_max,
            ),
            (
                "ringgate_handshakes_waiting",
                "First messages of clients that wait for their part of a turn, by shard",
                |shard| shard.handshakes_waiting,
            ),
            (
                "ringgate_blocks_lent",
                "Buffer blocks that connections hold now",
                |shard| shard.blocks_lent,
            ),
            (
                "ringgate_ring_operations",
                "Ring operations in flight now",
                |shard| shard.operations_in_flight,
            ),
        ];
        for (name, help, of) in gauges {
            families.gauge(name, help, self.by_shard(of))?;
        }
        let cpu = self.shards.iter().enumerate().filter_map(|(at, shard)| {
            let cpu = shard.cpu?.as_secs_f64();
            Some((vec![("shard", at.to_string())], cpu))
        });
        families.counter(
            "ringgate_shard_cpu_seconds",
            "CPU time of each shard's thread",
            cpu,
        )?;
        families.gauge(
            "ringgate_skew",
            "Connections accepted by the busiest shard over the mean of all: 1 is even",
            self.skew.map(|skew| (Labels::new(), skew)),
        )?;
        let lost: u64 = self.shards.iter().map(|shard| shard.reports_lost).sum();
        families.counter(
            "ringgate_reports_lost",
            "Ends of connections that could not be logged: the control plane was behind",
            [(Labels::new(), lost)],
        )?;
        families.counter(
            "ringgate_access_lines_dropped",
            "Access lines left out: more connections ended than [log] access_rate",
            [(Labels::new(), self.access_skipped)],
        )?;
        families.counter(
            "ringgate_refusal_lines_dropped",
            "Lines of refusals and failures left out: there were more than [log] refusal_rate",
            [(Labels::new(), self.refusals_skipped)],
        )?;
        families.counter(
            "ringgate_log_writes_dropped",
            "Writes to the log, of a line or several, that whoever reads it was too slow for",
            [(Labels::new(), self.log_dropped)],
        )
    }

    fn by_shard<'a>(
        &'a self,
        of: impl Fn(&ShardFigures) -> u64 + 'a,
    ) -> impl Iterator<Item = (Labels, u64)> + 'a {
        let shards = self.shards.iter().enumerate();
        shards.map(move |(at, shard)| (vec![("shard", at.to_string())], of(shard)))
    }

    fn write_configuration(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let now = i64::try_from(self.now.as_secs()).unwrap_or(i64::MAX);
        // Several listeners may name one file.
        let mut rows: Vec<(Labels, &Expiry)> = Vec::new();
        for expiry in &self.expiries {
            let labels = expiry_labels(expiry);
            if !rows.iter().any(|(known, _)| *known == labels) {
                rows.push((labels, expiry));
            }
        }
        let each = |of: &dyn Fn(&Expiry) -> i64| -> Vec<(Labels, f64)> {
            let rows = rows.iter();
            rows.map(|(labels, expiry)| (labels.clone(), days(of(expiry))))
                .collect()
        };
        families.gauge(
            "ringgate_expiry_days",
            "Days until a certificate, trust anchor or CRL expires; negative afterwards",
            each(&|expiry| expiry.left(now)),
        )?;
        families.gauge(
            "ringgate_expiry_lifetime_days",
            "Days from the beginning to the end of what expires",
            each(&Expiry::lifetime),
        )?;
        let reload = &self.reload;
        families.gauge(
            "ringgate_config_generation",
            "Configurations taken up since the start",
            [(Labels::new(), reload.generation)],
        )?;
        families.gauge(
            "ringgate_config_last_reload_successful",
            "Whether the last reload, or the start, found nothing wrong",
            [(Labels::new(), u64::from(reload.errors.is_empty()))],
        )?;
        let time =
            |at: Option<Duration>| [(Labels::new(), at.unwrap_or(self.started).as_secs_f64())];
        families.gauge(
            "ringgate_config_last_reload_success_timestamp_seconds",
            "When a configuration was last taken up",
            time(reload.last_success),
        )?;
        families.gauge(
            "ringgate_config_last_reload_attempt_timestamp_seconds",
            "When a configuration was last read",
            time(reload.last_attempt),
        )
    }

    fn write_process(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let version = env!("CARGO_PKG_VERSION");
        families.family(
            "ringgate_build",
            "This program",
            MetricType::Info,
            [(Labels::new(), version)],
            |metric, version| metric.encode_info(&[("version", version)]),
        )?;
        let process = &self.process;
        let one = |value: Option<u64>| value.map(|value| (Labels::new(), value));
        families.counter(
            "process_cpu_seconds",
            "User and system CPU time",
            process.cpu.map(|cpu| (Labels::new(), cpu.as_secs_f64())),
        )?;
        families.gauge(
            "process_resident_memory_bytes",
            "Resident memory",
            one(process.resident_bytes),
        )?;
        families.gauge(
            "process_open_fds",
            "Open file descriptors; those in the rings' own tables are not among them",
            one(process.open_descriptors),
        )?;
        families.gauge(
            "process_max_fds",
            "File descriptors that may be open",
            one(process.descriptors_max),
        )?;
        families.gauge(
            "process_start_time_seconds",
            "When the process started",
            [(Labels::new(), self.started.as_secs_f64())],
        )
    }
}

fn label(listener: &ListenerFigures) -> (&'static str, String) {
    ("listener", escaped(&listener.name))
}

fn upstream(state: &State) -> Labels {
    vec![
        ("listener", escaped(&state.listener)),
        ("route", escaped(&state.route)),
        ("upstream", escaped(&state.address.to_string())),
    ]
}

fn handshake(listener: &ListenerFigures, kind: &str, result: &str) -> Labels {
    vec![
        label(listener),
        ("kind", kind.to_owned()),
        ("result", result.to_owned()),
    ]
}

/// Reasons that were counted at all: most never are, and would be most of the text. Faults of ours are
/// there from the start, at 0: a series that begins at 1 has no increase, and the first is one too many.
fn counted(counts: &[u64]) -> impl Iterator<Item = (CloseReason, u64)> + '_ {
    let reasons = CloseReason::ALL.iter().zip(counts);
    let reasons = reasons.filter(|&(reason, &count)| count > 0 || *reason == CloseReason::Internal);
    reasons.map(|(&reason, &count)| (reason, count))
}

fn expiry_labels(expiry: &Expiry) -> Labels {
    vec![
        ("kind", expiry.kind.label().to_owned()),
        ("file", escaped(&expiry.file.display().to_string())),
        ("name", escaped(&expiry.name)),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn days(seconds: i64) -> f64 {
    seconds as f64 / DAY as f64
}
