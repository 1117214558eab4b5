//! The TLS side of a terminator against clients in memory.

mod forged;
mod handshake;
mod key_update;
mod record;
mod routes;
mod support;
