//! Files that are replaced, by hand or as other programs do it.

use std::os::unix::fs::symlink;

use rustls::HandshakeKind;

use crate::gate::{Gate, close, echoed, server};
use crate::pem::pem;
use crate::scratch::Scratch;

#[test]
fn new_clients_see_the_new_certificate_while_old_connections_go_on() {
    let mut gate = Gate::start("[reload]\nwatch = false");
    assert_eq!(gate.watched(), None);
    let client = gate.client(&gate.leaf());
    let mut old = client.connect().unwrap();
    let renewed = server(&gate.scratch);
    gate.scratch.write_leaf("server", &renewed);
    let line = gate.reload();
    assert!(
        line.contains("\"certificates\":\"+CN=server sha256:") && line.contains("\"generation\":1"),
        "{line}"
    );
    assert_eq!(client.shown(), renewed.certificate);
    echoed(&mut old).unwrap();
    assert_ne!(
        old.conn.peer_certificates().unwrap()[0],
        renewed.certificate
    );
    close(&mut old).unwrap();
    let line = gate.reload();
    assert!(line.contains("reloaded, nothing changed"), "{line}");
    gate.configure("", &[]);
    gate.reload();
    assert_eq!(gate.watched(), Some(1), "the folder of all files");
}

/// A secret as kubelet lays it out: links into `..data`, which is a link to the directory of today.
fn publish(scratch: &Scratch, generation: usize) -> rustls::pki_types::CertificateDer<'static> {
    let (leaf, directory) = (server(scratch), format!("tls/..{generation}"));
    std::fs::create_dir_all(scratch.path(&directory)).unwrap();
    for name in ["tls.crt", "tls.key"] {
        let link = scratch.path(&format!("tls/{name}"));
        if !link.is_symlink() {
            symlink(format!("..data/{name}"), link).unwrap();
        }
    }
    let certificate = pem("CERTIFICATE", &leaf.certificate);
    scratch.write(&format!("{directory}/tls.crt"), certificate);
    scratch.write(&format!("{directory}/tls.key"), leaf.key.serialize_pem());
    scratch.set_mode(&format!("{directory}/tls.key"), 0o600);
    symlink(format!("..{generation}"), scratch.path("tls/..data_tmp")).unwrap();
    std::fs::rename(scratch.path("tls/..data_tmp"), scratch.path("tls/..data")).unwrap();
    leaf.certificate
}

#[test]
fn symlink_swap() {
    let mut first = None;
    let mut gate = Gate::start_with("", |scratch| {
        first = Some(publish(scratch, 0));
    });
    let client = gate.client(&gate.leaf());
    assert_ne!(Some(client.shown()), first);
    gate.configure(
        "",
        &[("server.pem", "tls/tls.crt"), ("server.key", "tls/tls.key")],
    );
    gate.line("\"certificates\":\"+CN=server");
    assert_eq!(Some(client.shown()), first);
    let watched = gate.watched();
    for generation in 1..4 {
        let certificate = publish(&gate.scratch, generation);
        let line = gate.line("\"certificates\":\"+CN=server");
        assert!(line.contains("changed files"), "{line}");
        assert_eq!(client.shown(), certificate);
        let old = gate.scratch.path(&format!("tls/..{}", generation - 1));
        std::fs::remove_dir_all(old).unwrap();
        assert_eq!(gate.watched(), watched, "old directories are let go");
    }
}

#[test]
fn another_secret_for_tickets_costs_a_full_handshake() {
    let stek = "[resumption]\nstek = \"stek.key\"";
    let mut gate = Gate::start_with(stek, |scratch| {
        scratch.write("stek.key", "first secret ".repeat(4));
        scratch.set_mode("stek.key", 0o600);
    });
    let client = gate.client(&gate.leaf());
    assert_eq!(client.handshake(), HandshakeKind::Full);
    assert_eq!(client.handshake(), HandshakeKind::Resumed);
    gate.reload();
    assert_eq!(
        client.handshake(),
        HandshakeKind::Resumed,
        "the same secret"
    );
    gate.replace("stek.key", "second secret".repeat(4));
    let line = gate.line("resumption.stek holds another secret");
    assert!(line.contains("changed files"), "{line}");
    assert_eq!(client.handshake(), HandshakeKind::Full);
    assert_eq!(client.handshake(), HandshakeKind::Resumed);
    for line in gate.lines().iter() {
        assert!(!line.contains("secret "), "{line}");
    }
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_applied() {
    let mut gate = Gate::start("");
    gate.configure(
        "idle_timeout = \"7s\"",
        &[
            ("count = 2", "count = 1"),
            ("connections = 64", "connections = 100000"),
            ("\"json\"", "\"json\"\nlevel = \"debug\""),
        ],
    );
    let line = gate.line("shards Count(2) -> Count(1) needs a restart");
    assert!(line.contains("WARN"), "{line}");
    let line = gate.line("idle_timeout 5m -> 7s (front)");
    assert!(line.contains("limits.connections 64 -> 100000"), "{line}");
    let lines = gate.lines();
    for part in [
        "log.level Info -> Debug needs a restart",
        "limits.connections = 100000 needs a restart",
    ] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part}");
    }
}
