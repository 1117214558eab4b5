//! IP networks, written as `10.0.0.0/8` or `fd00::/8`; a plain address is a network of its own.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::NetworkSetting;
use super::document::{Entry, Table};
use crate::limits::PROXY_NETWORKS_MAX;

/// The addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    /// Its bits behind the prefix are zero.
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// Whether `address` is one of the network's. An IPv4 address counts as what it is also where a
    /// socket of both families shows it as `::ffff:192.0.2.1`.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros() >= self.prefix
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros() >= self.prefix
            }
            _ => false,
        }
    }

    /// Whether it holds every address of its family.
    pub fn is_everyone(&self) -> bool {
        self.prefix == 0
    }

    /// What is wrong with `text`, and the remedy, where it is no network.
    fn parse(text: &str) -> Result<Self, (&'static str, String)> {
        const FORM: &str = "write it as \"10.0.0.0/8\" or \"fd00::/8\", or give one address";
        let none = || ("is no IP network", FORM.to_owned());
        let (address, prefix) = text
            .split_once('/')
            .map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| none())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text
                .parse()
                .ok()
                .filter(|prefix| *prefix <= bits)
                .ok_or_else(none)?,
            Some(_) => return Err(none()),
        };
        if address.to_canonical() != address {
            let remedy = format!("write {}, with at most 32 bits", address.to_canonical());
            return Err(("is an IPv4 address in the form of IPv6", remedy));
        }
        let network = Self {
            address: truncated(address, prefix),
            prefix,
        };
        if network.address != address {
            let remedy = format!("write \"{network}\", or \"{address}\" for this address alone");
            return Err(("has bits set behind its prefix", remedy));
        }
        Ok(network)
    }
}

/// `address` with zeros behind its first `prefix` bits.
fn truncated(address: IpAddr, prefix: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The networks that a key names; none where it is absent. Errors are left with the document.
pub(super) fn networks(table: &Table<'_>, key: &'static str) -> Vec<NetworkSetting> {
    let Some(entry) = table.entry(key) else {
        return Vec::new();
    };
    let entries = entry.one_or_list();
    if entries.len() > PROXY_NETWORKS_MAX {
        let remedy = format!("keep to {PROXY_NETWORKS_MAX}; neighbours fit into a larger network");
        entry.report(format!("names {} networks", entries.len()), remedy);
    }
    let entries = entries.iter().take(PROXY_NETWORKS_MAX);
    entries.filter_map(network).collect()
}

fn network(entry: &Entry<'_>) -> Option<NetworkSetting> {
    let text = entry.string("\"10.0.0.0/8\"")?;
    match Network::parse(text) {
        Ok(network) => Some(NetworkSetting {
            network,
            place: entry.place.clone(),
        }),
        Err((problem, remedy)) => {
            entry.report(problem, remedy);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(network: &str, address: &str) -> bool {
        let network = Network::parse(network).unwrap();
        network.contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_holds_the_addresses_that_begin_like_it() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("10.0.0.0/8", "10.0.0.0", "9.255.255.255"),
            ("192.0.2.128/25", "192.0.2.129", "192.0.2.127"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.7/32", "::ffff:192.0.2.7", "::192.0.2.7"),
            ("0.0.0.0/0", "255.0.0.1", "::1"),
            ("::/0", "2001:db8::1", "192.0.2.7"),
            ("::/0", "::1", "::ffff:192.0.2.7"),
            ("fd00::/8", "fdff::1", "fe80::1"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
        ] {
            assert!(holds(network, inside), "{inside} in {network}");
            assert!(!holds(network, outside), "{outside} in {network}");
        }
    }

    #[test]
    fn networks_are_shown_as_they_are_written() {
        for text in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "fd00::/8",
            "::/0",
            "2001:db8::1/128",
        ] {
            assert_eq!(Network::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Network::parse("::1").unwrap().to_string(), "::1/128");
        assert!(Network::parse("::/0").unwrap().is_everyone());
        assert!(!Network::parse("::").unwrap().is_everyone());
    }

    #[test]
    fn what_is_no_network() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "fd00::/129",
            "example.org",
            "10.0.0.0-10.0.0.9",
            " 10.0.0.0/8",
            "fe80::1%1",
            "10.0.0.0/99999999999",
        ] {
            let (problem, _) = Network::parse(text).unwrap_err();
            assert_eq!(problem, "is no IP network", "{text}");
        }
        let remedy = |text| Network::parse(text).unwrap_err().1;
        assert_eq!(
            remedy("10.1.2.3/8"),
            "write \"10.0.0.0/8\", or \"10.1.2.3\" for this address alone"
        );
        assert_eq!(
            remedy("::ffff:10.0.0.0/104"),
            "write 10.0.0.0, with at most 32 bits"
        );
    }
}
