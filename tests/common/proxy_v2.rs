//! A small reader of PROXY protocol v2 headers, for what upstreams in tests are told.
#![allow(dead_code, reason = "each test target uses its part")]

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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

/// A header; the TLVs inside PP2_TYPE_SSL stand beside the others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Header {
    pub source: Option<SocketAddr>,
    pub destination: Option<SocketAddr>,
    pub tlvs: BTreeMap<u8, Vec<u8>>,
    /// PP2_TYPE_SSL's client bits and verify result.
    pub ssl: Option<(u8, u32)>,
}

impl Header {
    /// Reads one header, and not a byte more.
    pub fn read(stream: &mut impl Read) -> std::io::Result<Self> {
        let mut fixed = [0; 16];
        stream.read_exact(&mut fixed)?;
        assert_eq!(
            &fixed[..12],
            b"\r\n\r\n\0\r\nQUIT\n",
            "no PROXY v2 signature"
        );
        assert_eq!(fixed[12], 0x21, "version 2, command PROXY");
        let mut rest = vec![0; usize::from(u16::from_be_bytes([fixed[14], fixed[15]]))];
        stream.read_exact(&mut rest)?;
        Ok(Self::parse(fixed[13], &rest))
    }

    fn parse(family: u8, rest: &[u8]) -> Self {
        let address_len = match family {
            0x11 => 4,
            0x21 => 16,
            other => panic!("address family {other:#x}"),
        };
        let (addresses, tlvs) = rest.split_at(2 * address_len + 4);
        let (ips, ports) = addresses.split_at(2 * address_len);
        let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
        let mut header = Self {
            source: Some(SocketAddr::new(ip(&ips[..address_len]), port(0))),
            destination: Some(SocketAddr::new(ip(&ips[address_len..]), port(2))),
            ..Self::default()
        };
        header.read_tlvs(tlvs);
        header
    }

    fn read_tlvs(&mut self, mut bytes: &[u8]) {
        while let [tag, high, low, rest @ ..] = bytes {
            let (value, rest) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            if *tag == SSL {
                let verify = u32::from_be_bytes(value[1..5].try_into().unwrap());
                self.ssl = Some((value[0], verify));
                self.read_tlvs(&value[5..]);
            } else {
                assert!(
                    self.tlvs.insert(*tag, value.to_vec()).is_none(),
                    "TLV {tag:#x} twice"
                );
            }
            bytes = rest;
        }
        assert!(bytes.is_empty(), "bytes behind the last TLV");
    }

    /// A TLV as text.
    pub fn text(&self, tag: u8) -> Option<&str> {
        self.tlvs
            .get(&tag)
            .map(|value| std::str::from_utf8(value).unwrap())
    }
}

fn ip(bytes: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(bytes) {
        Ok(four) => Ipv4Addr::from(four).into(),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap()).into(),
    }
}
