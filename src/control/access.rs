//! One line for each connection that was served, written in bulk: there may be thousands a second,
//! and each is to cost little more than its bytes.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write;

use serde::Serialize;

use super::log::MESSAGE_MAX;
use super::pace::Pace;
use super::report::clean;
use crate::clock::Clock;
use crate::config::LogFormat;
use crate::shard::mailbox::{Identity, Report};
use crate::snapshot::utc;

/// Bytes of lines that are written at once; more are written in between.
const BATCH_MAX: usize = MESSAGE_MAX;

/// Writes lines of connections, at most so many a second.
pub(super) struct AccessLog {
    format: LogFormat,
    writer: Box<dyn Write>,
    clock: Clock,
    batch: Vec<u8>,
    pace: Pace,
    /// The time of the last line to the second, as text: most lines of a batch share it.
    second: (u64, String),
}

/// A line. The names are those of every other line.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: &'a str,
    level: &'static str,
    message: &'static str,
    reason: &'static str,
    listener: Cow<'a, str>,
    peer: std::net::SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<std::net::SocketAddr>,
    connection: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sans: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_up: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_down: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lasted_s: Option<f64>,
}

impl AccessLog {
    /// At most `rate` lines a second go to `writer`, which does not block.
    pub(super) fn new(format: LogFormat, rate: u64, writer: Box<dyn Write>, clock: Clock) -> Self {
        Self {
            format,
            writer,
            batch: Vec::new(),
            pace: Pace::new(rate, clock.now()),
            second: (0, String::new()),
            clock,
        }
    }

    /// From now on at most so many lines a second.
    pub(super) fn set_rate(&mut self, rate: u64) {
        self.pace.set_rate(rate);
    }

    /// Lines that were left out.
    pub(super) fn skipped(&self) -> u64 {
        self.pace.skipped()
    }

    /// Writes the line of `report`, or counts that it was left out.
    pub(super) fn line(&mut self, message: &'static str, report: &Report) {
        if !self.pace.admits(self.clock.now()) {
            return;
        }
        let (timestamp, start) = (self.timestamp(), self.batch.len());
        let mut id = String::with_capacity(32);
        let _ = write!(id, "{:032x}", report.unique_id);
        let (identity, service) = (report.identity.as_deref(), report.service.as_ref());
        let names = identity.and_then(Identity::alternative_names);
        let line = Line {
            timestamp: &timestamp,
            level: "INFO",
            message,
            reason: report.reason.label(),
            listener: clean(&report.listener),
            peer: report.peer,
            via: report.via,
            connection: &id,
            subject: identity.map(|identity| clean(&identity.subject)),
            sans: names.as_deref().map(clean),
            issuer: identity.map(|identity| clean(&identity.issuer)),
            serial: identity.map(|identity| identity.serial_hex()),
            server_name: report.server_name.as_deref().map(clean),
            detail: (!report.detail.is_empty()).then(|| clean(&report.detail)),
            route: service.map(|service| clean(&service.route)),
            rule: service.map(|service| clean(&service.rule)),
            upstream: service.and_then(|service| service.upstream.as_ref().map(|u| u.to_string())),
            bytes_up: service.map(|service| service.bytes_up),
            bytes_down: service.map(|service| service.bytes_down),
            lasted_s: service.map(|service| service.lasted.as_secs_f64()),
        };
        match self.format {
            LogFormat::Json => {
                let _ = serde_json::to_writer(&mut self.batch, &line);
            }
            LogFormat::Human => human(&mut self.batch, &line),
        }
        self.batch.push(b'\n');
        if self.batch.len() > BATCH_MAX {
            let line = self.batch.split_off(start);
            self.write();
            self.batch = line;
        }
    }

    /// Hands over what was gathered.
    pub(super) fn flush(&mut self) {
        self.write();
        if let Some(lines) = self.pace.take_untold(self.clock.now()) {
            tracing::warn!(
                lines,
                limit_per_s = self.pace.rate(),
                "access lines were left out: more connections ended than [log] access_rate"
            );
        }
    }

    fn write(&mut self) {
        if !self.batch.is_empty() {
            // Whoever reads the log is gone, or slow: the rest goes on.
            let _ = self.writer.write_all(&self.batch);
            self.batch.clear();
        }
    }

    /// As the other lines have it: RFC 3339 with microseconds.
    fn timestamp(&mut self) -> String {
        let unix = self.clock.unix();
        if self.second.0 != unix.as_secs() || self.second.1.is_empty() {
            let seconds = i64::try_from(unix.as_secs()).unwrap_or(i64::MAX);
            self.second = (unix.as_secs(), utc(seconds));
        }
        let whole = self.second.1.trim_end_matches('Z');
        format!("{whole}.{:06}Z", unix.subsec_micros())
    }
}

/// `key=value` for people, as the other lines have it.
fn human(out: &mut Vec<u8>, line: &Line<'_>) {
    let _ = write!(
        out,
        "{}  {} {} reason=\"{}\"",
        line.timestamp, line.level, line.message, line.reason
    );
    text(out, "listener", &line.listener);
    let _ = write!(out, " peer={}", line.peer);
    if let Some(via) = line.via {
        let _ = write!(out, " via=\"{via}\"");
    }
    let _ = write!(out, " connection=\"{}\"", line.connection);
    let texts = [
        ("subject", line.subject.as_deref()),
        ("sans", line.sans.as_deref()),
        ("issuer", line.issuer.as_deref()),
        ("serial", line.serial.as_deref()),
        ("server_name", line.server_name.as_deref()),
        ("detail", line.detail.as_deref()),
        ("route", line.route.as_deref()),
        ("rule", line.rule.as_deref()),
        ("upstream", line.upstream.as_deref()),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            text(out, name, value);
        }
    }
    for (name, bytes) in [("bytes_up", line.bytes_up), ("bytes_down", line.bytes_down)] {
        if let Some(bytes) = bytes {
            let _ = write!(out, " {name}={bytes}");
        }
    }
    if let Some(lasted) = line.lasted_s {
        let _ = write!(out, " lasted_s={lasted}");
    }
}

fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    // Backslashes first: a text's own would take the quote's away.
    let _ = match value.contains(['"', '\\']) {
        true => {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            write!(out, " {name}=\"{value}\"")
        }
        false => write!(out, " {name}=\"{value}\""),
    };
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::*;
    use crate::close_reason::CloseReason;
    use crate::control::report::tests::served;

    /// Notes how long each write is.
    #[derive(Clone, Default)]
    struct Lengths(Arc<Mutex<Vec<usize>>>);

    impl Write for Lengths {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            assert!(bytes.ends_with(b"\n"), "a line was cut");
            self.0.lock().unwrap().push(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn access_lines_are_written_in_messages_of_bounded_length() {
        let (lengths, clock) = (Lengths::default(), Clock::manual(Duration::from_secs(1)));
        let writer = Box::new(lengths.clone());
        let mut access = AccessLog::new(LogFormat::Json, 1000, writer, clock);
        let mut report = served(CloseReason::Complete);
        for _ in 0..200 {
            access.line("connection closed", &report);
        }
        access.flush();
        let written = || lengths.0.lock().unwrap().clone();
        let short = written().len();
        assert!((2..100).contains(&short), "{short} writes");
        assert!(written().iter().all(|&len| len <= MESSAGE_MAX));
        // One that is longer than that goes by itself.
        report.detail = "x".repeat(MESSAGE_MAX);
        for _ in 0..2 {
            access.line("connection closed", &report);
        }
        access.flush();
        assert_eq!(written().len(), short + 2);
    }
}
