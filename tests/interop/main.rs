//! Ringgate as a new user would try it: the program itself, spoken to by other people's clients,
//! with other people's upstreams behind it.
//!
//! A test whose program is missing says so on standard error and passes.

#[path = "../common/proxy_v2.rs"]
mod proxy_v2;

mod echo;
mod gate;
mod nginx;
mod pki;
mod program;
mod scenario;

mod balancers;
mod curl_nginx;
mod gnutls;
#[cfg(feature = "mimalloc")]
mod memory;
mod nginx_stream;
mod node;
mod openssl;
mod python;
