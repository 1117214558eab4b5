//! What a route says, or leaves to its listener to say.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::document::{Entry, Table};
use super::{Balance, CertificateFiles, FileSetting, RouteConfig, UpstreamAddress, rule};
use crate::trust::Policy;
use crate::trust::domain::RevocationPolicy;
use crate::trust::name::NamePattern;

const CERTIFICATE_EXAMPLE: &str = "certificate = \"server.pem\"";
const KEY_EXAMPLE: &str = "key = \"server.key\"";
const UPSTREAM_EXAMPLE: &str = "upstream = \"127.0.0.1:8080\"";

/// Bytes of a Unix socket's path, its terminating NUL aside (sun_path has 108).
const UNIX_PATH_MAX: usize = 107;

/// The settings that a route may have of its own. `None`: not given. What was given but is wrong
/// counts as given, so that it is not reported as missing, too.
#[derive(Default)]
pub(super) struct RouteSettings {
    certificates: Option<Vec<CertificateFiles>>,
    client_ca: Option<Vec<FileSetting>>,
    crls: Option<Vec<FileSetting>>,
    unknown_revocation: Option<RevocationPolicy>,
    expired_crl: Option<RevocationPolicy>,
    policy: Option<Policy>,
    upstreams: Option<Vec<UpstreamAddress>>,
    balance: Option<Balance>,
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
            client_ca: table
                .entry("client_ca")
                .map(|entry| paths(&entry, "\"clients-ca.pem\"")),
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
        files
            .client_ca
            .extend(settings.client_ca.iter().flatten().cloned());
        files.crls.extend(settings.crls.iter().flatten().cloned());
        settings
    }

    /// What `self` leaves open comes from `fallback`.
    pub(super) fn or(self, fallback: &Self) -> Self {
        Self {
            certificates: self.certificates.or_else(|| fallback.certificates.clone()),
            client_ca: self.client_ca.or_else(|| fallback.client_ca.clone()),
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
            && self.client_ca.is_some()
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
                self.client_ca.is_none(),
                "client_ca",
                "client_ca = \"clients-ca.pem\"",
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
        let revocation = self.unknown_revocation.is_some() || self.expired_crl.is_some();
        if revocation && self.crls.is_none() {
            table.report(
                "says what unknown revocation or an expired CRL means, but names no CRL, \
                 so revocation would not be checked at all",
                "add crl = [\"revoked.pem\"], or remove unknown_revocation and expired_crl",
            );
        }
    }

    pub(super) fn into_route(
        self,
        table: &Table<'_>,
        name: Arc<str>,
        server_names: Vec<NamePattern>,
    ) -> RouteConfig {
        RouteConfig {
            place: table.place.clone(),
            name,
            server_names,
            certificates: self.certificates.unwrap_or_default(),
            client_ca: self.client_ca.unwrap_or_default(),
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
