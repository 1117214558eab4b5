//! The document as a whole, and the settings of the process: shards, limits, drain, log, resumption,
//! verdict cache, reload.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::admin::admin;
use super::confinement::{confinement, process};
use super::document::Table;
use super::listener::Listeners;
use super::overload::HalfOpenLimits;
use super::{
    Config, DrainOptions, FileReferences, LimitOptions, LiveRevocation, LogFormat, LogLevel,
    LogOptions, ReloadOptions, ResumptionOptions, ShardPlan, VerdictCacheOptions,
};
use crate::limits::{
    BUFFER_BYTES_PER_SHARD, CONNECTIONS_PER_SHARD, CONNECTIONS_PER_SHARD_MAX, HANDSHAKES_PER_SHARD,
    LISTENERS_MAX, RESUMPTION_CAP, SHARDS_MAX, STEK_ROTATION, TICKETS_MAX, VERDICT_TTL,
    VERDICTS_PER_SHARD, VERDICTS_PER_SHARD_MAX,
};

const LISTENER_REMEDY: &str = "a listener needs five lines below [[listener]]: address, \
     certificate, key, client_ca, upstream, and a rule";

const BUFFER_BYTES: std::ops::RangeInclusive<u64> = 16 << 20..=1 << 40;

/// Access lines a second: with more, reading them costs more than they tell.
const ACCESS_RATE: usize = 10_000;

/// Lines of refusals and failures a second: anybody can cause them.
const REFUSAL_RATE: usize = 1000;

/// Either rate.
const LINE_RATE_MAX: usize = 1_000_000;

const CPU_MAX: usize = 4095;

const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
const DRAIN_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
const DRAIN_NOTICE_MAX: Duration = Duration::from_secs(3600);

/// From a rotation that a client can make use of to a lifetime that a ticket may claim.
const RESUMPTION: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(7 * 24 * 3600);

const VERDICT_TTLS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 3600);

/// Reads the whole document; errors are left with it. `None` when there is no listener.
pub(super) fn config(file: &Arc<Path>, root: Table<'_>) -> Option<Config> {
    let mut listeners = Listeners::default();
    match root.entry("listener") {
        Some(entry) => {
            let tables = entry.tables("[[listener]], one for each listener");
            if tables.len() > LISTENERS_MAX {
                entry.report(
                    format!("has {} listeners", tables.len()),
                    format!("keep to {LISTENERS_MAX}; one listener takes several addresses"),
                );
            }
            tables
                .into_iter()
                .take(LISTENERS_MAX)
                .for_each(|table| listeners.read(table));
        }
        None => root.missing("listener", LISTENER_REMEDY),
    }
    let config = Config {
        file: Arc::clone(file),
        shards: section(&root, "shards", shards),
        limits: section(&root, "limits", limits),
        drain: section(&root, "drain", drain),
        log: section(&root, "log", log),
        resumption: section(&root, "resumption", resumption),
        verdict_cache: section(&root, "verdict_cache", verdict_cache),
        live_revocation: section(&root, "revocation", live_revocation),
        reload: section(&root, "reload", reload),
        admin: section(&root, "admin", admin),
        process: section(&root, "process", process),
        confinement: section(&root, "confinement", confinement),
        // Known once the whole document is read.
        files: FileReferences::default(),
        listeners: listeners.into_configs(),
    };
    root.finish();
    (!config.listeners.is_empty()).then_some(config)
}

