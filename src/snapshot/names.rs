//! Names of upstreams, and where they lead.
//!
//! The system's resolver blocks, for as long as it likes: it is asked on a thread of its own, one
//! name after the other, and whoever waits for the answer waits for so long and no longer.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Snapshot;
use crate::config::{Config, ConfigError, HostPort, UpstreamSetting};
use crate::limits::{ADDRESSES_PER_NAME_MAX, LOOKUP_MAX};

/// What was found for a name: its addresses, in order and at least one, or why there are none.
pub type Found = (HostPort, Result<Vec<SocketAddr>, String>);

/// Where the names of a snapshot led when it was loaded.
#[derive(Debug, Default)]
pub struct Names(Mutex<BTreeMap<HostPort, Vec<SocketAddr>>>);

impl Names {
    pub(super) fn known(&self) -> BTreeMap<HostPort, Vec<SocketAddr>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn add(&self, found: impl IntoIterator<Item = (HostPort, Vec<SocketAddr>)>) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.extend(found);
    }
}

impl Snapshot {
    /// Looks up every name of an upstream that neither this snapshot nor `before` knows, for
    /// [`LOOKUP_MAX`] at most. It blocks: not on a shard, and not on the control plane.
    ///
    /// # Errors
    ///
    /// The names that led nowhere, each with the reason.
    pub fn look_up_names(&self, before: Option<&Self>) -> Result<(), Vec<(HostPort, String)>> {
        let mut unknown = self.upstream_names();
        if let Some(before) = before {
            let known = before.names.known();
            self.names
                .add(known.into_iter().filter(|(name, _)| unknown.contains(name)));
        }
        let known = self.names.known();
        unknown.retain(|name| !known.contains_key(name));
        if unknown.is_empty() {
            return Ok(());
        }
        let mut lost = Vec::new();
        for (name, found) in look_up(unknown, LOOKUP_MAX) {
            match found {
                Ok(addresses) => self.names.add([(name, addresses)]),
                Err(problem) => lost.push((name, problem)),
            }
        }
        if lost.is_empty() { Ok(()) } else { Err(lost) }
    }

