//! How fast each client that was let in connects.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::time::Instant;

use super::Shard;
use super::rate::{Bucket, Rate};
use crate::close_reason::CloseReason;
use crate::limits::IDENTITY_BUCKETS_PER_SHARD;
use crate::trust::Identity;
use crate::trust::domain::Refusal;

/// Buckets that a client may have one of.
const WAYS: usize = 8;

const _: () = assert!(IDENTITY_BUCKETS_PER_SHARD.is_multiple_of(WAYS));

/// A bucket for each client that connected lately.
///
/// There are only so many. A client that has none gets the fullest of those that it may have, as it
/// is: one that is full tells nothing of who had it, and otherwise the two share it. So nobody gets
/// rid of what it has used up by having others, or itself under other names, push it out: when a
/// bucket is taken from its client all the others are at least as empty.
pub(super) struct Identities {
    slots: Box<[Slot]>,
    /// Clients may choose their names.
    hasher: RandomState,
    displaced: u64,
}

#[derive(Clone, Copy)]
struct Slot {
    /// Of whose it is.
    hash: u64,
    bucket: Bucket,
}

impl Identities {
    pub(super) fn new(now: Instant) -> Self {
        Self::with_buckets(IDENTITY_BUCKETS_PER_SHARD, now)
    }

    fn with_buckets(count: usize, now: Instant) -> Self {
        let empty = Slot {
            hash: 0,
            bucket: Bucket::full(now),
        };
        Self {
            slots: vec![empty; count].into(),
            hasher: RandomState::new(),
            displaced: 0,
        }
    }

    /// Times that a client got a bucket that was not full from another.
    pub(super) fn displaced(&self) -> u64 {
        self.displaced
    }

    /// Counts a connection of `who` within `scope`; whether it is within `rate`.
    fn take(&mut self, now: Instant, scope: u64, who: impl Hash, rate: &Rate) -> bool {
        let hash = self.hasher.hash_one((scope, who));
        let sets = (self.slots.len() / WAYS) as u64;
        let set = usize::try_from(hash % sets).unwrap_or_default() * WAYS;
        let slots = &mut self.slots[set..set + WAYS];
        let at = slots
            .iter()
            .position(|slot| slot.hash == hash)
            .unwrap_or_else(|| {
                let missing = |&at: &usize| slots[at].bucket.missing(now);
                let fullest = (0..WAYS).min_by_key(missing).unwrap_or_default();
                self.displaced += u64::from(missing(&fullest) > 0);
                fullest
            });
        slots[at].hash = hash;
        slots[at].bucket.take(now, rate)
    }
}

/// Tells the clients of a route from those of others; the same after a reload.
pub(super) fn scope(listener: &str, route: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (listener, route).hash(&mut hasher);
    hasher.finish()
}

impl Shard {
    /// Sees to it that there are buckets where a route asks for them. They stay.
    pub(super) fn limit_identities(&mut self) {
        let is_asked_for = self.fronts.iter().any(|front| front.limits_identities());
        if is_asked_for && self.identities.is_none() {
            self.identities = Some(Identities::new(self.now));
        }
    }

    /// Whether a client that was let in connects no faster than it may; if not, its session is ended.
    /// A connection counts once, however many upstreams are tried for it.
    pub(super) fn is_within_identity_rate(&mut self, key: u32) -> bool {
        let Some(identities) = &mut self.identities else {
            return true;
        };
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return true;
        };
        let Some(session) = entry.connection.session() else {
            return true;
        };
        let Some((scope, rate)) = entry.front.identity_rate(session.route) else {
            return true;
        };
        if std::mem::replace(&mut entry.is_rated, true) {
            return true;
        }
        let identity = session.client.identity();
        let is_within = match name(identity) {
            Some(id) => identities.take(self.now, scope, id, rate),
            None => identities.take(self.now, scope, identity.fingerprint, rate),
        };
        if !is_within {
            let limit = entry.front.listener.routes[session.route].identity_rate;
            let limit = limit.map_or_else(String::new, |limit| limit.to_string());
            let reason = CloseReason::IdentityRateLimited;
            let refusal = Refusal {
                reason,
                detail: format!("the client connects faster than identity_rate allows: {limit}"),
                claimed: None,
            };
            self.withdraw(key, reason, refusal);
        }
        is_within
    }
}

/// What a client keeps when its certificate is renewed.
fn name(identity: &Identity) -> Option<&str> {
    identity.spiffe_id()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::RateLimit;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate::of(RateLimit { per_second, burst }, 1)
    }

    #[test]
    fn each_client_of_each_route_has_its_own_bucket() {
        let (now, rate) = (Instant::now(), rate(1, 2));
        let mut identities = Identities::new(now);
        let [here, there] = ["a", "b"].map(|route| scope("listener", route));
        assert_ne!(here, there);
        assert_ne!(scope("ab", "c"), scope("a", "bc"));
        for (scope, who) in [(here, "x"), (here, "y"), (there, "x")] {
            let taken = (0..5).filter(|_| identities.take(now, scope, who, &rate));
            assert_eq!(taken.count(), 2, "{who}");
        }
        let later = now + Duration::from_secs(1);
        assert!(identities.take(later, here, "x", &rate));
        assert!(!identities.take(later, here, "x", &rate));
    }

    #[test]
    fn others_do_not_push_out_what_is_used_up() {
        let (now, rate) = (Instant::now(), rate(1, 3));
        let mut identities = Identities::with_buckets(WAYS, now);
        let uses_up = |identities: &mut Identities, who: &str| {
            (0..5)
                .filter(|_| identities.take(now, 0, who, &rate))
                .count()
        };
        assert_eq!(uses_up(&mut identities, "x"), 3);
        for other in 0..1_000_u32 {
            identities.take(now, 0, other, &rate);
        }
        assert_eq!(uses_up(&mut identities, "x"), 0);
        assert!(identities.displaced() > 0);
        let rested = now + Duration::from_secs(3);
        assert!(identities.take(rested, 0, "another", &rate));
    }

    proptest! {
        /// Whoever comes between: nobody gets more than its rate, and all together no more than there
        /// are buckets.
        #[test]
        fn nobody_gets_more_however_many_there_are(
            burst in 1..5_u32,
            tries in prop::collection::vec((0..40_u32, 0..600_000_000_u64), 1..300),
        ) {
            let (rate, start) = (rate(2, burst), Instant::now());
            let mut identities = Identities::with_buckets(WAYS, start);
            let (mut at, mut taken) = (0, vec![Vec::new(); 40]);
            for (who, later) in tries {
                at += later;
                let now = start + Duration::from_nanos(at);
                if identities.take(now, 0, who, &rate) {
                    taken[who as usize].push(at);
                }
            }
            let allowed = |ns: u64, buckets: u64| {
                buckets * (2 * ns + u64::from(burst) * 1_000_000_000)
            };
            for taken in &taken {
                for (first, from) in taken.iter().enumerate() {
                    for (last, to) in taken.iter().enumerate().skip(first) {
                        let count = (last - first + 1) as u64;
                        prop_assert!(count * 1_000_000_000 <= allowed(to - from, 1));
                    }
                }
            }
            let all: usize = taken.iter().map(Vec::len).sum();
            prop_assert!(all as u64 * 1_000_000_000 <= allowed(at, WAYS as u64));
        }
    }
}
