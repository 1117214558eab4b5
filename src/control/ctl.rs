//! `ringgate ctl`: what a running process says, for people.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::admin::client::{self, Answered};
use super::admin::{Counts, DryRun, Listener, Name, Reloaded, Shard, Stage, Status, Upstream};
use crate::config::{Config, LogLevel, admin_socket};
use crate::snapshot::{span, utc};

/// Where the packages have the admin socket.
pub const DEFAULT_SOCKET: &str = "/run/ringgate/admin.sock";

/// Refusals and expiries that are shown; `--json` shows all.
const SHOWN: usize = 10;

/// What a process is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request<'a> {
    Drain,
    DryRun,
    LogLevel(&'a str),
    Metrics,
    Ready,
    Reload,
    Status,
}

/// The admin socket that the configuration in `file` names. The rest of it may be wrong: the process
/// runs with what it said before, and is asked why it does not take this up.
///
/// # Errors
///
/// Where it names none, or that cannot be told.
pub fn socket_of(file: &Path) -> Result<PathBuf, String> {
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(rejected) => {
            return admin_socket(file).ok_or_else(|| {
                let errors = crate::config::render(&rejected.errors);
                format!("{errors}name the admin socket itself: ringgate ctl --socket PATH")
            });
        }
    };
    config.admin.socket.ok_or_else(|| {
        format!(
            "{} names no admin socket: add [admin] socket = \"{DEFAULT_SOCKET}\" and start anew",
            file.display()
        )
    })
}

/// Asks the process at `socket`; the answer as it came where `json` is set or there is no other way
/// to show it.
///
/// # Errors
///
/// Where nobody answers, and what was answered where that is bad news.
pub fn ask(socket: &Path, request: Request<'_>, json: bool) -> Result<String, String> {
    let level;
    let (method, target) = match request {
        Request::Drain => ("POST", "/drain"),
        Request::DryRun => ("POST", "/revoke/dry-run"),
        Request::LogLevel(name) => {
            if !LogLevel::ALL.iter().any(|level| level.label() == name) {
                return Err(format!(
                    "{name:?} is no log level: error, warn, info, debug or trace"
                ));
            }
            level = format!("/log/level?level={name}");
            ("POST", level.as_str())
        }
        Request::Metrics => ("GET", "/metrics"),
        Request::Ready => ("GET", "/readyz"),
        Request::Reload => ("POST", "/reload"),
        Request::Status => ("GET", "/status"),
    };
    let answered = client::ask(socket, method, target).map_err(|error| error.to_string())?;
    let shown = match json {
        true => None,
        false => show(request, &answered),
    };
    let text = shown.unwrap_or_else(|| answered.body.clone());
    match answered.is_success() {
        true => Ok(text),
        false => Err(text),
    }
}

/// An answer for people; `None` where it is text already.
fn show(request: Request<'_>, answered: &Answered) -> Option<String> {
    match request {
        Request::Status => {
            let status: Status = serde_json::from_str(&answered.body).ok()?;
            Some(Shown(String::new()).status(&status))
        }
        Request::Reload => {
            let reloaded: Reloaded = serde_json::from_str(&answered.body).ok()?;
            Some(reload(&reloaded))
        }
        Request::DryRun => {
            let outcome: DryRun = serde_json::from_str(&answered.body).ok()?;
            Some(dry_run(&outcome))
        }
        _ => None,
    }
}

fn dry_run(outcome: &DryRun) -> String {
    let mut shown = Shown(String::new());
    for error in &outcome.errors {
        shown.line(error);
    }
    if !outcome.errors.is_empty() {
        shown.line("a reload would fail, and nothing would change");
        return shown.0;
    }
    shown.line(format!(
        "a reload now would end {} open connections; {} clients were judged again",
        outcome.lost, outcome.judged
    ));
    for lost in &outcome.examples {
        shown.line(format!(
            "  {} {} on {}: {}",
            lost.reason,
            from(lost.peer, lost.via),
            lost.listener,
            lost.detail
        ));
    }
    shown.0
}

fn reload(reloaded: &Reloaded) -> String {
    let generation = reloaded.generation;
    if reloaded.errors.is_empty() {
        return format!("reloaded: generation {generation} is served\n");
    }
    let mut text = String::new();
    for error in &reloaded.errors {
        let _ = writeln!(text, "{error}");
    }
    let _ = writeln!(
        text,
        "reload failed: nothing has changed, generation {generation} is served"
    );
    text
}

/// Text as it grows. Writing to it cannot fail.
struct Shown(String);

impl Shown {
    fn line(&mut self, text: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{text}");
    }

