//! Certificate DER -> Identity, and what CRLs say. The only room that names x509-parser.
//!
//! Nothing here decides whether a certificate is to be trusted; webpki does that in
//! [`super::domain`]. What is read here is names, dates and sizes.

use std::fmt::Write;
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, GeneralSubtree};
use x509_parser::oid_registry::OID_X509_EXT_KEY_USAGE;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{AttributeTypeAndValue, SubjectPublicKeyInfo, X509Name, X509Version};

pub(super) use crl::SignedCrl;
pub use crl::{CrlSeries, RevocationList};

use super::spiffe::is_client_id;
use crate::limits;

mod crl;

/// Who a certificate says its holder is.
///
/// Names that hold NUL or other control characters, or that are not encoded as their kind asks, are
/// kept out of the lists that policy looks at; they stand in `rejected_names`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// URI SANs, as written.
    pub uris: Vec<String>,
    /// DNS SANs, in lower case.
    pub dns_names: Vec<String>,
    /// Email SANs.
    pub emails: Vec<String>,
    /// IP SANs.
    pub addresses: Vec<IpAddr>,
    /// The subject's common name; of several the most specific, which is the last (RFC 5280 puts
    /// the root of the tree first).
    pub common_name: Option<String>,
    pub organizational_units: Vec<String>,
    /// Names that policy never sees, for logs: kind, colon, the name's bytes escaped to ASCII.
    pub rejected_names: Vec<String>,
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
    /// Whether the extended key usage extension names clientAuth (RFC 5280 section 4.2.1.12). A
    /// certificate without the extension does not.
    pub client_auth: bool,
    /// Whether it says that it is a CA, or its key usage has keyCertSign or cRLSign (RFC 5280
    /// sections 4.2.1.9 and 4.2.1.3).
    pub may_sign: bool,
}

/// Why a certificate or CRL could not be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed certificate: {0}")]
pub struct IdentityError(pub String);

impl Identity {
    /// Reads a certificate.
    ///
    /// # Errors
    ///
    /// DER that is malformed or goes on after the certificate, and more than
    /// [`limits::NAMES_PER_CERTIFICATE_MAX`] names of a kind.
    pub fn from_der(certificate: &[u8]) -> Result<Self, IdentityError> {
        Self::from_parsed(&parse(certificate)?)
    }

    /// As [`Identity::from_der`], with whether it may sign CRLs; see [`signs_crls`].
    pub(super) fn of_issuer(certificate: &[u8]) -> Result<(Self, Option<bool>), IdentityError> {
        let certificate = parse(certificate)?;
        let mut extensions = certificate.extensions().iter();
        let usage = extensions.find(|extension| extension.oid == OID_X509_EXT_KEY_USAGE);
        let signs_crls = signs_crls(usage.map(|extension| extension.value));
        Ok((Self::from_parsed(&certificate)?, signs_crls))
    }

    fn from_parsed(certificate: &X509Certificate<'_>) -> Result<Self, IdentityError> {
        let key = certificate.public_key();
        let mut names = Names::default();
        names.read_alternative_names(certificate)?;
        names.read_subject(certificate.subject())?;
        let purposes = certificate
            .extended_key_usage()
            .map_err(because("extended key usage"))?;
        let constraints = certificate
            .basic_constraints()
            .map_err(because("basic constraints"))?;
        let usage = certificate.key_usage().map_err(because("key usage"))?;
        Ok(Self {
            uris: names.uris,
            dns_names: names.dns_names,
            emails: names.emails,
            addresses: names.addresses,
            common_name: names.common_name,
            organizational_units: names.organizational_units,
            rejected_names: names.rejected,
            subject: distinguished_name(certificate.subject()),
            issuer: distinguished_name(certificate.issuer()),
            serial: without_leading_zeros(certificate.raw_serial()),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            fingerprint: sha256(certificate.as_raw()),
            spki_pin: sha256(key.raw),
            rsa_modulus_bits: rsa_modulus_bits(key)?,
            client_auth: purposes.is_some_and(|purposes| purposes.value.client_auth),
            may_sign: constraints.is_some_and(|constraints| constraints.value.ca)
                || usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign()),
        })
    }

    /// The serial as lower-case hexadecimal, for logs.
    pub fn serial_hex(&self) -> String {
        hex(&self.serial)
    }

    /// The fingerprint as lower-case hexadecimal.
    pub fn fingerprint_hex(&self) -> String {
        hex(&self.fingerprint)
    }

    /// The SPIFFE ID: the only URI SAN, with scheme `spiffe` and a path (X.509-SVID sections 2
    /// and 3.1). `None` if it is not well formed (SPIFFE-ID section 2).
    pub fn spiffe_id(&self) -> Option<&str> {
        let uri = self.uris.first().filter(|_| self.uri_count() == 1)?;
        is_client_id(uri).then_some(uri)
    }

    /// The subject alternative names, as OpenSSL labels them, and those that policy never sees;
    /// `None` where there are none.
    pub fn alternative_names(&self) -> Option<String> {
        let uris = self.uris.iter().map(|name| format!("URI:{name}"));
        let dns_names = self.dns_names.iter().map(|name| format!("DNS:{name}"));
        let emails = self.emails.iter().map(|name| format!("email:{name}"));
        let addresses = self.addresses.iter().map(|address| format!("IP:{address}"));
        let rejected = self.rejected_names.iter();
        let rejected = rejected.map(|name| format!("rejected {name}"));
        let names = uris.chain(dns_names).chain(emails).chain(addresses);
        let names = names.chain(rejected).collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then_some(names)
    }

    /// How many URI SANs there are, with those that policy never sees.
    pub(super) fn uri_count(&self) -> usize {
        let rejected = self.rejected_names.iter();
        self.uris.len() + rejected.filter(|name| name.starts_with(URI)).count()
    }
}

