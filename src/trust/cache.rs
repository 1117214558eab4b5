//! The verdict cache: what a chain check and policy found is remembered, per shard.
//!
//! A verdict is found by the whole chain as presented, byte for byte, and the digest of the trust
//! domain, which covers anchors, CRLs, policy and revocation settings: after a reload that changes
//! one of them nothing that was found before counts. It stands as long as another check could only
//! find the same, and never longer than a configured time. Refusals are not remembered, and neither
//! is the proof of possession, which every full handshake must give.
//!
//! The cache belongs to a thread, so that no shard waits for another; see [`install`].

use std::cell::RefCell;
use std::hash::{Hash, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use quick_cache::unsync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, OptionsBuilder, Weighter};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::peer::Standing;
use super::refusal::seconds;
use super::{Authorized, Identity, Refusal, TrustDomain, VerifiedPeer, tally};
use crate::limits::CHAIN_BYTES_MAX;

/// How much a [`VerdictCache`] may hold. Both bounds hold at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CacheBounds {
    pub entries: usize,
    /// Bytes of certificates, all entries together. What is read from them is about as much again.
    pub bytes: usize,
}

/// What a cache was asked and did since it was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CacheFigures {
    pub hits: u64,
    /// Verdicts that were not there; those that had expired are among them.
    pub misses: u64,
    /// Verdicts that made room for others.
    pub evicted: u64,
    /// Verdicts that were there, but stood no more.
    pub expired: u64,
}

/// Verdicts of one shard.
pub struct VerdictCache {
    verdicts: Cache<Key, Authorized, Weight, RandomState>,
    /// Seconds.
    ttl: i64,
    figures: CacheFigures,
}

impl VerdictCache {
    /// A cache that holds at most `bounds` and no verdict longer than `ttl`.
    ///
    /// Which verdicts make room is decided by use, so that a flood of chains that are seen once does
    /// not drive out those that come again and again.
    pub fn new(bounds: CacheBounds, ttl: Duration) -> Self {
        let entries = bounds.entries.max(1);
        // No entry weighs less than its share of the bytes: the bound of bytes is one of entries,
        // too.
        let least = (bounds.bytes / entries).max(1) as u64;
        let options = OptionsBuilder::new()
            .estimated_items_capacity(entries)
            .weight_capacity(least.saturating_mul(entries as u64))
            // After a reload, or when clients got new certificates, all that is kept may be of no
            // use any more. Then whoever comes twice must find its place, however many they are: half
            // is for what came once, and as many as fit are known by their hash after they had to go.
            .hot_allocation(0.5)
            .ghost_allocation(1.0)
            .build()
            .expect("both capacities are set");
        Self {
            verdicts: Cache::with_options(
                options,
                Weight { least },
                RandomState::new(),
                DefaultLifecycle::default(),
            ),
            ttl: i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
            figures: CacheFigures::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.verdicts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.verdicts.is_empty()
    }

    pub fn figures(&self) -> CacheFigures {
        self.figures
    }

    fn find(&mut self, chain: &Presented<'_>, now: i64) -> Option<Authorized> {
        let Some(verdict) = self.verdicts.get(chain) else {
            self.figures.misses += 1;
            return None;
        };
        if verdict.peer().standing().holds(chain.domain, now, self.ttl) {
            self.figures.hits += 1;
            return Some(verdict.clone());
        }
        self.verdicts.remove(chain);
        self.figures.misses += 1;
        self.figures.expired += 1;
        None
    }

    fn keep(&mut self, verdict: &Authorized) {
        let before = self.verdicts.len();
        self.verdicts
            .insert(Key(verdict.peer().clone()), verdict.clone());
        let gone = (before + 1).saturating_sub(self.verdicts.len());
        self.figures.evicted += gone as u64;
    }
}

thread_local! {
    static CACHE: RefCell<Option<VerdictCache>> = const { RefCell::new(None) };
}

/// Makes `cache` this thread's; returns the one before. Without one nothing is remembered.
pub fn install(cache: Option<VerdictCache>) -> Option<VerdictCache> {
    CACHE.replace(cache)
}

/// The figures of this thread's cache; zeros without one.
pub fn figures() -> CacheFigures {
    with_cache(|cache| cache.figures()).unwrap_or_default()
}

fn with_cache<R>(work: impl FnOnce(&mut VerdictCache) -> R) -> Option<R> {
    CACHE.with_borrow_mut(|cache| cache.as_mut().map(work))
}

/// Whether the presented chain is let in by `domain` at `now`: from the cache, or by a check of the
/// chain and policy. Where `vouched` still holds it stands for the check of the chain, for so many
/// seconds: that is what `domain` itself found before, as an authentic ticket says.
///
/// Whether the peer holds the leaf's key is not checked here.
pub(super) fn judge(
    domain: &TrustDomain,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    vouched: Option<(Standing, i64)>,
) -> Result<Authorized, Refusal> {
    let digest = domain.digest();
    let chain = Presented {
        domain: &digest,
        leaf,
        intermediates,
    };
    // Before the check has bounded it, no long chain is hashed.
    let found = chain
        .is_bounded()
        .then(|| with_cache(|cache| cache.find(&chain, seconds(now))))
        .flatten();
    if let Some(verdict) = found.flatten() {
        tally::note(|tally| tally.verdict_remembered = true);
        return Ok(verdict);
    }
    let vouched = vouched.filter(|(standing, age)| standing.holds(&digest, seconds(now), *age));
    let peer = match vouched.and_then(|(standing, _)| chain.vouched_for(standing)) {
        Some(peer) => peer,
        None => domain.verify(leaf, intermediates, now)?,
    };
    let verdict = domain.authorize(peer)?;
    with_cache(|cache| cache.keep(&verdict));
    Ok(verdict)
}

/// A chain before it is known whether a verdict of it is kept.
struct Presented<'a> {
    domain: &'a [u8; 32],
    leaf: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
}

