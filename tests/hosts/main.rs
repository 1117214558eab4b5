//! Several processes of `ringgate`, on one host and on two: tickets of one are good at the others
//! exactly where they share a secret.
//!
//! The hosts are network namespaces, which take root to make; a test that cannot have them says so
//! on standard error and passes.

#[path = "../interop/pki.rs"]
#[allow(dead_code, reason = "shared with tests/interop")]
mod pki;
#[path = "../interop/program.rs"]
#[allow(dead_code, reason = "shared with tests/interop")]
mod program;
#[path = "../common/proxy_v2.rs"]
mod proxy_v2;

mod gate;
mod network;

use rustls::HandshakeKind::{self, Full, Resumed};
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use self::gate::{Client, Gate, Site};
use self::network::Network;
use self::proxy_v2 as tlv;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

const SECRET: Option<&str> = Some("0123456789abcdef0123456789abcdef");
const ANOTHER_SECRET: Option<&str> = Some("fedcba9876543210fedcba9876543210");

/// Connects, and checks that client, upstream and kind of handshake agree on what happened: the
/// upstream is told the same of a client that resumes as of one that does not.
#[track_caller]
fn expect(kind: HandshakeKind, client: &Client, gate: &Gate) {
    let (found, header) = client.visit(gate);
    assert_eq!(found, kind, "at {}", gate.address);
    assert_eq!(header.tlvs[&tlv::RESUMED], [u8::from(kind == Resumed)]);
    assert_eq!(header.text(tlv::SPIFFE_ID), Some(pki::CLIENT_URI));
    assert_eq!(header.text(tlv::SSL_CN), Some(pki::CLIENT_NAME));
    assert_eq!(header.text(tlv::RULE), Some("billing"));
    assert_eq!(header.tlvs[&tlv::FINGERPRINT], client.fingerprint);
    assert_eq!(header.destination, Some(gate.address));
    assert_eq!(header.source.unwrap().ip(), client.host.address);
}

#[test]
fn resume_other_host() {
    let Some(Network { hosts: [one, two] }) = Network::new() else {
        return;
    };
    let site = Site::new();
    let gates = [
        Gate::start(&site, &one, 8443, SECRET),
        Gate::start(&site, &two, 8443, SECRET),
    ];
    for version in VERSIONS {
        let client = site.client(&one, version);
        expect(Full, &client, &gates[0]);
        expect(Resumed, &client, &gates[1]);
        // With the ticket that the other host gave.
        expect(Resumed, &client, &gates[0]);
    }
}

#[test]
fn resume_other_process() {
    let Some(Network { hosts: [one, _two] }) = Network::new() else {
        return;
    };
    let site = Site::new();
    let gates = [8443, 8444].map(|port| Gate::start(&site, &one, port, SECRET));
    for version in VERSIONS {
        let client = site.client(&one, version);
        expect(Full, &client, &gates[0]);
        expect(Resumed, &client, &gates[1]);
        expect(Resumed, &client, &gates[0]);
    }
}

#[test]
fn resume_after_restart() {
    let Some(Network { hosts: [one, two] }) = Network::new() else {
        return;
    };
    let site = Site::new();
    for version in VERSIONS {
        for (secret, kind) in [(SECRET, Resumed), (None, Full)] {
            let client = site.client(&two, version);
            let gate = Gate::start(&site, &one, 8443, secret);
            expect(Full, &client, &gate);
            expect(Resumed, &client, &gate);
            gate.stop();
            let again = Gate::start(&site, &one, 8443, secret);
            expect(kind, &client, &again);
            expect(Resumed, &client, &again);
            again.stop();
        }
    }
}

/// Hosts that do not share a secret, or have none, take each other's clients all the same.
#[test]
fn a_ticket_that_cannot_be_opened_costs_a_full_handshake() {
    let Some(Network { hosts: [one, two] }) = Network::new() else {
        return;
    };
    let site = Site::new();
    let first = Gate::start(&site, &one, 8443, SECRET);
    for other in [ANOTHER_SECRET, None] {
        let second = Gate::start(&site, &two, 8443, other);
        for version in VERSIONS {
            let client = site.client(&one, version);
            expect(Full, &client, &first);
            expect(Full, &client, &second);
            expect(Resumed, &client, &second);
            expect(Full, &client, &first);
        }
        second.stop();
    }
}
