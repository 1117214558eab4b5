//! The upstreams of a running terminator: what the control plane says of each, and what shards count.
//!
//! [`Upstreams`] is the control plane's and is locked there alone. A shard is handed [`Endpoint`]s:
//! it reads their [`Health`] and writes its own [`Figures`], both without a lock.

mod counts;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{
    Greeting, HealthCheck, HostPort, Listener, Snapshot, UpstreamAddress, UpstreamSetting,
    UpstreamTreatment,
};
use crate::limits::UPSTREAMS_LEFT_MAX;
pub use counts::{Figures, Health};

/// One upstream of a route, as one shard is given it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: UpstreamAddress,
    pub health: Arc<Health>,
    pub figures: Arc<Figures>,
    /// The shard's part of the upstream's connections.
    pub connections_max: usize,
}

/// The upstreams of every route of every listener, with the indices of the snapshot.
pub type Rosters = Vec<Vec<Vec<Endpoint>>>;

/// The upstreams of one route, which are others now.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// Indices in the snapshot that the shard works from.
    pub listener: usize,
    pub route: usize,
    pub endpoints: Vec<Endpoint>,
}

/// How an upstream of a route is, over all shards.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct State {
    pub listener: Arc<str>,
    pub route: Arc<str>,
    pub address: UpstreamAddress,
    /// What led to the address, if it was a name.
    pub name: Option<HostPort>,
    /// What health checks say; `None` where there are none.
    pub is_well: Option<bool>,
    pub connections_max: Option<usize>,
    pub open: u64,
    pub connects: u64,
    pub failures: u64,
    pub ejections: u64,
    /// Shards that leave it out now.
    pub ejected_by: usize,
}

/// A name of upstreams.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NameState {
    pub name: HostPort,
    /// Where it leads.
    pub addresses: Vec<SocketAddr>,
    /// Look-ups that failed since the first one, which did not.
    pub failures: u64,
}

/// An upstream that is to be checked.
#[derive(Clone, Debug)]
pub struct Checked {
    pub listener: Arc<str>,
    pub route: Arc<str>,
    pub address: UpstreamAddress,
    pub greeting: Greeting,
    pub check: HealthCheck,
    pub health: Arc<Health>,
}

impl Checked {
    /// Whether this is the same upstream, checked in the same way.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.health, &other.health)
            && self.check == other.check
            && self.greeting == other.greeting
    }
}

/// All upstreams of a terminator. Clones are the same.
#[derive(Clone, Debug)]
pub struct Upstreams(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    shards: usize,
    /// Counts changes of `routes`.
    revision: u64,
    routes: Vec<Route>,
    names: BTreeMap<HostPort, Leads>,
}

/// Where a name leads.
#[derive(Clone, Debug, Default)]
struct Leads {
    addresses: Vec<SocketAddr>,
    failures: u64,
}

/// A route that is served.
#[derive(Debug)]
struct Route {
    listener: Arc<str>,
    /// Of the listener.
    addresses: Vec<SocketAddr>,
    name: Arc<str>,
    /// Indices in the snapshot.
    at: (usize, usize),
    greeting: Greeting,
    treatment: UpstreamTreatment,
    /// Indices of the shards that serve it.
    shards: Vec<usize>,
    settings: Vec<UpstreamSetting>,
    upstreams: Vec<Upstream>,
    /// Those that were replaced and that a shard still has connections to, the latest first: names
    /// lead back to them.
    left: Vec<Upstream>,
}

#[derive(Clone, Debug)]
struct Upstream {
    address: UpstreamAddress,
    name: Option<HostPort>,
    health: Arc<Health>,
    /// With the indices of the route's shards.
    figures: Vec<Arc<Figures>>,
}

impl Upstream {
    /// Whether a shard still counts connections to it: it drops the figures with the last one.
    fn is_held(&self) -> bool {
        self.figures.iter().any(|it| Arc::strong_count(it) > 1)
    }
}

