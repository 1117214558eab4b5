//! One direction of a relay: the blocks that wait to be sent, and when its source is read.

use std::collections::VecDeque;

use super::{Action, Context, Side};
use crate::block::{Block, Pool};
use crate::limits::{BLOCKS_PER_DIRECTION, BLOCKS_PER_DIRECTION_MAX};

/// The flow from one side to the other. At most one block is being sent; what arrives meanwhile is
/// gathered into the next one, so that small writes leave together.
pub(super) struct Direction {
    source: Side,
    /// The block that is sent next.
    next: Option<Block>,
    /// Those behind it. Most of the time there are none, and this holds no memory.
    behind: VecDeque<Block>,
    /// A block is with the driver.
    pub(super) sending: bool,
    /// The driver receives from the source.
    receiving: bool,
    /// The source said that nothing follows.
    pub(super) ended: bool,
    /// The sink was told that nothing follows.
    pub(super) shut: bool,
}

impl Direction {
    pub(super) fn new(source: Side) -> Self {
        Self {
            source,
            next: None,
            behind: VecDeque::new(),
            sending: false,
            receiving: false,
            ended: false,
            shut: false,
        }
    }

    /// Blocks held, the one being sent included.
    pub(super) fn blocks(&self) -> usize {
        usize::from(self.next.is_some()) + self.behind.len() + usize::from(self.sending)
    }

    /// Whether everything taken from the source has left.
    pub(super) fn is_flushed(&self) -> bool {
        self.blocks() == 0
    }

    pub(super) fn receive(&mut self, context: &mut Context<'_>) {
        if !self.receiving && !self.ended {
            self.receiving = true;
            context.actions.push(Action::Receive(self.source));
        }
    }

    /// The driver receives no more, because the stream ended.
    pub(super) fn receive_ended(&mut self) {
        self.receiving = false;
    }

    /// Stops reading the source above the watermark, and goes on below it. `kept` blocks are held
    /// for the source beside those that wait to be sent.
    pub(super) fn balance(&mut self, kept: usize, context: &mut Context<'_>) {
        if self.blocks() + kept >= BLOCKS_PER_DIRECTION {
            if self.receiving {
                self.receiving = false;
                context.actions.push(Action::StopReceiving(self.source));
            }
        } else {
            self.receive(context);
        }
    }

    /// The block to append to: the last one that waits, if it has `room` bytes left, or a new one.
    /// `None` when the pool or this direction's share of it is used up.
    pub(super) fn writable(&mut self, room: usize, pool: &mut Pool) -> Option<Block> {
        let last = self.behind.back().or(self.next.as_ref());
        if last.is_some_and(|block| block.room() >= room) {
            return self.behind.pop_back().or_else(|| self.next.take());
        }
        if self.blocks() >= BLOCKS_PER_DIRECTION_MAX {
            return None;
        }
        pool.take()
    }

    /// Queues a block, or gives it back when nothing is in it.
    pub(super) fn push(&mut self, block: Block, pool: &mut Pool) {
        if block.is_empty() {
            pool.give(block);
        } else if self.next.is_none() {
            self.next = Some(block);
        } else {
            self.behind.push_back(block);
        }
    }

    /// Sends the next block if none is being sent.
    pub(super) fn pump(&mut self, sink: Side, context: &mut Context<'_>) {
        if self.sending {
            return;
        }
        if let Some(block) = self.next.take() {
            debug_assert_ne!(sink, self.source);
            self.next = self.behind.pop_front();
            self.send(block, context);
        }
        if self.behind.is_empty() && self.behind.capacity() > 0 {
            // An idle connection holds nothing.
            self.behind = VecDeque::new();
        }
    }

    pub(super) fn send(&mut self, block: Block, context: &mut Context<'_>) {
        self.sending = true;
        context.actions.push(Action::Send(self.sink(), block));
    }

    fn sink(&self) -> Side {
        match self.source {
            Side::Client => Side::Upstream,
            Side::Upstream => Side::Client,
        }
    }

    /// Gives every block that waits back to the pool.
    pub(super) fn discard(&mut self, pool: &mut Pool) {
        let behind = std::mem::take(&mut self.behind);
        for block in self.next.take().into_iter().chain(behind) {
            pool.give(block);
        }
    }
}
