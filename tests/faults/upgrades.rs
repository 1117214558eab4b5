//! One process after the other, at the same sockets.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use crate::gate::Gate;
use crate::load::Load;
use crate::plan::Plan;
use crate::program::until;

const UPGRADES: usize = 20;

fn gate() -> Gate {
    let gate = Plan {
        more: "[admin]\nsocket = \"admin.sock\"\n[drain]\ntimeout = \"60s\"".to_owned(),
        ..Plan::new()
    }
    .start();
    until("the admin socket", || {
        gate.scratch.path("admin.sock").exists().then_some(())
    });
    gate
}

/// What the process that answers at the admin socket says to `request`.
fn asked(gate: &Gate, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(gate.scratch.path("admin.sock")).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn is_serving(gate: &Gate) -> bool {
    asked(gate, b"GET /readyz HTTP/1.0\r\n\r\n").contains("200 OK")
}

/// Clients come and stay while one process takes over from the other, again and again.
#[test]
fn upgrade_under_load() {
    let mut gate = gate();
    let client = gate.client(&gate.leaf());
    let load = Load {
        coming: 4,
        staying: 2,
    };
    let (tally, predecessors) = load.during(&client, || {
        let mut predecessors = Vec::new();
        for _ in 0..UPGRADES {
            predecessors.push(gate.upgrade());
            // The next one is to find this one at the socket.
            until("the successor to answer", || {
                let socket = UnixStream::connect(gate.scratch.path("admin.sock")).ok()?;
                let peer = rustix::net::sockopt::socket_peercred(&socket).ok()?;
                (peer.pid == gate.id()).then_some(())
            });
        }
        predecessors
    });
    println!("{tally:?}");
    tally.assert_all_served();
    assert!(tally.served > UPGRADES, "{tally:?}");
    for mut predecessor in predecessors {
        assert_eq!(predecessor.ended().code(), Some(0));
    }
    assert!(is_serving(&gate));
}

/// A successor that is another's, or another version, or leaves half-way: nothing has changed.
#[test]
fn a_takeover_that_fails_leaves_the_process_serving() {
    let mut gate = gate();
    let client = gate.client(&gate.leaf());
    let answer = asked(&gate, b"TAKEOVER ringgate 999\n");
    assert!(answer.starts_with("REFUSED "), "{answer}");
    assert!(answer.contains("999"), "{answer}");
    gate.line("did not take over");
    // Half a greeting, and a greeting whose sockets nobody takes.
    for greeting in [&b"TAKE"[..], b"TAKEOVER ringgate 1\n"] {
        let mut stream = UnixStream::connect(gate.scratch.path("admin.sock")).unwrap();
        stream.write_all(greeting).unwrap();
        if greeting.ends_with(b"\n") {
            let mut first = [0; 8];
            stream.read_exact(&mut first).unwrap();
            assert_eq!(first, *b"SOCKETS ");
        }
        drop(stream);
        client.connect().unwrap();
    }
    gate.line("did not take over");
    // It has the sockets, and says something else than that it has started.
    let mut stream = UnixStream::connect(gate.scratch.path("admin.sock")).unwrap();
    stream.write_all(b"TAKEOVER ringgate 1\nSTOPPED\n").unwrap();
    gate.line("did not take over");
    assert!(is_serving(&gate));
    client.connect().unwrap();
}

/// Where a successor cannot start, its predecessor goes on.
#[test]
fn a_successor_that_cannot_start_leaves_its_predecessor_serving() {
    let mut gate = gate();
    let client = gate.client(&gate.leaf());
    // After the sockets have come: no shard of another layout can be had.
    gate.scratch
        .write("layout.toml", "version = 1\nshards = \"none\"\n");
    let failed = Command::new(env!("CARGO_BIN_EXE_ringgate"))
        .args(["run", "--takeover", "-c"])
        .arg(gate.scratch.path("ringgate.toml"))
        .arg("--layout")
        .arg(gate.scratch.path("layout.toml"))
        .output()
        .unwrap();
    assert!(!failed.status.success());
    client.connect().unwrap();
    // With what it would share it goes on to the next.
    let mut predecessor = gate.upgrade();
    client.connect().unwrap();
    assert_eq!(predecessor.ended().code(), Some(0));
}

/// Nobody runs: it starts as ever.
#[test]
fn a_takeover_from_nobody_is_a_start() {
    let plan = Plan {
        more: "[admin]\nsocket = \"admin.sock\"".to_owned(),
        ..Plan::new()
    };
    let mut command = plan.command();
    command.arg("--takeover");
    let upstream = "127.0.0.1:1".parse().unwrap();
    let mut gate = Gate::launch(plan.scratch, upstream, &mut command);
    until("an answer", || {
        gate.scratch.path("admin.sock").exists().then_some(())
    });
    assert!(is_serving(&gate));
    gate.signal(rustix::process::Signal::TERM);
    assert_eq!(gate.ended().code(), Some(0));
}
