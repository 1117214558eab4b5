//! What it costs to know who may come in, for P-256 with one intermediate.
//!
//! `chain` is the check of the chain and policy without a cache; `hit` finds the verdict in it.
//! `ticket` is the judgement of a ticket, from its bytes to who it lets in: with the verdict
//! remembered, with a cache that does not have it (the leaf is read again), and after a reload that
//! touches the trust domain (the chain is checked again). `seal` makes a ticket. Medians are printed
//! after them.

#[path = "common/judging.rs"]
mod judging;
#[path = "../tests/common/pki.rs"]
mod pki;
#[path = "common/raw.rs"]
mod raw;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use ringgate::trust::cache;

use self::judging::{Judging, install_cache};

/// Median in microseconds of single runs of `work`, each after `prepare`; criterion shows them, too.
fn median(
    criterion: &mut Criterion,
    id: &str,
    mut prepare: impl FnMut(),
    mut work: impl FnMut(),
) -> f64 {
    let mut times: Vec<Duration> = Vec::new();
    criterion.bench_function(id, |bencher| {
        bencher.iter_custom(|iterations| {
            (0..iterations)
                .map(|_| {
                    prepare();
                    let start = Instant::now();
                    work();
                    let time = start.elapsed();
                    times.push(time);
                    time
                })
                .sum()
        });
    });
    times.sort_unstable();
    times
        .get(times.len() / 2)
        .map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

fn verdict(criterion: &mut Criterion) {
    let judging = Judging::new();
    cache::install(None);
    let full = median(criterion, "verdict/chain", || (), || judging.verify());
    install_cache(1000);
    let hit = median(criterion, "verdict/hit", || (), || judging.verify());
    let signer = raw::Signer::p256();
    let signature = signer.sign();
    let alone = median(
        criterion,
        "verdict/chain/raw",
        || (),
        || {
            signer.verify(&signature);
            signer.verify(&signature);
        },
    );
    println!(
        "chain {full:.1} us = {:.2} x two verifications' {alone:.1} us; remembered {hit:.2} us",
        full / alone
    );

    let today = || judging.judge(&judging.today);
    today();
    let sealed = median(
        criterion,
        "verdict/seal",
        || (),
        || {
            black_box(judging.seal());
        },
    );
    let remembered = median(criterion, "verdict/ticket/remembered", || (), today);
    let forget = || install_cache(10);
    let vouched = median(criterion, "verdict/ticket/vouched", forget, today);
    let checked = median(criterion, "verdict/ticket/reloaded", forget, || {
        judging.judge(&judging.reloaded);
    });
    let open = raw::opening_of_a_ticket(judging.ticket.len());
    let opened = median(criterion, "verdict/ticket/raw", || (), open);
    println!(
        "a ticket of {} bytes: sealed in {sealed:.2} us; judged in {remembered:.2} us = {:.2} x the \
         AEAD's {opened:.2} us where the verdict is remembered, {vouched:.2} where not, {checked:.1} \
         after a reload",
        judging.ticket.len(),
        remembered / opened,
    );
}

criterion_group!(benches, verdict);
criterion_main!(benches);
