//! Policy rules: `{ name = "billing", allow = { uri = "spiffe://…" } }`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::document::{Entry, Table};
use super::{format, listener};
use crate::trust::Policy;
use crate::trust::name::NamePattern;
use crate::trust::policy::{Effect, Matcher, Rule, UriPattern};
use crate::trust::spiffe::SpiffePattern;

/// How to let clients in, for whoever has no rule that does.
pub(super) const ALLOW_REMEDY: &str = "add rule = [{ name = \"everyone\", allow = { any = true } }] \
     to let in every client that client_ca vouches for, or name them: \
     rule = [{ name = \"billing\", allow = { uri = \"spiffe://prod.example/ns/billing/sa/*\" } }]";

const RULE_EXAMPLE: &str = "rule = [{ name = \"billing\", allow = { uri = \"spiffe://…\" } }]";
const MATCHER_EXAMPLE: &str = "{ uri = \"spiffe://prod.example/ns/billing/sa/*\" }";

/// Reads the rules of a listener or a route. At least one of them must allow somebody.
pub(super) fn policy(entry: &Entry<'_>) -> Policy {
    let mut names = BTreeMap::new();
    let mut allows = false;
    let mut rules = Vec::new();
    for table in entry.tables(RULE_EXAMPLE) {
        allows |= table.entry("allow").is_some();
        let place = table.place.clone();
        let Some(rule) = rule(table) else { continue };
        if let Some(line) = names.insert(Arc::clone(&rule.name), place.line) {
            let problem = format!(
                "the name \"{}\" is taken by the rule of line {line}",
                rule.name
            );
            let remedy = "give each rule its own name: logs and upstreams tell them apart by it";
            entry.document.report(place.error(problem, remedy));
        }
        rules.push(rule);
    }
    if !allows {
        entry.report(
            "no rule allows anybody, so every client would be refused",
            ALLOW_REMEDY,
        );
    }
    Policy { rules }
}

fn rule(table: Table<'_>) -> Option<Rule> {
    let name = match table.entry("name") {
        Some(entry) => listener::name(&entry),
        None => {
            table.missing(
                "name",
                "give the rule a name of its own: name = \"billing\"",
            );
            None
        }
    };
    let sides = [
        (Effect::Allow, table.entry("allow")),
        (Effect::Deny, table.entry("deny")),
    ];
    let mut given = sides
        .into_iter()
        .filter_map(|(effect, entry)| Some((effect, entry?)));
    let body = match (given.next(), given.next()) {
        (Some((effect, entry)), None) => entry
            .table(MATCHER_EXAMPLE)
            .and_then(|table| Some((effect, matchers(table)?))),
        (Some(_), Some(_)) => {
            table.report("has both `allow` and `deny`", "make two rules of it");
            None
        }
        (None, _) => {
            table.report(
                "has neither `allow` nor `deny`",
                format!("add allow = {MATCHER_EXAMPLE}"),
            );
            None
        }
    };
    table.finish();
    let (effect, matchers) = body?;
    Some(Rule {
        name: name?,
        effect,
        matchers,
    })
}