    fn status(mut self, status: &Status) -> String {
        let stage = match status.stage {
            Stage::Serving => "serving",
            Stage::Draining => "draining",
            Stage::Stopping => "stopping",
        };
        let uptime = span(whole(status.now - status.started));
        self.line(format!("ringgate {}: {stage}, up {uptime}", status.version));
        self.configuration(status);
        for listener in &status.listeners {
            self.listener(listener);
        }
        for upstream in &status.upstreams {
            self.upstream(upstream);
        }
        for name in &status.names {
            self.name(name);
        }
        for (at, shard) in status.shards.iter().enumerate() {
            self.shard(at, shard);
        }
        if let Some(skew) = status.skew.filter(|_| status.shards.len() > 1) {
            self.line(format!("skew: {skew:.2} (busiest shard over the mean)"));
        }
        let parts = status.confinement.iter();
        let parts: Vec<String> = parts
            .map(|(part, state)| format!("{part} {state}"))
            .collect();
        if !parts.is_empty() {
            self.line(format!("confinement: {}", parts.join(", ")));
        }
        if !status.expiries.is_empty() {
            self.line("first to expire:");
        }
        for expiry in status.expiries.iter().take(SHOWN) {
            let (kind, file, name) = (&expiry.kind, &expiry.file, &expiry.name);
            let days = expiry.days;
            let until = utc(expiry.until);
            self.line(format!(
                "  {kind} {file} ({name}): {days:.1} days, until {until}"
            ));
        }
        if !status.refusals.is_empty() {
            self.line("last refusals, the newest first:");
        }
        for refusal in status.refusals.iter().take(SHOWN) {
            let at = utc(i64::try_from(refusal.at).unwrap_or(i64::MAX));
            let subject = refusal.subject.as_deref().unwrap_or("no certificate");
            self.line(format!(
                "  {at} {} {} on {}: {subject}: {}",
                refusal.reason,
                from(refusal.peer, refusal.via),
                refusal.listener,
                refusal.detail
            ));
        }
        self.0
    }

    fn configuration(&mut self, status: &Status) {
        let configuration = &status.configuration;
        let at = |time: Option<f64>| utc(whole(time.unwrap_or(status.started)));
        self.line(format!(
            "configuration: generation {}, taken up {}",
            configuration.generation,
            at(configuration.last_success)
        ));
        if configuration.errors.is_empty() {
            return;
        }
        self.line(format!(
            "  THE LAST RELOAD FAILED, {}:",
            at(configuration.last_attempt)
        ));
        for error in configuration.errors.iter().take(SHOWN) {
            self.line(format!("  {error}"));
        }
    }

    fn listener(&mut self, listener: &Listener) {
        let addresses: Vec<String> = listener.addresses.iter().map(ToString::to_string).collect();
        self.line(format!(
            "listener {} ({}): {} open of {} accepted",
            listener.name,
            addresses.join(", "),
            listener.open,
            listener.accepted
        ));
        let handshakes = &listener.handshakes;
        let mut line = format!("  let in: {}", counts(&handshakes.established));
        if let (Some(half), Some(most)) = (handshakes.p50, handshakes.p99) {
            let _ = write!(
                line,
                "; handshakes: half within {} ms, 99 % within {} ms",
                half * 1e3,
                most * 1e3
            );
        }
        self.line(line);
        if !handshakes.refused.is_empty() {
            self.line(format!("  refused: {}", counts(&handshakes.refused)));
        }
        if !listener.closed.is_empty() {
            self.line(format!("  closed: {}", counts(&listener.closed)));
        }
    }

    fn upstream(&mut self, upstream: &Upstream) {
        let health = match upstream.healthy {
            Some(true) => ", healthy",
            Some(false) => ", NOT HEALTHY",
            None => "",
        };
        let ejected = match upstream.ejected_by {
            0 => String::new(),
            shards => format!(", LEFT OUT by {shards} shards"),
        };
        let limit = upstream.open_max;
        let limit = limit.map_or_else(String::new, |limit| format!(" of at most {limit}"));
        self.line(format!(
            "upstream {} ({}): {} open{limit}, {} connects, {} failed{health}{ejected}",
            upstream.address, upstream.route, upstream.open, upstream.connects, upstream.failures
        ));
    }

    /// A DNS name that could not always be looked up; of others the upstreams say enough.
    fn name(&mut self, name: &Name) {
        if name.failures > 0 {
            self.line(format!(
                "name {}: leads to {} addresses; {} look-ups failed since the start",
                name.name,
                name.addresses.len(),
                name.failures
            ));
        }
    }

    fn shard(&mut self, at: usize, shard: &Shard) {
        if shard.ended {
            return self.line(format!("shard {at}: ended"));
        }
        let cpu = shard.cpu_seconds.map_or_else(
            || "unknown CPU time".to_owned(),
            |seconds| format!("{seconds:.1} s of CPU"),
        );
        self.line(format!(
            "shard {at}: {cpu}, {} open, {} in their handshake, {} blocks lent, {} operations in \
             flight",
            shard.open, shard.handshaking, shard.blocks_lent, shard.operations_in_flight
        ));
    }
}

/// Where a client came from.
fn from(peer: SocketAddr, via: Option<SocketAddr>) -> String {
    match via {
        Some(balancer) => format!("{peer} via {balancer}"),
        None => peer.to_string(),
    }
}

fn counts(counts: &Counts) -> String {
    if counts.is_empty() {
        return "nobody".to_owned();
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    counts.join(", ")
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "seconds; what is out of range is shown as the furthest"
)]
fn whole(seconds: f64) -> i64 {
    seconds as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_whose_look_ups_fail_are_shown_and_no_others() {
        let shown = |failures| {
            let mut shown = Shown(String::new());
            shown.name(&Name {
                name: "app.example:8080".to_owned(),
                addresses: vec![([10, 0, 0, 1], 8080).into()],
                failures,
            });
            shown.0
        };
        assert_eq!(shown(0), "");
        assert!(shown(3).contains("app.example:8080: leads to 1 addresses; 3 look-ups failed"));
    }
}
