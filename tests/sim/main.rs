//! Whole connections without a kernel: a client, the terminator's connection and an upstream in
//! memory, with a seed that decides who does what when, and what goes wrong.
//!
//! `RINGGATE_SIM_SEED=7 cargo test --test sim` runs one seed, `RINGGATE_SIM_SEEDS=1000000` so many.

mod cast;
mod checks;
mod client;
mod driver;
mod ending;
mod hand;
mod proxied;
mod regressions;
mod rng;
mod scenario;
mod seeds;
mod tickets;
mod trace;
mod truncation;
mod upstream;
mod wire;
mod world;

#[path = "../common/introduction.rs"]
mod introduction;
#[path = "../common/pki.rs"]
mod pki;
#[path = "../common/proxy_v2.rs"]
mod proxy_v2;
#[path = "../tls/support.rs"]
mod support;
