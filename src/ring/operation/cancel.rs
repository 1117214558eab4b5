//! Cancelling, and waiting for what is in flight before memory is freed.

use std::time::{Duration, Instant};

use io_uring::{opcode, squeue, types};

use crate::ring::Ring;
use crate::ring::inflight::{IGNORED, Operation};

/// How long a ring that is dropped waits for its operations. Cancelled socket operations complete
/// at once; what is left after this is leaked rather than freed under the kernel.
const DRAIN_MAX: Duration = Duration::from_secs(2);

impl Ring {
    /// Asks for the end of `operation`. Its completion still comes: with the cancellation, or with
    /// what it did before.
    pub fn cancel(&mut self, operation: Operation) {
        let entry = opcode::AsyncCancel::new(super::user_data(operation))
            .build()
            .user_data(IGNORED)
            .flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: the entry points to nothing.
        unsafe { self.queues.push(&[entry], &mut self.counters) };
    }
}

/// Cancels everything and takes completions until nothing is in flight.
pub(in crate::ring) fn drain(ring: &mut Ring) {
    let deadline = Instant::now() + DRAIN_MAX;
    while ring.next_completion().is_some() {}
    while ring.in_flight.len() > 0 && Instant::now() < deadline {
        let entry = opcode::AsyncCancel2::new(types::CancelBuilder::any())
            .build()
            .user_data(IGNORED)
            .flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: the entry points to nothing.
        unsafe { ring.queues.push(&[entry], &mut ring.counters) };
        if ring.wait(Some(Duration::from_millis(20))).is_err() {
            return;
        }
        while ring.next_completion().is_some() {}
    }
}
