//! What passes between a shard and the control plane: commands in, reports and figures out.
//!
//! Both queues have one writer, one reader and a fixed length. The shard never waits for either: a
//! report that finds its queue full is counted and dropped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rtrb::{Consumer, Producer, PushError, RingBuffer};

pub use super::counters::{Counters, Durations, HandshakeKind, ListenerCounters};
use crate::close_reason::CloseReason;
use crate::limits::REPORT_QUEUE_LEN;
use crate::ring::{Listener, Target, Waker};
use crate::snapshot::{Limits, LiveRevocation, Renewal, Rosters, Snapshot};
pub use crate::trust::Identity;

/// Commands that may wait; the control plane sends few and waits for their effect.
const COMMANDS: usize = 16;

/// Reviews that may wait; there is one for each installation.
const REVIEWS: usize = 16;

/// What the control plane tells a shard.
#[derive(Debug)]
pub enum Command {
    /// Stop accepting, finish what is open, end what is left after `within`.
    Drain { within: Duration },
    /// Another process accepts from the listening sockets: as a drain, but whoever waits is its.
    HandOver { within: Duration },
    /// Judge the clients of open connections by another snapshot, and change nothing.
    Rehearse(Box<Rehearsal>),
    /// Hand over duplicates of the listening sockets; accepting goes on.
    Lend(Producer<Vec<Lent>>),
    /// Serve another snapshot from now on.
    Install(Box<Installation>),
    /// Use these upstreams from now on.
    Renew(Vec<Renewal>),
    /// End everything now.
    Stop,
}

/// What it takes to change running shards over to another snapshot.
#[derive(Debug)]
pub struct Change {
    /// One for each shard, in the order of their mailboxes.
    pub installations: Vec<Installation>,
    /// What the shards have worked from until then: freeing it takes longer than a shard has.
    pub before: Vec<Arc<Snapshot>>,
    /// What stays as it is until a restart, and what is done without.
    pub notes: Vec<String>,
}

/// A snapshot to serve from now on, and where one shard listens for it.
#[derive(Debug)]
pub struct Installation {
    /// Counts installations; [`Mailbox::installed`] tells when the shard works from this one.
    pub generation: u64,
    pub snapshot: Arc<Snapshot>,
    /// As much of the snapshot's limits as can be had without a restart.
    pub limits: Limits,
    /// The sockets of the shard, each with the index of its listener in the snapshot. Sockets that
    /// are not named are closed.
    pub sockets: Vec<(usize, ListeningSocket)>,
    /// The upstreams of its routes, as far as the shard serves them.
    pub rosters: Rosters,
    /// Where the shard counts what concerns each of the snapshot's listeners; the mailbox sees to
    /// that when it sends this.
    pub counters: Vec<Arc<ListenerCounters>>,
}

/// A socket that a shard is to accept from.
#[derive(Debug)]
pub enum ListeningSocket {
    /// Those that it has, bound to this address: one, or several where they were inherited.
    Kept(SocketAddr),
    New(Listener),
}

/// A snapshot to judge open connections by, and where to say what came of it.
#[derive(Debug)]
pub struct Rehearsal {
    pub snapshot: Arc<Snapshot>,
    pub outcome: Producer<Review>,
}

/// A listening socket of a shard, once more.
#[derive(Debug)]
pub struct Lent {
    /// The listener that it serves.
    pub listener: Arc<str>,
    pub socket: Listener,
}

/// A connection that ended.
#[derive(Clone, Debug)]
pub struct Report {
    pub reason: CloseReason,
    /// For people; empty where the reason says all.
    pub detail: String,
    pub listener: Arc<str>,
    pub peer: SocketAddr,
    /// The load balancer that the connection came from, where it had to say who the peer is.
    pub via: Option<SocketAddr>,
    /// Names the connection to the upstream too (PP2_TYPE_UNIQUE_ID).
    pub unique_id: u128,
    pub server_name: Option<Arc<str>>,
    /// Who the client is, or where it was refused, claims to be.
    pub identity: Option<Arc<Identity>>,
    /// `None` for a client that was not let in.
    pub service: Option<Service>,
}

/// What became of the connections that were open when a shard changed over to another snapshot.
#[derive(Clone, Debug)]
pub struct Review {
    pub generation: u64,
    pub mode: LiveRevocation,
    /// Connections whose client was judged again, because what decides about it had changed.
    pub judged: u64,
    /// Of those, how many lost their right.
    pub lost: u64,
    /// Some of those that would have been ended, in a dry run.
    pub examples: Vec<Lost>,
    /// From the change to the last connection.
    pub took: Duration,
    /// The longest that the shard's loop was held up at once.
    pub longest_turn: Duration,
    /// False where the next change came before every connection was looked at.
    pub finished: bool,
}

/// An open connection whose client would no longer be let in.
#[derive(Clone, Debug)]
pub struct Lost {
    pub reason: CloseReason,
    pub detail: String,
    pub listener: Arc<str>,
    pub peer: SocketAddr,
    /// The load balancer that it came from, if it came from one.
    pub via: Option<SocketAddr>,
    pub unique_id: u128,
}

