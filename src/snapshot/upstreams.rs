//! The upstreams of a running terminator: what the control plane says of each, and what shards count.
//!
//! [`Upstreams`] is the control plane's and is locked there alone. A shard is handed [`Endpoint`]s:
//! it reads their [`Health`] and writes its own [`Figures`], both without a lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Greeting, RouteTarget, Snapshot, UpstreamAddress, UpstreamTreatment};

/// Whether an upstream is well, by the control plane's checks. Only that writes. Aligned so that no
/// other data shares a cache line with it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Health {
    /// Even: it is well.
    changes: AtomicU32,
}

impl Health {
    pub fn is_well(&self) -> bool {
        self.changes() % 2 == 0
    }

    /// How often that has changed; even while it is well.
    pub fn changes(&self) -> u32 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Says how it is; whether that is new.
    pub fn set(&self, is_well: bool) -> bool {
        let is_new = self.is_well() != is_well;
        if is_new {
            let changes = self.changes().wrapping_add(1);
            self.changes.store(changes, Ordering::Relaxed);
        }
        is_new
    }
}

/// What one shard counts of one upstream. Only the shard writes. Aligned so that no other thread's
/// data shares a cache line with them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Figures {
    open: AtomicU64,
    connects: AtomicU64,
    failures: AtomicU64,
    ejections: AtomicU64,
    ejected: AtomicU64,
}

impl Figures {
    /// Connections to it, those that are being connected among them.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Connects that were started.
    pub fn connects(&self) -> u64 {
        self.connects.load(Ordering::Relaxed)
    }

    /// Connects that failed by its doing, or were not answered in time.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Times that it was left out for connects that failed.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// Whether it is left out now.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed) != 0
    }

    pub fn set_open(&self, open: usize) {
        self.open.store(open as u64, Ordering::Relaxed);
    }

    pub fn count_connect(&self) {
        add_one(&self.connects);
    }

    pub fn count_failure(&self) {
        add_one(&self.failures);
    }

    pub fn count_ejection(&self) {
        add_one(&self.ejections);
    }

    pub fn set_ejected(&self, ejected: bool) {
        self.ejected.store(ejected.into(), Ordering::Relaxed);
    }
}

/// Adds to a counter that only this thread writes: no locked instruction is needed.
fn add_one(counter: &AtomicU64) {
    let count = counter.load(Ordering::Relaxed);
    counter.store(count.wrapping_add(1), Ordering::Relaxed);
}

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

/// All upstreams of a terminator. Clones are the same.
#[derive(Clone, Debug)]
pub struct Upstreams(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    shards: usize,
    /// Counts changes of `routes`.
    revision: u64,
    routes: Vec<Route>,
}

/// A route that is served.
#[derive(Debug)]
struct Route {
    listener: Arc<str>,
    name: Arc<str>,
    /// Indices in the snapshot.
    at: (usize, usize),
    greeting: Greeting,
    treatment: UpstreamTreatment,
    /// Indices of the shards that serve it.
    shards: Vec<usize>,
    upstreams: Vec<Upstream>,
}

#[derive(Clone, Debug)]
struct Upstream {
    address: UpstreamAddress,
    health: Arc<Health>,
    /// With the indices of the route's shards.
    figures: Vec<Arc<Figures>>,
}

impl Upstreams {
    /// None yet, for so many shards.
    pub fn new(shards: usize) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            shards,
            revision: 0,
            routes: Vec::new(),
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
        for listener in &snapshot.listeners {
            let shards = serving(&listener.name).len();
            for route in &listener.routes {
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
        let mut routes = Vec::new();
        for (at, listener) in snapshot.listeners.iter().enumerate() {
            for (route_at, target) in listener.routes.iter().enumerate() {
                let mut route = Route {
                    listener: Arc::clone(&listener.name),
                    name: Arc::clone(&target.name),
                    at: (at, route_at),
                    greeting: listener.greeting,
                    treatment: target.treatment.clone(),
                    shards: serving(&listener.name),
                    upstreams: Vec::new(),
                };
                let mut known = inner.routes.iter();
                let known = known.find(|it| it.listener == route.listener && it.name == route.name);
                route.upstreams = route.made_of(target, known);
                routes.push(route);
            }
        }
        inner.routes = routes;
        inner.revision += 1;
        (0..inner.shards)
            .map(|shard| inner.rosters(shard, snapshot))
            .collect()
    }

    /// How every upstream is.
    pub fn states(&self) -> Vec<State> {
        let inner = self.lock();
        let routes = inner.routes.iter();
        routes.flat_map(Route::states).collect()
    }
}

impl Inner {
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
    /// Its upstreams, of which `known` has some already.
    fn made_of(&self, target: &RouteTarget, known: Option<&Self>) -> Vec<Upstream> {
        let upstreams = target.upstreams.iter().map(|address| {
            let known = known.filter(|known| known.shards == self.shards);
            let known = known.and_then(|known| {
                let mut upstreams = known.upstreams.iter();
                upstreams.find(|upstream| upstream.address == *address)
            });
            let upstream = known.cloned().unwrap_or_else(|| Upstream {
                address: address.clone(),
                health: Arc::default(),
                figures: self.shards.iter().map(|_| Arc::default()).collect(),
            });
            if self.treatment.health_check.is_none() {
                // Nobody would ever find it well again.
                upstream.health.set(true);
            }
            upstream
        });
        upstreams.collect()
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

    #[test]
    fn health_counts_its_changes() {
        let health = Health::default();
        assert!(health.is_well() && !health.set(true));
        assert!(health.set(false) && !health.is_well() && !health.set(false));
        assert!(health.set(true));
        assert_eq!(health.changes(), 2);
    }
}
