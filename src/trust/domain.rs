//! TrustDomain: anchors, CRLs and policy of one listener and SNI; immutable.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, VerifiedPath};

pub use super::anchors::Bundle;
use super::anchors::{Anchors, Group};
use super::chain::Chain;
use super::crl::{Crl, Crls};
use super::identity::{Authority, RevocationList};
use super::peer::Standing;
pub use super::peer::{Authorized, VerifiedPeer};
use super::policy::{Effect, Matcher, Policy};
pub use super::refusal::Refusal;
use super::refusal::{detail, reason, seconds, span, uri_constraints, utc};
use super::revocation::{Claim, FindPath};
use super::rules::Rules;
use super::spiffe::TrustDomainName;
use super::summary::{ChainSummary, anchor_digest};
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
    /// An anchor is trusted as such: its own validity and signature are not checked (RFC 5280
    /// section 6.2). Each vouches for every name.
    pub anchors: Vec<CertificateDer<'static>>,
    /// Instead of `anchors`, one of which must be: those of SPIFFE trust domains. Then every client
    /// has an X.509-SVID, and is vouched for by the bundle of its trust domain alone.
    pub bundles: Vec<Bundle>,
    /// Empty: revocation is not checked. Otherwise that of every certificate of a chain is, but of
    /// the anchor's.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// Where CRLs are configured, but none is from the certificate's issuer.
    pub unknown_revocation: RevocationPolicy,
    /// Where the issuer's CRL is past its nextUpdate.
    pub expired_crl: RevocationPolicy,
    pub policy: Policy,
}

/// Why a trust domain cannot be made of its sources.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TrustError(pub String);

/// Who may come in, for one listener and SNI.
#[derive(Debug)]
pub struct TrustDomain {
    name: String,
    pub(super) anchors: Arc<Anchors>,
    pub(super) crls: Arc<Crls>,
    pub(super) unknown_revocation: RevocationPolicy,
    pub(super) expired_crl: RevocationPolicy,
    pub(super) policy: Rules,
    /// As it was configured.
    configured: Arc<Policy>,
    digest: [u8; 32],
}

impl TrustDomain {
    /// Makes a trust domain.
    ///
    /// # Errors
    ///
    /// No anchors; anchors that are malformed, no CAs, or have keys that no signature is verified
    /// with; CRLs that are malformed or of a kind that is not supported. Anchors and CRLs are
    /// counted from 1, in the order of `sources`.
    pub fn new(sources: TrustSources) -> Result<Self, TrustError> {
        let fail = |problem| TrustError(format!("trust domain `{}`: {problem}", sources.name));
        let anchors = Anchors::read(&sources.anchors, &sources.bundles).map_err(fail)?;
        let mut crls = Vec::with_capacity(sources.crls.len());
        for (at, der) in sources.crls.iter().enumerate() {
            let crl = Crl::read(der).map_err(|problem| fail(format!("CRL {}{problem}", at + 1)))?;
            crls.push((der.clone(), crl));
        }
        Ok(Self {
            digest: digest(env!("CARGO_PKG_VERSION"), &sources),
            name: sources.name,
            crls: Arc::new(Crls::new(crls, &anchors)),
            anchors: Arc::new(anchors),
            unknown_revocation: sources.unknown_revocation,
            expired_crl: sources.expired_crl,
            policy: Rules::new(&sources.policy),
            configured: Arc::new(sources.policy),
        })
    }

    /// The same for one shard. Anchors and CRLs are shared, and read alone; the names of rules, of
    /// which every client that is let in holds one, are its own.
    pub fn for_shard(&self) -> Self {
        Self {
            name: self.name.clone(),
            anchors: Arc::clone(&self.anchors),
            crls: Arc::clone(&self.crls),
            unknown_revocation: self.unknown_revocation,
            expired_crl: self.expired_crl,
            policy: Rules::new(&self.configured),
            configured: Arc::clone(&self.configured),
            digest: self.digest,
        }
    }