/// What became of a client that was let in.
#[derive(Clone, Debug)]
pub struct Service {
    pub route: Arc<str>,
    /// The policy rule that let it in.
    pub rule: Arc<str>,
    pub upstream: Option<Arc<Target>>,
    /// Plaintext bytes from the client, and to it.
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub lasted: Duration,
}

/// The control plane's end.
#[derive(Debug)]
pub struct Mailbox {
    commands: Producer<Command>,
    reports: Consumer<Report>,
    reviews: Consumer<Review>,
    counters: Arc<Counters>,
    listeners: Vec<(Arc<str>, Arc<ListenerCounters>)>,
    thread_id: Option<i32>,
    waker: Waker,
}

/// The shard's end.
#[derive(Debug)]
pub struct Inbox {
    commands: Consumer<Command>,
    reports: Producer<Report>,
    reviews: Producer<Review>,
    counters: Arc<Counters>,
    /// With the indices of the listeners of the snapshot that the shard starts from.
    listeners: Vec<Arc<ListenerCounters>>,
    /// Whether connections that end as they should are reported too.
    access: bool,
}

/// The two ends of a new mailbox of a shard that starts from `snapshot`. `waker` wakes its ring.
pub fn mailbox(waker: Waker, snapshot: &Snapshot) -> (Mailbox, Inbox) {
    let (command_writer, commands) = RingBuffer::new(COMMANDS);
    let (reports, report_reader) = RingBuffer::new(REPORT_QUEUE_LEN);
    let (reviews, review_reader) = RingBuffer::new(REVIEWS);
    let counters = Arc::new(Counters::default());
    let mut mailbox = Mailbox {
        commands: command_writer,
        reports: report_reader,
        reviews: review_reader,
        counters: Arc::clone(&counters),
        listeners: Vec::new(),
        thread_id: None,
        waker,
    };
    let listeners = mailbox.count_listeners(snapshot);
    (
        mailbox,
        Inbox {
            commands,
            reports,
            reviews,
            counters,
            listeners,
            access: snapshot.log.access,
        },
    )
}

impl Mailbox {
    /// Sends a command; gives it back when the shard has not taken the last ones.
    pub fn send(&mut self, mut command: Command) -> Result<(), Command> {
        if let Command::Install(installation) = &mut command {
            installation.counters = self.count_listeners(&installation.snapshot);
        }
        let sent = self.commands.push(command);
        self.waker.wake();
        sent.map_err(|PushError::Full(command)| command)
    }

    /// The generation of the installation that the shard works from; 0 before the first.
    pub fn installed(&self) -> u64 {
        self.counters.generation()
    }

    /// Whether the shard has ended, regularly or not.
    pub fn ended(&self) -> bool {
        self.commands.is_abandoned()
    }

    /// The next report that waits.
    pub fn report(&mut self) -> Option<Report> {
        self.reports.pop().ok()
    }

    /// The next review that waits.
    pub fn review(&mut self) -> Option<Review> {
        self.reviews.pop().ok()
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The shard's thread (gettid), once it runs.
    pub fn thread_id(&self) -> Option<i32> {
        self.thread_id
    }

    /// The shard runs on this thread.
    pub fn runs_on(&mut self, thread_id: i32) {
        self.thread_id = Some(thread_id);
    }

    /// What the shard counts of each listener that it serves, or was told to.
    pub fn listeners(&self) -> &[(Arc<str>, Arc<ListenerCounters>)] {
        &self.listeners
    }

    /// Counters for the listeners of `snapshot`: one that stays goes on with its own.
    fn count_listeners(&mut self, snapshot: &Snapshot) -> Vec<Arc<ListenerCounters>> {
        let before = std::mem::take(&mut self.listeners);
        let names = snapshot.listeners.iter().map(|listener| &listener.name);
        self.listeners = names
            .map(|name| {
                let known = before.iter().find(|(known, _)| known == name);
                // The name is the control plane's own: the shard counts references to its.
                let new = || (Arc::from(&**name), Arc::default());
                known.cloned().unwrap_or_else(new)
            })
            .collect();
        let counters = self.listeners.iter();
        counters.map(|(_, counters)| Arc::clone(counters)).collect()
    }
}

impl Inbox {
    pub(super) fn command(&mut self) -> Option<Command> {
        self.commands.pop().ok()
    }

    /// Where to count what concerns each of the first snapshot's listeners.
    pub(super) fn take_listeners(&mut self) -> Vec<Arc<ListenerCounters>> {
        std::mem::take(&mut self.listeners)
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// From now on connections that end as they should are reported, or are not.
    pub(super) fn report_access(&mut self, access: bool) {
        self.access = access;
    }

    pub(super) fn reports_access(&self) -> bool {
        self.access
    }

    pub(super) fn report(&mut self, report: Report) {
        if self.reports.push(report).is_err() {
            self.counters.count_lost_report();
        }
    }

    pub(super) fn review(&mut self, review: Review) {
        if self.reviews.push(review).is_err() {
            self.counters.count_lost_report();
        }
    }
}
