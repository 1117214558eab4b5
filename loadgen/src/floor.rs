//! The raw cryptography that mutual TLS cannot do without, timed on the calling thread's CPU: the
//! floor under every figure of a terminator.

use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::aead::{
    self, AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{ALL_KX_GROUPS, kx_group};
use rustls::{CipherSuite, NamedGroup};

use crate::client::{cipher_name, group_name};
use crate::pki::KeyKind;

/// What a handshake agrees on, as far as its cost goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Algorithms {
    /// The kind of every key.
    pub key: KeyKind,
    pub group: NamedGroup,
    /// Of the records.
    pub suite: CipherSuite,
}

impl Algorithms {
    /// X25519 and AES-128-GCM, which cost the least.
    pub fn of_key(key: KeyKind) -> Self {
        Self {
            key,
            group: NamedGroup::X25519,
            suite: CipherSuite::TLS13_AES_128_GCM_SHA256,
        }
    }
}

/// Times in µs of one operation each.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    /// The server's part: its own key pair and the agreement, or the encapsulation.
    pub key_exchange_us: f64,
    pub sign_us: f64,
    pub verify_us: f64,
    /// Extract and expand, SHA-256.
    pub hkdf_us: f64,
    /// A record of 1 KiB sealed.
    pub aead_1k_us: f64,
    /// A record of 16 KiB sealed.
    pub aead_16k_us: f64,
}

impl Floor {
    /// Times every operation; takes about 100 ms.
    pub fn measure(of: Algorithms) -> Result<Self, Unspecified> {
        let (sign_us, verify_us) = time_signatures(of.key)?;
        Ok(Self {
            key_exchange_us: time_key_exchange(of.group)?,
            sign_us,
            verify_us,
            hkdf_us: time_hkdf()?,
            aead_1k_us: time_aead(of.suite, 1 << 10)?,
            aead_16k_us: time_aead(of.suite, 1 << 14)?,
        })
    }

    /// A full handshake on the server: key exchange, our signature, the client's CertificateVerify,
    /// and one signature for every link of its chain up to the anchor.
    pub fn full_handshake_us(&self, chain_links: u32) -> f64 {
        self.key_exchange_us + self.sign_us + self.verify_us * f64::from(1 + chain_links)
    }

    /// A resumed handshake on the server: the key exchange alone.
    pub fn resumed_handshake_us(&self) -> f64 {
        self.key_exchange_us
    }

    /// A request of 1 KiB and its answer: opened once, sealed once.
    pub fn request_1k_us(&self) -> f64 {
        2.0 * self.aead_1k_us
    }

    /// One byte of full records in one direction: opened or sealed.
    pub fn byte_us(&self) -> f64 {
        self.aead_16k_us / f64::from(1 << 14)
    }
}

/// The fastest of many batches of about 0.1 ms: what disturbs a measurement only ever makes it
/// slower, and some batch is short enough to be left alone.
fn time(
    mut operation: impl FnMut() -> Result<(), Unspecified>,
    iterations: u32,
) -> Result<f64, Unspecified> {
    const BATCHES: u32 = 100;
    let mut best = f64::INFINITY;
    for _ in 0..BATCHES {
        let begun = Instant::now();
        for _ in 0..iterations {
            operation()?;
        }
        best = best.min(begun.elapsed().as_secs_f64() * 1e6 / f64::from(iterations));
    }
    Ok(best)
}

/// Keeps the optimiser from leaving out what made `value`.
fn keep<T>(value: T) {
    let _ = black_box(value);
}

/// Groups and kinds of keys whose handshakes people choose between.
const GROUPS: [&dyn SupportedKxGroup; 4] = [
    kx_group::X25519,
    kx_group::SECP256R1,
    kx_group::SECP384R1,
    kx_group::X25519MLKEM768,
];
const KEYS: [(&str, KeyKind); 3] = [
    ("P-256", KeyKind::P256),
    ("Ed25519", KeyKind::Ed25519),
    ("RSA-2048", KeyKind::Rsa2048),
];

