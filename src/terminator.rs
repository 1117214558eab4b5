//! The one public way to start a terminator: shards on their threads, each with its ring and its
//! listening sockets.

mod inherited;
mod sockets;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{self, HostPort};
use crate::layout::{Layout, Memory, Placement, Shard as Place, Shards};
pub use crate::ring::checks as host_checks;
use crate::ring::{
    MemoryPolicy, Ring, RingError, RingOptions, Waker, lock_memory, set_memory_policy,
};
use crate::shard::mailbox::{Change, Command, Inbox, Mailbox, mailbox};
use crate::shard::{Parts, Shard};
use crate::snapshot::{Rosters, Snapshot, Upstreams};
pub use inherited::Inherited;
use inherited::Unopened;
use sockets::{OfShard, Sockets};

/// Why a terminator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {source}; {remedy}")]
    Bind {
        address: SocketAddr,
        remedy: &'static str,
        source: io::Error,
    },
    #[error("{0}")]
    Config(String),
    #[error(
        "limits.connections = {connections} on {shards} shards needs {needed} descriptors and \
         {limit} are allowed: raise LimitNOFILE= or `ulimit -n`, or lower limits.connections"
    )]
    Descriptors {
        connections: usize,
        shards: usize,
        needed: u64,
        limit: u64,
    },
    #[error("a socket that was passed cannot be used: {0}")]
    Inherited(Box<str>),
    #[error("{0}")]
    Layout(String),
    #[error("shard {shard}: {source}")]
    Ring { shard: usize, source: RingError },
    #[error("shard {shard}: its thread did not start: {source}")]
    Thread { shard: usize, source: io::Error },
}

/// A terminator whose sockets listen and whose secrets are locked into memory, and which has no
/// shards yet: clients wait.
#[derive(Debug)]
pub struct Listening<'a> {
    snapshot: &'a Arc<Snapshot>,
    clock: &'a Clock,
    layout: &'a Layout,
    sockets: Sockets,
    listeners: Vec<OfShard>,
    unopened: Unopened,
    notes: Vec<String>,
}

impl Listening<'_> {
    /// Starts the shards, which accept once they are opened.
    ///
    /// # Errors
    ///
    /// When anything of them cannot be had; nothing runs then.
    pub fn start(self) -> Result<(Terminator, Opening), StartError> {
        Terminator::start_shards(self)
    }
}

/// What has the shards of a terminator accept. Dropped instead, it has them end.
#[derive(Debug)]
pub struct Opening {
    unopened: Unopened,
    latch: Latch,
}

impl Opening {
    /// When this returns, every listener accepts; what could not be had and is done without.
    ///
    /// # Errors
    ///
    /// When a socket cannot listen; nobody accepts then.
    pub fn open(mut self) -> Result<Vec<String>, StartError> {
        let notes = std::mem::take(&mut self.unopened).open()?;
        self.latch.lift(true);
        Ok(notes)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.latch.lift(false);
    }
}

/// Holds shards that are set up until it is known whether they are to accept.
#[derive(Clone, Debug, Default)]
struct Latch(Arc<(Mutex<Option<bool>>, Condvar)>);

impl Latch {
    /// Says so; what was said first counts.
    fn lift(&self, accepts: bool) {
        let (said, changed) = &*self.0;
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.get_or_insert(accepts);
        changed.notify_all();
    }

    /// Whether to accept, once that is known.
    fn wait(&self) -> bool {
        let (said, changed) = &*self.0;
        let said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let said = changed.wait_while(said, |said| said.is_none());
        let said = said.unwrap_or_else(PoisonError::into_inner);
        *said == Some(true)
    }
}

/// A running terminator. Dropping it stops its shards.
#[derive(Debug)]
pub struct Terminator {
    shards: Vec<ShardThread>,
    sockets: Sockets,
    notes: Vec<String>,
    latch: Latch,
}

#[derive(Debug)]
struct ShardThread {
    mailbox: Mailbox,
    thread: Option<JoinHandle<io::Result<()>>>,
    thread_id: i32,
}

/// What a shard's thread says once it is set up.
type Ready = Result<i32, RingError>;

