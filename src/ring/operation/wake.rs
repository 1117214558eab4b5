//! Waking a ring from another thread.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use io_uring::{cqueue, opcode};
use rustix::event::{EventfdFlags, eventfd};

use super::user_data;
use crate::ring::descriptor::plain;
use crate::ring::inflight::{Holds, InFlight, Operation, Token};
use crate::ring::{Outcome, Ring};

/// Wakes the ring that waits on it; clones wake the same ring.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?)))
    }

    /// Makes the ring's wait return. Many calls may be seen as one.
    pub fn wake(&self) {
        // The counter is full only if 2^64 - 2 wakes were not seen; then it wakes anyway.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    /// Forgets the wakes so far.
    pub fn reset(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

impl Ring {
    /// Completes with [`Outcome::Woken`] each time `waker` is used, until the ring ends. The caller
    /// keeps a clone and calls [`Waker::reset`] before it looks at what it was woken for.
    pub fn watch(&mut self, waker: &Waker, token: Token) -> Operation {
        let waker = waker.clone();
        let operation = self.in_flight.insert(token, Holds::Wake { waker });
        self.poll_waker(operation);
        operation
    }

    fn poll_waker(&mut self, operation: Operation) {
        let Some(InFlight {
            holds: Holds::Wake { waker },
            ..
        }) = self.in_flight.entry(operation)
        else {
            return;
        };
        let events = u32::from(libc::POLLIN.unsigned_abs());
        let entry = opcode::PollAdd::new(plain(&waker.0), events)
            .multi(true)
            .build()
            .user_data(user_data(operation));
        // SAFETY: the entry points to nothing; the in-flight table keeps the eventfd open.
        unsafe { self.queues.push(&[entry], &mut self.counters) };
    }
}

/// `None` when the poll ended for good, because the ring is being dropped.
pub(super) fn complete(
    ring: &mut Ring,
    operation: Operation,
    entry: &cqueue::Entry,
) -> Option<Outcome> {
    let woken = entry.result() >= 0;
    match (cqueue::more(entry.flags()), woken) {
        (true, _) => {}
        // The kernel ends a poll that found no room for a completion.
        (false, true) => ring.poll_waker(operation),
        (false, false) => drop(ring.in_flight.remove(operation)),
    }
    woken.then_some(Outcome::Woken)
}
