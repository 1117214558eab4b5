//! The PROXY protocol v2 header: what the upstream is told about an authorised client.
//!
//! Format: the HAProxy PROXY protocol specification, version 2, section 2.2. Beside its own types,
//! five of the range for applications (0xE0 to 0xEF):
//!
//! | type | value |
//! |---|---|
//! | 0xE0 | the verified SPIFFE ID, UTF-8 |
//! | 0xE1 | the certificate's SANs, UTF-8, one `uri:…`, `dns:…`, `email:…` or `ip:…` per line (LF) |
//! | 0xE2 | SHA-256 of the certificate's DER, 32 bytes |
//! | 0xE3 | the name of the policy rule that let the client in, UTF-8 |
//! | 0xE4 | one byte: 0 after a full handshake, 1 after a resumption |
//!
//! Names with NUL or control bytes are not part of an [`crate::trust::Identity`], so none can
//! forge a line or cut a value short.

use std::fmt::Write as _;
use std::net::SocketAddr;

use rustls::ProtocolVersion;

use super::Addresses;
use super::proxy_header::{PROXY, SIGNATURE, TCP_OVER_IPV4, TCP_OVER_IPV6, VERSION_2};
use crate::block::Block;
use crate::limits::GREETING_MAX;
use crate::tls::Established;
use crate::trust::Identity;

const TYPE_ALPN: u8 = 0x01;
const TYPE_AUTHORITY: u8 = 0x02;
const TYPE_UNIQUE_ID: u8 = 0x05;
const TYPE_SSL: u8 = 0x20;
const SUBTYPE_SSL_VERSION: u8 = 0x21;
const SUBTYPE_SSL_CN: u8 = 0x22;
const SUBTYPE_SSL_CIPHER: u8 = 0x23;
const SUBTYPE_SSL_CLIENT_CERT: u8 = 0x28;
const TYPE_SPIFFE_ID: u8 = 0xe0;
const TYPE_SANS: u8 = 0xe1;
const TYPE_FINGERPRINT: u8 = 0xe2;
const TYPE_RULE: u8 = 0xe3;
const TYPE_RESUMED: u8 = 0xe4;

/// PP2_CLIENT_SSL, PP2_CLIENT_CERT_CONN and PP2_CLIENT_CERT_SESS.
const CLIENT_TLS: u8 = 0x01;
const CLIENT_CERTIFICATE_ON_CONNECTION: u8 = 0x02;
const CLIENT_CERTIFICATE_IN_SESSION: u8 = 0x04;

/// The header would not fit its 16-bit length.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TooLong;

/// What the upstream is told.
pub struct Told<'a> {
    pub addresses: Addresses,
    pub unique_id: u128,
    pub session: &'a Established,
    /// Whether the client's certificate goes along in DER.
    pub client_certificate: bool,
}

/// Appends the header to `out`; nothing when it does not fit.
pub fn encode(told: &Told<'_>, out: &mut Block) -> Result<(), TooLong> {
    let before = out.filled().len();
    let result = write(
        told,
        &mut Writer {
            out,
            limit: before + GREETING_MAX,
        },
    );
    if result.is_err() {
        out.truncate(before);
    }
    result
}

fn write(told: &Told<'_>, writer: &mut Writer<'_>) -> Result<(), TooLong> {
    writer.bytes(&SIGNATURE)?;
    writer.bytes(&[VERSION_2 | PROXY, family(told.addresses)])?;
    writer.measured(|writer| {
        write_addresses(told.addresses, writer)?;
        let session = told.session;
        if let Some(alpn) = &session.alpn {
            writer.tlv(TYPE_ALPN, alpn)?;
        }
        if let Some(name) = &session.server_name {
            writer.tlv(TYPE_AUTHORITY, name.as_bytes())?;
        }
        writer.tlv(TYPE_UNIQUE_ID, unique_id_hex(told.unique_id).as_bytes())?;
        writer.tag(TYPE_SSL)?;
        writer.measured(|writer| write_tls(told, writer))?;
        write_identity(session, writer)
    })
}

