//! Whether a client would be let in, and why or why not: asked of the code that judges handshakes,
//! without one.
//!
//! What only a handshake shows is left out: whether the client holds its key, and whether it speaks
//! a version, a suite and a signature scheme that the listener does.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, DnsName, UnixTime};
use time::{Date, Month, OffsetDateTime, Time};

use crate::close_reason::CloseReason;
use crate::snapshot::{Listener, Snapshot, read_chain};
use crate::trust::{Authorized, Identity, Refusal, TrustDomain, span, utc};

/// Who comes where, and when.
#[derive(Clone, Debug)]
pub struct Question {
    /// The file of the certificates that the client presents, its own first; PEM.
    pub chain: PathBuf,
    /// `None` for a client that asks for no server name.
    pub server_name: Option<String>,
    /// The name of a listener; `None` for each of them.
    pub listener: Option<String>,
    /// Since the Unix epoch.
    pub at: Duration,
}

/// What would come of it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Whether at least one of the listeners that were asked lets the client in.
    pub let_in: bool,
    /// For people: a paragraph for each listener.
    pub text: String,
}

/// Judges the client as the listeners of `snapshot` would.
///
/// # Errors
///
/// The problem and its remedy, where the question cannot be put: the file of certificates, the
/// server name, the listener.
pub fn explain(snapshot: &Snapshot, question: &Question) -> Result<Answer, String> {
    let chain = read_chain(&question.chain)?;
    let server_name = question.server_name.as_deref().map(server_name);
    let server_name = server_name.transpose()?;
    let asked = |listener: &&Listener| match &question.listener {
        Some(name) => *listener.name == **name,
        None => true,
    };
    let listeners = snapshot.listeners.iter().map(AsRef::as_ref);
    let listeners: Vec<&Listener> = listeners.filter(asked).collect();
    if listeners.is_empty() {
        let known = snapshot.listeners.iter();
        let known: Vec<_> = known.map(|listener| &*listener.name).collect();
        return Err(format!(
            "no listener has the name {:?}\n  remedy: name one of: {}",
            question.listener.as_deref().unwrap_or_default(),
            known.join(", ")
        ));
    }
    let mut answer = Answer {
        let_in: false,
        text: String::new(),
    };
    for listener in listeners {
        let verdict = judge(listener, &chain, server_name.as_deref(), question.at);
        answer.let_in |= verdict.outcome.is_ok();
        if !answer.text.is_empty() {
            answer.text.push('\n');
        }
        verdict.tell(&mut answer.text, question.at);
    }
    Ok(answer)
}

/// Reads a time, in UTC: a date, or a date and a time of day to the second, as RFC 3339 writes
/// them. Since the Unix epoch.
///
/// # Errors
///
/// What is neither, or before 1970.
pub fn time(text: &str) -> Result<Duration, String> {
    let (date, clock) = text
        .split_once(['T', 't', ' '])
        .unwrap_or((text, "00:00:00Z"));
    let moment = || {
        let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
        let clock = clock.strip_suffix(['Z', 'z'])?;
        let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
        let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
        let day = u8::try_from(day).ok()?;
        let date = Date::from_calendar_date(i32::from(year), month, day).ok()?;
        let [hour, minute, second] = [hour, minute, second].map(u8::try_from);
        let clock = Time::from_hms(hour.ok()?, minute.ok()?, second.ok()?).ok()?;
        let seconds = OffsetDateTime::new_utc(date, clock).unix_timestamp();
        u64::try_from(seconds).ok().map(Duration::from_secs)
    };
    moment().ok_or_else(|| {
        "is no time from 1970 on; write 2026-11-21T12:00:00Z or 2026-11-21 (UTC)".to_owned()
    })
}

/// Three numbers of so many digits.
fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[u16; 3]> {
    let mut parts = text.split(separator);
    let mut found = [0; 3];
    for (number, digits) in found.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits)?;
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        *number = part.parse().ok().filter(|_| is_number)?;
    }
    parts.next().is_none().then_some(found)
}

/// A server name as a handshake has it.
fn server_name(text: &str) -> Result<String, String> {
    match DnsName::try_from(text) {
        Ok(name) => Ok(name.as_ref().to_ascii_lowercase()),
        Err(_) => Err(format!(
            "{text:?} is no server name that a client can ask for\n  remedy: give a host name; \
             leave --sni out for a client that connects to an address"
        )),
    }
}

/// What one listener makes of a client.
struct Verdict<'a> {
    listener: &'a str,
    /// The route's name and its trust domain.
    route: Option<(&'a str, &'a TrustDomain)>,
    outcome: Result<Authorized, Refusal>,
}