impl Presented<'_> {
    fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.leaf.as_ref()).chain(self.intermediates.iter().map(AsRef::as_ref))
    }

    fn is_bounded(&self) -> bool {
        self.certificates().map(<[u8]>::len).sum::<usize>() <= CHAIN_BYTES_MAX
    }

    fn vouched_for(&self, standing: Standing) -> Option<VerifiedPeer> {
        let identity = Identity::from_der(self.leaf).ok()?;
        let chain = self.certificates().map(|der| der.to_vec().into());
        VerifiedPeer::new(Arc::new(identity), chain.collect(), standing)
    }
}

impl Hash for Presented<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(self.domain, self.certificates(), state);
    }
}

impl Equivalent<Key> for Presented<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self.domain == key.0.standing().domain
            && self
                .certificates()
                .eq(key.0.presented().iter().map(AsRef::as_ref))
    }
}

/// What a verdict is found by: the digest of the domain that found it, and the chain.
struct Key(VerifiedPeer);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let certificates = self.0.presented().iter().map(AsRef::as_ref);
        hash(&self.0.standing().domain, certificates, state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.standing().domain == other.0.standing().domain
            && self.0.presented() == other.0.presented()
    }
}

impl Eq for Key {}

/// A chain and the key of its verdict must hash alike.
fn hash<'a>(
    domain: &[u8; 32],
    certificates: impl Iterator<Item = &'a [u8]>,
    state: &mut impl Hasher,
) {
    state.write(domain);
    for der in certificates {
        state.write_usize(der.len());
        state.write(der);
    }
}

#[derive(Clone)]
struct Weight {
    least: u64,
}