/// Prefixes of `rejected_names`.
const COMMON_NAME: &str = "CN:";
const DNS: &str = "DNS:";
const EMAIL: &str = "email:";
const IP: &str = "IP:";
const ORGANIZATIONAL_UNIT: &str = "OU:";
const URI: &str = "URI:";

/// What a trust anchor's certificate says beyond an [`Identity`].
#[derive(Debug)]
pub(super) struct Authority {
    pub identity: Identity,
    /// Whether it says that it is a CA. Version 1 certificates cannot say.
    pub is_ca: bool,
    /// Whether it constrains URI names.
    pub constrains_uris: bool,
}

impl Authority {
    pub fn from_der(certificate: &[u8]) -> Result<Self, IdentityError> {
        let certificate = parse(certificate)?;
        let constraints = certificate
            .name_constraints()
            .map_err(because("name constraints"))?;
        let is_uri = |tree: &GeneralSubtree<'_>| matches!(tree.base, GeneralName::URI(_));
        Ok(Self {
            identity: Identity::from_parsed(&certificate)?,
            is_ca: certificate.version() != X509Version::V3 || certificate.is_ca(),
            constrains_uris: constraints.is_some_and(|constraints| {
                let (permitted, excluded) = (
                    &constraints.value.permitted_subtrees,
                    &constraints.value.excluded_subtrees,
                );
                permitted.iter().chain(excluded).flatten().any(is_uri)
            }),
        })
    }
}

/// Whether a key usage extension with this value has cRLSign (RFC 5280 section 4.2.1.3), or there is
/// none and the key may be used for all; `None` if the value is anything but one DER BIT STRING.
pub(super) fn signs_crls(usage: Option<&[u8]>) -> Option<bool> {
    const BIT_STRING: u8 = 0x03;
    const CRL_SIGN: u8 = 0x80 >> 6;
    let Some(usage) = usage else {
        return Some(true);
    };
    let [BIT_STRING, len @ ..0x80, unused @ 0..8, flags @ ..] = usage else {
        return None;
    };
    let (first, last) = (flags.first()?, flags.last()?);
    let is_der = usize::from(*len) == flags.len() + 1 && last.trailing_zeros() >= (*unused).into();
    is_der.then_some(first & CRL_SIGN != 0)
}

fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    let (rest, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| IdentityError(format!("not DER of a certificate ({error})")))?;
    match rest.len() {
        0 => Ok(parsed),
        more => Err(IdentityError(format!(
            "{more} bytes after the certificate's end"
        ))),
    }
}

fn because<E: std::fmt::Display>(part: &str) -> impl FnOnce(E) -> IdentityError {
    move |error| IdentityError(format!("{part}: {error}"))
}

/// The names of a certificate, sorted into those that policy may see and those that it may not.
#[derive(Default)]
struct Names {
    uris: Vec<String>,
    dns_names: Vec<String>,
    emails: Vec<String>,
    addresses: Vec<IpAddr>,
    common_name: Option<String>,
    organizational_units: Vec<String>,
    rejected: Vec<String>,
}

