//! Reload of a running `ringgate`: what changes, what stays, and who notices.

#[path = "../common/pem.rs"]
mod pem;
#[path = "../common/pki.rs"]
mod pki;
#[allow(dead_code, reason = "each test target uses its part")]
#[path = "../config/scratch.rs"]
mod scratch;

mod broken;
#[allow(dead_code, reason = "each test target uses its part")]
mod gate;
mod load;
mod rotation;
mod trust;

/// A listener that lacks nothing; [`gate::Gate`] says where it listens and where its upstream is.
const FRONT: &str = r#"
[[listener]]
name = "front"
address = "127.0.0.1:0"
certificate = "server.pem"
key = "server.key"
client_ca = "clients-ca.pem"
upstream = "127.0.0.1:8080"
proxy_protocol = "off"
rule = [{ name = "in", allow = { uri = "spiffe://x/in" } }]
"#;
