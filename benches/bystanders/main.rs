//! What clients that do no wrong notice of what goes on beside them at a running `ringgate`: of 10,000
//! peers that come and say nothing, and of somebody who asks for every metric once a second. The peers
//! come during the first half of what is measured; as many as may are there during the second.
//!
//! The targets are at most 5 ms more until a newcomer has its answer, and a p99 of relayed requests that
//! moves by less than 5 %.
//!
//! The server, its control plane too, runs on one CPU; clients and upstream on another. Each is measured
//! alone, beside the disturbance, and alone once more, in turn: what the two that are alone differ by is
//! the noise of the machine. Peers and scrapes run under SCHED_IDLE where that is to be had, so that the
//! clients get their CPU first. Latency counts from the moment that a request was due. A scrape a second
//! can hardly move the p99 of 500 requests: p99.9 and the longest show what one costs.
//!
//! `--rounds N` and `--seconds S` (each measurement's) change how long it takes, `--silent N` how many
//! peers there are.

#[path = "../common/arguments.rs"]
mod arguments;
#[path = "../common/believe.rs"]
mod believe;
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/flights.rs"]
mod flights;
#[path = "../common/paced.rs"]
mod paced;
#[path = "../../tests/interop/pki.rs"]
#[allow(dead_code, reason = "the tests need all of it")]
mod pki;
#[path = "../common/plain.rs"]
mod plain;
#[path = "../common/priority.rs"]
mod priority;
#[path = "../common/process.rs"]
#[allow(dead_code, reason = "each bench uses its part")]
mod process;
#[path = "../common/running.rs"]
mod running;
#[path = "../common/session.rs"]
mod session;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use self::arguments::number;
use self::figures::Spread;
use self::paced::{Kept, Latencies, Newcomers, Pace};
use self::plain::Manner;
use self::process::{Server, free_address, scrape};
use self::running::Scratch;
use self::session::{Credential, Offer, Speech};

const REQUESTS: Pace = Pace {
    connections: 8,
    per_second: 500,
    payload: 1 << 10,
};

const NEWCOMERS: Pace = Pace {
    connections: 8,
    per_second: 100,
    payload: 1,
};

/// Addresses that the silent peers come from.
const SOURCES: usize = 40;

/// Milliseconds that a newcomer may wait longer for the silent peers.
const DELAY_MAX_MS: f64 = 5.0;

/// The p99 of requests beside scrapes against the one without, at most.
const SCRAPED_MAX: f64 = 1.05;

/// Until what is measured has found its pace.
const WARMUP: Duration = Duration::from_secs(1);

/// The measurements of a round.
const ALONE: usize = 0;
const BESIDE: usize = 1;
const ALONE_AGAIN: usize = 2;

/// Of each round, in milliseconds.
#[derive(Default)]
struct Figures {
    p50: Vec<f64>,
    p99: Vec<f64>,
    p999: Vec<f64>,
    longest: Vec<f64>,
}

impl Figures {
    fn note(&mut self, latencies: &Latencies) {
        self.p50.push(latencies.percentile(50) / 1e3);
        self.p99.push(latencies.percentile(99) / 1e3);
        self.p999.push(latencies.per_mille(999) / 1e3);
        self.longest.push(latencies.longest() / 1e3);
    }
}

fn main() {
    let rounds = number("--rounds", 4) as usize;
    let duration = Duration::from_secs(number("--seconds", 10).into());
    let silent = number("--silent", 10_000) as usize;
    let Some([server_cpu, load_cpu]) = running::two_cpus() else {
        return;
    };
    if !has_descriptors(silent) {
        return;
    }
    let upstream = plain::Server::start(Manner::Echo, load_cpu);
    let scratch = Scratch::new("bystanders");
    let credential = running::certify(scratch.path(), pki::Key::P256, 0, Offer::default());
    let (server, admin) = start(&scratch, upstream.address, server_cpu);
    core_affinity::set_for_current(load_cpu);
    let bench = Bench {
        target: server.address,
        admin,
        silent,
        credential,
        times: [WARMUP, duration],
    };
    let mut kept = Kept::open(bench.target, REQUESTS, Speech::Full, &bench.credential);
    let mut newcomers = [(); 3].map(|()| Figures::default());
    let mut requests = [(); 3].map(|()| Figures::default());
    for round in 0..rounds {
        eprintln!("round {} of {rounds} ...", round + 1);
        for turn in 0..3 {
            // Another one comes first in each round.
            let which = (turn + round) % 3;
            newcomers[which].note(&bench.newcomers(which == BESIDE));
            requests[which].note(&bench.requests(&mut kept, which == BESIDE));
        }
    }
    print(
        &format!("newcomers, {} a second", NEWCOMERS.per_second),
        &format!("{silent} silent"),
        &newcomers,
    );
    let delays = |which: usize| -> Vec<f64> {
        let pairs = newcomers[which].p99.iter().zip(&newcomers[ALONE].p99);
        pairs.map(|(beside, alone)| beside - alone).collect()
    };
    let longest = |which: usize| -> Vec<f64> {
        let pairs = newcomers[which].longest.iter();
        let pairs = pairs.zip(&newcomers[ALONE].longest);
        pairs.map(|(beside, alone)| beside - alone).collect()
    };
    println!(
        "{silent} silent peers delay the one that waits longest by {} ms (noise: {})",
        text(&longest(BESIDE)),
        text(&longest(ALONE_AGAIN))
    );
    println!(
        "{silent} silent peers delay a newcomer's p99 by {} ms (noise: {}); at most {DELAY_MAX_MS}: {}",
        text(&delays(BESIDE)),
        text(&delays(ALONE_AGAIN)),
        verdict(spread(&delays(BESIDE)).middle <= DELAY_MAX_MS)
    );
    print(
        &format!("requests, {} a second", REQUESTS.per_second),
        "scrapes",
        &requests,
    );
    let ratios = |which: usize| -> Vec<f64> {
        let pairs = requests[which].p99.iter().zip(&requests[ALONE].p99);
        pairs.map(|(beside, alone)| beside / alone).collect()
    };
    println!(
        "a scrape each second takes the p99 of requests to {} (noise: {}); at most {SCRAPED_MAX}: {}",
        text(&ratios(BESIDE)),
        text(&ratios(ALONE_AGAIN)),
        verdict(spread(&ratios(BESIDE)).middle <= SCRAPED_MAX)
    );
}

