//! Certificates for programs that read files and the real clock.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, RsaKeySize, SanType, date_time_ymd,
};
use rustls_pki_types::PrivatePkcs8KeyDer;

/// The name that clients ask for.
pub const SERVER_NAME: &str = "gate.test";

/// The names of the client whom the policy knows.
pub const CLIENT_NAME: &str = "billing";
pub const CLIENT_URI: &str = "spiffe://prod.test/ns/billing/sa/web";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Key {
    Ed25519,
    P256,
    Rsa2048,
}

impl Key {
    fn generate(self) -> KeyPair {
        match self {
            Self::Ed25519 => Ok(ed25519()),
            Self::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
        }
        .unwrap()
    }
}

/// A key as other programs write and read it. One that is made here comes with its public part,
/// PKCS#8 version 2 (RFC 5958), which neither OpenSSL nor GnuTLS reads in a file; this is version 1
/// (RFC 8410 section 7).
fn ed25519() -> KeyPair {
    const HEAD: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
    ];
    let whole = KeyPair::generate_for(&rcgen::PKCS_ED25519)
        .unwrap()
        .serialize_der();
    let seed = &whole[HEAD.len()..][..32];
    let der = PrivatePkcs8KeyDer::from([&HEAD, seed].concat());
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519).unwrap()
}

/// A CA, whose certificate lies in a file.
pub struct Ca {
    pub file: PathBuf,
    /// What stands between this one and the root, in PEM; empty for a root.
    intermediates: String,
    issuer: Issuer<'static, KeyPair>,
    key: Key,
}

/// A certificate and its key, in files.
pub struct Identity {
    /// The leaf and what stands between it and the root.
    pub chain: PathBuf,
    /// Only what stands between, if anything does.
    pub intermediates: Option<PathBuf>,
    pub key: PathBuf,
    pub sha256: Vec<u8>,
}

impl Ca {
    /// A root whose keys, and all below it, are of the kind `key`.
    pub fn root(folder: &Path, name: &str, key: Key) -> Self {
        let pair = key.generate();
        let params = authority(name);
        let certificate = params.self_signed(&pair).unwrap();
        let file = folder.join(format!("{name}.pem"));
        fs::write(&file, certificate.pem()).unwrap();
        Self {
            file,
            intermediates: String::new(),
            issuer: Issuer::new(params, pair),
            key,
        }
    }

    /// A CA below this one; its `file` is still the root's.
    pub fn intermediate(&self, name: &str) -> Self {
        let pair = self.key.generate();
        let params = authority(name);
        let certificate = params.signed_by(&pair, &self.issuer).unwrap();
        Self {
            file: self.file.clone(),
            intermediates: certificate.pem() + &self.intermediates,
            issuer: Issuer::new(params, pair),
            key: self.key,
        }
    }

    /// Issues `params` to a new key and writes both beside the CA's file.
    pub fn issue(&self, name: &str, params: &CertificateParams) -> Identity {
        let folder = self.file.parent().unwrap();
        let pair = self.key.generate();
        let certificate = params.signed_by(&pair, &self.issuer).unwrap();
        let intermediates = (!self.intermediates.is_empty()).then(|| {
            let file = folder.join(format!("{name}-intermediates.pem"));
            fs::write(&file, &self.intermediates).unwrap();
            file
        });
        let identity = Identity {
            chain: folder.join(format!("{name}.pem")),
            intermediates,
            key: folder.join(format!("{name}.key")),
            sha256: digest::digest(&digest::SHA256, certificate.der())
                .as_ref()
                .to_vec(),
        };
        fs::write(&identity.chain, certificate.pem() + &self.intermediates).unwrap();
        // A key that others can read is refused.
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&identity.key);
        file.unwrap()
            .write_all(pair.serialize_pem().as_bytes())
            .unwrap();
        identity
    }
}

pub fn server() -> CertificateParams {
    let mut params = leaf(SERVER_NAME, ExtendedKeyUsagePurpose::ServerAuth);
    params.subject_alt_names = vec![SanType::DnsName(SERVER_NAME.try_into().unwrap())];
    params
}

/// The client whom the policy knows, valid now.
pub fn client() -> CertificateParams {
    let mut params = leaf(CLIENT_NAME, ExtendedKeyUsagePurpose::ClientAuth);
    params.subject_alt_names = vec![SanType::URI(CLIENT_URI.try_into().unwrap())];
    params
}

fn leaf(name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.extended_key_usages = vec![usage];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2999, 1, 1));
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2999, 1, 1));
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}
