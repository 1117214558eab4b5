//! CAs, certificates and CRLs for tests. All keys are P-256 unless given; all times are relative to
//! [`NOW`].
#![allow(dead_code, reason = "each test target uses its part")]

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, CrlScope, CustomExtension, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData,
    RevocationReason, RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use time::OffsetDateTime;

/// 2026-01-01T00:00:00Z, in seconds since the Unix epoch.
pub const NOW: i64 = 1_767_225_600;

pub const DAY: i64 = 86_400;

pub fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW.unsigned_abs()))
}

pub fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

/// Parameters of a leaf for clients: CN `name`, clientAuth, valid from ten days before to ten days
/// after [`NOW`], no SANs.
pub fn client(name: &str) -> CertificateParams {
    let mut params = plain(name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

/// As [`client`], with these SANs.
pub fn client_with(name: &str, sans: Vec<SanType>) -> CertificateParams {
    let mut params = client(name);
    params.subject_alt_names = sans;
    params
}

fn plain(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.not_before = at(NOW - 10 * DAY);
    params.not_after = at(NOW + 10 * DAY);
    params
}

pub fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, DnValue::Utf8String(name.to_owned()));
    subject
}

pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

pub fn email(name: &str) -> SanType {
    SanType::Rfc822Name(name.try_into().unwrap())
}

pub fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

/// A CA with its key.
pub struct Ca {
    pub certificate: CertificateDer<'static>,
    pub issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
pub struct Leaf {
    pub certificate: CertificateDer<'static>,
    pub key: KeyPair,
}

impl Ca {
    pub fn root(name: &str) -> Self {
        Self::root_with(name, |_| {})
    }

    pub fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = ca(name);
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn intermediate(&self, name: &str) -> Self {
        self.intermediate_with(name, |_| {})
    }

    pub fn intermediate_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = ca(name);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn issue(&self, params: CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        Leaf {
            certificate: self.certify(&params, &key),
            key,
        }
    }

    pub fn certify(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> CertificateDer<'static> {
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }

    /// A CRL from a day ago until in a day.
    pub fn crl(&self, revoked: &[u64]) -> CertificateRevocationListDer<'static> {
        self.crl_with(revoked, |_| {})
    }

    pub fn crl_with(
        &self,
        revoked: &[u64],
        change: impl FnOnce(&mut CertificateRevocationListParams),
    ) -> CertificateRevocationListDer<'static> {
        let mut params = CertificateRevocationListParams {
            this_update: at(NOW - DAY),
            next_update: at(NOW + DAY),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(|serial| revoked_at(*serial)).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut params);
        params.signed_by(&self.issuer).unwrap().der().clone()
    }
}

fn ca(name: &str) -> CertificateParams {
    let mut params = plain(name);
    params.not_before = at(NOW - 1_000 * DAY);
    params.not_after = at(NOW + 1_000 * DAY);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn revoked_at(serial: u64) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: serial.into(),
        revocation_time: at(NOW - DAY),
        reason_code: Some(RevocationReason::KeyCompromise),
        invalidity_date: None,
    }
}

pub fn serial(number: u64) -> Option<SerialNumber> {
    Some(number.into())
}

/// Where the CRL that covers a certificate is published.
pub fn distribution_point(uri: &str) -> CrlDistributionPoint {
    CrlDistributionPoint {
        uris: vec![uri.to_owned()],
    }
}

/// Which distribution point and kind of certificates a CRL is for.
pub fn issuing_distribution_point(
    uri: &str,
    scope: Option<CrlScope>,
) -> Option<CrlIssuingDistributionPoint> {
    let distribution_point = distribution_point(uri);
    Some(CrlIssuingDistributionPoint {
        distribution_point,
        scope,
    })
}

/// Name constraints that permit only these URIs, which no parameter expresses.
pub fn permitted_uri_host(host: &str) -> CustomExtension {
    const SEQUENCE: u8 = 0x30;
    // Context tags of GeneralName's uniformResourceIdentifier (RFC 5280 section 4.2.1.6) and of
    // permittedSubtrees (section 4.2.1.10).
    const URI: u8 = 0x86;
    const PERMITTED: u8 = 0xa0;
    let subtree = tlv(SEQUENCE, &tlv(URI, host.as_bytes()));
    let content = tlv(SEQUENCE, &tlv(PERMITTED, &subtree));
    CustomExtension::from_oid_content(&[2, 5, 29, 30], content)
}

/// An RSA public key of which nobody has the private part.
pub struct RsaKey(Vec<u8>);

impl RsaKey {
    pub fn with_modulus_bits(bits: usize) -> Self {
        const INTEGER: u8 = 0x02;
        const SEQUENCE: u8 = 0x30;
        let mut modulus = vec![0xff; bits.div_ceil(8)];
        // Clears what is over; a leading zero keeps the number positive.
        modulus[0] >>= modulus.len() * 8 - bits;
        if modulus[0] & 0x80 != 0 {
            modulus.insert(0, 0);
        }
        let content = [tlv(INTEGER, &modulus), tlv(INTEGER, &[1, 0, 1])].concat();
        Self(tlv(SEQUENCE, &content))
    }
}

impl PublicKeyData for RsaKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

/// DER: tag, length, content.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap().to_be_bytes();
    let mut out = vec![tag];
    match len {
        [0, low @ ..0x80] => out.push(low),
        [0, low] => out.extend([0x81, low]),
        [high, low] => out.extend([0x82, high, low]),
    }
    out.extend_from_slice(content);
    out
}