impl Weighter<Key, Authorized> for Weight {
    fn weight(&self, key: &Key, _: &Authorized) -> u64 {
        let bytes: usize = key.0.presented().iter().map(|der| der.len()).sum();
        (bytes as u64).max(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::VERDICT_TTL;
    use crate::trust::ChainSummary;

    const BOUNDS: CacheBounds = CacheBounds {
        entries: 1000,
        bytes: 1000 * 64,
    };

    fn identity() -> Arc<Identity> {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::default();
        let certificate = params.self_signed(&key).unwrap();
        Arc::new(Identity::from_der(certificate.der()).unwrap())
    }

    /// A verdict of a chain that is nothing but these bytes.
    fn verdict(identity: &Arc<Identity>, chain: &[u8]) -> Authorized {
        verdict_of(1, identity, chain)
    }

    fn verdict_of(domain: u8, identity: &Arc<Identity>, chain: &[u8]) -> Authorized {
        let standing = Standing {
            domain: [domain; 32],
            chain: ChainSummary {
                entries: Vec::new(),
                anchor: [2; 32],
                anchor_spki: [3; 32],
                not_before: 0,
                not_after: 100,
            },
            revocation_until: i64::MAX,
            verified_at: 10,
        };
        let chain = Box::new([chain.to_vec().into()]);
        let peer = VerifiedPeer::new(Arc::clone(identity), chain, standing).unwrap();
        Authorized::by_rule(peer, "in".into())
    }

    fn find(cache: &mut VerdictCache, domain: u8, chain: &[&[u8]], now: i64) -> bool {
        let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| (*der).into()).collect();
        let presented = Presented {
            domain: &[domain; 32],
            leaf: &chain[0],
            intermediates: &chain[1..],
        };
        cache.find(&presented, now).is_some()
    }

    #[test]
    fn cache_bounds() {
        let identity = identity();
        let mut cache = VerdictCache::new(BOUNDS, VERDICT_TTL);
        for number in 0..1_000_000_u32 {
            cache.keep(&verdict(&identity, &number.to_be_bytes()));
            assert!(cache.len() <= BOUNDS.entries);
        }
        assert!(cache.len() > BOUNDS.entries / 2, "{}", cache.len());
        let evicted = 1_000_000 - cache.len() as u64;
        assert_eq!(cache.figures().evicted, evicted);

        // Large ones count for what they are.
        let mut cache = VerdictCache::new(BOUNDS, VERDICT_TTL);
        for number in 0..1000_u32 {
            let chain = number.to_be_bytes().repeat(160);
            cache.keep(&verdict(&identity, &chain));
            let bytes = cache.verdicts.iter().map(|(key, _)| key.0.leaf().len());
            assert!(bytes.sum::<usize>() <= BOUNDS.bytes);
        }
        assert!(cache.len() <= 100, "{}", cache.len());
    }

    #[test]
    fn what_comes_again_outlasts_what_comes_once() {
        let identity = identity();
        let mut cache = VerdictCache::new(BOUNDS, VERDICT_TTL);
        for known in 0..100_u8 {
            cache.keep(&verdict(&identity, &[known]));
        }
        for number in 0..100_000_u32 {
            cache.keep(&verdict(&identity, &number.to_be_bytes()));
            let known = number.to_be_bytes()[3] % 100;
            assert!(find(&mut cache, 1, &[&[known]], 10), "{number}");
        }
    }

    #[test]
    fn after_a_reload_new_verdicts_take_the_place_of_old_ones() {
        let identity = identity();
        let mut cache = VerdictCache::new(BOUNDS, VERDICT_TTL);
        for domain in 1..4 {
            let mut found = 0;
            for _ in 0..8 {
                found = 0;
                for number in 0..900_u32 {
                    let chain = &number.to_be_bytes();
                    if find(&mut cache, domain, &[chain], 10) {
                        found += 1;
                    } else {
                        cache.keep(&verdict_of(domain, &identity, chain));
                    }
                }
            }
            assert!(found > 800, "{found} of 900");
        }
    }

    #[test]
    fn the_whole_chain_and_the_domain_must_be_the_same() {
        let identity = identity();
        let mut cache = VerdictCache::new(BOUNDS, Duration::from_secs(20));
        cache.keep(&verdict(&identity, b"leaf"));
        assert!(find(&mut cache, 1, &[b"leaf"], 10));
        assert!(!find(&mut cache, 2, &[b"leaf"], 10));
        assert!(!find(&mut cache, 1, &[b"leaf", b"more"], 10));
        assert!(!find(&mut cache, 1, &[b"lea", b"f"], 10));
        assert_eq!(
            cache.figures(),
            CacheFigures {
                hits: 1,
                misses: 3,
                evicted: 0,
                expired: 0
            }
        );
        // What stands no more is gone, and counted so once.
        assert!(!find(&mut cache, 1, &[b"leaf"], 30));
        assert!(!find(&mut cache, 1, &[b"leaf"], 10));
        let figures = cache.figures();
        assert_eq!((figures.misses, figures.expired), (5, 1));
        assert!(cache.is_empty());
    }
}
