//! Whether a certificate of a path is revoked.
//!
//! webpki verifies the signature of an issuer's CRL for every certificate that it looks up in it, and
//! a large CRL takes milliseconds to hash. That a key signed a CRL does not change: where it is known,
//! and it is plain which CRL webpki would ask, the rest of webpki's check is done here. Everything else
//! is left to webpki.

use std::cell::Cell;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptions, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

use super::TrustDomain;
use super::anchors::Group;
use super::chain::Chain;
use super::crl::Crl;
use super::domain::RevocationPolicy;
use super::summary::name_digest;

/// Signatures accepted on certificates and CRLs: ECDSA on P-256, P-384 and P-521, Ed25519, RSA
/// PKCS#1 and PSS from 2048 to 8192 bits, all with SHA-2.
pub(super) static SIGNATURE_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::aws_lc_rs::ECDSA_P256_SHA256,
    webpki::aws_lc_rs::ECDSA_P256_SHA384,
    webpki::aws_lc_rs::ECDSA_P256_SHA512,
    webpki::aws_lc_rs::ECDSA_P384_SHA256,
    webpki::aws_lc_rs::ECDSA_P384_SHA384,
    webpki::aws_lc_rs::ECDSA_P384_SHA512,
    webpki::aws_lc_rs::ECDSA_P521_SHA256,
    webpki::aws_lc_rs::ECDSA_P521_SHA384,
    webpki::aws_lc_rs::ECDSA_P521_SHA512,
    webpki::aws_lc_rs::ED25519,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA384,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA512,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
    webpki::aws_lc_rs::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    webpki::aws_lc_rs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// A chain that was read and is to be verified.
pub(super) struct Claim<'p> {
    pub chain: &'p Chain<'p>,
    pub leaf: &'p EndEntityCert<'p>,
    pub intermediates: &'p [CertificateDer<'p>],
    /// The anchors that may vouch for the leaf.
    pub group: &'p Group,
    pub now: UnixTime,
}

/// Finds a path that is good and, where the domain has CRLs, unrevoked.
pub(super) type FindPath =
    for<'p> fn(&TrustDomain, &Claim<'p>) -> Result<VerifiedPath<'p>, webpki::Error>;

/// A certificate of a path, and the key that signed it.
struct Link {
    /// [`name_digest`] of the issuer.
    issuer: [u8; 32],
    serial: Box<[u8]>,
    /// The digest of the SubjectPublicKeyInfo's DER.
    key: [u8; 32],
    /// Whether the issuer's key usage lets it sign CRLs; `None` where that cannot be read.
    signs_crls: Option<bool>,
}

