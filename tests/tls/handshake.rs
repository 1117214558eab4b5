//! Handshakes in memory: what gets in, and what each refusal looks like to the client.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use ringgate::close_reason::CloseReason;
use ringgate::limits::HANDSHAKE_INPUT_MAX;
use ringgate::tls::acceptor::MinVersion;
use ringgate::tls::{Acceptor, AcceptorOptions};
use rustls::{AlertDescription, CipherSuite, ProtocolVersion};

use crate::forged::{TLS12, TLS13};
use crate::support::*;

#[test]
fn each_suite_is_negotiated_and_carries_data_both_ways() {
    let pki = Pki::new();
    for suite in SUITES {
        let (mut client, established, mut pool) = established(&pki, suite);
        assert_eq!(established.suite, suite);
        let is_tls13 = SUITES[..3].contains(&suite);
        assert_eq!(established.version == ProtocolVersion::TLSv1_3, is_tls13);
        assert_eq!(established.server_name.as_deref(), Some(SERVER_NAME));
        assert_eq!((established.route, established.resumed), (0, false));
        assert_eq!(established.client.identity().spiffe_id(), Some(CLIENT_ID));
        assert_eq!(pool.lent(), 0);
        let mut records = established.records;

        client.writer().write_all(b"ping").unwrap();
        let mut out = pool.take().unwrap();
        let input = take_output(&mut client);
        let opened = records.open(&input, &mut pool, &mut out).unwrap();
        assert_eq!((opened.consumed, opened.closed), (input.len(), false));
        assert_eq!(out.filled(), b"ping");

        let mut sealed = pool.take().unwrap();
        assert_eq!(records.seal(b"pong", &mut sealed).unwrap(), 4);
        give_input(&mut client, sealed.filled()).unwrap();
        let mut answer = [0; 4];
        client.reader().read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"pong", "{suite:?}");
    }
}

/// What both sides must agree on, however the client's bytes arrive: the client talks first, so
/// that its data comes right behind its Finished.
fn ends_well(pki: &Pki, acceptor: &Acceptor, suite: CipherSuite, split: Splitter<'_>) {
    let mut client = pki.client(suite);
    client.writer().write_all(b"early bird").unwrap();
    let mut server = Server::new(acceptor);
    let mut late = Vec::new();
    for _ in 0..6 {
        for piece in split(take_output(&mut client)) {
            if server.established.is_some() {
                late.extend(piece);
            } else {
                server.receive(&piece).unwrap();
            }
        }
        give_input(&mut client, &std::mem::take(&mut server.sent)).unwrap();
    }
    let mut records = server.established.expect("the handshake is done").records;
    let mut out = server.pool.take().unwrap();
    records.open(&[], &mut server.pool, &mut out).unwrap();
    records.open(&late, &mut server.pool, &mut out).unwrap();
    assert_eq!(out.filled(), b"early bird");
    assert!(!records.is_mid_record());
    assert_eq!(server.pool.lent(), 1, "only the block of plaintext is out");
}

type Splitter<'a> = &'a mut dyn FnMut(Vec<u8>) -> Vec<Vec<u8>>;

#[test]
fn hello_split_every_byte() {
    let pki = Pki::new();
    let acceptor = pki.acceptor();
    for suite in [TLS13, TLS12] {
        ends_well(&pki, &acceptor, suite, &mut |bytes| {
            bytes.chunks(1).map(<[u8]>::to_vec).collect()
        });
        // Both flights are cut at the same place; lengths vary a little with the signatures.
        for cut in 0..1200 {
            ends_well(&pki, &acceptor, suite, &mut |bytes| {
                let (head, tail) = bytes.split_at(cut.min(bytes.len()));
                vec![head.to_vec(), tail.to_vec()]
            });
        }
    }
}

/// Spreads the handshake messages of plaintext `flight` over records of `len` bytes each.
fn respread(flight: &[u8], len: usize) -> Vec<u8> {
    let mut spread = Vec::new();
    let mut rest = flight;
    while !rest.is_empty() {
        let end = 5 + usize::from(u16::from_be_bytes([rest[3], rest[4]]));
        for part in rest[5..end].chunks(len) {
            spread.extend_from_slice(&rest[..3]);
            spread.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
            spread.extend_from_slice(part);
        }
        rest = &rest[end..];
    }
    spread
}

