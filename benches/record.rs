//! Sealing and opening records, against the AEAD alone on the same bytes.
//!
//! The groups `seal` and `open` hold the record layer and `raw`, the floor, side by side; what
//! lies between is headers, nonces, sequence numbers and the copies that are not made. The ratios
//! are printed after them.

#[path = "common/raw.rs"]
mod raw;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group,
    criterion_main,
};
use ringgate::block::Pool;
use ringgate::tls::Records;
use rustls::ProtocolVersion::TLSv1_3;

use self::raw::Aead;

const SIZES: [usize; 5] = [16, 256, 1024, 4096, 16 * 1024];

/// Records are sealed beforehand, as many as one measurement opens: a record opens once.
const RECORDS: usize = 64;

/// Runs `batch`, which works on [`RECORDS`] records and returns the time that took, and keeps the
/// lowest mean of one record among criterion's samples, in nanoseconds.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    mut batch: impl FnMut() -> Duration,
) -> f64 {
    let mut lowest = f64::INFINITY;
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|iterations| {
            let batches = iterations.div_ceil(RECORDS as u64);
            let total: Duration = (0..batches).map(|_| batch()).sum();
            #[allow(clippy::cast_precision_loss, reason = "for people")]
            let [each, iterations] = [
                total.as_secs_f64() / (batches * RECORDS as u64) as f64,
                iterations as f64,
            ];
            lowest = lowest.min(each * 1e9);
            Duration::from_secs_f64(each * iterations)
        });
    });
    lowest
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Nothing of what a filter on the command line leaves out.
fn say(what: &str, name: &str, size: usize, layer: f64, raw: f64) {
    if !(layer / raw).is_finite() {
        return;
    }
    println!(
        "{what} {name} {size}: {layer:.0} ns = {:.2} x the AEAD's {raw:.0} ns",
        layer / raw
    );
}

fn seal(criterion: &mut Criterion) {
    let mut pool = Pool::new(1, 1);
    let mut out = pool.take().expect("a block");
    let mut group = criterion.benchmark_group("seal");
    group.sampling_mode(SamplingMode::Flat);
    for (name, algorithm, key) in raw::algorithms() {
        for size in SIZES {
            let plain = vec![5; size];
            group.throughput(Throughput::Bytes(size as u64));
            let records = Records::from_shared_key(TLSv1_3, algorithm, key);
            let mut records = records.expect("a known suite");
            let layer = measure(&mut group, BenchmarkId::new(name, size), || {
                timed(|| {
                    for _ in 0..RECORDS {
                        out.clear();
                        records
                            .seal(black_box(&plain), &mut out)
                            .expect("room for a record");
                    }
                })
            });
            let mut aead = Aead::new(algorithm, key, size);
            let id = BenchmarkId::new(format!("{name}/raw"), size);
            let alone = measure(&mut group, id, || {
                timed(|| {
                    for number in 0..RECORDS {
                        black_box(aead.seal(number as u64, black_box(&plain)));
                    }
                })
            });
            say("seal", name, size, layer, alone);
        }
    }
    group.finish();
}

fn open(criterion: &mut Criterion) {
    let mut pool = Pool::new(2, 2);
    let mut out = pool.take().expect("a block");
    let mut group = criterion.benchmark_group("open");
    group.sampling_mode(SamplingMode::Flat);
    for (name, algorithm, key) in raw::algorithms() {
        for size in SIZES {
            let plain = vec![5; size];
            group.throughput(Throughput::Bytes(size as u64));
            let new = || Records::from_shared_key(TLSv1_3, algorithm, key).expect("a known suite");
            let mut sealer = new();
            let sealed: Vec<Vec<u8>> = (0..RECORDS)
                .map(|_| {
                    out.clear();
                    sealer.seal(&plain, &mut out).expect("room for a record");
                    out.filled().to_vec()
                })
                .collect();
            let layer = measure(&mut group, BenchmarkId::new(name, size), || {
                let mut records = new();
                timed(|| {
                    for record in &sealed {
                        out.clear();
                        records
                            .open(black_box(record), &mut pool, &mut out)
                            .expect("a genuine record");
                    }
                })
            });
            let mut aead = Aead::new(algorithm, key, size);
            let bodies: Vec<Vec<u8>> = (0..RECORDS)
                .map(|number| aead.sealed(number as u64, &plain))
                .collect();
            let id = BenchmarkId::new(format!("{name}/raw"), size);
            let alone = measure(&mut group, id, || {
                timed(|| {
                    for (number, body) in bodies.iter().enumerate() {
                        aead.open(number as u64, black_box(body));
                    }
                })
            });
            say("open", name, size, layer, alone);
        }
    }
    group.finish();
}

/// Many things are measured, so each gets less time than criterion would give it.
fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group!(name = benches; config = criterion(); targets = seal, open);
criterion_main!(benches);
