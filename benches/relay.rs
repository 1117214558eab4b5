//! A connection's state machine without a kernel: 1 KiB and 64 KiB from the client to the upstream
//! and as much back, beside the AEAD on the same bytes; and the PROXY v2 header.

#[path = "common/believe.rs"]
mod believe;
#[path = "common/meter.rs"]
mod meter;
#[path = "../tests/common/pki.rs"]
mod pki;
#[path = "common/raw.rs"]
mod raw;
#[path = "common/relayed.rs"]
mod relayed;
#[path = "common/site.rs"]
mod site;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringgate::block::Pool;
use ringgate::connection::greeting::{self, Told};
use ringgate::limits::RECORD_PLAINTEXT_MAX;

use self::meter::{Meter, Stopwatch};
use self::raw::Aead;
use self::relayed::Relayed;
use self::site::{Group, Key, Site, Way};

/// Round trips in one measurement; the client's records are sealed beforehand.
const BATCH: usize = 64;

fn site() -> Site {
    let mut site = Site::new(Key::P256, Group::X25519, false);
    site.warm_up(&mut Stopwatch::default());
    site
}

/// The lowest mean of one of `batch` pieces among criterion's samples, in nanoseconds.
fn measure(
    criterion: &mut Criterion,
    id: &str,
    bytes: u64,
    mut work: impl FnMut(&mut Stopwatch),
) -> f64 {
    let mut lowest = f64::INFINITY;
    let mut group = criterion.benchmark_group("relay");
    group.throughput(Throughput::Bytes(bytes));
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|iterations| {
            let mut stopwatch = Stopwatch::default();
            let batches = iterations.div_ceil(BATCH as u64);
            for _ in 0..batches {
                work(&mut stopwatch);
            }
            #[allow(clippy::cast_precision_loss, reason = "for people")]
            let [done, asked] = [(batches * BATCH as u64) as f64, iterations as f64];
            lowest = lowest.min(stopwatch.total.as_secs_f64() * 1e9 / done);
            stopwatch.total.mul_f64(asked / done)
        });
    });
    group.finish();
    lowest
}

fn relay(criterion: &mut Criterion) {
    let mut relayed = Relayed::new(&site());
    for (name, len) in [("1KiB", 1 << 10), ("64KiB", 64 << 10)] {
        let bytes = 2 * len as u64;
        let whole = measure(criterion, name, bytes, |stopwatch| {
            let (mut records, mut reply) = relayed.prepare(BATCH, len);
            relayed.round_trips(&mut records, &mut reply, stopwatch);
        });
        let [(_, algorithm, key), ..] = raw::algorithms();
        let piece = len.min(RECORD_PLAINTEXT_MAX);
        let (plain, mut aead) = (vec![5; piece], Aead::new(algorithm, key, piece));
        let sealed = aead.sealed(0, &plain);
        let alone = measure(criterion, &format!("{name}/raw"), bytes, |stopwatch| {
            stopwatch.run(|| {
                for _ in 0..BATCH * len / piece {
                    aead.open(0, black_box(&sealed));
                    black_box(aead.seal(1, black_box(&plain)));
                }
            });
        });
        // Nothing of what a filter on the command line leaves out.
        if !(whole / alone).is_finite() {
            continue;
        }
        println!(
            "relay {name} both ways: {whole:.0} ns = {:.2} x the AEAD's {alone:.0} ns",
            whole / alone
        );
    }
}

fn proxy_header(criterion: &mut Criterion) {
    let arrived = site().handshake(Way::Cached, &mut Stopwatch::default());
    let told = Told {
        addresses: relayed::addresses(),
        unique_id: 1,
        session: &arrived.established,
        client_certificate: false,
    };
    let mut pool = Pool::new(1, 1);
    let mut out = pool.take().expect("a block");
    criterion.bench_function("proxy_v2", |bencher| {
        bencher.iter(|| {
            out.clear();
            greeting::encode(black_box(&told), &mut out).expect("room for it");
        });
    });
    println!("a PROXY v2 header of {} bytes", out.filled().len());
}

criterion_group!(benches, relay, proxy_header);
criterion_main!(benches);
