//! What clients that are being served notice of a storm of new ones: relayed requests in an open loop
//! on kept connections, first alone and then while full handshakes take all that the shard has.
//!
//! The target is a p99 under the storm of at most twice the quiet one.
//!
//! One shard on one CPU; requests, storm and upstreams on another, so the storm's clients could be
//! what delays the requests. Against that:
//! - Whoever makes the storm, clients and upstream, runs under SCHED_IDLE (`chrt`, or nice 19 where
//!   that is missing): the kernel takes the CPU from it the moment that a request is due. Priority
//!   was chosen over a storm of plaintext on the plaintext relay because that one changes the work
//!   of the server, too, and says nothing of single requests.
//! - Requests have an upstream of their own, which the storm's connections do not queue at.
//! - A control: the same requests go straight to that upstream while the storm goes on. What they
//!   suffer is the generator's doing.
//! - Latency counts from the moment that a request was due, and timers are exact, so that neither a
//!   stalled connection nor a lazy timer flatters anybody.
//!
//! `--rounds N` and `--seconds S` (each measurement's) change how long it takes; `--key rsa` gives the
//! terminator a certificate whose signatures take several times as long as a turn's budget for
//! handshakes.

#[path = "../common/arguments.rs"]
mod arguments;
#[path = "../common/believe.rs"]
mod believe;
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/flights.rs"]
mod flights;
#[path = "../common/load.rs"]
mod load;
#[path = "../common/paced.rs"]
mod paced;
#[path = "../../tests/interop/pki.rs"]
#[allow(dead_code, reason = "the tests need all of it")]
mod pki;
#[path = "../common/plain.rs"]
mod plain;
#[path = "../common/priority.rs"]
mod priority;
#[path = "../common/running.rs"]
mod running;
#[path = "../common/session.rs"]
mod session;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use self::arguments::{argument, number};
use self::figures::Spread;
use self::load::{CONNECT, Work};
use self::paced::{Kept, Latencies, Pace};
use self::plain::{Manner, Server};
use self::priority::give_way;
use self::running::Scratch;
use self::session::{Credential, Offer, Speech};

const PACE: Pace = Pace {
    connections: 8,
    per_second: 500,
    payload: 1 << 10,
};

const STORM: Work = Work {
    clients: 64,
    ..CONNECT
};

/// The p99 under the storm against the quiet one, at most.
const TARGET: f64 = 2.0;

/// The share of the time that a shard must have been busy to be called saturated.
const SATURATED: f64 = 0.95;

/// Until what is measured has found its pace.
const WARMUP: Duration = Duration::from_secs(1);

/// What is measured in each round.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Quiet,
    Storm,
    /// The storm, and requests that do not go through the terminator.
    Control,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Quiet, Self::Storm, Self::Control];

    fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Storm => "storm",
            Self::Control => "storm, requests straight to the upstream",
        }
    }
}

/// Of each round.
#[derive(Default)]
struct Figures {
    p50: Vec<f64>,
    p99: Vec<f64>,
    late: Vec<f64>,
    /// Share of the time that the shard's thread ran.
    busy: Vec<f64>,
    handshakes: Vec<f64>,
}

fn main() {
    let rounds = number("--rounds", 4);
    let duration = Duration::from_secs(number("--seconds", 10).into());
    let key = match argument("--key").as_deref() {
        None | Some("p256") => pki::Key::P256,
        Some("rsa") => pki::Key::Rsa2048,
        Some(other) => panic!("--key takes p256 or rsa, not {other}"),
    };
    let Some([server_cpu, load_cpu]) = running::two_cpus() else {
        return;
    };
    let upstream = Server::start(Manner::Echo, load_cpu);
    let of_storm = thread::spawn(move || {
        let manner = give_way();
        (Server::start(Manner::Echo, load_cpu), manner)
    });
    let (of_storm, manner) = of_storm.join().expect("a thread that ends");
    println!("the storm's clients run under {manner}");
    let scratch = Scratch::new("storm");
    let credential = running::certify(scratch.path(), key, 0, Offer::default());
    let configuration = [(&upstream, "requests"), (&of_storm, "storm")].map(|(to, name)| {
        running::listener(&to.address.to_string(), &format!("name = \"{name}\""))
    });
    let terminator = running::start(scratch.path(), &[server_cpu], &configuration.concat());
    let [requests, storm] = terminator.addresses()[..] else {
        panic!("two listeners");
    };
    core_affinity::set_for_current(load_cpu);

    let mut relayed = Kept::open(requests, PACE, Speech::Full, &credential);
    let mut direct = Kept::open(upstream.address, PACE, Speech::Plain, &credential);
    let mut bench = Bench {
        storm,
        shard: terminator.thread_ids()[0],
        credential,
        times: [WARMUP, duration],
        figures: Phase::ALL.map(|_| Figures::default()),
    };
    for round in 0..rounds as usize {
        eprintln!("round {} of {rounds} ...", round + 1);
        for turn in 0..Phase::ALL.len() {
            // Another one comes first in each round.
            let phase = Phase::ALL[(turn + round) % Phase::ALL.len()];
            let kept = match phase {
                Phase::Quiet | Phase::Storm => &mut relayed,
                Phase::Control => &mut direct,
            };
            bench.measure(phase, kept);
        }
    }
    bench.print();
}

