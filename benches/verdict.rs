//! What it costs to know who may come in, for P-256 with one intermediate.
//!
//! `chain` is the check of the chain and policy without a cache; `hit` finds the verdict in it.
//! `ticket` is the judgement of a ticket, from its bytes to who it lets in: with the verdict
//! remembered, with a cache that does not have it (the leaf is read again), and after a reload that
//! touches the trust domain (the chain is checked again). `seal` makes a ticket. `crl` is the check of
//! a chain below a CA that revoked 100,000 serials, where webpki verifies the CRL's signature again,
//! and where it need not. `policy` asks 1,000 rules. Medians are printed after them.

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
use ringgate::trust::domain::{TrustDomain, TrustSources};
use ringgate::trust::name::NamePattern;
use ringgate::trust::policy::{Effect, Matcher, Policy, Rule, UriPattern};
use rustls_pki_types::CertificateDer;

use self::judging::{Judging, install_cache};

const SERIALS: u64 = 100_000;
const RULES: usize = 1_000;

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

/// What trusts `root`, and a leaf of it.
fn sources(root: &pki::Ca) -> (TrustSources, CertificateDer<'static>) {
    let names = vec![
        pki::dns("client.example"),
        pki::uri("https://prod.example/ns/a/sa/client"),
    ];
    let mut params = pki::client_with("client", names);
    params.serial_number = pki::serial(1);
    let sources = TrustSources {
        anchors: vec![root.certificate.clone()],
        ..TrustSources::default()
    };
    (sources, root.issue(params).certificate)
}

fn crl(criterion: &mut Criterion) {
    let root = pki::Ca::root("Root");
    let revoked: Vec<u64> = (10..SERIALS + 10).collect();
    let point = pki::issuing_distribution_point("http://crl.example/1", None);
    // Which CRL of several counts is for webpki to say, where they have distribution points.
    let [once, always] = [None, point].map(|point| {
        let (mut sources, leaf) = sources(&root);
        sources.crls = vec![root.crl_with(&revoked, |params| {
            params.issuing_distribution_point = point;
        })];
        (TrustDomain::new(sources).expect("good sources"), leaf)
    });
    let mut verify = |id, (domain, leaf): &(TrustDomain, CertificateDer<'static>)| {
        let work = || {
            let peer = domain.verify(leaf, &[], pki::now());
            black_box(peer.expect("an unrevoked client"));
        };
        median(criterion, id, || (), work)
    };
    let slow = verify("verdict/crl/signature", &always);
    let fast = verify("verdict/crl/known", &once);
    println!(
        "a chain below a CRL of {SERIALS} serials: {fast:.1} us where its signer is known, \
         {slow:.1} us where its signature is verified: {:.0} x",
        slow / fast
    );
}

fn policy(criterion: &mut Criterion) {
    let root = pki::Ca::root("Root");
    let exact = |name: &str| {
        let name = format!("{name}.example");
        Matcher::Dns(NamePattern::parse(&name).expect("a name"))
    };
    let pattern = |name: &str| {
        let uri = format!("https://prod.example/ns/*/sa/{name}");
        Matcher::Uri(UriPattern::parse(&uri).expect("a pattern"))
    };
    let mut decide = |id, matcher: &dyn Fn(&str) -> Matcher| {
        let (mut sources, leaf) = sources(&root);
        let names = (1..RULES).map(|number| format!("s{number}"));
        let names = names.chain(["client".to_owned()]);
        let rules = names.map(|name| Rule {
            effect: Effect::Allow,
            matchers: vec![matcher(&name)],
            name: name.into(),
        });
        sources.policy = Policy {
            rules: rules.collect(),
        };
        let domain = TrustDomain::new(sources).expect("good sources");
        let peer = domain.verify(&leaf, &[], pki::now());
        let peer = peer.expect("a trusted client");
        let work = || {
            black_box(domain.authorize(peer.clone()).expect("an allowed client"));
        };
        median(criterion, id, || (), work)
    };
    let exact = decide("verdict/policy/exact", &exact);
    let patterns = decide("verdict/policy/patterns", &pattern);
    println!("{RULES} rules: {exact:.2} us where they are exact, {patterns:.2} us where patterns");
}

criterion_group!(benches, verdict, crl, policy);
criterion_main!(benches);
