//! What it costs a load thread to know when units are due and to write down how they fared: the
//! schedule, the histograms of a whole run and of its seconds. CPU time of the thread for 100,000
//! units a second, for each kind of arrival; time is made up, so that nothing else is measured.

use std::time::{Duration, Instant};

use ringgate_loadgen::client::{Arrival, Pace, Random, Recorder, Schedule, Served};
use ringgate_loadgen::cpu_time::of_this_thread;
use ringgate_loadgen::series::Notes;
use ringgate_loadgen::statistics::{Kind, Statistics};

const RATE: u32 = 100_000;
const SECONDS: u32 = 10;
const ROUNDS: usize = 5;

/// CPU time for each second of units.
fn round(arrival: Arrival) -> Duration {
    let second = Duration::from_secs(1);
    let from = Instant::now();
    let until = from + second * SECONDS;
    let pace = Pace::steady(RATE.into(), arrival);
    let mut schedule = Schedule::new(Some(pace), from, 0.0, 1);
    let mut recorder = Recorder {
        statistics: Statistics::default(),
        from,
        until,
        open_loop: true,
        notes: Notes::new(from, second, Duration::ZERO),
    };
    // From 100 µs to 10 ms, on a logarithmic scale.
    let mut random = Random::new(2);
    let latencies: Vec<Duration> = (0..4096)
        .map(|_| Duration::from_secs_f64(1e-4 * 100_f64.powf(random.unit())))
        .collect();
    let mut latencies = latencies.iter().cycle();
    let mut served = 0;
    let before = of_this_thread();
    while let Some(now) = schedule.next_due().filter(|due| *due < until) {
        let Some(due) = schedule.take(now) else { break };
        recorder.begin(due, now);
        let Some(latency) = latencies.next() else {
            break;
        };
        let done = now + *latency;
        let unit = Served {
            due,
            begun: now,
            kind: Some(Kind::Full),
            bytes: 2,
        };
        recorder.serve(&unit, done);
        if let Some(ended) = recorder.notes.turn(now, Duration::default) {
            served += ended.confirmed;
        }
    }
    let spent = of_this_thread() - before;
    assert!(served > 0, "nothing was written down");
    spent / SECONDS
}

fn main() {
    for (name, arrival) in [("poisson", Arrival::Poisson), ("uniform", Arrival::Uniform)] {
        let mut rounds: Vec<Duration> = (0..ROUNDS).map(|_| round(arrival)).collect();
        rounds.sort_unstable();
        let percent = |time: Duration| time.as_secs_f64() * 100.0;
        println!(
            "{name}: {RATE} units a second cost {:.2}% of a core ({:.2} to {:.2})",
            percent(rounds[ROUNDS / 2]),
            percent(rounds[0]),
            percent(rounds[ROUNDS - 1])
        );
    }
}
