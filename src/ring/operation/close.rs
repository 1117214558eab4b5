//! Closing a descriptor through the ring.

use std::os::fd::IntoRawFd;
use std::time::Duration;

use io_uring::{opcode, squeue, types};
use socket2::SockRef;

use crate::ring::Ring;
use crate::ring::descriptor::{Descriptor, Inner, with_descriptor};
use crate::ring::inflight::IGNORED;

/// SO_LINGER for no time: what is unsent is dropped and the peer gets a reset. The kernel reads it
/// from here.
static NO_LINGER: libc::linger = libc::linger {
    l_onoff: 1,
    l_linger: 0,
};

impl Ring {
    /// As [`Ring::close`], but the peer of a TCP connection gets a reset, and no port of this host
    /// waits for what may still arrive.
    pub fn abort(&mut self, descriptor: Descriptor) {
        if let (false, Inner::Plain(fd)) = (self.uses_direct, &descriptor.0) {
            // The ring sets options since 6.7. A socket that takes none is closed all the same.
            let _ = SockRef::from(fd).set_linger(Some(Duration::ZERO));
            return self.close(descriptor);
        }
        let entry = with_descriptor!(descriptor, fd => {
            opcode::SetSockOpt::new(
                fd,
                libc::SOL_SOCKET.unsigned_abs(),
                libc::SO_LINGER.unsigned_abs(),
                (&raw const NO_LINGER).cast(),
                u32::try_from(size_of_val(&NO_LINGER)).expect("two ints are small"),
            )
            .build()
        });
        let entry = entry.user_data(IGNORED).flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: the option's value is static, and the descriptor is open until the entry behind
        // this one closes it: entries are executed in the order submitted.
        unsafe { self.queues.push(&[entry], &mut self.counters) };
        self.close(descriptor);
    }

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
