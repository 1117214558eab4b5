//! A test PKI: a server, its CA, the clients' CA, clients with SPIFFE IDs, and clients that must be
//! refused. In memory for the demo, in files for `pki DIR`.

mod files;
mod issuer;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ED25519, PKCS_RSA_SHA256, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use time::{Duration, OffsetDateTime};

pub use files::{load_anchors, load_credential, load_pool, write};
pub use issuer::make_pool;

/// The trust domain of the SPIFFE IDs in generated client certificates.
pub const TRUST_DOMAIN: &str = "demo.example";

/// Clients that one call generates at most.
pub const CLIENTS_MAX: u32 = 1_000_000;

/// The kind of every key in a PKI.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum KeyKind {
    Ed25519,
    #[default]
    P256,
    Rsa2048,
}

/// What to generate.
#[derive(Clone, Debug)]
pub struct PkiOptions {
    /// Clients with good certificates.
    pub clients: u32,
    /// Clients whose certificate ended yesterday.
    pub expired: u32,
    /// Clients that the CRL of the clients' CA names.
    pub revoked: u32,
    /// Whether an intermediate CA stands between each root and its leaves.
    pub intermediate: bool,
    pub key: KeyKind,
    /// A DNS name or an IP address; `localhost` and the loopback addresses come on top.
    pub server_name: String,
    /// Clients whose certificate comes from another CA with the same name.
    pub wrong_ca: u32,
}

impl Default for PkiOptions {
    fn default() -> Self {
        Self {
            clients: 1,
            expired: 0,
            revoked: 0,
            intermediate: false,
            key: KeyKind::default(),
            server_name: format!("ringgate.{TRUST_DOMAIN}"),
            wrong_ca: 0,
        }
    }
}

/// A certificate chain and its key.
#[derive(Debug)]
pub struct Credential {
    /// File name without its extension, as in `client-1`.
    pub name: String,
    /// The URI SAN of a generated client; `None` for servers and for what came from files.
    pub spiffe_id: Option<String>,
    /// Leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Credential {
    /// SHA-256 of the leaf's DER.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut fingerprint = [0; 32];
        if let Some(leaf) = self.chain.first() {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
            fingerprint.copy_from_slice(digest.as_ref());
        }
        fingerprint
    }
}

/// A whole PKI in memory.
#[derive(Debug)]
pub struct Pki {
    /// What clients trust.
    pub server_ca: CertificateDer<'static>,
    pub server: Credential,
    /// What the terminator trusts.
    pub client_ca: CertificateDer<'static>,
    /// The CA that signed the clients: root or intermediate.
    pub client_issuer: Credential,
    pub clients: Vec<Credential>,
    pub expired: Vec<Credential>,
    pub revoked: Vec<Credential>,
    /// CRLs of the clients' CA: that of the root, and that of the intermediate if there is one.
    pub client_crls: Vec<CertificateRevocationListDer<'static>>,
    pub wrong_ca: Vec<Credential>,
}

/// Why a PKI could not be made, written or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{0} certificates asked for, at most {CLIENTS_MAX} at a time")]
    TooMany(u64),
    #[error("{0:?} is no DNS name and no IP address")]
    ServerName(String),
    #[error("cannot make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    #[error("{path}: {reason}; {remedy}")]
    File {
        path: String,
        reason: String,
        remedy: &'static str,
    },
}

impl Pki {
    /// Makes the keys and certificates that `options` ask for. Leaves live 30 days.
    pub fn generate(options: &PkiOptions) -> Result<Self, PkiError> {
        let asked: u64 = [
            options.clients,
            options.expired,
            options.revoked,
            options.wrong_ca,
        ]
        .into_iter()
        .map(u64::from)
        .sum();
        if asked > u64::from(CLIENTS_MAX) {
            return Err(PkiError::TooMany(asked));
        }
        let server_ca = Authority::generate("Ringgate demo server CA", options)?;
        let client_ca = Authority::generate("Ringgate demo client CA", options)?;
        let mut pki = Self {
            server: server_ca.sign_server(options)?,
            server_ca: server_ca.root.der().clone(),
            clients: client_ca.sign_clients("client", options.clients, LIVE_DAYS, options.key)?,
            expired: client_ca.sign_clients("expired", options.expired, -1, options.key)?,
            revoked: client_ca.sign_clients("revoked", options.revoked, LIVE_DAYS, options.key)?,
            client_crls: client_ca.crls(options.revoked)?,
            client_ca: client_ca.root.der().clone(),
            client_issuer: client_ca.issuing(),
            wrong_ca: Vec::new(),
        };
        if options.wrong_ca > 0 {
            // The same name and another key: only the signature tells the two CAs apart.
            let wrong_ca = Authority::generate("Ringgate demo client CA", options)?;
            pki.wrong_ca =
                wrong_ca.sign_clients("wrong-ca", options.wrong_ca, LIVE_DAYS, options.key)?;
        }
        Ok(pki)
    }
}

const LIVE_DAYS: i64 = 30;

/// A root and, where asked for, the intermediate that signs in its place.
struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: Option<CertifiedIssuer<'static, KeyPair>>,
}