impl Terminator {
    /// Starts the shards of `snapshot` where it says, or where is planned for this host. When this
    /// returns, every listener accepts.
    ///
    /// # Errors
    ///
    /// When anything of it cannot be had; nothing runs then.
    pub fn start(snapshot: &Arc<Snapshot>, clock: &Clock) -> Result<Self, StartError> {
        let placement = Placement::planned(&snapshot.shards);
        let placement = placement.map_err(|error| StartError::Layout(error.to_string()))?;
        Self::start_on(snapshot, clock, &placement.layout, Inherited::default())
    }

    /// Starts the shards of `snapshot` where `layout` says, which accept from the sockets in
    /// `inherited` where those are, and from new ones elsewhere.
    ///
    /// # Errors
    ///
    /// As [`Terminator::start`].
    pub fn start_on(
        snapshot: &Arc<Snapshot>,
        clock: &Clock,
        layout: &Layout,
        inherited: Inherited,
    ) -> Result<Self, StartError> {
        // Where the configuration was read with its names looked up there is none left.
        snapshot.look_up_names(None).map_err(lost_names)?;
        let (mut terminator, opening) =
            Self::listen_on(snapshot, clock, layout, inherited)?.start()?;
        terminator.notes.extend(opening.open()?);
        Ok(terminator)
    }

    /// The first half of [`Terminator::start_on`], which may need rights that shards do without.
    ///
    /// # Errors
    ///
    /// When a socket or a descriptor cannot be had; nothing listens then.
    pub fn listen_on<'a>(
        snapshot: &'a Arc<Snapshot>,
        clock: &'a Clock,
        layout: &'a Layout,
        inherited: Inherited,
    ) -> Result<Listening<'a>, StartError> {
        let mut notes = Vec::new();
        let (sockets, listeners, unopened) =
            Sockets::bind(snapshot, layout, inherited, &mut notes)?;
        notes.extend(lock_secret(snapshot));
        Ok(Listening {
            snapshot,
            clock,
            layout,
            sockets,
            listeners,
            unopened,
            notes,
        })
    }

    fn start_shards(listening: Listening<'_>) -> Result<(Self, Opening), StartError> {
        let Listening {
            snapshot,
            clock,
            layout,
            sockets,
            listeners,
            unopened,
            notes,
        } = listening;
        let descriptors = sockets.table();
        let identifier_prefix = random_prefix();
        let mut terminator = Self {
            shards: Vec::new(),
            sockets,
            notes,
            latch: Latch::default(),
        };
        let rosters = terminator.sockets.rosters(snapshot);
        for (shard, (listeners, rosters)) in listeners.into_iter().zip(rosters).enumerate() {
            let waker = Waker::new().map_err(|source| StartError::Thread { shard, source })?;
            let own = terminator.sockets.for_shard(snapshot)?;
            let (mut mailbox, inbox) = mailbox(waker.clone(), &own);
            terminator.sockets.serve(&own);
            let seed = Seed {
                latch: terminator.latch.clone(),
                id: u32::try_from(shard).unwrap_or(u32::MAX),
                place: place(layout, shard),
                memory: layout.memory,
                options: ring_options(layout, snapshot, descriptors),
                listeners,
                snapshot: own,
                clock: clock.clone(),
                inbox,
                waker,
                rosters,
                identifier_prefix,
            };
            let (thread, thread_id) = seed.spawn()?;
            mailbox.runs_on(thread_id);
            let thread = Some(thread);
            terminator.shards.push(ShardThread {
                mailbox,
                thread,
                thread_id,
            });
        }
        let latch = terminator.latch.clone();
        Ok((terminator, Opening { unopened, latch }))
    }

    /// Starts what the configuration in `file` says.
    ///
    /// # Errors
    ///
    /// Also when the configuration or a file that it names is wrong.
    pub fn start_file(file: &Path, clock: &Clock) -> Result<Self, StartError> {
        let (_, snapshot) = Snapshot::load_file(file, clock)
            .map_err(|errors| StartError::Config(config::render(&errors)))?;
        Self::start(&Arc::new(snapshot), clock)
    }

    /// The addresses that are listened on, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.addresses()
    }

    /// What could not be had and is done without, each with its remedy.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Its upstreams, and how they are.
    pub fn upstreams(&self) -> &Upstreams {
        self.sockets.upstreams()
    }

    /// The shards' mailboxes.
    pub fn mailboxes(&mut self) -> impl Iterator<Item = &mut Mailbox> {
        self.shards.iter_mut().map(|shard| &mut shard.mailbox)
    }

    /// The shards' mailboxes, and what changes them over to another snapshot.
    pub fn controls(&mut self) -> (Vec<&mut Mailbox>, Changer<'_>) {
        let mailboxes = self.shards.iter_mut().map(|shard| &mut shard.mailbox);
        (mailboxes.collect(), Changer(&mut self.sockets))
    }

    /// The shards' thread ids (gettid), for accounting of their CPU time.
    pub fn thread_ids(&self) -> Vec<i32> {
        self.shards.iter().map(|shard| shard.thread_id).collect()
    }

    /// Whether every shard has ended.
    pub fn ended(&self) -> bool {
        self.shards.iter().all(|shard| shard.mailbox.ended())
    }

    /// Ends every connection and waits for the shards.
    ///
    /// # Errors
    ///
    /// When a shard's ring had failed.
    pub fn stop(mut self) -> io::Result<()> {
        self.stop_all()
    }

    fn stop_all(&mut self) -> io::Result<()> {
        // They may not have begun.
        self.latch.lift(false);
        for shard in &mut self.shards {
            // A shard that does not take its commands is waited for all the same.
            let _ = shard.mailbox.send(Command::Stop);
        }
        let mut result = Ok(());
        for shard in &mut self.shards {
            if let Some(thread) = shard.thread.take() {
                let ended = thread
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("panicked")));
                result = result.and(ended);
            }
        }
        result
    }
}

