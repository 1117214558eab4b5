//! The raw cryptography that mutual TLS cannot do without, timed on the calling thread's CPU: the
//! floor under every figure of a terminator.

use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};

use crate::pki::KeyKind;

/// Times in µs of one operation each.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    /// X25519: a key pair and the agreement.
    pub key_exchange_us: f64,
    pub sign_us: f64,
    pub verify_us: f64,
    /// Extract and expand, SHA-256.
    pub hkdf_us: f64,
    /// AES-128-GCM over 1 KiB.
    pub aead_1k_us: f64,
    /// AES-128-GCM over 16 KiB.
    pub aead_16k_us: f64,
}

impl Floor {
    /// Times every operation; takes about 100 ms. Signatures are of `key`'s kind.
    pub fn measure(key: KeyKind) -> Result<Self, Unspecified> {
        let (sign_us, verify_us) = time_signatures(key)?;
        Ok(Self {
            key_exchange_us: time_key_exchange()?,
            sign_us,
            verify_us,
            hkdf_us: time_hkdf()?,
            aead_1k_us: time_aead(1 << 10)?,
            aead_16k_us: time_aead(1 << 14)?,
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

fn time_key_exchange() -> Result<f64, Unspecified> {
    let random = SystemRandom::new();
    let peer = EphemeralPrivateKey::generate(&X25519, &random)?.compute_public_key()?;
    time(
        || {
            let own = EphemeralPrivateKey::generate(&X25519, &random)?;
            black_box(own.compute_public_key()?);
            let peer = UnparsedPublicKey::new(&X25519, peer.as_ref());
            agreement::agree_ephemeral(own, peer, Unspecified, |secret| {
                black_box(secret);
                Ok(())
            })
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

fn time_aead(len: usize) -> Result<f64, Unspecified> {
    const ITERATIONS_BYTES: u32 = 1 << 20;
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[3; 16])?);
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
}
