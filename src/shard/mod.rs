//! Where connections meet the ring: one event loop on one pinned thread.
//!
//! Each turn of the loop handles what the control plane asked for and the deadlines that passed,
//! submits, waits in the ring, and turns completions into events of connections and their actions
//! into submissions. Nothing here blocks but the wait.

mod accepting;
mod admission;
mod counters;
mod entry;
mod front;
mod half_open;
mod handshakes;
mod identities;
mod install;
pub mod mailbox;
mod pressure;
mod rate;
mod rehearsal;
mod reporting;
mod review;
mod sources;
mod tenure;
mod timers;
mod turn;
mod upstreams;

pub use counters::Counters;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::block::Pool;
use crate::clock::Clock;
use crate::close_reason::CloseReason;
use crate::connection::{Action, Command as ConnectionCommand, Event};
use crate::limits::TURN_MAX;
use crate::ring::{Listener, Ring, Token, Waker, give_back_freed_memory};
use crate::snapshot::{Rosters, Snapshot};

use accepting::Gate;
use admission::Admission;
use entry::{Entry, Kind};
use front::Front;
use half_open::{HalfOpen, Lingering};
use handshakes::Handshakes;
use identities::Identities;
use mailbox::{Command, Inbox};
use pressure::Parked;
use rehearsal::Rehearsing;
use review::UnderWay;
use tenure::TimeUp;
use timers::Timers;

/// How long accepting pauses when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Timers that may run per open connection before those that mean nothing any more are forgotten.
const TIMERS_PER_CONNECTION_MAX: usize = 4;

/// Timers that are never too many, so that few connections do not cause frequent searches.
const TIMERS_MIN: usize = 4096;

/// One shard. It runs until it is told to stop or has drained.
pub struct Shard {
    id: u32,
    ring: Ring,
    pool: Pool,
    clock: Clock,
    now: Instant,
    /// When something completed last; `None` once what is kept for the next time was let go.
    active_at: Option<Instant>,
    snapshot: Arc<Snapshot>,
    /// With the indices of the snapshot's listeners.
    fronts: Vec<Rc<Front>>,
    /// That of the last installation; 0 before the first.
    generation: u64,
    gates: Slab<Gate>,
    connections: Slab<Entry>,
    admission: Admission,
    half_open: HalfOpen,
    lingering: Lingering,
    /// `None` until a route limits the rate of its clients.
    identities: Option<Identities>,
    timers: Timers,
    inbox: Inbox,
    waker: Waker,
    handshakes: Handshakes,
    /// What was received and waits for blocks.
    parked: Parked,
    /// When blocks that nobody needs are looked for again.
    trim_at: Instant,
    /// Connections and sides whose receive found no buffer.
    starving: Vec<Token>,
    /// Reused by every event.
    actions: Vec<Action>,
    /// Open connections that are still to be judged by the snapshot.
    review: Option<UnderWay>,
    /// Open connections that are still to be judged by a snapshot that is not served.
    rehearsal: Option<Rehearsing>,
    draining: Option<Instant>,
    stopping: bool,
    accepted: u64,
    /// The random half of every connection's unique identifier.
    identifier_prefix: u64,
}

/// What a shard is made of.
pub struct Parts {
    pub id: u32,
    pub ring: Ring,
    /// Listening sockets, each with the index of its listener in the snapshot.
    pub listeners: Vec<(usize, Listener)>,
    pub snapshot: Arc<Snapshot>,
    pub clock: Clock,
    pub inbox: Inbox,
    pub waker: Waker,
    /// The upstreams of the snapshot's routes, as far as the shard serves them.
    pub rosters: Rosters,
    /// Distinguishes this process's connections from another's.
    pub identifier_prefix: u64,
}

impl Shard {
    pub fn new(parts: Parts) -> Self {
        let Parts {
            id,
            ring,
            listeners,
            snapshot,
            clock,
            mut inbox,
            waker,
            rosters,
            identifier_prefix,
        } = parts;
        let now = clock.now();
        let mut rosters = rosters.into_iter();
        let fronts = snapshot.listeners.iter().zip(inbox.take_listeners());
        let fronts: Vec<_> = fronts
            .map(|(listener, counters)| {
                let endpoints = rosters.next().unwrap_or_default();
                Front::new(listener, counters, 0, None, endpoints, now)
            })
            .collect();
        let gates = listeners
            .into_iter()
            .map(|(index, socket)| Gate::new(socket, Rc::clone(&fronts[index])));
        Self {
            id,
            ring,
            pool: Pool::new(
                snapshot.limits.buffer_blocks,
                usize::from(crate::limits::RECEIVE_BUFFERS),
            ),
            now,
            active_at: Some(now),
            gates: gates.enumerate().collect(),
            fronts,
            generation: 0,
            connections: Slab::new(),
            admission: Admission::new(&snapshot.limits),
            half_open: HalfOpen::default(),
            lingering: Lingering::default(),
            identities: None,
            timers: Timers::new(),
            clock,
            snapshot,
            inbox,
            waker,
            handshakes: Handshakes::default(),
            parked: Parked::default(),
            trim_at: now,
            starving: Vec::new(),
            actions: Vec::new(),
            review: None,
            rehearsal: None,
            draining: None,
            stopping: false,
            accepted: 0,
            identifier_prefix,
        }
    }