fn write_tls(told: &Told<'_>, writer: &mut Writer<'_>) -> Result<(), TooLong> {
    let session = told.session;
    let mut client = CLIENT_TLS | CLIENT_CERTIFICATE_IN_SESSION;
    if !session.resumed {
        client |= CLIENT_CERTIFICATE_ON_CONNECTION;
    }
    writer.bytes(&[client])?;
    // Verified: zero.
    writer.bytes(&[0; 4])?;
    let version = match session.version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        _ => "TLSv1.3",
    };
    writer.tlv(SUBTYPE_SSL_VERSION, version.as_bytes())?;
    if let Some(name) = &session.client.identity().common_name {
        writer.tlv(SUBTYPE_SSL_CN, name.as_bytes())?;
    }
    if let Some(suite) = session.suite.as_str() {
        // rustls sets the suites of TLS 1.3 apart; IANA's registry and other programs do not.
        let name = suite.replacen("TLS13_", "TLS_", 1);
        writer.tlv(SUBTYPE_SSL_CIPHER, name.as_bytes())?;
    }
    if told.client_certificate {
        writer.tlv(SUBTYPE_SSL_CLIENT_CERT, session.client.peer().leaf())?;
    }
    Ok(())
}

fn write_identity(session: &Established, writer: &mut Writer<'_>) -> Result<(), TooLong> {
    let identity = session.client.identity();
    if let Some(id) = identity.spiffe_id() {
        writer.tlv(TYPE_SPIFFE_ID, id.as_bytes())?;
    }
    let sans = sans(identity);
    if !sans.is_empty() {
        writer.tlv(TYPE_SANS, sans.as_bytes())?;
    }
    writer.tlv(TYPE_FINGERPRINT, &identity.fingerprint)?;
    writer.tlv(TYPE_RULE, session.client.rule().as_bytes())?;
    writer.tlv(TYPE_RESUMED, &[u8::from(session.resumed)])
}

fn sans(identity: &Identity) -> String {
    let mut lines = String::new();
    let mut add = |kind: &str, name: &dyn std::fmt::Display| {
        let separator = if lines.is_empty() { "" } else { "\n" };
        // Writing to a string does not fail.
        let _ = write!(lines, "{separator}{kind}:{name}");
    };
    identity.uris.iter().for_each(|name| add("uri", name));
    identity.dns_names.iter().for_each(|name| add("dns", name));
    identity.emails.iter().for_each(|name| add("email", name));
    identity.addresses.iter().for_each(|name| add("ip", name));
    lines
}

/// The identifier as the upstream and the log see it: 32 hexadecimal digits.
pub fn unique_id_hex(id: u128) -> String {
    format!("{id:032x}")
}

fn family(addresses: Addresses) -> u8 {
    match (addresses.client, addresses.local) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => TCP_OVER_IPV4,
        _ => TCP_OVER_IPV6,
    }
}

fn write_addresses(addresses: Addresses, writer: &mut Writer<'_>) -> Result<(), TooLong> {
    let (client, local) = (addresses.client, addresses.local);
    if let (SocketAddr::V4(client), SocketAddr::V4(local)) = (client, local) {
        writer.bytes(&client.ip().octets())?;
        writer.bytes(&local.ip().octets())?;
    } else {
        for address in [client, local] {
            let ip = match address {
                SocketAddr::V4(address) => address.ip().to_ipv6_mapped(),
                SocketAddr::V6(address) => *address.ip(),
            };
            writer.bytes(&ip.octets())?;
        }
    }
    writer.bytes(&client.port().to_be_bytes())?;
    writer.bytes(&local.port().to_be_bytes())
}

struct Writer<'a> {
    out: &'a mut Block,
    limit: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        let fits = self.out.filled().len() + bytes.len() <= self.limit;
        if fits && self.out.append(bytes) == bytes.len() {
            Ok(())
        } else {
            Err(TooLong)
        }
    }

    fn tag(&mut self, tag: u8) -> Result<(), TooLong> {
        self.bytes(&[tag])
    }

    fn tlv(&mut self, tag: u8, value: &[u8]) -> Result<(), TooLong> {
        let len = u16::try_from(value.len()).map_err(|_| TooLong)?;
        self.tag(tag)?;
        self.bytes(&len.to_be_bytes())?;
        self.bytes(value)
    }

    /// Writes a 16-bit length and then what it is the length of.
    fn measured(
        &mut self,
        content: impl FnOnce(&mut Self) -> Result<(), TooLong>,
    ) -> Result<(), TooLong> {
        let at = self.out.filled().len();
        self.bytes(&[0; 2])?;
        content(self)?;
        let len = self.out.filled().len() - at - 2;
        let len = u16::try_from(len).map_err(|_| TooLong)?;
        self.out.filled_mut()[at..at + 2].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }
}