impl Upstreams {
    /// None yet, for so many shards.
    pub fn new(shards: usize) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            shards,
            revision: 0,
            routes: Vec::new(),
            names: BTreeMap::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What is behind it is changed in one go.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the upstreams of `snapshot` can be shared out to shards; `serving` names those of a
    /// listener.
    ///
    /// # Errors
    ///
    /// What is wrong, with its remedy.
    pub fn check(snapshot: &Snapshot, serving: impl Fn(&str) -> Vec<usize>) -> Result<(), String> {
        let names = snapshot.names.known();
        for listener in &snapshot.listeners {
            let shards = serving(&listener.name).len();
            for route in &listener.routes {
                let unknown = |setting: &&UpstreamSetting| match setting {
                    UpstreamSetting::Address(_) => false,
                    UpstreamSetting::Name(name) => !names.contains_key(name),
                };
                if let Some(name) = route.upstreams.iter().find(unknown) {
                    return Err(format!(
                        "the upstream \"{name}\" was not looked up: Snapshot::look_up_names does"
                    ));
                }
                if let Some(max) = route.treatment.connections_max
                    && max < shards
                {
                    return Err(format!(
                        "upstream_max_connections = {max} of the route `{}` is less than the \
                         {shards} shards that serve it, and those could not connect at all: raise \
                         it to {shards}, or lower shards.count",
                        route.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// Has the upstreams of `snapshot` from now on, and what every shard is to be given of them.
    /// Those that were there before go on as they were.
    pub fn serve(&self, snapshot: &Snapshot, serving: impl Fn(&str) -> Vec<usize>) -> Vec<Rosters> {
        let mut inner = self.lock();
        let names = inner.leads(snapshot);
        let mut before = std::mem::take(&mut inner.routes);
        let mut routes = Vec::new();
        for (at, listener) in snapshot.listeners.iter().enumerate() {
            let known = known_as(listener, snapshot, &before);
            for (route_at, target) in listener.routes.iter().enumerate() {
                let mut route = Route {
                    listener: Arc::clone(&listener.name),
                    addresses: listener.addresses.clone(),
                    name: Arc::clone(&target.name),
                    at: (at, route_at),
                    greeting: listener.greeting,
                    treatment: target.treatment.clone(),
                    shards: serving(&listener.name),
                    settings: target.upstreams.clone(),
                    upstreams: Vec::new(),
                    left: Vec::new(),
                };
                let mut known = before
                    .iter_mut()
                    .filter(|it| Some(&it.listener) == known.as_ref());
                let now = (&*route.listener, &*route.name);
                let known = known.find(|it| is_same_route((&it.listener, &it.name), now));
                // Taken, so that no other route has the same ones.
                if let Some(known) = known.filter(|known| known.shards == route.shards) {
                    route.upstreams = std::mem::take(&mut known.upstreams);
                    route.left = std::mem::take(&mut known.left);
                }
                route.renew(&names);
                routes.push(route);
            }
        }
        inner.routes = routes;
        inner.names = names;
        inner.revision += 1;
        (0..inner.shards)
            .map(|shard| inner.rosters(shard, snapshot))
            .collect()
    }

    /// Has a name lead to these addresses from now on; what each shard is to be given for it, or
    /// `None` where that is nothing new.
    pub fn set_addresses(
        &self,
        name: &HostPort,
        addresses: Vec<SocketAddr>,
    ) -> Option<Vec<Vec<Renewal>>> {
        let mut inner = self.lock();
        let leads = inner.names.get_mut(name)?;
        if leads.addresses == addresses {
            return None;
        }
        leads.addresses = addresses;
        inner.revision += 1;
        let mut renewals = vec![Vec::new(); inner.shards];
        let Inner { routes, names, .. } = &mut *inner;
        let setting = UpstreamSetting::Name(name.clone());
        for route in routes
            .iter_mut()
            .filter(|it| it.settings.contains(&setting))
        {
            route.renew(names);
            let (listener, at) = route.at;
            for &shard in &route.shards {
                renewals[shard].push(Renewal {
                    listener,
                    route: at,
                    endpoints: route.endpoints(shard),
                });
            }
        }
        Some(renewals)
    }

    /// A look-up of a name failed.
    pub fn count_lookup_failure(&self, name: &HostPort) {
        if let Some(leads) = self.lock().names.get_mut(name) {
            leads.failures += 1;
        }
    }

    /// Where every name leads.
    pub fn name_states(&self) -> Vec<NameState> {
        let inner = self.lock();
        let names = inner.names.iter().map(|(name, leads)| NameState {
            name: name.clone(),
            addresses: leads.addresses.clone(),
            failures: leads.failures,
        });
        names.collect()
    }

    /// Counts changes of what there is to look after.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Every name, and how often it is to be looked up.
    pub fn names(&self) -> Vec<(HostPort, Duration)> {
        let inner = self.lock();
        let names = inner.names.keys().map(|name| {
            let setting = UpstreamSetting::Name(name.clone());
            let routes = inner.routes.iter();
            let routes = routes.filter(|route| route.settings.contains(&setting));
            let every = routes.map(|route| route.treatment.resolve_every).min();
            (name.clone(), every.unwrap_or(Duration::MAX))
        });
        names.collect()
    }

    /// Every upstream that is to be checked.
    pub fn checked(&self) -> Vec<Checked> {
        let inner = self.lock();
        inner.routes.iter().flat_map(Route::checked).collect()
    }

    /// How every upstream is.
    pub fn states(&self) -> Vec<State> {
        let inner = self.lock();
        let routes = inner.routes.iter();
        routes.flat_map(Route::states).collect()
    }
}

impl Inner {
    /// Where the names of `snapshot` lead, as far as that is known: what was looked up last counts.
    fn leads(&self, snapshot: &Snapshot) -> BTreeMap<HostPort, Leads> {
        let loaded = snapshot.names.known().into_iter();
        let names = loaded.map(|(name, addresses)| {
            let known = self.names.get(&name).cloned();
            let leads = known.unwrap_or(Leads {
                addresses,
                failures: 0,
            });
            (name, leads)
        });
        names.collect()
    }

    /// What one shard is given.
    fn rosters(&self, shard: usize, snapshot: &Snapshot) -> Rosters {
        let listeners = snapshot.listeners.iter();
        let mut rosters: Rosters = listeners
            .map(|listener| vec![Vec::new(); listener.routes.len()])
            .collect();
        for route in &self.routes {
            let (listener, at) = route.at;
            rosters[listener][at] = route.endpoints(shard);
        }
        rosters
    }
}

impl Route {
    /// Has the upstreams that its settings lead to from now on. Those that it had, or that shards
    /// still have connections to, go on as they were.
    fn renew(&mut self, names: &BTreeMap<HostPort, Leads>) {
        let mut known = std::mem::take(&mut self.upstreams);
        known.append(&mut self.left);
        self.upstreams = self.made_of(names, &known);
        known.retain(|it| {
            let stays = self.upstreams.iter().any(|now| now.address == it.address);
            !stays && it.is_held()
        });
        known.truncate(UPSTREAMS_LEFT_MAX);
        self.left = known;
    }

    /// Its upstreams, of which `known` has some already.
    fn made_of(&self, names: &BTreeMap<HostPort, Leads>, known: &[Upstream]) -> Vec<Upstream> {
        let mut upstreams: Vec<Upstream> = Vec::new();
        for setting in &self.settings {
            let (name, addresses) = match setting {
                UpstreamSetting::Address(address) => (None, vec![address.clone()]),
                UpstreamSetting::Name(name) => {
                    let leads = names.get(name).into_iter().flat_map(|it| &it.addresses);
                    (
                        Some(name),
                        leads.copied().map(UpstreamAddress::Tcp).collect(),
                    )
                }
            };
            for address in addresses {
                // Two names may lead to the same.
                if !upstreams.iter().any(|upstream| upstream.address == address) {
                    upstreams.push(self.upstream(address, name, known));
                }
            }
        }
        upstreams
    }

    fn upstream(
        &self,
        address: UpstreamAddress,
        name: Option<&HostPort>,
        known: &[Upstream],
    ) -> Upstream {
        let known = known.iter().find(|upstream| upstream.address == address);
        let upstream = match known {
            Some(known) => Upstream {
                name: name.cloned(),
                ..known.clone()
            },
            None => Upstream {
                address,
                name: name.cloned(),
                health: Arc::default(),
                figures: self.shards.iter().map(|_| Arc::default()).collect(),
            },
        };
        if self.treatment.health_check.is_none() {
            // Nobody would ever find it well again.
            upstream.health.set(true);
        }
        upstream
    }

    fn checked(&self) -> impl Iterator<Item = Checked> {
        let check = self.treatment.health_check.iter();
        check.flat_map(|check| {
            self.upstreams.iter().map(|upstream| Checked {
                listener: Arc::clone(&self.listener),
                route: Arc::clone(&self.name),
                address: upstream.address.clone(),
                greeting: self.greeting,
                check: check.clone(),
                health: Arc::clone(&upstream.health),
            })
        })
    }

    fn endpoints(&self, shard: usize) -> Vec<Endpoint> {
        let Some(at) = self.shards.iter().position(|&it| it == shard) else {
            return Vec::new();
        };
        let endpoints = self.upstreams.iter().enumerate();
        let endpoints = endpoints.map(|(number, upstream)| Endpoint {
            address: upstream.address.clone(),
            health: Arc::clone(&upstream.health),
            figures: Arc::clone(&upstream.figures[at]),
            connections_max: self
                .treatment
                .connections_max
                .map_or(usize::MAX, |max| part(max, self.shards.len(), at + number)),
        });
        endpoints.collect()
    }

    fn states(&self) -> impl Iterator<Item = State> {
        self.upstreams.iter().map(|upstream| {
            let sum = |of: fn(&Figures) -> u64| upstream.figures.iter().map(|it| of(it)).sum();
            let ejected = upstream.figures.iter().filter(|it| it.is_ejected());
            State {
                listener: Arc::clone(&self.listener),
                route: Arc::clone(&self.name),
                address: upstream.address.clone(),
                name: upstream.name.clone(),
                is_well: self
                    .treatment
                    .health_check
                    .as_ref()
                    .map(|_| upstream.health.is_well()),
                connections_max: self.treatment.connections_max,
                open: sum(Figures::open),
                connects: sum(Figures::connects),
                failures: sum(Figures::failures),
                ejections: sum(Figures::ejections),
                ejected_by: ejected.count(),
            }
        })
    }
}

/// The name by which `before` has `listener`: its own, or that of one at an address of it which no
/// listener has any more.
fn known_as(listener: &Listener, snapshot: &Snapshot, before: &[Route]) -> Option<Arc<str>> {
    let is_named = |name: &str| snapshot.listeners.iter().any(|it| &*it.name == name);
    let same = |it: &&Route| it.listener == listener.name;
    let renamed = |it: &&Route| {
        let shares = it
            .addresses
            .iter()
            .any(|at| listener.addresses.contains(at));
        shares && !is_named(&it.listener)
    };
    let known = before.iter().find(same);
    let known = known.or_else(|| before.iter().find(renamed));
    known.map(|it| Arc::clone(&it.listener))
}

/// Whether routes, each by its listener's name and its own, are the same one of a listener that may
/// have been renamed: the listener's own route is named as the listener is.
fn is_same_route(before: (&str, &str), now: (&str, &str)) -> bool {
    route_key(before.0, before.1) == route_key(now.0, now.1)
}

/// What the same routes of a listener have in common, whatever it is named; `None` is its own route.
pub fn route_key<'a>(listener: &str, route: &'a str) -> Option<&'a str> {
    (route != listener).then_some(route)
}

/// What the shard `at` gets of `max` connections; the remainder goes to the first ones. Which shards
/// those are is another with every upstream.
fn part(max: usize, shards: usize, at: usize) -> usize {
    max / shards + usize::from(at % shards < max % shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_limit_make_the_limit() {
        for shards in 1..9 {
            for max in shards..40 {
                for number in 0..5 {
                    let parts = (0..shards).map(|at| part(max, shards, at + number));
                    let parts: Vec<_> = parts.collect();
                    assert_eq!(parts.iter().sum::<usize>(), max);
                    assert!(parts.iter().all(|&part| part > 0), "{parts:?}");
                }
            }
        }
    }
}
