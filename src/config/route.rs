//! What a route says, or leaves to its listener to say.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::document::{Entry, Table};
use super::{
    Balance, BundleFiles, CertificateFiles, FileSetting, RouteConfig, UpstreamAddress, rule,
};
use crate::trust::Policy;
use crate::trust::domain::RevocationPolicy;
use crate::trust::name::NamePattern;
use crate::trust::policy::{Effect, Rule};
use crate::trust::spiffe::TrustDomainName;

const CERTIFICATE_EXAMPLE: &str = "certificate = \"server.pem\"";
const KEY_EXAMPLE: &str = "key = \"server.key\"";
const SPIFFE_EXAMPLE: &str =
    "spiffe = [{ trust_domain = \"prod.example\", bundle = \"svid_bundle.pem\" }]";
const UPSTREAM_EXAMPLE: &str = "upstream = \"127.0.0.1:8080\"";

/// Bytes of a Unix socket's path, its terminating NUL aside (sun_path has 108).
pub(super) const UNIX_PATH_MAX: usize = 107;

/// The settings that a route may have of its own. `None`: not given. What was given but is wrong
/// counts as given, so that it is not reported as missing, too.
#[derive(Default)]
pub(super) struct RouteSettings {
    certificates: Option<Vec<CertificateFiles>>,
    anchors: Option<AnchorFiles>,
    crls: Option<Vec<FileSetting>>,
    unknown_revocation: Option<RevocationPolicy>,
    expired_crl: Option<RevocationPolicy>,
    policy: Option<Policy>,
    upstreams: Option<Vec<UpstreamAddress>>,
    balance: Option<Balance>,
}

/// Who vouches for clients. One of the two is empty.
#[derive(Clone, Default)]
struct AnchorFiles {
    client_ca: Vec<FileSetting>,
    bundles: Vec<BundleFiles>,
}

impl RouteSettings {
    pub(super) fn read(table: &Table<'_>) -> Self {
        let revocation = [
            ("deny", RevocationPolicy::Deny),
            ("allow", RevocationPolicy::Allow),
        ];
        let balance = [
            ("round-robin", Balance::RoundRobin),
            ("least-connections", Balance::LeastConnections),
        ];
        let files = table.document;
        let settings = Self {
            certificates: certificates(table),
            anchors: anchors(table),
            crls: table
                .entry("crl")
                .map(|entry| paths(&entry, "\"revoked.pem\"")),
            unknown_revocation: table
                .entry("unknown_revocation")
                .map(|entry| entry.choice(&revocation).unwrap_or_default()),
            expired_crl: table
                .entry("expired_crl")
                .map(|entry| entry.choice(&revocation).unwrap_or_default()),
            policy: table.entry("rule").map(|entry| rule::policy(&entry)),
            upstreams: table.entry("upstream").map(|entry| upstreams(&entry)),
            balance: table
                .entry("balance")
                .map(|entry| entry.choice(&balance).unwrap_or_default()),
        };
        let mut files = files.files.borrow_mut();
        files
            .certificates
            .extend(settings.certificates.iter().flatten().cloned());
        if let Some(anchors) = &settings.anchors {
            files.client_ca.extend_from_slice(&anchors.client_ca);
            files.bundles.extend_from_slice(&anchors.bundles);
        }
        files.crls.extend(settings.crls.iter().flatten().cloned());
        settings
    }

    /// What `self` leaves open comes from `fallback`.
    pub(super) fn or(self, fallback: &Self) -> Self {
        Self {
            certificates: self.certificates.or_else(|| fallback.certificates.clone()),
            anchors: self.anchors.or_else(|| fallback.anchors.clone()),
            crls: self.crls.or_else(|| fallback.crls.clone()),
            unknown_revocation: self.unknown_revocation.or(fallback.unknown_revocation),
            expired_crl: self.expired_crl.or(fallback.expired_crl),
            policy: self.policy.or_else(|| fallback.policy.clone()),
            upstreams: self.upstreams.or_else(|| fallback.upstreams.clone()),
            balance: self.balance.or(fallback.balance),
        }
    }

    /// Whether everything is there that a route cannot do without.
    pub(super) fn is_complete(&self) -> bool {
        self.certificates.is_some()
            && self.anchors.is_some()
            && self.policy.is_some()
            && self.upstreams.is_some()
    }

