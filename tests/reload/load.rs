//! Reloads while clients come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::gate::{Gate, close, echoed, server};

/// Reloads by a signal, of which every one changes something.
const BY_SIGNAL: usize = 190;

/// Reloads by nothing but files that are replaced.
const BY_FILES: usize = 10;

/// Clients that connect one time after the other, and clients that stay.
const COMING: usize = 2;
const STAYING: usize = 2;

/// What the configuration says at this reload: rules, limits and a second listener come and go.
fn configure(gate: &Gate, at: usize) {
    let rule = format!("rule = [{{ name = \"in-{at}\",");
    let extra = if at.is_multiple_of(2) {
        "[[listener]]\nname = \"extra\"\naddress = \"127.0.0.1:0\"\ncertificate = \"server.pem\"\n\
         key = \"server.key\"\nclient_ca = \"clients-ca.pem\"\nupstream = \"127.0.0.1:1\"\n\
         rule = [{ name = \"all\", allow = { any = true } }]\n"
    } else {
        ""
    };
    gate.configure(extra, &[("rule = [{ name = \"in\",", rule.as_str())]);
}

#[test]
fn reload_under_load() {
    let mut gate = Gate::start("");
    let client = gate.client(&gate.leaf());
    let (is_done, served) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let coming = (0..COMING).map(|_| {
        let (client, is_done, served) = (client.clone(), is_done.clone(), served.clone());
        thread::spawn(move || {
            while !is_done.load(Ordering::Relaxed) {
                let mut stream = client.connect().expect("a client was turned away");
                close(&mut stream).expect("a connection was lost");
                served.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let staying = (0..STAYING).map(|_| {
        let (mut stream, is_done) = (client.connect().unwrap(), is_done.clone());
        thread::spawn(move || {
            while !is_done.load(Ordering::Relaxed) {
                echoed(&mut stream).expect("a connection that stays was lost");
            }
            close(&mut stream).expect("a connection that stays was lost");
        })
    });
    let clients: Vec<_> = coming.chain(staying).collect();
    for at in 0..BY_SIGNAL {
        configure(&gate, at);
        if at.is_multiple_of(10) {
            gate.scratch.write_leaf("server", &server(&gate.scratch));
        }
        gate.signal(Signal::HUP);
        // Where the files' own event was first, the line is its.
        gate.line(&format!("+in-{at} (front)"));
    }
    for at in BY_SIGNAL..BY_SIGNAL + BY_FILES {
        configure(&gate, at);
        let line = gate.line(&format!("+in-{at} (front)"));
        // The last signal's reload may have come behind one by the files that it was sent for, and
        // then has taken up the first change here.
        assert!(at == BY_SIGNAL || line.contains("changed files"), "{line}");
    }
    is_done.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    let served = served.load(Ordering::Relaxed);
    assert!(served > BY_SIGNAL, "only {served} clients came");
    for line in gate.lines().iter() {
        assert!(!line.contains("\"level\":\"ERROR\""), "{line}");
        assert!(!line.contains("client refused"), "{line}");
    }
}
