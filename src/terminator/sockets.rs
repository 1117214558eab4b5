//! Where a terminator listens, and what it may open in all.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::StartError;
use super::inherited::{Given, Inherited, Unopened};
use crate::layout::{Layout, Shards, Steering as Choice};
use crate::limits::{ACCEPTS_IN_FLIGHT, HEALTH_CHECKS_IN_FLIGHT_MAX};
use crate::ring::{Listener, Steering, raise_descriptor_limit};
use crate::shard::mailbox::{Change, Installation, ListeningSocket};
use crate::snapshot::{Limits, Rosters, Snapshot, Upstreams};

/// Descriptors of the process beside connections: files, the control plane, rings.
const OTHER_DESCRIPTORS: u64 = 256;

const _: () = assert!(HEALTH_CHECKS_IN_FLIGHT_MAX as u64 * 2 < OTHER_DESCRIPTORS);

/// Slots of a ring's table beside those that its limits ask for.
const SPARE_SLOTS: usize = 64;

/// Every shard's listening sockets.
#[derive(Debug)]
pub(super) struct Sockets {
    shards: Vec<Serving>,
    /// Connections go to the shard that serves the CPU which took them.
    by_cpu: bool,
    /// What each shard works from.
    served: Vec<Arc<Snapshot>>,
    bound: Vec<Bound>,
    /// Slots of each ring's table of descriptors.
    table: u32,
    /// Accepts in flight of the shard that has the most sockets, beside one socket at each address.
    more_accepts: usize,
    generation: u64,
    upstreams: Upstreams,
}

/// What a shard accepts.
#[derive(Clone, Debug)]
struct Serving {
    /// Names of listeners; `None` is all of them.
    listeners: Option<Vec<String>>,
    /// With steering: the CPUs whose connections are its own.
    cpus: Vec<u32>,
}

impl Serving {
    fn serves(&self, listener: &str) -> bool {
        let names = self.listeners.as_ref();
        names.is_none_or(|names| names.iter().any(|name| name == listener))
    }
}

/// An address that shards listen at.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Bound {
    configured: SocketAddr,
    /// With the port that the kernel gave where none was asked for.
    actual: SocketAddr,
    /// Which shards have a socket there, in the order in which those began to listen.
    shards: Vec<usize>,
}

/// The sockets of one shard, each with the index of its listener in the snapshot.
pub(super) type OfShard = Vec<(usize, Listener)>;

impl Sockets {
    /// Binds every address of `snapshot` once for each shard that serves it, where `inherited` has no
    /// socket for it.
    pub(super) fn bind(
        snapshot: &Snapshot,
        layout: &Layout,
        inherited: Inherited,
        notes: &mut Vec<String>,
    ) -> Result<(Self, Vec<OfShard>, Unopened), StartError> {
        let serving = serving(layout);
        let shards = serving.len();
        let mut sockets = Self {
            shards: serving,
            by_cpu: layout.steering == Choice::Cpu,
            served: Vec::new(),
            bound: Vec::new(),
            table: slots(snapshot, snapshot.limits.connections, 0),
            more_accepts: 0,
            generation: 0,
            upstreams: Upstreams::new(shards),
        };
        sockets.check_descriptors(snapshot)?;
        sockets.check_upstreams(snapshot)?;
        let mut given = inherited.give(snapshot, notes)?;
        let (bound, by_shard) = sockets.plan(snapshot, &mut given, notes)?;
        sockets.bound = bound;
        let most = by_shard.iter().map(Vec::len).max().unwrap_or(0);
        sockets.more_accepts = most.saturating_sub(addresses(snapshot)) * ACCEPTS_IN_FLIGHT;
        if sockets.more_accepts > 0 {
            sockets.table = slots(snapshot, snapshot.limits.connections, sockets.more_accepts);
            sockets.check_descriptors(snapshot)?;
        }
        let by_shard = by_shard.into_iter().map(|sockets| {
            let new = sockets.into_iter().filter_map(|(at, socket)| match socket {
                ListeningSocket::New(socket) => Some((at, socket)),
                ListeningSocket::Kept(_) => None,
            });
            new.collect()
        });
        let by_shard = by_shard.collect();
        Ok((sockets, by_shard, given.into_unopened()))
    }

