//! The client's side of one connection: TLS, its flights with nothing in them, or nothing at all.
#![allow(dead_code, reason = "each bench uses its part")]

use std::io::{BufRead, Cursor, Write};
use std::sync::Arc;

use ringgate::block::Block;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs as provider};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, SupportedCipherSuite, SupportedProtocolVersion,
    version,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::believe::BelieveAll;
use crate::flights::{Caller, Flights};

/// How clients speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Speech {
    Plain,
    /// What TLS would send and receive, without it.
    Flights(Flights),
    /// TLS, with a full handshake each time.
    Full,
    /// TLS; every connection but the first of each client resumes.
    Resumed,
}

/// The only version, suite and group that a client offers.
#[derive(Clone, Copy)]
pub struct Offer {
    pub version: &'static SupportedProtocolVersion,
    pub suite: SupportedCipherSuite,
    pub group: &'static dyn SupportedKxGroup,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            version: &version::TLS13,
            suite: provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
            group: provider::kx_group::X25519,
        }
    }
}

/// What a client presents, and how.
pub struct Credential {
    pub offer: Offer,
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub server_name: ServerName<'static>,
}

/// One client, whose connections come one after another.
pub enum Client {
    Plain,
    Flights(Flights),
    Tls {
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    },
}

impl Client {
    /// A client with sessions of its own.
    pub fn new(speech: Speech, credential: &Credential) -> Self {
        match speech {
            Speech::Plain => return Self::Plain,
            Speech::Flights(flights) => return Self::Flights(flights),
            Speech::Full | Speech::Resumed => {}
        }
        let crypto = CryptoProvider {
            cipher_suites: vec![credential.offer.suite],
            kx_groups: vec![credential.offer.group],
            ..provider::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(crypto))
            .with_protocol_versions(&[credential.offer.version])
            .expect("a suite of this version")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(BelieveAll))
            .with_client_auth_cert(credential.chain.clone(), credential.key.clone_key())
            .expect("a key that fits its certificate");
        config.resumption = match speech {
            Speech::Resumed => Resumption::in_memory_sessions(4),
            _ => Resumption::disabled(),
        };
        Self::Tls {
            config: Arc::new(config),
            name: credential.server_name.clone(),
        }
    }

    pub fn session(&self) -> Session {
        match self {
            Self::Plain => Session::Plain(Vec::new()),
            Self::Flights(flights) => Session::Flights(Caller::new(*flights)),
            Self::Tls { config, name } => {
                let tls = ClientConnection::new(Arc::clone(config), name.clone());
                let mut tls = tls.expect("a client");
                tls.set_buffer_limit(None);
                Session::Tls(Box::new(tls))
            }
        }
    }
}

/// One connection's state.
pub enum Session {
    /// What waits to be sent.
    Plain(Vec<u8>),
    Flights(Caller),
    Tls(Box<ClientConnection>),
}

impl Session {
    /// Takes what arrived; how many bytes of payload were in it.
    pub fn receive(&mut self, mut bytes: &[u8]) -> usize {
        let tls = match self {
            Self::Plain(_) => return bytes.len(),
            Self::Flights(caller) => return caller.receive(bytes.len()),
            Self::Tls(tls) => tls,
        };
        let mut payload = 0;
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes).expect("a slice");
            let state = tls
                .process_new_packets()
                .expect("a server that plays along");
            let mut left = state.plaintext_bytes_to_read();
            payload += left;
            while left > 0 {
                let mut reader = tls.reader();
                let len = reader.fill_buf().expect("bytes that were announced").len();
                reader.consume(len);
                left -= len;
            }
        }
        payload
    }

    pub fn is_ready(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Flights(caller) => caller.is_ready(),
            Self::Tls(tls) => !tls.is_handshaking(),
        }
    }

    pub fn is_resumed(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    pub fn write(&mut self, payload: &[u8]) {
        match self {
            Self::Plain(queued) => queued.extend_from_slice(payload),
            Self::Flights(caller) => caller.write(),
            Self::Tls(tls) => tls.writer().write_all(payload).expect("no limit is set"),
        }
    }

    /// Says close_notify; whether that takes the place of closing the stream's direction.
    pub fn says_goodbye(&mut self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Flights(caller) => {
                caller.says_goodbye();
                true
            }
            Self::Tls(tls) => {
                tls.send_close_notify();
                true
            }
        }
    }

    /// Appends what waits to be sent to `block`, as far as there is room.
    pub fn take_output(&mut self, block: &mut Block) {
        match self {
            Self::Plain(queued) => {
                let taken = block.append(queued);
                queued.drain(..taken);
            }
            Self::Flights(caller) => caller.take_output(block),
            Self::Tls(tls) => {
                while tls.wants_write() && block.room() > 0 {
                    let mut cursor = Cursor::new(block.unfilled());
                    let len = tls.write_tls(&mut cursor).expect("a slice");
                    block.commit(len);
                }
            }
        }
    }
}
