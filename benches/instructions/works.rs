//! The pieces of work whose instructions are counted.

use std::hint::black_box;

use ringgate::block::Pool;
use ringgate::connection::greeting::{self, Told};
use ringgate::tls::Records;
use rustls::ProtocolVersion::TLSv1_3;

use crate::judging::{Judging, install_cache};
use crate::meter::Meter;
use crate::raw;
use crate::relayed::{self, Relayed};
use crate::site::{Group, Key, Site, Way};

/// A piece of work.
pub struct Work {
    /// As the table calls it.
    pub name: &'static str,
    /// Times that it is done, a multiple of [`PLACES`] where it is done in several; the table shows
    /// the mean. Signatures and their checks take a number of instructions that hangs on random
    /// numbers, so handshakes need some.
    pub repetitions: usize,
    /// Does it so often, everything but the work itself uncounted.
    pub run: fn(usize),
}

pub const WORKS: &[Work] = &[
    work("handshake, full, chain checked", 30, |times| {
        handshakes(Way::Uncached, times);
    }),
    work("handshake, full, verdict remembered", 30, |times| {
        handshakes(Way::Cached, times);
    }),
    work("handshake, resumed", 30, |times| {
        handshakes(Way::Resumed, times);
    }),
    work("verdict found in the cache", 300, verdicts),
    work("ticket judged", 300, tickets),
    work("record sealed, 1 KiB", 500, |times| seal(1 << 10, times)),
    work("record sealed, 16 KiB", 100, |times| seal(16 << 10, times)),
    work("record opened, 1 KiB", 500, |times| open(1 << 10, times)),
    work("record opened, 16 KiB", 100, |times| open(16 << 10, times)),
    work("relay, 1 KiB both ways", 500, relay),
    work("PROXY v2 header", 500, proxy_header),
];

const fn work(name: &'static str, repetitions: usize, run: fn(usize)) -> Work {
    Work {
        name,
        repetitions,
        run,
    }
}

/// What runs in here is counted; callgrind knows it by its name.
#[inline(never)]
fn counted_region<R>(work: impl FnOnce() -> R) -> R {
    black_box(work())
}

/// Counts what goes through it.
struct Counted;

impl Meter for Counted {
    fn run<R>(&mut self, work: impl FnOnce() -> R) -> R {
        counted_region(work)
    }
}

/// Counts nothing.
struct Uncounted;

impl Meter for Uncounted {
    fn run<R>(&mut self, work: impl FnOnce() -> R) -> R {
        work()
    }
}

/// How long a check of a certificate takes hangs on its key, and a look into a table on the seed of
/// its hash: such work is done in several places.
const PLACES: usize = 6;

fn site(intermediate: bool) -> Site {
    let mut site = Site::new(Key::P256, Group::X25519, intermediate);
    site.warm_up(&mut Uncounted);
    site
}

fn handshakes(way: Way, times: usize) {
    for _ in 0..PLACES {
        let mut site = site(true);
        site.handshake(way, &mut Uncounted);
        for _ in 0..times / PLACES {
            site.handshake(way, &mut Counted);
        }
    }
}

fn verdicts(times: usize) {
    judgings(times, Judging::verify);
}

fn tickets(times: usize) {
    judgings(times, |judging| judging.judge(&judging.today));
}

fn judgings(times: usize, work: fn(&Judging)) {
    for _ in 0..PLACES {
        let judging = Judging::new();
        install_cache(1000);
        judging.verify();
        work(&judging);
        counted_region(|| (0..times / PLACES).for_each(|_| work(&judging)));
    }
}

fn records() -> Records {
    let [(_, algorithm, key), ..] = raw::algorithms();
    Records::from_shared_key(TLSv1_3, algorithm, key).expect("a known suite")
}

fn seal(len: usize, times: usize) {
    let mut pool = Pool::new(1, 1);
    let mut out = pool.take().expect("a block");
    let (mut records, plain) = (records(), vec![5; len]);
    counted_region(|| {
        for _ in 0..times {
            out.clear();
            let sealed = records.seal(black_box(&plain), &mut out);
            black_box(sealed.expect("room for a record"));
        }
    });
}

fn open(len: usize, times: usize) {
    let mut pool = Pool::new(2, 2);
    let mut out = pool.take().expect("a block");
    let (mut sealer, mut opener) = (records(), records());
    let sealed: Vec<Vec<u8>> = (0..times)
        .map(|_| {
            out.clear();
            sealer
                .seal(&vec![5; len], &mut out)
                .expect("room for a record");
            out.filled().to_vec()
        })
        .collect();
    counted_region(|| {
        for record in &sealed {
            out.clear();
            let opened = opener.open(black_box(record), &mut pool, &mut out);
            black_box(opened.expect("a genuine record"));
        }
    });
}

fn relay(times: usize) {
    let mut relayed = Relayed::new(&site(false));
    let (mut records, mut reply) = relayed.prepare(10, 1 << 10);
    relayed.round_trips(&mut records, &mut reply, &mut Uncounted);
    let (mut records, mut reply) = relayed.prepare(times, 1 << 10);
    relayed.round_trips(&mut records, &mut reply, &mut Counted);
}

fn proxy_header(times: usize) {
    let arrived = site(false).handshake(Way::Cached, &mut Uncounted);
    let told = Told {
        addresses: relayed::addresses(),
        unique_id: 1,
        session: &arrived.established,
        client_certificate: false,
    };
    let mut pool = Pool::new(1, 1);
    let mut out = pool.take().expect("a block");
    counted_region(|| {
        for _ in 0..times {
            out.clear();
            greeting::encode(black_box(&told), &mut out).expect("room for it");
        }
    });
}
