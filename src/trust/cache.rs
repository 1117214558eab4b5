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

use quick_cache::unsync::Cache;
use quick_cache::{Equivalent, Weighter};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::peer::Standing;
use super::refusal::seconds;
use super::{Authorized, Identity, Refusal, TrustDomain, VerifiedPeer};
use crate::limits::{CHAIN_BYTES_MAX, VERDICT_TTL};

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
        Self {
            verdicts: Cache::with(
                entries,
                least.saturating_mul(entries as u64),
                Weight { least },
                RandomState::new(),
                quick_cache::unsync::DefaultLifecycle::default(),
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
/// chain and policy. Where `vouched` still holds it stands for the check of the chain: that is what
/// `domain` itself found before, as an authentic ticket says.
///
/// Whether the peer holds the leaf's key is not checked here.
pub(super) fn judge(
    domain: &TrustDomain,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    vouched: Option<Standing>,
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
        return Ok(verdict);
    }
    let ttl = with_cache(|cache| cache.ttl).unwrap_or(VERDICT_TTL.as_secs().cast_signed());
    let vouched = vouched.filter(|standing| standing.holds(&digest, seconds(now), ttl));
    let peer = match vouched.and_then(|standing| chain.vouched_for(standing)) {
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
                .eq(key.0.chain().iter().map(AsRef::as_ref))
    }
}

/// What a verdict is found by: the digest of the domain that found it, and the chain.
struct Key(VerifiedPeer);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let certificates = self.0.chain().iter().map(AsRef::as_ref);
        hash(&self.0.standing().domain, certificates, state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.standing().domain == other.0.standing().domain && self.0.chain() == other.0.chain()
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
        let bytes: usize = key.0.chain().iter().map(|der| der.len()).sum();
        (bytes as u64).max(self.least)
    }
}
