//! The only unsafe code, and the only room that names `io_uring` or `libc`.
//!
//! A [`Ring`] owns whatever the kernel may still read or write: blocks that are being sent, receive
//! buffers, addresses. An operation takes them by value and its completion hands them back, so a
//! caller cannot free or change them too early; a ring that is dropped cancels what is in flight
//! and waits for it before it frees anything.
//!
//! One ring belongs to one thread. Kernel 6.1 or newer.

#![allow(unsafe_code)]

mod address;
mod buffers;
mod descriptor;
mod inflight;
mod inherit;
mod listener;
mod memory;
mod node;
mod operation;
mod probe;
mod queue;
mod setup;
mod steering;

pub use address::Target;
pub use buffers::Received;
pub use descriptor::{Descriptor, DescriptorKind};
pub use inflight::{Operation, Token};
pub use inherit::{Passed, PassedError, passed_descriptors};
pub use listener::{Listener, UnfitSocket};
pub use memory::{give_back_freed_memory, lock_memory};
pub use node::{MemoryPolicy, set_memory_policy};
pub use operation::wake::Waker;
pub use probe::{Check, Finding, checks, raise_descriptor_limit};
pub use setup::{RingError, RingOptions};
pub use steering::Steering;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use buffers::BufferRing;
use descriptor::SlotTable;
use inflight::InFlightTable;
use queue::Queues;

use crate::block::Block;

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    pub descriptor: Descriptor,
    pub peer: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
}

/// How a receive came to its end.
#[derive(Debug)]
pub enum ReceiveEnd {
    /// No receive buffer was free; receive again when some came back.
    BuffersExhausted,
    /// Cancelled on request.
    Cancelled,
    /// The peer closed its sending side.
    EndOfStream,
    Failed(io::Error),
}

/// What happened to an operation.
#[derive(Debug)]
pub enum Outcome {
    Accepted(io::Result<Accepted>),
    Connected(io::Result<()>),
    /// Bytes arrived; read them with [`Ring::received`] and return the buffer with
    /// [`Ring::give_back`]. When `more` is false the receive has ended and must be started again.
    Received {
        buffer: Received,
        more: bool,
    },
    ReceiveEnded(ReceiveEnd),
    /// A send ended: how many bytes of the block went out. Fewer than all is no error.
    Sent {
        block: Block,
        result: io::Result<usize>,
    },
    /// A [`Waker`] woke this ring.
    Woken,
}

/// A completion: what the caller called the operation, and what became of it.
#[derive(Debug)]
pub struct Completion {
    pub token: Token,
    pub outcome: Outcome,
}

/// Counters of one ring since it was made; each only grows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RingCounters {
    /// System calls `io_uring_enter`.
    pub enters: u64,
    pub submissions: u64,
    pub completions: u64,
    /// Receives that ended because no buffer was free.
    pub buffers_exhausted: u64,
    /// Times the completion queue was found overflown.
    pub overflows: u64,
}

/// One io_uring with its buffers, descriptors and operations in flight. See the module.
pub struct Ring {
    queues: Queues,
    buffers: BufferRing,
    slots: SlotTable,
    in_flight: InFlightTable,
    counters: RingCounters,
    /// Whether direct descriptors can do all that is asked of a socket here.
    uses_direct: bool,
    /// Whether multishot receives can end after a number of bytes.
    limits_receives: bool,
}

impl Ring {
    /// Sets a ring up on this thread.
    pub fn new(options: &RingOptions) -> Result<Self, RingError> {
        setup::build(options)
    }

    /// Submits what is queued and waits until a completion is there or `timeout` has passed
    /// (`None`: for as long as it takes). Returns at once when completions wait already.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.queues.is_drained() {
            self.buffers.publish();
        }
        self.queues.wait(timeout, &mut self.counters)
    }

    /// The next completion that is there, or `None`.
    pub fn next_completion(&mut self) -> Option<Completion> {
        loop {
            let entry = self.queues.next_entry()?;
            self.counters.completions += 1;
            if let Some(completion) = operation::complete(self, &entry) {
                return Some(completion);
            }
        }
    }

    /// The bytes of a receive buffer.
    pub fn received(&mut self, buffer: &Received) -> &mut [u8] {
        self.buffers.bytes(buffer)
    }

    /// Lends a receive buffer to the kernel again.
    pub fn give_back(&mut self, buffer: Received) {
        self.buffers.give_back(buffer);
    }

    /// Receive buffers that the kernel holds.
    pub fn free_buffers(&self) -> usize {
        self.buffers.lent()
    }

    /// Operations whose completion is still to come.
    pub fn operations_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Direct descriptors in use.
    pub fn slots_in_use(&self) -> usize {
        self.slots.in_use()
    }

    pub fn counters(&self) -> RingCounters {
        self.counters
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        operation::cancel::drain(self);
        if self.in_flight.len() > 0 {
            // The kernel may still write to these; losing them is the lesser evil.
            self.in_flight.leak();
            self.buffers.leak();
        }
    }
}