fn verdict(is_kept: bool) -> &'static str {
    match is_kept {
        true => "kept",
        false => "missed",
    }
}

fn spread(of: &[f64]) -> Spread {
    Spread::of(of).expect("a round at least")
}

fn text(of: &[f64]) -> String {
    spread(of).text(2, "")
}

fn print(what: &str, beside: &str, figures: &[Figures; 3]) {
    println!("\n{what}, ms from the moment they were due: p50, p99, p99.9, longest");
    let beside = format!("beside {beside}");
    for (name, figures) in ["alone", &beside, "alone again"].into_iter().zip(figures) {
        let Figures {
            p50,
            p99,
            p999,
            longest,
        } = figures;
        println!(
            "{name:<22} {:>20} {:>20} {:>20} {:>22}",
            text(p50),
            text(p99),
            text(p999),
            text(longest)
        );
    }
}

/// One shard on `cpu`, and where its metrics are.
fn start(scratch: &Scratch, upstream: SocketAddr, cpu: CoreId) -> (Server, SocketAddr) {
    let [address, admin] = [(); 2].map(|()| free_address().expect("a free port"));
    let listener = running::listener(&upstream.to_string(), "proxy_protocol = \"off\"");
    let listener = listener.replace("127.0.0.1:0", &address.to_string());
    let file = scratch.path().join("ringgate.toml");
    let text = format!(
        "[shards]\ncpus = [{}]\n[admin]\naddress = \"{admin}\"\n{listener}",
        cpu.id
    );
    std::fs::write(&file, text).expect("a folder to write to");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate"));
    command.arg("run").arg("-c").arg(&file);
    let log = scratch.path().join("ringgate.log");
    let server = Server::start("ringgate".to_owned(), &mut command, address, cpu, &log);
    (server.unwrap_or_else(|error| panic!("{error}")), admin)
}

struct Bench {
    target: SocketAddr,
    admin: SocketAddr,
    silent: usize,
    credential: Credential,
    times: [Duration; 2],
}

impl Bench {
    /// Newcomers, alone or while the silent peers come and stay.
    #[allow(clippy::cast_precision_loss, reason = "peers are far fewer than 2^52")]
    fn newcomers(&self, is_beside: bool) -> Latencies {
        let newcomers = Newcomers {
            target: self.target,
            pace: NEWCOMERS,
            speech: Speech::Full,
            credential: &self.credential,
        };
        let (begin, is_over) = (Instant::now(), &AtomicBool::new(false));
        let [warmup, duration] = self.times;
        let gap = (duration / 2).div_f64(self.silent as f64);
        thread::scope(|scope| {
            let peers = is_beside.then(|| {
                scope.spawn(move || {
                    priority::give_way();
                    let peers: Vec<_> = (0..self.silent)
                        .take_while(|_| !is_over.load(Ordering::Relaxed))
                        .map(|peer| {
                            let due = begin + warmup + gap.mul_f64(peer as f64);
                            thread::sleep(due.saturating_duration_since(Instant::now()));
                            self.silent_peer(peer)
                        })
                        .collect();
                    while !is_over.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(50));
                    }
                    peers.len()
                })
            });
            let latencies = newcomers.run(begin, self.times);
            is_over.store(true, Ordering::Relaxed);
            if let Some(peers) = peers {
                let came = peers.join().expect("peers that connect");
                assert_eq!(
                    came, self.silent,
                    "the silent peers did not all come in time"
                );
            }
            latencies
        })
    }

    fn silent_peer(&self, peer: usize) -> TcpStream {
        let last = u8::try_from(peer % SOURCES + 1).expect("few sources");
        let source = SocketAddr::from((Ipv4Addr::new(127, 9, 0, last), 0));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&source.into()).expect("a loopback address");
        socket
            .connect(&self.target.into())
            .expect("a server that listens");
        socket.into()
    }

    /// Requests on connections that are there, alone or beside scrapes.
    fn requests(&self, kept: &mut Kept, is_beside: bool) -> Latencies {
        let is_over = &AtomicBool::new(false);
        thread::scope(|scope| {
            if is_beside {
                scope.spawn(move || {
                    priority::give_way();
                    while !is_over.load(Ordering::Relaxed) {
                        scrape(self.admin).expect("metrics");
                        thread::park_timeout(Duration::from_secs(1));
                    }
                });
            }
            let latencies = kept.run(Instant::now(), self.times);
            is_over.store(true, Ordering::Relaxed);
            latencies
        })
    }
}

/// Sees to it that so many peers can be had; says so where not.
fn has_descriptors(peers: usize) -> bool {
    const OTHERS: u64 = 256;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let needed = peers as u64 + OTHERS;
    let most = limit.maximum.unwrap_or(u64::MAX);
    let has = most >= needed && setrlimit(Resource::Nofile, raised).is_ok();
    if !has {
        println!("{peers} peers need {needed} descriptors, and {most} are allowed; nothing is run");
    }
    has
}
