//! What differs between two configurations, in words.
//!
//! Both are taken apart completely, so that a setting that is new here cannot be forgotten: it would
//! change without a word.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};

use rustls_pki_types::CertificateDer;

use super::Snapshot;
use crate::config::{
    Config, DrainOptions, Ejection, HalfOpenLimits, LimitOptions, ListenerConfig, LogOptions,
    RateLimit, ReloadOptions, ResumptionOptions, RouteConfig, Tenure, Timeouts, UpstreamTreatment,
    VerdictCacheOptions, show_duration, show_size,
};
use crate::tls::Route;
use crate::trust::identity::Identity;
use crate::trust::policy::Rule;
use crate::trust::{TrustDomain, utc};

/// What a configuration says, and what came of it.
type View<'a> = (&'a Config, &'a Snapshot);

/// Places that share a change and are named one by one.
const PLACES_MAX: usize = 3;

/// Bytes of a fingerprint that tell certificates apart for people.
const FINGERPRINT_SHOWN: usize = 6;

/// What differs, by kind: `+` is new, `-` is gone, `a -> b` was a and is b; in parentheses where.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    pub listeners: Vec<String>,
    pub certificates: Vec<String>,
    pub anchors: Vec<String>,
    pub crls: Vec<String>,
    pub rules: Vec<String>,
    pub upstreams: Vec<String>,
    pub settings: Vec<String>,
}

