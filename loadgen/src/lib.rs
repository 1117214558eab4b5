//! Capacity questions about mutual TLS, answered from measurements.
#![deny(unsafe_code)]

pub mod pki;
pub mod proxy_header;