impl Drop for Terminator {
    fn drop(&mut self) {
        // Whoever wants to know uses `stop`.
        let _ = self.stop_all();
    }
}

/// Changes a running terminator over to another snapshot.
#[derive(Debug)]
pub struct Changer<'a>(&'a mut Sockets);

impl Changer<'_> {
    /// Readies what the shards need to serve `snapshot`: each is to be sent its installation, and
    /// only the one made last counts.
    ///
    /// # Errors
    ///
    /// When a socket cannot be had; nothing has changed then.
    pub fn prepare(&mut self, snapshot: &Arc<Snapshot>) -> Result<Change, StartError> {
        let mut change = self.0.change(snapshot)?;
        change.notes.extend(lock_secret(snapshot));
        Ok(change)
    }
}

/// What a shard's thread starts from.
struct Seed {
    latch: Latch,
    id: u32,
    /// `None`: left to the scheduler.
    place: Option<Place>,
    memory: Memory,
    options: RingOptions,
    listeners: OfShard,
    snapshot: Arc<Snapshot>,
    clock: Clock,
    inbox: Inbox,
    waker: Waker,
    rosters: Rosters,
    identifier_prefix: u64,
}

impl Seed {
    /// Starts the thread and waits until its ring is set up.
    fn spawn(self) -> Result<(JoinHandle<io::Result<()>>, i32), StartError> {
        let shard = self.id as usize;
        let (ready, is_ready) = mpsc::sync_channel::<Ready>(1);
        let thread = std::thread::Builder::new()
            .name(format!("shard-{shard}"))
            .spawn(move || self.run(&ready))
            .map_err(|source| StartError::Thread { shard, source })?;
        match is_ready.recv() {
            Ok(Ok(thread_id)) => Ok((thread, thread_id)),
            Ok(Err(source)) => Err(StartError::Ring { shard, source }),
            Err(_) => {
                let source = io::Error::other("it ended at once");
                Err(StartError::Thread { shard, source })
            }
        }
    }

    fn run(self, ready: &mpsc::SyncSender<Ready>) -> io::Result<()> {
        // What the ring allocates should already come from the right place.
        let placed = self
            .place
            .as_ref()
            .map_or(Ok(()), |place| settle(place, self.memory));
        let ring = match placed.and_then(|()| Ring::new(&self.options)) {
            Ok(ring) => ring,
            Err(error) => {
                // The starter waits for this and reports it.
                let _ = ready.send(Err(error));
                return Ok(());
            }
        };
        let shard = Shard::new(Parts {
            id: self.id,
            ring,
            listeners: self.listeners,
            snapshot: self.snapshot,
            clock: self.clock,
            inbox: self.inbox,
            waker: self.waker,
            rosters: self.rosters,
            identifier_prefix: self.identifier_prefix,
        });
        let _ = ready.send(Ok(rustix::thread::gettid().as_raw_nonzero().get()));
        match self.latch.wait() {
            true => shard.run(),
            false => Ok(()),
        }
    }
}

