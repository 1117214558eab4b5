//! Reloads that fail: nothing changes, the log says why, and what is mended counts.

use std::net::TcpListener;

use crate::gate::{Gate, close, echoed};

/// Breaks something, and what the log then says.
type Break = (fn(&Gate), &'static [&'static str]);

const BROKEN: [Break; 9] = [
    (
        |gate| gate.replace("ringgate.toml", "[[listener]]\naddress = "),
        &["ringgate.toml:2: not valid TOML", "remedy: "],
    ),
    (
        |gate| gate.configure("idle_timeuot = \"7s\"", &[]),
        &["idle_timeuot", "idle_timeout"],
    ),
    (
        |gate| gate.configure("crl = \"nowhere.pem\"", &[]),
        &["ringgate.toml:", "cannot read", "nowhere.pem", "remedy: "],
    ),
    (
        |gate| std::fs::remove_file(gate.scratch.path("server.key")).unwrap(),
        &["cannot read", "server.key"],
    ),
    (
        |gate| gate.replace("clients-ca.pem", ""),
        &["clients-ca.pem is empty"],
    ),
    (
        // As a reader sees a file that is being written.
        |gate| {
            let path = gate.scratch.path("server.pem");
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(path, &whole[..whole.len() / 2]).unwrap();
        },
        &["server.pem is damaged"],
    ),
    (
        |gate| gate.replace("server.key", gate.leaf().key.serialize_pem()),
        &["server.key", "do not fit"],
    ),
    (
        |gate| gate.scratch.set_mode("server.key", 0o644),
        &["open to group or others", "chmod 600"],
    ),
    (
        |gate| gate.replace("stek.key", "too short"),
        &["stek.key holds 9 bytes"],
    ),
];

const FILES: [&str; 5] = [
    "clients-ca.pem",
    "ringgate.toml",
    "server.key",
    "server.pem",
    "stek.key",
];

#[test]
fn reload_broken() {
    let stek = "[resumption]\nstek = \"stek.key\"";
    let mut gate = Gate::start_with(stek, |scratch| {
        scratch.write("stek.key", "secret ".repeat(8));
        scratch.set_mode("stek.key", 0o600);
    });
    let whole = FILES.map(|name| std::fs::read(gate.scratch.path(name)).unwrap());
    let client = gate.client(&gate.leaf());
    let mut old = client.connect().unwrap();
    let shown = client.shown();
    for (break_it, parts) in BROKEN {
        break_it(&gate);
        let line = gate.line("\"level\":\"ERROR\"");
        for part in parts {
            assert!(line.contains(part), "no {part} in {line}");
        }
        let line = gate.line("reload failed");
        assert!(line.contains("changed files"), "{line}");
        assert_eq!(client.shown(), shown);
        echoed(&mut old).unwrap();
        for (name, content) in FILES.iter().zip(&whole) {
            gate.replace(name, content);
        }
        gate.line("sound again");
    }
    close(&mut old).unwrap();
}

#[test]
fn an_address_that_is_taken_changes_nothing() {
    let mut gate = Gate::start("");
    let client = gate.client(&gate.leaf());
    let shown = client.shown();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    gate.scratch
        .write_leaf("server", &crate::gate::server(&gate.scratch));
    let address = format!("[\"127.0.0.1:0\", \"{taken}\"]");
    gate.configure("", &[("\"127.0.0.1:0\"", address.as_str())]);
    let line = gate.line("\"level\":\"ERROR\"");
    assert!(
        line.contains(&format!("cannot listen on {taken}")),
        "{line}"
    );
    gate.line("reload failed");
    assert_eq!(client.shown(), shown);
    drop(holder);
    let line = gate.reload();
    assert!(
        line.contains("certificates") && line.contains("address"),
        "{line}"
    );
    assert_ne!(client.shown(), shown);
}
