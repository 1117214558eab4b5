//! A reader of PROXY protocol v2 headers, as an upstream would have one.
//!
//! Written from the specification alone (HAProxy, "The PROXY protocol", section 2.2), so that it
//! shares no mistake with what writes the header.
#![allow(dead_code, reason = "each test target uses its part")]

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: [u8; 12] = [
    0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a,
];

/// Types of TLVs; those from 0xE0 on are ours.
pub const ALPN: u8 = 0x01;
pub const AUTHORITY: u8 = 0x02;
pub const UNIQUE_ID: u8 = 0x05;
pub const SSL: u8 = 0x20;
pub const SSL_VERSION: u8 = 0x21;
pub const SSL_CN: u8 = 0x22;
pub const SSL_CIPHER: u8 = 0x23;
pub const SSL_CLIENT_CERT: u8 = 0x28;
pub const SPIFFE_ID: u8 = 0xe0;
pub const SANS: u8 = 0xe1;
pub const FINGERPRINT: u8 = 0xe2;
pub const RULE: u8 = 0xe3;
pub const RESUMED: u8 = 0xe4;

/// What a header says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub tlvs: Vec<(u8, Vec<u8>)>,
    pub ssl: Option<Ssl>,
}

/// What PP2_TYPE_SSL says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ssl {
    /// Bits: 1 over TLS, 2 certificate on this connection, 4 certificate in this session.
    pub client: u8,
    /// Zero where the client's certificate was verified.
    pub verify: u32,
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

impl Header {
    /// Reads exactly the header's bytes from `stream`.
    pub fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut fixed = [0; 16];
        stream.read_exact(&mut fixed)?;
        let mut rest = vec![0; usize::from(u16::from_be_bytes([fixed[14], fixed[15]]))];
        stream.read_exact(&mut rest)?;
        Self::parse(&fixed, &rest)
            .map_err(|problem| io::Error::other(format!("PROXY v2: {problem}")))
    }

    fn parse(fixed: &[u8; 16], rest: &[u8]) -> Result<Self, String> {
        if fixed[..12] != SIGNATURE {
            return Err(format!("no signature: {fixed:02x?}"));
        }
        if fixed[12] != 0x21 {
            return Err(format!("not version 2 and PROXY: {:#04x}", fixed[12]));
        }
        let mut rest = Bytes(rest);
        let (source, destination) = match fixed[13] {
            0x11 => rest.addresses(|bytes| Ok(Ipv4Addr::from(bytes.array::<4>()?).into()))?,
            0x21 => rest.addresses(|bytes| Ok(Ipv6Addr::from(bytes.array::<16>()?).into()))?,
            other => return Err(format!("not TCP over IPv4 or IPv6: {other:#04x}")),
        };
        let tlvs = rest.tlvs()?;
        let ssl = tlvs.iter().find(|(tag, _)| *tag == SSL);
        let ssl = ssl.map(|(_, value)| Ssl::parse(value)).transpose()?;
        Ok(Self {
            source,
            destination,
            tlvs,
            ssl,
        })
    }

    /// The value of the only TLV of that type.
    #[track_caller]
    pub fn tlv(&self, tag: u8) -> Option<&[u8]> {
        only(&self.tlvs, tag)
    }

    /// The value as text.
    #[track_caller]
    pub fn text(&self, tag: u8) -> Option<&str> {
        self.tlv(tag)
            .map(|value| std::str::from_utf8(value).unwrap())
    }
}

impl Ssl {
    fn parse(value: &[u8]) -> Result<Self, String> {
        let mut bytes = Bytes(value);
        let [client] = bytes.array()?;
        let verify = u32::from_be_bytes(bytes.array()?);
        Ok(Self {
            client,
            verify,
            tlvs: bytes.tlvs()?,
        })
    }

    /// The value of the only TLV of that type, as text.
    #[track_caller]
    pub fn text(&self, tag: u8) -> Option<&str> {
        only(&self.tlvs, tag).map(|value| std::str::from_utf8(value).unwrap())
    }
}

#[track_caller]
fn only(tlvs: &[(u8, Vec<u8>)], tag: u8) -> Option<&[u8]> {
    let mut values = tlvs.iter().filter(|(found, _)| *found == tag);
    let value = values.next().map(|(_, value)| value.as_slice());
    assert!(
        values.next().is_none(),
        "TLV {tag:#04x} stands twice in {tlvs:02x?}"
    );
    value
}

/// Bytes that are left to read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or("cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().unwrap())
    }

    fn addresses(
        &mut self,
        ip: impl Fn(&mut Self) -> Result<IpAddr, String>,
    ) -> Result<(SocketAddr, SocketAddr), String> {
        let (source, destination) = (ip(self)?, ip(self)?);
        let source_port = u16::from_be_bytes(self.array()?);
        let destination_port = u16::from_be_bytes(self.array()?);
        Ok((
            (source, source_port).into(),
            (destination, destination_port).into(),
        ))
    }

    fn tlvs(&mut self) -> Result<Vec<(u8, Vec<u8>)>, String> {
        let mut tlvs = Vec::new();
        while !self.0.is_empty() {
            let [tag] = self.array()?;
            let len = usize::from(u16::from_be_bytes(self.array()?));
            tlvs.push((tag, self.take(len)?.to_vec()));
        }
        Ok(tlvs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x21, family], &len, rest].concat()
    }

    #[test]
    fn a_header_made_by_hand_is_read() {
        let rest = [
            &[192, 0, 2, 1, 192, 0, 2, 2, 0xc0, 0x01, 0x20, 0xfb][..],
            &[AUTHORITY, 0, 1, b'a'],
            &[SSL, 0, 9, 5, 0, 0, 0, 0, SSL_CN, 0, 1, b'b'],
        ]
        .concat();
        let bytes = [header(0x11, &rest), b"rest".to_vec()].concat();
        let mut stream = &bytes[..];
        let read = Header::read(&mut stream).unwrap();
        assert_eq!(stream, b"rest");
        assert_eq!(read.source, "192.0.2.1:49153".parse().unwrap());
        assert_eq!(read.destination, "192.0.2.2:8443".parse().unwrap());
        assert_eq!(read.text(AUTHORITY), Some("a"));
        let ssl = read.ssl.unwrap();
        assert_eq!(
            (ssl.client, ssl.verify, ssl.text(SSL_CN)),
            (5, 0, Some("b"))
        );
    }

    #[test]
    fn what_is_no_header_is_an_error() {
        let addresses = [0; 12];
        for (bytes, problem) in [
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "no signature"),
            (header(0x31, &addresses), "not TCP"),
            (header(0x11, &addresses[1..]), "cut short"),
            (
                header(0x11, &[&addresses[..], &[AUTHORITY, 0, 2, b'a']].concat()),
                "cut short",
            ),
            (
                header(0x11, &[&addresses[..], &[SSL, 0, 1, 1]].concat()),
                "cut short",
            ),
        ] {
            let error = Header::read(&mut &bytes[..]).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
