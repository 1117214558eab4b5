//! What each choice of an operator costs: the same work through one shard for each of them, in CPU
//! time of the server's threads, as a ratio to the default. That is P-256 certificates straight from
//! a root, X25519, AES-128-GCM, TLS 1.3, a TCP upstream, one ticket, and remembered verdicts.
//!
//! The certificates of a choice are those of both sides. A client's chain is checked once and then
//! remembered, so intermediates cost bytes and little else; the last rows forget verdicts, and show
//! what the first handshake of each client costs.
//!
//! The shard runs on one CPU, load and upstream on another; with two shards the second shares the CPU
//! of the load. Works come one after the other, and for each work all choices in turn, so that
//! whatever else the machine does falls on all alike. The loop is closed: where clients take longer
//! (RSA signatures), the shard waits more, finds less to do at a time, and each unit costs a little
//! more for that.
//!
//! A submission queue polled by the kernel (SQPOLL) is none of the choices: it was measured with the
//! prototype as +36 to +110 % for requests on two cores, and left out.
//!
//! `--rounds N` and `--seconds S` (each measurement's) change how long it takes; `--only NAME` leaves
//! out choices whose name does not contain NAME.

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
#[path = "../common/running.rs"]
mod running;
#[path = "../common/session.rs"]
mod session;

mod unix_echo;

use std::time::Duration;

use core_affinity::CoreId;
use ringgate::Terminator;
use rustls::crypto::aws_lc_rs as provider;
use rustls::version;

use self::arguments::{argument, number};
use self::figures::Spread;
use self::load::{BULK, CONNECT, REQUESTS, Work};
use self::pki::Key;
use self::plain::{Manner, Server};
use self::running::Scratch;
use self::session::{Credential, Offer, Speech};
use self::unix_echo::UnixEcho;

const WARMUP: Duration = Duration::from_millis(300);

/// The share of units on resumed connections that a figure of resumption needs.
const RESUMED_MIN: f64 = 0.95;

/// A column of the table.
struct Column {
    name: &'static str,
    work: Work,
    speech: Speech,
    /// Of the default's figure.
    unit: &'static str,
    /// Units in a microsecond of a unit of work.
    scale: f64,
    digits: usize,
}

const COLUMNS: [Column; 4] = [
    Column {
        name: "full handshake",
        work: CONNECT,
        speech: Speech::Full,
        unit: " us",
        scale: 1.0,
        digits: 1,
    },
    Column {
        name: "resumed",
        work: CONNECT,
        speech: Speech::Resumed,
        unit: " us",
        scale: 1.0,
        digits: 1,
    },
    Column {
        name: "1 KiB request",
        work: REQUESTS,
        speech: Speech::Full,
        unit: " us",
        scale: 1.0,
        digits: 2,
    },
    Column {
        name: "bulk, per byte",
        work: BULK,
        speech: Speech::Full,
        unit: " ns",
        // Each byte goes through twice.
        scale: 1e3 / (2.0 * 65536.0),
        digits: 3,
    },
];

/// How a terminator and its clients differ from the default.
#[derive(Clone, Copy)]
struct Choice {
    name: &'static str,
    key: Key,
    intermediates: usize,
    offer: Offer,
    /// Of the configuration's listener, and of all the rest.
    settings: [&'static str; 2],
    unix: bool,
    shards: usize,
}

const FORGETFUL: [&str; 2] = ["", "[verdict_cache]\nentries = 0"];

fn choices() -> Vec<Choice> {
    let default = Choice {
        name: "default",
        key: Key::P256,
        intermediates: 0,
        offer: Offer::default(),
        settings: [""; 2],
        unix: false,
        shards: 1,
    };
    let named = |name| Choice { name, ..default };
    vec![
        default,
        Choice {
            key: Key::Ed25519,
            ..named("Ed25519 certificates")
        },
        Choice {
            key: Key::Rsa2048,
            ..named("RSA-2048 certificates")
        },
        Choice {
            offer: Offer {
                group: provider::kx_group::X25519MLKEM768,
                ..Offer::default()
            },
            ..named("X25519MLKEM768")
        },
        Choice {
            intermediates: 1,
            ..named("one intermediate")
        },
        Choice {
            intermediates: 2,
            ..named("two intermediates")
        },
        Choice {
            offer: Offer {
                suite: provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
                ..Offer::default()
            },
            ..named("ChaCha20-Poly1305")
        },
        Choice {
            offer: Offer {
                version: &version::TLS12,
                suite: provider::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                ..Offer::default()
            },
            settings: ["min_version = \"1.2\"", ""],
            ..named("TLS 1.2")
        },
        Choice {
            unix: true,
            ..named("Unix-socket upstream")
        },
        Choice {
            shards: 2,
            ..named("two shards")
        },
        Choice {
            settings: FORGETFUL,
            ..named("verdicts forgotten")
        },
        Choice {
            settings: FORGETFUL,
            intermediates: 1,
            ..named("verdicts forgotten, one intermediate")
        },
        Choice {
            settings: FORGETFUL,
            intermediates: 2,
            ..named("verdicts forgotten, two intermediates")
        },
    ]
}

/// A terminator as chosen.
struct Candidate {
    choice: Choice,
    terminator: Terminator,
    credential: Credential,
    /// Of each column and round, in microseconds.
    figures: [Vec<f64>; COLUMNS.len()],
    resumed: f64,
}

/// Where upstreams are.
struct Upstreams {
    tcp: Server,
    unix: UnixEcho,
}

impl Candidate {
    fn start(choice: Choice, scratch: &Scratch, cpus: [CoreId; 2], upstreams: &Upstreams) -> Self {
        let folder = scratch.below(choice.name);
        let credential = running::certify(&folder, choice.key, choice.intermediates, choice.offer);
        let upstream = match choice.unix {
            true => format!("unix:{}", upstreams.unix.path.display()),
            false => upstreams.tcp.address.to_string(),
        };
        let [of_listener, beside] = choice.settings;
        let configuration = format!("{beside}\n{}", running::listener(&upstream, of_listener));
        Self {
            choice,
            terminator: running::start(&folder, &cpus[..choice.shards], &configuration),
            credential,
            figures: COLUMNS.map(|_| Vec::new()),
            resumed: 1.0,
        }
    }

