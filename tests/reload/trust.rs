//! Rights that a reload takes away or leaves.

use rustls::HandshakeKind;

use crate::gate::{Client, Gate, field};
use crate::pki::serial;

/// A gate with an empty CRL, and two clients who both resume: serial 1 and serial 2.
fn two_clients() -> (Gate, [Client; 2]) {
    let gate = Gate::start("");
    gate.replace("revoked.pem", gate.crl(&[]));
    let clients = [1, 2].map(|number| {
        let leaf = gate.leaf_with(|params| params.serial_number = serial(number));
        gate.client(&leaf)
    });
    (gate, clients)
}

#[track_caller]
fn resumes(client: &Client) {
    assert_eq!(client.handshake(), HandshakeKind::Full);
    assert_eq!(client.handshake(), HandshakeKind::Resumed);
}

/// Asserts that the client is turned away for `reason`.
#[track_caller]
fn is_refused(gate: &mut Gate, client: &Client, reason: &str) {
    assert!(client.connect().is_err());
    let line = gate.line("client refused");
    assert_eq!(field(&line, "reason"), Some(reason), "{line}");
}

#[test]
fn resume_after_revocation() {
    let (mut gate, [revoked, other]) = two_clients();
    resumes(&revoked);
    resumes(&other);
    let leaf = gate.leaf_with(|params| params.serial_number = serial(1));
    let newcomer = gate.client(&leaf);
    gate.configure("crl = \"revoked.pem\"", &[]);
    let line = gate.line("\"message\":\"reloaded");
    assert!(line.contains("+CN=clients' CA: 0 revoked"), "{line}");
    assert_eq!(revoked.handshake(), HandshakeKind::Resumed);
    gate.replace("revoked.pem", gate.crl(&[1]));
    let line = gate.line("\"message\":\"reloaded");
    assert!(line.contains("-> 1 revoked"), "{line}");
    is_refused(&mut gate, &revoked, "certificate_revoked");
    is_refused(&mut gate, &newcomer, "certificate_revoked");
    // resume_unaffected_reload
    assert_eq!(other.handshake(), HandshakeKind::Resumed);
}

#[test]
fn resume_after_policy_change() {
    let (mut gate, [client, _]) = two_clients();
    resumes(&client);
    gate.configure(
        "",
        &[("\"in\", allow", "\"others\", allow"), ("x/in", "x/others")],
    );
    let line = gate.line("\"message\":\"reloaded");
    assert_eq!(field(&line, "rules"), Some("+others (front); -in (front)"));
    is_refused(&mut gate, &client, "policy_unmatched");
    gate.configure("", &[]);
    gate.line("\"message\":\"reloaded");
    assert_eq!(client.handshake(), HandshakeKind::Full);
}

#[test]
fn resume_after_ca_removed() {
    let (mut gate, [client, _]) = two_clients();
    resumes(&client);
    let ca = std::fs::read(gate.scratch.path("clients-ca.pem")).unwrap();
    let other = crate::pki::Ca::root("another CA");
    gate.replace(
        "clients-ca.pem",
        crate::pem::pem("CERTIFICATE", &other.certificate),
    );
    let line = gate.line("\"message\":\"reloaded");
    let anchors = field(&line, "anchors").unwrap();
    assert!(
        anchors.contains("+CN=another CA sha256:") && anchors.contains("-CN=clients' CA sha256:"),
        "{line}"
    );
    is_refused(&mut gate, &client, "certificate_unknown_ca");
    gate.replace("clients-ca.pem", ca);
    gate.line("\"message\":\"reloaded");
    assert_eq!(client.handshake(), HandshakeKind::Full);
}