#[test]
fn hello_across_records() {
    let pki = Pki::new();
    let acceptor = pki.acceptor();
    for suite in [TLS13, TLS12] {
        for len in [1, 2, 3, 4, 5, 7, 64, 200] {
            for piece in [1, 6, 100, usize::MAX] {
                let mut first = true;
                ends_well(&pki, &acceptor, suite, &mut |bytes| {
                    let bytes = if std::mem::take(&mut first) {
                        respread(&bytes, len)
                    } else {
                        bytes
                    };
                    bytes.chunks(piece).map(<[u8]>::to_vec).collect()
                });
            }
        }
    }
}

#[test]
fn http() {
    let acceptor = Pki::new().acceptor();
    for request in [
        "GET / HTTP/1.1\r\nHost: server.test\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut server = Server::new(&acceptor);
        let failure = server.receive(request.as_bytes()).unwrap_err();
        assert_eq!(failure.reason, CloseReason::NotTls);
        assert!(failure.detail.contains("HTTP"), "{}", failure.detail);
        assert!(server.sent.is_empty());
    }
}

#[test]
fn garbage() {
    let pki = Pki::new();
    let acceptor = pki.acceptor();
    for first in (0..=255).filter(|&first| first != 22) {
        let mut server = Server::new(&acceptor);
        assert_eq!(
            server.receive(&[first]).unwrap_err().reason,
            CloseReason::NotTls
        );
    }
    let mut server = Server::new(&acceptor);
    server.receive(&[22]).unwrap();
    assert_eq!(
        server.receive(&[2]).unwrap_err().reason,
        CloseReason::NotTls
    );

    // What begins like TLS ends in a refusal, without a panic and without a block kept.
    let mut seed = 0x9e37_79b9_u32;
    for _ in 0..2000 {
        let mut bytes = vec![22, 3, 1];
        for _ in 0..64 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.push(seed.to_be_bytes()[0]);
        }
        bytes[3] &= 0x0f;
        let mut server = Server::new(&acceptor);
        let outcome = server.receive(&bytes);
        assert!(server.established.is_none());
        if outcome.is_err() {
            assert_eq!(server.pool.lent(), 0);
        }
        assert_eq!(server.pool.lent(), 0);
    }
}

#[test]
fn a_flight_with_any_byte_changed_never_panics() {
    let pki = Pki::new();
    let acceptor = pki.acceptor();
    for suite in [TLS13, TLS12] {
        for flight in 0..2 {
            for position in 0..900 {
                let mut client = pki.client(suite);
                let mut server = Server::new(&acceptor);
                for turn in 0..3 {
                    let mut bytes = take_output(&mut client);
                    if turn == flight && position < bytes.len() {
                        bytes[position] ^= 0x41;
                    }
                    if server.receive(&bytes).is_err() {
                        assert_eq!(server.pool.lent(), 0);
                        break;
                    }
                    let _ = give_input(&mut client, &std::mem::take(&mut server.sent));
                }
            }
        }
    }
}

#[test]
fn record_too_long() {
    let mut server = Server::new(&Pki::new().acceptor());
    let failure = server.receive(&[22, 3, 1, 0xff, 0xff]).unwrap_err();
    assert_eq!(failure.reason, CloseReason::RecordTooLong);
    assert_eq!(
        server.sent,
        [
            21,
            3,
            3,
            0,
            2,
            2,
            u8::from(AlertDescription::RecordOverflow)
        ]
    );
}

#[test]
fn an_endless_hello_is_refused_at_the_bound() {
    let mut server = Server::new(&Pki::new().acceptor());
    let mut record = vec![22, 3, 1, 0x10, 0, 1, 0, 0xff, 0xff];
    record.resize(5 + 0x1000, 0);
    let mut sent = 0;
    let failure = loop {
        assert!(
            sent <= HANDSHAKE_INPUT_MAX + record.len(),
            "{sent} bytes are held"
        );
        sent += record.len();
        if let Err(failure) = server.receive(&record) {
            break failure;
        }
        assert_eq!(server.pool.lent(), 0);
        record[5..9].fill(0);
    };
    assert_eq!(failure.reason, CloseReason::ProtocolViolation);
    assert_eq!(server.pool.lent(), 0);
}

/// Whoever is not known yet costs no more than what it sent.
#[test]
fn a_hello_that_trickles_in_holds_no_block() {
    let pki = Pki::new();
    let mut client = pki.client(TLS13);
    let hello = take_output(&mut client);
    let mut server = Server::new(&pki.acceptor());
    for byte in &hello[..hello.len() - 1] {
        server.receive(std::slice::from_ref(byte)).unwrap();
        assert_eq!(server.pool.lent(), 0);
    }
}