    /// Whether another domain, made by [`TrustDomain::for_shard`], shares a part of it.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.anchors) > 1
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The anchors, each with the SPIFFE trust domain that it vouches for, if it is bound to one.
    pub fn anchors(&self) -> impl Iterator<Item = (Option<&TrustDomainName>, &Identity)> {
        let groups = self.anchors.named_groups();
        groups.flat_map(|(name, group)| {
            let authorities = group.authorities.iter();
            authorities.map(move |authority| (name, &authority.identity))
        })
    }

    /// What the CRLs say of themselves, the newest first.
    pub fn crls(&self) -> impl Iterator<Item = &RevocationList> {
        self.crls.all.iter().map(|crl| &crl.about)
    }

    /// How many of the CRLs have a signer that is not known yet. It is no anchor; the first client
    /// below it has the signature verified, on the shard, which takes milliseconds for a large CRL.
    pub fn unknown_signers(&self) -> usize {
        self.crls.unknown_signers()
    }

    /// Has the domains `now` know what `before` have learned of who signed CRLs that both have, so
    /// that no shard verifies their signatures again. It may take milliseconds.
    pub fn carry_signers<'a>(
        before: impl Iterator<Item = &'a Self>,
        now: impl Iterator<Item = &'a Self>,
    ) {
        Crls::carry_signers(before.map(|it| &*it.crls), now.map(|it| &*it.crls));
    }

    pub fn policy(&self) -> &Policy {
        &self.configured
    }

    /// SHA-256 over what decides here: anchors, CRLs, policy and revocation settings, and the version
    /// of the program that judges by them. The order of
    /// anchors and of CRLs, and the domain's name, do not change it.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Whether it has CRLs, so that the revocation of every certificate of a chain is checked.
    pub fn checks_revocation(&self) -> bool {
        !self.crls.all.is_empty()
    }

    /// What the anchor that vouched for `peer` says of itself; `None` if it does so no longer.
    pub fn anchor_of(&self, peer: &VerifiedPeer) -> Option<&Identity> {
        let group = self.anchors.of_client(peer.identity()).ok()?;
        let vouches = |anchor: &TrustAnchor<'_>| anchor_digest(anchor) == peer.chain().anchor;
        let at = group.anchors.iter().position(vouches)?;
        group.authorities.get(at).map(|anchor| &anchor.identity)
    }

    /// What an operator should know of the sources, though they are usable.
    pub fn warnings(&self) -> Vec<String> {
        let constrained = self.authorities();
        constrained
            .filter(|authority| authority.constrains_uris)
            .map(|authority| {
                format!(
                    "trust domain `{}`: the anchor `{}` has name constraints on URIs, which cannot \
                     be checked: clients below it that have a URI SAN (a SPIFFE ID) are refused",
                    self.name, authority.identity.subject
                )
            })
            .collect()
    }

    /// Checks that the chain leads to an anchor, is for client authentication, valid at `now` and
    /// not revoked, within the bounds of [`crate::limits`].
    ///
    /// Whether the peer holds the leaf's key is not checked here; see [`super::verifier`].
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<VerifiedPeer, Refusal> {
        self.verify_by(Self::unrevoked_path, leaf, intermediates, now)
    }

    /// As [`TrustDomain::verify`], where `find` finds the path.
    pub(super) fn verify_by(
        &self,
        find: FindPath,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<VerifiedPeer, Refusal> {
        let chain = Chain::read(leaf, intermediates)?;
        let refuse = |error| self.refusal(&error, &chain, now);
        // What the leaf claims only chooses the anchors that are to vouch for it.
        let group = self.anchors.of_client(chain.leaf());
        let group = group.map_err(|(reason, detail)| {
            Refusal::new(reason, detail, Some(Arc::clone(chain.leaf())))
        })?;
        let end_entity = EndEntityCert::try_from(leaf).map_err(refuse)?;
        let claim = Claim {
            chain: &chain,
            leaf: &end_entity,
            intermediates,
            group,
            now,
        };
        let path = find(self, &claim);
        let path = path.map_err(refuse)?;
        let identity = chain.leaf();
        if !identity.client_auth {
            let detail = format!(
                "`{}` is not for client authentication: it has no extended key usage clientAuth",
                identity.subject
            );
            return Err(Refusal::new(
                CloseReason::CertificatePurpose,
                detail,
                Some(Arc::clone(identity)),
            ));
        }
        self.verified(&chain, group, &path, now).ok_or_else(|| {
            let detail = "the verified path is not made of what was presented".to_owned();
            Refusal::new(CloseReason::Internal, detail, Some(Arc::clone(identity)))
        })
    }

    /// Asks the policy.
    pub fn authorize(&self, peer: VerifiedPeer) -> Result<Authorized, Refusal> {
        match self.policy.decide(peer.identity()) {
            Decision::Allowed { rule } => Ok(Authorized::by_rule(peer, rule)),
            refused => {
                let identity = Arc::clone(peer.identity());
                let (reason, detail) = self.policy_refusal(&refused, &identity);
                Err(Refusal::new(reason, detail, Some(identity)))
            }
        }
    }

    /// Why policy does not let `identity` in.
    pub(super) fn policy_refusal(
        &self,
        refused: &Decision,
        identity: &Identity,
    ) -> (CloseReason, String) {
        let subject = &identity.subject;
        match refused {
            Decision::Denied { rule } => (
                CloseReason::PolicyDenied,
                format!("rule `{rule}` denies `{subject}`"),
            ),
            Decision::Allowed { .. } | Decision::Unmatched => (
                CloseReason::PolicyUnmatched,
                format!("no rule of `{}` allows `{subject}`", self.name),
            ),
        }
    }

    /// `None` if the path has parts that were neither configured nor presented.
    fn verified(
        &self,
        chain: &Chain<'_>,
        group: &Group,
        path: &VerifiedPath<'_>,
        now: UnixTime,
    ) -> Option<VerifiedPeer> {
        let anchor = group.position_of(path.anchor())?;
        let leaf = chain.certificates.first()?;
        let anchor_spki = group.authorities.get(anchor)?.identity.spki_pin;
        let mut summary = ChainSummary {
            entries: ChainSummary::entries(path, anchor_spki),
            anchor: anchor_digest(path.anchor()),
            anchor_spki,
            not_before: leaf.identity.not_before,
            not_after: leaf.identity.not_after,
        };
        for intermediate in path.intermediate_certificates() {
            let identity = &chain.presented(&intermediate.der())?.identity;
            summary.not_before = summary.not_before.max(identity.not_before);
            summary.not_after = summary.not_after.min(identity.not_after);
        }
        let standing = Standing {
            domain: self.digest,
            revocation_until: self.revocation_until(&summary, seconds(now)),
            verified_at: seconds(now),
            chain: summary,
        };
        let presented = chain.certificates.iter();
        let presented = presented.map(|certificate| certificate.der.clone().into_owned());
        VerifiedPeer::new(Arc::clone(&leaf.identity), presented.collect(), standing)
    }

    /// The first second from which a CRL that was consulted for `chain` may count as expired.
    fn revocation_until(&self, chain: &ChainSummary, now: i64) -> i64 {
        if self.expired_crl == RevocationPolicy::Allow {
            return i64::MAX;
        }
        let entries = chain.entries.iter();
        entries
            .flat_map(|entry| self.crls.of(&entry.issuer))
            .filter_map(|crl| crl.about.next_update)
            // One that has expired was not the one consulted, or there would be no path.
            .filter(|&next_update| next_update > now)
            .min()
            .unwrap_or(i64::MAX)
    }

    fn refusal(&self, error: &webpki::Error, chain: &Chain<'_>, now: UnixTime) -> Refusal {
        let reason = reason(error);
        let leaf = chain.leaf();
        let detail = match (reason, error) {
            (CloseReason::CertificateRevoked, webpki::Error::CertRevoked) => {
                self.revoked_detail(chain)
            }
            (CloseReason::RevocationUnknown, _) => self.revocation_detail(error, chain, now),
            (_, webpki::Error::NameConstraintViolation) => {
                self.constraining_anchor(chain).map_or_else(
                    || detail(error, chain, &self.name),
                    |anchor| uri_constraints(&leaf.subject, anchor),
                )
            }
            (CloseReason::CertificateUnknownCa, error) => {
                let detail = detail(error, chain, &self.name);
                match self.anchors.other_trust_domain(chain) {
                    Some(other) => format!("{detail}; {other}"),
                    None => detail,
                }
            }
            _ => detail(error, chain, &self.name),
        };
        Refusal::new(reason, detail, Some(Arc::clone(leaf)))
    }

    /// The subject of an anchor that may have issued into this chain, constrains URIs, and so
    /// refuses a leaf with a URI.
    fn constraining_anchor(&self, chain: &Chain<'_>) -> Option<&str> {
        let issued = |anchor: &&Authority| {
            chain
                .identities()
                .any(|identity| identity.issuer == anchor.identity.subject)
        };
        self.authorities()
            .filter(|anchor| anchor.constrains_uris && !chain.leaf().uris.is_empty())
            .find(issued)
            .map(|anchor| anchor.identity.subject.as_str())
    }

    fn authorities(&self) -> impl Iterator<Item = &Authority> {
        self.anchors.groups().flat_map(|group| &group.authorities)
    }

    fn revoked_detail(&self, chain: &Chain<'_>) -> String {
        let is_revoked = |der: &CertificateDer<'_>| {
            let Ok(certificate) = EndEntityCert::try_from(der) else {
                return false;
            };
            self.crls.all.iter().any(|crl| {
                crl.list.issuer() == certificate.issuer()
                    && matches!(crl.list.find_serial(certificate.serial()), Ok(Some(_)))
            })
        };
        let revoked = chain
            .certificates
            .iter()
            .find(|presented| is_revoked(presented.der));
        let identity = revoked.map_or_else(|| chain.leaf(), |presented| &presented.identity);
        format!(
            "`{}`, serial {}, is revoked by the CRL of `{}`",
            identity.subject,
            identity.serial_hex(),
            identity.issuer
        )
    }

    /// Names the certificate whose issuer's CRL is missing or of no use.
    fn revocation_detail(&self, error: &webpki::Error, chain: &Chain<'_>, now: UnixTime) -> String {
        let leaf = &chain.leaf().subject;
        let crl_of = |issuer: &str| self.crls.all.iter().find(|crl| crl.about.issuer == issuer);
        match error {
            webpki::Error::UnknownRevocationStatus => {
                let uncovered = chain
                    .identities()
                    .find(|identity| crl_of(&identity.issuer).is_none());
                match uncovered {
                    Some(identity) => format!(
                        "no CRL of `{}` is configured, so nothing says whether `{}` is revoked; add \
                         it to the CRLs of `{}`",
                        identity.issuer, identity.subject, self.name
                    ),
                    None => format!(
                        "the CRLs that the issuers of `{leaf}` and its CAs have here are for other \
                         distribution points or other kinds of certificates"
                    ),
                }
            }
            webpki::Error::CrlExpired { next_update, .. } => {
                let next_update = seconds(*next_update);
                let issuer = chain
                    .identities()
                    .filter_map(|identity| crl_of(&identity.issuer))
                    .find(|crl| crl.about.next_update == Some(next_update))
                    .map_or("unknown", |crl| &crl.about.issuer);
                let ago = span(seconds(now) - next_update);
                format!(
                    "the CRL of `{issuer}` should have been replaced by {}, {ago} ago, so nothing \
                     says whether the chain of `{leaf}` is revoked; fetch a new one",
                    utc(next_update)
                )
            }
            webpki::Error::InvalidCrlSignatureForPublicKey => format!(
                "the CRL for an issuer in the chain of `{leaf}` has that issuer's name (one of {}) \
                 but was signed by another key",
                self.issuers(chain)
            ),
            webpki::Error::IssuerNotCrlSigner => format!(
                "a CA in the chain of `{leaf}` (one of {}) may not sign CRLs: its key usage lacks \
                 cRLSign",
                self.issuers(chain)
            ),
            error => {
                format!(
                    "the CRLs for the chain of `{leaf}` ({}): {error}",
                    self.issuers(chain)
                )
            }
        }
    }

    fn issuers(&self, chain: &Chain<'_>) -> String {
        let quoted: Vec<_> = chain
            .identities()
            .map(|identity| format!("`{}`", identity.issuer))
            .collect();
        quoted.join(", ")
    }
}

