//! What a CRL says of itself.

use x509_parser::asn1_rs::{Any, BitString, Sequence};
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension};
use x509_parser::num_bigint::BigUint;
use x509_parser::oid_registry::OID_X509_EXT_CRL_DISTRIBUTION_POINTS;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::{IdentityError, distinguished_name, parse};

/// Whose CRL it is and from when.
#[derive(Clone, Debug)]
pub struct RevocationList {
    pub issuer: String,
    /// Seconds since the Unix epoch.
    pub this_update: i64,
    /// Its number (RFC 5280 section 5.2.3), if it has one. Several may be issued within a second.
    number: Option<BigUint>,
    pub next_update: Option<i64>,
    /// How many certificates it revokes.
    pub revoked: usize,
    /// Tells a CA's CRLs apart: which of its keys signed (RFC 5280 section 5.2.1), and for which of
    /// its certificates (section 5.2.5). Of those that have this the same the newest counts.
    pub series: CrlSeries,
    /// For which of its issuer's certificates it is; `None`: for all.
    reach: Option<Reach>,
}

/// What an issuing distribution point says (RFC 5280 section 5.2.5).
#[derive(Clone, Debug)]
struct Reach {
    users_only: bool,
    cas_only: bool,
    /// The URIs that it is published at.
    points: Vec<String>,
}

/// See [`RevocationList::series`]. Each is what the CRL says, if it does.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct CrlSeries {
    pub authority_key: Option<Vec<u8>>,
    /// The DER of the issuing distribution point.
    pub scope: Option<Vec<u8>>,
}

impl RevocationList {
    /// What is greater for a newer one of the same series.
    pub fn version(&self) -> impl Ord {
        (self.this_update, self.number.clone())
    }

    pub fn from_der(crl: &[u8]) -> Result<Self, IdentityError> {
        let (rest, crl) = CertificateRevocationList::from_der(crl)
            .map_err(|error| IdentityError(format!("not a DER CRL ({error})")))?;
        if !rest.is_empty() {
            return Err(IdentityError(format!(
                "{} bytes after the CRL's end",
                rest.len()
            )));
        }
        let extension = |wanted: fn(&ParsedExtension<'_>) -> bool| {
            let mut extensions = crl.extensions().iter();
            extensions.find(|extension| wanted(extension.parsed_extension()))
        };
        let authority_key =
            extension(|kind| matches!(kind, ParsedExtension::AuthorityKeyIdentifier(_)));
        let scope = extension(|kind| matches!(kind, ParsedExtension::IssuingDistributionPoint(_)));
        Ok(Self {
            issuer: distinguished_name(crl.issuer()),
            this_update: crl.last_update().timestamp(),
            number: crl.crl_number().cloned(),
            next_update: crl.next_update().map(|time| time.timestamp()),
            revoked: crl.iter_revoked_certificates().count(),
            series: CrlSeries {
                authority_key: authority_key.and_then(|it| key_identifier(it.parsed_extension())),
                scope: scope.map(|extension| extension.value.to_vec()),
            },
            reach: scope.and_then(|extension| reach(extension.parsed_extension())),
        })
    }

    /// Whether `certificate`, which its issuer signed, is one of those that it is for. The rules are
    /// webpki's.
    pub(in crate::trust) fn is_for(&self, certificate: &[u8], is_ca: bool) -> bool {
        let Some(reach) = &self.reach else {
            return true;
        };
        let is_other_kind = if is_ca {
            reach.users_only
        } else {
            reach.cas_only
        };
        if is_other_kind {
            return false;
        }
        let Ok(certificate) = parse(certificate) else {
            return false;
        };
        let mut extensions = certificate.iter_extensions();
        let points = extensions.find(|it| it.oid == OID_X509_EXT_CRL_DISTRIBUTION_POINTS);
        let points = match points.map(|extension| extension.parsed_extension()) {
            None => return true,
            Some(ParsedExtension::CRLDistributionPoints(points)) => points,
            Some(_) => return false,
        };
        // One with an issuer is for indirect CRLs, one with reasons for a part of what is revoked.
        points
            .iter()
            .filter(|point| point.crl_issuer.is_none() && point.reasons.is_none())
            .flat_map(|point| uris(point.distribution_point.as_ref()))
            .any(|uri| reach.points.iter().any(|known| known == uri))
    }
}

/// What a CRL's signature is over, and the signature.
#[derive(Debug, Eq, Hash, PartialEq)]
pub(in crate::trust) struct SignedCrl {
    pub content: Vec<u8>,
    /// The content of the signature's AlgorithmIdentifier.
    pub algorithm: Vec<u8>,
    pub signature: Vec<u8>,
}

impl SignedCrl {
    pub fn from_der(crl: &[u8]) -> Option<Self> {
        let (_, list) = Sequence::from_der(crl).ok()?;
        let list: &[u8] = &list.content;
        let (rest, _) = Any::from_der(list).ok()?;
        let content = list[..list.len() - rest.len()].to_vec();
        let (rest, algorithm) = Sequence::from_der(rest).ok()?;
        let (_, signature) = BitString::from_der(rest).ok()?;
        Some(Self {
            content,
            algorithm: algorithm.content.to_vec(),
            signature: signature.data.to_vec(),
        })
    }
}

fn key_identifier(extension: &ParsedExtension<'_>) -> Option<Vec<u8>> {
    match extension {
        ParsedExtension::AuthorityKeyIdentifier(authority) => {
            authority.key_identifier.as_ref().map(|key| key.0.to_vec())
        }
        _ => None,
    }
}

fn reach(extension: &ParsedExtension<'_>) -> Option<Reach> {
    match extension {
        ParsedExtension::IssuingDistributionPoint(point) => Some(Reach {
            users_only: point.only_contains_user_certs,
            cas_only: point.only_contains_ca_certs,
            points: uris(point.distribution_point.as_ref())
                .map(str::to_owned)
                .collect(),
        }),
        _ => None,
    }
}

/// Those of a distribution point's full name.
fn uris<'a>(point: Option<&'a DistributionPointName<'a>>) -> impl Iterator<Item = &'a str> {
    let names: &[GeneralName<'_>] = match point {
        Some(DistributionPointName::FullName(names)) => names,
        _ => &[],
    };
    names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}
