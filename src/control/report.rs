//! What a shard says of a connection that ended, as a log line.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::access::AccessLog;
use super::pace::Pace;
use crate::clock::Clock;
use crate::close_reason::{Blame, CloseReason};
use crate::shard::mailbox::{Identity, Report, Review};
use crate::snapshot::LiveRevocation;

/// Refusals that `/status` shows.
const REFUSALS_KEPT: usize = 64;

/// How much a report matters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Weight {
    /// A connection that served its purpose.
    Access,
    /// A connection that was let in and failed by no doing of the client's.
    Failed,
    /// Not a client at all: a port scan, a health check, plain HTTP. Counted, hardly worth a line.
    Noise,
    /// A client that was turned away.
    Refused,
    /// A load balancer did not say who its client is.
    Unintroduced,
    /// A client that was let in once, and would not be any more.
    Withdrawn,
}

fn weight(report: &Report) -> Weight {
    if report.service.is_none() {
        return match (report.reason, report.reason.blame()) {
            (CloseReason::ClientGoneInHandshake | CloseReason::NotTls, _) => Weight::Noise,
            (CloseReason::Drained | CloseReason::Shutdown, _) => Weight::Access,
            (CloseReason::ProxyHeaderInvalid, _) => Weight::Unintroduced,
            (_, Blame::Client) => Weight::Refused,
            (_, Blame::Nobody | Blame::Ringgate | Blame::Upstream) => Weight::Failed,
        };
    }
    match (report.reason, report.reason.blame()) {
        (CloseReason::Drained | CloseReason::Shutdown, _) => Weight::Access,
        (
            CloseReason::AccessWithdrawn
            | CloseReason::CertificateRevoked
            | CloseReason::CertificateUnknownCa
            | CloseReason::PolicyDenied
            | CloseReason::PolicyUnmatched
            | CloseReason::RevocationUnknown
            | CloseReason::UnknownServerName,
            _,
        ) => Weight::Withdrawn,
        (_, Blame::Upstream | Blame::Ringgate) => Weight::Failed,
        (_, Blame::Client | Blame::Nobody) => Weight::Access,
    }
}

/// A client that was not let in, or lost what it had, for `/status`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Refusal {
    /// Whole seconds since the Unix epoch.
    pub at: u64,
    pub reason: String,
    pub listener: String,
    pub peer: SocketAddr,
    /// The load balancer that it came from, if it came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<SocketAddr>,
    /// The connection's, as in the log.
    pub connection: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The last refusals.
#[derive(Debug)]
pub(super) struct Refusals {
    clock: Clock,
    /// The oldest first.
    last: VecDeque<Refusal>,
}

impl Refusals {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            last: VecDeque::new(),
        }
    }

    /// Keeps `report`, if it is one.
    pub(super) fn note(&mut self, report: &Report) {
        if matches!(weight(report), Weight::Access | Weight::Noise) {
            return;
        }
        if self.last.len() >= REFUSALS_KEPT {
            self.last.pop_front();
        }
        let identity = report.identity.as_deref();
        self.last.push_back(Refusal {
            at: self.clock.unix().as_secs(),
            reason: report.reason.label().to_owned(),
            listener: escaped(&report.listener),
            peer: report.peer,
            via: report.via,
            connection: format!("{:032x}", report.unique_id),
            subject: identity.map(|identity| escaped(&identity.subject)),
            server_name: report.server_name.as_deref().map(escaped),
            detail: escaped(&report.detail),
        });
    }

    pub(super) fn last(&self) -> &VecDeque<Refusal> {
        &self.last
    }
}

/// Writes lines of refusals and failures, at most so many a second: anybody who reaches the port can
/// be refused as often as they like.
#[derive(Debug)]
pub(super) struct RefusalLog {
    pace: Pace,
    clock: Clock,
}

impl RefusalLog {
    pub(super) fn new(rate: u64, clock: Clock) -> Self {
        let pace = Pace::new(rate, clock.now());
        Self { pace, clock }
    }

    /// From now on at most so many lines a second.
    pub(super) fn set_rate(&mut self, rate: u64) {
        self.pace.set_rate(rate);
    }

    /// Lines that were left out.
    pub(super) fn skipped(&self) -> u64 {
        self.pace.skipped()
    }

    /// Tells every so often what was left out.
    pub(super) fn tell(&mut self) {
        if let Some(lines) = self.pace.take_untold(self.clock.now()) {
            tracing::warn!(
                lines,
                limit_per_s = self.pace.rate(),
                "lines of refusals and failures were left out: there were more than [log] \
                 refusal_rate"
            );
        }
    }

