//! The TLS side of a terminator against clients in memory.

#[path = "../common/pki.rs"]
mod pki;

mod forged;
mod handshake;
mod key_update;
mod record;
mod resumption;
mod returning;
mod routes;
mod sharing;
mod support;