    /// Reports what a route cannot do without; `listener` is named where it could give it, too.
    pub(super) fn report_missing(&self, table: &Table<'_>, listener: Option<&str>) {
        let elsewhere = listener.map_or_else(String::new, |name| {
            format!(", here or for the whole listener \"{name}\"")
        });
        let required = [
            (
                self.certificates.is_none(),
                "certificate",
                CERTIFICATE_EXAMPLE,
            ),
            (
                self.anchors.is_none(),
                "client_ca",
                "client_ca = \"clients-ca.pem\", or a SPIFFE bundle,",
            ),
            (self.upstreams.is_none(), "upstream", UPSTREAM_EXAMPLE),
        ];
        for (is_missing, key, example) in required {
            if is_missing {
                table.missing(key, format!("add {example}{elsewhere}"));
            }
        }
        if self.policy.is_none() {
            table.missing("rule", rule::ALLOW_REMEDY);
        }
        self.report_unscoped(table);
        let revocation = self.unknown_revocation.is_some() || self.expired_crl.is_some();
        if revocation && self.crls.is_none() {
            table.report(
                "says what unknown revocation or an expired CRL means, but names no CRL, \
                 so revocation would not be checked at all",
                "add crl = [\"revoked.pem\"], or remove unknown_revocation and expired_crl",
            );
        }
    }

    /// Reports rules by which one trust domain could let in clients that are meant to be another's:
    /// every one of several can put what names it likes into its certificates.
    fn report_unscoped(&self, table: &Table<'_>) {
        let bundles = self.anchors.iter().flat_map(|anchors| &anchors.bundles);
        let (true, Some(policy)) = (bundles.count() > 1, &self.policy) else {
            return;
        };
        let unscoped = |rule: &&Rule| rule.effect == Effect::Allow && rule.goes_by_unscoped_names();
        for rule in policy.rules.iter().filter(unscoped) {
            let problem = format!(
                "the rule \"{}\" goes by dns, cn or ou alone, which each of the trust domains in \
                 `spiffe` may put into its certificates",
                rule.name
            );
            let remedy = "say in `allow` which trust domain is meant, too: \
                          spiffe = \"spiffe://prod.example/**\"";
            table.report(problem, remedy);
        }
    }

    pub(super) fn into_route(
        self,
        table: &Table<'_>,
        name: Arc<str>,
        server_names: Vec<NamePattern>,
    ) -> RouteConfig {
        let anchors = self.anchors.unwrap_or_default();
        RouteConfig {
            place: table.place.clone(),
            name,
            server_names,
            certificates: self.certificates.unwrap_or_default(),
            client_ca: anchors.client_ca,
            bundles: anchors.bundles,
            crls: self.crls.unwrap_or_default(),
            unknown_revocation: self.unknown_revocation.unwrap_or_default(),
            expired_crl: self.expired_crl.unwrap_or_default(),
            policy: self.policy.unwrap_or_default(),
            upstreams: self.upstreams.unwrap_or_default(),
            balance: self.balance.unwrap_or_default(),
        }
    }
}

/// The server names of a listener's routes, and where each stands.
#[derive(Default)]
pub(super) struct Names {
    lines: HashMap<NamePattern, usize>,
}

impl Names {
    /// The server names of one route; `None` when it has no such key.
    pub(super) fn read(&mut self, table: &Table<'_>) -> Option<Vec<NamePattern>> {
        let mut patterns = Vec::new();
        for entry in table.entry("server_names")?.one_or_list() {
            let Some(text) = entry.string("server_names = [\"app.example\"]") else {
                continue;
            };
            let pattern = match NamePattern::parse(text) {
                Ok(pattern) => pattern,
                Err(error) => {
                    entry.report(
                        format!("is no host name pattern: {}", error.problem),
                        "write a host name, whose first label may be `*`: \"*.app.example\"",
                    );
                    continue;
                }
            };
            if let Some(line) = self.lines.insert(pattern.clone(), entry.place.line) {
                let problem = format!("\"{}\" is routed already (line {line})", pattern.as_str());
                entry.report(problem, "name each server name in one route only");
            }
            patterns.push(pattern);
        }
        Some(patterns)
    }
}

/// `certificate` and `key`, or several pairs under `certificates`.
fn certificates(table: &Table<'_>) -> Option<Vec<CertificateFiles>> {
    const PAIRS_EXAMPLE: &str =
        "certificates = [{ certificate = \"server.pem\", key = \"server.key\" }]";
    let single = (table.entry("certificate"), table.entry("key"));
    let Some(several) = table.entry("certificates") else {
        return match single {
            (None, None) => None,
            pair => Some(certificate_files(table, pair).into_iter().collect()),
        };
    };
    if single.0.is_some() || single.1.is_some() {
        several.report(
            "stands beside `certificate` or `key`",
            format!("keep only {PAIRS_EXAMPLE}"),
        );
    }
    let tables = several.tables(PAIRS_EXAMPLE);
    if tables.is_empty() {
        several.report("names no certificate", format!("write {PAIRS_EXAMPLE}"));
    }
    let mut pairs = Vec::new();
    for table in tables {
        pairs.extend(certificate_files(
            &table,
            (table.entry("certificate"), table.entry("key")),
        ));
        table.finish();
    }
    Some(pairs)
}

