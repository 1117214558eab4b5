//! Where a route's connections go, and how its upstreams are treated.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::document::{Entry, Table};
use super::{UpstreamAddress, UpstreamSetting};
use crate::limits::{CONNECTIONS_PER_SHARD_MAX, EJECTED_MAX};

pub(super) const UPSTREAM_EXAMPLE: &str = "upstream = \"127.0.0.1:8080\"";

const CHECK_EXAMPLE: &str = "health_check = { interval = \"2s\" }, or false for none";

/// Bytes of a Unix socket's path, its terminating NUL aside (sun_path has 108).
pub(super) const UNIX_PATH_MAX: usize = 107;

/// Bytes of a path or a host that a check asks for.
const CHECK_TEXT_MAX: usize = 1024;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A name that leads to upstreams, and the port of each.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// How the upstreams of a route are treated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpstreamTreatment {
    /// Connections to each upstream, over all shards; `None`: as many as come.
    pub connections_max: Option<usize>,
    /// How long an upstream that came back takes to get its full share; `None`: at once.
    pub slow_start: Option<Duration>,
    /// `None`: connects that fail leave an upstream in its place.
    pub ejection: Option<Ejection>,
    pub health_check: Option<HealthCheck>,
    /// How often names are looked up again.
    pub resolve_every: Duration,
}

/// When an upstream that does not answer is left out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ejection {
    /// After so many connects of one shard that failed in a row.
    pub after: u32,
    /// For this long; twice as long each time it does not answer then either.
    pub span: Duration,
}

/// How an upstream is asked whether it is well.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthCheck {
    pub interval: Duration,
    /// For a whole check, its answer included.
    pub timeout: Duration,
    /// Checks in a row after which an upstream that was unwell counts as well.
    pub healthy_after: u32,
    /// Checks in a row that failed after which an upstream counts as unwell.
    pub unhealthy_after: u32,
    /// `None`: an upstream that takes the connection is well.
    pub http: Option<HttpCheck>,
}

/// A request that an upstream which is well answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpCheck {
    pub path: String,
    /// `None`: the upstream's address.
    pub host: Option<String>,
    /// Status codes of those that are well.
    pub status: RangeInclusive<u16>,
}

impl Default for UpstreamTreatment {
    fn default() -> Self {
        UpstreamSettings::default().into_treatment()
    }
}

/// What a route or its listener says of that. `None`: not given. Within it `None`: turned off,
/// whatever the listener has.
#[derive(Clone, Default)]
pub(super) struct UpstreamSettings {
    connections_max: Option<Option<usize>>,
    slow_start: Option<Option<Duration>>,
    eject_after: Option<usize>,
    eject_for: Option<Duration>,
    health_check: Option<Option<HealthCheck>>,
    resolve_every: Option<Duration>,
}

impl UpstreamSettings {
    pub(super) fn read(table: &Table<'_>) -> Self {
        let duration = |key, low, high| {
            let entry = table.entry(key);
            entry.and_then(|entry| entry.duration(low..=high))
        };
        let connections_max = table
            .entry("upstream_max_connections")
            .and_then(|entry| entry.count(0..=CONNECTIONS_PER_SHARD_MAX));
        let slow_start = duration("slow_start", Duration::ZERO, HOUR);
        Self {
            connections_max: connections_max.map(|most| (most > 0).then_some(most)),
            slow_start: slow_start.map(|takes| (!takes.is_zero()).then_some(takes)),
            eject_after: table
                .entry("eject_after")
                .and_then(|entry| entry.count(0..=1000)),
            eject_for: duration("eject_for", 100 * MILLISECOND, EJECTED_MAX),
            health_check: table
                .entry("health_check")
                .and_then(|entry| health_check_or_none(&entry)),
            resolve_every: duration("resolve_every", SECOND, HOUR),
        }
    }

    /// What `self` leaves open comes from `fallback`.
    pub(super) fn or(self, fallback: &Self) -> Self {
        Self {
            connections_max: self.connections_max.or(fallback.connections_max),
            slow_start: self.slow_start.or(fallback.slow_start),
            eject_after: self.eject_after.or(fallback.eject_after),
            eject_for: self.eject_for.or(fallback.eject_for),
            health_check: self.health_check.or_else(|| fallback.health_check.clone()),
            resolve_every: self.resolve_every.or(fallback.resolve_every),
        }
    }

    pub(super) fn into_treatment(self) -> UpstreamTreatment {
        let after = self.eject_after.map_or(3, small);
        let span = self.eject_for.unwrap_or(5 * SECOND);
        UpstreamTreatment {
            connections_max: self.connections_max.flatten(),
            slow_start: self.slow_start.flatten(),
            ejection: (after > 0).then_some(Ejection { after, span }),
            health_check: self.health_check.flatten(),
            resolve_every: self.resolve_every.unwrap_or(30 * SECOND),
        }
    }
}

/// A count whose range was checked.
fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A check, or `false` for none.
fn health_check_or_none(entry: &Entry<'_>) -> Option<Option<HealthCheck>> {
    match entry.is_false() {
        true => Some(None),
        false => health_check(entry.table(CHECK_EXAMPLE)?).map(Some),
    }
}

