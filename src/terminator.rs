//! The one public way to start a terminator: shards on their threads, each with its ring and its
//! listening sockets.

mod sockets;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use crate::clock::Clock;
use crate::config;
pub use crate::ring::checks as host_checks;
use crate::ring::{Ring, RingError, RingOptions, Waker, lock_memory};
use crate::shard::mailbox::{Change, Command, Inbox, Mailbox, mailbox};
use crate::shard::{Parts, Shard};
use crate::snapshot::{ShardPlan, Snapshot};
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
    #[error("CPU {cpu} is not among those this process may use ({usable}); correct shards.cpus")]
    Cpu { cpu: usize, usable: String },
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
    #[error("shard {shard}: {source}")]
    Ring { shard: usize, source: RingError },
    #[error("shard {shard}: its thread did not start: {source}")]
    Thread { shard: usize, source: io::Error },
}

/// A running terminator. Dropping it stops its shards.
#[derive(Debug)]
pub struct Terminator {
    shards: Vec<ShardThread>,
    sockets: Sockets,
    notes: Vec<String>,
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
    /// Starts the shards of `snapshot`. When this returns, every listener accepts.
    ///
    /// # Errors
    ///
    /// When anything of it cannot be had; nothing runs then.
    pub fn start(snapshot: &Arc<Snapshot>, clock: &Clock) -> Result<Self, StartError> {
        let cpus = shard_cpus(&snapshot.shard_cpus)?;
        let (sockets, listeners) = Sockets::bind(snapshot, cpus.len())?;
        let descriptors = sockets.table();
        let identifier_prefix = random_prefix();
        let mut terminator = Self {
            shards: Vec::new(),
            sockets,
            notes: lock_secret(snapshot).into_iter().collect(),
        };
        for (shard, (cpu, listeners)) in cpus.into_iter().zip(listeners).enumerate() {
            let waker = Waker::new().map_err(|source| StartError::Thread { shard, source })?;
            let (mailbox, inbox) = mailbox(waker.clone(), snapshot.log.access);
            let seed = Seed {
                id: u32::try_from(shard).unwrap_or(u32::MAX),
                cpu,
                listeners,
                descriptors,
                snapshot: Arc::clone(snapshot),
                clock: clock.clone(),
                inbox,
                waker,
                identifier_prefix,
            };
            let (thread, thread_id) = seed.spawn()?;
            let thread = Some(thread);
            terminator.shards.push(ShardThread {
                mailbox,
                thread,
                thread_id,
            });
        }
        Ok(terminator)
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
    id: u32,
    /// `None`: left to the scheduler.
    cpu: Option<core_affinity::CoreId>,
    listeners: OfShard,
    /// Slots of the ring's table of descriptors.
    descriptors: u32,
    snapshot: Arc<Snapshot>,
    clock: Clock,
    inbox: Inbox,
    waker: Waker,
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
        if let Some(cpu) = self.cpu {
            core_affinity::set_for_current(cpu);
        }
        let options = RingOptions {
            descriptors: self.descriptors,
            ..RingOptions::default()
        };
        let ring = match Ring::new(&options) {
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
            identifier_prefix: self.identifier_prefix,
        });
        let _ = ready.send(Ok(rustix::thread::gettid().as_raw_nonzero().get()));
        shard.run()
    }
}

/// Keeps the secret of ticket keys out of swap; why that cannot be.
fn lock_secret(snapshot: &Snapshot) -> Option<String> {
    let error = lock_memory(snapshot.stek.as_ref()?.memory()).err()?;
    Some(format!(
        "the secret of ticket keys may be written to swap: locking it into memory failed ({error}); \
         raise LimitMEMLOCK= or `ulimit -l`"
    ))
}

/// Which CPU each shard runs on.
fn shard_cpus(plan: &ShardPlan) -> Result<Vec<Option<core_affinity::CoreId>>, StartError> {
    let usable = core_affinity::get_core_ids().unwrap_or_default();
    match plan {
        ShardPlan::Cpus(cpus) => cpus
            .iter()
            .map(|&cpu| match usable.iter().find(|core| core.id == cpu) {
                Some(core) => Ok(Some(*core)),
                None => Err(StartError::Cpu {
                    cpu,
                    usable: list(&usable),
                }),
            })
            .collect(),
        ShardPlan::Count(count) if *count <= usable.len() => {
            Ok(usable.into_iter().take(*count).map(Some).collect())
        }
        // More shards than CPUs: pinning two to one would only forbid the better places.
        ShardPlan::Count(count) => Ok(vec![None; *count]),
        ShardPlan::PerUsableCpu if usable.is_empty() => Ok(vec![None]),
        ShardPlan::PerUsableCpu => Ok(usable.into_iter().map(Some).collect()),
    }
}

fn list(cpus: &[core_affinity::CoreId]) -> String {
    let cpus: Vec<String> = cpus.iter().map(|core| core.id.to_string()).collect();
    cpus.join(", ")
}

/// Enough to tell the connections of two processes apart; nothing secret hangs on it.
fn random_prefix() -> u64 {
    let mut bytes = [0; 8];
    // Failing leaves zero, which only makes identifiers less distinct.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}
