//! Clients that are let in: what they send arrives, and the upstream learns who they are.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use ringgate::close_reason::CloseReason;

use crate::pki;
use crate::proxy_v2 as tlv;
use crate::upstream::{Manner, Upstream};
use crate::world::{CLIENT_ID, SERVER_NAME, World, der, finish, patterned};

#[test]
fn one_byte_goes_there_and_back() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let mut stream = world.connect(&world.client());
    stream.write_all(b"x").unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
    assert_eq!(finish(stream), b"");
    let visit = upstream.visit();
    assert_eq!((visit.bytes.as_slice(), visit.clean), (&b"x"[..], true));
    world.closed(CloseReason::Complete, 1);
    world.quiet();
}

#[test]
fn every_size_goes_there_and_back() {
    let upstream = Upstream::new(Manner::Echo);
    for versions in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let world = World::new(&upstream.toml(), "min_version = \"1.2\"");
        for len in [1, 1_023, 16_383, 16_384, 16_385, 65_536, 1_000_000] {
            let mut stream = world.connect_as(Some(&world.client()), SERVER_NAME, &[versions]);
            let sent = patterned(len);
            let mut socket = stream.sock.try_clone().unwrap();
            let mut back = vec![0; len];
            // Small enough pieces that neither side waits for the other with full buffers.
            for (sent, back) in sent.chunks(32 * 1024).zip(back.chunks_mut(32 * 1024)) {
                stream.write_all(sent).unwrap();
                stream.read_exact(back).unwrap();
            }
            socket.flush().unwrap();
            assert!(back == sent, "{len} bytes came back changed");
            assert_eq!(finish(stream), b"");
            assert!(upstream.visit().bytes == sent);
        }
    }
}

#[test]
fn the_upstream_learns_who_came() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(
        &upstream.toml(),
        "proxy_client_certificate = true\nalpn = [\"h2\", \"http/1.1\"]",
    );
    let leaf = world.client_ca.issue(pki::client_with(
        "billing",
        vec![
            pki::uri(CLIENT_ID),
            pki::dns("billing.example"),
            pki::email("ops@example.org"),
        ],
    ));
    let mut config = world.client_config(Some(&leaf), &[&rustls::version::TLS13]);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut stream = world.connect_with(config, "App.Example");
    stream.write_all(b"hello").unwrap();
    let source = stream.sock.local_addr().unwrap();
    finish(stream);
    let header = upstream.visit().header.unwrap();
    assert_eq!(
        (header.source, header.destination),
        (Some(source), Some(world.address()))
    );
    assert_eq!(header.ssl, Some((0x07, 0)));
    let text = |tag| header.text(tag);
    assert_eq!(text(tlv::AUTHORITY), Some(SERVER_NAME));
    assert_eq!(text(tlv::ALPN), Some("http/1.1"));
    assert_eq!(text(tlv::UNIQUE_ID).map(str::len), Some(32));
    assert_eq!(text(tlv::SSL_VERSION), Some("TLSv1.3"));
    assert_eq!(text(tlv::SSL_CN), Some("billing"));
    assert_eq!(text(tlv::SPIFFE_ID), Some(CLIENT_ID));
    assert_eq!(
        text(tlv::SANS),
        Some("uri:spiffe://example.org/client\ndns:billing.example\nemail:ops@example.org")
    );
    assert_eq!(text(tlv::RULE), Some("everyone"));
    assert_eq!(header.tlvs[&tlv::RESUMED], [0]);
    assert_eq!(header.tlvs[&tlv::SSL_CLIENT_CERT], der(&leaf).as_ref());
    let fingerprint = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der(&leaf));
    assert_eq!(header.tlvs[&tlv::FINGERPRINT], fingerprint.as_ref());
}

#[test]
fn without_a_greeting_the_first_byte_is_the_clients() {
    let upstream = Upstream::with_header(Manner::Echo, false);
    let world = World::new(&upstream.toml(), "proxy_protocol = \"off\"");
    let mut stream = world.connect(&world.client());
    stream.write_all(b"plain").unwrap();
    assert_eq!(finish(stream), b"plain");
    assert_eq!(upstream.visit().bytes, b"plain");
}

/// On a wildcard address only the socket knows where the client connected to.
#[test]
fn a_wildcard_listener_tells_the_address_that_was_used() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::with(
        |_, _, _| {},
        &format!(
            "[[listener]]\naddress = \"0.0.0.0:0\"\n{}upstream = {}\n{}\n",
            crate::world::FILES,
            upstream.toml(),
            crate::world::EVERYONE
        ),
    );
    let port = world.address().port();
    let socket = std::net::TcpStream::connect(("127.0.0.2", port)).unwrap();
    let mut stream = world.connect(&world.client());
    stream.sock = socket;
    stream.write_all(b"x").unwrap();
    finish(stream);
    let destination = upstream.visit().header.unwrap().destination.unwrap();
    assert_eq!(
        destination,
        std::net::SocketAddr::from(([127, 0, 0, 2], port))
    );
}

#[test]
fn a_unix_socket_is_an_upstream() {
    let folder = crate::world::Folder::new();
    let path = folder.0.join("app.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let world = World::new(&format!("\"unix:{}\"", path.display()), "");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let header = tlv::Header::read(&mut stream).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
        header
    });
    let mut stream = world.connect(&world.client());
    stream.write_all(b"over unix").unwrap();
    assert_eq!(finish(stream), b"over unix");
    assert_eq!(server.join().unwrap().text(tlv::SPIFFE_ID), Some(CLIENT_ID));
}

/// Writes to the socket until nobody takes anything any more.
fn fill(mut socket: &UnixStream) -> usize {
    let (piece, mut written, mut idle) = ([7; 1000], 0, 0);
    socket.set_nonblocking(true).unwrap();
    while idle < 20 {
        match socket.write(&piece) {
            Ok(len) => (written, idle) = (written + len, 0),
            Err(_) => {
                idle += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    written
}

/// Receiving is stopped and goes on, each time in one of several ways, when the kernel has the last
/// bytes and the end together.
#[test]
fn the_end_behind_the_last_bytes_of_a_unix_upstream_is_seen() {
    let folder = crate::world::Folder::new();
    let path = folder.0.join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let world = World::new(&format!("\"unix:{}\"", path.display()), "");
    std::thread::scope(|scope| {
        for part in 1..=16 {
            let mut client = world.connect(&world.client());
            while client.conn.is_handshaking() {
                client.conn.complete_io(&mut client.sock).unwrap();
            }
            let (mut upstream, _) = listener.accept().unwrap();
            tlv::Header::read(&mut upstream).unwrap();
            // So that less waits than one receive takes.
            let socket = socket2::SockRef::from(&upstream);
            socket.set_send_buffer_size(16 * 1024).unwrap();
            scope.spawn(move || {
                let mut written = fill(&upstream);
                let mut read = vec![0; part * 100_000];
                client.read_exact(&mut read).unwrap();
                written += fill(&upstream);
                upstream.shutdown(Shutdown::Write).unwrap();
                client.read_to_end(&mut read).expect("a clean end");
                assert_eq!(read.len(), written);
            });
        }
    });
}