    /// What it takes to serve `snapshot` instead: sockets for the addresses that are new.
    ///
    /// # Errors
    ///
    /// When one of them cannot be bound, or there are too few descriptors; nothing has changed
    /// then.
    pub(super) fn change(&mut self, snapshot: &Arc<Snapshot>) -> Result<Change, StartError> {
        self.check_descriptors(snapshot)?;
        self.check_upstreams(snapshot)?;
        let own: Vec<Arc<Snapshot>> = (0..self.shards.len())
            .map(|_| self.for_shard(snapshot))
            .collect::<Result<_, _>>()?;
        let mut notes = Vec::new();
        // Last of what can fail: whoever connects to a socket that is let go again is reset.
        let (bound, by_shard) = self.plan(snapshot, &mut Given::default(), &mut notes)?;
        let limits = self.limits(snapshot, &mut notes);
        self.bound = bound;
        let before = std::mem::replace(&mut self.served, own.clone());
        self.generation += 1;
        let installations = by_shard
            .into_iter()
            .zip(own)
            .zip(self.rosters(snapshot))
            .map(|((sockets, own), rosters)| Installation {
                generation: self.generation,
                snapshot: own,
                limits,
                sockets,
                rosters,
                counters: Vec::new(),
            });
        Ok(Change {
            installations: installations.collect(),
            before,
            notes,
        })
    }

    fn check_upstreams(&self, snapshot: &Snapshot) -> Result<(), StartError> {
        let checked = Upstreams::check(snapshot, |listener| self.serving(listener));
        checked.map_err(StartError::Config)
    }

    /// What each shard is to be given of the upstreams of `snapshot`, which count from now on.
    pub(super) fn rosters(&self, snapshot: &Snapshot) -> Vec<Rosters> {
        let serving = |listener: &str| self.serving(listener);
        self.upstreams.serve(snapshot, serving)
    }

    pub(super) fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// Indices of the shards that serve this listener.
    fn serving(&self, listener: &str) -> Vec<usize> {
        let shards = 0..self.shards.len();
        shards
            .filter(|&shard| self.shards[shard].serves(listener))
            .collect()
    }

    /// The addresses that are listened at, in the order of the configuration.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.iter().map(|bound| bound.actual).collect()
    }

    /// What one shard works from.
    pub(super) fn for_shard(&self, snapshot: &Snapshot) -> Result<Arc<Snapshot>, StartError> {
        let serving = |name: &str| {
            self.shards
                .iter()
                .filter(|shard| shard.serves(name))
                .count()
        };
        let own = snapshot.for_shard(serving);
        own.map(Arc::new)
            .map_err(|error| StartError::Config(error.to_string()))
    }

    /// Remembers what the next shard works from.
    pub(super) fn serve(&mut self, own: &Arc<Snapshot>) {
        self.served.push(Arc::clone(own));
    }

    /// Slots of each ring's table of descriptors.
    pub(super) fn table(&self) -> u32 {
        self.table
    }

    /// For every address of `snapshot` the sockets of each shard: those that it has, those that are
    /// `given`, or new ones.
    #[expect(clippy::type_complexity, reason = "named where it is used")]
    fn plan(
        &self,
        snapshot: &Snapshot,
        given: &mut Given,
        notes: &mut Vec<String>,
    ) -> Result<(Vec<Bound>, Vec<Vec<(usize, ListeningSocket)>>), StartError> {
        self.check_names(snapshot)?;
        let mut had = self.bound.clone();
        let mut bound = Vec::new();
        let mut by_shard: Vec<_> = self.shards.iter().map(|_| Vec::new()).collect();
        for (index, listener) in snapshot.listeners.iter().enumerate() {
            let serving = self.serving(&listener.name);
            for (at, &configured) in listener.addresses.iter().enumerate() {
                let kept = had.iter().position(|known| known.configured == configured);
                let new = match kept.map(|kept| had.remove(kept)) {
                    Some(kept) if kept.shards != serving => {
                        return Err(StartError::Layout(format!(
                            "listener `{}` at {configured} is another listener's now, which the \
                             layout gives to other shards: that needs a restart",
                            listener.name
                        )));
                    }
                    Some(kept) => {
                        for &shard in &kept.shards {
                            by_shard[shard].push((index, ListeningSocket::Kept(kept.actual)));
                        }
                        bound.push(kept);
                        continue;
                    }
                    None => {
                        let steering = self.by_cpu.then(|| self.steering(&serving));
                        match given.share_out((index, at), &serving, steering, notes)? {
                            Some(given) => given,
                            None => self.listen(configured, &serving)?,
                        }
                    }
                };
                let actual = new.first().map_or(configured, |(_, first)| first.address());
                for (shard, socket) in new {
                    by_shard[shard].push((index, ListeningSocket::New(socket)));
                }
                bound.push(Bound {
                    configured,
                    actual,
                    shards: serving.clone(),
                });
            }
        }
        Ok((bound, by_shard))
    }

    /// Names of listeners in the layout must be there, and each listener must have a shard.
    fn check_names(&self, snapshot: &Snapshot) -> Result<(), StartError> {
        let known: Vec<&str> = snapshot.listeners.iter().map(|it| &*it.name).collect();
        let named = self
            .shards
            .iter()
            .flat_map(|shard| shard.listeners.iter().flatten());
        if let Some(name) = named
            .into_iter()
            .find(|name| !known.contains(&name.as_str()))
        {
            return Err(StartError::Layout(format!(
                "the layout gives a shard the listener `{name}`, and the configuration has {}: \
                 correct `listeners` there, or the listener's name",
                known.join(", ")
            )));
        }
        let left = known
            .iter()
            .find(|name| !self.shards.iter().any(|it| it.serves(name)));
        match left {
            Some(name) => Err(StartError::Layout(format!(
                "the layout gives the listener `{name}` to no shard: add it to `listeners` of one, \
                 or leave `listeners` out there"
            ))),
            None => Ok(()),
        }
    }

    /// One socket for each of the shards `serving` at `wanted`, which is nobody's yet.
    fn listen(
        &self,
        wanted: SocketAddr,
        serving: &[usize],
    ) -> Result<Vec<(usize, Listener)>, StartError> {
        let error = |source| bind_error(wanted, source);
        if wanted.port() != 0 && Listener::is_in_use(wanted).map_err(error)? {
            return Err(bind_error(wanted, io::ErrorKind::AddrInUse.into()));
        }
        let steering = self.by_cpu.then(|| self.steering(serving));
        let group = Listener::bind_group(wanted, serving.len(), steering.as_ref());
        let group = group.map_err(error)?.into_iter();
        Ok(serving.iter().copied().zip(group).collect())
    }

    fn steering(&self, serving: &[usize]) -> Steering {
        let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let table: Vec<(u32, u32)> = serving
            .iter()
            .enumerate()
            .flat_map(|(at, &shard)| {
                self.shards[shard]
                    .cpus
                    .iter()
                    .map(move |&cpu| (cpu, number(at)))
            })
            .collect();
        Steering::by_cpu(&table, number(serving.len()))
    }

    fn check_descriptors(&self, snapshot: &Snapshot) -> Result<(), StartError> {
        // A ring's table is bounded by the limit, though it takes nothing from it; sockets of
        // wildcard listeners do, on all shards together.
        let wildcard = |listener: &crate::snapshot::Listener| {
            let mut addresses = listener.addresses.iter();
            addresses.any(|address| address.ip().is_unspecified())
        };
        let plain = if snapshot.listeners.iter().any(|listener| wildcard(listener)) {
            (snapshot.limits.connections as u64).saturating_mul(self.shards.len() as u64)
        } else {
            0
        };
        let needed = u64::from(self.table).max(plain) + OTHER_DESCRIPTORS;
        match raise_descriptor_limit() {
            Some(limit) if limit < needed => Err(StartError::Descriptors {
                connections: snapshot.limits.connections,
                shards: self.shards.len(),
                needed,
                limit,
            }),
            _ => Ok(()),
        }
    }

    /// The limits of `snapshot`, as far as the rings' tables go.
    fn limits(&self, snapshot: &Snapshot, notes: &mut Vec<String>) -> Limits {
        let wanted = snapshot.limits.connections;
        // Without a connection there are slots for accepts, and some to spare.
        let beside = slots(snapshot, 0, self.more_accepts) as usize - SPARE_SLOTS;
        let room = (self.table as usize).saturating_sub(beside) / 2;
        if wanted > room {
            notes.push(format!(
                "limits.connections = {wanted} needs a restart: until then a shard takes {room}, \
                 the most that its ring was set up for"
            ));
        }
        Limits {
            connections: wanted.min(room),
            ..snapshot.limits
        }
    }
}

