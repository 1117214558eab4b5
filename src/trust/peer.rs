//! Who a peer was found to be: by the chain check, then by policy.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::{ChainSummary, Identity};

/// A peer whose chain leads to an anchor. Made only by [`super::TrustDomain::verify`], or from a
/// ticket that was judged. Clones share what it holds.
#[derive(Clone, Debug)]
pub struct VerifiedPeer(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    identity: Arc<Identity>,
    /// The leaf first, never empty.
    presented: Box<[CertificateDer<'static>]>,
    standing: Standing,
}

/// What a check of a chain found, and how long it stands. Times are seconds since the Unix epoch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Standing {
    /// The digest of the trust domain that checked the chain.
    pub domain: [u8; 32],
    pub chain: ChainSummary,
    /// The earliest nextUpdate of the CRLs that may have been consulted: the first second at which
    /// they count no more.
    pub revocation_until: i64,
    pub verified_at: i64,
}

impl Standing {
    /// Whether another check by the domain with the digest `domain` could only find the same at
    /// `now`, and this one is not older than `age_max` seconds.
    pub fn holds(&self, domain: &[u8; 32], now: i64, age_max: i64) -> bool {
        // A clock that was set back makes an age negative: who knows how old that is.
        let age = now.saturating_sub(self.verified_at);
        self.domain == *domain
            && (self.chain.not_before..=self.chain.not_after).contains(&now)
            && now < self.revocation_until
            && (0..age_max).contains(&age)
    }
}

impl VerifiedPeer {
    /// `None` without a leaf.
    pub(super) fn new(
        identity: Arc<Identity>,
        presented: Box<[CertificateDer<'static>]>,
        standing: Standing,
    ) -> Option<Self> {
        let facts = Facts {
            identity,
            presented,
            standing,
        };
        (!facts.presented.is_empty()).then(|| Self(Arc::new(facts)))
    }

    pub fn identity(&self) -> &Arc<Identity> {
        &self.0.identity
    }

    pub fn leaf(&self) -> &CertificateDer<'static> {
        // `new` sees to it that there is one.
        &self.0.presented[0]
    }

    /// What the peer presented beside its leaf, in its order.
    pub fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.0.presented[1..]
    }

    /// The path in short, for judging it again.
    pub fn chain(&self) -> &ChainSummary {
        &self.0.standing.chain
    }

    /// SHA-256 of the SubjectPublicKeyInfo's DER of the anchor that the path ends at.
    pub fn anchor_spki(&self) -> [u8; 32] {
        self.chain().anchor_spki
    }

    /// The latest notBefore of the path, without the anchor; seconds since the Unix epoch.
    pub fn not_before(&self) -> i64 {
        self.chain().not_before
    }

    /// The earliest notAfter of the path, without the anchor; seconds since the Unix epoch.
    pub fn not_after(&self) -> i64 {
        self.chain().not_after
    }

    /// The earliest nextUpdate of the CRLs that may have been consulted, in seconds since the Unix
    /// epoch: the first second at which they count no more. `None` where none does.
    pub fn revocation_until(&self) -> Option<i64> {
        Some(self.standing().revocation_until).filter(|&until| until < i64::MAX)
    }

    /// Whether this is the same finding, not only an equal one.
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What the peer presented, the leaf first.
    pub(super) fn presented(&self) -> &[CertificateDer<'static>] {
        &self.0.presented
    }

    pub(super) fn standing(&self) -> &Standing {
        &self.0.standing
    }
}

/// A peer that policy lets in. Made only by [`super::TrustDomain::authorize`].
#[derive(Clone, Debug)]
pub struct Authorized {
    peer: VerifiedPeer,
    rule: Arc<str>,
}

impl Authorized {
    /// For those who have asked policy.
    pub(super) fn by_rule(peer: VerifiedPeer, rule: Arc<str>) -> Self {
        Self { peer, rule }
    }

    pub fn peer(&self) -> &VerifiedPeer {
        &self.peer
    }

    pub fn identity(&self) -> &Identity {
        self.peer.identity()
    }

    /// The name of the policy rule that let it in.
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_holds_for_its_domain_and_its_time_alone() {
        let standing = |verified_at, revocation_until| Standing {
            domain: [1; 32],
            chain: ChainSummary {
                entries: Vec::new(),
                anchor: [2; 32],
                anchor_spki: [3; 32],
                not_before: 100,
                not_after: 200,
            },
            revocation_until,
            verified_at,
        };
        let holds = |standing: Standing, now| standing.holds(&[1; 32], now, 20);
        assert!(holds(standing(150, 180), 150) && holds(standing(150, 180), 169));
        assert!(
            !standing(150, 180).holds(&[3; 32], 150, 20),
            "another domain"
        );
        assert!(!holds(standing(150, 180), 170), "too old");
        assert!(!holds(standing(150, 180), 149), "from the future");
        assert!(!holds(standing(95, 180), 99), "not valid yet");
        assert!(holds(standing(95, 180), 100));
        assert!(holds(standing(179, 180), 179));
        assert!(
            !holds(standing(179, 180), 180),
            "CRLs past their nextUpdate"
        );
        assert!(holds(standing(199, i64::MAX), 200));
        assert!(!holds(standing(199, i64::MAX), 201), "expired");
    }
}
