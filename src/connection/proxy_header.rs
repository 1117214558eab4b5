//! The PROXY protocol header that a load balancer sends in front of its client's bytes, version 1
//! (text) or 2 (binary).
//!
//! Format: the HAProxy PROXY protocol specification, sections 2.1 and 2.2. What the sender says of
//! its own connection (LOCAL), of one that it cannot describe (UNKNOWN, UNSPEC), or of one that is
//! no TCP, names nobody: the connection's own addresses stand. TLVs are skipped, but for
//! PP2_TYPE_CRC32C, which must be right where it is there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::Addresses;
use crate::limits::{PROXY_HEADER_MAX, PROXY_HEADER_V1_MAX};

pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_1: [u8; 6] = *b"PROXY ";
const END_OF_LINE: [u8; 2] = *b"\r\n";

/// Signature, version and command, family, length.
const FIXED_LEN: usize = 16;

pub(super) const VERSION_2: u8 = 0x20;
const LOCAL: u8 = 0;
pub(super) const PROXY: u8 = 1;

const UNSPECIFIED: u8 = 0x00;
pub(super) const TCP_OVER_IPV4: u8 = 0x11;
pub(super) const TCP_OVER_IPV6: u8 = 0x21;

/// What is not spoken here: UDP over IPv4 and IPv6, and Unix sockets of both kinds.
const UNSUPPORTED: [u8; 4] = [0x12, 0x22, 0x31, 0x32];

const TYPE_CRC32C: u8 = 0x03;

/// First byte of a TLS record that carries a handshake (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// A header as far as it has come.
///
/// The outcome is the same however the bytes are cut.
#[derive(Debug, Default)]
pub struct ProxyHeader {
    /// At most [`PROXY_HEADER_MAX`] bytes.
    kept: Vec<u8>,
}

/// What [`ProxyHeader::receive`] led to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// More bytes are needed; all of the input was taken.
    Incomplete,
    Complete {
        /// Who is introduced; `None` where the connection's own addresses stand.
        addresses: Option<Addresses>,
        /// Bytes of the last input that belong to the header.
        taken: usize,
    },
}

/// No header, or none that can be accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Invalid {
    #[error("the checksum of the PROXY v2 header (CRC32C) is wrong")]
    Checksum,
    #[error("PROXY v2 command {0:#x}: expected LOCAL (0x0) or PROXY (0x1)")]
    Command(u8),
    #[error("PROXY v2 family {0:#04x}: expected TCP over IPv4 (0x11) or IPv6 (0x21)")]
    Family(u8),
    #[error("a PROXY v1 line that is no \"PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT\"")]
    Line,
    #[error("a PROXY v1 line of more than {PROXY_HEADER_V1_MAX} bytes")]
    LineTooLong,
    #[error("the PROXY v2 header has no room for its addresses")]
    NoAddresses,
    #[error(
        "no PROXY header: the first bytes are {what}; have the load balancer send one, or take its \
         network out of accept_proxy",
        what = first(*.0)
    )]
    NoHeader(u8),
    #[error("a PROXY v2 header of {0} bytes: at most {PROXY_HEADER_MAX} are accepted")]
    TooLong(usize),
    #[error("a TLV of the PROXY v2 header is cut short, or is no TLV that the type allows")]
    Tlv,
    #[error("PROXY header of version {0}: expected 1 or 2")]
    Version(u8),
}

fn first(byte: u8) -> String {
    match byte {
        TLS_HANDSHAKE => "TLS".to_owned(),
        other => format!("something else ({other:#04x})"),
    }
}

/// A header that is whole: whom it introduces, and how long it is.
type Whole = (Option<Addresses>, usize);

impl ProxyHeader {
    /// Takes the next bytes of the connection, or the first of them, up to the header's end.
    ///
    /// # Errors
    ///
    /// Where no header that can be accepted begins like this, whatever follows.
    pub fn receive(&mut self, input: &[u8]) -> Result<Progress, Invalid> {
        let before = self.kept.len();
        let room = PROXY_HEADER_MAX - before;
        self.kept.extend_from_slice(&input[..input.len().min(room)]);
        let Some((addresses, len)) = parse(&self.kept)? else {
            return Ok(Progress::Incomplete);
        };
        self.kept = Vec::new();
        let taken = len.saturating_sub(before);
        Ok(Progress::Complete { addresses, taken })
    }
}

/// `None` while more bytes are needed. What is wrong with a beginning is wrong with all that follows
/// from it, and says the same.
fn parse(bytes: &[u8]) -> Result<Option<Whole>, Invalid> {
    let expected: &[u8] = match bytes.first() {
        None => return Ok(None),
        Some(first) if *first == VERSION_1[0] => &VERSION_1,
        Some(first) if *first == SIGNATURE[0] => &SIGNATURE,
        Some(other) => return Err(Invalid::NoHeader(*other)),
    };
    if bytes
        .iter()
        .zip(expected)
        .any(|(got, wanted)| got != wanted)
    {
        return Err(Invalid::NoHeader(bytes[0]));
    }
    match bytes.get(expected.len()..) {
        None => Ok(None),
        Some(_) if expected.len() == SIGNATURE.len() => version_2(bytes),
        Some(_) => version_1(bytes),
    }
}