/// Reads the section `key`; the value for an absent one is what reading an absent table gives.
fn section<T>(root: &Table<'_>, key: &'static str, read: fn(Option<&Table<'_>>) -> T) -> T {
    let table = root
        .entry(key)
        .and_then(|entry| entry.table(&format!("a section [{key}]")));
    let value = read(table.as_ref());
    if let Some(table) = table {
        table.finish();
    }
    value
}

fn shards(table: Option<&Table<'_>>) -> ShardPlan {
    let Some(table) = table else {
        return ShardPlan::default();
    };
    match (table.entry("count"), table.entry("cpus")) {
        (Some(count), None) => count
            .count(1..=SHARDS_MAX)
            .map(ShardPlan::Count)
            .unwrap_or_default(),
        (None, Some(cpus)) => {
            let mut seen = HashSet::new();
            let mut plan = Vec::new();
            for entry in cpus.one_or_list() {
                let Some(cpu) = entry.count(0..=CPU_MAX) else {
                    continue;
                };
                if !seen.insert(cpu) {
                    entry.report("is named twice", "give each CPU one shard");
                }
                plan.push(cpu);
            }
            ShardPlan::Cpus(plan)
        }
        (Some(count), Some(_)) => {
            count.report(
                "`count` and `cpus` exclude each other",
                "keep one of the two",
            );
            ShardPlan::default()
        }
        (None, None) => ShardPlan::default(),
    }
}

fn limits(table: Option<&Table<'_>>) -> LimitOptions {
    let entry = |key| table.and_then(|table| table.entry(key));
    let connections = entry("connections")
        .and_then(|entry| entry.count(1..=CONNECTIONS_PER_SHARD_MAX))
        .unwrap_or(CONNECTIONS_PER_SHARD);
    let handshakes = entry("handshakes").and_then(|entry| {
        let handshakes = entry.count(1..=CONNECTIONS_PER_SHARD_MAX)?;
        if handshakes > connections {
            let problem = format!("is more than the {connections} connections of a shard");
            entry.report(problem, "lower it, or raise limits.connections");
        }
        Some(handshakes)
    });
    let handshakes = handshakes.unwrap_or_else(|| HANDSHAKES_PER_SHARD.min(connections));
    LimitOptions {
        connections,
        handshakes,
        half_open: HalfOpenLimits::read(table, handshakes),
        buffer_bytes: entry("buffers")
            .and_then(|entry| entry.size(BUFFER_BYTES))
            .unwrap_or(BUFFER_BYTES_PER_SHARD),
    }
}

fn drain(table: Option<&Table<'_>>) -> DrainOptions {
    let duration = |key, most| {
        let entry = table.and_then(|table| table.entry(key));
        entry.and_then(|entry| entry.duration(Duration::ZERO..=most))
    };
    DrainOptions {
        notice: duration("notice", DRAIN_NOTICE_MAX).unwrap_or_default(),
        timeout: duration("timeout", DRAIN_TIMEOUT_MAX).unwrap_or(DRAIN_TIMEOUT),
    }
}

fn log(table: Option<&Table<'_>>) -> LogOptions {
    const FORMATS: [(&str, LogFormat); 2] =
        [("human", LogFormat::Human), ("json", LogFormat::Json)];
    let levels = LogLevel::ALL.map(|level| (level.label(), level));
    let entry = |key| table.and_then(|table| table.entry(key));
    LogOptions {
        format: entry("format")
            .and_then(|entry| entry.choice(&FORMATS))
            .unwrap_or_default(),
        level: entry("level")
            .and_then(|entry| entry.choice(&levels))
            .unwrap_or_default(),
        access: entry("access")
            .and_then(|entry| entry.boolean())
            .unwrap_or_default(),
        access_rate: entry("access_rate")
            .and_then(|entry| entry.count(1..=LINE_RATE_MAX))
            .unwrap_or(ACCESS_RATE),
        refusal_rate: entry("refusal_rate")
            .and_then(|entry| entry.count(1..=LINE_RATE_MAX))
            .unwrap_or(REFUSAL_RATE),
    }
}

fn reload(table: Option<&Table<'_>>) -> ReloadOptions {
    let watch = table.and_then(|table| table.entry("watch"));
    ReloadOptions {
        watch: watch.and_then(|entry| entry.boolean()).unwrap_or(true),
    }
}

fn resumption(table: Option<&Table<'_>>) -> ResumptionOptions {
    let entry = |key| table.and_then(|table| table.entry(key));
    let stek = entry("stek").and_then(|entry| {
        let file = entry.path("\"stek.key\"")?;
        entry.document.files.borrow_mut().steks.push(file.clone());
        Some(file)
    });
    ResumptionOptions {
        stek,
        rotation: entry("rotation")
            .and_then(|entry| entry.duration(RESUMPTION))
            .unwrap_or(STEK_ROTATION),
        cap: entry("cap")
            .and_then(|entry| entry.duration(RESUMPTION))
            .unwrap_or(RESUMPTION_CAP),
        tickets: entry("tickets")
            .and_then(|entry| entry.count(0..=TICKETS_MAX))
            .unwrap_or(1),
    }
}

fn live_revocation(table: Option<&Table<'_>>) -> LiveRevocation {
    const CHOICES: [(&str, LiveRevocation); 3] = [
        ("close", LiveRevocation::Close),
        ("dry_run", LiveRevocation::DryRun),
        ("off", LiveRevocation::Off),
    ];
    table
        .and_then(|table| table.entry("live"))
        .and_then(|entry| entry.choice(&CHOICES))
        .unwrap_or_default()
}

fn verdict_cache(table: Option<&Table<'_>>) -> VerdictCacheOptions {
    let entry = |key| table.and_then(|table| table.entry(key));
    VerdictCacheOptions {
        entries: entry("entries")
            .and_then(|entry| entry.count(0..=VERDICTS_PER_SHARD_MAX))
            .unwrap_or(VERDICTS_PER_SHARD),
        ttl: entry("ttl")
            .and_then(|entry| entry.duration(VERDICT_TTLS))
            .unwrap_or(VERDICT_TTL),
    }
}
