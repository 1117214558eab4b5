//! The TLS side of one client connection: bytes in and out, no I/O.

use std::io::{BufRead, Cursor, Write};
use std::sync::Arc;

use ringgate::block::Block;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion};
use rustls_pki_types::ServerName;

use super::Agreed;
use crate::failure::Failure;
use crate::statistics::Kind;

/// A TLS client session.
pub struct Session(ClientConnection);

impl Session {
    /// A session whose ClientHello waits in [`Session::take_output`].
    pub fn new(config: &Arc<ClientConfig>, name: &ServerName<'static>) -> Result<Self, Failure> {
        let mut tls = ClientConnection::new(config.clone(), name.clone())?;
        // One unit is in flight at a time, so its size is the bound.
        tls.set_buffer_limit(None);
        Ok(Self(tls))
    }

    pub fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// What the handshake agreed on; `None` before that.
    pub fn agreed(&self) -> Option<Agreed> {
        Some(Agreed {
            version: self.0.protocol_version()?,
            suite: self.0.negotiated_cipher_suite()?.suite(),
            group: self
                .0
                .negotiated_key_exchange_group()
                .map(|group| group.name()),
        })
    }

    /// Whether a session was resumed, as the server decided.
    pub fn kind(&self) -> Kind {
        match self.0.handshake_kind() {
            Some(HandshakeKind::Resumed) => Kind::Resumed,
            _ => Kind::Full,
        }
    }

    /// Whether the server has shown that it accepts this client: with TLS 1.3 by a session ticket,
    /// which it sends after it has looked at the certificate (RFC 8446 section 4.6.1); with TLS 1.2
    /// by its Finished (RFC 5246 section 7.4.9).
    pub fn is_accepted(&self) -> bool {
        if self.0.protocol_version() == Some(ProtocolVersion::TLSv1_2) {
            !self.is_handshaking()
        } else {
            self.0.tls13_tickets_received() > 0
        }
    }

    /// Takes all of `bytes` and hands the plaintext in them to `sink`. True when the server has
    /// sent close_notify.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        mut sink: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let mut closed = false;
        while !bytes.is_empty() {
            let read = self
                .0
                .read_tls(&mut bytes)
                .map_err(|error| Failure::Tls(error.to_string()))?;
            let state = self.0.process_new_packets()?;
            let mut left = state.plaintext_bytes_to_read();
            while left > 0 {
                let mut reader = self.0.reader();
                let plain = reader.fill_buf().map_err(|_| Failure::UnexpectedEof)?;
                let len = plain.len();
                sink(plain)?;
                reader.consume(len);
                left -= len;
            }
            closed |= state.peer_has_closed();
            if read == 0 {
                // After close_notify nothing more is read.
                break;
            }
        }
        Ok(closed)
    }

    /// Queues plaintext.
    pub fn write(&mut self, plain: &[u8]) -> Result<(), Failure> {
        self.0
            .writer()
            .write_all(plain)
            .map_err(|error| Failure::Tls(error.to_string()))
    }

    /// Queues close_notify.
    pub fn close(&mut self) {
        self.0.send_close_notify();
    }

    pub fn wants_output(&self) -> bool {
        self.0.wants_write()
    }

    /// Appends queued TLS bytes to `block` as far as there is room.
    pub fn take_output(&mut self, block: &mut Block) {
        while self.0.wants_write() && block.room() > 0 {
            let mut cursor = Cursor::new(block.unfilled());
            // A cursor that is full takes none, which is no error.
            let Ok(len @ 1..) = self.0.write_tls(&mut cursor) else {
                return;
            };
            block.commit(len);
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("handshaking", &self.is_handshaking())
            .finish()
    }
}
