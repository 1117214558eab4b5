//! What a shard says of a connection that ended, as a log line.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::close_reason::{Blame, CloseReason};

/// A connection that ended.
#[derive(Clone, Debug)]
pub struct Report {
    pub reason: CloseReason,
    /// For people.
    pub detail: String,
    pub listener: Arc<str>,
    /// `None` where the address was never learned.
    pub peer: Option<SocketAddr>,
    /// The name that the client asked for.
    pub server_name: Option<Arc<str>>,
    /// Who the client is, or where it was refused, claims to be.
    pub client: Option<Client>,
    /// What it did once it was let in; `None` for a client that was refused.
    pub service: Option<Service>,
}

/// The client's certificate, for people.
#[derive(Clone, Debug)]
pub struct Client {
    pub subject: String,
    /// `URI:spiffe://…`, `DNS:app.example`, and so on.
    pub subject_alternative_names: Vec<String>,
    pub issuer: String,
    /// Hexadecimal.
    pub serial: String,
}

/// What became of a client that was let in.
#[derive(Clone, Debug)]
pub struct Service {
    pub route: Arc<str>,
    /// The policy rule that let it in.
    pub rule: Arc<str>,
    /// `None` where none was reached.
    pub upstream: Option<String>,
    /// Plaintext bytes from the client to the upstream, and back.
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub lasted: Duration,
}

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
}

impl Report {
    fn weight(&self) -> Weight {
        if self.service.is_none() {
            return match self.reason {
                CloseReason::ClientGoneInHandshake | CloseReason::NotTls => Weight::Noise,
                _ => Weight::Refused,
            };
        }
        match (self.reason, self.reason.blame()) {
            (CloseReason::Drained | CloseReason::Shutdown, _) => Weight::Access,
            (_, Blame::Upstream | Blame::Ringgate) => Weight::Failed,
            (_, Blame::Client | Blame::Nobody) => Weight::Access,
        }
    }

    /// Writes the line of this report, if it gets one: refusals and failures always do, the rest
    /// where `access` is set.
    pub(super) fn log(&self, access: bool) {
        // Level and message must be constants.
        macro_rules! line {
            ($macro:ident, $message:literal) => {{
                let (client, service) = (self.client.as_ref(), self.service.as_ref());
                let names = client.map(|client| client.subject_alternative_names.join(", "));
                tracing::$macro!(
                    reason = self.reason.label(),
                    listener = escaped(&self.listener),
                    peer = self.peer.map(tracing::field::display),
                    subject = client.map(|client| escaped(&client.subject)),
                    sans = names.map(|names| escaped(&names)),
                    issuer = client.map(|client| escaped(&client.issuer)),
                    serial = client.map(|client| escaped(&client.serial)),
                    server_name = self.server_name.as_deref().map(escaped),
                    detail = (!self.detail.is_empty()).then(|| escaped(&self.detail)),
                    route = service.map(|service| escaped(&service.route)),
                    rule = service.map(|service| escaped(&service.rule)),
                    upstream = service.and_then(|s| s.upstream.as_deref()).map(escaped),
                    bytes_up = service.map(|service| service.bytes_up),
                    bytes_down = service.map(|service| service.bytes_down),
                    lasted_s = service.map(|service| service.lasted.as_secs_f64()),
                    $message
                );
            }};
        }
        match self.weight() {
            Weight::Refused => line!(warn, "client refused"),
            Weight::Failed => line!(warn, "connection failed"),
            Weight::Access if access => line!(info, "connection closed"),
            Weight::Noise if access => line!(info, "no TLS client"),
            Weight::Access => {}
            Weight::Noise => line!(debug, "no TLS client"),
        }
    }
}

/// `text` with control characters and quotes escaped: what a client sends must not end a field or
/// a line, nor move a terminal's cursor.
fn escaped(text: &str) -> String {
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
mod tests {
    use super::*;
    use crate::config::{LogFormat, LogLevel, LogOptions};
    use crate::control::log::tests::logged;

    fn refused() -> Report {
        Report {
            reason: CloseReason::PolicyUnmatched,
            detail: "no rule".to_owned(),
            listener: Arc::from("front"),
            peer: Some("192.0.2.7:4711".parse().unwrap()),
            server_name: Some(Arc::from("app.example")),
            client: Some(Client {
                subject: "CN=mallory\n2026 INFO all is well\u{1b}[2J".to_owned(),
                subject_alternative_names: vec!["URI:spiffe://x/y".to_owned(), "DNS:z".to_owned()],
                issuer: "CN=ca".to_owned(),
                serial: "0a1b".to_owned(),
            }),
            service: None,
        }
    }

    fn served(reason: CloseReason) -> Report {
        let service = Service {
            route: Arc::from("front"),
            rule: Arc::from("everyone"),
            upstream: Some("127.0.0.1:8080".to_owned()),
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

    fn lines(format: LogFormat, report: &Report, access: bool) -> String {
        let options = LogOptions {
            format,
            level: LogLevel::Info,
            access,
        };
        logged(options, || report.log(access))
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
                "URI:spiffe://x/y, DNS:z",
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
        assert_eq!(
            escaped("a\u{2028}b\u{202e}c\0"),
            "a\\u{2028}b\\u{202e}c\\u{0}"
        );
    }

    #[test]
    fn connections_that_end_well_get_a_line_on_request_only() {
        let report = served(CloseReason::Complete);
        assert_eq!(lines(LogFormat::Human, &report, false), "");
        assert!(lines(LogFormat::Human, &report, true).contains("connection closed"));
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
            client: None,
            ..refused()
        };
        assert_eq!(lines(LogFormat::Human, &noise, false), "");
    }
}
