//! The trust anchors of a domain, and which of them may vouch for a client.
//!
//! Where a domain has SPIFFE bundles, the ID that a leaf claims chooses the one bundle whose anchors
//! its chain may lead to: an authority of one trust domain never vouches for an ID of another.

use std::collections::{BTreeMap, HashSet};

use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::anchor_from_trusted_cert;

use super::Identity;
use super::chain::Chain;
use super::identity::Authority;
use super::spiffe::{TrustDomainName, svid, trust_domain_of};
use super::summary::anchor_digest;
use crate::close_reason::CloseReason;
use crate::limits;

/// Bits of the shortest RSA modulus that signatures are verified with.
const RSA_MODULUS_BITS_MIN: usize = 2048;

/// The authorities of a SPIFFE trust domain.
#[derive(Debug)]
pub struct Bundle {
    pub trust_domain: TrustDomainName,
    /// At least one.
    pub anchors: Vec<CertificateDer<'static>>,
}

/// Anchors that vouch for the same clients: each in three forms, at the same index.
#[derive(Debug)]
pub(super) struct Group {
    pub anchors: Vec<TrustAnchor<'static>>,
    pub certificates: Vec<CertificateDer<'static>>,
    pub authorities: Vec<Authority>,
    /// [`anchor_digest`] of each of `anchors`.
    pub digests: HashSet<[u8; 32]>,
}

#[derive(Debug)]
pub(super) enum Anchors {
    /// Each vouches for every name.
    Plain(Group),
    /// Each vouches for the IDs of its trust domain alone.
    Spiffe(BTreeMap<TrustDomainName, Group>),
}

impl Anchors {
    /// # Errors
    ///
    /// No anchors, or both kinds; anchors that cannot be used; a bundle that holds the authority of
    /// another trust domain.
    pub fn read(plain: &[CertificateDer<'_>], bundles: &[Bundle]) -> Result<Self, String> {
        match (plain, bundles) {
            ([], []) => Err(
                "no trust anchors, so nobody could come in; name a file with at least one CA \
                 certificate in PEM"
                    .to_owned(),
            ),
            (plain, []) => Group::read(plain).map(Self::Plain),
            ([], bundles) => {
                let mut groups = BTreeMap::new();
                for Bundle {
                    trust_domain,
                    anchors,
                } in bundles
                {
                    let named = |problem| format!("bundle of `{trust_domain}`: {problem}");
                    let group = Group::read(anchors).map_err(named)?;
                    group.check_is_of(trust_domain).map_err(named)?;
                    if groups.insert(trust_domain.clone(), group).is_some() {
                        return Err(named("there are two; make one of them".to_owned()));
                    }
                }
                Ok(Self::Spiffe(groups))
            }
            _ => Err(
                "both SPIFFE bundles and anchors that vouch for every name; keep one of the two"
                    .to_owned(),
            ),
        }
    }

    /// The anchors that may vouch for `leaf`, whose names are but a claim.
    ///
    /// # Errors
    ///
    /// Where there are bundles: a leaf that is no X.509-SVID, or whose trust domain has none.
    pub fn of_client(&self, leaf: &Identity) -> Result<&Group, (CloseReason, String)> {
        let groups = match self {
            Self::Plain(group) => return Ok(group),
            Self::Spiffe(groups) => groups,
        };
        let subject = &leaf.subject;
        let id = svid(leaf).map_err(|problem| {
            let detail = format!("`{subject}` is no X.509-SVID: {problem}");
            (CloseReason::CertificateInvalid, detail)
        })?;
        let trust_domain = trust_domain_of(id).unwrap_or_default();
        groups.get(trust_domain).ok_or_else(|| {
            let known: Vec<_> = groups.keys().map(|known| format!("`{known}`")).collect();
            let detail = format!(
                "`{subject}` is of the trust domain `{trust_domain}`, which has no bundle here; \
                 there are those of {}",
                known.join(", ")
            );
            (CloseReason::CertificateUnknownCa, detail)
        })
    }

    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.named_groups().map(|(_, group)| group)
    }

