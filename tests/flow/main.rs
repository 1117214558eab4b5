//! Whole connections: real clients on loopback through a running terminator to real upstreams.

mod flood;
#[path = "../common/introduction.rs"]
mod introduction;
#[path = "../common/leaving.rs"]
mod leaving;
#[path = "../common/pem.rs"]
mod pem;
#[path = "../common/pki.rs"]
mod pki;
#[path = "../common/proxy_v2.rs"]
mod proxy_v2;
mod upstream;
mod world;

mod aborts;
mod ending;
mod faults;
mod health;
mod layout;
mod memory;
mod overload;
mod pressure;
mod protocol;
mod proxied;
mod refusal;
mod relay;
mod reload;
mod resumption;
mod revocation;
mod routes;
mod start;
mod streams;
mod upkeep;
