//! What is kept of a verified path, so that it can be judged again without the certificates.

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::TrustAnchor;
use webpki::VerifiedPath;

/// A verified path in short: what decides whether it would be trusted again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChainSummary {
    /// The leaf, then each intermediate CA up to the one that the anchor issued.
    pub entries: Vec<ChainEntry>,
    /// [`anchor_digest`] of the anchor that the path ends at.
    pub anchor: [u8; 32],
    /// SHA-256 of the SubjectPublicKeyInfo's DER of that anchor.
    pub anchor_spki: [u8; 32],
    /// The latest notBefore of `entries`, in seconds since the Unix epoch.
    pub not_before: i64,
    /// The earliest notAfter of `entries`, in seconds since the Unix epoch.
    pub not_after: i64,
}

/// What names a certificate in a CRL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChainEntry {
    /// SHA-256 of the issuer's name as the certificate encodes it, see [`name_digest`].
    pub issuer: [u8; 32],
    /// SHA-256 of the SubjectPublicKeyInfo's DER of the issuer: a CA may change its key and keep its
    /// name.
    pub key: [u8; 32],
    /// The serial number's content bytes as the certificate encodes them.
    pub serial: Box<[u8]>,
}

impl ChainSummary {
    /// The entries of a path that ends at an anchor with this key.
    pub(super) fn entries(path: &VerifiedPath<'_>, anchor_spki: [u8; 32]) -> Vec<ChainEntry> {
        let leaf = path.end_entity();
        let leaf = (leaf.issuer(), leaf.serial());
        let intermediates = path
            .intermediate_certificates()
            .map(|certificate| (certificate.issuer(), certificate.serial()));
        let keys = path
            .intermediate_certificates()
            .map(|certificate| name_digest(&certificate.subject_public_key_info()))
            .chain([anchor_spki]);
        std::iter::once(leaf)
            .chain(intermediates)
            .zip(keys)
            .map(|((issuer, serial), key)| ChainEntry {
                issuer: name_digest(issuer),
                key,
                serial: serial.into(),
            })
            .collect()
    }
}

/// SHA-256 of a distinguished name's content bytes, as webpki hands them out for certificates and
/// CRLs alike.
pub fn name_digest(name: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(name);
    finish(context)
}

/// SHA-256 over what an anchor stands for: name, key and name constraints. A CA certificate that is
/// issued anew with all three the same is the same anchor.
pub fn anchor_digest(anchor: &TrustAnchor<'_>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    let constraints = anchor.name_constraints.as_deref();
    for part in [
        anchor.subject.as_ref(),
        anchor.subject_public_key_info.as_ref(),
        constraints.unwrap_or_default(),
    ] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.update(&[u8::from(constraints.is_some())]);
    finish(context)
}

fn finish(context: Context) -> [u8; 32] {
    context
        .finish()
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}
