//! What the program's memory does when its work is done.

use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;

use ringgate::ring::raise_descriptor_limit;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::gate::{Chains, Gate};
use super::pki;
use super::program::{free_address, skip, until};

/// Fewer than a shard has going on at a time. Each takes some KiB until it is over.
const HANDSHAKES: usize = 1900;

/// Descriptors for those, and for all else that this process may have open.
const DESCRIPTORS: u64 = 4000;

#[test]
fn memory_of_handshakes_goes_back_when_they_are_over() {
    if raise_descriptor_limit().is_some_and(|limit| limit < DESCRIPTORS) {
        return skip(&format!(
            "{DESCRIPTORS} descriptors are needed (ulimit -Hn)"
        ));
    }
    let gate = Gate::before(free_address(), Chains::P256);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let config = Arc::new(config);
    let memory = || anonymous_kib(gate.process_id());

    let before = memory();
    // Each has got the server's answer, and never says more.
    let begun: Vec<TcpStream> = (0..HANDSHAKES)
        .map(|_| {
            let name = ServerName::try_from(pki::SERVER_NAME).unwrap();
            let mut session = ClientConnection::new(Arc::clone(&config), name).unwrap();
            let mut stream = TcpStream::connect(gate.address).unwrap();
            session.write_tls(&mut stream).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            stream
        })
        .collect();
    let during = memory();
    let grown = during.saturating_sub(before);
    assert!(grown > 3 * HANDSHAKES, "{before} -> {during} KiB");
    drop(begun);
    until("memory that goes back", || {
        (memory() < before + grown / 2).then_some(())
    });
}

/// RssAnon of /proc/PID/status, in KiB.
fn anonymous_kib(process_id: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).unwrap();
    let mut lines = status.lines();
    let anonymous = lines.find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = anonymous.unwrap().trim().trim_end_matches(" kB");
    kib.parse().unwrap()
}
