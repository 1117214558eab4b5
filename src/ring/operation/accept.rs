//! Accepting: single-shot, each with an address buffer of its own.
//!
//! A multishot accept shares one address buffer among its completions and a direct descriptor
//! cannot be asked for its peer, so several single-shot accepts in flight are how every
//! connection's peer is known without another system call.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::{opcode, types};

use super::{io_result, user_data};
use crate::ring::address::PeerAddress;
use crate::ring::descriptor::{Descriptor, Inner, local_address, plain};
use crate::ring::inflight::{Holds, Operation, Token};
use crate::ring::{Accepted, Listener, Ring};

impl Ring {
    /// Accepts one connection. Completes with [`Outcome::Accepted`].
    ///
    /// On a listener with a specific address the connection gets a direct descriptor, where the
    /// kernel has all that needs (6.8). On a wildcard one it gets a plain one, which costs a
    /// getsockname, because only the socket knows which address the client used.
    ///
    /// # Errors
    ///
    /// EMFILE when no direct descriptor is free.
    pub fn accept(&mut self, listener: &Listener, token: Token) -> io::Result<Operation> {
        let (slot, local) = if listener.is_wildcard() || !self.uses_direct {
            (None, None)
        } else {
            let slot = self.take_slot()?;
            (Some(slot), Some(listener.address()))
        };
        let mut peer = PeerAddress::new();
        let (address, len) = peer.pointers();
        let operation = self
            .in_flight
            .insert(token, Holds::Accept { peer, slot, local });
        let entry = opcode::Accept::new(plain(listener.fd()), address, len)
            .file_index(slot.map(destination))
            .flags(libc::SOCK_CLOEXEC * i32::from(slot.is_none()))
            .build()
            .user_data(user_data(operation));
        // SAFETY: the address and its length are boxed in the in-flight table until the completion;
        // the listener's descriptor is looked up at submission and held by the kernel from there.
        unsafe { self.queues.push(&[entry], &mut self.counters) };
        Ok(operation)
    }
}

pub(super) fn destination(slot: u32) -> types::DestinationSlot {
    types::DestinationSlot::try_from_slot_target(slot)
        .expect("the slot table is far smaller than the kernel's largest index")
}

pub(super) fn complete(
    ring: &mut Ring,
    peer: PeerAddress,
    slot: Option<u32>,
    local: Option<SocketAddr>,
    result: i32,
) -> io::Result<Accepted> {
    let accepted = io_result(result).inspect_err(|_| {
        if let Some(slot) = slot {
            ring.slots.give(slot);
        }
    })?;
    let peer = peer.decode();
    if let (Some(slot), Some(local)) = (slot, local) {
        return Ok(Accepted {
            descriptor: Descriptor(Inner::Direct(slot)),
            peer,
            local,
        });
    }
    let fd = i32::try_from(accepted).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: a successful accept without a destination slot returns a new descriptor that nobody
    // else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let local = local_address(&fd)?;
    Ok(Accepted {
        descriptor: Descriptor(Inner::Plain(fd)),
        peer,
        local,
    })
}
