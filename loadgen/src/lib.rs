//! Capacity questions about mutual TLS, answered from measurements.
//!
//! In the order of use:
//!
//! - [`cli`], [`args`]: the command line; [`units`] and [`threshold`] read what people write there
//! - [`demo`], [`run_command`], [`search`], [`capacity`], [`compare`]: what the commands do;
//!   [`interval_estimate`]: means with their intervals
//! - [`pki`]: a test PKI in memory and in files
//! - [`echo`]: the embedded upstream; [`proxy_header`] reads what it is told and
//!   [`identity_check`] compares that with what was presented
//! - [`run`]: one measured run; [`client`]: the connections of a load thread
//! - [`statistics`], [`series`], [`failure`], [`cpu_time`], [`host`], [`floor`]: what is measured,
//!   and beside what
//! - [`progress`], [`report`], [`details`], [`verdict`]: what is shown of it; [`outputs`]: what is
//!   written, as [`csv`], [`hlog`] and [`page`] too
#![deny(unsafe_code)]

pub mod args;
pub mod capacity;
pub mod cli;
pub mod client;
pub mod compare;
pub mod cpu_time;
pub mod csv;
pub mod demo;
pub mod details;
pub mod echo;
pub mod failure;
pub mod floor;
pub mod hlog;
pub mod host;
pub mod identity_check;
pub mod interval_estimate;
pub mod outputs;
pub mod page;
pub mod pki;
pub mod progress;
pub mod proxy_header;
pub mod report;
pub mod run;
pub mod run_command;
pub mod search;
pub mod series;
pub mod statistics;
pub mod threshold;
pub mod units;
pub mod verdict;
