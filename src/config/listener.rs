//! Listeners and their routes.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::document::{Entry, Table};
use super::overload;
use super::route::{Names, RouteSettings};
use super::{Greeting, ListenerConfig, MinVersion, RouteConfig, Tenure, Timeouts, network};
use crate::limits::ROUTES_PER_LISTENER_MAX;

const ADDRESS_EXAMPLE: &str = "address = \"0.0.0.0:8443\"";

const NAME_LEN_MAX: usize = 100;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The listeners read so far, and what the next one may not repeat.
#[derive(Default)]
pub(super) struct Listeners {
    configs: Vec<ListenerConfig>,
    lines_of_addresses: HashMap<SocketAddr, usize>,
}

impl Listeners {
    pub(super) fn into_configs(self) -> Vec<ListenerConfig> {
        self.configs
    }

    /// Reads one listener. Errors are left with the document.
    pub(super) fn read(&mut self, table: Table<'_>) {
        let addresses = self.addresses(&table);
        let name = self.name(&table, &addresses);
        let timeouts = timeouts(&table);
        let tenure = tenure(&table);
        let greeting = greeting(&table);
        let accept_proxy = network::networks(&table, "accept_proxy");
        let rate = overload::rate(&table, "rate", "burst");
        let alpn = table
            .entry("alpn")
            .map(|entry| alpn(&entry))
            .unwrap_or_default();
        let versions = [("1.3", MinVersion::Tls13), ("1.2", MinVersion::Tls12)];
        let min_version = table
            .entry("min_version")
            .and_then(|entry| entry.choice(&versions));
        let routes = routes(&table, &name);
        let place = table.place.clone();
        table.finish();
        self.configs.push(ListenerConfig {
            place,
            name,
            addresses,
            routes,
            alpn,
            min_version: min_version.unwrap_or_default(),
            greeting,
            accept_proxy,
            timeouts,
            tenure,
            rate: rate.flatten(),
        });
    }

    fn addresses(&mut self, table: &Table<'_>) -> Vec<SocketAddr> {
        let Some(entry) = table.entry("address") else {
            table.missing("address", format!("add {ADDRESS_EXAMPLE}"));
            return Vec::new();
        };
        let mut addresses = Vec::new();
        for entry in entry.one_or_list() {
            let Some(address) = listen_address(&entry) else {
                continue;
            };
            let line = entry.place.line;
            match self.lines_of_addresses.get(&address) {
                // Port 0 asks for a free one, which is another each time.
                _ if address.port() == 0 => {}
                Some(taken) => entry.report(
                    format!("is already listened on (line {taken})"),
                    "remove one, or give it another address or port",
                ),
                None => {
                    self.lines_of_addresses.insert(address, line);
                }
            }
            addresses.push(address);
        }
        addresses
    }

    fn name(&mut self, table: &Table<'_>, addresses: &[SocketAddr]) -> Arc<str> {
        let entry = table.entry("name");
        let given = entry.as_ref().and_then(name);
        let by_address = || {
            Arc::from(
                addresses
                    .first()
                    .map_or_else(String::new, |a| a.to_string()),
            )
        };
        let name = given.unwrap_or_else(by_address);
        let place = entry.map_or_else(|| table.place.clone(), |entry| entry.place);
        // Two listeners named by the same address have their error already, but on port 0.
        let first = addresses.first().filter(|address| address.port() != 0);
        let twin = |taken: &&ListenerConfig| {
            taken.name == name && (first.is_none() || taken.addresses.first() != first)
        };
        if let Some(taken) = self.configs.iter().find(twin) {
            let problem = format!(
                "the name \"{name}\" is taken by the listener of line {}",
                taken.place.line
            );
            table
                .document
                .report(place.error(problem, "give each listener its own name"));
        }
        name
    }
}

/// A name for people, logs and metrics.
pub(super) fn name(entry: &Entry<'_>) -> Option<Arc<str>> {
    let text = entry.string("name = \"billing\"")?;
    if text.is_empty() || text.len() > NAME_LEN_MAX || text.chars().any(char::is_control) {
        let remedy = format!("use 1 to {NAME_LEN_MAX} bytes without control characters");
        entry.report("is no name", remedy);
        return None;
    }
    Some(Arc::from(text))
}

fn listen_address(entry: &Entry<'_>) -> Option<SocketAddr> {
    let text = entry.string(ADDRESS_EXAMPLE)?;
    let Ok(address) = text.parse::<SocketAddr>() else {
        entry.report(
            "is no IP address with a port",
            "write \"0.0.0.0:8443\" for every IPv4 address, \"[::]:8443\" for every IPv6 address",
        );
        return None;
    };
    Some(address)
}

