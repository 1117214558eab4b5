//! The record layer after the handshake.

use crate::block::{Block, Pool};
use crate::close_reason::CloseReason;

/// Both directions of a connection's record protection.
#[derive(Debug)]
pub struct Records {}

/// What [`Records::open`] did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Opened {
    /// Bytes of the input that were taken; less than all only when `out` is full.
    pub consumed: usize,
    /// The peer said close_notify; nothing after it was or will be opened.
    pub closed: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecordFailure {
    pub reason: CloseReason,
    pub detail: String,
    /// The alert to send with [`Records::alert`]; `None` when the peer sent a fatal one.
    pub alert: Option<rustls::AlertDescription>,
}

impl Records {
    /// Opens records of `input` and appends their plaintext to `out` until the input ends or `out`
    /// has no room for the next record. A record that is not complete waits inside, in a block of
    /// `pool`, which goes back as soon as the record is opened.
    pub fn open(
        &mut self,
        _input: &mut [u8],
        _pool: &mut Pool,
        _out: &mut Block,
    ) -> Result<Opened, RecordFailure> {
        todo!()
    }
    /// Seals as much of `plaintext` as `out` has room for; returns how many bytes were taken.
    pub fn seal(&mut self, _plaintext: &[u8], _out: &mut Block) -> Result<usize, RecordFailure> {
        todo!()
    }
    /// Bytes of a block that sealing `len` bytes of plaintext takes.
    pub fn sealed_len(&self, _len: usize) -> usize {
        todo!()
    }
    /// Whether a KeyUpdate of ours is due (the peer asked, or the key's limit is near);
    /// [`Records::flush`] or the next [`Records::seal`] writes it.
    pub fn wants_flush(&self) -> bool {
        todo!()
    }
    pub fn flush(&mut self, _out: &mut Block) -> Result<(), RecordFailure> {
        todo!()
    }
    pub fn close_notify(&mut self, _out: &mut Block) -> Result<(), RecordFailure> {
        todo!()
    }
    pub fn alert(
        &mut self,
        _description: rustls::AlertDescription,
        _out: &mut Block,
    ) -> Result<(), RecordFailure> {
        todo!()
    }
    /// Gives blocks back to the pool; call before dropping.
    pub fn release(&mut self, _pool: &mut Pool) {
        todo!()
    }
    /// Whether a record is half received (a FIN now cuts it short).
    pub fn is_mid_record(&self) -> bool {
        todo!()
    }
}
