//! Operations whose completion is still to come, with everything the kernel may touch for them.

use slab::Slab;
use socket2::SockAddr;

use super::address::PeerAddress;
use super::operation::wake::Waker;
use crate::block::Block;

/// The caller's name for an operation; its completion carries it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Token(pub u64);

/// A handle to cancel an operation by. Valid until its last completion.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Operation(pub(super) u32);

/// User data of entries whose completion means nothing to anyone.
pub(super) const IGNORED: u64 = u64::MAX;

/// Set in the user data of entries that only lead up to the operation they are linked to.
pub(super) const LEADER: u64 = 1 << 32;

pub(super) struct InFlight {
    pub(super) token: Token,
    pub(super) holds: Holds,
}

/// What an operation keeps alive.
pub(super) enum Holds {
    Accept {
        peer: Box<PeerAddress>,
        slot: Option<u32>,
        local: Option<std::net::SocketAddr>,
    },
    /// `slot`: that of a chain of linked entries.
    Connect {
        _address: Box<SockAddr>,
        slot: Option<u32>,
    },
    Receive,
    Send {
        block: Block,
    },
    Shutdown,
    Wake {
        waker: Waker,
    },
}

pub(super) struct InFlightTable {
    entries: Slab<InFlight>,
}

impl InFlightTable {
    pub(super) fn new() -> Self {
        Self {
            entries: Slab::new(),
        }
    }

    pub(super) fn insert(&mut self, token: Token, holds: Holds) -> Operation {
        let key = self.entries.insert(InFlight { token, holds });
        Operation(u32::try_from(key).expect("fewer than 2^32 operations are in flight"))
    }

    pub(super) fn entry(&mut self, operation: Operation) -> Option<&mut InFlight> {
        self.entries.get_mut(operation.0 as usize)
    }

    pub(super) fn remove(&mut self, operation: Operation) -> Option<InFlight> {
        self.entries.try_remove(operation.0 as usize)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets everything without freeing it.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.entries));
    }
}
