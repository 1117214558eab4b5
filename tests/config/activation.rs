//! Sockets that a service manager passes (sd_listen_fds(3)). A shell plays its part: it has them at
//! the numbers that are agreed on, and becomes the program.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Output, Stdio};

use socket2::{Domain, Socket, Type};

use crate::running::{Running, Stream, client, outcome, scratch};
use crate::scratch::Scratch;

/// A socket that listens on a free port.
fn listening(reuse_port: bool) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(reuse_port).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&address.into()).unwrap();
    socket.listen(64).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// A configuration with one listener of this name, which all clients may enter.
fn configure(scratch: &Scratch, address: SocketAddr, upstream: SocketAddr, shards: usize) {
    scratch.write(
        "ringgate.toml",
        format!(
            "[[listener]]\nname = \"front\"\naddress = \"{address}\"\n\
             certificate = \"server.pem\"\nkey = \"server.key\"\nclient_ca = \"clients-ca.pem\"\n\
             upstream = \"{upstream}\"\nproxy_protocol = \"off\"\n\
             rule = [{{ name = \"everyone\", allow = {{ any = true }} }}]\n\
             [shards]\ncount = {shards}\n[limits]\nconnections = 64\n[log]\nformat = \"json\"\n"
        ),
    );
}

/// The program with `socket` as its descriptor 3, which the environment tells of as `variables` say.
fn passing(scratch: &Scratch, socket: &Socket, variables: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            &format!("{variables} exec \"$0\" run -c \"$1\" 3<&0 </dev/null"),
            env!("CARGO_BIN_EXE_ringgate"),
        ])
        .arg(scratch.path("ringgate.toml"))
        .stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    command
}

const PASSED: &str = "LISTEN_PID=$$ LISTEN_FDS=1";

/// How the program ends that does not start.
fn refused(mut command: Command) -> String {
    let Output { status, stderr, .. } = outcome(&mut command);
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

/// A byte to the upstream and back.
fn echo(stream: &mut Stream, upstream: &TcpListener) {
    let (mut served, _) = upstream.accept().unwrap();
    let mut byte = [0];
    served.read_exact(&mut byte).unwrap();
    served.write_all(&byte).unwrap();
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

/// Serves several connections one after the other, the first of which waited before the program was
/// there; then ends, starts once more, and serves one that came in between.
fn survives_a_restart(reuse_port: bool, shards: usize) {
    let scratch = scratch();
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let (socket, address) = listening(reuse_port);
    configure(&scratch, address, upstream.local_addr().unwrap(), shards);
    let leaf = client(&scratch, "spiffe://x/in");
    for _ in 0..2 {
        let first = TcpStream::connect(address).unwrap();
        let mut running = Running::of(passing(&scratch, &socket, PASSED));
        assert_eq!(running.address, address);
        let mut first = Running::greet(&scratch, first, Some(&leaf));
        echo(&mut first, &upstream);
        for _ in 0..4 {
            let mut stream = running.connect(&scratch, Some(&leaf));
            echo(&mut stream, &upstream);
        }
        // What is kept in a reload goes on accepting.
        running.signal("HUP");
        running.line_with("reloaded, nothing changed");
        for _ in 0..4 {
            let mut stream = running.connect(&scratch, Some(&leaf));
            echo(&mut stream, &upstream);
        }
        drop(first);
        running.signal("TERM");
        assert_eq!(running.ended().code(), Some(0));
    }
}

#[test]
fn shards_share_a_socket_that_was_passed() {
    survives_a_restart(false, 2);
}

#[test]
fn a_socket_that_was_passed_serves_a_shard() {
    survives_a_restart(false, 1);
}

#[test]
fn shards_bind_beside_a_socket_that_may_be_shared() {
    survives_a_restart(true, 2);
}

/// Whoever waits at any of them is served, also after a reload.
#[test]
fn one_shard_accepts_from_more_sockets_than_one() {
    let scratch = scratch();
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let (first, address) = listening(true);
    let second = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    second.set_reuse_port(true).unwrap();
    second.bind(&address.into()).unwrap();
    second.listen(64).unwrap();
    configure(&scratch, address, upstream.local_addr().unwrap(), 1);
    let leaf = client(&scratch, "spiffe://x/in");
    let waiting: Vec<_> = (0..16)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" run -c \"$1\" 3<&0 4<&1 </dev/null >/dev/null",
            env!("CARGO_BIN_EXE_ringgate"),
        ])
        .arg(scratch.path("ringgate.toml"))
        .stdin(Stdio::from(OwnedFd::from(first)))
        .stdout(Stdio::from(OwnedFd::from(second)));
    let mut running = Running::of(command);
    for socket in waiting {
        echo(
            &mut Running::greet(&scratch, socket, Some(&leaf)),
            &upstream,
        );
    }
    running.signal("HUP");
    running.line_with("reloaded, nothing changed");
    for _ in 0..16 {
        echo(&mut running.connect(&scratch, Some(&leaf)), &upstream);
    }
}

