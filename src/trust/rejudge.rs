//! Judging a peer again that was verified before: would today's anchors, CRLs and policy still let
//! it in?
//!
//! No signature is verified again: those of the path do not change. What is looked at is what can:
//! the anchor, the CRLs, the policy and the time.

use std::sync::Arc;

use rustls_pki_types::UnixTime;

use super::crl::Crl;
use super::domain::{Authorized, RevocationPolicy};
use super::identity::hex;
use super::refusal::{seconds, span, utc};
use super::summary::{ChainEntry, ChainSummary};
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
        self.judge_again(peer.identity(), peer.chain(), now)
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

    /// As [`TrustDomain::still_allows`], of the parts that a ticket holds.
    pub(super) fn judge_again(
        &self,
        identity: &Arc<Identity>,
        chain: &ChainSummary,
        now: UnixTime,
    ) -> Result<Arc<str>, Refusal> {
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
        if let Err(problem) = self.still_unrevoked(identity, chain, now) {
            return refuse(problem);
        }
        match self.policy.decide(identity) {
            Decision::Allowed { rule } => Ok(rule),
            refused => refuse(self.policy_refusal(&refused, identity)),
        }
    }

    /// Whether an issuer of the same name, with another key, has a CRL for the same certificates
    /// that has not expired. Which of the two keys issued is not kept: a key that is no longer used
    /// must not take the rights of those that its successor's certificates are good for.
    fn has_fresh(&self, crl: &Crl, entry: &ChainEntry, now: UnixTime) -> bool {
        let mut namesakes = self.crls.of(&entry.issuer);
        let scope = &crl.about.series.scope;
        namesakes.any(|other| other.about.series.scope == *scope && expired(other, now).is_none())
    }

    /// Every CRL that may speak of a certificate is asked, not only the one that webpki would
    /// choose by the certificate's distribution points: a serial number is an issuer's only once.
    fn still_unrevoked(
        &self,
        identity: &Identity,
        chain: &ChainSummary,
        now: UnixTime,
    ) -> Result<(), (CloseReason, String)> {
        if self.crls.all.is_empty() {
            return Ok(());
        }
        let mut unknown = None;
        for (position, entry) in chain.entries.iter().enumerate() {
            let mut is_covered = false;
            for crl in self.crls.of(&entry.issuer) {
                is_covered = true;
                if matches!(crl.list.find_serial(&entry.serial), Ok(Some(_))) {
                    return Err(revoked(identity, position, entry, crl));
                }
                if self.expired_crl == RevocationPolicy::Deny && !self.has_fresh(crl, entry, now) {
                    unknown = unknown.or_else(|| expired(crl, now));
                }
            }
            if !is_covered && self.unknown_revocation == RevocationPolicy::Deny {
                unknown.get_or_insert_with(|| {
                    format!(
                        "no CRL of the issuer of certificate {} in the chain of `{}` is configured",
                        position + 1,
                        identity.subject
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
