//! What keeps a terminator from starting, and what one does that runs out of descriptors.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use ringgate::Terminator;
use ringgate::close_reason::CloseReason;
use ringgate::layout::Placement;
use ringgate::shard::Counters;
use ringgate::terminator::{Inherited, StartError};
use socket2::{Domain, Socket, Type};

use crate::upstream::{Manner, Upstream};
use crate::world::{EVERYONE, FILES, Site, World, finish};

fn listener(address: &str) -> String {
    format!(
        "[[listener]]\naddress = \"{address}\"\n{FILES}upstream = \"127.0.0.1:1\"\n{EVERYONE}\n"
    )
}

fn start(config: &str) -> StartError {
    match World::start(|_, _, _| {}, config) {
        Ok(_) => panic!("started"),
        Err(error) => error,
    }
}

#[test]
fn an_address_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = free.local_addr().unwrap();
    drop(free);
    let config = [other, address].map(|address| listener(&address.to_string()));
    let error = start(&config.concat());
    let text = error.to_string();
    assert!(matches!(error, StartError::Bind { .. }), "{text}");
    assert!(
        text.starts_with(&format!("cannot listen on {address}: "))
            && text.contains("another process listens there"),
        "{text}"
    );
    // Nothing of it is left: the address that was free is free again.
    TcpListener::bind(other).unwrap();
}

/// Sockets of one user that share a port share its connections silently.
#[test]
fn an_address_that_another_terminator_has() {
    let first = World::start(|_, _, _| {}, &listener("127.0.0.1:0")).unwrap();
    let error = start(&listener(&first.address().to_string()));
    assert!(error.to_string().contains("another process listens there"));
}

#[test]
fn an_address_that_no_interface_has() {
    let error = start(&listener("192.0.2.1:8443"));
    assert!(
        error.to_string().contains("no interface of this host"),
        "{error}"
    );
}

#[test]
fn a_cpu_that_cannot_be_used() {
    let config = format!("{}[shards]\ncpus = [4095]\n", listener("127.0.0.1:0"));
    let error = start(&config);
    let text = error.to_string();
    assert!(matches!(error, StartError::Layout(_)), "{text}");
    assert!(text.starts_with("CPU 4095 is not among"), "{text}");
    assert!(text.contains("correct shards.cpus"), "{text}");
}

/// Of a start that takes over and fails in the end nobody notices: until shards accept, clients wait
/// where whoever has the sockets already finds them.
#[test]
fn before_shards_accept_clients_wait_at_the_sockets_that_were_there() {
    const CLIENTS: usize = 64;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(256).unwrap();
    let before = TcpListener::from(socket);
    let address = before.local_addr().unwrap();
    let text = format!("{}[shards]\ncount = 2\n", listener(&address.to_string()));
    let site = Site::new(|_, _, _| {}, &text);
    let layout = Placement::planned(&site.snapshot.shards).unwrap().layout;
    let mut inherited = Inherited::default();
    let passed = before.try_clone().unwrap().into();
    inherited.add(passed, None, false).unwrap();
    let listening = Terminator::listen_on(&site.snapshot, &site.clock, &layout, inherited);
    let (mut terminator, opening) = listening.unwrap().start().unwrap();
    let come = || -> Vec<TcpStream> {
        let clients = (0..CLIENTS).map(|_| TcpStream::connect(address).unwrap());
        clients.collect()
    };
    let clients = come();
    before.set_nonblocking(true).unwrap();
    let taken = std::iter::from_fn(|| before.accept().ok());
    assert_eq!(taken.count(), clients.len());
    // Now they spread.
    opening.open().unwrap();
    let _clients = come();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mailboxes = terminator.mailboxes();
        let accepted: Vec<u64> = mailboxes.map(|it| it.counters().accepted()).collect();
        if accepted.iter().sum::<u64>() == CLIENTS as u64 {
            assert!(accepted.iter().all(|&count| count > 0), "{accepted:?}");
            break;
        }
        assert!(Instant::now() < deadline, "{accepted:?}");
        std::thread::yield_now();
    }
}

