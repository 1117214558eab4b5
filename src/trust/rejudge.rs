//! Judging a peer again that was verified before: would today's anchors, CRLs and policy still let
//! it in?
//!
//! No signature of the path is verified again: those do not change. What is looked at is what can:
//! the anchor, the CRLs, the policy and the time.

use std::sync::Arc;

use rustls_pki_types::UnixTime;
use webpki::EndEntityCert;

use super::anchors::Group;
use super::crl::Crl;
use super::domain::{Authorized, RevocationPolicy};
use super::identity::hex;
use super::refusal::{seconds, span, utc};
use super::summary::{ChainEntry, ChainSummary, name_digest};
use super::{Decision, Identity, Refusal, TrustDomain, VerifiedPeer};
use crate::close_reason::CloseReason;

impl TrustDomain {
    /// Whether the peer would still be let in, and by which rule.
    ///
    /// The validity of its certificates is not looked at: a connection may outlive them. See
    /// [`ChainSummary::is_valid_at`].
    ///
    /// # Errors
    ///
    /// [`CloseReason::CertificateUnknownCa`] when the anchor is gone,
    /// [`CloseReason::CertificateRevoked`], [`CloseReason::RevocationUnknown`] and those of
    /// [`TrustDomain::authorize`].
    pub fn still_allows(&self, peer: &VerifiedPeer, now: UnixTime) -> Result<Arc<str>, Refusal> {
        let (identity, chain) = (peer.identity(), peer.chain());
        let refuse =
            |(reason, detail)| Err(Refusal::new(reason, detail, Some(Arc::clone(identity))));
        let vouching = match self.anchors.of_client(identity) {
            Ok(group) => group,
            Err(problem) => return refuse(problem),
        };
        if !vouching.digests.contains(&chain.anchor) {
            let detail = format!(
                "the trust anchor that `{}` was verified by no longer vouches for it in `{}`",
                identity.subject,
                self.name()
            );
            return refuse((CloseReason::CertificateUnknownCa, detail));
        }
        if let Err(problem) = self.still_unrevoked(peer, vouching, now) {
            return refuse(problem);
        }
        match self.policy.decide(identity) {
            Decision::Allowed { rule } => Ok(rule),
            refused => refuse(self.policy_refusal(&refused, identity)),
        }
    }

    /// As [`TrustDomain::still_allows`]: the client with the rule that lets it in now.
    ///
    /// # Errors
    ///
    /// Those of [`TrustDomain::still_allows`].
    pub fn authorize_again(
        &self,
        client: &Authorized,
        now: UnixTime,
    ) -> Result<Authorized, Refusal> {
        let rule = self.still_allows(client.peer(), now)?;
        Ok(Authorized::by_rule(client.peer().clone(), rule))
    }

    /// Every CRL of the issuer's key is asked, not only the one that webpki would choose by the
    /// certificate's distribution points: a serial number is an issuer's only once. But only that
    /// one says that a certificate is good: as in a handshake, neither one for other certificates
    /// nor one of another key with the issuer's name passes for it.
    fn still_unrevoked(
        &self,
        peer: &VerifiedPeer,
        vouching: &Group,
        now: UnixTime,
    ) -> Result<(), (CloseReason, String)> {
        if self.crls.all.is_empty() {
            return Ok(());
        }
        let subject = &peer.identity().subject;
        let mut unknown = None;
        for (position, entry) in peer.chain().entries.iter().enumerate() {
            let (mut is_covered, mut has_own, mut namesake) = (false, false, None);
            for crl in self.crls.of(&entry.issuer) {
                let is_for = is_for(crl, position, entry, peer);
                if !is_by_issuer(crl, entry, peer, vouching) {
                    namesake = namesake.or_else(|| is_for.then_some(crl));
                    continue;
                }
                has_own = true;
                if matches!(crl.list.find_serial(&entry.serial), Ok(Some(_))) {
                    return Err(revoked(peer.identity(), position, entry, crl));
                }
                // The newest come first.
                if is_for && !is_covered && self.expired_crl == RevocationPolicy::Deny {
                    unknown = unknown.or_else(|| expired(crl, now));
                }
                is_covered |= is_for;
            }
            if is_covered {
                continue;
            }
            let certificate = position + 1;
            if let Some(namesake) = namesake.filter(|_| !has_own) {
                let issuer = &namesake.about.issuer;
                unknown.get_or_insert_with(|| {
                    format!(
                        "the CRL of `{issuer}` was signed by another key than certificate \
                         {certificate} in the chain of `{subject}`"
                    )
                });
            } else if self.unknown_revocation == RevocationPolicy::Deny {
                unknown.get_or_insert_with(|| {
                    format!(
                        "no CRL of its issuer that is for certificate {certificate} in the chain of \
                         `{subject}` is configured"
                    )
                });
            }
        }
        match unknown {
            Some(detail) => Err((CloseReason::RevocationUnknown, detail)),
            None => Ok(()),
        }
    }
}

/// Whether `crl` is for the certificate of `entry`.
fn is_for(crl: &Crl, position: usize, entry: &ChainEntry, peer: &VerifiedPeer) -> bool {
    if crl.about.series.scope.is_none() {
        return true;
    }
    if position == 0 {
        return crl.about.is_for(peer.leaf(), false);
    }
    let mut cas = peer.intermediates().iter();
    let ca = cas.find(|der| {
        EndEntityCert::try_from(*der).is_ok_and(|ca| {
            *ca.serial() == *entry.serial && name_digest(ca.issuer()) == entry.issuer
        })
    });
    ca.is_some_and(|ca| crl.about.is_for(ca, true))
}

/// Whether the key that signed the certificate of `entry` signed `crl`.
fn is_by_issuer(crl: &Crl, entry: &ChainEntry, peer: &VerifiedPeer, vouching: &Group) -> bool {
    if let Some(known) = crl.is_known_by(&entry.key) {
        return known;
    }
    let cas = peer.intermediates().iter().chain(&vouching.certificates);
    let mut cas = cas.filter_map(|der| EndEntityCert::try_from(der).ok());
    let issuer = cas.find(|ca| name_digest(&ca.subject_public_key_info()) == entry.key);
    // An anchor of version 1 is not read here: then the name has to do.
    issuer.is_none_or(|issuer| crl.is_signed_by(&issuer))
}

impl ChainSummary {
    /// Whether no certificate of the path has expired or is not valid yet at `now`.
    pub fn is_valid_at(&self, now: UnixTime) -> bool {
        (self.not_before..=self.not_after).contains(&seconds(now))
    }
}

fn revoked(
    identity: &Identity,
    position: usize,
    entry: &ChainEntry,
    crl: &Crl,
) -> (CloseReason, String) {
    let (subject, issuer) = (&identity.subject, &crl.about.issuer);
    let serial = hex(&entry.serial);
    let whose = if position == 0 { "" } else { "a CA above " };
    let detail =
        format!("{whose}`{subject}`, serial {serial}, is revoked by the CRL of `{issuer}`");
    (CloseReason::CertificateRevoked, detail)
}

fn expired(crl: &Crl, now: UnixTime) -> Option<String> {
    // webpki counts a CRL as expired from its nextUpdate on.
    let next_update = crl.about.next_update.filter(|next| *next <= seconds(now))?;
    Some(format!(
        "the CRL of `{}` should have been replaced by {}, {} ago",
        crl.about.issuer,
        utc(next_update),
        span(seconds(now) - next_update)
    ))
}
