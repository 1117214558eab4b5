//! Which upstream a connection goes to.

mod standing;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits::{CONNECT_ATTEMPTS_MAX, UPSTREAMS_LEFT_MAX};
use crate::ring::Target;
use crate::snapshot::{Balance, Ejection, Endpoint, Figures, Health, RouteTarget, UpstreamAddress};
use standing::{Standing, WHOLE};

/// Upstreams tried by one connection. Not by their places, which change when a name leads elsewhere;
/// and one that nobody else has is not kept.
#[derive(Debug, Default)]
pub(super) struct Tried([Option<Weak<Upstream>>; CONNECT_ATTEMPTS_MAX]);

impl Tried {
    fn has(&self, upstream: &Rc<Upstream>) -> bool {
        let mut tried = self.0.iter().flatten();
        tried.any(|tried| tried.as_ptr() == Rc::as_ptr(upstream))
    }

    fn add(&mut self, upstream: &Rc<Upstream>) {
        // After the last attempt nothing is chosen any more.
        if let Some(free) = self.0.iter_mut().find(|tried| tried.is_none()) {
            *free = Some(Rc::downgrade(upstream));
        }
    }
}

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
        // They may have been another's, which has left and sets them no more.
        endpoint.figures.set_open(0);
        endpoint.figures.set_ejected(standing.is_ejected());
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
                .filter(|&index| !tried.has(&upstreams[index]))
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
                let upstream = Rc::clone(&upstreams[chosen]);
                tried.add(&upstream);
                return Choice::Upstream {
                    is_probe: upstream.take(now),
                    upstream,
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
mod tests;
