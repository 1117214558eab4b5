//! Drives rustls's unbuffered handshake until our own record layer takes over.

use std::sync::Arc;

use super::{Acceptor, Records};
use crate::block::{Block, Pool};
use crate::close_reason::CloseReason;
use crate::trust::{Authorized, Identity};

/// A handshake in progress.
#[derive(Debug)]
pub struct Handshake {}

#[derive(Debug)]
pub enum Progress {
    /// More bytes are needed.
    Continue,
    Established(Box<Established>),
}

/// A handshake that is done: the client proved who it is and policy lets it in.
#[derive(Debug)]
pub struct Established {
    pub records: Records,
    pub client: Authorized,
    /// Index of the route in the acceptor.
    pub route: usize,
    /// As the client sent it, in lower case.
    pub server_name: Option<Arc<str>>,
    pub alpn: Option<Vec<u8>>,
    pub version: rustls::ProtocolVersion,
    pub suite: rustls::CipherSuite,
    pub resumed: bool,
}

/// A handshake that ended.
#[derive(Debug)]
pub struct HandshakeFailure {
    pub reason: CloseReason,
    /// For people.
    pub detail: String,
    /// Who the client's leaf claims to be, as far as it could be read. Unproven.
    pub claimed: Option<Arc<Identity>>,
    pub server_name: Option<Arc<str>>,
}

impl Handshake {
    pub fn new(_acceptor: &Acceptor) -> Result<Self, HandshakeFailure> {
        todo!()
    }

    /// Takes all of `input`. What must be sent is appended to `out`, in failure too (the alert).
    ///
    /// After [`Progress::Established`] bytes that came behind the client's Finished wait in
    /// [`Records`]: call [`Records::open`] once with no input.
    pub fn receive(
        &mut self,
        _input: &mut [u8],
        _pool: &mut Pool,
        _out: &mut Block,
    ) -> Result<Progress, HandshakeFailure> {
        todo!()
    }

    /// Gives blocks back to the pool; call before dropping.
    pub fn release(&mut self, _pool: &mut Pool) {
        todo!()
    }
}
