//! What two shards do, in turn, each on a thread of its own.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::meter::Meter;
use crate::relayed::Relayed;
use crate::site::{Group, Key, Site, Way};

/// A place that a thread writes to where its work begins and where it ends.
#[repr(align(128))]
struct Mark(AtomicU64);

static MARKS: [Mark; 2] = [const { Mark(AtomicU64::new(0)) }; 2];

/// Marks the server's part of what goes through it.
struct Marked(&'static Mark);

impl Meter for Marked {
    fn run<R>(&mut self, work: impl FnOnce() -> R) -> R {
        self.0.0.store(1, Ordering::Release);
        let result = work();
        self.0.0.store(0, Ordering::Release);
        result
    }
}

struct Unmarked;

impl Meter for Unmarked {
    fn run<R>(&mut self, work: impl FnOnce() -> R) -> R {
        work()
    }
}

/// `shared`: from one configuration, instead of one for each.
pub fn run(shared: bool) {
    let [first, second] = MARKS.each_ref().map(|mark| mark.0.as_ptr().addr());
    println!("{first} {second}");
    std::io::stdout().flush().expect("a reader");
    // Until whoever reads the trace knows them.
    let mut go = String::new();
    std::io::stdin()
        .read_line(&mut go)
        .expect("a word to begin");
    let site = Site::new(Key::P256, Group::X25519, true);
    let (turns, threads): (Vec<_>, Vec<_>) = MARKS
        .iter()
        .map(|mark| {
            let acceptor = match shared {
                true => Arc::clone(&site.acceptor),
                false => Arc::new(site.acceptor.for_shard().expect("the same again")),
            };
            let shard = site.shard(acceptor);
            let (turn, is_turn) = sync_channel(0);
            let (done, is_done) = sync_channel(0);
            let thread = thread::spawn(move || work(shard, Marked(mark), &is_turn, &done));
            ((turn, is_done), thread)
        })
        .unzip();
    // Warming up, working, and ending: each thread lives until the other has done its work, so that
    // memory of the one never becomes the other's.
    for _ in 0..3 {
        for (turn, is_done) in &turns {
            turn.send(()).expect("a thread that listens");
            is_done.recv().expect("a thread that works");
        }
    }
    for thread in threads {
        thread.join().expect("no panic");
    }
}

fn work(mut shard: Site, mut marked: Marked, is_turn: &Receiver<()>, done: &SyncSender<()>) {
    let in_turn = |step: &mut dyn FnMut()| {
        is_turn.recv().expect("a turn");
        step();
        done.send(()).expect("somebody who waits");
    };
    let mut relayed = None;
    in_turn(&mut || {
        shard.warm_up(&mut Unmarked);
        let mut open = Relayed::new(&shard);
        let (mut records, mut reply) = open.prepare(4, 1 << 10);
        open.round_trips(&mut records, &mut reply, &mut Unmarked);
        relayed = Some(open);
    });
    in_turn(&mut || {
        // With a verdict that is remembered there is no part that is not in these, and valgrind takes
        // its time for each.
        for way in [Way::Uncached, Way::Resumed] {
            drop(shard.handshake(way, &mut marked));
        }
        if let Some(open) = &mut relayed {
            let (mut records, mut reply) = open.prepare(4, 1 << 10);
            open.round_trips(&mut records, &mut reply, &mut marked);
        }
    });
    in_turn(&mut || {});
}
