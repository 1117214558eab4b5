//! Which upstream a connection goes to.

mod standing;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits::UPSTREAMS_LEFT_MAX;
use crate::ring::Target;
use crate::snapshot::{Balance, Ejection, Endpoint, Figures, Health, RouteTarget, UpstreamAddress};
use standing::{Standing, WHOLE};

/// Upstreams tried by one connection, as a set of indices; those past the 64th are never
/// remembered as tried.
pub(super) type Tried = u64;

/// One upstream as this shard sees it.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) target: Arc<Target>,
    health: Arc<Health>,
    figures: Arc<Figures>,
    /// Connections of this shard to it.
    open: Cell<usize>,
    connections_max: Cell<usize>,
    /// How often its health had changed when it was last looked at.
    changes_seen: Cell<u32>,
    standing: Cell<Standing>,
    /// What it has of its next turn, of [`WHOLE`], while its share is not whole.
    credit: Cell<u32>,
}

/// The upstreams of a route.
#[derive(Debug)]
pub(super) struct Group {
    balance: Balance,
    ejection: Option<Ejection>,
    slow_start: Option<Duration>,
    upstreams: RefCell<Vec<Rc<Upstream>>>,
    /// Those that were replaced, the latest first, while connections have them.
    left: RefCell<Vec<Weak<Upstream>>>,
    /// Where the search starts, so that equals take turns.
    next: Cell<usize>,
}

/// What came of a choice.
#[derive(Debug)]
pub(super) enum Choice {
    /// Every upstream that could be tried has as many connections as it may have.
    Full,
    /// All were tried.
    Nothing,
    Upstream {
        upstream: Rc<Upstream>,
        /// It was left out, and this connection finds out whether it answers again.
        is_probe: bool,
    },
}

impl Upstream {
    fn new(endpoint: Endpoint, target: Target, standing: Standing) -> Self {
        Self {
            target: Arc::new(target),
            changes_seen: Cell::new(endpoint.health.changes()),
            health: endpoint.health,
            figures: endpoint.figures,
            open: Cell::new(0),
            connections_max: Cell::new(endpoint.connections_max),
            standing: Cell::new(standing),
            credit: Cell::new(0),
        }
    }

    /// One connection to it is over.
    pub(super) fn release(&self) {
        self.open.set(self.open.get().saturating_sub(1));
        self.figures.set_open(self.open.get());
    }

    /// A connect that it was chosen for was given up before its end, by no doing of its own.
    pub(super) fn abandoned(&self, is_probe: bool) {
        if is_probe {
            self.stand(Standing::abandoned);
        }
    }

    /// It took a connection.
    pub(super) fn answered(&self, now: Instant) {
        self.stand(|standing| standing.answered(now));
    }

    /// It is among the upstreams again, after it was not. What was left out stays so.
    fn returned(&self, newcomer: Standing) {
        if !self.standing.get().is_ejected() {
            self.standing.set(newcomer);
        }
    }

    fn stand<R>(&self, change: impl FnOnce(&mut Standing) -> R) -> R {
        let mut standing = self.standing.get();
        let was_ejected = standing.is_ejected();
        let outcome = change(&mut standing);
        self.standing.set(standing);
        if standing.is_ejected() != was_ejected {
            self.figures.set_ejected(standing.is_ejected());
        }
        outcome
    }

    /// Whether health checks and connects say that it will answer.
    fn is_good(&self, now: Instant) -> bool {
        let changes = self.health.changes();
        if changes != self.changes_seen.get() {
            self.changes_seen.set(changes);
            if self.health.is_well() {
                self.stand(|standing| standing.recovered(now));
            }
        }
        self.health.is_well() && self.standing.get().is_good(now)
    }

    fn has_room(&self) -> bool {
        self.open.get() < self.connections_max.get()
    }

    /// Whether it takes this turn, having this share.
    fn takes_turn(&self, share: u32) -> bool {
        let credit = self.credit.get() + share;
        self.credit.set(credit % WHOLE);
        credit >= WHOLE
    }

    /// Connections to it, had it a whole share, with one more.
    fn load(&self, share: u32) -> usize {
        (self.open.get() + 1) * WHOLE as usize / share as usize
    }

