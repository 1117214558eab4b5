//! Ringgate beside its floor: a relay of plaintext on the same ring operations and buffers, plus the
//! raw cryptography, all measured in one run.
//!
//! The floor of a connection is a relay too, but of the flights of TLS, which carry zeros: the kernel
//! takes for them what it takes for Ringgate's. Beside it stands the relay that only connects and
//! passes a byte, as if TLS took no flights.
//!
//! Server on one CPU, load and upstream on another; CPU time of the server's thread from the
//! scheduler's accounts. The rounds are interleaved, so that whatever else the machine does falls on
//! all alike. `--rounds N` and `--seconds S` (each measurement's) change how long it takes; `--row N`
//! leaves only one row, the first being 1.

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
#[path = "../../tests/interop/pki.rs"]
#[allow(dead_code, reason = "the tests need all of it")]
mod pki;
#[path = "../common/plain.rs"]
mod plain;
#[path = "../common/raw.rs"]
mod raw;
#[path = "../common/running.rs"]
mod running;
#[path = "../common/session.rs"]
mod session;

mod lengths;

use std::sync::Arc;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use ringgate::shard::Counters;

use self::arguments::number;
use self::figures::Spread;
use self::lengths::lengths;
use self::load::{BULK, CONNECT, REQUESTS, Work};
use self::plain::{Manner, Server};
use self::running::{Scratch, cpu_time};
use self::session::{Client, Offer, Speech};

/// How long raw cryptography is measured in each round.
const CRYPTOGRAPHY: Duration = Duration::from_millis(500);

/// What a row of the table is about.
struct Row {
    name: &'static str,
    work: Work,
    speech: Speech,
    /// A relay of the flights that a connection takes, and what its clients speak.
    flights: Option<(Server, Speech)>,
    /// The raw cryptography of one unit, ready to be run.
    cryptography: fn() -> Box<dyn FnMut()>,
    /// Units of work in what is printed: bytes, or 1.
    parts: f64,
    unit: &'static str,
}

/// Server CPU per unit of each round, in microseconds.
#[derive(Default)]
struct Figures {
    relay: Vec<f64>,
    /// The relay of flights, where there are any.
    flights: Vec<f64>,
    cryptography: Vec<f64>,
    ringgate: Vec<f64>,
    /// `io_uring_enter` calls per unit.
    enters: Vec<f64>,
    /// The least share of units on resumed connections.
    resumed: f64,
}

fn main() {
    let options = Options::from_arguments();
    let Some([server_cpu, load_cpu]) = running::two_cpus() else {
        return;
    };
    let echo = Server::start(Manner::Echo, load_cpu);
    let relay = Server::start(Manner::Relay(echo.address), server_cpu);
    let scratch = Scratch::new("floor");
    let credential = running::certify(scratch.path(), pki::Key::P256, 0, Offer::default());
    let upstream = running::listener(&echo.address.to_string(), "");
    let mut terminator = running::start(scratch.path(), &[server_cpu], &upstream);
    core_affinity::set_for_current(load_cpu);

    let address = terminator.addresses()[0];
    let relay_of_flights = |speech| {
        let client = Client::new(speech, &credential);
        // The first connection of a client is a full one.
        let [_, flights] = [(); 2].map(|()| lengths(address, &client));
        let manner = Manner::Flights(echo.address, flights);
        (Server::start(manner, server_cpu), Speech::Flights(flights))
    };
    let rows = [
        Row {
            flights: Some(relay_of_flights(Speech::Full)),
            ..row(
                "connect, one byte, close: full",
                CONNECT,
                Speech::Full,
                handshake,
            )
        },
        Row {
            flights: Some(relay_of_flights(Speech::Resumed)),
            ..row("the same, resumed", CONNECT, Speech::Resumed, exchange)
        },
        row(
            "1 KiB there and back, 32 connections",
            REQUESTS,
            Speech::Full,
            request,
        ),
        Row {
            // Each byte goes through twice.
            parts: 2.0 * 65536.0,
            unit: "ns/B",
            ..row(
                "64 KiB there and back, 8 connections",
                BULK,
                Speech::Full,
                bulk,
            )
        },
    ];
    let rows: Vec<Row> = rows
        .into_iter()
        .zip(1..)
        .filter_map(|(row, at)| (options.row == 0 || options.row == at).then_some(row))
        .collect();
    let threads = terminator.thread_ids();
    let counters = terminator
        .mailboxes()
        .map(|shard| Arc::clone(shard.counters()));
    let counters: Vec<Arc<Counters>> = counters.collect();
    let mut figures: Vec<Figures> = rows.iter().map(|_| Figures::default()).collect();
    for round in 0..options.rounds {
        eprintln!("round {} of {} ...", round + 1, options.rounds);
        for (row, figures) in rows.iter().zip(&mut figures) {
            let run = |target, threads: &[i32], speech| {
                load::run(
                    target,
                    threads,
                    row.work,
                    speech,
                    &credential,
                    options.times,
                )
            };
            let plain = |figures: &mut Figures| {
                let measured = run(relay.address, &[relay.thread_id], Speech::Plain);
                figures.relay.push(measured.per_unit());
                if let Some((relay, speech)) = &row.flights {
                    let measured = run(relay.address, &[relay.thread_id], *speech);
                    figures.flights.push(measured.per_unit());
                }
                let cryptography = row.cryptography;
                let cost = on_cpu(server_cpu, move || cpu_per_run(cryptography()));
                figures.cryptography.push(cost);
            };
            let ringgate = |figures: &mut Figures| {
                let enters = || counters.iter().map(|shard| shard.enters()).sum::<u64>();
                let before = enters();
                let measured = run(address, &threads, row.speech);
                figures.ringgate.push(measured.per_unit());
                figures.enters.push(ratio(enters() - before, measured.all));
                let resumed = measured.share_resumed();
                figures.resumed = if round == 0 {
                    resumed
                } else {
                    figures.resumed.min(resumed)
                };
            };
            // Each goes first in every other round.
            if round % 2 == 0 {
                plain(figures);
                ringgate(figures);
            } else {
                ringgate(figures);
                plain(figures);
            }
        }
    }
    println!(
        "{:<38} {:>22} {:>22} {:>22} {:>8} {:>8} {:>8} {:>7}",
        "server CPU",
        "Ringgate",
        "plaintext relay",
        "of TLS's flights",
        "crypto",
        "x relay",
        "x floor",
        "enters"
    );
    for (row, figures) in rows.iter().zip(&figures) {
        print_row(row, figures);
    }
}

