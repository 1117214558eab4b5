//! Bytes on their way from a peer to the terminator, and how they end.

use std::collections::VecDeque;

/// How a stream ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    Fin,
    Reset,
}

/// Where a stream is cut off, and what comes then: an end, or nothing more at all.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub at: usize,
    pub end: Option<End>,
}

/// What happens to a stream on its way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    pub cut: Option<Cut>,
    /// One bit of the byte at this position is flipped.
    pub flipped: Option<usize>,
    /// A reset takes along what was not received yet.
    pub reset_drops: bool,
}

#[derive(Debug, Default)]
pub struct Wire {
    bytes: VecDeque<u8>,
    trouble: Trouble,
    sent: usize,
    received: usize,
    end: Option<End>,
    /// Nothing more is let through.
    over: bool,
}

impl Wire {
    pub fn new(trouble: Trouble) -> Self {
        Self {
            trouble,
            ..Self::default()
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        if self.over {
            return;
        }
        let (from, to) = (self.sent, self.sent + bytes.len());
        self.bytes.extend(bytes);
        if let Some(at) = self.trouble.flipped.filter(|at| (from..to).contains(at)) {
            let from_end = to - at;
            let index = self.bytes.len() - from_end;
            self.bytes[index] ^= 1 << (at % 8);
        }
        self.sent = to;
        if let Some(cut) = self.trouble.cut.filter(|cut| to >= cut.at) {
            let excess = (to - cut.at).min(bytes.len());
            self.bytes.truncate(self.bytes.len() - excess);
            self.sent = to - excess;
            self.over = true;
            if let Some(end) = cut.end {
                self.end_as(end);
            }
        }
    }

    pub fn finish(&mut self, end: End) {
        if !self.over {
            self.over = true;
            self.end_as(end);
        }
    }

    /// A reset overtakes whatever was said before.
    pub fn reset(&mut self) {
        self.over = true;
        self.end_as(End::Reset);
    }

    fn end_as(&mut self, end: End) {
        self.end = Some(end);
        if end == End::Reset && self.trouble.reset_drops {
            self.bytes.clear();
        }
    }

    pub fn receive(&mut self, len: usize) -> Vec<u8> {
        self.received += len;
        self.bytes.drain(..len).collect()
    }

    /// Bytes that can be received.
    pub fn waiting(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes let through so far.
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// Bytes received so far.
    pub fn received(&self) -> usize {
        self.received
    }

    /// The end, once every byte before it was received.
    pub fn end(&self) -> Option<End> {
        self.end.filter(|_| self.bytes.is_empty())
    }

    /// Whether there is an end, if perhaps behind bytes that were not received yet.
    pub fn has_end(&self) -> bool {
        self.end.is_some()
    }

    pub fn is_reset(&self) -> bool {
        self.end == Some(End::Reset)
    }
}
