//! A listener as one shard serves it.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::counters::ListenerCounters;
use super::identities::scope;
use super::rate::{Bucket, Rate};
use super::upstreams::Group;
use crate::connection::{Greeting, Settings};
use crate::snapshot::{self, Endpoint, Listener, route_key};

/// What the connections of a listener share. After another snapshot was installed, a connection
/// keeps the front that it came by until its client was judged again, see `review`.
#[derive(Debug)]
pub(super) struct Front {
    /// That of the installation it came with; 0 for what was there from the start.
    pub(super) generation: u64,
    pub(super) listener: Arc<Listener>,
    pub(super) settings: Arc<Settings>,
    /// With the indices of the listener's routes.
    pub(super) groups: Vec<Group>,
    /// Of new connections.
    rate: Option<Rate>,
    bucket: Cell<Bucket>,
    /// Of each client, with the indices of the listener's routes; each with what tells its clients
    /// from those of other routes.
    identity_rates: Vec<Option<(u64, Rate)>>,
    pub(super) counters: Arc<ListenerCounters>,
}

impl Front {
    /// `before` is what served the listener until now, be it by another name; `endpoints` are the upstreams of
    /// each route.
    pub(super) fn new(
        listener: &Arc<Listener>,
        counters: Arc<ListenerCounters>,
        generation: u64,
        before: Option<&Self>,
        endpoints: Vec<Vec<Endpoint>>,
        now: Instant,
    ) -> Rc<Self> {
        let mut endpoints = endpoints.into_iter();
        let known = before.map_or_else(HashMap::new, Self::groups_by_route);
        let groups = listener.routes.iter().map(|route| {
            let endpoints = endpoints.next().unwrap_or_default();
            let before = known.get(&route_key(&listener.name, &route.name)).copied();
            Group::new(route, endpoints, before, now)
        });
        Rc::new(Self {
            generation,
            groups: groups.collect(),
            counters,
            settings: Arc::new(settings(listener)),
            identity_rates: identity_rates(listener),
            rate: listener.rate.map(|rate| Rate::of(rate, listener.shards)),
            // What is used up stays used up under another rate.
            bucket: Cell::new(before.map_or_else(|| Bucket::full(now), |it| it.bucket.get())),
            listener: Arc::clone(listener),
        })
    }

    /// The upstreams of its routes, each under what the same route has after another name too.
    fn groups_by_route(&self) -> HashMap<Option<&str>, &Group> {
        let routes = self.listener.routes.iter().zip(&self.groups);
        let name = &*self.listener.name;
        let groups = routes.map(|(route, group)| (route_key(name, &route.name), group));
        groups.collect()
    }

    /// Whether any route limits how fast its clients connect.
    pub(super) fn limits_identities(&self) -> bool {
        self.identity_rates.iter().any(Option::is_some)
    }

    /// How fast each client of a route may connect, and what is counted apart from other routes.
    pub(super) fn identity_rate(&self, route: usize) -> Option<(u64, &Rate)> {
        let (scope, rate) = self.identity_rates.get(route)?.as_ref()?;
        Some((*scope, rate))
    }

    /// Whether one connection more is within the listener's rate.
    pub(super) fn may_take_another(&self, now: Instant) -> bool {
        self.at_rate(|bucket, rate| bucket.has_token(now, rate))
    }

    /// Counts one connection more at the listener's rate.
    pub(super) fn take_another(&self, now: Instant) {
        self.at_rate(|bucket, rate| bucket.take(now, rate));
    }

    fn at_rate(&self, of: impl FnOnce(&mut Bucket, &Rate) -> bool) -> bool {
        let Some(rate) = &self.rate else {
            return true;
        };
        let mut bucket = self.bucket.get();
        let outcome = of(&mut bucket, rate);
        self.bucket.set(bucket);
        outcome
    }
}

fn identity_rates(listener: &Listener) -> Vec<Option<(u64, Rate)>> {
    let rates = listener.routes.iter().map(|route| {
        let rate = Rate::of(route.identity_rate?, listener.shards);
        Some((scope(&listener.name, &route.name), rate))
    });
    rates.collect()
}

/// A listener's settings in the form that connections read.
fn settings(listener: &Listener) -> Settings {
    Settings {
        greeting: match listener.greeting {
            snapshot::Greeting::Off => Greeting::Off,
            snapshot::Greeting::ProxyV2 { client_certificate } => {
                Greeting::ProxyV2 { client_certificate }
            }
        },
        handshake_timeout: listener.timeouts.handshake,
        idle_timeout: listener.timeouts.idle,
        connect_timeout: listener.timeouts.connect,
        half_close_timeout: listener.timeouts.half_close,
    }
}