struct Bench {
    /// Where the storm goes.
    storm: SocketAddr,
    /// The shard's thread.
    shard: i32,
    credential: Credential,
    times: [Duration; 2],
    figures: [Figures; 3],
}

impl Bench {
    fn measure(&mut self, phase: Phase, kept: &mut Kept) {
        let (latencies, busy, handshakes) = match phase {
            Phase::Quiet => {
                let before = running::cpu_time(self.shard);
                let latencies = kept.run(Instant::now(), self.times);
                let cpu = running::cpu_time(self.shard) - before;
                let whole = self.times.iter().sum::<Duration>();
                (latencies, cpu.as_secs_f64() / whole.as_secs_f64(), 0.0)
            }
            Phase::Storm | Phase::Control => self.under_storm(kept),
        };
        let figures = &mut self.figures[phase as usize];
        figures.p50.push(latencies.percentile(50));
        figures.p99.push(latencies.percentile(99));
        figures.late.push(latencies.late(99));
        figures.busy.push(busy);
        figures.handshakes.push(handshakes);
    }

    /// Latencies, how busy the shard was, and handshakes a second.
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    fn under_storm(&self, kept: &mut Kept) -> (Latencies, f64, f64) {
        let (latencies, stormed) = thread::scope(|scope| {
            let storm = scope.spawn(|| {
                give_way();
                let (work, shard) = (STORM, [self.shard]);
                let credential = &self.credential;
                load::run(
                    self.storm,
                    &shard,
                    work,
                    Speech::Full,
                    credential,
                    self.times,
                )
            });
            let latencies = kept.run(Instant::now(), self.times);
            (latencies, storm.join().expect("a storm that ends"))
        });
        (
            latencies,
            stormed.cpu.as_secs_f64() / stormed.took.as_secs_f64(),
            stormed.units as f64 / stormed.took.as_secs_f64(),
        )
    }

    fn print(&self) {
        let spread = |of: &[f64]| Spread::of(of).expect("a round at least");
        println!(
            "{:<42} {:>22} {:>24} {:>22} {:>20} {:>22}",
            "requests, us from the moment they were due",
            "p50",
            "p99",
            "p99 until sent",
            "shard busy, %",
            "handshakes/s"
        );
        for (phase, figures) in Phase::ALL.into_iter().zip(&self.figures) {
            println!(
                "{:<42} {:>22} {:>24} {:>22} {:>20} {:>22}",
                phase.name(),
                spread(&figures.p50).text(0, ""),
                spread(&figures.p99).text(0, ""),
                spread(&figures.late).text(0, ""),
                spread(&figures.busy).scaled(100.0).text(1, ""),
                spread(&figures.handshakes).text(0, ""),
            );
        }
        let [quiet, storm, control] = &self.figures;
        let ratio = |above: &[f64], below: &[f64]| {
            let ratios: Vec<f64> = above.iter().zip(below).map(|(a, b)| a / b).collect();
            spread(&ratios)
        };
        let of_p99 = ratio(&storm.p99, &quiet.p99);
        let verdict = if spread(&storm.busy).middle < SATURATED {
            "this says nothing of it, since the shard was not saturated: its clients, at the lowest \
             priority, did not get enough of their CPU"
        } else if of_p99.middle <= TARGET {
            "kept"
        } else {
            "missed"
        };
        println!(
            "p99 storm / p99 quiet: {}; the target is at most {TARGET}: {verdict}",
            of_p99.text(2, "")
        );
        println!(
            "p50 storm / p50 quiet: {}",
            ratio(&storm.p50, &quiet.p50).text(2, "")
        );
        println!(
            "of the p99 under the storm the generator takes, by the control, at most {}",
            ratio(&control.p99, &storm.p99).text(2, "")
        );
    }
}