    /// Counts one connection more; whether it finds out if the upstream answers again.
    fn take(&self, now: Instant) -> bool {
        self.open.set(self.open.get() + 1);
        self.figures.set_open(self.open.get());
        self.figures.count_connect();
        self.stand(|standing| standing.chosen(now))
    }
}

impl Group {
    /// The upstreams of `route`. Those that `before` had too go on as they were.
    pub(super) fn new(
        route: &RouteTarget,
        endpoints: Vec<Endpoint>,
        before: Option<&Self>,
        now: Instant,
    ) -> Self {
        let group = Self {
            balance: route.balance,
            ejection: route.treatment.ejection,
            slow_start: route.treatment.slow_start,
            upstreams: before.map_or_else(RefCell::default, |before| before.upstreams.clone()),
            left: before.map_or_else(RefCell::default, |before| before.left.clone()),
            next: Cell::new(0),
        };
        let standing = match before {
            Some(_) => Standing::newcomer(now),
            None => Standing::default(),
        };
        group.replace(endpoints, standing);
        group
    }

    /// Has these upstreams from now on. Those that it had go on as they were.
    pub(super) fn set(&self, endpoints: Vec<Endpoint>, now: Instant) {
        self.replace(endpoints, Standing::newcomer(now));
    }

    fn replace(&self, endpoints: Vec<Endpoint>, newcomer: Standing) {
        let before = self.upstreams.take();
        let mut left = self.left.take();
        let upstreams = endpoints.into_iter().map(|endpoint| {
            let target = match &endpoint.address {
                UpstreamAddress::Tcp(address) => Target::Tcp(*address),
                UpstreamAddress::Unix(path) => Target::Unix(path.clone()),
            };
            // Figures that are others are another upstream's at that address.
            let is =
                |it: &Upstream| *it.target == target && Arc::ptr_eq(&it.figures, &endpoint.figures);
            let stays = before.iter().find(|it| is(it)).map(Rc::clone);
            let returns = || left.iter().filter_map(Weak::upgrade).find(|it| is(it));
            let known = stays.or_else(|| {
                let known = returns()?;
                known.returned(newcomer);
                Some(known)
            });
            match known {
                Some(known) => {
                    known.connections_max.set(endpoint.connections_max);
                    known
                }
                None => Rc::new(Upstream::new(endpoint, target, newcomer)),
            }
        });
        let upstreams: Vec<_> = upstreams.collect();
        left.splice(..0, before.iter().map(Rc::downgrade));
        drop(before);
        // One that nobody has any more is gone by now.
        left.retain(|it| {
            let Some(it) = it.upgrade() else {
                return false;
            };
            !upstreams.iter().any(|now| Rc::ptr_eq(now, &it))
        });
        left.truncate(UPSTREAMS_LEFT_MAX);
        self.left.replace(left);
        self.upstreams.replace(upstreams);
    }

    /// Chooses an upstream that was not tried. It counts one connection more until it is released.
    pub(super) fn choose(&self, tried: &mut Tried, now: Instant) -> Choice {
        let upstreams = self.upstreams.borrow();
        let len = upstreams.len();
        let is_full = Cell::new(false);
        // First those that are good; where none of them is left, whoever was not tried.
        for takes_any in [false, true] {
            let fitting = (0..len)
                .map(|offset| (self.next.get() + offset) % len)
                .filter(|&index| index >= 64 || *tried & (1 << index) == 0)
                .filter(|&index| upstreams[index].is_good(now) || takes_any)
                .filter(|&index| {
                    let has_room = upstreams[index].has_room();
                    is_full.set(is_full.get() || !has_room);
                    has_room
                });
            let chosen = match self.balance {
                Balance::RoundRobin => self.next_in_turn(&upstreams, fitting, now),
                Balance::LeastConnections => fitting.min_by_key(|&index| {
                    let upstream = &upstreams[index];
                    upstream.load(self.share(upstream, now))
                }),
            };
            if let Some(chosen) = chosen {
                self.next.set((chosen + 1) % len);
                *tried |= u32::try_from(chosen)
                    .ok()
                    .and_then(|chosen| 1_u64.checked_shl(chosen))
                    .unwrap_or(0);
                return Choice::Upstream {
                    is_probe: upstreams[chosen].take(now),
                    upstream: Rc::clone(&upstreams[chosen]),
                };
            }
            if is_full.get() {
                return Choice::Full;
            }
        }
        Choice::Nothing
    }