impl Changes {
    /// What is different in `after`.
    pub fn between(before: View<'_>, after: View<'_>) -> Self {
        let mut notes = Notes::default();
        listeners(&mut notes, before, after);
        settings(&mut notes.settings, before, after);
        notes.into_changes()
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What `wanted` says otherwise than `started` and a process cannot change as it runs.
pub fn needs_restart(started: &Config, wanted: &Config) -> Vec<String> {
    let mut notes = Note::default();
    notes.change("shards", &started.shards, &wanted.shards);
    notes.change("log.format", &started.log.format, &wanted.log.format);
    notes.change("log.level", &started.log.level, &wanted.log.level);
    if started.admin != wanted.admin {
        notes.add("[admin]", "");
    }
    if started.process != wanted.process {
        notes.add("[process]", "");
    }
    if started.confinement != wanted.confinement {
        notes.add("[confinement]", "");
    }
    notes.into_lines()
}

#[derive(Default)]
struct Notes {
    listeners: Note,
    certificates: Note,
    anchors: Note,
    crls: Note,
    rules: Note,
    upstreams: Note,
    settings: Note,
}

impl Notes {
    fn into_changes(self) -> Changes {
        Changes {
            listeners: self.listeners.into_lines(),
            certificates: self.certificates.into_lines(),
            anchors: self.anchors.into_lines(),
            crls: self.crls.into_lines(),
            rules: self.rules.into_lines(),
            upstreams: self.upstreams.into_lines(),
            settings: self.settings.into_lines(),
        }
    }
}

/// Changes, and where each of them applies: several routes often share their files.
#[derive(Default)]
struct Note {
    places: BTreeMap<String, Vec<String>>,
}

impl Note {
    fn add(&mut self, text: impl Into<String>, place: &str) {
        let places = self.places.entry(text.into()).or_default();
        if !places.iter().any(|known| known == place) {
            places.push(place.to_owned());
        }
    }

    fn change<T: Debug + PartialEq>(&mut self, key: &str, before: &T, after: &T) {
        self.change_as(key, before, after, |value| format!("{value:?}"));
    }

    fn change_as<T: PartialEq>(
        &mut self,
        key: &str,
        before: &T,
        after: &T,
        show: impl Fn(&T) -> String,
    ) {
        if before != after {
            self.add(format!("{key} {} -> {}", show(before), show(after)), "");
        }
    }

    fn into_lines(self) -> Vec<String> {
        let lines = self.places.into_iter().map(|(text, mut places)| {
            places.sort_unstable();
            let shown = places.iter().take(PLACES_MAX).map(String::as_str);
            let shown = shown.collect::<Vec<_>>().join(", ");
            match places.len().saturating_sub(PLACES_MAX) {
                0 if shown.is_empty() => text,
                0 => format!("{text} ({shown})"),
                more => format!("{text} ({shown} and {more} more)"),
            }
        });
        lines.collect()
    }
}

fn listeners(notes: &mut Notes, before: View<'_>, after: View<'_>) {
    let (before, after) = (pairs(before), pairs(after));
    for (config, _) in &before {
        if !after.iter().any(|(other, _)| other.name == config.name) {
            notes.listeners.add(format!("-{}", config.name), "");
        }
    }
    for (config, routes) in &after {
        match before.iter().find(|(other, _)| other.name == config.name) {
            None => {
                let text = format!("+{} at {}", config.name, list(&config.addresses));
                notes.listeners.add(text, "");
            }
            Some((old, old_routes)) => listener(notes, (old, old_routes), (config, routes)),
        }
    }
}

/// Every listener's settings and the routes that its acceptor works from.
fn pairs((config, snapshot): View<'_>) -> Vec<(&ListenerConfig, &[Route])> {
    let listeners = snapshot.listeners.iter();
    let routes = listeners.map(|listener| listener.acceptor.routes());
    config.listeners.iter().zip(routes).collect()
}

fn listener(
    notes: &mut Notes,
    (old, old_routes): (&ListenerConfig, &[Route]),
    (new, new_routes): (&ListenerConfig, &[Route]),
) {
    let ListenerConfig {
        place: _,
        name,
        addresses,
        routes,
        alpn,
        min_version,
        greeting,
        accept_proxy,
        timeouts,
        tenure: Tenure {
            until_expiry,
            max_age,
        },
        rate,
    } = new;
    let mut own = Note::default();
    own.change_as("address", &old.addresses, addresses, |all| list(all));
    own.change_as("alpn", &old.alpn, alpn, |all| {
        let names = all.iter().map(|name| String::from_utf8_lossy(name));
        format!("[{}]", names.collect::<Vec<_>>().join(", "))
    });
    own.change("min_version", &old.min_version, min_version);
    own.change("proxy_protocol", &old.greeting, greeting);
    let [before, after] = [&old.accept_proxy, accept_proxy]
        .map(|settings| -> Vec<_> { settings.iter().map(|setting| setting.network).collect() });
    own.change_as("accept_proxy", &before, &after, |all| {
        format!("[{}]", list(all))
    });
    change_timeouts(&mut own, &old.timeouts, timeouts);
    let old_tenure = &old.tenure;
    own.change("close_on_expiry", &old_tenure.until_expiry, until_expiry);
    own.change_as("max_age", &old_tenure.max_age, max_age, |age| {
        age.map_or_else(|| "none".to_owned(), show_duration)
    });
    own.change_as("rate", &old.rate, rate, show_rate);
    let full_name = |route: &RouteConfig| format!("{name}/{}", route.name);
    for route in &old.routes {
        if !routes.iter().any(|other| other.name == route.name) {
            notes.listeners.add(format!("-{}", full_name(route)), "");
        }
    }
    for (config, route) in routes.iter().zip(new_routes) {
        let mut before = old.routes.iter().zip(old_routes);
        match before.find(|(other, _)| other.name == config.name) {
            None => notes.listeners.add(format!("+{}", full_name(config)), ""),
            Some((old_config, old_route)) => {
                change_route(notes, (old_config, old_route), (config, route));
            }
        }
    }
    for line in own.into_lines() {
        notes.listeners.add(line, name);
    }
}

fn change_timeouts(own: &mut Note, old: &Timeouts, new: &Timeouts) {
    let Timeouts {
        handshake,
        idle,
        connect,
        half_close,
    } = new;
    for (key, before, after) in [
        ("handshake_timeout", &old.handshake, handshake),
        ("idle_timeout", &old.idle, idle),
        ("connect_timeout", &old.connect, connect),
        ("half_close_timeout", &old.half_close, half_close),
    ] {
        own.change_as(key, before, after, |value| show_duration(*value));
    }
}

fn change_route(
    notes: &mut Notes,
    (old, old_route): (&RouteConfig, &Route),
    (new, new_route): (&RouteConfig, &Route),
) {
    let RouteConfig {
        place: _,
        name: _,
        server_names,
        // Their content counts, wherever it is read from.
        certificates: _,
        client_ca: _,
        bundles: _,
        crls: _,
        unknown_revocation,
        expired_crl,
        policy: _,
        upstreams,
        balance,
        treatment,
        identity_rate,
    } = new;
    let at = new_route.domain.name();
    change_certificates(&mut notes.certificates, old_route, new_route, at);
    let is_told = change_trust(notes, &old_route.domain, &new_route.domain, at);
    let mut own = Note::default();
    let revocation = &old.unknown_revocation;
    own.change("unknown_revocation", revocation, unknown_revocation);
    own.change("expired_crl", &old.expired_crl, expired_crl);
    if !is_told && own.places.is_empty() && old_route.domain.digest() != new_route.domain.digest() {
        own.add("another trust domain", "");
    }
    own.change("balance", &old.balance, balance);
    change_treatment(&mut own, &old.treatment, treatment);
    own.change_as(
        "identity_rate",
        &old.identity_rate,
        identity_rate,
        show_rate,
    );
    own.change_as("server_names", &old.server_names, server_names, |all| {
        let names = all.iter().map(|name| name.as_str());
        format!("[{}]", names.collect::<Vec<_>>().join(", "))
    });
    for line in own.into_lines() {
        notes.listeners.add(line, at);
    }
    let (came, went) = difference(&old.upstreams, upstreams);
    for upstream in came {
        notes.upstreams.add(format!("+{upstream}"), at);
    }
    for upstream in went {
        notes.upstreams.add(format!("-{upstream}"), at);
    }
    let is_reordered = old.upstreams != *upstreams;
    if is_reordered && difference(&old.upstreams, upstreams) == (Vec::new(), Vec::new()) {
        notes.upstreams.add("another order", at);
    }
}

fn change_treatment(own: &mut Note, old: &UpstreamTreatment, new: &UpstreamTreatment) {
    let UpstreamTreatment {
        connections_max,
        slow_start,
        ejection,
        health_check,
        resolve_every,
    } = new;
    let maybe = |value: &Option<_>| value.map_or_else(|| "none".to_owned(), show_duration);
    let before = &old.connections_max;
    own.change_as("upstream_max_connections", before, connections_max, |max| {
        max.map_or_else(|| "none".to_owned(), |max| max.to_string())
    });
    own.change_as("slow_start", &old.slow_start, slow_start, maybe);
    let after = |ejection: &Option<Ejection>| ejection.map_or(0, |ejection| ejection.after);
    own.change("eject_after", &after(&old.ejection), &after(ejection));
    if let (Some(old), Some(new)) = (old.ejection, ejection) {
        own.change_as("eject_for", &old.span, &new.span, |span| {
            show_duration(*span)
        });
    }
    if old.health_check != *health_check {
        own.add(
            match (&old.health_check, health_check) {
                (None, _) => "+health_check",
                (_, None) => "-health_check",
                _ => "another health_check",
            },
            "",
        );
    }
    let every = &old.resolve_every;
    own.change_as("resolve_every", every, resolve_every, |every| {
        show_duration(*every)
    });
}

fn change_certificates(note: &mut Note, old: &Route, new: &Route, at: &str) {
    let chains = |route: &Route| -> Vec<_> {
        let pairs = route.certificates.iter();
        pairs.map(|pair| pair.cert.clone()).collect()
    };
    let (old, new) = (chains(old), chains(new));
    if old == new {
        return;
    }
    let (came, went) = difference(&old, &new);
    let leaves = |chains: &[&Vec<CertificateDer<'_>>]| -> Vec<String> {
        let leaves = chains.iter().filter_map(|chain| chain.first());
        let shown = leaves.map(|leaf| match Identity::from_der(leaf) {
            Ok(identity) => Shown(&identity).to_string(),
            Err(error) => error.to_string(),
        });
        shown.collect()
    };
    let (came, went) = (leaves(&came), leaves(&went));
    for leaf in &came {
        match went.contains(leaf) {
            true => note.add(format!("{leaf} has other intermediates"), at),
            false => note.add(format!("+{leaf}"), at),
        }
    }
    for leaf in went.iter().filter(|leaf| !came.contains(leaf)) {
        note.add(format!("-{leaf}"), at);
    }
    if came.is_empty() && went.is_empty() {
        note.add("another order", at);
    }
}

/// Whether there was something to note.
fn change_trust(notes: &mut Notes, old: &TrustDomain, new: &TrustDomain, at: &str) -> bool {
    if old.digest() == new.digest() {
        return false;
    }
    let anchors = |domain: &TrustDomain| -> Vec<String> {
        let anchors = domain.anchors().map(|(trust_domain, anchor)| {
            let of = trust_domain
                .map(|name| format!("{name}: "))
                .unwrap_or_default();
            format!("{of}{}", Shown(anchor))
        });
        anchors.collect()
    };
    let (old_anchors, new_anchors) = (anchors(old), anchors(new));
    let (came, went) = difference(&old_anchors, &new_anchors);
    for anchor in &came {
        notes.anchors.add(format!("+{anchor}"), at);
    }
    for anchor in &went {
        notes.anchors.add(format!("-{anchor}"), at);
    }
    let crls = change_crls(&mut notes.crls, old, new, at);
    let rules = change_rules(
        &mut notes.rules,
        &old.policy().rules,
        &new.policy().rules,
        at,
    );
    crls || rules || !came.is_empty() || !went.is_empty()
}

/// What the CRLs of one issuer say in all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Issued {
    count: usize,
    revoked: usize,
    this_update: i64,
}

impl Display for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, revoked, .. } = self;
        write!(f, "{revoked} revoked since {}", utc(self.this_update))?;
        if *count > 1 {
            write!(f, " in {count} CRLs")?;
        }
        Ok(())
    }
}

