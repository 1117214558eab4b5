//! Ringgate beside its floor: a relay of plaintext on the same ring operations and buffers, plus the
//! raw cryptography, all measured in one run.
//!
//! The floor of a connection has the flights of plaintext: what the kernel takes for those that TLS
//! adds, two there and two back, is part of what lies above it.
//!
//! Server on one CPU, load and upstream on another; CPU time of the server's thread from the
//! scheduler's accounts. The rounds are interleaved, so that whatever else the machine does falls on
//! all alike. `--rounds N` and `--seconds S` (each measurement's) change how long it takes.

#[path = "../common/believe.rs"]
mod believe;
#[path = "../../tests/interop/pki.rs"]
#[allow(dead_code, reason = "the tests need all of it")]
mod pki;
#[path = "../common/raw.rs"]
mod raw;

mod load;
mod relay;
mod session;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use ringgate::Terminator;
use ringgate::clock::Clock;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use self::load::Work;
use self::relay::{Manner, Server};
use self::session::{Credential, Speech};

const CONNECT: Work = Work {
    clients: 32,
    payload: 1,
    connects: true,
};
const REQUESTS: Work = Work {
    clients: 32,
    payload: 1 << 10,
    connects: false,
};
const BULK: Work = Work {
    clients: 8,
    payload: 64 << 10,
    connects: false,
};

/// What a row of the table is about.
struct Row {
    name: &'static str,
    work: Work,
    speech: Speech,
    /// The raw cryptography of one unit, in microseconds.
    cryptography: f64,
    /// Units of work in what is printed: bytes, or 1.
    parts: f64,
    unit: &'static str,
}

/// Server CPU per unit of each round, in microseconds.
#[derive(Default)]
struct Figures {
    relay: Vec<f64>,
    ringgate: Vec<f64>,
    /// The least share of units on resumed connections.
    resumed: f64,
}

fn main() {
    let options = Options::from_arguments();
    let cpus = core_affinity::get_core_ids().unwrap_or_default();
    let [server_cpu, load_cpu] = match cpus[..] {
        [one, two, ..] => [one, two],
        _ => {
            println!("two CPUs are needed to keep the server apart from its load; nothing is run");
            return;
        }
    };
    let [exchange, handshake, request, byte] = on_cpu(server_cpu, raw_costs);
    let echo = Server::start(Manner::Echo, load_cpu);
    let relay = Server::start(Manner::Relay(echo.address), server_cpu);
    let scratch = Scratch::new();
    let (terminator, credential) = terminator(scratch.path(), server_cpu, &echo);
    core_affinity::set_for_current(load_cpu);

    let rows = [
        row(
            "connect, one byte, close: full",
            CONNECT,
            Speech::Full,
            handshake,
        ),
        row("the same, resumed", CONNECT, Speech::Resumed, exchange),
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
                65536.0 * byte,
            )
        },
    ];
    let thread = terminator.thread_ids()[0];
    let mut figures: Vec<Figures> = rows.iter().map(|_| Figures::default()).collect();
    for round in 0..options.rounds {
        eprintln!("round {} of {} ...", round + 1, options.rounds);
        for (row, figures) in rows.iter().zip(&mut figures) {
            let plain = || measure(&relay, row.work, Speech::Plain, &credential, &options);
            let ringgate = || {
                let address = terminator.addresses()[0];
                load::run(
                    address,
                    thread,
                    row.work,
                    row.speech,
                    &credential,
                    options.times,
                )
            };
            // Each goes first in every other round.
            let (plain, ringgate) = if round % 2 == 0 {
                let plain = plain();
                (plain, ringgate())
            } else {
                let ringgate = ringgate();
                (plain(), ringgate)
            };
            figures.relay.push(per_unit(&plain));
            figures.ringgate.push(per_unit(&ringgate));
            #[allow(clippy::cast_precision_loss, reason = "for people")]
            let resumed = ringgate.resumed as f64 / ringgate.units as f64;
            figures.resumed = if round == 0 {
                resumed
            } else {
                figures.resumed.min(resumed)
            };
        }
    }
    println!(
        "{:<38} {:>24} {:>24} {:>9} {:>9} {:>9}",
        "server CPU", "Ringgate", "plaintext relay", "crypto", "x relay", "x floor"
    );
    for (row, figures) in rows.iter().zip(&figures) {
        print_row(row, figures);
    }
}

fn row(name: &'static str, work: Work, speech: Speech, cryptography: f64) -> Row {
    Row {
        name,
        work,
        speech,
        cryptography,
        parts: 1.0,
        unit: "us",
    }
}

