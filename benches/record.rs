//! Sealing and opening records, against the AEAD alone on the same bytes.
//!
//! The groups `seal` and `open` hold the record layer and `raw`, the floor, side by side; what
//! lies between is headers, nonces, sequence numbers and the copies that are not made.

use std::hint::black_box;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use ringgate::block::Pool;
use ringgate::tls::Records;
use rustls::ProtocolVersion::TLSv1_3;

const SIZES: [usize; 3] = [64, 1024, 16 * 1024];

fn algorithms() -> [(&'static str, &'static Algorithm, &'static [u8]); 3] {
    [
        ("aes128gcm", &AES_128_GCM, &[1; 16]),
        ("aes256gcm", &AES_256_GCM, &[1; 32]),
        ("chacha20poly1305", &CHACHA20_POLY1305, &[1; 32]),
    ]
}

fn raw_key(algorithm: &'static Algorithm, key: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(algorithm, key).expect("the key fits the algorithm"))
}

fn nonce(sequence: u64) -> Nonce {
    let mut bytes = [7; 12];
    bytes[4..].copy_from_slice(&sequence.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn seal(criterion: &mut Criterion) {
    let mut pool = Pool::new(1, 1);
    let mut out = pool.take().expect("a block");
    let mut group = criterion.benchmark_group("seal");
    group.sampling_mode(SamplingMode::Flat);
    for (name, algorithm, key) in algorithms() {
        for size in SIZES {
            let plaintext = vec![5; size];
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                let mut records =
                    Records::from_shared_key(TLSv1_3, algorithm, key).expect("a known suite");
                bencher.iter(|| {
                    out.clear();
                    records
                        .seal(black_box(&plaintext), &mut out)
                        .expect("room for a record")
                });
            });
            group.bench_function(BenchmarkId::new(format!("{name}/raw"), size), |bencher| {
                let key = raw_key(algorithm, key);
                let mut ciphertext = vec![0; size];
                let mut type_and_tag = [0; 17];
                let mut sequence = 0;
                bencher.iter(|| {
                    sequence += 1;
                    key.seal_out_of_place_scatter(
                        nonce(sequence),
                        Aad::from([23, 3, 3, 1, 1]),
                        black_box(&plaintext),
                        &mut ciphertext,
                        &[23],
                        &mut type_and_tag,
                    )
                });
            });
        }
    }
    group.finish();
}

/// Records are sealed beforehand, as many as one measurement opens: a record opens once.
const RECORDS: usize = 64;

fn open(criterion: &mut Criterion) {
    let mut pool = Pool::new(2, 2);
    let mut out = pool.take().expect("a block");
    let mut group = criterion.benchmark_group("open");
    group.sampling_mode(SamplingMode::Flat);
    for (name, algorithm, key) in algorithms() {
        for size in SIZES {
            group.throughput(Throughput::Bytes(size as u64));
            let new = || Records::from_shared_key(TLSv1_3, algorithm, key).expect("a known suite");
            let mut sealer = new();
            let sealed: Vec<Vec<u8>> = (0..RECORDS)
                .map(|_| {
                    out.clear();
                    sealer
                        .seal(&vec![5; size], &mut out)
                        .expect("room for a record");
                    out.filled().to_vec()
                })
                .collect();
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter_custom(|iterations| {
                    timed(iterations, &sealed, new, |records, record| {
                        out.clear();
                        records
                            .open(record, &mut pool, &mut out)
                            .expect("a genuine record");
                    })
                });
            });
            group.bench_function(BenchmarkId::new(format!("{name}/raw"), size), |bencher| {
                let key = raw_key(algorithm, key);
                let mut plaintext = vec![0; size + 1];
                bencher.iter_custom(|iterations| {
                    timed(
                        iterations,
                        &sealed,
                        || 0,
                        |sequence, record| {
                            let (header, body) = record.split_at(5);
                            let (ciphertext, tag) = body.split_at(body.len() - 16);
                            let mut iv = [7; 12];
                            for (byte, part) in iv[4..].iter_mut().zip(u64::to_be_bytes(*sequence))
                            {
                                *byte ^= part;
                            }
                            key.open_separate_gather(
                                Nonce::assume_unique_for_key(iv),
                                Aad::from(header),
                                ciphertext,
                                tag,
                                &mut plaintext,
                            )
                            .expect("a genuine record");
                            *sequence += 1;
                        },
                    )
                });
            });
        }
    }
    group.finish();
}

/// Time that `iterations` of `work` take, over and over through `sealed`, each round with a fresh
/// state that is made outside of the measured time.
fn timed<S>(
    iterations: u64,
    sealed: &[Vec<u8>],
    new: impl Fn() -> S,
    mut work: impl FnMut(&mut S, &[u8]),
) -> std::time::Duration {
    let mut left = usize::try_from(iterations).expect("fewer than 2^64 iterations");
    let mut total = std::time::Duration::ZERO;
    while left > 0 {
        let round = left.min(sealed.len());
        let mut state = new();
        let start = std::time::Instant::now();
        for record in &sealed[..round] {
            work(&mut state, black_box(record));
        }
        total += start.elapsed();
        left -= round;
    }
    total
}

criterion_group!(benches, seal, open);
criterion_main!(benches);
