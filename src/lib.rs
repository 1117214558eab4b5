//! Ringgate terminates mutual TLS.
#![deny(unsafe_code)]

pub mod block;
pub mod clock;
pub mod close_reason;
pub mod limits;

pub mod ring;
pub mod tls;
pub mod trust;
