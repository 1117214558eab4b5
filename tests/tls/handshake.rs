use ringgate::close_reason::CloseReason;
use rustls::{AlertDescription, CipherSuite, ProtocolVersion};

use crate::support::*;

const TLS13: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;

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
        let mut records = established.records;

        std::io::Write::write_all(&mut client.writer(), b"ping").unwrap();
        let mut out = block(&mut pool);
        let input = take_output(&mut client);
        let opened = records.open(&input, &mut pool, &mut out).unwrap();
        assert_eq!(
            (opened.consumed, opened.closed, out.filled()),
            (input.len(), false, &b"ping"[..])
        );

        let mut sealed = block(&mut pool);
        assert_eq!(records.seal(b"pong", &mut sealed).unwrap(), 4);
        give_input(&mut client, sealed.filled()).unwrap();
        let mut answer = [0; 4];
        std::io::Read::read_exact(&mut client.reader(), &mut answer).unwrap();
        assert_eq!(&answer, b"pong", "{suite:?}");
    }
}

#[test]
fn http() {
    let mut server = Server::new(&Pki::new().acceptor());
    let failure = server
        .receive(b"GET / HTTP/1.1\r\nHost: server.test\r\n\r\n")
        .unwrap_err();
    assert_eq!(failure.reason, CloseReason::NotTls);
    assert!(failure.detail.contains("HTTP"), "{}", failure.detail);
    assert!(server.sent.is_empty());
}

#[test]
fn no_certificate() {
    let pki = Pki::new();
    for suite in SUITES {
        let mut client = connect(pki.client_config(suite, None), SERVER_NAME);
        let mut server = Server::new(&pki.acceptor());
        let failure = shake_hands(&mut client, &mut server, whole).unwrap_err();
        assert_eq!(
            failure.reason,
            CloseReason::CertificateMissing,
            "{failure:?}"
        );
        assert_eq!(
            alert_in(&mut client, &server.sent),
            Some(AlertDescription::CertificateRequired)
        );
    }
    let _ = TLS13;
}
