//! A full mutual handshake in memory: the server's work alone, beside the cryptography that no
//! implementation can do without.
//!
//! For each kind of key: `server` is everything from ClientHello to our own record layer, the check
//! of the client's chain included; `floor` is an X25519 key and agreement, one signature, and the
//! verification of the client's; `chain` is the check of the chain and policy, which a cache of
//! verdicts saves. The ratios are printed after them.
//!
//! Then, for P-256 with one intermediate: a full handshake that checks the chain, one that finds its
//! verdict in the cache, and one that resumes. They take turns, so that whatever else the machine
//! does falls on all alike.

#[path = "../tests/common/pki.rs"]
mod pki;
#[path = "../tests/tls/returning.rs"]
mod returning;
#[path = "../tests/tls/support.rs"]
mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair, RSA_PSS_2048_8192_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use criterion::{Criterion, criterion_group, criterion_main};
use ringgate::limits::{BYTES_PER_VERDICT, VERDICT_TTL};
use ringgate::tls::Acceptor;
use ringgate::trust::cache::{self, CacheBounds, VerdictCache};
use rustls::{CipherSuite, ClientConfig, ClientConnection, HandshakeKind};
use rustls_pki_types::UnixTime;

use self::returning::{Place, TLS13};
use self::support::{Pki, SERVER_NAME, Server, give_input, take_output};

/// What CertificateVerify signs: 64 spaces, a label, a zero and a transcript hash (RFC 8446
/// section 4.4.3).
const SIGNED: &[u8] = &[0x20; 64 + 33 + 1 + 32];

/// One kind of certificate key: a certificate's algorithm, and signing and verifying alone.
struct KeyKind {
    name: &'static str,
    certificate: &'static rcgen::SignatureAlgorithm,
    sign_and_verify: Box<dyn Fn()>,
}

fn key_kinds() -> [KeyKind; 3] {
    let random = SystemRandom::new();
    let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
    let ed25519 = Ed25519KeyPair::generate().expect("a key");
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    [
        KeyKind {
            name: "p256",
            certificate: &rcgen::PKCS_ECDSA_P256_SHA256,
            sign_and_verify: Box::new(move || {
                let signature = p256.sign(&random, SIGNED).expect("a signature");
                verify(
                    &ECDSA_P256_SHA256_ASN1,
                    p256.public_key().as_ref(),
                    signature.as_ref(),
                );
            }),
        },
        KeyKind {
            name: "ed25519",
            certificate: &rcgen::PKCS_ED25519,
            sign_and_verify: Box::new(move || {
                let signature = ed25519.sign(SIGNED);
                verify(&ED25519, ed25519.public_key().as_ref(), signature.as_ref());
            }),
        },
        KeyKind {
            name: "rsa2048",
            certificate: &rcgen::PKCS_RSA_SHA256,
            sign_and_verify: Box::new(move || {
                let mut signature = vec![0; rsa.public_modulus_len()];
                rsa.sign(
                    &RSA_PSS_SHA256,
                    &SystemRandom::new(),
                    SIGNED,
                    &mut signature,
                )
                .expect("a signature");
                verify(
                    &RSA_PSS_2048_8192_SHA256,
                    rsa.public_key().as_ref(),
                    &signature,
                );
            }),
        },
    ]
}

fn verify(algorithm: &'static dyn signature::VerificationAlgorithm, key: &[u8], signature: &[u8]) {
    signature::UnparsedPublicKey::new(algorithm, key)
        .verify(SIGNED, signature)
        .expect("a genuine signature");
}

fn agree(peer: &[u8]) {
    let key = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).expect("a key");
    black_box(key.compute_public_key().expect("its public half"));
    agree_ephemeral(key, UnparsedPublicKey::new(&X25519, peer), (), |secret| {
        black_box(secret);
        Ok(())
    })
    .expect("an agreement");
}