    fn admits(&mut self) -> bool {
        self.pace.admits(self.clock.now())
    }
}

/// Writes the line of `report`, if it gets one: refusals and failures do as far as `refusals` has
/// room, the rest where there is an `access` log.
pub(super) fn log(report: &Report, refusals: &mut RefusalLog, access: Option<&mut AccessLog>) {
    // Level and message must be constants.
    macro_rules! line {
        ($macro:ident, $message:literal) => {{
            let (identity, service) = (report.identity.as_deref(), report.service.as_ref());
            tracing::$macro!(
                reason = report.reason.label(),
                listener = escaped(&report.listener),
                peer = %report.peer,
                via = report.via.map(|balancer| balancer.to_string()),
                connection = format!("{:032x}", report.unique_id),
                subject = identity.map(|identity| escaped(&identity.subject)),
                sans = identity.and_then(Identity::alternative_names).as_deref().map(escaped),
                issuer = identity.map(|identity| escaped(&identity.issuer)),
                serial = identity.map(|identity| identity.serial_hex()),
                server_name = report.server_name.as_deref().map(escaped),
                detail = (!report.detail.is_empty()).then(|| escaped(&report.detail)),
                route = service.map(|service| escaped(&service.route)),
                rule = service.map(|service| escaped(&service.rule)),
                upstream = service.and_then(|s| s.upstream.as_ref()).map(|u| u.to_string()),
                bytes_up = service.map(|service| service.bytes_up),
                bytes_down = service.map(|service| service.bytes_down),
                lasted_s = service.map(|service| service.lasted.as_secs_f64()),
                $message
            );
        }};
    }
    let weight = weight(report);
    if !matches!(weight, Weight::Access | Weight::Noise) && !refusals.admits() {
        return;
    }
    match weight {
        Weight::Refused => line!(warn, "client refused"),
        Weight::Unintroduced => line!(warn, "no PROXY header from a load balancer"),
        Weight::Withdrawn => line!(warn, "client no longer let in"),
        Weight::Failed => line!(warn, "connection failed"),
        Weight::Access => {
            if let Some(access) = access {
                access.line("connection closed", report);
            }
        }
        Weight::Noise => match access {
            Some(access) => access.line("no TLS client", report),
            None => line!(debug, "no TLS client"),
        },
    }
}

/// Writes what became of one shard's open connections after a change.
pub(super) fn log_review(shard: usize, review: &Review) {
    let dry_run = review.mode == LiveRevocation::DryRun;
    for lost in &review.examples {
        tracing::warn!(
            reason = lost.reason.label(),
            listener = escaped(&lost.listener),
            peer = %lost.peer,
            via = lost.via.map(|balancer| balancer.to_string()),
            connection = format!("{:032x}", lost.unique_id),
            detail = escaped(&lost.detail),
            "dry run: this client would no longer be let in"
        );
    }
    // The level must be a constant.
    macro_rules! line {
        ($macro:ident) => {
            tracing::$macro!(
                shard,
                generation = review.generation,
                judged = review.judged,
                ended = if dry_run { 0 } else { review.lost },
                would_end = dry_run.then_some(review.lost),
                took_ms = review.took.as_secs_f64() * 1e3,
                longest_turn_us = review.longest_turn.as_micros(),
                finished = review.finished,
                "open connections judged again"
            )
        };
    }
    // Most reloads change nothing for anybody, and there may be many shards.
    if review.judged == 0 && review.lost == 0 {
        line!(debug);
    } else {
        line!(info);
    }
}

/// `text` as [`escaped`], without a copy where that changes nothing.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    match text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(escaped(text)),
    }
}