/// The matchers of one side; `None` when one of them is wrong.
fn matchers(table: Table<'_>) -> Option<Vec<Matcher>> {
    type Read = fn(&Entry<'_>) -> Option<Matcher>;
    const KINDS: [(&str, Read); 7] = [
        ("spiffe", spiffe),
        ("uri", uri),
        ("dns", dns),
        ("cn", |entry| words(entry).map(Matcher::CommonName)),
        ("ou", |entry| words(entry).map(Matcher::OrganizationalUnit)),
        ("sha256", fingerprint),
        ("spki", spki_pin),
    ];
    let any = table.entry("any");
    let mut matchers = Vec::new();
    let mut sound = true;
    for (key, read) in KINDS {
        let Some(entry) = table.entry(key) else {
            continue;
        };
        for value in entry.one_or_list() {
            let matcher = read(&value);
            sound &= matcher.is_some();
            matchers.extend(matcher);
        }
    }
    match any {
        Some(entry) => {
            let alone = matchers.is_empty() && sound;
            if entry.boolean() == Some(false) {
                entry.report("`any` can only be true", "remove it, or write any = true");
                sound = false;
            } else if !alone {
                entry.report(
                    "`any` stands beside other conditions",
                    "keep one of the two",
                );
            }
            matchers.push(Matcher::Any);
        }
        None if table.is_empty() => {
            let remedy = format!("add a condition, such as {MATCHER_EXAMPLE}, or any = true");
            table.report("has no condition", remedy);
        }
        None => {}
    }
    // With only unknown keys or empty lists nothing is left, and an empty rule must not exist.
    sound &= !matchers.is_empty();
    table.finish();
    sound.then_some(matchers)
}

fn spiffe(entry: &Entry<'_>) -> Option<Matcher> {
    let text = entry.string("spiffe = \"spiffe://prod.example/ns/*/sa/web\"")?;
    match SpiffePattern::parse(text) {
        Ok(pattern) => Some(Matcher::Spiffe(pattern)),
        Err(error) => {
            entry.report(
                format!("is no pattern of SPIFFE IDs: {}", error.problem),
                "write a SPIFFE ID, in which `*` may stand for one segment, and `**` for the rest: \
                 \"spiffe://prod.example/ns/*/sa/web\", \"spiffe://prod.example/ns/shop/**\"",
            );
            None
        }
    }
}

fn uri(entry: &Entry<'_>) -> Option<Matcher> {
    let text = entry.string("uri = \"spiffe://prod.example/ns/billing/sa/*\"")?;
    match UriPattern::parse(text) {
        Ok(pattern) => Some(Matcher::Uri(pattern)),
        Err(error) => {
            entry.report(
                format!("is no URI pattern: {}", error.problem),
                "write a URI in which `*` may stand for one whole path segment: \
                 \"spiffe://prod.example/ns/billing/sa/*\"",
            );
            None
        }
    }
}

fn dns(entry: &Entry<'_>) -> Option<Matcher> {
    let text = entry.string("dns = \"*.clients.example\"")?;
    match NamePattern::parse(text) {
        Ok(pattern) => Some(Matcher::Dns(pattern)),
        Err(error) => {
            entry.report(
                format!("is no host name pattern: {}", error.problem),
                "write a host name, whose first label may be `*`: \"*.clients.example\"",
            );
            None
        }
    }
}

fn words(entry: &Entry<'_>) -> Option<String> {
    let text = entry.string("a string, compared in full and with case")?;
    if text.is_empty() || text.chars().any(char::is_control) {
        entry.report(
            "can never match: it is empty or holds control characters",
            "write the name",
        );
        return None;
    }
    Some(text.to_owned())
}

fn fingerprint(entry: &Entry<'_>) -> Option<Matcher> {
    let text = entry.string("sha256 = \"<64 hexadecimal digits>\"")?;
    let digest = format::hex_digest(text);
    if digest.is_none() {
        entry.report(
            "is no SHA-256 fingerprint in hexadecimal",
            "take it from: openssl x509 -in client.pem -noout -fingerprint -sha256",
        );
    }
    digest.map(Matcher::Fingerprint)
}

fn spki_pin(entry: &Entry<'_>) -> Option<Matcher> {
    let text = entry.string("spki = \"<64 hexadecimal digits, or base64>\"")?;
    let digest = format::hex_digest(text).or_else(|| format::base64_digest(text));
    if digest.is_none() {
        entry.report(
            "is no SHA-256 of a public key in hexadecimal or base64",
            "take it from: openssl x509 -in client.pem -noout -pubkey | \
             openssl pkey -pubin -outform der | sha256sum",
        );
    }
    digest.map(Matcher::SpkiPin)
}
