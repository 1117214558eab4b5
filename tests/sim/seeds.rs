//! Ten thousand seeds, and how one of them is run again.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ringgate::close_reason::CloseReason;

use crate::cast::Cast;
use crate::rng::Rng;
use crate::scenario::{Kind, Scenario};
use crate::trace;
use crate::world::World;

const SEEDS: u64 = 10_000;

/// Every end that the scenarios lead to.
const REASONS: [CloseReason; 24] = [
    CloseReason::BadRecord,
    CloseReason::BufferLimit,
    CloseReason::CertificateExpired,
    CloseReason::CertificateMissing,
    CloseReason::CertificateUnknownCa,
    CloseReason::ClientGoneInHandshake,
    CloseReason::ClientReset,
    CloseReason::ClientTruncated,
    CloseReason::Complete,
    CloseReason::Drained,
    CloseReason::HandshakeTimeout,
    CloseReason::IdleTimeout,
    CloseReason::KeyUpdateFlood,
    CloseReason::NotTls,
    CloseReason::PolicyDenied,
    CloseReason::PolicyUnmatched,
    CloseReason::ProtocolViolation,
    CloseReason::ProxyHeaderInvalid,
    CloseReason::RecordTooLong,
    CloseReason::Shutdown,
    CloseReason::UpstreamConnectTimeout,
    CloseReason::UpstreamReset,
    CloseReason::UpstreamUnreachable,
    CloseReason::CertificatePossessionUnproven,
];

pub fn scenario(seed: u64, rng: &mut Rng) -> (Kind, Scenario) {
    let kinds = u64::try_from(Kind::ALL.len()).unwrap();
    let kind = Kind::ALL[usize::try_from(seed % kinds).unwrap()];
    (kind, Scenario::of_kind(kind, rng))
}

/// Runs one seed.
fn run(seed: u64) -> CloseReason {
    let mut rng = Rng::new(seed);
    let (kind, scenario) = scenario(seed, &mut rng);
    let reason = World::new(&scenario, Cast::get(), rng).run().reason;
    if kind == Kind::Calm {
        assert_eq!(reason, CloseReason::Complete, "nothing went wrong");
    }
    reason
}

/// Runs one seed, and says how to run it again if it fails.
pub fn run_or_explain(seed: u64) -> Result<CloseReason, String> {
    trace::clear();
    catch_unwind(AssertUnwindSafe(|| run(seed))).map_err(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
        let (kind, scenario) = scenario(seed, &mut Rng::new(seed));
        format!(
            "seed {seed} ({kind:?}): {message}\nagain: RINGGATE_SIM_SEED={seed} cargo test --test sim\n\
             {scenario:?}\n{}",
            trace::text()
        )
    })
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn ten_thousand_seeds() {
    if let Some(seed) = variable("RINGGATE_SIM_SEED") {
        let reason = run_or_explain(seed).unwrap_or_else(|failure| panic!("{failure}"));
        println!("seed {seed}: {reason}\n{}", trace::text());
        return;
    }
    let seeds = variable("RINGGATE_SIM_SEEDS").unwrap_or(SEEDS);
    let (next, failure) = (AtomicU64::new(0), Mutex::new(None));
    let reasons = Mutex::new(BTreeMap::<CloseReason, usize>::new());
    let work = || {
        let mut counts = BTreeMap::<CloseReason, usize>::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds || failure.lock().unwrap().is_some() {
                break;
            }
            match run_or_explain(seed) {
                Ok(reason) => *counts.entry(reason).or_default() += 1,
                Err(text) => drop(failure.lock().unwrap().get_or_insert(text)),
            }
        }
        let mut reasons = reasons.lock().unwrap();
        for (reason, count) in counts {
            *reasons.entry(reason).or_default() += count;
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    if let Some(failure) = failure.into_inner().unwrap() {
        panic!("{failure}");
    }
    let reasons = reasons.into_inner().unwrap();
    println!("{seeds} seeds: {reasons:?}");
    for reason in REASONS {
        assert!(reasons.contains_key(&reason), "no seed ends as {reason}");
    }
}

#[test]
fn a_seed_leads_to_the_same_run_again() {
    // What a flipped bit does depends on the order of the ClientHello's extensions, which rustls
    // shuffles.
    let is_flipped = |seed: &u64| {
        let (_, scenario) = scenario(*seed, &mut Rng::new(*seed));
        scenario.trouble[0].flipped.is_some()
    };
    for seed in (0..120).filter(|seed| !is_flipped(seed)) {
        let runs = [(); 2].map(|()| (run_or_explain(seed), trace::text()));
        assert_eq!(runs[0], runs[1], "seed {seed}");
    }
}