impl TrustDomain {
    /// As [`TrustDomain::path_by_webpki`], without a CRL's signature being verified that was before.
    pub(super) fn unrevoked_path<'p>(
        &self,
        claim: &Claim<'p>,
    ) -> Result<VerifiedPath<'p>, webpki::Error> {
        let anchors = &claim.group.anchors;
        if self.crls.all.is_empty() {
            return claim.find_path(anchors, None, None);
        }
        let is_decided = Cell::new(true);
        let unrevoked = |path: &VerifiedPath<'_>| {
            let status = self.path_status(claim, path);
            status.unwrap_or_else(|| {
                is_decided.set(false);
                Err(webpki::Error::UnknownRevocationStatus)
            })
        };
        // webpki looks at paths in the same order whatever is asked of them, and takes the first one
        // that is good: it is the same one where the status of each that it came to was known.
        let found = claim.find_path(anchors, None, Some(&unrevoked));
        if is_decided.get() {
            return found;
        }
        let path = self.path_by_webpki(claim)?;
        // Among namesakes the path that was checked may be another one.
        if !self.crls.has_namesakes {
            self.remember_signers(claim, &path);
        }
        Ok(path)
    }

    /// A path of which webpki itself checked the revocation.
    pub(super) fn path_by_webpki<'p>(
        &self,
        claim: &Claim<'p>,
    ) -> Result<VerifiedPath<'p>, webpki::Error> {
        let group = claim.group;
        if !self.crls.has_namesakes {
            let crls: Vec<_> = self.crls.all.iter().map(|crl| &crl.list).collect();
            let options = self.revocation_options(&crls);
            return claim.find_path(&group.anchors, options, None);
        }
        // Which key an issuer has is known once there is a path.
        let unrevoked = |path: &VerifiedPath<'_>| {
            let at = group.position_of(path.anchor());
            let at = at.ok_or(webpki::Error::UnknownIssuer)?;
            let crls = self.crls.speaking_of(path, &group.certificates[at]);
            let anchor = std::slice::from_ref(&group.anchors[at]);
            let options = self.revocation_options(&crls);
            claim.find_path(anchor, options, None).map(drop)
        };
        claim.find_path(&group.anchors, None, Some(&unrevoked))
    }

    /// What webpki would say of the revocation of `path`, if that is known: it asks from the anchor
    /// down and ends at the first error.
    fn path_status(
        &self,
        claim: &Claim<'_>,
        path: &VerifiedPath<'_>,
    ) -> Option<Result<(), webpki::Error>> {
        for link in claim.links(path)? {
            let status = self.status(&link, claim.now)?;
            if status.is_err() {
                return Some(status);
            }
        }
        Some(Ok(()))
    }

    /// The checks are webpki's, in its order; `None` where it has to do them.
    fn status(&self, link: &Link, now: UnixTime) -> Option<Result<(), webpki::Error>> {
        let Some(crl) = self.crl_for(link)? else {
            return Some(match self.unknown_revocation {
                RevocationPolicy::Allow => Ok(()),
                RevocationPolicy::Deny => Err(webpki::Error::UnknownRevocationStatus),
            });
        };
        if crl.signer() != Some(&link.key) {
            return None;
        }
        let next_update = u64::try_from(crl.about.next_update?).ok()?;
        let next_update = UnixTime::since_unix_epoch(Duration::from_secs(next_update));
        if self.expired_crl == RevocationPolicy::Deny && now >= next_update {
            let time = now;
            return Some(Err(webpki::Error::CrlExpired { time, next_update }));
        }
        if !link.signs_crls? {
            return Some(Err(webpki::Error::IssuerNotCrlSigner));
        }
        Some(match crl.list.find_serial(&link.serial) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(webpki::Error::CertRevoked),
            Err(error) => Err(error),
        })
    }

    /// The CRL that webpki would ask, if the issuer has one at all. It is the newest one, unless that
    /// is for some certificates only: `None`.
    ///
    /// Among namesakes webpki is not shown those of others; a CRL that the issuer's key signed is none
    /// of these.
    fn crl_for(&self, link: &Link) -> Option<Option<&Crl>> {
        let crl = self.crls.of(&link.issuer).next();
        let is_scoped = crl.is_some_and(|crl| crl.list.issuing_distribution_point().is_some());
        (!is_scoped).then_some(crl)
    }

    /// Keeps that the signatures of the CRLs for `path` were verified.
    fn remember_signers(&self, claim: &Claim<'_>, path: &VerifiedPath<'_>) {
        for link in claim.links(path).into_iter().flatten() {
            if let Some(Some(crl)) = self.crl_for(&link) {
                crl.remember_signer(link.key);
            }
        }
    }

    fn revocation_options<'a>(
        &self,
        crls: &'a [&'a CertRevocationList<'a>],
    ) -> Option<RevocationOptions<'a>> {
        // Fails only without CRLs, and then revocation is not checked.
        let options = RevocationOptionsBuilder::new(crls).ok()?;
        let unknown = match self.unknown_revocation {
            RevocationPolicy::Allow => UnknownStatusPolicy::Allow,
            RevocationPolicy::Deny => UnknownStatusPolicy::Deny,
        };
        let expired = match self.expired_crl {
            RevocationPolicy::Allow => ExpirationPolicy::Ignore,
            RevocationPolicy::Deny => ExpirationPolicy::Enforce,
        };
        Some(
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(unknown)
                .with_expiration_policy(expired)
                .build(),
        )
    }
}

impl<'p> Claim<'p> {
    /// A path from the leaf to one of `anchors`, by the intermediates that were presented with it.
    fn find_path(
        &self,
        anchors: &'p [TrustAnchor<'_>],
        revocation: Option<RevocationOptions<'_>>,
        check: Option<PathCheck<'_>>,
    ) -> Result<VerifiedPath<'p>, webpki::Error> {
        self.leaf.verify_for_usage(
            SIGNATURE_ALGORITHMS,
            anchors,
            self.intermediates,
            self.now,
            // CAs need not name a purpose. The leaf must, which is checked apart.
            KeyUsage::client_auth(),
            revocation,
            check,
        )
    }

    /// Of the certificates of `path`, from the anchor down. `None` if it has parts that were neither
    /// configured nor presented.
    fn links(&self, path: &VerifiedPath<'_>) -> Option<Vec<Link>> {
        let anchor = self.group.position_of(path.anchor())?;
        // webpki lets every anchor sign CRLs.
        let mut signs_crls = Some(true);
        let mut key = self.group.authorities.get(anchor)?.identity.spki_pin;
        let mut links = Vec::with_capacity(self.intermediates.len() + 1);
        for certificate in path.intermediate_certificates().rev() {
            links.push(Link {
                issuer: name_digest(certificate.issuer()),
                serial: certificate.serial().into(),
                key,
                signs_crls,
            });
            key = name_digest(&certificate.subject_public_key_info());
            signs_crls = self.chain.presented(&certificate.der())?.signs_crls;
        }
        links.push(Link {
            issuer: name_digest(self.leaf.issuer()),
            serial: self.leaf.serial().into(),
            key,
            signs_crls,
        });
        Some(links)
    }
}

/// What webpki asks of a path that it has found.
type PathCheck<'a> = &'a dyn Fn(&VerifiedPath<'_>) -> Result<(), webpki::Error>;

#[cfg(test)]
mod tests;
