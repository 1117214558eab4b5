//! One process after the other, at the same sockets.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use rustls::HandshakeKind;

use crate::admin::{ADMIN, asked, connect, is_serving};
use crate::gate::Gate;
use crate::load::Load;
use crate::plan::Plan;
use crate::program::until;

const UPGRADES: usize = 20;

fn gate() -> Gate {
    let gate = Plan {
        more: format!("{ADMIN}[drain]\ntimeout = \"60s\"\n"),
        ..Plan::new()
    }
    .start();
    until("the admin socket", || {
        gate.scratch.path("admin.sock").exists().then_some(())
    });
    gate
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

/// A secret of ticket keys that both have.
#[test]
fn clients_resume_across_an_upgrade() {
    let plan = Plan {
        more: format!("{ADMIN}[resumption]\nstek = \"stek.key\"\n"),
        ..Plan::new()
    };
    plan.scratch.write("stek.key", [7; 32]);
    plan.scratch.set_mode("stek.key", 0o600);
    let mut gate = plan.start();
    until("the admin socket", || {
        gate.scratch.path("admin.sock").exists().then_some(())
    });
    let client = gate.client(&gate.leaf());
    assert_eq!(client.handshake(), HandshakeKind::Full);
    let mut predecessor = gate.upgrade();
    assert_eq!(predecessor.ended().code(), Some(0));
    assert_eq!(client.handshake(), HandshakeKind::Resumed);
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
    for greeting in [&b"TAKE"[..], b"TAKEOVER ringgate 2\n"] {
        let mut stream = connect(&gate);
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
    let mut stream = connect(&gate);
    stream.write_all(b"TAKEOVER ringgate 2\nSTOPPED\n").unwrap();
    gate.line("did not take over");
    assert!(is_serving(&gate));
    client.connect().unwrap();
}

/// A successor that fails once it has the sockets, because it cannot be who it is to be: its predecessor
/// goes on.
#[test]
fn a_successor_that_cannot_start_leaves_its_predecessor_serving() {
    let mut gate = gate();
    let client = gate.client(&gate.leaf());
    let text = std::fs::read_to_string(gate.scratch.path("ringgate.toml")).unwrap();
    let text = text + "\n[process]\nuser = \"nobody-of-this-name\"\n";
    gate.scratch.write("other.toml", text);
    let failed = Command::new(env!("CARGO_BIN_EXE_ringgate"))
        .args(["run", "--takeover", "-c"])
        .arg(gate.scratch.path("other.toml"))
        .output()
        .unwrap();
    assert_eq!(failed.status.code(), Some(1));
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(said.contains("nobody-of-this-name"), "{said}");
    gate.line("did not take over");
    client.connect().unwrap();
    assert!(is_serving(&gate));
    // It has its sockets to give still.
    let mut predecessor = gate.upgrade();
    client.connect().unwrap();
    assert_eq!(predecessor.ended().code(), Some(0));
    client.connect().unwrap();
}

/// One at a time: two successors would both serve, and one of them could not be found any more.
#[test]
fn a_second_successor_is_refused_while_the_first_one_starts() {
    let gate = gate();
    let mut first = connect(&gate);
    first.write_all(b"TAKEOVER ringgate 2\n").unwrap();
    let mut start = [0; 8];
    first.read_exact(&mut start).unwrap();
    assert_eq!(start, *b"SOCKETS ");
    let second = asked(&gate, b"TAKEOVER ringgate 2\n");
    assert!(second.starts_with("REFUSED "), "{second}");
    assert!(second.contains("already"), "{second}");
    let own = format!("process {}", std::process::id());
    assert!(second.contains(&own), "{second}");
    drop(first);
    until("the next one to be heard", || {
        let mut next = connect(&gate);
        next.write_all(b"TAKEOVER ringgate 2\n").unwrap();
        next.read_exact(&mut start).unwrap();
        (start == *b"SOCKETS ").then_some(())
    });
}

/// A predecessor that is told to drain while its successor starts: what it closes is the successor's to
/// accept from.
#[test]
fn a_drain_meanwhile_leaves_the_successor_its_sockets() {
    let mut gate = gate();
    let client = gate.client(&gate.leaf());
    let mut successor = connect(&gate);
    successor.write_all(b"TAKEOVER ringgate 2\n").unwrap();
    let sockets = received(&mut successor);
    assert!(!sockets.is_empty());
    gate.signal(rustix::process::Signal::TERM);
    assert_eq!(gate.ended().code(), Some(0));
    // Newcomers wait at the sockets.
    for _ in 0..8 {
        let timeout = std::time::Duration::from_secs(5);
        std::net::TcpStream::connect_timeout(&gate.address, timeout).unwrap();
    }
    drop(client);
}

/// The sockets that a process hands over.
fn received(stream: &mut UnixStream) -> Vec<std::os::fd::OwnedFd> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    let line = String::from_utf8(line).unwrap();
    let count = line.trim_end().strip_prefix("SOCKETS ").unwrap();
    let count: usize = count.parse().unwrap();
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut head = [0; 6];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let read = rustix::net::recvmsg(
            &*stream,
            &mut [std::io::IoSliceMut::new(&mut head)],
            &mut control,
            rustix::net::RecvFlags::empty(),
        );
        assert_eq!(read.unwrap().bytes, head.len());
        for message in control.drain() {
            if let rustix::net::RecvAncillaryMessage::ScmRights(descriptors) = message {
                sockets.extend(descriptors);
            }
        }
        stream.read_exact(&mut vec![0; head[5].into()]).unwrap();
    }
    sockets
}

/// A predecessor that gives its sockets and answers no more: its successor serves, and says whom to end.
#[test]
fn a_predecessor_that_hangs_is_named() {
    let plan = Plan {
        more: ADMIN.to_owned(),
        ..Plan::new()
    };
    let mut command = plan.command();
    command.arg("--takeover");
    let hangs = UnixListener::bind(plan.scratch.path("admin.sock")).unwrap();
    let hangs = std::thread::spawn(move || {
        let (mut successor, _) = hangs.accept().unwrap();
        let mut greeting = [0; 20];
        successor.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, *b"TAKEOVER ringgate 2\n");
        successor.write_all(b"SOCKETS 0\n").unwrap();
        let mut started = [0; 8];
        successor.read_exact(&mut started).unwrap();
        assert_eq!(started, *b"STARTED\n");
        successor
    });
    let upstream = "127.0.0.1:1".parse().unwrap();
    let mut gate = Gate::launch(plan.scratch, upstream, &mut command);
    let successor = hangs.join().unwrap();
    // The control plane does not wait for it.
    assert!(is_serving(&gate));
    let line = gate.line("does not answer: both serve");
    let remedy = format!("kill -TERM {}", std::process::id());
    assert!(line.contains(&remedy), "{line}");
    drop(successor);
    gate.line("the process before has ended by itself");
    assert!(is_serving(&gate));
}

/// Nobody runs: it starts as ever.
#[test]
fn a_takeover_from_nobody_is_a_start() {
    let plan = Plan {
        more: ADMIN.to_owned(),
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
