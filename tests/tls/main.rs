//! The TLS side of a terminator against clients in memory.

mod handshake;
mod record;
mod support;