fn change_crls(note: &mut Note, old: &TrustDomain, new: &TrustDomain, at: &str) -> bool {
    let (old, new) = (issued(old), issued(new));
    for (issuer, before) in &old {
        match new.get(issuer) {
            None => note.add(format!("-{issuer}: {before}"), at),
            Some(after) if after != before => {
                note.add(format!("{issuer}: {before} -> {after}"), at);
            }
            Some(_) => {}
        }
    }
    for (issuer, after) in &new {
        if !old.contains_key(issuer) {
            note.add(format!("+{issuer}: {after}"), at);
        }
    }
    old != new
}

fn issued(domain: &TrustDomain) -> BTreeMap<&str, Issued> {
    let mut all: BTreeMap<&str, Issued> = BTreeMap::new();
    for crl in domain.crls() {
        let issued = all.entry(&crl.issuer).or_insert(Issued {
            count: 0,
            revoked: 0,
            this_update: crl.this_update,
        });
        issued.count += 1;
        issued.revoked += crl.revoked;
        issued.this_update = issued.this_update.max(crl.this_update);
    }
    all
}

fn change_rules(note: &mut Note, old: &[Rule], new: &[Rule], at: &str) -> bool {
    for rule in old {
        if !new.iter().any(|other| other.name == rule.name) {
            note.add(format!("-{}", rule.name), at);
        }
    }
    for rule in new {
        match old.iter().find(|other| other.name == rule.name) {
            None => note.add(format!("+{}", rule.name), at),
            Some(before) if before != rule => note.add(format!("{} changed", rule.name), at),
            Some(_) => {}
        }
    }
    let names = |rules: &[Rule]| -> Vec<_> { rules.iter().map(|rule| rule.name.clone()).collect() };
    let (old_names, new_names) = (names(old), names(new));
    if old_names != new_names && difference(&old_names, &new_names) == (Vec::new(), Vec::new()) {
        note.add("another order", at);
    }
    old != new
}

