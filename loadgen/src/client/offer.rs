//! What a client offers: protocol versions, cipher suites, groups. By default what any rustls
//! client does; narrower where the work must be equal for every server that is compared.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, ALL_CIPHER_SUITES, ALL_KX_GROUPS};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, NamedGroup, ProtocolVersion, SupportedCipherSuite, SupportedProtocolVersion,
};

/// Cipher suites by their IANA names, best first, as in `TLS_AES_128_GCM_SHA256`.
#[derive(Clone, Debug)]
pub struct Ciphers(Vec<SupportedCipherSuite>);

/// Key exchange groups by their IANA names, best first, as in `X25519,secp256r1`.
#[derive(Clone, Debug)]
pub struct Groups(Vec<&'static dyn SupportedKxGroup>);

/// Protocol versions, as in `1.3` or `1.2,1.3`.
#[derive(Clone, Debug)]
pub struct Versions(Vec<&'static SupportedProtocolVersion>);

/// Why a text is no part of an offer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is no {what}; there are {all}")]
pub struct OfferError {
    text: String,
    what: &'static str,
    all: String,
}

/// The items of a list with commas or colons, each found in `all` by its name in any case.
fn choose<T: Copy>(
    text: &str,
    what: &'static str,
    all: &[T],
    name: impl Fn(&T) -> String,
) -> Result<Vec<T>, OfferError> {
    let find = |part: &str| {
        let found = all
            .iter()
            .find(|item| name(item).eq_ignore_ascii_case(part.trim()));
        found.copied().ok_or_else(|| OfferError {
            text: part.to_owned(),
            what,
            all: all.iter().map(&name).collect::<Vec<_>>().join(", "),
        })
    };
    text.split([',', ':']).map(find).collect()
}

impl FromStr for Ciphers {
    type Err = OfferError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = |suite: &SupportedCipherSuite| cipher_name(suite.suite());
        choose(text, "cipher suite", ALL_CIPHER_SUITES, name).map(Self)
    }
}

impl FromStr for Groups {
    type Err = OfferError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // What people know these two curves by.
        let text = text.replace("P-256", "secp256r1");
        let text = text.replace("P-384", "secp384r1");
        let name = |group: &&'static dyn SupportedKxGroup| group_name(group.name());
        choose(&text, "group", ALL_KX_GROUPS, name).map(Self)
    }
}

impl FromStr for Versions {
    type Err = OfferError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = |version: &&'static SupportedProtocolVersion| {
            let number = if version.version == ProtocolVersion::TLSv1_3 {
                "1.3"
            } else {
                "1.2"
            };
            number.to_owned()
        };
        choose(text, "TLS version", &[&TLS13, &TLS12], name).map(Self)
    }
}

/// The name that IANA's registry gives a suite.
pub fn cipher_name(suite: CipherSuite) -> String {
    format!("{suite:?}").replacen("TLS13_", "TLS_", 1)
}

/// The name that IANA's registry gives a group, as far as case goes.
pub fn group_name(group: NamedGroup) -> String {
    format!("{group:?}")
}

/// What a client offers.
#[derive(Clone, Debug)]
pub struct Offer {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
}

impl Default for Offer {
    /// What any rustls client offers.
    fn default() -> Self {
        Self::new(None, None, None)
    }
}

impl Offer {
    /// Of what is `None`, what any rustls client offers.
    pub fn new(
        ciphers: Option<&Ciphers>,
        groups: Option<&Groups>,
        versions: Option<&Versions>,
    ) -> Self {
        let mut provider = aws_lc_rs::default_provider();
        if let Some(Ciphers(suites)) = ciphers {
            provider.cipher_suites.clone_from(suites);
        }
        if let Some(Groups(groups)) = groups {
            provider.kx_groups.clone_from(groups);
        }
        Self {
            provider: Arc::new(provider),
            versions: versions.map_or_else(|| vec![&TLS13, &TLS12], |Versions(all)| all.clone()),
        }
    }

    /// TLS 1.3 with AES-128-GCM and X25519, which the floor is made of.
    pub fn of_the_floor() -> Self {
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        Self {
            provider: Arc::new(provider),
            versions: vec![&TLS13],
        }
    }
}

/// What a handshake agreed on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Agreed {
    pub version: ProtocolVersion,
    pub suite: CipherSuite,
    /// `None` where a TLS 1.2 session was resumed, which exchanges no keys.
    pub group: Option<NamedGroup>,
}

impl fmt::Display for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match self.version {
            ProtocolVersion::TLSv1_2 => "TLS 1.2".to_owned(),
            ProtocolVersion::TLSv1_3 => "TLS 1.3".to_owned(),
            other => format!("{other:?}"),
        };
        write!(f, "{version} {}", cipher_name(self.suite))?;
        match self.group {
            Some(group) => write!(f, " {}", group_name(group)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_read_by_the_names_of_iana() {
        let ciphers: Ciphers = "TLS_AES_128_GCM_SHA256,tls_ecdhe_ecdsa_with_aes_128_gcm_sha256"
            .parse()
            .unwrap();
        let suites: Vec<_> = ciphers.0.iter().map(|suite| suite.suite()).collect();
        assert_eq!(
            suites,
            [
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            ]
        );
        let groups: Groups = "x25519:P-256".parse().unwrap();
        let names: Vec<_> = groups.0.iter().map(|group| group.name()).collect();
        assert_eq!(names, [NamedGroup::X25519, NamedGroup::secp256r1]);
        let versions: Versions = "1.2".parse().unwrap();
        let offer = Offer::new(Some(&ciphers), Some(&groups), Some(&versions));
        assert_eq!(offer.provider.cipher_suites.len(), 2);
        assert_eq!(offer.versions[0].version, ProtocolVersion::TLSv1_2);
        assert_eq!(Offer::default().versions.len(), 2);
    }

    #[test]
    fn what_is_none_is_refused_with_what_there_is() {
        for (error, named) in [
            (
                "TLS_RSA_WITH_NULL_MD5".parse::<Ciphers>().err(),
                "TLS_AES_128_GCM_SHA256",
            ),
            ("ffdhe2048".parse::<Groups>().err(), "X25519MLKEM768"),
            ("1.1".parse::<Versions>().err(), "1.3, 1.2"),
            ("X25519,".parse::<Groups>().err(), "secp384r1"),
        ] {
            let text = error.unwrap().to_string();
            assert!(text.contains(named), "{text}");
        }
    }

    #[test]
    fn what_was_agreed_reads_as_in_the_registry() {
        let agreed = Agreed {
            version: ProtocolVersion::TLSv1_3,
            suite: CipherSuite::TLS13_AES_128_GCM_SHA256,
            group: Some(NamedGroup::X25519),
        };
        assert_eq!(agreed.to_string(), "TLS 1.3 TLS_AES_128_GCM_SHA256 X25519");
    }
}
