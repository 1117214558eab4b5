//! Which upstream a connection goes to.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crate::ring::Target;
use crate::snapshot::{Balance, RouteTarget, UpstreamAddress};

/// Upstreams tried by one connection, as a set of indices; those past the 64th are never
/// remembered as tried.
pub(super) type Tried = u64;

/// One upstream as this shard sees it.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) target: Arc<Target>,
    /// Connections of this shard to it.
    open: Cell<usize>,
}

/// The upstreams of a route.
#[derive(Debug)]
pub(super) struct Group {
    balance: Balance,
    upstreams: Vec<Rc<Upstream>>,
    /// Where the search starts, so that equals take turns.
    next: Cell<usize>,
}

impl Upstream {
    /// One connection to it is over.
    pub(super) fn release(&self) {
        self.open.set(self.open.get().saturating_sub(1));
    }
}

impl Group {
    /// The upstreams of `route`. Those that `before` had too go on with their counts.
    pub(super) fn new(route: &RouteTarget, before: Option<&Self>) -> Self {
        let upstreams = route.upstreams.iter().map(|address| {
            let target = match address {
                UpstreamAddress::Tcp(address) => Target::Tcp(*address),
                UpstreamAddress::Unix(path) => Target::Unix(path.clone()),
            };
            let known = before.and_then(|before| {
                let mut known = before.upstreams.iter();
                known.find(|upstream| *upstream.target == target)
            });
            known.cloned().unwrap_or_else(|| {
                Rc::new(Upstream {
                    target: Arc::new(target),
                    open: Cell::new(0),
                })
            })
        });
        Self {
            balance: route.balance,
            upstreams: upstreams.collect(),
            next: Cell::new(0),
        }
    }

    /// Chooses an upstream that was not tried, or `None` when all were. It counts one connection
    /// more until it is released.
    pub(super) fn choose(&self, tried: &mut Tried) -> Option<Rc<Upstream>> {
        let len = self.upstreams.len();
        let untried = (0..len)
            .map(|offset| (self.next.get() + offset) % len)
            .filter(|&index| index >= 64 || *tried & (1 << index) == 0);
        let open = |index: usize| self.upstreams[index].open.get();
        let chosen = match self.balance {
            Balance::RoundRobin => untried.take(1).next(),
            Balance::LeastConnections => untried.min_by_key(|&index| open(index)),
        }?;
        self.next.set((chosen + 1) % len);
        *tried |= u32::try_from(chosen)
            .ok()
            .and_then(|chosen| 1_u64.checked_shl(chosen))
            .unwrap_or(0);
        let upstream = &self.upstreams[chosen];
        upstream.open.set(upstream.open.get() + 1);
        Some(Rc::clone(upstream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(balance: Balance, ports: &[u16]) -> RouteTarget {
        let upstreams = ports
            .iter()
            .map(|port| UpstreamAddress::Tcp(([127, 0, 0, 1], *port).into()));
        RouteTarget {
            name: Arc::from("r"),
            upstreams: upstreams.collect(),
            balance,
            identity_rate: None,
        }
    }

    fn group(balance: Balance, ports: &[u16]) -> Group {
        Group::new(&route(balance, ports), None)
    }

    /// The port of the upstream chosen.
    fn choose(group: &Group, mut tried: Tried) -> Option<u16> {
        let upstream = group.choose(&mut tried)?;
        match &*upstream.target {
            Target::Tcp(address) => Some(address.port()),
            Target::Unix(_) => None,
        }
    }

    #[test]
    fn round_robin_takes_turns() {
        let group = group(Balance::RoundRobin, &[10, 11, 12]);
        let chosen: Vec<_> = (0..6).filter_map(|_| choose(&group, 0)).collect();
        assert_eq!(chosen, [10, 11, 12, 10, 11, 12]);
    }

    #[test]
    fn least_connections_prefers_the_idle_and_lets_equals_take_turns() {
        let group = group(Balance::LeastConnections, &[10, 11, 12]);
        let chosen: Vec<_> = (0..3).filter_map(|_| choose(&group, 0)).collect();
        assert_eq!(chosen, [10, 11, 12]);
        group.upstreams[1].release();
        assert_eq!(choose(&group, 0), Some(11));
    }

    #[test]
    fn what_was_tried_is_left_out_until_nothing_is_left() {
        let group = group(Balance::RoundRobin, &[10, 11]);
        let mut tried = 0;
        assert!(group.choose(&mut tried).is_some());
        assert_eq!(tried, 0b01);
        assert!(group.choose(&mut tried).is_some());
        assert!(group.choose(&mut tried).is_none());
    }

    #[test]
    fn an_upstream_that_stays_goes_on_with_its_count() {
        let before = group(Balance::LeastConnections, &[10, 11]);
        assert_eq!(choose(&before, 0), Some(10));
        let after = Group::new(&route(Balance::LeastConnections, &[12, 10]), Some(&before));
        assert_eq!(choose(&after, 0), Some(12), "10 has a connection");
        before.upstreams[0].release();
        assert_eq!(after.upstreams[1].open.get(), 0);
    }
}
