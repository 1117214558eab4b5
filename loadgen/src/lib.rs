//! Capacity questions about mutual TLS, answered from measurements.
#![deny(unsafe_code)]

pub mod client;
pub mod cpu_time;
pub mod echo;
pub mod failure;
pub mod floor;
pub mod identity_check;
pub mod pki;
pub mod proxy_header;
pub mod run;
pub mod statistics;
pub mod threshold;
pub mod units;
