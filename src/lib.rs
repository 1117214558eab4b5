//! Ringgate terminates mutual TLS.
#![deny(unsafe_code)]

pub mod block;
pub mod clock;
pub mod close_reason;
pub mod limits;

pub mod config;
pub mod connection;
pub mod control;
pub mod ring;
pub mod shard;
pub mod snapshot;
pub mod terminator;
pub mod tls;
pub mod trust;

pub use terminator::Terminator;