/// `text` with control characters and quotes escaped: what a client sends must not end a field or
/// a line, nor move a terminal's cursor.
pub(super) fn escaped(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut out, character| {
            match character {
                // Line and paragraph separators end a line for some readers; the bidirectional
                // controls reorder what is shown.
                '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    out.extend(character.escape_unicode());
                }
                _ if character.is_control() => out.extend(character.escape_default()),
                _ => out.push(character),
            }
            out
        })
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::config::{LogFormat, LogLevel, LogOptions};
    use crate::control::log::tests::{Memory, logged};
    use crate::shard::mailbox::Service;

    fn identity() -> Identity {
        Identity {
            uris: vec!["spiffe://x/y".to_owned()],
            dns_names: vec!["z".to_owned()],
            emails: Vec::new(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            common_name: None,
            organizational_units: Vec::new(),
            rejected_names: Vec::new(),
            subject: "CN=mallory\n2026 INFO all is well\u{1b}[2J".to_owned(),
            issuer: "CN=ca".to_owned(),
            serial: vec![0x0a, 0x1b],
            not_before: 0,
            not_after: 1,
            fingerprint: [0; 32],
            spki_pin: [0; 32],
            rsa_modulus_bits: None,
            client_auth: true,
            may_sign: false,
        }
    }

    pub(in crate::control) fn refused() -> Report {
        Report {
            reason: CloseReason::PolicyUnmatched,
            detail: "no rule".to_owned(),
            listener: Arc::from("front"),
            peer: "192.0.2.7:4711".parse().unwrap(),
            via: None,
            unique_id: 0xabc,
            server_name: Some(Arc::from("app.example")),
            identity: Some(Arc::new(identity())),
            service: None,
        }
    }

    pub(in crate::control) fn served(reason: CloseReason) -> Report {
        let service = Service {
            route: Arc::from("front"),
            rule: Arc::from("everyone"),
            upstream: None,
            bytes_up: 3,
            bytes_down: 5,
            lasted: Duration::from_millis(1500),
        };
        Report {
            reason,
            detail: String::new(),
            service: Some(service),
            ..refused()
        }
    }

    /// What is logged of `report`, access lines last.
    fn lines(format: LogFormat, report: &Report, access: bool) -> String {
        let options = LogOptions {
            format,
            level: LogLevel::Info,
            access,
            access_rate: 2,
            refusal_rate: 2,
        };
        let memory = Memory::default();
        let clock = Clock::manual(Duration::from_secs(1));
        let mut refusals = RefusalLog::new(2, clock.clone());
        let mut to = AccessLog::new(format, 2, Box::new(memory.clone()), clock);
        let others = logged(options, || {
            log(report, &mut refusals, access.then_some(&mut to));
        });
        to.flush();
        others + &memory.text()
    }

    #[test]
    fn a_refused_client_is_one_line_with_everything_in_it() {
        for format in [LogFormat::Human, LogFormat::Json] {
            let text = lines(format, &refused(), false);
            assert_eq!(text.lines().count(), 1, "{text}");
            for part in [
                "client refused",
                "policy_unmatched",
                "front",
                "192.0.2.7:4711",
                "CN=mallory",
                "URI:spiffe://x/y, DNS:z, IP:192.0.2.1",
                "CN=ca",
                "0a1b",
                "app.example",
                "no rule",
            ] {
                assert!(text.contains(part), "{part} in {text}");
            }
        }
    }

    #[test]
    fn control_bytes_of_clients_are_escaped() {
        let text = lines(LogFormat::Human, &refused(), false);
        assert!(
            text.trim_end()
                .chars()
                .all(|character| !character.is_control()),
            "{text:?}"
        );
        assert_eq!(escaped("a\nb\u{1b}c\0"), "a\\nb\\u{1b}c\\u{0}");
        assert_eq!(escaped("a\u{2028}b\u{202e}"), "a\\u{2028}b\\u{202e}");
    }

    #[test]
    fn connections_that_end_well_get_a_line_on_request_only() {
        let report = served(CloseReason::Complete);
        assert_eq!(lines(LogFormat::Human, &report, false), "");
        let human = lines(LogFormat::Human, &report, true);
        let start = "1970-01-01T00:00:01.000000Z  INFO connection closed reason=\"complete\" ";
        assert!(human.starts_with(start), "{human}");
        assert_eq!(human.lines().count(), 1, "{human:?}");
        assert!(
            human.contains(" bytes_up=3 bytes_down=5 lasted_s=1.5"),
            "{human}"
        );
        let json = lines(LogFormat::Json, &report, true);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["message"], "connection closed");
        assert_eq!(
            json["subject"],
            "CN=mallory\\n2026 INFO all is well\\u{1b}[2J"
        );
        assert_eq!(json["bytes_down"], 5);
    }

    #[test]
    fn no_text_of_a_client_ends_its_field() {
        let mut report = served(CloseReason::Complete);
        let subject = r#"CN=x\" rule="admin"#.to_owned();
        report.identity = Some(Arc::new(Identity {
            subject,
            ..identity()
        }));
        let human = lines(LogFormat::Human, &report, true);
        assert!(
            human.contains(r#" subject="CN=x\\\" rule=\"admin" "#),
            "{human}"
        );
        assert!(human.contains(r#" rule="everyone""#), "{human}");
    }

    #[test]
    fn access_lines_beyond_the_rate_are_counted_and_told() {
        let (memory, clock) = (Memory::default(), Clock::manual(Duration::from_secs(1)));
        let writer = Box::new(memory.clone());
        let mut access = AccessLog::new(LogFormat::Json, 2, writer, clock.clone());
        let mut refusals = RefusalLog::new(1, clock.clone());
        let report = served(CloseReason::Complete);
        for _ in 0..5 {
            log(&report, &mut refusals, Some(&mut access));
        }
        access.flush();
        assert_eq!((memory.text().lines().count(), access.skipped()), (2, 3));
        clock.advance(Duration::from_secs(10));
        let told = crate::control::fake::logged(|| access.flush());
        assert!(told.contains("lines=3"), "{told}");
        log(&report, &mut refusals, Some(&mut access));
        access.flush();
        assert_eq!(memory.text().lines().count(), 3, "another second");
        assert_eq!(refusals.skipped(), 0);
    }

    #[test]
    fn lines_of_refusals_and_failures_beyond_the_rate_are_counted_and_told() {
        let clock = Clock::manual(Duration::from_secs(1));
        let mut refusals = RefusalLog::new(3, clock.clone());
        let reports = [
            refused(),
            served(CloseReason::UpstreamUnreachable),
            served(CloseReason::CertificateRevoked),
            Report {
                reason: CloseReason::ProxyHeaderInvalid,
                ..refused()
            },
            refused(),
        ];
        let all = |refusals: &mut RefusalLog| {
            let text = crate::control::fake::logged(|| {
                for report in &reports {
                    log(report, refusals, None);
                }
                // Nobody is refused by it.
                log(&served(CloseReason::Complete), refusals, None);
            });
            text.lines().count()
        };
        assert_eq!((all(&mut refusals), refusals.skipped()), (3, 2));
        assert_eq!((all(&mut refusals), refusals.skipped()), (0, 7));
        clock.advance(Duration::from_secs(10));
        let told = crate::control::fake::logged(|| refusals.tell());
        assert!(told.contains("lines=7 limit_per_s=3"), "{told}");
        assert!(told.contains("refusal_rate"), "{told}");
        assert_eq!(all(&mut refusals), 3, "another second");
        assert_eq!(crate::control::fake::logged(|| refusals.tell()), "");
    }

    #[test]
    fn a_review_gets_a_line_where_somebody_was_judged() {
        let said = |judged, lost, level| {
            let review = Review {
                generation: 7,
                mode: LiveRevocation::Close,
                judged,
                lost,
                examples: Vec::new(),
                took: Duration::ZERO,
                longest_turn: Duration::ZERO,
                finished: true,
            };
            let options = LogOptions {
                format: LogFormat::Human,
                level,
                access: false,
                access_rate: 1,
                refusal_rate: 1,
            };
            logged(options, || log_review(0, &review)).contains("open connections judged again")
        };
        // A listener that is gone takes its clients along, and nobody is judged.
        for (judged, lost) in [(1, 0), (0, 1)] {
            assert!(said(judged, lost, LogLevel::Info));
        }
        assert!(!said(0, 0, LogLevel::Info));
        assert!(said(0, 0, LogLevel::Debug));
    }

    #[test]
    fn a_load_balancer_that_introduces_nobody_is_named() {
        let report = Report {
            reason: CloseReason::ProxyHeaderInvalid,
            detail: "no PROXY header".to_owned(),
            peer: "10.0.0.9:4711".parse().unwrap(),
            via: Some("10.0.0.9:4711".parse().unwrap()),
            identity: None,
            ..refused()
        };
        let text = lines(LogFormat::Human, &report, false);
        assert!(
            text.contains("WARN") && text.contains("from a load balancer"),
            "{text}"
        );
        assert!(text.contains("via=\"10.0.0.9:4711\""), "{text}");
        // And who was served through one, with both addresses.
        let report = Report {
            via: report.via,
            ..served(CloseReason::Complete)
        };
        let text = lines(LogFormat::Human, &report, true);
        assert!(
            text.contains("peer=192.0.2.7:4711 via=\"10.0.0.9:4711\""),
            "{text}"
        );
        assert!(!lines(LogFormat::Human, &served(CloseReason::Complete), true).contains("via"));
    }

    #[test]
    fn failures_get_a_line_and_noise_does_not() {
        let failed = served(CloseReason::UpstreamUnreachable);
        assert!(lines(LogFormat::Human, &failed, false).contains("connection failed"));
        assert_eq!(
            lines(LogFormat::Human, &served(CloseReason::Drained), false),
            ""
        );
        let noise = Report {
            reason: CloseReason::NotTls,
            identity: None,
            ..refused()
        };
        assert_eq!(lines(LogFormat::Human, &noise, false), "");
    }
}
