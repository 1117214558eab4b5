//! Closing one direction of a socket.
//!
//! The ring's own shutdown operation is always handed to a worker thread of the kernel, which costs
//! more than the packet it sends, and which looks its descriptor up only then: by that time a slot
//! that was closed may hold the next connection, whose stream would end instead. So the system call
//! is used, on a file descriptor that a direct descriptor is given for a moment (kernel 6.8).

use std::net::Shutdown;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::{opcode, types};
use socket2::SockRef;

use super::user_data;
use crate::ring::Ring;
use crate::ring::descriptor::{Descriptor, Inner};
use crate::ring::inflight::{Holds, Token};

impl Ring {
    /// Tells the peer that nothing more will be sent, at the latest in the next turn. There is no
    /// completion; a socket that is gone already makes this do nothing. It may be closed at once:
    /// what is sent before the end still arrives before it.
    pub fn shutdown_send(&mut self, descriptor: &Descriptor) {
        match &descriptor.0 {
            Inner::Plain(fd) => end_sending(fd),
            Inner::Direct(slot) => {
                let operation = self.in_flight.insert(Token(0), Holds::Shutdown);
                let entry = opcode::FixedFdInstall::new(types::Fixed(*slot), 0)
                    .build()
                    .user_data(user_data(operation));
                // SAFETY: the entry points to nothing. It is executed before any later entry that
                // closes the slot or fills it anew.
                unsafe { self.queues.push(&[entry], &mut self.counters) };
            }
        }
    }
}

/// `result` is a new file descriptor for the socket to shut down.
pub(super) fn complete(result: i32) {
    // Without a file descriptor left the peer learns of the end when the socket closes.
    if result >= 0 {
        // SAFETY: the kernel has just installed this descriptor for us; nobody else owns it.
        end_sending(&unsafe { OwnedFd::from_raw_fd(result) });
    }
}

fn end_sending(fd: &OwnedFd) {
    // Fails only where there is no connection any more, and so nobody to tell.
    let _ = SockRef::from(fd).shutdown(Shutdown::Write);
}