fn row(
    name: &'static str,
    work: Work,
    speech: Speech,
    cryptography: fn() -> Box<dyn FnMut()>,
) -> Row {
    Row {
        name,
        work,
        speech,
        flights: None,
        cryptography,
        parts: 1.0,
        unit: "us",
    }
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn ratio(of: u64, to: u64) -> f64 {
    of as f64 / to as f64
}

fn print_row(row: &Row, figures: &Figures) {
    let scale = if row.unit == "ns/B" { 1e3 } else { 1.0 } / row.parts;
    let digits = if row.unit == "us" { 1 } else { 3 };
    let unit = format!(" {}", row.unit);
    let spread = |of: &[f64]| Spread::of(of).expect("a round at least");
    let [ringgate, relay] = [&figures.ringgate, &figures.relay].map(|of| spread(of));
    let flights = Spread::of(&figures.flights);
    let cryptography = spread(&figures.cryptography).middle;
    let floor = flights.unwrap_or(relay).middle + cryptography;
    let note = match row.speech {
        Speech::Resumed => format!("  at least {:.1} % resumed", figures.resumed * 100.0),
        _ => String::new(),
    };
    let text = |spread: Spread| spread.scaled(scale).text(digits, &unit);
    println!(
        "{:<38} {:>22} {:>22} {:>22} {:>8.3} {:>8.2} {:>8.2} {:>7.2}{note}",
        row.name,
        text(ringgate),
        text(relay),
        flights.map_or_else(String::new, text),
        cryptography * scale,
        ringgate.middle / relay.middle,
        ringgate.middle / floor,
        spread(&figures.enters).middle,
    );
}

fn exchange() -> Box<dyn FnMut()> {
    let exchange = raw::KeyExchange::x25519();
    Box::new(move || exchange.run())
}

/// A key exchange, our signature and the check of the client's.
fn handshake() -> Box<dyn FnMut()> {
    let (exchange, signer) = (raw::KeyExchange::x25519(), raw::Signer::p256());
    Box::new(move || {
        exchange.run();
        signer.sign_and_verify();
    })
}

fn request() -> Box<dyn FnMut()> {
    aead(1 << 10, 1)
}

fn bulk() -> Box<dyn FnMut()> {
    aead(1 << 14, 4)
}

/// Opening and sealing so many records of `len` bytes.
fn aead(len: usize, records: usize) -> Box<dyn FnMut()> {
    let [(_, algorithm, key), ..] = raw::algorithms();
    let (plain, mut aead) = (vec![5; len], raw::Aead::new(algorithm, key, len));
    let sealed = aead.sealed(0, &plain);
    Box::new(move || {
        for _ in 0..records {
            aead.open(0, &sealed);
            aead.seal(1, &plain);
        }
    })
}

/// CPU time of one run of `work` in microseconds: what the scheduler accounts to this thread.
fn cpu_per_run(mut work: impl FnMut()) -> f64 {
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    let (began, before, mut runs) = (Instant::now(), cpu_time(thread), 0);
    while began.elapsed() < CRYPTOGRAPHY {
        work();
        runs += 1;
    }
    (cpu_time(thread) - before).as_secs_f64() * 1e6 / f64::from(runs)
}

fn on_cpu<T: Send + 'static>(cpu: CoreId, work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        core_affinity::set_for_current(cpu);
        work()
    });
    thread.join().expect("a thread that ends")
}

struct Options {
    rounds: u32,
    /// The only one, or 0 for all.
    row: u32,
    /// Warm-up and measured time.
    times: [Duration; 2],
}

impl Options {
    fn from_arguments() -> Self {
        let seconds = number("--seconds", 2);
        Self {
            rounds: number("--rounds", 6),
            row: number("--row", 0),
            times: [
                Duration::from_millis(500),
                Duration::from_secs(seconds.into()),
            ],
        }
    }
}