    fn share(&self, upstream: &Upstream, now: Instant) -> u32 {
        match self.slow_start {
            None => WHOLE,
            slow_start => upstream.standing.get().share(now, slow_start),
        }
    }

    /// The first of `fitting`, where those with a small share are passed over most times.
    fn next_in_turn(
        &self,
        upstreams: &[Rc<Upstream>],
        fitting: impl Iterator<Item = usize>,
        now: Instant,
    ) -> Option<usize> {
        let mut first = None;
        for index in fitting {
            let share = self.share(&upstreams[index], now);
            if share == WHOLE || upstreams[index].takes_turn(share) {
                return Some(index);
            }
            first = first.or(Some(index));
        }
        first
    }

    /// A connect to `upstream` failed by its doing. The last one that is good is never left out.
    pub(super) fn failed(&self, upstream: &Rc<Upstream>, is_probe: bool, now: Instant) {
        upstream.figures.count_failure();
        let upstreams = self.upstreams.borrow();
        let mut others = upstreams.iter().filter(|it| !Rc::ptr_eq(it, upstream));
        let is_last = !others.any(|it| it.is_good(now) && !it.standing.get().is_ejected());
        if upstream.stand(|standing| standing.failed(now, is_probe, self.ejection, is_last)) {
            upstream.figures.count_ejection();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::snapshot::UpstreamTreatment;

    const SECOND: Duration = Duration::from_secs(1);

    fn route(balance: Balance, slow_start: Option<Duration>) -> RouteTarget {
        RouteTarget {
            name: Arc::from("r"),
            upstreams: Vec::new(),
            balance,
            treatment: UpstreamTreatment {
                slow_start,
                ..UpstreamTreatment::default()
            },
            identity_rate: None,
        }
    }

    fn endpoints(ports: &[u16]) -> Vec<Endpoint> {
        let endpoints = ports.iter().map(|port| Endpoint {
            address: UpstreamAddress::Tcp(([127, 0, 0, 1], *port).into()),
            health: Arc::default(),
            figures: Arc::default(),
            connections_max: usize::MAX,
        });
        endpoints.collect()
    }

    fn clock() -> Clock {
        Clock::manual(SECOND)
    }

    fn group(balance: Balance, ports: &[u16]) -> Group {
        Group::new(&route(balance, None), endpoints(ports), None, clock().now())
    }

    fn port(upstream: &Upstream) -> u16 {
        match &*upstream.target {
            Target::Tcp(address) => address.port(),
            Target::Unix(_) => 0,
        }
    }

    fn taken(group: &Group, tried: &mut Tried, now: Instant) -> Option<Rc<Upstream>> {
        match group.choose(tried, now) {
            Choice::Upstream { upstream, .. } => Some(upstream),
            Choice::Full | Choice::Nothing => None,
        }
    }

    /// The port of the upstream chosen.
    fn choose(group: &Group, mut tried: Tried) -> Option<u16> {
        taken(group, &mut tried, clock().now()).map(|upstream| port(&upstream))
    }

    /// The ports of so many upstreams chosen at `now`.
    fn chosen(group: &Group, count: usize, now: Instant) -> Vec<u16> {
        let chosen = (0..count).filter_map(|_| taken(group, &mut 0, now));
        chosen.map(|upstream| port(&upstream)).collect()
    }

    fn eject(group: &Group, at: usize, now: Instant) {
        let upstream = Rc::clone(&group.upstreams.borrow()[at]);
        for _ in 0..3 {
            group.failed(&upstream, false, now);
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
        group.upstreams.borrow()[1].release();
        assert_eq!(choose(&group, 0), Some(11));
    }

    #[test]
    fn what_was_tried_is_left_out_until_nothing_is_left() {
        let (group, now) = (group(Balance::RoundRobin, &[10, 11]), clock().now());
        let mut tried = 0;
        assert!(taken(&group, &mut tried, now).is_some());
        assert_eq!(tried, 0b01);
        assert!(taken(&group, &mut tried, now).is_some());
        assert!(matches!(group.choose(&mut tried, now), Choice::Nothing));
        group.set(Vec::new(), now);
        assert!(matches!(group.choose(&mut 0, now), Choice::Nothing));
    }

    #[test]
    fn an_upstream_that_stays_goes_on_as_it_was() {
        let now = clock().now();
        let stays = endpoints(&[10, 11]);
        let route = route(Balance::LeastConnections, None);
        let before = Group::new(&route, stays.clone(), None, now);
        assert_eq!(choose(&before, 0), Some(10));
        let mut more = endpoints(&[12]);
        more.push(Endpoint {
            connections_max: 7,
            ..stays[0].clone()
        });
        let after = Group::new(&route, more, Some(&before), now);
        assert_eq!(choose(&after, 0), Some(12), "10 has a connection");
        before.upstreams.borrow()[0].release();
        let known = Rc::clone(&after.upstreams.borrow()[1]);
        assert_eq!((known.open.get(), known.connections_max.get()), (0, 7));
        assert_eq!(
            (stays[0].figures.open(), stays[0].figures.connects()),
            (0, 1)
        );
    }

    #[test]
    fn an_upstream_that_returns_has_the_connections_that_it_had() {
        let now = clock().now();
        let mut rotating = endpoints(&[10, 11]);
        rotating.iter_mut().for_each(|it| it.connections_max = 1);
        let route = route(Balance::RoundRobin, None);
        let group = Group::new(&route, vec![rotating[0].clone()], None, now);
        let stays = taken(&group, &mut 0, now).expect("room");
        for _ in 0..3 {
            group.set(vec![rotating[1].clone()], now);
            assert_eq!(group.left.borrow().len(), 1);
            group.set(vec![rotating[0].clone()], now);
            assert!(matches!(group.choose(&mut 0, now), Choice::Full));
        }
        // Another snapshot comes while it is away.
        group.set(Vec::new(), now);
        let after = Group::new(&route, vec![rotating[0].clone()], Some(&group), now);
        assert!(matches!(after.choose(&mut 0, now), Choice::Full));
        assert_eq!(rotating[0].figures.open(), 1);
        stays.release();
        assert_eq!(chosen(&after, 2, now), [10]);
        after.upstreams.borrow()[0].release();
        // What nobody has is not kept.
        drop((group, stays));
        after.set(Vec::new(), now);
        assert!(after.left.borrow().is_empty());
        assert_eq!(Arc::strong_count(&rotating[0].figures), 1);
    }

    #[test]
    fn upstreams_that_are_unwell_are_left_out_but_not_all() {
        let now = clock().now();
        let endpoints = endpoints(&[10, 11]);
        let health: Vec<_> = endpoints.iter().map(|it| Arc::clone(&it.health)).collect();
        for balance in [Balance::RoundRobin, Balance::LeastConnections] {
            let group = Group::new(&route(balance, None), endpoints.clone(), None, now);
            health[0].set(false);
            assert_eq!(chosen(&group, 3, now), [11, 11, 11]);
            health[1].set(false);
            let mut all = chosen(&group, 8, now);
            all.sort_unstable();
            assert!(all.starts_with(&[10]) && all.ends_with(&[11]), "{all:?}");
            for health in &health {
                health.set(true);
            }
        }
    }

    #[test]
    fn where_the_good_ones_failed_the_others_are_tried() {
        let now = clock().now();
        let endpoints = endpoints(&[10, 11]);
        endpoints[0].health.set(false);
        let group = Group::new(&route(Balance::RoundRobin, None), endpoints, None, now);
        let mut tried = 0;
        let ports = [(); 2].map(|()| taken(&group, &mut tried, now).map(|it| port(&it)));
        assert_eq!(ports, [Some(11), Some(10)]);
    }

    #[test]
    fn an_upstream_is_left_out_after_failures_and_the_last_one_stays() {
        let (group, clock) = (group(Balance::RoundRobin, &[10, 11]), clock());
        eject(&group, 0, clock.now());
        assert_eq!(chosen(&group, 3, clock.now()), [11, 11, 11]);
        eject(&group, 1, clock.now());
        assert_eq!(chosen(&group, 2, clock.now()), [11, 11], "the last one");
        let figures = Arc::clone(&group.upstreams.borrow()[0].figures);
        assert_eq!((figures.failures(), figures.ejections()), (3, 1));
        assert!(figures.is_ejected());
        clock.advance(5 * SECOND);
        let probe = chosen(&group, 3, clock.now());
        assert_eq!(probe.iter().filter(|&&port| port == 10).count(), 1);
        group.upstreams.borrow()[0].answered(clock.now());
        assert!(!figures.is_ejected());
        assert!(chosen(&group, 2, clock.now()).contains(&10));
    }

    #[test]
    fn only_the_connection_that_finds_out_is_given_up_for_another_to() {
        let (group, clock) = (group(Balance::RoundRobin, &[10, 11]), clock());
        eject(&group, 0, clock.now());
        clock.advance(5 * SECOND);
        let out = Rc::clone(&group.upstreams.borrow()[0]);
        let chosen = group.choose(&mut 0b10, clock.now());
        assert!(matches!(chosen, Choice::Upstream { is_probe: true, .. }));
        let other = group.choose(&mut 0b10, clock.now());
        assert!(matches!(
            other,
            Choice::Upstream {
                is_probe: false,
                ..
            }
        ));
        out.abandoned(false);
        assert!(!out.is_good(clock.now()));
        out.abandoned(true);
        assert!(out.is_good(clock.now()));
    }

    #[test]
    fn a_health_check_brings_back_what_failed() {
        let (group, now) = (group(Balance::RoundRobin, &[10, 11]), clock().now());
        eject(&group, 0, now);
        let upstream = Rc::clone(&group.upstreams.borrow()[0]);
        upstream.health.set(false);
        upstream.health.set(true);
        assert!(upstream.is_good(now) && !upstream.figures.is_ejected());
    }

    #[test]
    fn the_full_are_passed_over_and_told_from_the_failed() {
        let now = clock().now();
        let mut endpoints = endpoints(&[10, 11]);
        endpoints.iter_mut().for_each(|it| it.connections_max = 2);
        let route = route(Balance::RoundRobin, None);
        let group = Group::new(&route, endpoints.clone(), None, now);
        assert_eq!(chosen(&group, 9, now), [10, 11, 10, 11]);
        assert!(matches!(group.choose(&mut 0, now), Choice::Full));
        assert!(matches!(group.choose(&mut 0b11, now), Choice::Nothing));
        // One that is unwell takes nothing over from one that is full.
        endpoints[1].health.set(false);
        group.upstreams.borrow()[1].release();
        assert!(matches!(group.choose(&mut 0, now), Choice::Full));
        group.upstreams.borrow()[0].release();
        assert_eq!(chosen(&group, 9, now), [10]);
    }

    /// Of so many connections, those that go to the upstream that came back.
    fn to_newcomer(balance: Balance, age: Duration, count: usize) -> usize {
        let clock = clock();
        let route = route(balance, Some(16 * SECOND));
        let known = endpoints(&[10]);
        let before = Group::new(&route, known.clone(), None, clock.now());
        let group = Group::new(
            &route,
            [known, endpoints(&[11])].concat(),
            Some(&before),
            clock.now(),
        );
        clock.advance(age);
        let ports = chosen(&group, count, clock.now());
        ports.iter().filter(|&&port| port == 11).count()
    }

    #[test]
    fn a_newcomer_gets_a_share_that_grows() {
        for balance in [Balance::RoundRobin, Balance::LeastConnections] {
            let counts = [0, 4, 8, 16, 99].map(|age| to_newcomer(balance, age * SECOND, 1000));
            let expected = match balance {
                // Every so many turns of its own are taken: of 16 turns one, then of 4, of 2.
                Balance::RoundRobin => [58, 200, 333, 500, 500],
                Balance::LeastConnections => [58, 200, 333, 500, 500],
            };
            for (count, expected) in counts.into_iter().zip(expected) {
                assert!(count.abs_diff(expected) <= 2, "{balance:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn newcomers_alone_take_turns() {
        let clock = clock();
        let route = route(Balance::RoundRobin, Some(16 * SECOND));
        let before = Group::new(&route, Vec::new(), None, clock.now());
        let group = Group::new(&route, endpoints(&[10, 11]), Some(&before), clock.now());
        let ports = chosen(&group, 100, clock.now());
        assert_eq!(ports.iter().filter(|&&port| port == 10).count(), 50);
    }
}