fn version_1(bytes: &[u8]) -> Result<Option<Whole>, Invalid> {
    let line = &bytes[..bytes.len().min(PROXY_HEADER_V1_MAX)];
    let Some(end) = line.windows(2).position(|pair| pair == END_OF_LINE) else {
        return match line.len() {
            PROXY_HEADER_V1_MAX => Err(Invalid::LineTooLong),
            _ => Ok(None),
        };
    };
    let words: Vec<&[u8]> = line[VERSION_1.len()..end]
        .split(|byte| *byte == b' ')
        .collect();
    let addresses = match words.as_slice() {
        // Whatever stands behind it is to be ignored.
        [b"UNKNOWN", ..] => None,
        [b"TCP4", rest @ ..] => Some(text_addresses::<Ipv4Addr>(rest)?),
        [b"TCP6", rest @ ..] => Some(text_addresses::<Ipv6Addr>(rest)?),
        _ => return Err(Invalid::Line),
    };
    Ok(Some((addresses, end + END_OF_LINE.len())))
}

fn text_addresses<Ip: FromStr + Into<IpAddr>>(words: &[&[u8]]) -> Result<Addresses, Invalid> {
    let &[client, local, client_port, local_port] = words else {
        return Err(Invalid::Line);
    };
    let address = |ip: &[u8], port| {
        let ip: Ip = std::str::from_utf8(ip).ok()?.parse().ok()?;
        Some(SocketAddr::new(ip.into(), text_port(port)?))
    };
    let addresses = || {
        Some(Addresses {
            client: address(client, client_port)?,
            local: address(local, local_port)?,
        })
    };
    addresses().ok_or(Invalid::Line)
}

/// A decimal number without sign and without zeros in front.
fn text_port(text: &[u8]) -> Option<u16> {
    let is_plain = text.iter().all(u8::is_ascii_digit) && (!text.starts_with(b"0") || text == b"0");
    let text = std::str::from_utf8(text).ok().filter(|_| is_plain)?;
    text.parse().ok()
}

fn version_2(bytes: &[u8]) -> Result<Option<Whole>, Invalid> {
    let Some(&version_and_command) = bytes.get(SIGNATURE.len()) else {
        return Ok(None);
    };
    let (version, command) = (version_and_command >> 4, version_and_command & 0xf);
    if version << 4 != VERSION_2 {
        return Err(Invalid::Version(version));
    }
    if ![LOCAL, PROXY].contains(&command) {
        return Err(Invalid::Command(command));
    }
    let Some(&family) = bytes.get(SIGNATURE.len() + 1) else {
        return Ok(None);
    };
    let ip_len = match (command, family) {
        // Of these the whole block is to be ignored.
        (LOCAL, _) | (_, UNSPECIFIED) => None,
        // A receiver is to take these for UNSPEC (section 2.2).
        (_, family) if UNSUPPORTED.contains(&family) => None,
        (_, TCP_OVER_IPV4) => Some(4),
        (_, TCP_OVER_IPV6) => Some(16),
        _ => return Err(Invalid::Family(family)),
    };
    let Some(&[high, low]) = bytes.get(FIXED_LEN - 2..FIXED_LEN) else {
        return Ok(None);
    };
    let len = FIXED_LEN + usize::from(u16::from_be_bytes([high, low]));
    if len > PROXY_HEADER_MAX {
        return Err(Invalid::TooLong(len));
    }
    let tlvs = ip_len.map(|ip_len| FIXED_LEN + 2 * (ip_len + 2));
    if tlvs.is_some_and(|tlvs| tlvs > len) {
        return Err(Invalid::NoAddresses);
    }
    let Some(header) = bytes.get(..len) else {
        return Ok(None);
    };
    let Some((ip_len, tlvs)) = ip_len.zip(tlvs) else {
        return Ok(Some((None, len)));
    };
    check_tlvs(header, tlvs)?;
    let block = &header[FIXED_LEN..tlvs];
    let (ips, ports) = block.split_at(2 * ip_len);
    let address = |ip: &[u8], port: &[u8]| {
        let port = u16::from_be_bytes(port.try_into().ok()?);
        Some(SocketAddr::new(binary_ip(ip)?, port))
    };
    let addresses = || {
        Some(Addresses {
            client: address(&ips[..ip_len], &ports[..2])?,
            local: address(&ips[ip_len..], &ports[2..])?,
        })
    };
    let addresses = addresses().ok_or(Invalid::NoAddresses)?;
    Ok(Some((Some(addresses), len)))
}

fn binary_ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// Whether there are only whole TLVs from `at` on, and the checksum among them, if any, is right.
fn check_tlvs(header: &[u8], mut at: usize) -> Result<(), Invalid> {
    let mut checksums = 0;
    while at < header.len() {
        let Some(&[kind, high, low]) = header.get(at..at + 3) else {
            return Err(Invalid::Tlv);
        };
        let value_at = at + 3;
        at = value_at + usize::from(u16::from_be_bytes([high, low]));
        let value = header.get(value_at..at).ok_or(Invalid::Tlv)?;
        if kind != TYPE_CRC32C {
            continue;
        }
        // Which of two would be meant, nobody says.
        checksums += 1;
        let stated = <[u8; 4]>::try_from(value).map_err(|_| Invalid::Tlv)?;
        if checksums > 1 {
            return Err(Invalid::Tlv);
        }
        // It is computed with zeros in its own place.
        let mut crc = Crc32c::default();
        crc.add(&header[..value_at]);
        crc.add(&[0; 4]);
        crc.add(&header[at..]);
        if crc.finish() != u32::from_be_bytes(stated) {
            return Err(Invalid::Checksum);
        }
    }
    Ok(())
}

/// The polynomial 0x1edc6f41, its bits reversed.
const CRC32C_POLYNOMIAL: u32 = 0x82f6_3b78;

/// What each value of a byte comes to.
static CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = (value >> 1) ^ (CRC32C_POLYNOMIAL * (value & 1));
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

/// CRC-32C (RFC 3720 section 12.1), a byte at a time.
struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Crc32c {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let [low, ..] = self.0.to_le_bytes();
            self.0 = (self.0 >> 8) ^ CRC32C[usize::from(low ^ byte)];
        }
    }

    fn finish(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests;
