//! Reader of PROXY protocol v2 headers, for the echo upstream: what did the terminator say about
//! its client? Written against the protocol's specification, sections 2.2 and 2.2.1 to 2.2.7.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aws_lc_rs::digest;

/// The twelve bytes that every v2 header starts with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes before the addresses: signature, version and command, family, length.
const FIXED_LEN: usize = 16;

mod tlv_type {
    pub const ALPN: u8 = 0x01;
    pub const AUTHORITY: u8 = 0x02;
    pub const CRC32C: u8 = 0x03;
    pub const NOOP: u8 = 0x04;
    pub const UNIQUE_ID: u8 = 0x05;
    pub const SSL: u8 = 0x20;
    pub const SSL_VERSION: u8 = 0x21;
    pub const SSL_CN: u8 = 0x22;
    pub const SSL_CIPHER: u8 = 0x23;
    pub const SSL_SIG_ALG: u8 = 0x24;
    pub const SSL_KEY_ALG: u8 = 0x25;
    pub const SSL_CLIENT_CERT: u8 = 0x28;
    // From 0xE0 on: application use. These are Ringgate's.
    pub const SPIFFE_ID: u8 = 0xE0;
    pub const SAN_LIST: u8 = 0xE1;
    pub const FINGERPRINT: u8 = 0xE2;
    pub const RULE: u8 = 0xE3;
    pub const RESUMED: u8 = 0xE4;
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProxyHeaderError {
    #[error("the first bytes are no PROXY v2 signature")]
    Signature,
    #[error("version and command byte {0:#04x}; expected 0x20 (LOCAL) or 0x21 (PROXY)")]
    Command(u8),
    #[error("address family byte {0:#04x}; expected TCP over IPv4 (0x11) or IPv6 (0x21)")]
    Family(u8),
    #[error("length {0} is too short for the addresses")]
    Addresses(usize),
    #[error("TLV of type {0:#04x} is cut short or of the wrong length")]
    Tlv(u8),
    #[error("TLV of type {0:#04x} comes twice")]
    Duplicate(u8),
    #[error("the CRC32c does not fit")]
    Checksum,
}

/// The state of reading.
#[derive(Debug, Eq, PartialEq)]
pub enum Parsed {
    /// What is there so far may start a header.
    Incomplete,
    Complete {
        header: Box<ProxyHeader>,
        /// Bytes of the header; payload follows.
        len: usize,
    },
}

/// What a header says.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct ProxyHeader {
    /// Client and terminator; `None` for LOCAL, the proxy's own connection.
    pub addresses: Option<Addresses>,
    pub alpn: Option<Vec<u8>>,
    /// The SNI.
    pub authority: Option<Vec<u8>>,
    pub unique_id: Option<Vec<u8>>,
    pub tls: Option<Tls>,
    pub spiffe_id: Option<Vec<u8>>,
    pub san_list: Option<Vec<u8>>,
    /// SHA-256 of the client's leaf.
    pub fingerprint: Option<[u8; 32]>,
    pub rule: Option<Vec<u8>>,
    pub resumed: Option<bool>,
    /// Types that this reader does not know.
    pub unknown: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Addresses {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// PP2_TYPE_SSL.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Tls {
    /// Bit 0: over TLS; bit 1: certificate on this connection; bit 2: in this session.
    pub client: u8,
    /// Zero: the certificate was presented and verified.
    pub verify: u32,
    pub version: Option<Vec<u8>>,
    pub common_name: Option<Vec<u8>>,
    pub cipher: Option<Vec<u8>>,
    pub signature_algorithm: Option<Vec<u8>>,
    pub key_algorithm: Option<Vec<u8>>,
    /// The leaf's DER.
    pub client_certificate: Option<Vec<u8>>,
}

impl ProxyHeader {
    /// Reads the header that `bytes` start with.
    pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyHeaderError> {
        let known = bytes.len().min(SIGNATURE.len());
        if bytes[..known] != SIGNATURE[..known] {
            return Err(ProxyHeaderError::Signature);
        }
        let Some(&[command, family, high, low]) = bytes.get(SIGNATURE.len()..FIXED_LEN) else {
            return Ok(Parsed::Incomplete);
        };
        let len = FIXED_LEN + usize::from(u16::from_be_bytes([high, low]));
        let local = match command {
            0x20 => true,
            0x21 => false,
            other => return Err(ProxyHeaderError::Command(other)),
        };
        let Some(whole) = bytes.get(..len) else {
            return Ok(Parsed::Incomplete);
        };
        if local {
            // The receiver ignores what a LOCAL header carries.
            return Ok(Parsed::Complete {
                header: Box::default(),
                len,
            });
        }
        let (addresses, tlvs) = read_addresses(family, &whole[FIXED_LEN..])?;
        let mut header = Self {
            addresses: Some(addresses),
            ..Self::default()
        };
        for (kind, value) in TlvIter(tlvs).collect::<Result<Vec<_>, _>>()? {
            header.read_tlv(kind, value, whole)?;
        }
        Ok(Parsed::Complete {
            header: Box::new(header),
            len,
        })
    }