fn judge<'a>(
    listener: &'a Listener,
    chain: &[CertificateDer<'_>],
    server_name: Option<&str>,
    at: Duration,
) -> Verdict<'a> {
    let name = &*listener.name;
    let route = match listener.acceptor.route_for(server_name) {
        Ok(route) => &listener.acceptor.routes()[route],
        Err(refusal) => {
            return Verdict {
                listener: name,
                route: None,
                outcome: Err(refusal),
            };
        }
    };
    let outcome = match chain.split_first() {
        Some((leaf, intermediates)) => route
            .domain
            .verify(leaf, intermediates, UnixTime::since_unix_epoch(at))
            .and_then(|peer| route.domain.authorize(peer)),
        None => Err(Refusal {
            reason: CloseReason::CertificateMissing,
            detail: "the client presents no certificate".to_owned(),
            claimed: None,
        }),
    };
    Verdict {
        listener: name,
        route: Some((&route.name, &route.domain)),
        outcome,
    }
}

impl Verdict<'_> {
    fn tell(&self, text: &mut String, at: Duration) {
        let at = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
        let mut told = Told(text);
        told.line(format_args!("listener {}:", self.listener));
        if let Some((route, _)) = self.route {
            told.field("route", route);
        }
        match (&self.outcome, self.route) {
            (Ok(client), route) => {
                told.field("verdict", "let in");
                told.field("rule", client.rule());
                if let Some((_, domain)) = route {
                    told.standing(client, domain, at);
                }
                told.identity(client.identity());
            }
            (Err(refusal), _) => {
                told.field("verdict", "refused");
                told.field("reason", refusal.reason.label());
                told.field("detail", &refusal.detail);
                if let Some(claimed) = &refusal.claimed {
                    told.identity(claimed);
                }
            }
        }
    }
}

/// Lines of an answer.
struct Told<'a>(&'a mut String);

impl Told<'_> {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn field(&mut self, name: &str, value: &str) {
        self.line(format_args!("  {name:<12}{value}"));
    }

    fn identity(&mut self, identity: &Identity) {
        if let Some(id) = identity.spiffe_id() {
            self.field("spiffe id", id);
        }
        self.field("subject", &identity.subject);
        if let Some(names) = identity.alternative_names() {
            self.field("sans", &names);
        }
        self.field("issuer", &identity.issuer);
        self.field("serial", &identity.serial_hex());
        self.field("sha256", &identity.fingerprint_hex());
        let [from, until] = [identity.not_before, identity.not_after].map(utc);
        self.field("valid", &format!("{from} to {until}"));
    }

    /// Who vouches, and how long the verdict stands if nothing is changed here.
    fn standing(&mut self, client: &Authorized, domain: &TrustDomain, at: i64) {
        let peer = client.peer();
        if let Some(anchor) = domain.anchor_of(peer) {
            let fingerprint = anchor.fingerprint_hex();
            self.field(
                "anchor",
                &format!("{}, sha256 {fingerprint}", anchor.subject),
            );
        }
        let expires = peer.not_after();
        let (until, why) = match peer.revocation_until() {
            Some(update) if update <= expires => (update, "a CRL must have been replaced by then"),
            _ if expires == client.identity().not_after => (expires, "the certificate expires"),
            _ => (expires, "a CA of the chain expires"),
        };
        let left = span(until.saturating_sub(at));
        self.field("stands", &format!("until {} ({left}): {why}", utc(until)));
        if !domain.checks_revocation() {
            self.field("revocation", "not checked: no CRL is configured");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_utc() {
        for (text, seconds) in [
            ("1970-01-01", 0),
            ("2026-01-01", 1_767_225_600),
            ("2024-02-29T12:34:56Z", 1_709_210_096),
            ("2024-02-29 12:34:56z", 1_709_210_096),
        ] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "now",
            "1969-12-31",
            "2025-02-29",
            "2026-13-01",
            "2026-1-01",
            "2026-01-01-01",
            "2026-01-01T",
            "2026-01-01T12:00Z",
            "2026-01-01T12:00:00",
            "2026-01-01T24:00:00Z",
            "2026-01-01T12:00:00+01:00",
            "+026-01-01",
            "1767225600",
        ] {
            assert!(time(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn server_names_are_those_of_a_handshake() {
        assert_eq!(server_name("App.Example"), Ok("app.example".to_owned()));
        for bad in ["", "10.0.0.1", "::1", "a b", "a\n", "*.example"] {
            assert!(server_name(bad).is_err(), "{bad:?}");
        }
    }
}
