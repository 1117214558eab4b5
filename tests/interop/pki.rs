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
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            Self::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
        }
        .unwrap()
    }
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
    /// Only what stands between; empty where that is nothing.
    pub intermediates: PathBuf,
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
        let identity = Identity {
            chain: folder.join(format!("{name}.pem")),
            intermediates: folder.join(format!("{name}-intermediates.pem")),
            key: folder.join(format!("{name}.key")),
            sha256: digest::digest(&digest::SHA256, certificate.der())
                .as_ref()
                .to_vec(),
        };
        fs::write(&identity.chain, certificate.pem() + &self.intermediates).unwrap();
        fs::write(&identity.intermediates, &self.intermediates).unwrap();
        // A key that others can read is refused.
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .mode(0o600)
            .open(&identity.key);
        file.as_mut()
            .unwrap()
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
