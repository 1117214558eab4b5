//! What a shard's handshakes hold is no other shard's: each of them counts references to it, and so
//! writes to where it lies.

use std::sync::Arc;

use ringgate::tls::Acceptor;
use rustls::CipherSuite;

use crate::support::*;

/// References to keys, domains and names of the routes.
fn references(acceptor: &Acceptor) -> Vec<usize> {
    let routes = acceptor.routes().iter();
    let counts = routes.flat_map(|route| {
        let keys = route.certificates.iter();
        let keys = keys.map(|key| Arc::strong_count(key.certified()));
        keys.chain([
            Arc::strong_count(&route.domain),
            Arc::strong_count(&route.name),
        ])
    });
    counts.collect()
}

/// A handshake of which the server has answered the ClientHello.
fn half_done(pki: &Pki, acceptor: &Acceptor) -> Server {
    let mut client = pki.client(CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut server = Server::new(acceptor);
    server.receive(&take_output(&mut client)).unwrap();
    assert!(!server.sent.is_empty() && server.established.is_none());
    server
}

#[test]
fn handshakes_hold_nothing_that_is_another_shards() {
    let pki = Pki::new();
    let configured = pki.acceptor();
    let [first, second] = [(), ()].map(|()| configured.for_shard().unwrap());
    let before = [&configured, &second].map(references);
    let of_first = references(&first);
    let going_on: Vec<Server> = (0..3).map(|_| half_done(&pki, &first)).collect();
    assert_ne!(references(&first), of_first, "a handshake holds something");
    assert_eq!([&configured, &second].map(references), before);
    drop(going_on);
    assert_eq!(references(&first), of_first);
}

#[test]
fn keys_and_names_of_rules_lie_in_a_place_of_their_own_for_each_shard() {
    let pki = Pki::new();
    let configured = pki.acceptor();
    let shards = [(), ()].map(|()| configured.for_shard().unwrap());
    let [first, second] = shards.each_ref().map(|shard| {
        let mut client = pki.client(CipherSuite::TLS13_AES_128_GCM_SHA256);
        let mut server = Server::new(shard);
        shake_hands(&mut client, &mut server, whole).unwrap();
        server.established.unwrap()
    });
    let rules = [&first, &second].map(|established| established.client.rule().as_ptr());
    assert_ne!(rules[0], rules[1]);
    let keys = shards.each_ref().map(|shard| {
        let key = &shard.routes()[0].certificates[0];
        Arc::as_ptr(&key.key).cast::<u8>()
    });
    assert_ne!(keys[0], keys[1]);
}

/// So that what is served no more is freed by whoever waits for that, and not for ever kept.
#[test]
fn a_configuration_is_held_by_its_shards_and_they_only_by_what_they_serve() {
    let pki = Pki::new();
    let configured = pki.acceptor();
    assert!(!configured.is_held());
    let shard = configured.for_shard().unwrap();
    assert!(configured.is_held());
    assert!(!shard.is_held());
    let going_on = half_done(&pki, &shard);
    assert!(shard.is_held());
    drop(going_on);
    assert!(!shard.is_held());
    drop(shard);
    assert!(!configured.is_held());
}
