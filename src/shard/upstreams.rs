//! Which upstream a connection goes to.

use std::sync::Arc;

use crate::ring::Target;
use crate::snapshot::{Balance, RouteTarget, Snapshot, UpstreamAddress};

/// Upstreams tried by one connection, as a set of indices; those past the 64th are never
/// remembered as tried.
pub(super) type Tried = u64;

/// The upstreams of every route of every listener, as this shard sees them.
pub(super) struct Upstreams {
    /// By listener, then by route.
    groups: Vec<Vec<Group>>,
}

/// An upstream that was chosen; given back when its connection is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    listener: usize,
    route: usize,
    pub(super) upstream: usize,
}

struct Group {
    balance: Balance,
    targets: Vec<Arc<Target>>,
    /// Connections of this shard to each.
    open: Vec<usize>,
    /// Where the search starts, so that equals take turns.
    next: usize,
}

impl Upstreams {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let groups = snapshot.listeners.iter();
        Self {
            groups: groups
                .map(|listener| listener.routes.iter().map(Group::new).collect())
                .collect(),
        }
    }

    /// Chooses an upstream that was not tried, or `None` when all were.
    pub(super) fn choose(
        &mut self,
        listener: usize,
        route: usize,
        tried: &mut Tried,
    ) -> Option<(Choice, Arc<Target>)> {
        let group = self.groups.get_mut(listener)?.get_mut(route)?;
        let upstream = group.choose(*tried)?;
        *tried |= 1_u64
            .checked_shl(u32::try_from(upstream).ok()?)
            .unwrap_or(0);
        let target = Arc::clone(&group.targets[upstream]);
        Some((
            Choice {
                listener,
                route,
                upstream,
            },
            target,
        ))
    }

    pub(super) fn release(&mut self, choice: Choice) {
        let group = self
            .groups
            .get_mut(choice.listener)
            .and_then(|g| g.get_mut(choice.route));
        if let Some(open) = group.and_then(|group| group.open.get_mut(choice.upstream)) {
            *open = open.saturating_sub(1);
        }
    }

    /// The address of a choice, for the log.
    pub(super) fn target(&self, choice: Choice) -> Option<&Arc<Target>> {
        self.groups
            .get(choice.listener)?
            .get(choice.route)?
            .targets
            .get(choice.upstream)
    }
}

impl Group {
    fn new(route: &RouteTarget) -> Self {
        let targets = route.upstreams.iter().map(|address| match address {
            UpstreamAddress::Tcp(address) => Arc::new(Target::Tcp(*address)),
            UpstreamAddress::Unix(path) => Arc::new(Target::Unix(path.clone())),
        });
        let targets: Vec<_> = targets.collect();
        Self {
            balance: route.balance,
            open: vec![0; targets.len()],
            targets,
            next: 0,
        }
    }

    fn choose(&mut self, tried: Tried) -> Option<usize> {
        let len = self.targets.len();
        let untried = (0..len)
            .map(|offset| (self.next + offset) % len)
            .filter(|&index| index >= 64 || tried & (1 << index) == 0);
        let chosen = match self.balance {
            Balance::RoundRobin => untried.take(1).next(),
            Balance::LeastConnections => untried.min_by_key(|&index| self.open[index]),
        }?;
        self.next = (chosen + 1) % len;
        self.open[chosen] += 1;
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(balance: Balance, len: u16) -> Group {
        let upstreams = (0..len).map(|n| UpstreamAddress::Tcp(([127, 0, 0, 1], 1000 + n).into()));
        Group::new(&RouteTarget {
            name: Arc::from("r"),
            upstreams: upstreams.collect(),
            balance,
        })
    }

    #[test]
    fn round_robin_takes_turns() {
        let mut group = group(Balance::RoundRobin, 3);
        let chosen: Vec<_> = (0..6).filter_map(|_| group.choose(0)).collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn least_connections_prefers_the_idle_and_lets_equals_take_turns() {
        let mut group = group(Balance::LeastConnections, 3);
        let chosen: Vec<_> = (0..3).filter_map(|_| group.choose(0)).collect();
        assert_eq!(chosen, [0, 1, 2]);
        group.open[1] -= 1;
        assert_eq!(group.choose(0), Some(1));
    }

    #[test]
    fn what_was_tried_is_left_out_until_nothing_is_left() {
        let mut group = group(Balance::RoundRobin, 2);
        assert_eq!(group.choose(0b01), Some(1));
        assert_eq!(group.choose(0b11), None);
    }
}