fn settings(note: &mut Note, before: View<'_>, after: View<'_>) {
    let ((old, old_snapshot), (new, new_snapshot)) = (before, after);
    let Config {
        // Where it stands, and what is told elsewhere.
        file: _,
        files: _,
        listeners: _,
        // Told as needing a restart.
        shards: _,
        admin: _,
        process: _,
        confinement: _,
        log:
            LogOptions {
                format: _,
                level: _,
                access,
                access_rate,
                refusal_rate,
            },
        limits,
        drain: DrainOptions { notice, timeout },
        resumption,
        verdict_cache,
        reload: ReloadOptions { watch },
        live_revocation,
    } = new;
    let duration = |value: &_| show_duration(*value);
    let LimitOptions {
        connections,
        handshakes,
        half_open,
        buffer_bytes,
    } = limits;
    note.change("limits.connections", &old.limits.connections, connections);
    note.change("limits.handshakes", &old.limits.handshakes, handshakes);
    change_half_open(note, &old.limits.half_open, half_open);
    let buffers = &old.limits.buffer_bytes;
    note.change_as("limits.buffers", buffers, buffer_bytes, |b| show_size(*b));
    note.change_as("drain.notice", &old.drain.notice, notice, duration);
    note.change_as("drain.timeout", &old.drain.timeout, timeout, duration);
    note.change("log.access", &old.log.access, access);
    note.change("log.access_rate", &old.log.access_rate, access_rate);
    note.change("log.refusal_rate", &old.log.refusal_rate, refusal_rate);
    let ResumptionOptions {
        // Its content counts.
        stek: _,
        rotation,
        cap,
        tickets,
    } = resumption;
    let old_rotation = &old.resumption.rotation;
    note.change_as("resumption.rotation", old_rotation, rotation, duration);
    note.change_as("resumption.cap", &old.resumption.cap, cap, duration);
    note.change("resumption.tickets", &old.resumption.tickets, tickets);
    // Where resumption was off or is, there is no secret to compare.
    if let (Some(old), Some(new)) = (&old_snapshot.stek, &new_snapshot.stek)
        && old != new
    {
        note.add("resumption.stek holds another secret", "");
    }
    let VerdictCacheOptions { entries, ttl } = verdict_cache;
    note.change("verdict_cache.entries", &old.verdict_cache.entries, entries);
    note.change_as("verdict_cache.ttl", &old.verdict_cache.ttl, ttl, duration);
    let old_live = &old.live_revocation;
    note.change_as("revocation.live", old_live, live_revocation, |live| {
        live.to_string()
    });
    note.change("reload.watch", &old.reload.watch, watch);
}