    /// Runs until told to stop, or drained.
    ///
    /// # Errors
    ///
    /// When the ring itself fails; connections are gone then.
    pub fn run(mut self) -> io::Result<()> {
        self.remember_verdicts();
        self.limit_identities();
        let waker = self.waker.clone();
        self.ring.watch(&waker, Token::from(Kind::Wake));
        self.accept_everywhere();
        while !self.is_done() {
            self.ring.wait(Some(self.until_next_deadline()))?;
            self.now = self.clock.now();
            self.turn();
            self.commands();
            self.deadlines();
            self.relieve();
            self.unpark();
            self.feed_starving();
            self.go_on_with_handshakes();
            self.shed_handshakes();
            self.count_patience();
            self.go_on_with_review();
            self.go_on_with_rehearsal();
            self.trim_pool();
            self.rest();
            self.publish();
        }
        Ok(())
    }

    /// After a while without traffic lets go of memory that is only kept for the next.
    fn rest(&mut self) {
        let is_quiet = |at| self.now.saturating_duration_since(at) >= TURN_MAX;
        if self.active_at.is_some_and(is_quiet) {
            self.active_at = None;
            self.pool.release_free();
            give_back_freed_memory();
        }
    }

    fn is_done(&self) -> bool {
        let drained = self.draining.is_some() || self.stopping;
        drained && self.connections.is_empty() && self.gates.is_empty()
    }

    fn until_next_deadline(&self) -> Duration {
        let handshakes_go_on = !self.handshakes.is_empty() && pressure::has_room(&self.pool);
        let receives_go_on = !self.starving.is_empty() && self.ring.free_buffers() > 0;
        if self.review.is_some() || self.rehearsal.is_some() || handshakes_go_on || receives_go_on {
            return Duration::ZERO;
        }
        let gates = self.gates.iter();
        let gates = gates.flat_map(|(_, gate)| [gate.paused_until, gate.last_call]);
        let gates = gates.flatten();
        let draining = self.draining.filter(|_| !self.stopping);
        let others = [draining, self.parked.relief_at()];
        let next = gates
            .chain(self.timers.next())
            .chain(others.into_iter().flatten())
            .min();
        let wait = next.map(|at| at.saturating_duration_since(self.now));
        // A millisecond more than asked: waking just before a deadline is a wasted turn.
        wait.map_or(TURN_MAX, |wait| {
            (wait + Duration::from_millis(1)).min(TURN_MAX)
        })
    }

    fn commands(&mut self) {
        while let Some(command) = self.inbox.command() {
            match command {
                Command::Drain { within } => {
                    self.draining.get_or_insert(self.now + within);
                    self.call_last();
                }
                Command::HandOver { within } => {
                    self.draining.get_or_insert(self.now + within);
                    self.stop_accepting();
                }
                Command::Install(installation) => self.install(*installation),
                Command::Renew(renewals) => self.renew_upstreams(renewals),
                Command::Rehearse(rehearsal) => self.begin_rehearsal(*rehearsal),
                Command::Lend(mut borrower) => self.lend(&mut borrower),
                Command::Stop => {
                    self.stopping = true;
                    self.stop_accepting();
                    self.end_all(CloseReason::Shutdown);
                }
            }
        }
    }

    fn deadlines(&mut self) {
        if !self.stopping && self.draining.is_some_and(|deadline| deadline <= self.now) {
            self.stopping = true;
            self.stop_accepting();
            self.end_all(CloseReason::Drained);
        }
        self.close_called();
        let mut resumes = false;
        for (_, gate) in &mut self.gates {
            if gate.paused_until.is_some_and(|until| until <= self.now) {
                gate.paused_until = None;
                resumes = true;
            }
        }
        if resumes {
            self.accept_everywhere();
            self.forget_all_closed();
        }
        while let Some(key) = self.timers.pop(self.now) {
            let Some(entry) = self.connections.get_mut(key as usize) else {
                continue;
            };
            if !entry.timer_fired(self.now) {
                continue;
            }
            if entry.connection.deadline() <= self.now {
                self.dispatch(key, Event::Deadline);
                continue;
            }
            match entry
                .time_up
                .filter(|time_up| time_up.instant() <= self.now)
            {
                Some(TimeUp::At(_, reason)) => self.time_is_up(key, reason),
                Some(TimeUp::LookAgain(_)) => self.begin_tenure(key),
                None => self.arm(key),
            }
        }
    }

    /// Keeps the timers of connections that are gone from piling up.
    fn forget_old_timers(&mut self) {
        if self.timers.len() > TIMERS_PER_CONNECTION_MAX * self.connections.len() + TIMERS_MIN {
            let connections = &self.connections;
            self.timers.retain(|at, key| {
                let entry = connections.get(key as usize);
                entry.is_some_and(|entry| entry.awaits(at))
            });
        }
    }

    fn end_all(&mut self, reason: CloseReason) {
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            let key = u32::try_from(key).expect("connections are bounded far below 2^32");
            self.dispatch(key, Event::Command(ConnectionCommand::End(reason)));
        }
    }

    /// Makes sure that a timer runs for the connection's deadline. A deadline that only moved back
    /// keeps its timer, which is looked at again when it fires: most move with every byte.
    fn arm(&mut self, key: u32) {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        if entry.connection.is_closed() {
            return;
        }
        let deadline = entry.deadline();
        if entry.needs_timer(deadline) {
            self.timers.push(deadline, key);
            self.forget_old_timers();
        }
    }
}
