//! Blocks: too many that nobody needs, and what was received while there is none to put it into.
//!
//! Blocks are lent until they were sent, so enough peers that read slowly hold all of them. What is
//! received then stays where the kernel put it, in the order in which it came. The receive buffers
//! are soon used up, every receive ends for want of one, and everybody waits until blocks come back,
//! instead of losing a connection. Where some go on waiting, those that hold most are ended.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::Shard;
use crate::block::Pool;
use crate::close_reason::CloseReason;
use crate::connection::{Command, Event, Side};
use crate::limits::RECEIVE_BUFFERS;
use crate::ring::Received;

/// Blocks that the bytes of one receive may take: the greeting and the answer of a handshake that
/// ends, what is left of a record, and what is opened or sealed, each straddling two, before it and
/// in it.
const BLOCKS_PER_RECEIVE: usize = 8;

/// How long anything waits for blocks before somebody is ended for them.
const PATIENCE: Duration = Duration::from_secs(1);

/// Blocks that are then looked for: as many as there are receive buffers for what waits.
const RELIEF: usize = 2 * RECEIVE_BUFFERS as usize;

/// How often blocks that nobody needs are looked for.
const TRIM_INTERVAL: Duration = Duration::from_millis(250);

/// Receives whose bytes, or whose end behind such bytes, wait for blocks.
#[derive(Default)]
pub(super) struct Parked {
    queue: VecDeque<Held>,
    /// When somebody is ended for blocks; set while anything waits.
    relief_at: Option<Instant>,
}

struct Held {
    key: u32,
    side: Side,
    what: What,
}

pub(super) enum What {
    Received(Received),
    /// The end of the stream, or what it failed with. It comes behind what was received before, which
    /// a reset does not take back.
    Ended(io::Result<()>),
}

impl Parked {
    pub(super) fn relief_at(&self) -> Option<Instant> {
        self.relief_at
    }
}

/// Whether there are blocks for what one receive brings.
pub(super) fn has_room(pool: &Pool) -> bool {
    pool.free() >= BLOCKS_PER_RECEIVE
}

impl Shard {
    /// Now and then, lets go of blocks that nobody needed.
    pub(super) fn trim_pool(&mut self) {
        if self.now >= self.trim_at {
            self.pool.trim();
            self.trim_at = self.now + TRIM_INTERVAL;
        }
    }

    /// Whether bytes must wait for blocks, or for others that came before them.
    pub(super) fn must_wait(&self) -> bool {
        !self.parked.queue.is_empty() || !has_room(&self.pool)
    }

    /// Keeps what came, behind what came before.
    pub(super) fn park(&mut self, key: u32, side: Side, what: What) {
        if let Some(entry) = self.connections.get_mut(key as usize) {
            entry.socket(side).parked += 1;
        }
        self.parked.queue.push_back(Held { key, side, what });
        self.inbox.counters().count_parked();
    }

    /// Hands on what waits, as far as there are blocks now.
    pub(super) fn unpark(&mut self) {
        while let Some(held) = self.parked.queue.front() {
            let entry = self.connections.get(held.key as usize);
            let is_wanted = entry.is_some_and(|entry| !entry.connection.is_closed());
            if is_wanted && !has_room(&self.pool) {
                break;
            }
            let Some(Held { key, side, what }) = self.parked.queue.pop_front() else {
                break;
            };
            if let Some(entry) = self.connections.get_mut(key as usize) {
                entry.socket(side).parked -= 1;
            }
            match what {
                What::Received(buffer) => self.deliver(key, side, buffer),
                What::Ended(end) => self.deliver_end(key, side, end),
            }
        }
    }

    /// Starts the time after which somebody is ended for blocks, while bytes or handshakes wait.
    pub(super) fn count_patience(&mut self) {
        let handshakes_wait = !self.handshakes.is_empty() && !has_room(&self.pool);
        if handshakes_wait || !self.parked.queue.is_empty() {
            self.parked.relief_at.get_or_insert(self.now + PATIENCE);
        } else {
            self.parked.relief_at = None;
        }
    }

    /// Ends those that hold most where others have waited for long. Mostly theirs are the peers that
    /// take nothing: with one that does, blocks would have come back.
    pub(super) fn relieve(&mut self) {
        if self.parked.relief_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.parked.relief_at = Some(self.now + PATIENCE);
        let open = self.connections.iter();
        let open = open.filter(|(_, entry)| entry.connection.is_open());
        let mut holders: Vec<(usize, usize)> = open
            .map(|(key, entry)| (entry.connection.blocks(), key))
            .filter(|&(blocks, _)| blocks > 0)
            .collect();
        holders.sort_unstable_by(|one, other| other.cmp(one));
        let mut found = self.pool.free();
        for (blocks, key) in holders {
            if found >= RELIEF {
                return;
            }
            found += blocks;
            let key = u32::try_from(key).expect("connections are bounded far below 2^32");
            let cut = Command::Cut(CloseReason::BufferLimit);
            self.dispatch(key, Event::Command(cut));
        }
    }
}
