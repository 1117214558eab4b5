//! Receiving into buffers that the kernel selects, one at a time or many with one submission.

use std::io;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

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

/// Where `optlen` lies in a submission queue entry (`struct io_uring_sqe` in linux/io_uring.h).
const OPTLEN_OFFSET: usize = 44;

impl Ring {
    /// Receives until the peer ends, the receive is cancelled or buffers run out. Completes many
    /// times with [`Outcome::Received`] and, unless the last of those said `more: false`, once with
    /// [`Outcome::ReceiveEnded`].
    ///
    /// It also ends once it brought a buffer's length of bytes, where the kernel knows a limit
    /// (6.17): a peer that begins to send much while it is waited for fills two buffers then, and
    /// otherwise all of them, before anybody can stop it.
    ///
    /// Not for Unix sockets: since 6.17 the end is not told where it came before this call, behind
    /// bytes that were not received yet.
    ///
    /// A reset that came before this call, behind bytes that were not received yet, is not told:
    /// the kernel looks once, takes the bytes and waits for what comes next. Where that may be,
    /// receive with [`Ring::receive_once`] until it finds less than a buffer holds.
    pub fn receive(&mut self, descriptor: &Descriptor, token: Token) -> Operation {
        let limit = match self.limits_receives {
            true => self.buffers.buffer_len(),
            false => 0,
        };
        self.submit_receive(descriptor, token, MULTISHOT | POLL_FIRST, [0, limit])
    }

    /// Receives at most `len` bytes, into one buffer. Completes once, with [`Outcome::Received`] that
    /// says `more: false`, or with [`Outcome::ReceiveEnded`].
    pub fn receive_once(&mut self, descriptor: &Descriptor, token: Token, len: usize) -> Operation {
        let most = self.buffers.buffer_len();
        let len = u32::try_from(len).map_or(most, |len| len.min(most));
        self.submit_receive(descriptor, token, POLL_FIRST, [len, 0])
    }

    /// At most `len` bytes at a time and `limit` in all; 0 is no limit of its own.
    fn submit_receive(
        &mut self,
        descriptor: &Descriptor,
        token: Token,
        flags: u16,
        [len, limit]: [u32; 2],
    ) -> Operation {
        let operation = self.in_flight.insert(token, Holds::Receive);
        let entry = with_descriptor!(descriptor, fd => {
            opcode::Recv::new(fd, std::ptr::null_mut(), len)
                .ioprio(flags)
                .buf_group(GROUP)
                .build()
        })
        .flags(squeue::Flags::BUFFER_SELECT)
        .user_data(user_data(operation));
        // SAFETY: the entry points to nothing; the buffers are those of the registered buffer ring,
        // which outlives the queues.
        unsafe {
            self.queues
                .push(&[limited(entry, limit)], &mut self.counters)
        };
        operation
    }
}

/// Has a multishot receive end after `limit` bytes, which only kernels take that
/// [`knows_limit`] finds to.
fn limited(mut entry: squeue::Entry, limit: u32) -> squeue::Entry {
    const { assert!(size_of::<squeue::Entry>() == 64) };
    // SAFETY: an entry is `repr(C)` and nothing but the kernel's 64 bytes, of which these four are
    // `optlen` in the union that a receive uses for nothing else; they are aligned, and any value is
    // valid there.
    unsafe {
        let optlen = (&raw mut entry).byte_add(OPTLEN_OFFSET).cast::<u32>();
        optlen.write(limit);
    }
    entry
}

/// Whether this kernel has multishot receives end after a number of bytes (6.17), found out by asking
/// for one on no socket: before, the entry itself is refused.
pub(in crate::ring) fn knows_limit() -> io::Result<bool> {
    let mut uring = IoUring::new(2)?;
    let entry = opcode::Recv::new(types::Fd(-1), std::ptr::null_mut(), 0)
        .ioprio(MULTISHOT)
        .buf_group(GROUP)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT);
    // SAFETY: the entry points to nothing, and the ring has no buffers.
    unsafe { uring.submission().push(&limited(entry, 1)) }
        .map_err(|_| io::ErrorKind::WouldBlock)?;
    uring.submit_and_wait(1)?;
    let answer = uring.completion().next();
    Ok(answer.is_some_and(|entry| entry.result() == -libc::EBADF))
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