/// Every part is preceded by its length or count, so that no two different sources have the same
/// bytes.
///
/// `version` is that of the program. Tickets outlive it: what a chain check found that was mended
/// since must not stand for one.
fn digest(version: &str, sources: &TrustSources) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    let mut write = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    write(version.as_bytes());
    let mut write_set = |mut ders: Vec<&[u8]>| {
        ders.sort_unstable();
        ders.dedup();
        write(&(ders.len() as u64).to_be_bytes());
        ders.iter().for_each(|der| write(der));
    };
    write_set(sources.anchors.iter().map(AsRef::as_ref).collect());
    write_set(sources.crls.iter().map(AsRef::as_ref).collect());
    let mut bundles: Vec<&Bundle> = sources.bundles.iter().collect();
    bundles.sort_unstable_by_key(|bundle| &bundle.trust_domain);
    // The set of their names says how many there are.
    let names = bundles.iter().map(|bundle| bundle.trust_domain.as_str());
    write_set(names.map(str::as_bytes).collect());
    for bundle in bundles {
        write_set(bundle.anchors.iter().map(AsRef::as_ref).collect());
    }
    for policy in [sources.unknown_revocation, sources.expired_crl] {
        write(match policy {
            RevocationPolicy::Allow => b"allow",
            RevocationPolicy::Deny => b"deny",
        });
    }
    for rule in &sources.policy.rules {
        write(rule.name.as_bytes());
        write(match rule.effect {
            Effect::Allow => b"allow",
            Effect::Deny => b"deny",
        });
        write(&(rule.matchers.len() as u64).to_be_bytes());
        for matcher in &rule.matchers {
            let (kind, value): (&[u8], &[u8]) = match matcher {
                Matcher::Any => (b"any", b""),
                Matcher::CommonName(name) => (b"common name", name.as_bytes()),
                Matcher::Dns(pattern) => (b"dns", pattern.as_str().as_bytes()),
                Matcher::Fingerprint(fingerprint) => (b"fingerprint", fingerprint),
                Matcher::OrganizationalUnit(unit) => (b"organizational unit", unit.as_bytes()),
                Matcher::Spiffe(pattern) => (b"spiffe", pattern.as_str().as_bytes()),
                Matcher::SpkiPin(pin) => (b"spki pin", pin),
                Matcher::Uri(pattern) => (b"uri", pattern.as_str().as_bytes()),
            };
            write(kind);
            write(value);
        }
    }
    context
        .finish()
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    #[test]
    fn what_another_version_found_is_of_another_domain() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let anchor = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let sources = || TrustSources {
            anchors: vec![anchor.der().clone()],
            ..TrustSources::default()
        };
        let of_this = digest(env!("CARGO_PKG_VERSION"), &sources());
        assert_eq!(TrustDomain::new(sources()).unwrap().digest(), of_this);
        assert_ne!(digest("0.0.0", &sources()), of_this);
    }
}