    /// The same for a snapshot of `config`.
    ///
    /// # Errors
    ///
    /// The names that led nowhere, and where they stand.
    pub fn look_up_names_of(
        &self,
        config: &Config,
        before: Option<&Self>,
    ) -> Result<(), Vec<ConfigError>> {
        let lost = self.look_up_names(before).err().unwrap_or_default();
        let errors = lost.into_iter().filter_map(|(name, problem)| {
            let mut routes = config.listeners.iter().flat_map(|it| &it.routes);
            let setting = UpstreamSetting::Name(name);
            let route = routes.find(|route| route.upstreams.contains(&setting))?;
            Some(route.place.error(
                format!("the upstream \"{setting}\" cannot be looked up: {problem}"),
                "correct the name, or have it resolved: getent ahosts NAME; it has to lead \
                 somewhere when it is first used",
            ))
        });
        let errors: Vec<_> = errors.collect();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    fn upstream_names(&self) -> Vec<HostPort> {
        let routes = self.listeners.iter().flat_map(|it| &it.routes);
        let names = routes.flat_map(|route| &route.upstreams);
        let names = names.filter_map(|setting| match setting {
            UpstreamSetting::Address(_) => None,
            UpstreamSetting::Name(name) => Some(name.clone()),
        });
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// A look-up on its way.
#[derive(Debug)]
pub struct Lookup {
    found: Receiver<Found>,
}

impl Lookup {
    /// Looks these up on a thread of its own.
    ///
    /// # Errors
    ///
    /// When there is no thread.
    pub fn start(names: Vec<HostPort>) -> io::Result<Self> {
        Self::with(names, resolve)
    }

    fn with(
        names: Vec<HostPort>,
        resolve: impl Fn(&HostPort) -> Result<Vec<SocketAddr>, String> + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, found) = mpsc::channel();
        thread::Builder::new()
            .name("ringgate-lookup".to_owned())
            .spawn(move || {
                for name in names {
                    let addresses = resolve(&name);
                    if sender.send((name, addresses)).is_err() {
                        // Nobody waits any more.
                        return;
                    }
                }
            })?;
        Ok(Self { found })
    }

    /// What was found next: `Ok(None)` where nothing is there yet, an error at the end.
    ///
    /// # Errors
    ///
    /// When everything was found and taken.
    pub fn next(&self) -> Result<Option<Found>, LookupOver> {
        match self.found.try_recv() {
            Ok(found) => Ok(Some(found)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(LookupOver),
        }
    }
}

/// A look-up has nothing more to give.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LookupOver;

/// Looks these up and waits for it, for so long.
fn look_up(names: Vec<HostPort>, patience: Duration) -> Vec<Found> {
    match Lookup::start(names.clone()) {
        Ok(lookup) => collect(&lookup, names, patience),
        Err(error) => {
            let problem = format!("no thread to ask on: {error}");
            names
                .into_iter()
                .map(|name| (name, Err(problem.clone())))
                .collect()
        }
    }
}

fn collect(lookup: &Lookup, mut names: Vec<HostPort>, patience: Duration) -> Vec<Found> {
    let until = Instant::now() + patience;
    let mut all = Vec::new();
    let problem = loop {
        let left = until.saturating_duration_since(Instant::now());
        match lookup.found.recv_timeout(left) {
            Ok(found) => {
                names.retain(|name| *name != found.0);
                all.push(found);
            }
            Err(RecvTimeoutError::Timeout) => {
                break format!("no answer within {} s", patience.as_secs());
            }
            Err(RecvTimeoutError::Disconnected) => break "the resolver failed".to_owned(),
        }
    };
    all.extend(names.into_iter().map(|name| (name, Err(problem.clone()))));
    all
}

/// Asks the system's resolver.
fn resolve(name: &HostPort) -> Result<Vec<SocketAddr>, String> {
    let found = (name.host.as_str(), name.port).to_socket_addrs();
    let mut addresses: Vec<_> = found.map_err(|error| error.to_string())?.collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(ADDRESSES_PER_NAME_MAX);
    match addresses.is_empty() {
        true => Err("it has no address".to_owned()),
        false => Ok(addresses),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(host: &str) -> HostPort {
        HostPort {
            host: host.to_owned(),
            port: 80,
        }
    }

    #[test]
    fn localhost_leads_to_loopback_and_no_name_leads_nowhere() {
        let found = resolve(&name("localhost")).unwrap();
        assert!(
            found
                .iter()
                .all(|it| it.ip().is_loopback() && it.port() == 80)
        );
        assert!(resolve(&name("nothing.invalid")).is_err());
    }

    #[test]
    fn a_resolver_that_hangs_is_waited_for_so_long_and_no_longer() {
        let (go_on, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let names = vec![name("a"), name("b"), name("c")];
        let lookup = Lookup::with(names.clone(), move |name| {
            if name.host == "b" {
                let _ = wait.lock().unwrap().recv();
            }
            Ok(vec![([127, 0, 0, 1], 80).into()])
        });
        let found = collect(&lookup.unwrap(), names, Duration::from_millis(200));
        let hosts: Vec<_> = found
            .iter()
            .map(|(name, it)| (&*name.host, it.is_ok()))
            .collect();
        assert_eq!(hosts, [("a", true), ("b", false), ("c", false)]);
        assert!(found[1].1.as_ref().unwrap_err().contains("no answer"));
        drop(go_on);
    }

    #[test]
    fn a_resolver_that_panics_is_told() {
        let lookup = Lookup::with(vec![name("a")], |_| panic!("a resolver slipped"));
        let found = collect(&lookup.unwrap(), vec![name("a")], LOOKUP_MAX);
        assert_eq!(found[0].1.as_ref().unwrap_err(), "the resolver failed");
    }
}