/// Slots for two sockets a connection, the accepts in flight, and some to spare.
fn slots(snapshot: &Snapshot, connections: usize, more_accepts: usize) -> u32 {
    let accepts = addresses(snapshot) * ACCEPTS_IN_FLIGHT + more_accepts;
    let wanted = connections * 2 + accepts + SPARE_SLOTS;
    u32::try_from(wanted).unwrap_or(u32::MAX)
}

fn addresses(snapshot: &Snapshot) -> usize {
    let listeners = snapshot.listeners.iter();
    listeners.map(|listener| listener.addresses.len()).sum()
}

/// What each shard of `layout` accepts.
fn serving(layout: &Layout) -> Vec<Serving> {
    match &layout.shards {
        Shards::Pinned(shards) => {
            let serving = shards.iter().map(|shard| Serving {
                listeners: shard.listeners.clone(),
                cpus: match shard.serves.is_empty() {
                    true => vec![shard.cpu],
                    false => shard.serves.iter().collect(),
                },
            });
            serving.collect()
        }
        Shards::Unpinned(count) => {
            let anyone = Serving {
                listeners: None,
                cpus: Vec::new(),
            };
            vec![anyone; *count]
        }
    }
}

pub(super) fn bind_error(address: SocketAddr, source: io::Error) -> StartError {
    let remedy = match source.kind() {
        io::ErrorKind::AddrInUse => "another process listens there: stop it or choose another port",
        io::ErrorKind::AddrNotAvailable => "no interface of this host has that address",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= in the unit)"
        }
        _ => "correct the listener's address",
    };
    StartError::Bind {
        address,
        remedy,
        source,
    }
}