    fn read_tlv(&mut self, kind: u8, value: &[u8], whole: &[u8]) -> Result<(), ProxyHeaderError> {
        let wrong = ProxyHeaderError::Tlv(kind);
        match kind {
            tlv_type::ALPN => put(&mut self.alpn, kind, value.to_vec()),
            tlv_type::AUTHORITY => put(&mut self.authority, kind, value.to_vec()),
            tlv_type::CRC32C => check_crc(value.try_into().map_err(|_| wrong)?, value, whole),
            tlv_type::NOOP => Ok(()),
            tlv_type::UNIQUE_ID => put(&mut self.unique_id, kind, value.to_vec()),
            tlv_type::SSL => put(&mut self.tls, kind, Tls::parse(value)?),
            tlv_type::SPIFFE_ID => put(&mut self.spiffe_id, kind, value.to_vec()),
            tlv_type::SAN_LIST => put(&mut self.san_list, kind, value.to_vec()),
            tlv_type::FINGERPRINT => put(
                &mut self.fingerprint,
                kind,
                value.try_into().map_err(|_| wrong)?,
            ),
            tlv_type::RULE => put(&mut self.rule, kind, value.to_vec()),
            tlv_type::RESUMED => match value {
                [flag @ 0..=1] => put(&mut self.resumed, kind, *flag == 1),
                _ => Err(wrong),
            },
            other => {
                self.unknown.push(other);
                Ok(())
            }
        }
    }

    /// The SHA-256 of the client's leaf: as told, or of the certificate that came along.
    pub fn leaf_fingerprint(&self) -> Option<[u8; 32]> {
        self.fingerprint.or_else(|| {
            let der = self.tls.as_ref()?.client_certificate.as_ref()?;
            digest::digest(&digest::SHA256, der)
                .as_ref()
                .try_into()
                .ok()
        })
    }
}

impl Tls {
    fn parse(value: &[u8]) -> Result<Self, ProxyHeaderError> {
        let Some((&[client, a, b, c, d], tlvs)) = value.split_first_chunk::<5>() else {
            return Err(ProxyHeaderError::Tlv(tlv_type::SSL));
        };
        let verify = u32::from_be_bytes([a, b, c, d]);
        let mut tls = Self {
            client,
            verify,
            ..Self::default()
        };
        for tlv in TlvIter(tlvs) {
            let (kind, value) = tlv?;
            let field = match kind {
                tlv_type::SSL_VERSION => &mut tls.version,
                tlv_type::SSL_CN => &mut tls.common_name,
                tlv_type::SSL_CIPHER => &mut tls.cipher,
                tlv_type::SSL_SIG_ALG => &mut tls.signature_algorithm,
                tlv_type::SSL_KEY_ALG => &mut tls.key_algorithm,
                tlv_type::SSL_CLIENT_CERT => &mut tls.client_certificate,
                _ => continue,
            };
            put(field, kind, value.to_vec())?;
        }
        Ok(tls)
    }
}

/// A second TLV of a kind could say something else than the first: refused.
fn put<T>(field: &mut Option<T>, kind: u8, value: T) -> Result<(), ProxyHeaderError> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(ProxyHeaderError::Duplicate(kind)),
    }
}