fn change_half_open(note: &mut Note, old: &HalfOpenLimits, new: &HalfOpenLimits) {
    let HalfOpenLimits {
        per_source,
        prefix_v4,
        prefix_v6,
        queue,
    } = new;
    note.change("limits.handshakes_per_source", &old.per_source, per_source);
    note.change("limits.source_prefix_v4", &old.prefix_v4, prefix_v4);
    note.change("limits.source_prefix_v6", &old.prefix_v6, prefix_v6);
    note.change_as("limits.handshake_queue", &old.queue, queue, |value| {
        show_duration(*value)
    });
}

fn show_rate(rate: &Option<RateLimit>) -> String {
    rate.map_or_else(|| "none".to_owned(), |rate| rate.to_string())
}

/// What came and what went, duplicates aside.
fn difference<'a, T: PartialEq>(old: &'a [T], new: &'a [T]) -> (Vec<&'a T>, Vec<&'a T>) {
    let came = new.iter().filter(|item| !old.contains(item)).collect();
    let went = old.iter().filter(|item| !new.contains(item)).collect();
    (came, went)
}

fn list(items: &[impl Display]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

/// A certificate in short.
struct Shown<'a>(&'a Identity);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sha256:", self.0.subject)?;
        for byte in &self.0.fingerprint[..FINGERPRINT_SHOWN] {
            write!(f, "{byte:02x}")?;
        }
        write!(f, " until {}", utc(self.0.not_after))
    }
}
