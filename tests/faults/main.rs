//! A running `ringgate` under load, slowness and faults: it degrades, says so and recovers. It
//! never loses those who do no wrong, never spins, and never wedges.
//!
//! Each scenario has a name, and [`rows`] holds that each name is a test somewhere here. A test
//! that lacks a program or a right that it needs says so on standard error and passes.

#[path = "../reload/gate.rs"]
#[allow(dead_code, reason = "each test target uses its part")]
mod gate;
#[path = "../common/leaving.rs"]
mod leaving;
#[path = "../common/pem.rs"]
mod pem;
#[path = "../common/pki.rs"]
mod pki;
#[path = "../interop/program.rs"]
#[allow(dead_code, reason = "each test target uses its part")]
mod program;
#[allow(dead_code, reason = "each test target uses its part")]
#[path = "../config/scratch.rs"]
mod scratch;

mod admin;
mod load;
mod plan;
mod process;

mod aborts;
mod changes;
mod exhaustion;
mod handshakes;
mod rows;
mod slowness;
mod starting;
mod upgrades;
mod upstreams;

use gate::FRONT;