fn read_addresses(family: u8, body: &[u8]) -> Result<(Addresses, &[u8]), ProxyHeaderError> {
    let short = ProxyHeaderError::Addresses(body.len());
    let port = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    match family {
        0x11 => {
            let (fixed, tlvs) = body.split_first_chunk::<12>().ok_or(short)?;
            let ip = |at: usize| {
                IpAddr::from(Ipv4Addr::new(
                    fixed[at],
                    fixed[at + 1],
                    fixed[at + 2],
                    fixed[at + 3],
                ))
            };
            let source = SocketAddr::new(ip(0), port(fixed[8], fixed[9]));
            let destination = SocketAddr::new(ip(4), port(fixed[10], fixed[11]));
            Ok((
                Addresses {
                    source,
                    destination,
                },
                tlvs,
            ))
        }
        0x21 => {
            let (fixed, tlvs) = body.split_first_chunk::<36>().ok_or(short)?;
            let ip = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&fixed[at..at + 16]);
                IpAddr::from(Ipv6Addr::from(octets))
            };
            let source = SocketAddr::new(ip(0), port(fixed[32], fixed[33]));
            let destination = SocketAddr::new(ip(16), port(fixed[34], fixed[35]));
            Ok((
                Addresses {
                    source,
                    destination,
                },
                tlvs,
            ))
        }
        other => Err(ProxyHeaderError::Family(other)),
    }
}

/// Type, big-endian length, value.
struct TlvIter<'a>(&'a [u8]);

impl<'a> Iterator for TlvIter<'a> {
    type Item = Result<(u8, &'a [u8]), ProxyHeaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        let &kind = self.0.first()?;
        let Some((&[_, high, low], rest)) = self.0.split_first_chunk::<3>() else {
            self.0 = &[];
            return Some(Err(ProxyHeaderError::Tlv(kind)));
        };
        let Some((value, rest)) =
            rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))
        else {
            self.0 = &[];
            return Some(Err(ProxyHeaderError::Tlv(kind)));
        };
        self.0 = rest;
        Some(Ok((kind, value)))
    }
}