    fn measure(&mut self, index: usize, duration: Duration) {
        let column = &COLUMNS[index];
        let measured = load::run(
            self.terminator.addresses()[0],
            &self.terminator.thread_ids(),
            column.work,
            column.speech,
            &self.credential,
            [WARMUP, duration],
        );
        if column.speech == Speech::Resumed {
            self.resumed = self.resumed.min(measured.share_resumed());
        }
        self.figures[index].push(measured.per_unit());
    }

    /// The cell of a column, beside what the default took in the same rounds.
    fn cell(&self, index: usize, default: Option<&[f64]>) -> String {
        let (column, figures) = (&COLUMNS[index], &self.figures[index]);
        let spread = |of: &[f64]| Spread::of(of).expect("a round at least");
        let own = spread(figures).scaled(column.scale);
        match default {
            None => own.text(column.digits, column.unit),
            Some(default) => {
                let ratios = figures
                    .iter()
                    .zip(default)
                    .map(|(own, default)| own / default);
                let ratios = spread(&ratios.collect::<Vec<_>>()).text(2, "");
                let (middle, digits, unit) = (own.middle, column.digits, column.unit);
                format!("{ratios} {middle:.digits$}{unit}")
            }
        }
    }
}

fn main() {
    let rounds = number("--rounds", 4) as usize;
    let duration = Duration::from_secs(number("--seconds", 1).into());
    let only = argument("--only").unwrap_or_default();
    let Some(cpus @ [_, load_cpu]) = running::two_cpus() else {
        return;
    };
    let scratch = Scratch::new("choices");
    let upstreams = Upstreams {
        tcp: Server::start(Manner::Echo, load_cpu),
        unix: UnixEcho::start(&scratch.path().join("echo.sock"), load_cpu),
    };
    let chosen = choices().into_iter().enumerate();
    let chosen = chosen.filter(|(at, choice)| *at == 0 || choice.name.contains(&only));
    let mut candidates: Vec<Candidate> = chosen
        .map(|(_, choice)| Candidate::start(choice, &scratch, cpus, &upstreams))
        .collect();
    assert!(candidates.len() > 1, "no choice has a name with {only:?}");
    core_affinity::set_for_current(load_cpu);
    for round in 0..rounds {
        eprintln!("round {} of {rounds} ...", round + 1);
        for column in 0..COLUMNS.len() {
            for turn in 0..candidates.len() {
                // Another one comes first in each round.
                let index = (turn + round) % candidates.len();
                candidates[index].measure(column, duration);
            }
        }
    }
    print_table(&candidates);
}

/// The default's figures, and everybody else's as a ratio to them.
fn print_table(candidates: &[Candidate]) {
    let default = &candidates[0];
    print!("{:<38}", "server CPU");
    COLUMNS
        .iter()
        .for_each(|column| print!(" {:>30}", column.name));
    println!();
    for (at, candidate) in candidates.iter().enumerate() {
        print!("{:<38}", candidate.choice.name);
        for column in 0..COLUMNS.len() {
            let beside = (at > 0).then_some(&default.figures[column][..]);
            print!(" {:>30}", candidate.cell(column, beside));
        }
        match candidate.resumed {
            RESUMED_MIN.. => println!(),
            share => println!("  only {:.0} % resumed", share * 100.0),
        }
    }
    println!("medians with their range; behind a ratio, the median of what was measured");
}