/// Time that the server takes for one handshake.
fn server_time(acceptor: &Acceptor, config: &Arc<ClientConfig>) -> Duration {
    let name = SERVER_NAME.try_into().expect("a name");
    let mut client = ClientConnection::new(config.clone(), name).expect("a client");
    let hello = take_output(&mut client);

    // A shard's pool is warm.
    let mut server = Server::new(acceptor);
    let block = server.pool.take().expect("a block");
    server.pool.give(block);
    let start = Instant::now();
    server.receive(&hello).expect("a good hello");
    let mut total = start.elapsed();

    give_input(&mut client, &std::mem::take(&mut server.sent)).expect("a good flight");
    let flight = take_output(&mut client);
    let start = Instant::now();
    server.receive(&flight).expect("a good flight");
    let established = server.established.take().expect("a client that is let in");
    total += start.elapsed();
    assert_eq!(
        established.resumed,
        client.handshake_kind() == Some(HandshakeKind::Resumed)
    );
    // With the ticket for the next time.
    give_input(&mut client, &server.sent).expect("good records");
    total
}

/// Runs `work`, which returns the time it took, and keeps the lowest mean among criterion's samples:
/// on a busy machine it is the one that compares.
fn measure(criterion: &mut Criterion, id: &str, mut work: impl FnMut() -> Duration) -> f64 {
    let mut lowest = f64::INFINITY;
    criterion.bench_function(id, |bencher| {
        bencher.iter_custom(|iterations| {
            let total: Duration = (0..iterations).map(|_| work()).sum();
            #[allow(clippy::cast_precision_loss, reason = "for people")]
            let count = iterations as f64;
            lowest = lowest.min(total.as_secs_f64() * 1e6 / count);
            total
        });
    });
    lowest
}

fn timed(work: impl Fn()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn handshake(criterion: &mut Criterion) {
    let random = SystemRandom::new();
    let peer = EphemeralPrivateKey::generate(&X25519, &random).expect("a key");
    let peer = peer.compute_public_key().expect("its public half");
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let now = UnixTime::since_unix_epoch(now);
    for kind in key_kinds() {
        let pki = Pki::with_key(kind.certificate);
        let acceptor = pki.acceptor();
        let suite = CipherSuite::TLS13_AES_128_GCM_SHA256;
        let mut config = pki.client_config(suite, Some(pki.client.clone()));
        config.resumption = rustls::client::Resumption::disabled();
        let config = Arc::new(config);
        let domain = pki.domain(true);

        let id = |part| format!("handshake/{part}/{}", kind.name);
        let server = measure(criterion, &id("server"), || server_time(&acceptor, &config));
        let floor = measure(criterion, &id("floor"), || {
            timed(|| {
                agree(peer.as_ref());
                (kind.sign_and_verify)();
            })
        });
        let chain = measure(criterion, &id("chain"), || {
            timed(|| {
                let peer = domain
                    .verify(&pki.client.cert[0], &[], now)
                    .expect("a trusted client");
                black_box(domain.authorize(peer).expect("an allowed client"));
            })
        });
        println!(
            "{}: server {server:.1} us = {:.2} x floor {floor:.1} us; {:.2} x without the chain \
             check of {chain:.1} us",
            kind.name,
            server / floor,
            (server - chain) / floor,
        );
    }
}

/// Full without and with the verdict cache, and resumed.
fn coming_back(_: &mut Criterion) {
    const ROUNDS: usize = 1001;
    let place = Place::new();
    let acceptor = place.acceptor();
    let client = place.client(TLS13);
    let forgetful = client.forgetful();
    let bounds = CacheBounds {
        entries: 1000,
        bytes: 1000 * BYTES_PER_VERDICT,
    };
    let mut kept = Some(VerdictCache::new(bounds, VERDICT_TTL));
    let mut times = [const { Vec::new() }; 3];
    server_time(&acceptor, &client.config);
    for _ in 0..ROUNDS {
        times[0].push(server_time(&acceptor, &forgetful));
        cache::install(kept.take());
        times[1].push(server_time(&acceptor, &forgetful));
        times[2].push(server_time(&acceptor, &client.config));
        kept = cache::install(None);
    }
    let figures = kept.expect("the cache").figures();
    assert_eq!(figures.misses, 1, "{figures:?}");
    let [uncached, cached, resumed] = times.map(|mut times| {
        times.sort_unstable();
        times[ROUNDS / 2].as_secs_f64() * 1e6
    });
    println!(
        "p256 with one intermediate: uncached {uncached:.1} us; cached {cached:.1} us = {:.2} x \
         uncached; resumed {resumed:.1} us = {:.2} x cached",
        cached / uncached,
        resumed / cached,
    );
}

criterion_group!(benches, handshake, coming_back);
criterion_main!(benches);
