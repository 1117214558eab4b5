//! Clients made at the start of a run, by a CA whose key is at hand.

use std::path::Path;

use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use super::{
    CLIENTS_MAX, Credential, KeyKind, LIVE_DAYS, PkiError, SignedLeaf, client_params, files,
    generate_key, pkcs8,
};

/// Makes `count` clients with keys of the kind that the CA has. The CA's certificate goes into
/// their chains unless it is a root.
pub fn make_pool(certificate: &Path, key: &Path, count: u32) -> Result<Vec<Credential>, PkiError> {
    if count > CLIENTS_MAX {
        return Err(PkiError::TooMany(count.into()));
    }
    let authority = files::load_credential(certificate, key)?;
    let unusable = |reason: String| PkiError::File {
        path: key.display().to_string(),
        reason,
        remedy: "expected the PKCS#8 key of a CA, as `ringgate-loadgen pki DIR` leaves one",
    };
    let of_rustls =
        any_supported_type(&authority.key).map_err(|error| unusable(error.to_string()))?;
    CertifiedKey::new(authority.chain.clone(), of_rustls)
        .keys_match()
        .map_err(|_| unusable(format!("is not the key of {}", certificate.display())))?;
    let signer = KeyPair::try_from(authority.key.secret_der())
        .map_err(|error| unusable(error.to_string()))?;
    let kind = if signer.algorithm() == &PKCS_ED25519 {
        KeyKind::Ed25519
    } else if signer.algorithm() == &PKCS_ECDSA_P256_SHA256 {
        KeyKind::P256
    } else {
        KeyKind::Rsa2048
    };
    let above: Vec<CertificateDer<'static>> = match &authority.chain[..] {
        [root] if is_self_issued(root) == Some(true) => Vec::new(),
        chain => chain.to_vec(),
    };
    let issuer = Issuer::from_ca_cert_der(&authority.chain[0], signer)?;
    let make = |number| {
        let (params, spiffe_id) = client_params("client", number, LIVE_DAYS)?;
        let own = generate_key(kind)?;
        let leaf = params.signed_by(&own, &issuer)?.der().clone();
        let (chain, key): SignedLeaf = (
            std::iter::once(leaf).chain(above.iter().cloned()).collect(),
            pkcs8(&own).into(),
        );
        Ok(Credential {
            name: format!("client-{number}"),
            spiffe_id: Some(spiffe_id),
            chain,
            key,
        })
    };
    (1..=count).map(make).collect()
}

/// Whether issuer and subject are the same name (RFC 5280 section 4.1); `None` where that cannot be
/// read.
fn is_self_issued(certificate: &[u8]) -> Option<bool> {
    const VERSION: u8 = 0xA0;
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    if fields.first() == Some(&VERSION) {
        (_, _, fields) = element(fields)?;
    }
    // Serial number and signature algorithm.
    (_, _, fields) = element(fields)?;
    (_, _, fields) = element(fields)?;
    let (issuer, _, after) = element(fields)?;
    // Validity.
    let (_, _, after) = element(after)?;
    let (subject, _, _) = element(after)?;
    Some(issuer == subject)
}

/// The first DER element of `bytes`: whole, its content, and what follows it.
fn element(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    const LONG: u8 = 0x80;
    let first = *bytes.get(1)?;
    let (header, len) = if first < LONG {
        (2, usize::from(first))
    } else {
        let digits = usize::from(first - LONG);
        let len = bytes.get(2..2 + digits).filter(|_| digits <= 4)?;
        let len = len
            .iter()
            .fold(0, |len, &digit| len << 8 | usize::from(digit));
        (2 + digits, len)
    };
    let content = bytes.get(header..header.checked_add(len)?)?;
    Some((&bytes[..header + len], content, &bytes[header + len..]))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::server::WebPkiClientVerifier;
    use rustls_pki_types::UnixTime;

    use super::*;
    use crate::pki::{Pki, PkiOptions};

    #[test]
    fn clients_that_are_made_verify_under_the_issuer_that_pki_leaves() {
        for (key, intermediate) in [
            (KeyKind::P256, false),
            (KeyKind::P256, true),
            (KeyKind::Ed25519, true),
            (KeyKind::Rsa2048, false),
        ] {
            let options = PkiOptions {
                key,
                intermediate,
                ..PkiOptions::default()
            };
            let pki = Pki::generate(&options).unwrap();
            let directory = files::tests::Directory::new(&format!("issuer-{key:?}-{intermediate}"));
            files::write(&pki, &directory.0).unwrap();
            let pool = make_pool(
                &directory.0.join("client-issuer.pem"),
                &directory.0.join("client-issuer.key"),
                2,
            )
            .unwrap();

            let mut roots = RootCertStore::empty();
            roots.add(pki.client_ca.clone()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .unwrap();
            for client in &pool {
                let (leaf, rest) = client.chain.split_first().unwrap();
                verifier
                    .verify_client_cert(leaf, rest, UnixTime::now())
                    .unwrap();
                assert_eq!(rest.len(), usize::from(intermediate));
            }
            assert_ne!(pool[0].fingerprint(), pool[1].fingerprint());
        }
    }

    #[test]
    fn names_of_issuer_and_subject_are_compared() {
        let options = PkiOptions {
            intermediate: true,
            ..PkiOptions::default()
        };
        let pki = Pki::generate(&options).unwrap();
        assert_eq!(is_self_issued(&pki.client_ca), Some(true));
        assert_eq!(is_self_issued(&pki.clients[0].chain[0]), Some(false));
        assert_eq!(is_self_issued(&pki.clients[0].chain[1]), Some(false));
        for len in 0..pki.client_ca.len() / 2 {
            let _ = is_self_issued(&pki.client_ca[..len]);
        }
        assert_eq!(is_self_issued(&[0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF]), None);
    }

    #[test]
    fn a_file_that_is_no_key_is_named() {
        let pki = Pki::generate(&PkiOptions::default()).unwrap();
        let directory = files::tests::Directory::new("issuer-none");
        files::write(&pki, &directory.0).unwrap();
        let certificate = directory.0.join("client-issuer.pem");
        let error = make_pool(&certificate, &certificate, 1).unwrap_err();
        assert!(error.to_string().contains("client-issuer.pem"), "{error}");
    }
}