/// Whichever of the two is let go first, nobody waits for ever.
#[test]
fn shards_that_never_begin_end() {
    let site = Site::new(|_, _, _| {}, &listener("127.0.0.1:0"));
    let layout = Placement::planned(&site.snapshot.shards).unwrap().layout;
    let start = || {
        let inherited = Inherited::default();
        let listening = Terminator::listen_on(&site.snapshot, &site.clock, &layout, inherited);
        listening.unwrap().start().unwrap()
    };
    drop(start());
    let (terminator, opening) = start();
    terminator.stop().unwrap();
    drop(opening);
    let (terminator, opening) = start();
    drop(opening);
    terminator.stop().unwrap();
}

/// Set in a process of its own for one of the tests named `inside_…`, which do nothing elsewhere.
const MARK: &str = "RINGGATE_TEST_WITH_FEW_DESCRIPTORS";

fn is_inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Runs one of this file's tests in a process of its own that may open only so many descriptors.
fn with_descriptors(limit: u32, test: &str) {
    let output = Command::new("sh")
        .args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(MARK, limit.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn too_few_descriptors() {
    with_descriptors(1_000, "start::inside_too_few_descriptors");
}

#[test]
fn inside_too_few_descriptors() {
    if !is_inside() {
        return;
    }
    let config = format!(
        "{}[limits]\nconnections = 1000\nhandshakes = 10\n[shards]\ncount = 1\n",
        listener("127.0.0.1:0")
    );
    let error = start(&config);
    let text = error.to_string();
    let StartError::Descriptors { needed, limit, .. } = error else {
        panic!("{text}");
    };
    assert!(limit == 1_000 && needed > 2_000, "{text}");
    assert!(
        text.contains("limits.connections = 1000") && text.contains("LimitNOFILE="),
        "{text}"
    );
}

#[test]
fn descriptors_that_run_out_come_back() {
    with_descriptors(1_000, "start::inside_descriptors_that_run_out");
}

/// On a wildcard address every connection has a file descriptor. While none is left, accepting
/// pauses, and neither spins nor gives up.
#[test]
fn inside_descriptors_that_run_out() {
    if !is_inside() {
        return;
    }
    let upstream = Upstream::new(Manner::Echo);
    let world = World::with(
        |_, _, _| {},
        &format!(
            "[[listener]]\naddress = \"0.0.0.0:0\"\n{FILES}upstream = {}\n{EVERYONE}\n\
             [limits]\nconnections = 100\n",
            upstream.toml()
        ),
    );
    let address = ("127.0.0.1", world.address().port());
    let mut first = world.connect(&world.client());
    first.sock = TcpStream::connect(address).unwrap();
    first.write_all(b"x").unwrap();
    first.read_exact(&mut [0; 1]).unwrap();

    let mut waiting = world.connect(&world.client());
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    waiting.sock = socket.into();
    world.closed(CloseReason::ClientGoneInHandshake, 2);
    world.reaches("open", 1, Counters::open);
    let accepted = world.figure(Counters::accepted);
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        taken.push(file);
    }
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], address.1));
    let socket = socket2::SockRef::from(&waiting.sock);
    socket.connect(&address.into()).unwrap();
    // Those who are served are served on, and time passes.
    let before = world.figure(Counters::enters);
    for _ in 0..200 {
        first.write_all(b"y").unwrap();
        first.read_exact(&mut [0; 1]).unwrap();
        world.clock.advance(std::time::Duration::from_millis(10));
    }
    assert_eq!(world.figure(Counters::accepted), accepted, "none was left");
    let enters = world.figure(Counters::enters) - before;
    assert!(
        enters < 200 * 20,
        "{enters} turns for 200 messages: it spins"
    );

    drop(taken);
    world.clock.advance(std::time::Duration::from_secs(1));
    waiting.write_all(b"x").unwrap();
    waiting.read_exact(&mut [0; 1]).unwrap();
    finish(waiting);
    finish(first);
}