#[test]
fn a_socket_serves_the_listener_that_it_is_named_after() {
    let scratch = scratch();
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let (socket, address) = listening(false);
    let configured = SocketAddr::from(([127, 0, 0, 1], 0));
    configure(&scratch, configured, upstream.local_addr().unwrap(), 1);
    let named = format!("{PASSED} LISTEN_FDNAMES=front");
    let running = Running::of(passing(&scratch, &socket, &named));
    assert_eq!(running.address, address);
}

#[test]
fn sockets_that_are_for_no_listener_are_refused() {
    let scratch = scratch();
    let (socket, address) = listening(false);
    let configured = SocketAddr::from(([127, 0, 0, 1], 0));
    configure(&scratch, configured, address, 1);
    let said = refused(passing(&scratch, &socket, PASSED));
    assert!(
        said.contains(&format!("no listener is for {address}: give a listener")),
        "{said}"
    );
    let named = format!("{PASSED} LISTEN_FDNAMES=ringgate.socket");
    let said = refused(passing(&scratch, &socket, &named));
    assert!(
        said.contains(&format!("{address} (`ringgate.socket`)")),
        "{said}"
    );
}

#[test]
fn what_is_no_listening_socket_is_refused() {
    let scratch = scratch();
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    silent.bind(&any.into()).unwrap();
    let datagrams = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    datagrams.bind(&any.into()).unwrap();
    let both = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    both.set_only_v6(false).unwrap();
    let every: SocketAddr = "[::]:0".parse().unwrap();
    both.bind(&every.into()).unwrap();
    both.listen(1).unwrap();
    for (socket, problem) in [
        (&silent, "number 1: it does not listen"),
        (&datagrams, "number 1: it is no TCP socket"),
        (
            &both,
            "number 1: it takes IPv4 connections as well as IPv6 ones",
        ),
    ] {
        let said = refused(passing(&scratch, socket, PASSED));
        assert!(said.contains(problem), "{said}");
    }
}

#[test]
fn an_environment_that_is_wrong_is_refused_and_another_s_is_not_minded() {
    let scratch = scratch();
    let (socket, address) = listening(false);
    configure(&scratch, SocketAddr::from(([127, 0, 0, 1], 0)), address, 1);
    for (variables, problem) in [
        ("LISTEN_PID=me LISTEN_FDS=1", "LISTEN_PID is `me`"),
        ("LISTEN_PID=$$ LISTEN_FDS=-1", "LISTEN_FDS is `-1`"),
        (
            "LISTEN_PID=$$ LISTEN_FDS=99999999",
            "LISTEN_FDS is `99999999`",
        ),
        (
            "LISTEN_PID=$$ LISTEN_FDS=2",
            "promises descriptor 4, which is not open",
        ),
    ] {
        let said = refused(passing(&scratch, &socket, variables));
        assert!(said.contains(problem), "{said}");
    }
    let others = passing(&scratch, &socket, "LISTEN_PID=1 LISTEN_FDS=1");
    assert_ne!(Running::of(others).address, address);
}
