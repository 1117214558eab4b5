//! Receiving into buffers that the kernel selects, one at a time or many with one submission.

use std::io;

use io_uring::{cqueue, opcode, squeue};

use super::user_data;
use crate::ring::buffers::GROUP;
use crate::ring::descriptor::{Descriptor, with_descriptor};
use crate::ring::inflight::{Holds, Operation, Token};
use crate::ring::{Outcome, ReceiveEnd, Ring};

/// `IORING_RECV_MULTISHOT` (kernel 6.0): go on after each buffer.
const MULTISHOT: u16 = 1 << 1;

/// `IORING_RECVSEND_POLL_FIRST` (kernel 5.19): wait for readiness before the first try, which
/// mostly finds nothing on a connection that was just made.
const POLL_FIRST: u16 = 1 << 0;

impl Ring {
    /// Receives until the peer ends, the receive is cancelled or buffers run out. Completes many
    /// times with [`Outcome::Received`] and, unless the last of those said `more: false`, once with
    /// [`Outcome::ReceiveEnded`].
    ///
    /// A reset that came before this call, behind bytes that were not received yet, is not told:
    /// the kernel looks once, takes the bytes and waits for what comes next. Where that may be,
    /// receive with [`Ring::receive_once`] until it finds less than a buffer holds.
    pub fn receive(&mut self, descriptor: &Descriptor, token: Token) -> Operation {
        self.submit_receive(descriptor, token, MULTISHOT | POLL_FIRST)
    }

    /// Receives at most one buffer. Completes once, with [`Outcome::Received`] that says
    /// `more: false`, or with [`Outcome::ReceiveEnded`].
    pub fn receive_once(&mut self, descriptor: &Descriptor, token: Token) -> Operation {
        self.submit_receive(descriptor, token, POLL_FIRST)
    }

    fn submit_receive(&mut self, descriptor: &Descriptor, token: Token, flags: u16) -> Operation {
        let operation = self.in_flight.insert(token, Holds::Receive);
        let entry = with_descriptor!(descriptor, fd => {
            opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                .ioprio(flags)
                .buf_group(GROUP)
                .build()
        })
        .flags(squeue::Flags::BUFFER_SELECT)
        .user_data(user_data(operation));
        // SAFETY: the entry points to nothing; the buffers are those of the registered buffer ring,
        // which outlives the queues.
        unsafe { self.queues.push(&[entry], &mut self.counters) };
        operation
    }
}

pub(super) fn complete(ring: &mut Ring, operation: Operation, entry: &cqueue::Entry) -> Outcome {
    let (result, more) = (entry.result(), cqueue::more(entry.flags()));
    if !more {
        ring.in_flight.remove(operation);
    }
    let buffer = cqueue::buffer_select(entry.flags());
    match (usize::try_from(result), buffer) {
        (Ok(len @ 1..), Some(id)) => Outcome::Received {
            buffer: ring.buffers.take(id, len),
            more,
        },
        (Ok(_), buffer) => {
            if let Some(id) = buffer {
                let empty = ring.buffers.take(id, 0);
                ring.give_back(empty);
            }
            Outcome::ReceiveEnded(ReceiveEnd::EndOfStream)
        }
        (Err(_), _) => Outcome::ReceiveEnded(ended(ring, -result)),
    }
}

fn ended(ring: &mut Ring, errno: i32) -> ReceiveEnd {
    match errno {
        libc::ENOBUFS => {
            ring.counters.buffers_exhausted += 1;
            ReceiveEnd::BuffersExhausted
        }
        libc::ECANCELED => ReceiveEnd::Cancelled,
        errno => ReceiveEnd::Failed(io::Error::from_raw_os_error(errno)),
    }
}