/// The table of this CPU: each operation, and what mutual handshakes come to on the server for every
/// kind of key and group.
pub fn table() -> Result<String, Unspecified> {
    let exchanges = GROUPS
        .into_iter()
        .map(|group| Ok((group_name(group.name()), time_key_exchange(group.name())?)))
        .collect::<Result<Vec<_>, Unspecified>>()?;
    let keys = KEYS
        .into_iter()
        .map(|(name, kind)| Ok((name, time_signatures(kind)?)))
        .collect::<Result<Vec<_>, Unspecified>>()?;

    let mut table = format!("{:<34}", "µs of this CPU, of the server");
    for (name, _) in &exchanges {
        table.push_str(&format!(" {name:>14}"));
    }
    table.push('\n');
    let mut row = |name: &str, beside: f64| {
        table.push_str(&format!("{name:<34}"));
        for (_, exchange) in &exchanges {
            table.push_str(&format!(" {:>14.1}", exchange + beside));
        }
        table.push('\n');
    };
    for (name, (sign, verify)) in &keys {
        row(&format!("full, {name}, verdict remembered"), sign + verify);
        row(
            &format!("full, {name}, one link checked"),
            sign + 2.0 * verify,
        );
    }
    row("resumed: the key exchange alone", 0.0);
    table.push_str("\nµs of one operation\n");
    let mut operation = |name: String, us: f64| table.push_str(&format!("{us:>10.3}  {name}\n"));
    for (name, (sign, verify)) in &keys {
        operation(format!("{name} signature"), *sign);
        operation(format!("{name} verification"), *verify);
    }
    operation("HKDF extract and expand, SHA-256".to_owned(), time_hkdf()?);
    for suite in [
        CipherSuite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::TLS13_AES_256_GCM_SHA384,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ] {
        for (size, len) in [("1 KiB", 1 << 10), ("16 KiB", 1 << 14)] {
            let us = time_aead(suite, len)?;
            operation(format!("{}, {size} sealed", cipher_name(suite)), us);
        }
    }
    Ok(table)
}

/// What the server does for its key share, as rustls does it: with a client's share at hand.
fn time_key_exchange(group: NamedGroup) -> Result<f64, Unspecified> {
    let known = ALL_KX_GROUPS.iter().find(|known| known.name() == group);
    let group = known.ok_or(Unspecified)?;
    let client = group.start().map_err(|_| Unspecified)?;
    time(
        || {
            let exchanged = group.start_and_complete(client.pub_key());
            exchanged.map(keep).map_err(|_| Unspecified)
        },
        4,
    )
}

fn time_signatures(key: KeyKind) -> Result<(f64, f64), Unspecified> {
    // As long as what TLS signs: 64 spaces, a label, a zero and a hash (RFC 8446 section 4.4.3).
    let message = [0x20; 130];
    let random = SystemRandom::new();
    match key {
        KeyKind::Ed25519 => {
            let pair = Ed25519KeyPair::generate()?;
            let signature = pair.sign(&message);
            let public =
                signature::UnparsedPublicKey::new(&signature::ED25519, pair.public_key().as_ref());
            let sign = time(|| pair.try_sign(&message).map(keep), 8)?;
            Ok((
                sign,
                time(|| public.verify(&message, signature.as_ref()), 3)?,
            ))
        }
        KeyKind::P256 => {
            let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_ASN1_SIGNING)?;
            let signature = pair.sign(&random, &message)?;
            let algorithm = &signature::ECDSA_P256_SHA256_ASN1;
            let public = signature::UnparsedPublicKey::new(algorithm, pair.public_key().as_ref());
            let sign = time(|| pair.sign(&random, &message).map(keep), 8)?;
            Ok((
                sign,
                time(|| public.verify(&message, signature.as_ref()), 3)?,
            ))
        }
        KeyKind::Rsa2048 => {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048)?;
            let mut signature = vec![0; pair.public_modulus_len()];
            let padding = &signature::RSA_PSS_SHA256;
            let sign = time(|| pair.sign(padding, &random, &message, &mut signature), 1)?;
            let algorithm = &signature::RSA_PSS_2048_8192_SHA256;
            let public = signature::UnparsedPublicKey::new(algorithm, pair.public_key().as_ref());
            Ok((sign, time(|| public.verify(&message, &signature), 3)?))
        }
    }
}

