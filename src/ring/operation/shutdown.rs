//! Closing one direction of a socket.

use io_uring::{opcode, squeue};

use crate::ring::Ring;
use crate::ring::descriptor::{Descriptor, with_descriptor};
use crate::ring::inflight::IGNORED;

impl Ring {
    /// Tells the peer that nothing more will be sent. There is no completion; a socket that is
    /// gone already makes this do nothing.
    pub fn shutdown_send(&mut self, descriptor: &Descriptor) {
        let entry = with_descriptor!(descriptor, fd => {
            opcode::Shutdown::new(fd, libc::SHUT_WR).build()
        })
        .user_data(IGNORED)
        .flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: the entry points to nothing.
        unsafe { self.queues.push(&[entry], &mut self.counters) };
    }
}