impl Authority {
    fn generate(name: &str, options: &PkiOptions) -> Result<Self, PkiError> {
        let root = CertifiedIssuer::self_signed(
            authority_params(name, BasicConstraints::Unconstrained),
            generate_key(options.key)?,
        )?;
        let intermediate = options.intermediate.then(|| {
            let params = authority_params(
                &format!("{name}, intermediate"),
                BasicConstraints::Constrained(0),
            );
            Ok::<_, PkiError>(CertifiedIssuer::signed_by(
                params,
                generate_key(options.key)?,
                &root,
            )?)
        });
        let intermediate = intermediate.transpose()?;
        Ok(Self { root, intermediate })
    }

    /// The CA that signs leaves.
    fn issuing(&self) -> Credential {
        let issuer = self.intermediate.as_ref().unwrap_or(&self.root);
        Credential {
            name: "client-issuer".to_owned(),
            spiffe_id: None,
            chain: vec![issuer.der().clone()],
            key: pkcs8(issuer.key()).into(),
        }
    }

    /// A list for each CA above a leaf, so that a server may ask for all; that of the CA which signs
    /// leaves names the first `revoked` of these.
    fn crls(&self, revoked: u32) -> Result<Vec<CertificateRevocationListDer<'static>>, PkiError> {
        let now = OffsetDateTime::now_utc();
        let list = |issuer: &CertifiedIssuer<'static, KeyPair>, revoked| {
            let revoked = (1..=revoked).map(|number| RevokedCertParams {
                serial_number: revoked_serial(number),
                revocation_time: now - Duration::days(1),
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            });
            let params = CertificateRevocationListParams {
                this_update: now - Duration::days(1),
                next_update: now + Duration::days(LIVE_DAYS),
                crl_number: SerialNumber::from(1_u64),
                issuing_distribution_point: None,
                revoked_certs: revoked.collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            Ok::<_, PkiError>(params.signed_by(issuer)?.into())
        };
        match &self.intermediate {
            None => Ok(vec![list(&self.root, revoked)?]),
            Some(intermediate) => Ok(vec![list(&self.root, 0)?, list(intermediate, revoked)?]),
        }
    }

    fn sign(&self, params: &CertificateParams, key: KeyKind) -> Result<SignedLeaf, PkiError> {
        let key = generate_key(key)?;
        let issuer = self.intermediate.as_ref().unwrap_or(&self.root);
        let mut chain = vec![params.signed_by(&key, issuer)?.der().clone()];
        chain.extend(
            self.intermediate
                .as_ref()
                .map(|issuer| issuer.der().clone()),
        );
        Ok((chain, pkcs8(&key).into()))
    }

    fn sign_server(&self, options: &PkiOptions) -> Result<Credential, PkiError> {
        let mut names = vec![options.server_name.clone()];
        for local in ["localhost", "127.0.0.1", "::1"] {
            if options.server_name != local {
                names.push(local.to_owned());
            }
        }
        let bad_name = || PkiError::ServerName(options.server_name.clone());
        rustls_pki_types::ServerName::try_from(options.server_name.as_str())
            .map_err(|_| bad_name())?;
        let mut params = CertificateParams::new(names).map_err(|_| bad_name())?;
        leaf_params(
            &mut params,
            &options.server_name,
            ExtendedKeyUsagePurpose::ServerAuth,
        );
        live_for(&mut params, LIVE_DAYS);
        let (chain, key) = self.sign(&params, options.key)?;
        Ok(Credential {
            name: "server".to_owned(),
            spiffe_id: None,
            chain,
            key,
        })
    }

    fn sign_clients(
        &self,
        kind: &str,
        count: u32,
        days: i64,
        key: KeyKind,
    ) -> Result<Vec<Credential>, PkiError> {
        let sign = |number| {
            let (mut params, spiffe_id) = client_params(kind, number, days)?;
            if kind == "revoked" {
                params.serial_number = Some(revoked_serial(number));
            }
            let (chain, key) = self.sign(&params, key)?;
            Ok(Credential {
                name: format!("{kind}-{number}"),
                spiffe_id: Some(spiffe_id),
                chain,
                key,
            })
        };
        (1..=count).map(sign).collect()
    }
}

/// Others have serial numbers of 20 bytes.
fn revoked_serial(number: u32) -> SerialNumber {
    SerialNumber::from(0x7E00_0000_0000_0000 | u64::from(number))
}

type SignedLeaf = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn generate_key(kind: KeyKind) -> Result<KeyPair, PkiError> {
    Ok(KeyPair::generate_for(match kind {
        KeyKind::Ed25519 => &PKCS_ED25519,
        KeyKind::P256 => &PKCS_ECDSA_P256_SHA256,
        KeyKind::Rsa2048 => &PKCS_RSA_SHA256,
    })?)
}

