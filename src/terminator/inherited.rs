//! Listening sockets that were there before this process: a socket unit's, or those of the process
//! that it takes over from.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::StartError;
use super::sockets::bind_error;
use crate::limits::INHERITED_SOCKETS_MAX;
use crate::ring::{Listener, Steering, passed_descriptors};
use crate::snapshot::Snapshot;

/// Where a listener of the snapshot listens: its index, and that of the address.
type At = (usize, usize);

/// Listening sockets to begin with instead of binding new ones, in the order in which they are to be
/// given to shards.
///
/// Connections may wait in the queue of every one, so every one is accepted from until its address
/// is no longer configured. What is there for one address is given out like this:
///
/// - As many sockets as shards: each shard gets one.
/// - More sockets than shards: a shard gets several, and accepts from them all.
/// - Fewer: the shards without one bind theirs beside them, where SO_REUSEPORT and the user allow
///   that. Otherwise they share: several shards accept from one socket, by duplicates of it.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<Socket>,
}

#[derive(Debug)]
struct Socket {
    listener: Listener,
    name: Option<String>,
    /// It comes from a process that this one takes over from, whose configuration may have been
    /// another.
    is_predecessors: bool,
}

/// The sockets for each address of a snapshot that has some.
#[derive(Debug, Default)]
pub(super) struct Given {
    sockets: BTreeMap<At, Vec<Listener>>,
    unopened: Unopened,
}

/// What is left to do at inherited addresses, once shards accept from all sockets that there are.
/// Before, a connection might get lost: whoever has the address now goes on where a start fails.
#[derive(Debug, Default)]
pub(super) struct Unopened {
    /// Bound beside others; they do not listen yet.
    silent: Vec<Listener>,
    /// A socket of each address, and how the kernel is to choose among all.
    steered: Vec<(Listener, Option<Steering>)>,
}

impl Inherited {
    /// Those that a service manager passed (LISTEN_FDS, sd_listen_fds(3)). Call it first thing: they
    /// are told from other descriptors by their numbers alone.
    ///
    /// # Errors
    ///
    /// When the environment is wrong, or one of them is no socket to accept connections from.
    pub fn from_environment() -> Result<Self, StartError> {
        let passed = passed_descriptors()
            .map_err(|error| StartError::Inherited(error.to_string().into()))?;
        let mut inherited = Self::default();
        for passed in passed {
            // Whoever passed them keeps them for the next start.
            inherited.add(passed.fd, passed.name, true)?;
        }
        Ok(inherited)
    }

    /// Adds a socket that listens, and whether another process keeps it beyond the end of this one. It
    /// serves the listener at whose address it is bound, failing that the listener of this name.
    ///
    /// # Errors
    ///
    /// When it is no socket to accept connections from.
    pub fn add(
        &mut self,
        socket: OwnedFd,
        name: Option<String>,
        is_shared: bool,
    ) -> Result<(), StartError> {
        let number = u32::try_from(self.sockets.len()).unwrap_or(u32::MAX);
        self.add_numbered(socket, name, is_shared, number)
    }

    fn add_numbered(
        &mut self,
        socket: OwnedFd,
        name: Option<String>,
        is_shared: bool,
        number: u32,
    ) -> Result<(), StartError> {
        if self.sockets.len() == INHERITED_SOCKETS_MAX {
            let problem = format!("there are more than {INHERITED_SOCKETS_MAX}: pass fewer");
            return Err(StartError::Inherited(problem.into()));
        }
        let listener = Listener::adopt(socket, is_shared, number).map_err(|error| {
            let which = match &name {
                Some(name) => format!("`{name}`"),
                None => format!("number {}", self.sockets.len() + 1),
            };
            StartError::Inherited(format!("{which}: {error}").into())
        })?;
        self.sockets.push(Socket {
            listener,
            name,
            is_predecessors: false,
        });
        Ok(())
    }