    /// Each with the trust domain that it vouches for, if it is bound to one.
    pub fn named_groups(&self) -> impl Iterator<Item = (Option<&TrustDomainName>, &Group)> {
        let (plain, bundles) = match self {
            Self::Plain(group) => (Some((None, group)), None),
            Self::Spiffe(groups) => (None, Some(groups)),
        };
        let bundles = bundles.into_iter().flatten();
        plain
            .into_iter()
            .chain(bundles.map(|(name, group)| (Some(name), group)))
    }

    /// For a chain that leads to none of the anchors that may vouch for it: which other trust
    /// domain has an authority of the name that issued in it.
    pub fn other_trust_domain(&self, chain: &Chain<'_>) -> Option<String> {
        let Self::Spiffe(groups) = self else {
            return None;
        };
        let own = trust_domain_of(chain.leaf().spiffe_id()?)?;
        let issued = |group: &Group| {
            let mut authorities = group.authorities.iter();
            authorities.any(|authority| {
                chain
                    .identities()
                    .any(|identity| identity.issuer == authority.identity.subject)
            })
        };
        let mut others = groups.iter().filter(|(name, _)| name.as_str() != own);
        let (other, _) = others.find(|(_, group)| issued(group))?;
        Some(format!(
            "a CA of that name is of the trust domain `{other}`, which may not vouch for `{own}`"
        ))
    }
}

impl Group {
    fn read(ders: &[CertificateDer<'_>]) -> Result<Self, String> {
        if ders.is_empty() {
            return Err("it has no trust anchor".to_owned());
        }
        let mut anchors = Vec::with_capacity(ders.len());
        let mut authorities = Vec::with_capacity(ders.len());
        for (at, der) in ders.iter().enumerate() {
            let (anchor, authority) = read_anchor(der)
                .map_err(|problem| format!("trust anchor {}: {problem}", at + 1))?;
            anchors.push(anchor);
            authorities.push(authority);
        }
        Ok(Self {
            digests: anchors.iter().map(anchor_digest).collect(),
            anchors,
            certificates: ders.iter().map(|der| der.clone().into_owned()).collect(),
            authorities,
        })
    }

    /// Of a reference into `anchors`.
    pub fn position_of(&self, anchor: &TrustAnchor<'_>) -> Option<usize> {
        let mut anchors = self.anchors.iter();
        anchors.position(|known| std::ptr::eq(known, anchor))
    }

    /// An authority's own ID, where it has one, is of its trust domain (X509-SVID section 3.2). A
    /// file in which several trust domains were merged would let each speak for the other.
    fn check_is_of(&self, trust_domain: &TrustDomainName) -> Result<(), String> {
        for Authority { identity, .. } in &self.authorities {
            let mut claimed = identity.uris.iter().filter_map(|uri| trust_domain_of(uri));
            if let Some(other) = claimed.find(|claimed| *claimed != trust_domain.as_str()) {
                return Err(format!(
                    "`{}` is an authority of the trust domain `{other}`; give that a bundle of its \
                     own (spiffe-helper merges them unless include_federated_domains = false)",
                    identity.subject
                ));
            }
        }
        Ok(())
    }
}

fn read_anchor(der: &CertificateDer<'_>) -> Result<(TrustAnchor<'static>, Authority), String> {
    let authority = Authority::from_der(der).map_err(|error| error.to_string())?;
    let subject = &authority.identity.subject;
    let anchor = anchor_from_trusted_cert(der)
        .map_err(|error| format!("`{subject}` cannot be a trust anchor ({error})"))?;
    if !authority.is_ca {
        return Err(format!(
            "`{subject}` is no CA certificate (basic constraints); to let in one certificate, name \
             its CA here and its fingerprint in a rule"
        ));
    }
    let supported = RSA_MODULUS_BITS_MIN..=limits::RSA_MODULUS_BITS_MAX;
    if let Some(bits) = authority.identity.rsa_modulus_bits
        && !supported.contains(&bits)
    {
        return Err(format!(
            "`{subject}` has an RSA modulus of {bits} bits; {} to {} are supported",
            supported.start(),
            supported.end()
        ));
    }
    Ok((anchor.to_owned(), authority))
}