fn health_check(table: Table<'_>) -> Option<HealthCheck> {
    let duration = |key, low, high, default| {
        let entry = table.entry(key);
        let read = entry.and_then(|entry| entry.duration(low..=high));
        read.unwrap_or(default)
    };
    let count = |key, default| {
        let entry = table.entry(key);
        entry
            .and_then(|entry| entry.count(1..=100))
            .map_or(default, small)
    };
    let interval = duration("interval", 100 * MILLISECOND, HOUR, 2 * SECOND);
    let timeout = duration("timeout", 10 * MILLISECOND, MINUTE, SECOND);
    let (healthy_after, unhealthy_after) = (count("healthy_after", 2), count("unhealthy_after", 3));
    let http = table.entry("http").and_then(|entry| {
        let path = token(&entry, "http = \"/healthz\"")?;
        if !path.starts_with('/') {
            entry.report("is no path", "begin it with a slash: http = \"/healthz\"");
        }
        Some(path)
    });
    let host = table.entry("http_host");
    let status = table.entry("http_status");
    for entry in [&host, &status].into_iter().flatten() {
        if http.is_none() {
            entry.report("asks for nothing without `http`", "add http = \"/healthz\"");
        }
    }
    let host = host.and_then(|entry| token(&entry, "http_host = \"app.internal\""));
    let status = status.and_then(|entry| statuses(&entry));
    table.finish();
    Some(HealthCheck {
        interval,
        timeout,
        healthy_after,
        unhealthy_after,
        http: http.map(|path| HttpCheck {
            path,
            host,
            status: status.unwrap_or(200..=399),
        }),
    })
}

/// Text that goes into the head of a request as it is.
fn token(entry: &Entry<'_>, example: &str) -> Option<String> {
    let text = entry.string(example)?;
    let is_token = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > CHECK_TEXT_MAX || !is_token {
        entry.report(
            "cannot stand in an HTTP request",
            format!("use 1 to {CHECK_TEXT_MAX} visible ASCII characters: {example}"),
        );
        return None;
    }
    Some(text.to_owned())
}

/// One status code, or two with a hyphen between.
fn statuses(entry: &Entry<'_>) -> Option<RangeInclusive<u16>> {
    let text = entry.string("http_status = \"200-399\"")?;
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| text.parse().ok().filter(|code| (200..=599).contains(code));
    match (code(low), code(high)) {
        (Some(low), Some(high)) if low <= high => Some(low..=high),
        _ => {
            entry.report(
                "is no range of status codes",
                "write one from 200 to 599, or two: \"204\", \"200-399\"",
            );
            None
        }
    }
}

pub(super) fn upstreams(entry: &Entry<'_>) -> Vec<UpstreamSetting> {
    let mut upstreams = Vec::new();
    for entry in entry.one_or_list() {
        let Some(upstream) = upstream(&entry) else {
            continue;
        };
        if upstreams.contains(&upstream) {
            entry.report("is named twice", "remove one of the two");
        }
        upstreams.push(upstream);
    }
    upstreams
}

fn upstream(entry: &Entry<'_>) -> Option<UpstreamSetting> {
    let text = entry.string(UPSTREAM_EXAMPLE)?;
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_upstream(entry, path).map(UpstreamSetting::Address);
    }
    let nowhere = || {
        entry.report(
            "is no address to connect to",
            format!("write {UPSTREAM_EXAMPLE}"),
        );
    };
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 || address.ip().is_unspecified() {
            nowhere();
            return None;
        }
        return Some(UpstreamSetting::Address(UpstreamAddress::Tcp(address)));
    }
    let name = text.rsplit_once(':').filter(|(host, _)| is_host_name(host));
    match name.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some((_, 0)) => {
            nowhere();
            None
        }
        Some((host, port)) => Some(UpstreamSetting::Name(HostPort {
            host: host.to_ascii_lowercase(),
            port,
        })),
        None => {
            entry.report(
                "is no IP address or name with a port",
                "write \"127.0.0.1:8080\", \"[::1]:8080\", \"app.internal:8080\" or \
                 \"unix:/run/app.sock\"",
            );
            None
        }
    }
}

/// Whether it is a name to look up (RFC 1123 section 2.1; resolvers take underscores as well), and
/// no mistyped IPv4 address.
fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let mut bytes = label.bytes();
        let is_edge = |byte: Option<u8>| byte != Some(b'-');
        (1..=63).contains(&label.len())
            && is_edge(label.bytes().next())
            && is_edge(label.bytes().next_back())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253
        && text.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

fn unix_upstream(entry: &Entry<'_>, path: &str) -> Option<UpstreamAddress> {
    let joined = entry.directory().join(path);
    let len = joined.as_os_str().len();
    if path.is_empty() || path.contains('\0') {
        entry.report(
            "names no socket",
            "write the path of a Unix socket: \"unix:/run/app.sock\"",
        );
        return None;
    }
    if len > UNIX_PATH_MAX {
        entry.report(
            format!(
                "is {len} bytes long ({}); a Unix socket's path has at most {UNIX_PATH_MAX}",
                Path::new(&joined).display()
            ),
            "move the socket to a shorter path, such as \"unix:/run/app.sock\"",
        );
        return None;
    }
    Some(UpstreamAddress::Unix(joined))
}