    /// Adds a socket of the process that this one takes over from, which served the listener of this
    /// name, and was the one of this number at its address. It serves the listener at whose address it
    /// is bound, or that of its name where that has port 0; where neither is configured any more, nobody.
    ///
    /// # Errors
    ///
    /// As [`Inherited::add`].
    pub fn add_predecessors(
        &mut self,
        socket: OwnedFd,
        name: String,
        is_shared: bool,
        number: u32,
    ) -> Result<(), StartError> {
        self.add_numbered(socket, Some(name), is_shared, number)?;
        if let Some(socket) = self.sockets.last_mut() {
            socket.is_predecessors = true;
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Finds the address of `snapshot` that each is for.
    ///
    /// # Errors
    ///
    /// When one is for none.
    pub(super) fn give(
        self,
        snapshot: &Snapshot,
        notes: &mut Vec<String>,
    ) -> Result<Given, StartError> {
        let mut given: BTreeMap<At, Vec<Listener>> = BTreeMap::new();
        let mut others = Vec::new();
        for socket in self.sockets {
            match at_address(snapshot, socket.listener.address()) {
                Some(at) => given.entry(at).or_default().push(socket.listener),
                None => others.push(socket),
            }
        }
        let mut stray = Vec::new();
        for Socket {
            listener,
            name,
            is_predecessors,
        } in others
        {
            let address = listener.address();
            let beside = given
                .iter()
                .find(|(_, sockets)| sockets.iter().any(|it| it.address() == address));
            let at = match beside {
                Some((&at, _)) => Some(at),
                None => name
                    .as_deref()
                    .and_then(|name| of_name(snapshot, &given, name, address)),
            };
            let is_free = |at: &At| snapshot.listeners[at.0].addresses[at.1].port() == 0;
            let at = at.filter(|at| !is_predecessors || is_free(at));
            if at.is_none() && is_predecessors {
                notes.push(format!(
                    "{address} is configured no more: the socket of the process before is let go"
                ));
                continue;
            }
            let Some(at) = at else {
                stray.push(match name {
                    Some(name) => format!("{address} (`{name}`)"),
                    None => address.to_string(),
                });
                continue;
            };
            let configured = snapshot.listeners[at.0].addresses[at.1];
            let sockets = given.entry(at).or_default();
            if sockets.is_empty() && configured.port() != 0 {
                notes.push(format!(
                    "listener `{}` is configured for {configured} and listens on {address}, which \
                     the socket of its name that was passed is bound to",
                    snapshot.listeners[at.0].name
                ));
            }
            sockets.push(listener);
        }
        if stray.is_empty() {
            return Ok(Given {
                sockets: given,
                unopened: Unopened::default(),
            });
        }
        let problem = format!(
            "no listener is for {}: give a listener that address, or name the socket after its \
             listener (FileDescriptorName=), or take it out of the socket unit",
            stray.join(", ")
        );
        Err(StartError::Inherited(problem.into()))
    }
}

impl Given {
    /// The sockets for this address of the snapshot, shared out to `shards`; `None` where there are
    /// none. Every socket and every shard is in what is returned.
    pub(super) fn share_out(
        &mut self,
        at: At,
        shards: &[usize],
        steering: Option<Steering>,
        notes: &mut Vec<String>,
    ) -> Result<Option<Vec<(usize, Listener)>>, StartError> {
        let Some(sockets) = self.sockets.remove(&at) else {
            return Ok(None);
        };
        let shared_out = share_out(sockets, shards, steering, notes, &mut self.unopened);
        shared_out.map(Some).map_err(|(address, error)| {
            let problem = format!("{address} cannot be shared by shards: {error}");
            StartError::Inherited(problem.into())
        })
    }

    pub(super) fn into_unopened(self) -> Unopened {
        self.unopened
    }
}

impl Unopened {
    /// Has every socket listen, and the kernel choose among them as is wanted; what is done without.
    ///
    /// # Errors
    ///
    /// When a socket cannot listen.
    pub(super) fn open(self) -> Result<Vec<String>, StartError> {
        for socket in &self.silent {
            let heard = socket.listen();
            heard.map_err(|error| bind_error(socket.address(), error))?;
        }
        let steered = self.steered.iter().filter_map(|(socket, steering)| {
            let address = socket.address();
            match steering {
                Some(steering) => {
                    let error = socket.steer(steering).err()?;
                    Some(not_steered(address, &error.to_string()))
                }
                None => {
                    let error = socket.unsteer().err()?;
                    Some(format!(
                        "connections to {address} go to shards as the process before had them steered: \
                         {error}; a start without a takeover ends that"
                    ))
                }
            }
        });
        Ok(steered.collect())
    }
}

fn not_steered(address: SocketAddr, problem: &str) -> String {
    format!(
        "connections to {address} do not go to the shard that serves the CPU which takes them: \
         {problem}; leave the address out of the socket unit, or `steering` out of the layout"
    )
}

fn at_address(snapshot: &Snapshot, address: SocketAddr) -> Option<At> {
    let mut listeners = snapshot.listeners.iter().enumerate();
    listeners.find_map(|(index, listener)| {
        let at = listener.addresses.iter().position(|&it| it == address)?;
        Some((index, at))
    })
}

/// An address of the listener `name` that has no socket yet, the one with this IP address first.
fn of_name(
    snapshot: &Snapshot,
    given: &BTreeMap<At, Vec<Listener>>,
    name: &str,
    address: SocketAddr,
) -> Option<At> {
    let index = snapshot.listeners.iter().position(|it| &*it.name == name)?;
    let addresses = snapshot.listeners[index].addresses.iter().enumerate();
    let mut open = addresses.filter(|(at, _)| !given.contains_key(&(index, *at)));
    let first = open.clone().next();
    let same = open.find(|(_, configured)| configured.ip() == address.ip());
    let (at, _) = same.or(first)?;
    Some((index, at))
}

/// Shares `sockets`, of which there is at least one, all at one address, out to `shards`; or which
/// address cannot be.
fn share_out(
    mut sockets: Vec<Listener>,
    shards: &[usize],
    steering: Option<Steering>,
    notes: &mut Vec<String>,
    unopened: &mut Unopened,
) -> Result<Vec<(usize, Listener)>, (SocketAddr, io::Error)> {
    let address = sockets[0].address();
    let failed = |error| (address, error);
    // As the kernel counts them, from 0 on.
    sockets.sort_by_key(Listener::number);
    for (number, socket) in (0..).zip(&mut sockets) {
        socket.renumber(number);
    }
    let may_share = sockets.iter().all(Listener::shares_port);
    let mut beside = Ok(());
    while may_share && sockets.len() < shards.len() {
        let number = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
        match sockets[0].bind_beside(number) {
            Ok(socket) => {
                unopened.silent.push(socket.duplicate().map_err(failed)?);
                sockets.push(socket);
            }
            Err(error) => {
                beside = Err(error);
                break;
            }
        }
    }
    if let Err(error) = beside {
        notes.push(format!(
            "shards share the socket that was passed for {address}: one more cannot be bound beside \
             it ({error}); ReusePort= may be left out of the socket unit"
        ));
    }
    let own = sockets.len();
    for at in own..shards.len() {
        sockets.push(sockets[at % own].duplicate().map_err(failed)?);
    }
    if own < shards.len() {
        if steering.is_some() {
            notes.push(not_steered(address, "shards share a socket there"));
        }
    } else if may_share {
        let one = sockets[0].duplicate().map_err(failed)?;
        unopened.steered.push((one, steering));
    }
    let shards = shards.iter().copied().cycle();
    Ok(shards.zip(sockets).collect())
}
