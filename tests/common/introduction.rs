//! PROXY headers as load balancers write them.
#![allow(dead_code, reason = "each test target uses its part")]

use std::net::{IpAddr, SocketAddr};

pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Version 1.
pub fn line(client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (client.ip(), local.ip());
    let ports = format!("{} {}", client.port(), local.port());
    format!("PROXY {family} {from} {to} {ports}\r\n").into_bytes()
}

/// Version 2 with these TLVs.
pub fn binary(client: SocketAddr, local: SocketAddr, tlvs: &[u8]) -> Vec<u8> {
    let family = if client.is_ipv4() { 0x11 } else { 0x21 };
    let mut rest = Vec::new();
    for address in [client, local] {
        match address.ip() {
            IpAddr::V4(ip) => rest.extend(ip.octets()),
            IpAddr::V6(ip) => rest.extend(ip.octets()),
        }
    }
    for address in [client, local] {
        rest.extend(address.port().to_be_bytes());
    }
    rest.extend(tlvs);
    block(0x21, family, &rest)
}

/// Version 2 of any command and family.
pub fn block(version_and_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
    let fixed = [version_and_command, family, len[0], len[1]];
    [&SIGNATURE[..], &fixed, rest].concat()
}

pub fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &len[..], value].concat()
}