fn timeouts(table: &Table<'_>) -> Timeouts {
    let read = |key, low, high, default| {
        let entry = table.entry(key);
        entry
            .and_then(|entry| entry.duration(low..=high))
            .unwrap_or(default)
    };
    Timeouts {
        handshake: read(
            "handshake_timeout",
            100 * MILLISECOND,
            5 * MINUTE,
            10 * SECOND,
        ),
        idle: read("idle_timeout", 100 * MILLISECOND, 7 * DAY, 5 * MINUTE),
        connect: read("connect_timeout", 10 * MILLISECOND, 5 * MINUTE, 5 * SECOND),
        half_close: read("half_close_timeout", 100 * MILLISECOND, 7 * DAY, MINUTE),
    }
}

fn tenure(table: &Table<'_>) -> Tenure {
    Tenure {
        until_expiry: table
            .entry("close_on_expiry")
            .and_then(|entry| entry.boolean())
            .unwrap_or_default(),
        max_age: table
            .entry("max_age")
            .and_then(|entry| entry.duration(SECOND..=366 * DAY)),
    }
}

fn greeting(table: &Table<'_>) -> Greeting {
    let choices = [("v2", true), ("off", false)];
    let on = table
        .entry("proxy_protocol")
        .and_then(|entry| entry.choice(&choices));
    let certificate = table.entry("proxy_client_certificate");
    let client_certificate = certificate
        .as_ref()
        .and_then(Entry::boolean)
        .unwrap_or_default();
    match on {
        Some(false) => {
            if let Some(entry) = certificate.filter(|_| client_certificate) {
                entry.report(
                    "nothing would carry the certificate: proxy_protocol is \"off\"",
                    "write proxy_protocol = \"v2\", or remove this line",
                );
            }
            Greeting::Off
        }
        _ => Greeting::ProxyV2 { client_certificate },
    }
}

/// Protocol names have 1 to 255 bytes (RFC 7301 section 3.1).
fn alpn(entry: &Entry<'_>) -> Vec<Vec<u8>> {
    let mut protocols: Vec<Vec<u8>> = Vec::new();
    for entry in entry.one_or_list() {
        let Some(text) = entry.string("alpn = [\"h2\", \"http/1.1\"]") else {
            continue;
        };
        if text.is_empty() || text.len() > 255 {
            entry.report("is no protocol name", "use 1 to 255 bytes, such as \"h2\"");
        } else if protocols.iter().any(|known| known == text.as_bytes()) {
            entry.report("is named twice", "remove one of the two");
        }
        protocols.push(text.as_bytes().to_vec());
    }
    protocols
}

/// The routes of a listener: those under `[[listener.route]]`, then the listener's own settings,
/// where they are complete or have server names of their own.
fn routes(table: &Table<'_>, listener: &Arc<str>) -> Vec<RouteConfig> {
    let own = RouteSettings::read(table);
    let mut names = Names::default();
    let (mut routes, mut called) = (Vec::new(), BTreeMap::new());
    let below = table
        .entry("route")
        .map(|entry| (entry.tables("[[listener.route]]"), entry));
    let has_routes = below.is_some();
    if let Some((tables, entry)) = below {
        if tables.len() > ROUTES_PER_LISTENER_MAX {
            let problem = format!("has {} routes", tables.len());
            entry.report(
                problem,
                format!("keep to {ROUTES_PER_LISTENER_MAX} for each listener"),
            );
        }
        for (at, table) in tables.into_iter().take(ROUTES_PER_LISTENER_MAX).enumerate() {
            let settings = RouteSettings::read(&table);
            let server_names = names.read(&table);
            if server_names.is_none() {
                table.missing("server_names", "add server_names = [\"app.example\"]");
            }
            let server_names = server_names.unwrap_or_default();
            let given = table.entry("name").and_then(|entry| name(&entry));
            let by_name = || match server_names.first() {
                Some(pattern) => Arc::from(pattern.as_str()),
                None => Arc::from(format!("route {at}")),
            };
            let is_given = given.is_some();
            let name = given.unwrap_or_else(by_name);
            // Two that are named by the same server name have their error already.
            let other = called.insert(Arc::clone(&name), is_given);
            if other.is_some_and(|other_is_given| is_given || other_is_given) {
                let problem = format!("another route of this listener is called `{name}` too");
                let remedy = "give it a name of its own: name = \"app\"";
                match table.entry("name") {
                    Some(entry) => entry.report(problem, remedy),
                    None => table.report(problem, remedy),
                }
            }
            let settings = settings.or(&own);
            settings.report_missing(&table, Some(listener));
            routes.push(settings.into_route(&table, name, server_names));
            table.finish();
        }
    }
    let server_names = names.read(table);
    if !has_routes || server_names.is_some() || own.is_complete() {
        own.report_missing(table, None);
        if called.contains_key(listener) {
            table.report(
                format!("its own route is called `{listener}`, as one of its routes is"),
                "give that one another name: name = \"app\" under [[listener.route]]",
            );
        }
        let server_names = server_names.unwrap_or_default();
        routes.push(own.into_route(table, Arc::clone(listener), server_names));
    }
    routes
}
