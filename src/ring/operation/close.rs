//! Closing a descriptor through the ring.

use std::os::fd::IntoRawFd;

use io_uring::{opcode, squeue, types};

use crate::ring::Ring;
use crate::ring::descriptor::{Descriptor, Inner};
use crate::ring::inflight::IGNORED;

impl Ring {
    /// Closes a socket. Operations on it that are in flight keep the connection open until they
    /// complete: cancel them first.
    ///
    /// A direct slot is free again at once, or when a connect in it has ended: entries are executed
    /// in the order submitted, but for those of a connect, which wait for each other. Closing a
    /// slot never waits, so whoever takes the slot next finds it empty.
    pub fn close(&mut self, descriptor: Descriptor) {
        let entry = match descriptor.0 {
            Inner::Direct(slot) => {
                self.slots.give(slot);
                opcode::Close::new(types::Fixed(slot)).build()
            }
            Inner::Plain(fd) => opcode::Close::new(types::Fd(fd.into_raw_fd())).build(),
        };
        let entry = entry.user_data(IGNORED).flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: the entry points to nothing; the descriptor was owned and is given up here.
        unsafe { self.queues.push(&[entry], &mut self.counters) };
    }
}
