//! TLS bytes in and out; sans-IO.

pub mod acceptor;
pub mod handshake;
pub mod record;
mod resolver;
mod traffic_secrets;

pub use acceptor::{Acceptor, AcceptorOptions, Route, load_certified_key};
pub use handshake::{Established, Handshake, HandshakeFailure, Progress};
pub use record::{Opened, RecordFailure, Records};
