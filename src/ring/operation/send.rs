//! Sending a block.

use io_uring::opcode;

use super::user_data;
use crate::block::Block;
use crate::ring::Ring;
use crate::ring::descriptor::{Descriptor, with_descriptor};
use crate::ring::inflight::{Holds, Operation, Token};

impl Ring {
    /// Sends the filled bytes of `block`. Completes with [`crate::ring::Outcome::Sent`], which hands
    /// the block back. The kernel tries until all is sent or the connection fails.
    ///
    /// One send at a time per socket: two in flight may overtake each other.
    pub fn send(&mut self, descriptor: &Descriptor, block: Block, token: Token) -> Operation {
        let (pointer, len) = (block.filled().as_ptr(), block.filled().len());
        let len = u32::try_from(len).expect("a block is smaller than 4 GiB");
        let operation = self.in_flight.insert(token, Holds::Send { block });
        let entry = with_descriptor!(descriptor, fd => {
            opcode::Send::new(fd, pointer, len)
                .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
                .build()
        })
        .user_data(user_data(operation));
        // SAFETY: the block's storage is on the heap and owned by the in-flight table until the
        // completion; moving the block there did not move its bytes.
        unsafe { self.queues.push(&[entry], &mut self.counters) };
        operation
    }
}
