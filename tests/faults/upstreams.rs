//! Upstreams that are down, rude, unsteady or slow: the next one serves, or the client is told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustls::AlertDescription;
use socket2::{Domain, SockRef, Socket, Type};

use crate::gate::{Client, Gate, echo, field};
use crate::load::{Load, alert};
use crate::plan::Plan;

/// A server with these upstreams.
fn behind(upstreams: &[SocketAddr], more: &str) -> Gate {
    let listed: Vec<String> = upstreams.iter().map(|it| format!("\"{it}\"")).collect();
    Plan {
        upstream: Some(format!("[{}]", listed.join(", "))),
        ..Plan::with(more)
    }
    .start()
}

/// An address on which nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// Asserts that the client is let in and then told that there is nobody to serve it.
#[track_caller]
fn is_told(gate: &mut Gate, client: &Client, reasons: &[&str]) {
    let error = client.connect().expect_err("nobody serves it");
    assert_eq!(
        alert(&error),
        Some(AlertDescription::InternalError),
        "{error}"
    );
    let line = gate.line("connection failed");
    let reason = field(&line, "reason").unwrap();
    assert!(reasons.contains(&reason), "{line}");
}

#[test]
fn upstream_down() {
    let mut gate = behind(&[nobody(), nobody()], "");
    let client = gate.client(&gate.leaf());
    for _ in 0..10 {
        is_told(&mut gate, &client, &["upstream_unreachable"]);
    }

    let gate = behind(&[nobody(), echo(), nobody()], "");
    let client = gate.client(&gate.leaf());
    let pause = || thread::sleep(Duration::from_millis(300));
    let (tally, ()) = Load::LIGHT.during(&client, pause);
    tally.assert_all_served();
}

/// An upstream that resets each connection, before or after it has read what came first.
fn rude(reads: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process.
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            if reads {
                let _ = stream.read(&mut [0]);
            }
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    });
    address
}

#[test]
fn upstream_resets() {
    // A reset right behind the answer to a connect may be taken for the answer.
    let at_once: &[&str] = &["upstream_reset", "upstream_unreachable"];
    for (reads, reasons) in [(true, &at_once[..1]), (false, at_once)] {
        let mut gate = behind(&[rude(reads)], "");
        let client = gate.client(&gate.leaf());
        for _ in 0..10 {
            is_told(&mut gate, &client, reasons);
        }
    }
}

/// An upstream that echoes, comes and goes; what it accepted it serves to the end.
fn flap(address: SocketAddr, is_done: &AtomicBool, accepted: &AtomicUsize) {
    const UP: Duration = Duration::from_millis(40);
    const DOWN: Duration = Duration::from_millis(40);
    while !is_done.load(Ordering::Relaxed) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(64).unwrap();
        let listener = TcpListener::from(socket);
        let closer = listener.try_clone().unwrap();
        let accepting = thread::scope(|scope| {
            scope.spawn(|| {
                for mut stream in listener.incoming().map_while(Result::ok) {
                    accepted.fetch_add(1, Ordering::Relaxed);
                    thread::spawn(move || {
                        let mut byte = [0];
                        while let Ok(1) = stream.read(&mut byte) {
                            let _ = stream.write_all(&byte);
                        }
                    });
                }
            });
            thread::sleep(UP);
            SockRef::from(&closer).shutdown(std::net::Shutdown::Both)
        });
        accepting.unwrap();
        drop((listener, closer));
        thread::sleep(DOWN);
    }
}

#[test]
fn upstream_flapping() {
    const CLIENTS: usize = 3;
    const EACH: usize = 200;
    let (flapping, is_done) = (nobody(), Arc::new(AtomicBool::new(false)));
    let accepted = Arc::new(AtomicUsize::new(0));
    let gate = behind(&[flapping, echo()], "");
    let client = gate.client(&gate.leaf());
    let flapper = {
        let (is_done, accepted) = (Arc::clone(&is_done), Arc::clone(&accepted));
        thread::spawn(move || flap(flapping, &is_done, &accepted))
    };
    let served = thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|_| {
            scope.spawn(|| {
                let outcomes = (0..EACH).map(|_| client.connect());
                // It went while the connection waited in its queue: that is told, too.
                let served = outcomes.filter(|outcome| match outcome {
                    Ok(_) => true,
                    Err(error) => {
                        let told = alert(error);
                        assert_eq!(told, Some(AlertDescription::InternalError), "{error}");
                        false
                    }
                });
                served.count()
            })
        });
        let clients: Vec<_> = clients.collect();
        let served = clients.into_iter().map(|client| client.join().unwrap());
        served.sum::<usize>()
    });
    is_done.store(true, Ordering::Relaxed);
    flapper.join().unwrap();
    let by_it = accepted.load(Ordering::Relaxed);
    println!(
        "{served} of {} served, {by_it} by the one that flaps",
        CLIENTS * EACH
    );
    assert!(by_it > 0, "it was never used");
    assert!(served * 2 >= CLIENTS * EACH, "only {served} were served");
    // It stays down: nobody is told anything any more.
    let (tally, ()) = Load::LIGHT.during(&client, || thread::sleep(Duration::from_millis(200)));
    tally.assert_all_served();
}

/// A listener that answers no more connects: its queue is full.
struct Unanswering {
    address: SocketAddr,
    _socket: Socket,
    _queued: TcpStream,
}

impl Unanswering {
    fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).unwrap();
        // Linux queues one connection more than it is asked to, and then drops every SYN.
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self {
            address,
            _socket: socket,
            _queued: TcpStream::connect(address).unwrap(),
        }
    }
}

#[test]
fn upstream_slow_connect() {
    const TIMEOUT: &str = "connect_timeout = \"1s\"";
    let slow = Unanswering::new();
    let mut gate = behind(&[slow.address], TIMEOUT);
    let client = gate.client(&gate.leaf());
    is_told(&mut gate, &client, &["upstream_connect_timeout"]);

    let gate = behind(&[slow.address, echo()], TIMEOUT);
    let client = gate.client(&gate.leaf());
    let pause = || thread::sleep(Duration::from_millis(500));
    let (tally, ()) = Load::LIGHT.during(&client, pause);
    tally.assert_all_served();
}
