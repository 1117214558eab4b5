//! Clients that come back: what the upstream learns of them, and what the shard counts.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use ringgate::Terminator;
use ringgate::shard::Counters;
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};

use crate::proxy_v2::{self as tlv, Header};
use crate::upstream::{Manner, Upstream};
use crate::world::{CLIENT_ID, SERVER_NAME, World, der, finish, load};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

const SECRET: &str = "0123456789abcdef0123456789abcdef\n";

/// One byte there and back; how the handshake went, and what the upstream was told.
fn visit(
    world: &World,
    address: SocketAddr,
    upstream: &Upstream,
    config: &Arc<ClientConfig>,
) -> (HandshakeKind, Header) {
    let mut stream = world.connect_with((**config).clone(), SERVER_NAME);
    stream.sock = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let kind = stream.conn.handshake_kind().unwrap();
    finish(stream);
    (kind, upstream.visit().header.unwrap())
}

#[test]
fn the_upstream_learns_the_same_of_who_resumes() {
    for version in VERSIONS {
        let upstream = Upstream::new(Manner::Echo);
        let more = "proxy_client_certificate = true\nmin_version = \"1.2\"";
        let world = World::new(&upstream.toml(), more);
        let leaf = world.client();
        let config = Arc::new(world.client_config(Some(&leaf), &[version]));
        let (kind, first) = visit(&world, world.address(), &upstream, &config);
        assert_eq!(
            (kind, &first.tlvs[&tlv::RESUMED]),
            (HandshakeKind::Full, &vec![0])
        );
        for _ in 0..2 {
            let (kind, again) = visit(&world, world.address(), &upstream, &config);
            assert_eq!(
                (kind, &again.tlvs[&tlv::RESUMED]),
                (HandshakeKind::Resumed, &vec![1])
            );
            assert_eq!(again.text(tlv::SPIFFE_ID), Some(CLIENT_ID));
            assert_eq!(again.tlvs[&tlv::SSL_CLIENT_CERT], der(&leaf).as_ref());
            for same in [
                tlv::FINGERPRINT,
                tlv::RULE,
                tlv::SANS,
                tlv::SSL_CN,
                tlv::AUTHORITY,
            ] {
                assert_eq!(again.tlvs[&same], first.tlvs[&same], "TLV {same:#x}");
            }
        }
        world.quiet();
        world.reaches("resumed", 2, Counters::resumed);
        // The first found nothing; who resumed was remembered.
        world.reaches("verdicts found", 2, Counters::verdict_hits);
        world.reaches("verdicts not found", 1, Counters::verdict_misses);
        assert_eq!(world.figure(Counters::verdicts_evicted), 0);
        assert_eq!(world.figure(Counters::verdicts_expired), 0);
        assert_eq!(world.figure(Counters::established), 3);
    }
}

/// With a secret in a file, another terminator takes over where this one stops.
#[test]
fn resume_after_restart() {
    let upstream = Upstream::new(Manner::Echo);
    let config = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n{}upstream = {}\n{}\n\
         [resumption]\nstek = \"stek.key\"\n",
        crate::world::FILES,
        upstream.toml(),
        crate::world::EVERYONE
    );
    let world = World::with(
        |folder, _, _| {
            folder.write("stek.key", SECRET);
        },
        &config,
    );
    let config = Arc::new(world.client_config(Some(&world.client()), &[VERSIONS[0]]));
    visit(&world, world.address(), &upstream, &config);
    for (secret, kind) in [
        (SECRET.to_owned(), HandshakeKind::Resumed),
        (SECRET.replace('0', "1"), HandshakeKind::Full),
    ] {
        world.folder.write("stek.key", &secret);
        let snapshot = load(&world.folder.0.join("ringgate.toml"), &world.clock);
        let again = Terminator::start(&Arc::new(snapshot), &world.clock).unwrap();
        let (found, _) = visit(&world, again.addresses()[0], &upstream, &config);
        assert_eq!(found, kind);
        again.stop().unwrap();
    }
}

#[test]
fn nobody_resumes_where_it_is_off() {
    let upstream = Upstream::new(Manner::Echo);
    let off = "[resumption]\ntickets = 0\n[verdict_cache]\nentries = 0\n";
    for version in VERSIONS {
        let world = World::new(&upstream.toml(), &format!("min_version = \"1.2\"\n{off}"));
        let config = Arc::new(world.client_config(Some(&world.client()), &[version]));
        for _ in 0..2 {
            let (kind, _) = visit(&world, world.address(), &upstream, &config);
            assert_eq!(kind, HandshakeKind::Full);
        }
        world.quiet();
        assert_eq!(world.figure(Counters::resumed), 0);
        assert_eq!(world.figure(Counters::verdict_misses), 0);
    }
}
