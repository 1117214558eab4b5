//! TrustDomain: anchors, CRLs and policy of one listener and SNI; immutable.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use super::policy::Policy;
use super::{Decision, Identity};
use crate::close_reason::CloseReason;

/// What to do where no CRL says whether a certificate is revoked, or the one that would expired.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RevocationPolicy {
    Allow,
    #[default]
    Deny,
}

/// A trust domain's parts, already read from files.
#[derive(Debug, Default)]
pub struct TrustSources {
    pub name: String,
    pub anchors: Vec<CertificateDer<'static>>,
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// `None`: revocation is not checked because no CRL is configured.
    pub unknown_revocation: RevocationPolicy,
    pub expired_crl: RevocationPolicy,
    pub policy: Policy,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TrustError(pub String);

#[derive(Debug)]
pub struct TrustDomain {
    name: String,
    policy: Policy,
}

/// A peer whose chain leads to an anchor. Made only by [`TrustDomain::verify`].
#[derive(Clone, Debug)]
pub struct VerifiedPeer {
    identity: Arc<Identity>,
    leaf: CertificateDer<'static>,
}

impl VerifiedPeer {
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }
}

/// A peer that policy lets in. Made only by [`TrustDomain::authorize`].
#[derive(Clone, Debug)]
pub struct Authorized {
    peer: VerifiedPeer,
    rule: Arc<str>,
}

impl Authorized {
    pub fn peer(&self) -> &VerifiedPeer {
        &self.peer
    }
    pub fn identity(&self) -> &Identity {
        &self.peer.identity
    }
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

/// Why a client is not let in.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub reason: CloseReason,
    /// For people: what was wrong with which certificate.
    pub detail: String,
    /// Who the leaf claims to be, as far as it could be read. Unproven.
    pub claimed: Option<Arc<Identity>>,
}

impl TrustDomain {
    pub fn new(_sources: TrustSources) -> Result<Self, TrustError> {
        todo!()
    }
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Chain to anchor, clientAuth, validity, revocation, bounds.
    pub fn verify(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<VerifiedPeer, Refusal> {
        todo!()
    }
    pub fn authorize(&self, peer: VerifiedPeer) -> Result<Authorized, Refusal> {
        let _decision: Decision = self.policy.decide(&peer.identity);
        todo!()
    }
}