/// Names of upstreams that lead nowhere.
fn lost_names(lost: Vec<(HostPort, String)>) -> StartError {
    let lost = lost.iter();
    let lines = lost.map(|(name, problem)| {
        format!("the upstream \"{name}\" cannot be looked up: {problem}; correct the name")
    });
    StartError::Config(lines.collect::<Vec<_>>().join("\n"))
}

/// Keeps the secret of ticket keys out of swap; why that cannot be.
fn lock_secret(snapshot: &Snapshot) -> Option<String> {
    let error = lock_memory(snapshot.stek.as_ref()?.memory()).err()?;
    Some(format!(
        "the secret of ticket keys may be written to swap: locking it into memory failed ({error}); \
         raise LimitMEMLOCK= or `ulimit -l`"
    ))
}

/// Where a shard is pinned to, if it is.
fn place(layout: &Layout, shard: usize) -> Option<Place> {
    match &layout.shards {
        Shards::Pinned(places) => places.get(shard).cloned(),
        Shards::Unpinned(_) => None,
    }
}

/// Has the calling thread live at `place`.
fn settle(place: &Place, memory: Memory) -> Result<(), RingError> {
    let cpu = core_affinity::CoreId {
        id: place.cpu as usize,
    };
    if !core_affinity::set_for_current(cpu) {
        return Err(RingError {
            step: "pinning the shard",
            remedy: format!(
                "bring CPU {} online and into the cgroup's cpuset, or plan the layout anew",
                place.cpu
            ),
            source: io::Error::last_os_error(),
        });
    }
    match (memory, place.node) {
        (Memory::Bind, Some(node)) => {
            set_memory_policy(MemoryPolicy::Bind(node)).map_err(|source| RingError {
                step: "binding the shard's memory",
                remedy: format!(
                    "node {node} must be there and in the cgroup's cpuset.mems, and seccomp must \
                     allow set_mempolicy: or let memory be \"local\""
                ),
                source,
            })
        }
        _ => {
            // The kernel's own way unless the process was started with another; a container that
            // forbids the call forbids that as well.
            let _ = set_memory_policy(MemoryPolicy::Local);
            Ok(())
        }
    }
}

/// What `layout` and `snapshot` choose for a ring of so many descriptors.
fn ring_options(layout: &Layout, snapshot: &Snapshot, descriptors: u32) -> RingOptions {
    let plain = RingOptions::default();
    let millis = |time: u32| Duration::from_millis(time.into());
    RingOptions {
        entries: layout.ring.entries.unwrap_or(plain.entries),
        sqpoll: layout.ring.sqpoll_ms.map(millis),
        busy_poll: layout
            .ring
            .busy_poll_us
            .map(|time| Duration::from_micros(time.into())),
        descriptors,
        restricted: snapshot.restricts_rings,
        ..plain
    }
}

/// Enough to tell the connections of two processes apart; nothing secret hangs on it.
fn random_prefix() -> u64 {
    let mut bytes = [0; 8];
    // Failing leaves zero, which only makes identifiers less distinct.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        DrainOptions, HalfOpenLimits, LiveRevocation, LogFormat, LogLevel, LogOptions, ShardPlan,
    };
    use crate::snapshot::{Limits, Names};

    /// Without listeners.
    fn snapshot(restricts_rings: bool) -> Snapshot {
        Snapshot {
            listeners: Vec::new(),
            limits: Limits {
                connections: 1,
                handshakes: 1,
                half_open: HalfOpenLimits::of(1),
                buffer_blocks: 0,
            },
            drain: DrainOptions {
                notice: Duration::ZERO,
                timeout: Duration::ZERO,
            },
            shards: ShardPlan::Count(1),
            log: LogOptions {
                format: LogFormat::Human,
                level: LogLevel::Warn,
                access: false,
                access_rate: 1,
                refusal_rate: 1,
            },
            stek: None,
            verdict_cache: None,
            live_revocation: LiveRevocation::Off,
            restricts_rings,
            warnings: Vec::new(),
            expiries: Vec::new(),
            names: Names::default(),
        }
    }

    /// Nobody but its own thread can ask a running shard's ring (IORING_SETUP_SINGLE_ISSUER).
    #[test]
    fn shards_have_the_rings_that_the_configuration_says() {
        let layout = Placement::planned(&ShardPlan::Count(1)).unwrap().layout;
        for restricted in [true, false] {
            let options = ring_options(&layout, &snapshot(restricted), 77);
            assert_eq!((options.restricted, options.descriptors), (restricted, 77));
        }
    }
}