#[test]
fn close_notify_during_handshake() {
    let pki = Pki::new();
    for suite in [TLS13, TLS12] {
        let mut client = pki.client(suite);
        let mut server = Server::new(&pki.acceptor());
        server.receive(&take_output(&mut client)).unwrap();
        let failure = server.receive(&[21, 3, 3, 0, 2, 1, 0]).unwrap_err();
        assert_eq!(failure.reason, CloseReason::ClientGoneInHandshake);
    }
}

#[test]
fn a_client_that_distrusts_us_is_heard() {
    let (pki, other) = (Pki::new(), Pki::new());
    for suite in [TLS13, TLS12] {
        let config = other.client_config(suite, Some(pki.client.clone()));
        let mut client = connect(config, SERVER_NAME);
        let mut server = Server::new(&pki.acceptor());
        let failure = shake_hands(&mut client, &mut server, whole).unwrap_err();
        assert_eq!(failure.reason, CloseReason::ClientAlert);
        assert!(failure.detail.contains("UnknownCA"), "{}", failure.detail);
    }
}

// A rustls client without a certificate sends an empty Certificate message: both names of the
// threat are this one situation.
#[test]
fn no_certificate_and_empty_certificate() {
    let pki = Pki::new();
    for suite in SUITES {
        let (failure, alert) = refused(&pki.acceptor(), pki.client_config(suite, None));
        assert_eq!(
            failure.reason,
            CloseReason::CertificateMissing,
            "{failure:?}"
        );
        assert_eq!(alert, Some(AlertDescription::CertificateRequired));
    }
}

#[test]
fn wrong_key() {
    let pki = Pki::new();
    for suite in SUITES {
        let config = pki.client_config(suite, Some(pki.client_with_wrong_key()));
        let (failure, alert) = refused(&pki.acceptor(), config);
        assert_eq!(
            failure.reason,
            CloseReason::CertificatePossessionUnproven,
            "{failure:?}"
        );
        assert_eq!(alert, Some(AlertDescription::DecryptError));
    }
}

/// Keeps the secret that protects the client's handshake flight.
#[derive(Debug, Default)]
struct HandshakeSecret(Mutex<Vec<u8>>);

impl rustls::KeyLog for HandshakeSecret {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if label == "CLIENT_HANDSHAKE_TRAFFIC_SECRET" {
            *self.0.lock().unwrap() = secret.to_vec();
        }
    }
}

/// A server that waits for the client's last flight, that flight's messages in the clear, and the
/// secret that protects them.
fn before_last_flight(pki: &Pki) -> (Server, Vec<Vec<u8>>, Vec<u8>) {
    let secret = Arc::new(HandshakeSecret::default());
    let mut config = pki.client_config(TLS13, Some(pki.client.clone()));
    config.key_log = secret.clone();
    let mut client = connect(config, SERVER_NAME);
    let mut server = Server::new(&pki.acceptor());
    server.receive(&take_output(&mut client)).unwrap();
    give_input(&mut client, &std::mem::take(&mut server.sent)).unwrap();

    let flight = take_output(&mut client);
    let protected = flight.strip_prefix(&[20, 3, 3, 0, 1, 1]).unwrap();
    let secret = secret.0.lock().unwrap().clone();
    let mut messages = Vec::new();
    for (_, content) in Forger::from_traffic_secret(&secret).read(protected) {
        let mut rest = &content[..];
        while let [_, high, middle, low, ..] = *rest {
            let end = 4 + u32::from_be_bytes([0, high, middle, low]) as usize;
            messages.push(rest[..end].to_vec());
            rest = &rest[end..];
        }
    }
    (server, messages, secret)
}

#[test]
fn missing_certificate_verify() {
    const CERTIFICATE_VERIFY: u8 = 15;
    let (mut server, mut messages, secret) = before_last_flight(&Pki::new());
    messages.retain(|message| message[0] != CERTIFICATE_VERIFY);
    let mut forger = Forger::from_traffic_secret(&secret);
    let flight: Vec<u8> = messages
        .iter()
        .flat_map(|message| forger.record(22, message, 0))
        .collect();
    let failure = server.receive(&flight).unwrap_err();
    assert_eq!(
        failure.reason,
        CloseReason::CertificatePossessionUnproven,
        "{failure:?}"
    );
    assert!(server.established.is_none());
}

