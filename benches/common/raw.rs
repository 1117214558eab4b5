//! The cryptography that mutual TLS cannot do without, alone: what benches print their ratios to.
#![allow(dead_code, reason = "each bench uses its part")]

use std::hint::black_box;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, AES_256_GCM_SIV, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey,
    Nonce, UnboundKey,
};
use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair, RSA_PSS_2048_8192_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};

/// What CertificateVerify signs: 64 spaces, a label, a zero and a transcript hash (RFC 8446
/// section 4.4.3).
const SIGNED: &[u8] = &[0x20; 64 + 33 + 1 + 32];

/// A server's share of a key exchange: a key pair of its own and the agreement with the client's.
pub struct KeyExchange {
    random: SystemRandom,
    x25519: Vec<u8>,
    /// The client's share of ML-KEM, for the hybrid.
    ml_kem: Option<Vec<u8>>,
}

impl KeyExchange {
    pub fn x25519() -> Self {
        let random = SystemRandom::new();
        let peer = EphemeralPrivateKey::generate(&X25519, &random).expect("a key");
        Self {
            x25519: peer
                .compute_public_key()
                .expect("its public half")
                .as_ref()
                .to_vec(),
            ml_kem: None,
            random,
        }
    }

    pub fn x25519_ml_kem_768() -> Self {
        let key = DecapsulationKey::generate(&ML_KEM_768).expect("a key");
        let public = key.encapsulation_key().expect("its public half");
        let public = public.key_bytes().expect("its bytes");
        Self {
            ml_kem: Some(public.as_ref().to_vec()),
            ..Self::x25519()
        }
    }

    pub fn run(&self) {
        let key = EphemeralPrivateKey::generate(&X25519, &self.random).expect("a key");
        black_box(key.compute_public_key().expect("its public half"));
        let peer = UnparsedPublicKey::new(&X25519, &self.x25519);
        agree_ephemeral(key, peer, (), |secret| {
            black_box(secret);
            Ok(())
        })
        .expect("an agreement");
        if let Some(public) = &self.ml_kem {
            let public = EncapsulationKey::new(&ML_KEM_768, public).expect("a public key");
            let encapsulated: (Ciphertext<'_>, _) = public.encapsulate().expect("a secret");
            black_box(encapsulated);
        }
    }
}

/// A key that signs, and verifies signatures of keys of its kind.
pub enum Signer {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair, SystemRandom),
    Rsa2048(RsaKeyPair, SystemRandom),
}

impl Signer {
    pub fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().expect("a key"))
    }

    pub fn p256() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING);
        Self::P256(pair.expect("a key"), SystemRandom::new())
    }

    pub fn rsa2048() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048);
        Self::Rsa2048(pair.expect("a key"), SystemRandom::new())
    }

    /// A handshake's share: our signature, and the check of the peer's.
    pub fn sign_and_verify(&self) {
        self.verify(&self.sign());
    }

    pub fn sign(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(pair) => pair.sign(SIGNED).as_ref().to_vec(),
            Self::P256(pair, random) => {
                let signature = pair.sign(random, SIGNED).expect("a signature");
                signature.as_ref().to_vec()
            }
            Self::Rsa2048(pair, random) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PSS_SHA256, random, SIGNED, &mut signature)
                    .expect("a signature");
                signature
            }
        }
    }

    pub fn verify(&self, signature: &[u8]) {
        match self {
            Self::Ed25519(pair) => verify(&ED25519, pair.public_key().as_ref(), signature),
            Self::P256(pair, _) => {
                verify(
                    &ECDSA_P256_SHA256_ASN1,
                    pair.public_key().as_ref(),
                    signature,
                );
            }
            Self::Rsa2048(pair, _) => {
                verify(
                    &RSA_PSS_2048_8192_SHA256,
                    pair.public_key().as_ref(),
                    signature,
                );
            }
        }
    }
}

fn verify(algorithm: &'static dyn signature::VerificationAlgorithm, key: &[u8], signature: &[u8]) {
    signature::UnparsedPublicKey::new(algorithm, key)
        .verify(SIGNED, signature)
        .expect("a genuine signature");
}

/// The AEADs of TLS 1.3, each with a key for tests.
pub fn algorithms() -> [(&'static str, &'static Algorithm, &'static [u8]); 3] {
    [
        ("aes128gcm", &AES_128_GCM, &[1; 16]),
        ("aes256gcm", &AES_256_GCM, &[1; 32]),
        ("chacha20poly1305", &CHACHA20_POLY1305, &[1; 32]),
    ]
}

/// An AEAD that seals and opens records' bodies from one buffer into another.
pub struct Aead {
    key: LessSafeKey,
    out: Vec<u8>,
}

impl Aead {
    /// For bodies of up to `len` bytes of plaintext.
    pub fn new(algorithm: &'static Algorithm, key: &[u8], len: usize) -> Self {
        let key = UnboundKey::new(algorithm, key).expect("the key fits the algorithm");
        Self {
            key: LessSafeKey::new(key),
            out: vec![0; len + 1],
        }
    }

    /// Seals `plain` as the record with this number; its type and tag.
    pub fn seal(&mut self, number: u64, plain: &[u8]) -> [u8; 17] {
        let mut type_and_tag = [0; 17];
        self.key
            .seal_out_of_place_scatter(
                nonce(number),
                Aad::from(header(plain.len())),
                plain,
                &mut self.out[..plain.len()],
                &[23],
                &mut type_and_tag,
            )
            .expect("room for it");
        type_and_tag
    }

    /// A body as [`Aead::seal`] makes it, whole.
    pub fn sealed(&mut self, number: u64, plain: &[u8]) -> Vec<u8> {
        let type_and_tag = self.seal(number, plain);
        [&self.out[..plain.len()], &type_and_tag].concat()
    }

    /// Opens the body of the record with this number.
    pub fn open(&mut self, number: u64, body: &[u8]) {
        let len = body.len() - 16;
        let (ciphertext, tag) = body.split_at(len);
        self.key
            .open_separate_gather(
                nonce(number),
                Aad::from(header(len - 1)),
                ciphertext,
                tag,
                &mut self.out[..len],
            )
            .expect("a genuine record");
    }
}

/// AES-256-GCM-SIV, which seals tickets: opens a text of `len` bytes.
pub fn opening_of_a_ticket(len: usize) -> impl FnMut() {
    let key = UnboundKey::new(&AES_256_GCM_SIV, &[1; 32]).expect("the key fits the algorithm");
    let key = LessSafeKey::new(key);
    let mut sealed = vec![5; len];
    key.seal_in_place_append_tag(nonce(0), Aad::empty(), &mut sealed)
        .expect("memory");
    move || {
        let mut text = sealed.clone();
        key.open_in_place(nonce(0), Aad::empty(), &mut text)
            .expect("a genuine text");
        black_box(text);
    }
}

/// A record's header for so many bytes of plaintext (RFC 8446 section 5.2).
fn header(plain: usize) -> [u8; 5] {
    let [high, low] = u16::try_from(plain + 17).expect("a record").to_be_bytes();
    [23, 3, 3, high, low]
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [7; 12];
    for (byte, part) in bytes[4..].iter_mut().zip(number.to_be_bytes()) {
        *byte ^= part;
    }
    Nonce::assume_unique_for_key(bytes)
}
