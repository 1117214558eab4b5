//! Certificate DER -> Identity. The only room that names x509-parser.

/// Who a certificate says its holder is. Names that hold NUL or control bytes are kept out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// URI SANs, as written.
    pub uris: Vec<String>,
    /// DNS SANs, in lower case.
    pub dns_names: Vec<String>,
    /// Email SANs.
    pub emails: Vec<String>,
    /// IP SANs.
    pub addresses: Vec<std::net::IpAddr>,
    pub common_name: Option<String>,
    pub organizational_units: Vec<String>,
    /// Subject and issuer for people (RFC 4514 form, control bytes escaped).
    pub subject: String,
    pub issuer: String,
    /// Serial number, big-endian bytes without leading zeros.
    pub serial: Vec<u8>,
    /// Seconds since the Unix epoch.
    pub not_before: i64,
    pub not_after: i64,
    /// SHA-256 of the certificate's DER.
    pub fingerprint: [u8; 32],
    /// SHA-256 of the SubjectPublicKeyInfo's DER (RFC 7469 section 2.4).
    pub spki_pin: [u8; 32],
    /// Bits of the RSA modulus, if the key is RSA.
    pub rsa_modulus_bits: Option<usize>,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed certificate: {0}")]
pub struct IdentityError(pub String);

impl Identity {
    pub fn from_der(_certificate: &[u8]) -> Result<Self, IdentityError> {
        todo!()
    }
    /// The serial as lower-case hexadecimal, for logs.
    pub fn serial_hex(&self) -> String {
        todo!()
    }
    /// The fingerprint as lower-case hexadecimal.
    pub fn fingerprint_hex(&self) -> String {
        todo!()
    }
    /// The SPIFFE ID: the only URI SAN, with scheme `spiffe` (X.509-SVID section 2).
    pub fn spiffe_id(&self) -> Option<&str> {
        todo!()
    }
}