/// A key in the form that every program reads. Ed25519 keys are made with their public part, as
/// PKCS#8 version 2 (RFC 5958), which neither OpenSSL 3.0 nor GnuTLS reads; this is version 1 (RFC
/// 8410 section 7).
fn pkcs8(key: &KeyPair) -> PrivatePkcs8KeyDer<'static> {
    const ED25519_VERSION_1: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    const SEED_LEN: usize = 32;
    let whole = key.serialize_der();
    let seed = whole.get(ED25519_VERSION_1.len()..ED25519_VERSION_1.len() + SEED_LEN);
    match seed {
        Some(seed) if key.algorithm() == &PKCS_ED25519 => {
            PrivatePkcs8KeyDer::from([&ED25519_VERSION_1, seed].concat())
        }
        _ => PrivatePkcs8KeyDer::from(whole),
    }
}

fn authority_params(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    live_for(&mut params, 10 * LIVE_DAYS);
    params
}

fn leaf_params(params: &mut CertificateParams, name: &str, purpose: ExtendedKeyUsagePurpose) {
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
}

/// A client `kind-number` and its SPIFFE ID.
fn client_params(
    kind: &str,
    number: u32,
    days: i64,
) -> Result<(CertificateParams, String), PkiError> {
    let spiffe_id = format!("spiffe://{TRUST_DOMAIN}/{kind}/{number}");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(spiffe_id.as_str().try_into()?)];
    let name = format!("{kind}-{number}");
    leaf_params(&mut params, &name, ExtendedKeyUsagePurpose::ClientAuth);
    live_for(&mut params, days);
    Ok((params, spiffe_id))
}

/// Valid until `days` from now; a negative number makes it expired. The start lies far enough back
/// for hosts whose clocks disagree.
fn live_for(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(2);
    params.not_after = now + Duration::days(days);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::server::WebPkiClientVerifier;
    use rustls::server::danger::ClientCertVerifier;
    use rustls_pki_types::UnixTime;

    use super::*;

    fn verifier(anchor: &CertificateDer<'static>) -> Arc<dyn ClientCertVerifier> {
        let mut roots = RootCertStore::empty();
        roots.add(anchor.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap()
    }

    #[test]
    fn good_clients_verify_and_bad_ones_do_not() {
        for (key, intermediate) in [
            (KeyKind::P256, false),
            (KeyKind::P256, true),
            (KeyKind::Ed25519, true),
            (KeyKind::Rsa2048, false),
        ] {
            let options = PkiOptions {
                clients: 2,
                expired: 1,
                wrong_ca: 1,
                key,
                intermediate,
                ..PkiOptions::default()
            };
            let pki = Pki::generate(&options).unwrap();
            let verifier = verifier(&pki.client_ca);
            let verify = |credential: &Credential| {
                let (leaf, rest) = credential.chain.split_first().unwrap();
                verifier
                    .verify_client_cert(leaf, rest, UnixTime::now())
                    .map(|_| ())
            };
            assert!(pki.clients.iter().all(|client| verify(client).is_ok()));
            let expired = format!("{:?}", verify(&pki.expired[0]).unwrap_err());
            assert!(expired.contains("Expired"), "{expired}");
            assert!(verify(&pki.wrong_ca[0]).is_err());
            assert!(
                verify(&pki.server).is_err(),
                "a server certificate is not for clients"
            );
            assert_eq!(
                pki.clients[1].spiffe_id.as_deref(),
                Some("spiffe://demo.example/client/2")
            );
            assert_ne!(pki.clients[0].fingerprint(), pki.clients[1].fingerprint());
            assert_eq!(pki.clients[0].chain.len(), if intermediate { 2 } else { 1 });
        }
    }

    #[test]
    fn the_lists_name_the_revoked_and_nobody_else() {
        for intermediate in [false, true] {
            let options = PkiOptions {
                clients: 2,
                revoked: 2,
                intermediate,
                ..PkiOptions::default()
            };
            let pki = Pki::generate(&options).unwrap();
            assert_eq!(pki.client_crls.len(), if intermediate { 2 } else { 1 });
            let mut roots = RootCertStore::empty();
            roots.add(pki.client_ca.clone()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            // By default the whole chain must be covered.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .with_crls(pki.client_crls.clone())
                .build()
                .unwrap();
            for (clients, good) in [(&pki.clients, true), (&pki.revoked, false)] {
                for client in clients {
                    let (leaf, rest) = client.chain.split_first().unwrap();
                    let result = verifier.verify_client_cert(leaf, rest, UnixTime::now());
                    assert_eq!(result.is_ok(), good, "{}: {result:?}", client.name);
                }
            }
        }
    }

    /// Version 1 of PKCS#8 has no public part behind the private one.
    #[test]
    fn ed25519_keys_are_in_the_form_that_every_program_reads() {
        let key = generate_key(KeyKind::Ed25519).unwrap();
        let portable = pkcs8(&key);
        assert_eq!(portable.secret_pkcs8_der().len(), 48);
        let read = KeyPair::from_pkcs8_der_and_sign_algo(&portable, &PKCS_ED25519).unwrap();
        assert_eq!(read.public_key_raw(), key.public_key_raw());
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        let options = PkiOptions {
            server_name: "no name".to_owned(),
            ..PkiOptions::default()
        };
        assert!(matches!(
            Pki::generate(&options),
            Err(PkiError::ServerName(_))
        ));
    }
}