fn measure(
    relay: &Server,
    work: Work,
    speech: Speech,
    credential: &Credential,
    options: &Options,
) -> load::Measured {
    load::run(
        relay.address,
        relay.thread_id,
        work,
        speech,
        credential,
        options.times,
    )
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn per_unit(measured: &load::Measured) -> f64 {
    measured.cpu.as_secs_f64() * 1e6 / measured.units as f64
}

fn print_row(row: &Row, figures: &Figures) {
    let scale = if row.unit == "ns/B" { 1e3 } else { 1.0 } / row.parts;
    let [ringgate, relay] = [&figures.ringgate, &figures.relay].map(|of| sorted(of));
    let spread = |of: &[f64]| {
        let [low, middle, high] = [of[0], median(of), of[of.len() - 1]].map(|us| us * scale);
        let digits = if row.unit == "us" { 1 } else { 3 };
        format!(
            "{middle:.digits$} {} ({low:.digits$}-{high:.digits$})",
            row.unit
        )
    };
    let floor = median(&relay) + row.cryptography;
    let note = match row.speech {
        Speech::Resumed => format!("  at least {:.1} % resumed", figures.resumed * 100.0),
        Speech::Full | Speech::Plain => String::new(),
    };
    println!(
        "{:<38} {:>24} {:>24} {:>9.3} {:>9.2} {:>9.2}{note}",
        row.name,
        spread(&ringgate),
        spread(&relay),
        row.cryptography * scale,
        median(&ringgate) / median(&relay),
        median(&ringgate) / floor,
    );
}

fn sorted(of: &[f64]) -> Vec<f64> {
    let mut of = of.to_vec();
    of.sort_by(f64::total_cmp);
    of
}

/// Of figures in their order.
fn median(of: &[f64]) -> f64 {
    let middle = of.len() / 2;
    if of.len().is_multiple_of(2) {
        (of[middle - 1] + of[middle]) / 2.0
    } else {
        of[middle]
    }
}

/// Microseconds of a key exchange; of that, a signature and its check; of opening and sealing
/// 1 KiB; and of opening and sealing one byte among 16 KiB.
fn raw_costs() -> [f64; 4] {
    let (exchange, signer) = (raw::KeyExchange::x25519(), raw::Signer::p256());
    let exchange = best(3, || exchange.run());
    let signatures = best(2, || signer.sign_and_verify());
    let [(_, algorithm, key), ..] = raw::algorithms();
    let aead = |len: usize| {
        let (plain, mut aead) = (vec![5; len], raw::Aead::new(algorithm, key, len));
        let sealed = aead.sealed(0, &plain);
        best(20, || {
            aead.open(0, &sealed);
            aead.seal(1, &plain);
        })
    };
    [
        exchange,
        exchange + signatures,
        aead(1 << 10),
        aead(1 << 14) / f64::from(1 << 14),
    ]
}

/// Microseconds of one run of `work`: of many short batches the fastest, which nothing disturbed.
fn best(batch: u32, mut work: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..1000 {
        let start = Instant::now();
        for _ in 0..batch {
            work();
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / f64::from(batch));
    }
    best
}

fn on_cpu<T: Send + 'static>(cpu: CoreId, work: fn() -> T) -> T {
    let thread = std::thread::spawn(move || {
        core_affinity::set_for_current(cpu);
        work()
    });
    thread.join().expect("a thread that ends")
}

/// CPU time of a thread of this process: the first field of schedstat, in nanoseconds.
fn cpu_time(thread: i32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"));
    let text = text.expect("a thread that is there");
    let ns = text.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.expect("nanoseconds"))
}

/// One shard on `cpu`, as configured by default.
fn terminator(folder: &Path, cpu: CoreId, echo: &Server) -> (Terminator, Credential) {
    let ca = |name| pki::Ca::root(folder, name, pki::Key::P256);
    ca("server-root").issue("server", &pki::server());
    let client = ca("client-root").issue("client", &pki::client());
    let (cpu, upstream) = (cpu.id, echo.address);
    let config = format!(
        r#"
        [shards]
        cpus = [{cpu}]

        [[listener]]
        address = "127.0.0.1:0"
        certificate = "server.pem"
        key = "server.key"
        client_ca = "client-root.pem"
        upstream = "{upstream}"
        rule = [{{ name = "everyone", allow = {{ any = true }} }}]
        "#
    );
    let file = folder.join("ringgate.toml");
    std::fs::write(&file, config).expect("a folder to write to");
    let terminator = Terminator::start_file(&file, &Clock::system());
    let chain = CertificateDer::pem_file_iter(&client.chain).expect("a chain");
    let credential = Credential {
        chain: chain.collect::<Result<_, _>>().expect("certificates"),
        key: PrivateKeyDer::from_pem_file(&client.key).expect("a key"),
        server_name: ServerName::try_from(pki::SERVER_NAME).expect("a name"),
    };
    (
        terminator.unwrap_or_else(|error| panic!("{error}")),
        credential,
    )
}

/// A folder that is removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("floor-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Options {
    rounds: u32,
    /// Warm-up and measured time.
    times: [Duration; 2],
}

impl Options {
    /// What cargo adds of its own is passed over.
    fn from_arguments() -> Self {
        let arguments: Vec<String> = std::env::args().collect();
        let value = |name: &str, default: u32| {
            let at = arguments.iter().position(|argument| argument == name);
            let value = at
                .and_then(|at| arguments.get(at + 1))
                .map(|text| text.parse());
            match value {
                None => default,
                Some(Ok(value @ 1..)) => value,
                Some(_) => panic!("{name} takes a number from 1 on"),
            }
        };
        let seconds = value("--seconds", 2);
        Self {
            rounds: value("--rounds", 6),
            times: [
                Duration::from_millis(500),
                Duration::from_secs(seconds.into()),
            ],
        }
    }
}