#[test]
fn last_flight_across_records() {
    let pki = Pki::new();
    for len in [1, 3, 4, 5, 100, 10_000] {
        for piece in [1, 23, 1000, usize::MAX] {
            let (mut server, messages, secret) = before_last_flight(&pki);
            let mut forger = Forger::from_traffic_secret(&secret);
            let flight: Vec<u8> = messages
                .concat()
                .chunks(len)
                .flat_map(|part| forger.record(22, part, len % 4))
                .collect();
            for piece in flight.chunks(piece) {
                server.receive(piece).unwrap();
            }
            assert!(server.established.is_some(), "{len} {piece}");
            assert_eq!(server.pool.lent(), 0);
        }
    }
}

#[test]
fn what_policy_refuses_wins_over_what_rustls_says() {
    let pki = Pki::new();
    for suite in [TLS13, TLS12] {
        let mut options = pki.options();
        options.routes[0].domain = pki.domain(false);
        let acceptor = Acceptor::new(options).unwrap();
        let (failure, alert) = refused(
            &acceptor,
            pki.client_config(suite, Some(pki.client.clone())),
        );
        assert_eq!(failure.reason, CloseReason::PolicyUnmatched);
        assert_eq!(failure.claimed.unwrap().spiffe_id(), Some(CLIENT_ID));
        assert_eq!(failure.server_name.as_deref(), Some(SERVER_NAME));
        assert_eq!(alert, Some(AlertDescription::AccessDenied));
    }
}

#[test]
fn another_ca_is_unknown() {
    let (pki, other) = (Pki::new(), Pki::new());
    let config = pki.client_config(TLS13, Some(other.client.clone()));
    let (failure, alert) = refused(&pki.acceptor(), config);
    assert_eq!(failure.reason, CloseReason::CertificateUnknownCa);
    assert_eq!(alert, Some(AlertDescription::UnknownCA));
}

#[test]
fn nothing_in_common() {
    let pki = Pki::new();
    let strict = AcceptorOptions {
        min_version: MinVersion::Tls13,
        ..pki.options()
    };
    let config = pki.client_config(TLS12, Some(pki.client.clone()));
    let (failure, alert) = refused(&Acceptor::new(strict).unwrap(), config);
    assert_eq!(failure.reason, CloseReason::NothingInCommon, "{failure:?}");
    assert_eq!(alert, Some(AlertDescription::ProtocolVersion));

    let alpn = AcceptorOptions {
        alpn: vec![b"h2".to_vec()],
        ..pki.options()
    };
    let mut config = pki.client_config(TLS13, Some(pki.client.clone()));
    config.alpn_protocols = vec![b"gopher".to_vec()];
    let (failure, alert) = refused(&Acceptor::new(alpn).unwrap(), config);
    assert_eq!(failure.reason, CloseReason::NothingInCommon, "{failure:?}");
    assert_eq!(alert, Some(AlertDescription::NoApplicationProtocol));
}

#[test]
fn alpn_is_ours_to_order() {
    let pki = Pki::new();
    let options = AcceptorOptions {
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        ..pki.options()
    };
    let mut config = pki.client_config(TLS13, Some(pki.client.clone()));
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    let mut client = connect(config, SERVER_NAME);
    let mut server = Server::new(&Acceptor::new(options).unwrap());
    shake_hands(&mut client, &mut server, whole).unwrap();
    assert_eq!(
        server.established.unwrap().alpn.as_deref(),
        Some(&b"h2"[..])
    );
}

#[test]
fn rsa_and_ed25519_keys_work_on_both_sides() {
    for algorithm in [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ED25519] {
        let pki = Pki::with_key(algorithm);
        let (_, established, _) = established(&pki, TLS13);
        assert_eq!(established.client.identity().spiffe_id(), Some(CLIENT_ID));
    }
}

#[test]
fn nothing_is_ever_resumed() {
    let pki = Pki::new();
    for suite in [TLS13, TLS12] {
        let config = Arc::new(pki.client_config(suite, Some(pki.client.clone())));
        let acceptor = pki.acceptor();
        for _ in 0..3 {
            let name = SERVER_NAME.try_into().unwrap();
            let mut client = rustls::ClientConnection::new(config.clone(), name).unwrap();
            let mut server = Server::new(&acceptor);
            shake_hands(&mut client, &mut server, whole).unwrap();
            assert!(!server.established.unwrap().resumed);
            assert_eq!(client.tls13_tickets_received(), 0);
        }
    }
}