fn certificate_files(
    table: &Table<'_>,
    (certificate, key): (Option<Entry<'_>>, Option<Entry<'_>>),
) -> Option<CertificateFiles> {
    if certificate.is_none() {
        table.missing(
            "certificate",
            format!("add {CERTIFICATE_EXAMPLE}, which `key` belongs to"),
        );
    }
    if key.is_none() {
        table.missing(
            "key",
            format!("add {KEY_EXAMPLE}, which fits `certificate`"),
        );
    }
    let certificate = certificate.and_then(|entry| entry.path(CERTIFICATE_EXAMPLE));
    let key = key.and_then(|entry| entry.path(KEY_EXAMPLE));
    Some(CertificateFiles {
        certificate: certificate?,
        key: key?,
    })
}

/// `client_ca` or `spiffe`. A plain CA beside SPIFFE bundles could issue certificates with the IDs of
/// every trust domain, or the trust domains could issue the names of its clients; and where each was
/// kept to its own there would be two ways to read every rule.
fn anchors(table: &Table<'_>) -> Option<AnchorFiles> {
    let client_ca = table.entry("client_ca");
    let bundles = table.entry("spiffe");
    if let (Some(_), Some(entry)) = (&client_ca, &bundles) {
        entry.report(
            "stands beside `client_ca`, whose CAs vouch for every name",
            "keep one of the two; a route of its own, by server name, can have the other",
        );
    }
    if client_ca.is_none() && bundles.is_none() {
        return None;
    }
    let client_ca = client_ca.map(|entry| paths(&entry, "\"clients-ca.pem\""));
    let bundles = bundles.map(|entry| spiffe_bundles(&entry));
    Some(AnchorFiles {
        client_ca: client_ca.unwrap_or_default(),
        bundles: bundles.unwrap_or_default(),
    })
}

fn spiffe_bundles(entry: &Entry<'_>) -> Vec<BundleFiles> {
    let mut lines: HashMap<TrustDomainName, usize> = HashMap::new();
    let mut bundles = Vec::new();
    for entry in entry.one_or_list() {
        let Some(table) = entry.table(SPIFFE_EXAMPLE) else {
            continue;
        };
        let trust_domain = match table.entry("trust_domain") {
            Some(entry) => trust_domain(&entry),
            None => {
                table.missing("trust_domain", format!("write {SPIFFE_EXAMPLE}"));
                None
            }
        };
        let files = match table.entry("bundle") {
            Some(entry) => paths(&entry, "\"svid_bundle.pem\""),
            None => {
                table.missing("bundle", format!("write {SPIFFE_EXAMPLE}"));
                Vec::new()
            }
        };
        let line = table.place.line;
        table.finish();
        let Some(trust_domain) = trust_domain else {
            continue;
        };
        if let Some(taken) = lines.insert(trust_domain.clone(), line) {
            let problem = format!("`{trust_domain}` has a bundle already (line {taken})");
            entry.report(problem, "write one: bundle = [\"a.pem\", \"b.pem\"]");
        }
        bundles.push(BundleFiles {
            trust_domain,
            files,
        });
    }
    bundles
}

fn trust_domain(entry: &Entry<'_>) -> Option<TrustDomainName> {
    let text = entry.string("trust_domain = \"prod.example\"")?;
    match TrustDomainName::parse(text) {
        Ok(name) => Some(name),
        Err(error) => {
            entry.report(
                format!("is no trust domain: {}", error.problem),
                "write its name alone, without spiffe://: \"prod.example\"",
            );
            None
        }
    }
}

fn paths(entry: &Entry<'_>, example: &str) -> Vec<FileSetting> {
    entry
        .one_or_list()
        .iter()
        .filter_map(|entry| entry.path(example))
        .collect()
}

fn upstreams(entry: &Entry<'_>) -> Vec<UpstreamAddress> {
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

fn upstream(entry: &Entry<'_>) -> Option<UpstreamAddress> {
    let text = entry.string(UPSTREAM_EXAMPLE)?;
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_upstream(entry, path);
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 && !address.ip().is_unspecified() => {
            Some(UpstreamAddress::Tcp(address))
        }
        Ok(_) => {
            entry.report(
                "is no address to connect to",
                format!("write {UPSTREAM_EXAMPLE}"),
            );
            None
        }
        Err(_) => {
            let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
            let is_name = host.starts_with(|first: char| first.is_ascii_alphabetic());
            if is_name && !host.contains(['/', ':']) {
                entry.report(
                    "is a DNS name, and this version does not look names up",
                    "write the IP address and the port: \"10.0.0.5:8080\", \"[fd00::5]:8080\"",
                );
            } else {
                entry.report(
                    "is no IP address with a port",
                    "write \"127.0.0.1:8080\", \"[::1]:8080\" or \"unix:/run/app.sock\"",
                );
            }
            None
        }
    }
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