impl Names {
    fn read_alternative_names(
        &mut self,
        certificate: &X509Certificate<'_>,
    ) -> Result<(), IdentityError> {
        let names = certificate.subject_alternative_name();
        let Some(names) = names.map_err(because("subject alternative name"))? else {
            return Ok(());
        };
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => match is_printable_ascii(name) {
                    true => push(&mut self.dns_names, name.to_ascii_lowercase())?,
                    false => self.reject(DNS, name.as_bytes())?,
                },
                GeneralName::IPAddress(bytes) => match address(bytes) {
                    Some(address) => push(&mut self.addresses, address)?,
                    None => self.reject(IP, bytes)?,
                },
                GeneralName::RFC822Name(name) => match is_printable_ascii(name) {
                    true => push(&mut self.emails, (*name).to_owned())?,
                    false => self.reject(EMAIL, name.as_bytes())?,
                },
                GeneralName::URI(name) => match is_printable_ascii(name) {
                    true => push(&mut self.uris, (*name).to_owned())?,
                    false => self.reject(URI, name.as_bytes())?,
                },
                // Context tags of RFC 5280 section 4.2.1.6.
                GeneralName::Invalid(tag, bytes) => match tag.0 {
                    1 => self.reject(EMAIL, bytes)?,
                    2 => self.reject(DNS, bytes)?,
                    6 => self.reject(URI, bytes)?,
                    _ => self.reject("SAN:", bytes)?,
                },
                // Kinds that no rule asks for.
                GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::OtherName(..)
                | GeneralName::RegisteredID(_)
                | GeneralName::X400Address(_) => {}
            }
        }
        Ok(())
    }

    fn read_subject(&mut self, subject: &X509Name<'_>) -> Result<(), IdentityError> {
        for unit in subject.iter_organizational_unit() {
            match policy_text(unit) {
                Some(text) => push(&mut self.organizational_units, text)?,
                None => self.reject(ORGANIZATIONAL_UNIT, unit.as_slice())?,
            }
        }
        // Never falls back to a less specific one: which name counts must not depend on how the
        // others are encoded.
        if let Some(name) = subject.iter_common_name().last() {
            self.common_name = policy_text(name);
            if self.common_name.is_none() {
                self.reject(COMMON_NAME, name.as_slice())?;
            }
        }
        Ok(())
    }

    fn reject(&mut self, kind: &str, bytes: &[u8]) -> Result<(), IdentityError> {
        push(
            &mut self.rejected,
            format!("{kind}{}", bytes.escape_ascii()),
        )
    }
}

fn push<T>(names: &mut Vec<T>, name: T) -> Result<(), IdentityError> {
    if names.len() == limits::NAMES_PER_CERTIFICATE_MAX {
        let max = limits::NAMES_PER_CERTIFICATE_MAX;
        return Err(IdentityError(format!("more than {max} names of one kind")));
    }
    names.push(name);
    Ok(())
}

/// DNS, email and URI SANs are IA5String (RFC 5280 section 4.2.1.6).
fn is_printable_ascii(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(bytes.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}

fn rsa_modulus_bits(key: &SubjectPublicKeyInfo<'_>) -> Result<Option<usize>, IdentityError> {
    match key.parsed().map_err(because("public key"))? {
        PublicKey::RSA(key) => {
            let modulus = without_leading_zeros(key.modulus);
            let unused = modulus
                .first()
                .map_or(8, |byte| byte.leading_zeros() as usize);
            Ok(Some(modulus.len() * 8 - unused))
        }
        _ => Ok(None),
    }
}

/// Leaves one zero of zero.
fn without_leading_zeros(integer: &[u8]) -> Vec<u8> {
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    integer[zeros.min(integer.len().saturating_sub(1))..].to_vec()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes)
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// An attribute's text, if it is one that policy may see.
fn policy_text(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    attribute_text(attribute).filter(|text| !text.is_empty() && !text.chars().any(is_unprintable))
}

/// The string types of RFC 5280 appendix A.1, `DirectoryString` and IA5String.
fn attribute_text(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    // Universal tags of X.680 section 8.4.
    const UTF8: u32 = 12;
    const NUMERIC: u32 = 18;
    const PRINTABLE: u32 = 19;
    const TELETEX: u32 = 20;
    const IA5: u32 = 22;
    const VISIBLE: u32 = 26;
    const BMP: u32 = 30;

    let bytes = attribute.as_slice();
    match attribute.attr_value().tag().0 {
        UTF8 => std::str::from_utf8(bytes).ok().map(str::to_owned),
        NUMERIC | PRINTABLE | TELETEX | IA5 | VISIBLE => bytes
            .is_ascii()
            .then(|| bytes.iter().copied().map(char::from).collect()),
        BMP if bytes.len().is_multiple_of(2) => {
            let units = bytes
                .chunks_exact(2)
                .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        _ => None,
    }
}

/// Control characters, and those that change how the text around them is shown.
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// A name for people, in the form of RFC 4514: most specific part first, special and unprintable
/// characters escaped. What is no text is shown as `#` and the hexadecimal of its content.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+"))
        .collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let kind = match oid.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        other => other,
    };
    match attribute_text(attribute) {
        Some(text) => format!("{kind}={}", escaped(&text)),
        None => format!("{kind}=#{}", hex(attribute.as_slice())),
    }
}

/// RFC 4514 section 2.4.
fn escaped(text: &str) -> String {
    let last = text.chars().count().saturating_sub(1);
    let mut out = String::with_capacity(text.len());
    for (at, character) in text.chars().enumerate() {
        let is_special = matches!(character, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
            || (character == ' ' && (at == 0 || at == last))
            || (character == '#' && at == 0);
        if is_unprintable(character) {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\{byte:02x}");
            }
            continue;
        }
        if is_special {
            out.push('\\');
        }
        out.push(character);
    }
    out
}
