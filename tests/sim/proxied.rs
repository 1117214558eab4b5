//! A load balancer's header in front of the handshake, driven by hand.

use std::net::SocketAddr;
use std::time::Duration;

use ringgate::close_reason::CloseReason;
use ringgate::connection::{Event, Greeting, Side};
use ringgate::limits::{PROXY_HEADER_MAX, PROXY_HEADER_V1_MAX};

use crate::cast::{Cast, Who};
use crate::hand::Hand;
use crate::introduction::{binary, block, line, tlv};
use crate::proxy_v2::Header;
use crate::support::take_output;
use crate::world::SOURCE;

const GREETING: Greeting = Greeting::ProxyV2 {
    client_certificate: false,
};

fn addresses() -> [SocketAddr; 2] {
    ["192.0.2.7:4711", "198.51.100.1:443"].map(|text| text.parse().unwrap())
}

fn headers() -> [Vec<u8>; 3] {
    let [client, local] = addresses();
    [
        line(client, local),
        binary(client, local, &[]),
        binary(client, local, &tlv(0xea, b"vpce-0123456789")),
    ]
}

fn hello() -> Vec<u8> {
    take_output(&mut Cast::get().client(Who::LetIn, false))
}

/// In these pieces; whether the terminator answered with its own hello.
fn answers(pieces: &[&[u8]]) -> bool {
    let mut hand = Hand::introduced(GREETING);
    for piece in pieces {
        assert_eq!(hand.sent[0], b"", "an answer before all was there");
        hand.receive(piece.to_vec());
    }
    assert_eq!(hand.closed, None);
    !hand.sent[0].is_empty()
}

#[test]
fn a_header_may_be_cut_anywhere() {
    let hello = hello();
    for header in headers() {
        let whole = [&header[..], &hello].concat();
        assert!(answers(&[&whole]));
        for cut in 1..=header.len() + 6 {
            let (first, second) = whole.split_at(cut);
            assert!(answers(&[first, second]), "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert!(answers(&bytes), "a byte at a time");
    }
}

#[test]
fn the_upstream_is_told_of_the_client_that_was_introduced() {
    let [client, local] = addresses();
    for header in headers() {
        let mut hand = Hand::introduced(GREETING);
        hand.receive(header);
        let (_, flight) = hand.client();
        hand.receive(flight);
        hand.on(Event::Connected(Ok(())));
        let told = Header::read(&mut hand.sent[1].as_slice()).unwrap();
        assert_eq!(told.source, Some(client));
        assert_eq!(told.destination, Some(local));
        assert_eq!(hand.connection().via(), Some(SOURCE));
    }
}

/// A driver takes the header out of what it lets wait.
#[test]
fn a_header_can_be_taken_alone() {
    let hello = hello();
    for header in headers() {
        let whole = [&header[..], &hello].concat();
        let mut hand = Hand::introduced(GREETING);
        assert_eq!(hand.introduce(&whole[..10]), 10);
        assert_eq!(hand.introduce(&whole[10..]), header.len() - 10);
        assert_eq!(hand.introduce(&hello), 0, "none follows");
        assert!(hand.connection().is_handshaking() && hand.sent[0].is_empty());
        hand.receive(hello.clone());
        assert!(!hand.sent[0].is_empty());
    }
    let mut plain = Hand::new(GREETING);
    assert_eq!(plain.introduce(&headers()[0]), 0);
    assert_eq!(plain.connection().via(), None);
    let mut refused = Hand::introduced(GREETING);
    assert_eq!(refused.introduce(&hello), hello.len(), "nothing is left");
    assert_eq!(refused.closed, Some(CloseReason::ProxyHeaderInvalid));
}

#[test]
fn what_is_no_header_is_refused_at_once() {
    let long_line = [&b"PROXY UNKNOWN "[..], &[b'x'; PROXY_HEADER_V1_MAX]].concat();
    let long_block = block(0x20, 0, &[0; PROXY_HEADER_MAX - 15])[..16].to_vec();
    for garbage in [
        hello(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"PROXY TCP4 nobody nobody 1 2\r\n".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\r".to_vec(),
        block(0x21, 0x33, &[0; 216]),
        block(0x21, 0x11, &[0; 11]),
        long_line,
        long_block,
    ] {
        let mut hand = Hand::introduced(GREETING);
        hand.receive(garbage.clone());
        assert_eq!(
            hand.closed,
            Some(CloseReason::ProxyHeaderInvalid),
            "{garbage:x?}"
        );
        assert!(hand.sent.iter().all(Vec::is_empty));
        let refused = hand.connection().refused().expect("a detail for the log");
        assert!(!refused.detail.is_empty());
    }
}

#[test]
fn a_slow_header_ends_at_the_deadline_of_the_handshake() {
    let [header, ..] = headers();
    let mut hand = Hand::introduced(GREETING);
    let deadline = hand.connection().deadline();
    for byte in &header[..20] {
        hand.receive(vec![*byte]);
        assert_eq!(hand.connection().deadline(), deadline, "it is absolute");
    }
    assert_eq!(hand.reach_deadline(), Duration::from_secs(10));
    assert_eq!(hand.closed, Some(CloseReason::HandshakeTimeout));
    // And it goes on for what comes behind a header.
    let mut hand = Hand::introduced(GREETING);
    let deadline = hand.connection().deadline();
    hand.receive(header);
    assert_eq!(hand.connection().deadline(), deadline);
    hand.reach_deadline();
    assert_eq!(hand.closed, Some(CloseReason::HandshakeTimeout));
}

#[test]
fn an_end_in_the_header_is_an_end_in_the_handshake() {
    let [header, ..] = headers();
    for len in [0, 10, header.len()] {
        let mut hand = Hand::introduced(GREETING);
        hand.receive(header[..len].to_vec());
        hand.on(Event::Ended(Side::Client, Ok(())));
        assert_eq!(hand.closed, Some(CloseReason::ClientGoneInHandshake));
        assert!(hand.connection().refused().is_none(), "nothing to tell");
    }
}
