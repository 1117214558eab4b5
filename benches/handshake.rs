//! A mutual handshake in memory: the server's work alone, from ClientHello to our own record layer,
//! beside the cryptography that no implementation can do without.
//!
//! For kinds of certificate keys and groups: `uncached` checks the client's chain, `cached` finds the
//! verdict on it, `resumed` comes with a ticket. `floor` is a key exchange, one signature and the
//! check of the client's; a resumption's is the key exchange alone. Ratios are printed after them.
//!
//! Then, for P-256 with one intermediate, the three take turns, so that whatever else the machine
//! does falls on all alike.

#[path = "common/believe.rs"]
mod believe;
#[path = "common/meter.rs"]
mod meter;
#[path = "../tests/common/pki.rs"]
mod pki;
#[path = "common/raw.rs"]
mod raw;
#[path = "common/site.rs"]
mod site;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

use self::meter::{Meter, Stopwatch};
use self::raw::{KeyExchange, Signer};
use self::site::{Group, Key, Site, Way};

/// Runs `work` and keeps the lowest mean among criterion's samples, in microseconds: on a busy
/// machine it is the one that compares.
fn measure(criterion: &mut Criterion, id: &str, mut work: impl FnMut(&mut Stopwatch)) -> f64 {
    let mut lowest = f64::INFINITY;
    criterion.bench_function(id, |bencher| {
        bencher.iter_custom(|iterations| {
            let mut stopwatch = Stopwatch::default();
            for _ in 0..iterations {
                work(&mut stopwatch);
            }
            #[allow(clippy::cast_precision_loss, reason = "for people")]
            let count = iterations as f64;
            lowest = lowest.min(stopwatch.total.as_secs_f64() * 1e6 / count);
            stopwatch.total
        });
    });
    lowest
}

fn handshake(criterion: &mut Criterion) {
    let classical = KeyExchange::x25519();
    let hybrid = KeyExchange::x25519_ml_kem_768();
    for (name, key, group, signer, exchange) in [
        (
            "p256/x25519",
            Key::P256,
            Group::X25519,
            Signer::p256(),
            &classical,
        ),
        (
            "ed25519/x25519",
            Key::Ed25519,
            Group::X25519,
            Signer::ed25519(),
            &classical,
        ),
        (
            "rsa2048/x25519",
            Key::Rsa2048,
            Group::X25519,
            Signer::rsa2048(),
            &classical,
        ),
        (
            "p256/x25519mlkem768",
            Key::P256,
            Group::X25519MlKem768,
            Signer::p256(),
            &hybrid,
        ),
    ] {
        let mut site = Site::new(key, group, false);
        site.warm_up(&mut Stopwatch::default());
        let [uncached, cached, resumed] = Way::ALL.map(|way| {
            let id = format!("handshake/{}/{name}", way.name());
            measure(criterion, &id, |stopwatch| {
                site.handshake(way, stopwatch);
            })
        });
        assert_eq!(site.misses(), 1);
        let agreed = measure(
            criterion,
            &format!("handshake/floor/exchange/{name}"),
            |stopwatch| {
                stopwatch.run(|| exchange.run());
            },
        );
        let signed = measure(
            criterion,
            &format!("handshake/floor/sign/{name}"),
            |stopwatch| {
                stopwatch.run(|| signer.sign_and_verify());
            },
        );
        let floor = agreed + signed;
        // Nothing where a filter on the command line leaves something out.
        if !(uncached + cached + resumed + floor).is_finite() {
            continue;
        }
        println!(
            "{name}: uncached {uncached:.1} us = {:.2} x floor {floor:.1} us; cached {cached:.1} us = \
             {:.2} x floor; resumed {resumed:.1} us = {:.2} x its floor {agreed:.1} us",
            uncached / floor,
            cached / floor,
            resumed / agreed,
        );
    }
}

/// The three ways in turn.
fn coming_back(_: &mut Criterion) {
    const ROUNDS: usize = 1001;
    let mut site = Site::new(Key::P256, Group::X25519, true);
    site.warm_up(&mut Stopwatch::default());
    let mut times: [Vec<Duration>; 3] = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (way, times) in Way::ALL.into_iter().zip(&mut times) {
            let mut stopwatch = Stopwatch::default();
            site.handshake(way, &mut stopwatch);
            times.push(stopwatch.total);
        }
    }
    assert_eq!(site.misses(), 1);
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

/// Many things are measured, so each gets less time than criterion would give it.
fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = criterion(); targets = handshake, coming_back);
criterion_main!(benches);