fn time_hkdf() -> Result<f64, Unspecified> {
    let salt = Salt::new(HKDF_SHA256, &[7; 32]);
    let mut out = [0; 32];
    time(
        || {
            let secret = salt.extract(black_box(&[9; 32]));
            secret.expand(&[b"info"], HKDF_SHA256)?.fill(&mut out)
        },
        200,
    )
}

/// The cipher of a suite's records.
fn cipher(suite: CipherSuite) -> Option<&'static aead::Algorithm> {
    let name = cipher_name(suite);
    let of = [
        ("AES_128_GCM", &AES_128_GCM),
        ("AES_256_GCM", &AES_256_GCM),
        ("CHACHA20_POLY1305", &CHACHA20_POLY1305),
    ];
    let found = of.into_iter().find(|(part, _)| name.contains(part));
    found.map(|(_, algorithm)| algorithm)
}

fn time_aead(suite: CipherSuite, len: usize) -> Result<f64, Unspecified> {
    const ITERATIONS_BYTES: u32 = 1 << 20;
    let cipher = cipher(suite).ok_or(Unspecified)?;
    let key = LessSafeKey::new(UnboundKey::new(cipher, &[3; 32][..cipher.key_len()])?);
    let mut data = vec![5; len];
    time(
        || {
            let nonce = Nonce::assume_unique_for_key([1; 12]);
            let tag = key.seal_in_place_separate_tag(nonce, Aad::from([0; 5]), &mut data)?;
            let _ = black_box(tag);
            Ok(())
        },
        ITERATIONS_BYTES / u32::try_from(len).unwrap_or(u32::MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_follow_the_handshake() {
        let floor = Floor {
            key_exchange_us: 26.0,
            sign_us: 14.0,
            verify_us: 48.0,
            hkdf_us: 0.5,
            aead_1k_us: 0.1,
            aead_16k_us: 1.6384,
        };
        assert!((floor.full_handshake_us(0) - 88.0).abs() < 1e-9);
        assert!((floor.full_handshake_us(2) - 184.0).abs() < 1e-9);
        assert!((floor.resumed_handshake_us() - 26.0).abs() < 1e-9);
        assert!((floor.request_1k_us() - 0.2).abs() < 1e-9);
        assert!((floor.byte_us() - 1e-4).abs() < 1e-9);
    }

    #[test]
    fn every_key_kind_can_be_timed() {
        for key in [KeyKind::Ed25519, KeyKind::P256, KeyKind::Rsa2048] {
            let (sign, verify) = time_signatures(key).unwrap();
            assert!(sign > 0.0 && verify > 0.0, "{key:?}");
        }
    }

    #[test]
    fn every_group_and_suite_that_can_be_agreed_on_can_be_timed() {
        for group in ALL_KX_GROUPS {
            assert!(
                time_key_exchange(group.name()).unwrap() > 0.0,
                "{:?}",
                group.name()
            );
        }
        for suite in rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES {
            assert!(cipher(suite.suite()).is_some(), "{:?}", suite.suite());
        }
        assert!(time_key_exchange(NamedGroup::FFDHE2048).is_err());
    }

    #[test]
    fn the_table_has_every_kind_of_handshake() {
        let table = table().unwrap();
        for named in [
            "X25519MLKEM768",
            "secp256r1",
            "RSA-2048",
            "resumed",
            "CHACHA20",
        ] {
            assert!(table.contains(named), "{named}: {table}");
        }
    }
}
