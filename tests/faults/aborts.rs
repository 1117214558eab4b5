//! Clients that leave at any moment: everything they had comes back.
//!
//! What the shards count meanwhile is in `tests/flow/aborts.rs`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::gate::Gate;
use crate::leaving::{Client, Leaving, POINTS};
use crate::load::Load;
use crate::plan::Plan;
use crate::process;
use crate::program::until;

/// How often each point is tried.
const ROUNDS: usize = 1_000;

const MANNERS: [Leaving; 3] = [Leaving::Fin, Leaving::Reset, Leaving::HalfClosed];

/// How much memory may grow: what the allocator keeps, but nothing for each client.
const GROWTH_MAX: usize = 8 << 20;

/// An upstream that echoes, and how many connections it has.
fn counting_echo() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let open = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&open);
    // The threads end with the test's process.
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let count = Arc::clone(&count);
            count.fetch_add(1, Ordering::Relaxed);
            thread::spawn(move || {
                let mut bytes = vec![0; 64 * 1024];
                while let Ok(len @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..len]).is_err() {
                        break;
                    }
                }
                count.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    (address, open)
}

/// File descriptors and direct ones that the server has.
fn held(gate: &Gate) -> [usize; 2] {
    let files = process::descriptors(gate.id()).len();
    [files, process::direct_descriptors(gate.id())]
}

#[test]
fn abort_at_every_point() {
    let (upstream, open) = counting_echo();
    let gate = Plan {
        upstream: Some(format!("\"{upstream}\"")),
        // Every connection has a file descriptor on a wildcard address.
        address: "0.0.0.0:0",
        ..Plan::new()
    }
    .start();
    let client = gate.client(&gate.leaf());
    let leave = |rounds: usize| {
        for point in POINTS {
            for round in 0..rounds {
                let socket = client.dial().unwrap().sock;
                let mut leaver = Client::new(client.session(), socket);
                leaver.go(point);
                leaver.leave(MANNERS[round % MANNERS.len()]);
            }
        }
    };
    let before = held(&gate);
    leave(MANNERS.len());
    let comes_back = |what: &str| {
        until(what, || {
            let is_back = open.load(Ordering::Relaxed) == 0 && held(&gate) == before;
            is_back.then_some(())
        });
    };
    comes_back("everything back after a first round");
    let memory = process::memory(gate.id());
    leave(ROUNDS);
    comes_back("everything back");
    let grown = process::memory(gate.id()).saturating_sub(memory);
    println!("held {before:?}, memory {memory} bytes, grown by {grown}");
    assert!(grown <= GROWTH_MAX, "grown by {grown} bytes");
    process::assert_idle(gate.id());
    let (tally, ()) = Load::LIGHT.during(&client, || thread::sleep(Duration::from_millis(50)));
    tally.assert_all_served();
}
