//! TLS bytes in and out; sans-IO.

pub mod acceptor;
mod certificate;
pub mod disclosure;
pub mod handshake;
pub mod hello;
pub mod record;
mod resolver;
mod traffic_secrets;

pub use acceptor::{Acceptor, AcceptorOptions, Route};
pub use certificate::{ServerCertificate, load_certified_key};
pub use handshake::{Established, Handshake, HandshakeFailure, Progress};
pub use record::{Opened, RecordFailure, Records};
