//! Where a terminator listens, and what it may open in all.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::StartError;
use crate::limits::ACCEPTS_IN_FLIGHT;
use crate::ring::{Listener, raise_descriptor_limit};
use crate::shard::mailbox::{Change, Installation, ListeningSocket};
use crate::snapshot::{Limits, Snapshot};

/// Descriptors of the process beside connections: files, the control plane, rings.
const OTHER_DESCRIPTORS: u64 = 256;

/// Slots of a ring's table beside those that its limits ask for.
const SPARE_SLOTS: usize = 64;

/// Every shard's listening sockets.
#[derive(Debug)]
pub(super) struct Sockets {
    shards: usize,
    bound: Vec<Bound>,
    /// Slots of each ring's table of descriptors.
    table: u32,
    generation: u64,
}

/// An address that every shard listens at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Bound {
    configured: SocketAddr,
    /// With the port that the kernel gave where none was asked for.
    actual: SocketAddr,
}

/// The sockets of one shard, each with the index of its listener in the snapshot.
pub(super) type OfShard = Vec<(usize, Listener)>;

impl Sockets {
    /// Binds every address of `snapshot` once for each shard.
    pub(super) fn bind(
        snapshot: &Snapshot,
        shards: usize,
    ) -> Result<(Self, Vec<OfShard>), StartError> {
        let mut sockets = Self {
            shards,
            bound: Vec::new(),
            table: slots(snapshot, snapshot.limits.connections),
            generation: 0,
        };
        sockets.check_descriptors(snapshot)?;
        let (bound, by_shard) = sockets.plan(snapshot)?;
        sockets.bound = bound;
        let by_shard = by_shard.into_iter().map(|sockets| {
            let new = sockets.into_iter().filter_map(|(at, socket)| match socket {
                ListeningSocket::New(socket) => Some((at, socket)),
                ListeningSocket::Kept(_) => None,
            });
            new.collect()
        });
        let by_shard = by_shard.collect();
        Ok((sockets, by_shard))
    }

    /// What it takes to serve `snapshot` instead: sockets for the addresses that are new.
    ///
    /// # Errors
    ///
    /// When one of them cannot be bound, or there are too few descriptors; nothing has changed
    /// then.
    pub(super) fn change(&mut self, snapshot: &Arc<Snapshot>) -> Result<Change, StartError> {
        self.check_descriptors(snapshot)?;
        let (bound, by_shard) = self.plan(snapshot)?;
        let mut notes = Vec::new();
        let limits = self.limits(snapshot, &mut notes);
        self.bound = bound;
        self.generation += 1;
        let installations = by_shard.into_iter().map(|sockets| Installation {
            generation: self.generation,
            snapshot: Arc::clone(snapshot),
            limits,
            sockets,
        });
        Ok(Change {
            installations: installations.collect(),
            notes,
        })
    }

    /// The addresses that are listened at, in the order of the configuration.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.bound.iter().map(|bound| bound.actual).collect()
    }

    /// Slots of each ring's table of descriptors.
    pub(super) fn table(&self) -> u32 {
        self.table
    }

    /// For every address of `snapshot` the sockets of each shard: those that it has, or new ones.
    #[expect(clippy::type_complexity, reason = "named where it is used")]
    fn plan(
        &self,
        snapshot: &Snapshot,
    ) -> Result<(Vec<Bound>, Vec<Vec<(usize, ListeningSocket)>>), StartError> {
        let mut had = self.bound.clone();
        let mut bound = Vec::new();
        let mut by_shard: Vec<_> = (0..self.shards).map(|_| Vec::new()).collect();
        for (index, listener) in snapshot.listeners.iter().enumerate() {
            for &configured in &listener.addresses {
                let kept = had.iter().position(|known| known.configured == configured);
                let new = match kept.map(|kept| had.remove(kept)) {
                    Some(kept) => {
                        bound.push(kept);
                        for sockets in &mut by_shard {
                            sockets.push((index, ListeningSocket::Kept(kept.actual)));
                        }
                        continue;
                    }
                    None => listen(configured, self.shards)?,
                };
                let actual = new.first().map_or(configured, Listener::address);
                bound.push(Bound { configured, actual });
                for (sockets, socket) in by_shard.iter_mut().zip(new) {
                    sockets.push((index, ListeningSocket::New(socket)));
                }
            }
        }
        Ok((bound, by_shard))
    }

    fn check_descriptors(&self, snapshot: &Snapshot) -> Result<(), StartError> {
        // A ring's table is bounded by the limit, though it takes nothing from it; sockets of
        // wildcard listeners do, on all shards together.
        let wildcard = |listener: &crate::snapshot::Listener| {
            let mut addresses = listener.addresses.iter();
            addresses.any(|address| address.ip().is_unspecified())
        };
        let plain = if snapshot.listeners.iter().any(|listener| wildcard(listener)) {
            (snapshot.limits.connections as u64).saturating_mul(self.shards as u64)
        } else {
            0
        };
        let needed = u64::from(self.table).max(plain) + OTHER_DESCRIPTORS;
        match raise_descriptor_limit() {
            Some(limit) if limit < needed => Err(StartError::Descriptors {
                connections: snapshot.limits.connections,
                shards: self.shards,
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
        let beside = slots(snapshot, 0) as usize - SPARE_SLOTS;
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
fn slots(snapshot: &Snapshot, connections: usize) -> u32 {
    let listeners = snapshot.listeners.iter();
    let addresses: usize = listeners.map(|listener| listener.addresses.len()).sum();
    let wanted = connections * 2 + addresses * ACCEPTS_IN_FLIGHT + SPARE_SLOTS;
    u32::try_from(wanted).unwrap_or(u32::MAX)
}

/// One socket for each shard at `wanted`, which is nobody's yet.
fn listen(wanted: SocketAddr, shards: usize) -> Result<Vec<Listener>, StartError> {
    let error = |source| bind_error(wanted, source);
    if wanted.port() != 0 && Listener::is_in_use(wanted).map_err(error)? {
        return Err(bind_error(wanted, io::ErrorKind::AddrInUse.into()));
    }
    let mut address = wanted;
    let mut sockets = Vec::with_capacity(shards);
    for _ in 0..shards {
        let socket = Listener::bind(address).map_err(error)?;
        // Port 0 was asked for: the others share what the first one got.
        address = socket.address();
        sockets.push(socket);
    }
    Ok(sockets)
}

fn bind_error(address: SocketAddr, source: io::Error) -> StartError {
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
