//! What it costs to know who may come in, for P-256 with one intermediate.
//!
//! `chain` is the check of the chain and policy without a cache; `hit` finds the verdict in it.
//! `ticket` is the judgement of a ticket, from its bytes to who it lets in: with the verdict
//! remembered, with a cache that does not have it (the leaf is read again), and after a reload that
//! touches the trust domain (the chain is checked again). `seal` makes a ticket. Medians are printed
//! after them.

#[path = "../tests/common/pki.rs"]
mod pki;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use ringgate::limits::{BYTES_PER_VERDICT, RESUMPTION_CAP, STEK_ROTATION, VERDICT_TTL};
use ringgate::trust::cache::{self, CacheBounds, VerdictCache};
use ringgate::trust::domain::{TrustDomain, TrustSources};
use ringgate::trust::judgement::{Judgement, choose_domain, enter};
use ringgate::trust::policy::{Effect, Matcher, Policy, Rule};
use ringgate::trust::stek::{Secret, Stek};
use ringgate::trust::ticket::{TicketScope, Tickets};
use ringgate::trust::verifier::Verifier;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;

use self::pki::{Ca, NOW};

fn domain(root: &Ca, rule: &str) -> Arc<TrustDomain> {
    let rule = Rule {
        name: rule.into(),
        effect: Effect::Allow,
        matchers: vec![Matcher::Any],
    };
    let sources = TrustSources {
        anchors: vec![root.certificate.clone()],
        policy: Policy { rules: vec![rule] },
        ..TrustSources::default()
    };
    Arc::new(TrustDomain::new(sources).expect("good sources"))
}

/// As rustls's: names, a secret, and the chain.
fn state(chain: &[&CertificateDer<'_>]) -> Vec<u8> {
    let mut state = vec![7; 80];
    chain.iter().for_each(|der| state.extend_from_slice(der));
    state.extend_from_slice(&[7; 20]);
    state
}

fn cache(entries: usize) -> Option<VerdictCache> {
    let bounds = CacheBounds {
        entries,
        bytes: entries * BYTES_PER_VERDICT,
    };
    Some(VerdictCache::new(bounds, VERDICT_TTL))
}

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
    let root = Ca::root("Root");
    let intermediate = root.intermediate("Intermediate");
    let leaf = intermediate.issue(pki::client("client"));
    let chain = [&leaf.certificate, &intermediate.certificate];
    let (today, reloaded) = (domain(&root, "in"), domain(&root, "still in"));
    let intermediates = [intermediate.certificate.clone()];
    let verifier = Verifier::new(&aws_lc_rs::default_provider());
    let verify = || {
        let mut judgement = Judgement::default();
        enter(&mut judgement, || {
            choose_domain(Arc::clone(&today), None);
            let verified =
                verifier.verify_client_cert(&leaf.certificate, &intermediates, pki::now());
            black_box(verified.expect("a trusted client"));
        });
    };
    cache::install(None);
    let full = median(criterion, "verdict/chain", || (), verify);
    cache::install(cache(1000));
    let hit = median(criterion, "verdict/hit", || (), verify);
    println!("chain {full:.1} us; remembered {hit:.2} us");

    let stek = Stek::new(Arc::new(Secret::random()), STEK_ROTATION);
    let (tickets, scope) = (
        Tickets::new(stek, RESUMPTION_CAP),
        TicketScope::new("front", "only"),
    );
    let peer = today.verify(&leaf.certificate, &intermediates, pki::now());
    let client = today
        .authorize(peer.expect("a trusted client"))
        .expect("an allowed client");
    let state = state(&chain);
    let seal = || {
        tickets
            .seal(&scope, &client, NOW, &state, pki::now())
            .expect("a ticket")
    };
    let ticket = seal();
    let judge = |domain: &TrustDomain| {
        let judged = tickets.judge(&scope, domain, &ticket, pki::now());
        black_box(judged.expect("a good ticket"));
    };
    judge(&today);
    let sealed = median(
        criterion,
        "verdict/seal",
        || (),
        || {
            black_box(seal());
        },
    );
    let remembered = median(
        criterion,
        "verdict/ticket/remembered",
        || (),
        || judge(&today),
    );
    let forget = || drop(cache::install(cache(10)));
    let vouched = median(criterion, "verdict/ticket/vouched", forget, || {
        judge(&today)
    });
    let checked = median(criterion, "verdict/ticket/reloaded", forget, || {
        judge(&reloaded)
    });
    println!(
        "a ticket of {} bytes: sealed in {sealed:.2} us; judged in {remembered:.2} us where the \
         verdict is remembered, {vouched:.2} where not, {checked:.1} after a reload",
        ticket.len(),
    );
}

criterion_group!(benches, verdict);
criterion_main!(benches);