/// The checksum covers the whole header with its own four bytes as zeros.
fn check_crc(told: [u8; 4], field: &[u8], whole: &[u8]) -> Result<(), ProxyHeaderError> {
    let at = field.as_ptr().addr() - whole.as_ptr().addr();
    let mut zeroed = whole.to_vec();
    zeroed[at..at + told.len()].fill(0);
    let fits = crc32c(&zeroed) == u32::from_be_bytes(told);
    if fits {
        Ok(())
    } else {
        Err(ProxyHeaderError::Checksum)
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            // The Castagnoli polynomial, bits reversed.
            (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let len = u16::try_from(value.len()).unwrap().to_be_bytes();
        [&[kind], &len[..], value].concat()
    }

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &len[..], body].concat()
    }

    const V4: [u8; 12] = [127, 0, 0, 1, 10, 0, 0, 2, 0x9C, 0x40, 0x20, 0xFB];

    fn full() -> Vec<u8> {
        let ssl = [
            &[0x07, 0, 0, 0, 0][..],
            &tlv(0x21, b"TLSv1.3"),
            &tlv(0x22, b"client-1"),
            &tlv(0x23, b"TLS_AES_128_GCM_SHA256"),
            &tlv(0x24, b"ECDSA"),
            &tlv(0x25, b"EC256"),
            &tlv(0x28, b"der"),
            &tlv(0x2F, b"of the future"),
        ]
        .concat();
        let body = [
            &V4[..],
            &tlv(0x01, b"h2"),
            &tlv(0x02, b"a.example"),
            &tlv(0x04, &[0; 3]),
            &tlv(0x05, b"id"),
            &tlv(0x20, &ssl),
            &tlv(0xE0, b"spiffe://demo.example/client/1"),
            &tlv(0xE1, b"URI:x"),
            &tlv(0xE2, &[9; 32]),
            &tlv(0xE3, b"rule"),
            &tlv(0xE4, &[1]),
            &tlv(0xEF, b""),
        ]
        .concat();
        header(0x21, 0x11, &body)
    }

    fn complete(bytes: &[u8]) -> (ProxyHeader, usize) {
        match ProxyHeader::parse(bytes).unwrap() {
            Parsed::Complete { header, len } => (*header, len),
            Parsed::Incomplete => panic!("incomplete"),
        }
    }

    #[test]
    fn every_field_is_read() {
        let mut bytes = full();
        let len = bytes.len();
        bytes.extend_from_slice(b"payload");
        let (header, read) = complete(&bytes);
        assert_eq!(read, len);
        let addresses = header.addresses.unwrap();
        assert_eq!(addresses.source, "127.0.0.1:40000".parse().unwrap());
        assert_eq!(addresses.destination, "10.0.0.2:8443".parse().unwrap());
        assert_eq!(header.alpn.as_deref(), Some(&b"h2"[..]));
        assert_eq!(header.authority.as_deref(), Some(&b"a.example"[..]));
        assert_eq!(header.unique_id.as_deref(), Some(&b"id"[..]));
        assert_eq!(
            header.spiffe_id.as_deref(),
            Some(&b"spiffe://demo.example/client/1"[..])
        );
        assert_eq!(header.leaf_fingerprint(), Some([9; 32]));
        assert_eq!(
            (header.rule.as_deref(), header.resumed),
            (Some(&b"rule"[..]), Some(true))
        );
        assert_eq!(header.unknown, [0xEF]);
        let tls = header.tls.unwrap();
        assert_eq!((tls.client, tls.verify), (7, 0));
        assert_eq!(tls.common_name.as_deref(), Some(&b"client-1"[..]));
        assert_eq!(tls.client_certificate.as_deref(), Some(&b"der"[..]));
    }

    #[test]
    fn truncated_at_every_byte_is_incomplete() {
        let bytes = full();
        for len in 0..bytes.len() {
            assert_eq!(
                ProxyHeader::parse(&bytes[..len]),
                Ok(Parsed::Incomplete),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn a_length_that_cuts_the_fields_anywhere_never_panics() {
        let bytes = full();
        let mut good_ends = 0;
        for len in FIXED_LEN..bytes.len() {
            let mut cut = bytes[..len].to_vec();
            cut[14..16].copy_from_slice(&u16::try_from(len - FIXED_LEN).unwrap().to_be_bytes());
            good_ends += usize::from(ProxyHeader::parse(&cut).is_ok());
        }
        assert_eq!(
            good_ends, 11,
            "after the addresses and after every TLV but the last"
        );
    }

    #[test]
    fn any_byte_changed_never_panics() {
        let bytes = full();
        for index in 0..bytes.len() {
            for value in [0, 1, 0x20, 0x7F, 0xE2, 0xFF] {
                let mut changed = bytes.clone();
                changed[index] = value;
                let _ = ProxyHeader::parse(&changed);
            }
        }
    }

    #[test]
    fn ipv6_and_local() {
        let mut body = [0; 36];
        (body[15], body[31]) = (1, 2);
        body[32..].copy_from_slice(&[0, 80, 1, 187]);
        let (v6, _) = complete(&header(0x21, 0x21, &body));
        assert_eq!(v6.addresses.unwrap().source, "[::1]:80".parse().unwrap());
        assert_eq!(
            v6.addresses.unwrap().destination,
            "[::2]:443".parse().unwrap()
        );
        let (local, len) = complete(&header(0x20, 0x00, &[1, 2, 3]));
        assert_eq!((local.addresses, len), (None, 19));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let parse = |bytes: &[u8]| ProxyHeader::parse(bytes).unwrap_err();
        let with = |more: &[u8]| header(0x21, 0x11, &[&V4[..], more].concat());
        assert_eq!(parse(b"GET / HTTP/1.1"), ProxyHeaderError::Signature);
        assert_eq!(
            parse(&header(0x11, 0x11, &V4)),
            ProxyHeaderError::Command(0x11)
        );
        assert_eq!(
            parse(&header(0x21, 0x12, &V4)),
            ProxyHeaderError::Family(0x12)
        );
        assert_eq!(
            parse(&header(0x21, 0x21, &V4)),
            ProxyHeaderError::Addresses(12)
        );
        assert_eq!(
            parse(&with(&tlv(0xE2, &[9; 31]))),
            ProxyHeaderError::Tlv(0xE2)
        );
        assert_eq!(parse(&with(&tlv(0xE4, &[2]))), ProxyHeaderError::Tlv(0xE4));
        assert_eq!(
            parse(&with(&tlv(0x20, &[1; 4]))),
            ProxyHeaderError::Tlv(0x20)
        );
        let twice = [tlv(0xE0, b"a"), tlv(0xE0, b"b")].concat();
        assert_eq!(parse(&with(&twice)), ProxyHeaderError::Duplicate(0xE0));
    }

    #[test]
    fn the_checksum_is_checked() {
        assert_eq!(
            crc32c(b"123456789"),
            0xE306_9283,
            "the polynomial's published check value"
        );
        let mut bytes = header(0x21, 0x11, &[&V4[..], &tlv(0x03, &[0; 4])].concat());
        assert_eq!(ProxyHeader::parse(&bytes), Err(ProxyHeaderError::Checksum));
        let at = bytes.len() - 4;
        let crc = crc32c(&bytes);
        bytes[at..].copy_from_slice(&crc.to_be_bytes());
        assert!(ProxyHeader::parse(&bytes).is_ok());
    }
}
