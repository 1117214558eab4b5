//! Units that are due whatever the server does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringgate_loadgen::client::{Arrival, Pace, Step};
use ringgate_loadgen::run::measure_watched;
use ringgate_loadgen::statistics::Latency;

use crate::server::{Behaviour, Server};
use crate::{pki, plan, run};

fn steady(rate: f64) -> Option<Pace> {
    Some(Pace::steady(rate, Arrival::Uniform))
}

#[test]
fn an_open_loop_begins_what_is_due_and_corrects_latency() {
    let measured = run(Behaviour::Echo, |plan, _| plan.pace = steady(100.0));
    let statistics = &measured.statistics;
    assert!((49..=51).contains(&statistics.due), "{}", statistics.due);
    assert!(statistics.begun > 0 && statistics.begun <= statistics.due);
    assert_eq!(statistics.corrected.count(), statistics.plain.count());
    assert_eq!(statistics.late.count(), statistics.begun);
    assert!(statistics.corrected.max_us() >= statistics.plain.max_us());
}

#[test]
fn a_slow_server_shows_in_corrected_latency_only() {
    let behaviour = Behaviour::EchoAfter(Duration::from_millis(50));
    let measured = run(behaviour, |plan, _| {
        (plan.pace, plan.connections) = (steady(200.0), 1);
    });
    let worst = |latency: &Latency| latency.max_us().unwrap();
    let statistics = &measured.statistics;
    // At most one in 50 ms of the two hundred a second: the queue grows to nearly the whole run.
    assert!(
        worst(&statistics.corrected) > 2.0 * worst(&statistics.plain),
        "{statistics:?}"
    );
    assert!(statistics.sent_ratio() < 0.5);
}

/// More connections than receive buffers, and always a unit that is due: what is under way must get
/// its turn all the same.
#[test]
fn a_rate_past_all_capacity_starves_no_connection() {
    let measured = run(Behaviour::Echo, |plan, _| {
        (plan.pace, plan.connections) = (steady(100_000.0), 64);
    });
    let statistics = &measured.statistics;
    assert!(statistics.confirmed > 0);
    assert_eq!(statistics.failed(), 0, "{:?}", statistics.errors);
}

#[test]
fn threads_share_the_rate() {
    let measured = run(Behaviour::Echo, |plan, _| {
        plan.pace = Some(Pace::steady(200.0, Arrival::Poisson));
        plan.threads = 3;
    });
    // Five standard deviations of a Poisson count of 100.
    let due = measured.statistics.due;
    assert!((50..=150).contains(&due), "{due}");
}

#[test]
fn a_ramp_follows_its_steps() {
    let step = |rate| Step {
        rate,
        lasts: Duration::from_millis(250),
    };
    let measured = run(Behaviour::Echo, |plan, _| {
        let steps = vec![step(40.0), step(160.0)];
        let arrival = Arrival::Uniform;
        plan.pace = Some(Pace { steps, arrival });
        plan.warmup = Duration::from_millis(50);
    });
    let due = measured.statistics.due;
    assert!((48..=52).contains(&due), "10 and then 40, not {due}");
    let begun: u64 = measured
        .series
        .intervals
        .iter()
        .map(|interval| interval.begun)
        .sum();
    assert_eq!(begun, measured.statistics.begun);
}

#[test]
fn intervals_add_up_to_the_whole() {
    let mut seen = 0;
    let pki = pki();
    let server = Server::start(&pki, Behaviour::Echo);
    let plan = plan(&pki, &server);
    let measured = measure_watched(&plan, &Arc::default(), &mut |_| seen += 1).unwrap();
    let intervals = &measured.series.intervals;
    assert!(
        seen > 0 && seen <= intervals.len(),
        "{seen} of {}",
        intervals.len()
    );
    let sum: u64 = intervals.iter().map(|interval| interval.confirmed).sum();
    assert_eq!(sum, measured.statistics.confirmed);
    let latencies: u64 = intervals
        .iter()
        .map(|interval| interval.latency.count())
        .sum();
    assert_eq!(latencies, measured.statistics.plain.count());
}

#[test]
fn a_run_that_is_stopped_reports_what_there_was() {
    let pki = pki();
    let server = Server::start(&pki, Behaviour::Echo);
    let mut plan = plan(&pki, &server);
    plan.duration = Duration::from_secs(3_600);
    let stop = Arc::new(AtomicBool::new(false));
    let stopper = stop.clone();
    let begun = Instant::now();
    let measured = measure_watched(&plan, &stop, &mut |_| {
        stopper.store(true, Ordering::Relaxed);
    })
    .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(measured.stopped && measured.statistics.confirmed > 0);
    assert_eq!(
        measured.statistics.failed(),
        0,
        "{:?}",
        measured.statistics.errors
    );
    assert!(measured.duration < Duration::from_secs(60));
}
