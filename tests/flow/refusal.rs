//! Clients that are not let in: the right alert, one reason, one report, and not one connection to
//! an upstream.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rcgen::{ExtendedKeyUsagePurpose, KeyPair};
use ringgate::close_reason::CloseReason;
use ringgate::shard::mailbox::Report;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConfig, ClientConnection, SupportedProtocolVersion};

use crate::pem::pem;
use crate::pki::{self, Ca, Leaf, NOW};
use crate::proxy_v2 as tlv;
use crate::upstream::{Manner, Upstream};
use crate::world::{
    CLIENT_ID, EVERYONE, FILES, Folder, SERVER_NAME, World, alert, alert_in, certified, finish,
};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

const HANDSHAKE: u8 = 22;
const CERTIFICATE: u8 = 11;
const CERTIFICATE_VERIFY: u8 = 15;

/// What a refusal must look like.
struct Refusal {
    alert: AlertDescription,
    reason: CloseReason,
}

fn refusal(alert: AlertDescription, reason: CloseReason) -> Refusal {
    Refusal { alert, reason }
}

/// Offers the leaf that `issue` makes to a terminator with these lines, on either version.
fn offer(lines: &str, issue: impl Fn(&World) -> Option<Leaf>, expected: &Refusal) -> Vec<Report> {
    offer_to(|_, _, _| {}, lines, issue, expected)
}

fn offer_to(
    prepare: impl Fn(&Folder, &Ca, &Ca),
    lines: &str,
    issue: impl Fn(&World) -> Option<Leaf>,
    expected: &Refusal,
) -> Vec<Report> {
    let try_version = |version| {
        let upstream = Upstream::new(Manner::Echo);
        let config = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nmin_version = \"1.2\"\n{FILES}upstream = {}\n{lines}\n",
            upstream.toml()
        );
        let world = World::with(&prepare, &config);
        let leaf = issue(&world);
        let stream = world.connect_as(leaf.as_ref(), SERVER_NAME, &[version]);
        let client = stream.sock.local_addr().unwrap();
        assert_eq!(alert(stream), expected.alert, "{version:?}");
        let report = world.refused(expected.reason, &upstream);
        assert_eq!(report.peer, client);
        assert_eq!(report.server_name.as_deref(), Some(SERVER_NAME));
        assert_ne!(report.detail, "");
        report
    };
    VERSIONS.into_iter().map(try_version).collect()
}

fn leaf(world: &World, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Option<Leaf> {
    let mut params = pki::client_with("client", vec![pki::uri(CLIENT_ID)]);
    params.serial_number = pki::serial(0x0b0b);
    change(&mut params);
    Some(world.client_ca.issue(params))
}

/// Who the report says was refused.
fn names_the_client(reports: &[Report]) {
    for report in reports {
        let identity = report.identity.as_ref().expect("the leaf could be read");
        assert_eq!(identity.uris, [CLIENT_ID]);
        assert_eq!(identity.subject, "CN=client");
        assert_eq!(identity.serial_hex(), "0b0b");
        assert_ne!(identity.issuer, "");
    }
}

#[test]
fn no_certificate() {
    let expected = refusal(
        AlertDescription::CertificateRequired,
        CloseReason::CertificateMissing,
    );
    for report in offer(EVERYONE, |_| None, &expected) {
        assert!(report.identity.is_none());
    }
}

#[test]
fn wrong_ca() {
    let other = Ca::root("Clients");
    let expected = refusal(
        AlertDescription::UnknownCA,
        CloseReason::CertificateUnknownCa,
    );
    let issue = |_: &World| {
        let mut params = pki::client_with("client", vec![pki::uri(CLIENT_ID)]);
        params.serial_number = pki::serial(0x0b0b);
        Some(other.issue(params))
    };
    names_the_client(&offer(EVERYONE, issue, &expected));
}

#[test]
fn expired() {
    let expected = refusal(
        AlertDescription::CertificateExpired,
        CloseReason::CertificateExpired,
    );
    let issue = |world: &World| leaf(world, |params| params.not_after = pki::at(NOW - 1));
    names_the_client(&offer(EVERYONE, issue, &expected));
}

#[test]
fn not_yet_valid() {
    let expected = refusal(
        AlertDescription::CertificateExpired,
        CloseReason::CertificateNotYetValid,
    );
    let issue = |world: &World| leaf(world, |params| params.not_before = pki::at(NOW + 60));
    names_the_client(&offer(EVERYONE, issue, &expected));
}

#[test]
fn server_auth_only_leaf() {
    let expected = refusal(
        AlertDescription::UnsupportedCertificate,
        CloseReason::CertificatePurpose,
    );
    let issue = |world: &World| {
        leaf(world, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
    };
    names_the_client(&offer(EVERYONE, issue, &expected));
}

#[test]
fn policy_denied() {
    let rules = format!(
        "rule = [{{ name = \"all\", allow = {{ any = true }} }}, \
         {{ name = \"not-that-one\", deny = {{ uri = \"{CLIENT_ID}\" }} }}]"
    );
    let expected = refusal(AlertDescription::AccessDenied, CloseReason::PolicyDenied);
    let reports = offer(&rules, |world| leaf(world, |_| {}), &expected);
    names_the_client(&reports);
    for report in reports {
        assert!(report.detail.contains("not-that-one"), "{}", report.detail);
    }
}

#[test]
fn policy_unmatched() {
    let rules = "rule = [{ name = \"others\", allow = { uri = \"spiffe://example.org/other\" } }]";
    let expected = refusal(AlertDescription::AccessDenied, CloseReason::PolicyUnmatched);
    names_the_client(&offer(rules, |world| leaf(world, |_| {}), &expected));
}

#[test]
fn revoked() {
    let prepare = |folder: &Folder, clients: &Ca, _: &Ca| {
        folder.write("revoked.pem", &pem("X509 CRL", &clients.crl(&[0x0b0b])));
    };
    let lines = format!("{EVERYONE}\ncrl = \"revoked.pem\"");
    let expected = refusal(
        AlertDescription::CertificateRevoked,
        CloseReason::CertificateRevoked,
    );
    let reports = offer_to(prepare, &lines, |world| leaf(world, |_| {}), &expected);
    names_the_client(&reports);
}

/// As above, but for the serial: the list revokes another certificate, and this one is let in.
#[test]
fn revocation_of_another_lets_in() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::with(
        |folder, clients, _| {
            folder.write("revoked.pem", &pem("X509 CRL", &clients.crl(&[0x0c0c])));
        },
        &format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n{FILES}upstream = {}\n{EVERYONE}\ncrl = \"revoked.pem\"\n",
            upstream.toml()
        ),
    );
    let mut stream = world.connect(&leaf(&world, |_| {}).unwrap());
    stream.write_all(b"x").unwrap();
    assert_eq!(finish(stream), b"x");
}

/// Presents `certificate` and proves a key that need not be its own.
fn present(certificate: impl Fn(&World) -> CertifiedKey, expected: &[Refusal; 2]) -> Vec<Report> {
    let each = VERSIONS.into_iter().zip(expected);
    let reports = each.map(|(version, expected)| {
        let upstream = Upstream::new(Manner::Echo);
        let world = World::new(&upstream.toml(), "min_version = \"1.2\"");
        let presents = Some(Arc::new(certificate(&world)));
        let config = world.client_config_of(presents, &[version], default_provider());
        let stream = world.connect_with(config, SERVER_NAME);
        assert_eq!(alert(stream), expected.alert, "{version:?}");
        world.refused(expected.reason, &upstream)
    });
    reports.collect()
}

#[test]
fn wrong_key() {
    let expected = || {
        refusal(
            AlertDescription::DecryptError,
            CloseReason::CertificatePossessionUnproven,
        )
    };
    let stolen = |world: &World| {
        let certificate = leaf(world, |_| {}).unwrap().certificate;
        certified(certificate, &KeyPair::generate().unwrap())
    };
    names_the_client(&present(stolen, &[expected(), expected()]));
}

/// A list of one certificate of no bytes.
#[test]
fn empty_certificate() {
    let expected = || {
        refusal(
            AlertDescription::BadCertificate,
            CloseReason::CertificateInvalid,
        )
    };
    let nothing = |_: &World| {
        let key = KeyPair::generate().unwrap();
        certified(CertificateDer::from(Vec::new()), &key)
    };
    present(nothing, &[expected(), expected()]);
}

/// Runs a TLS 1.2 handshake from which messages of these types are left out, to its alert. Under
/// TLS 1.3 they are protected; there tests/tls leaves them out.
fn leave_out(types: &[u8]) {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "min_version = \"1.2\"");
    let config = world.client_config(Some(&world.client()), &[&rustls::version::TLS12]);
    let mut socket = world.dial();
    let error = handshake_edited(config, &mut socket, |record| {
        let left_out = record[0] == HANDSHAKE && types.contains(&record[5]);
        if left_out {
            Vec::new()
        } else {
            record.to_vec()
        }
    });
    drop(socket);
    assert_eq!(alert_in(&error), AlertDescription::UnexpectedMessage);
    let report = world.refused(CloseReason::ProtocolViolation, &upstream);
    assert_ne!(report.detail, "");
}

/// Runs a client's handshake with every record that it sends edited; returns how it failed.
fn handshake_edited(
    config: ClientConfig,
    socket: &mut TcpStream,
    edit: impl Fn(&[u8]) -> Vec<u8>,
) -> std::io::Error {
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    loop {
        let mut output = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut output).unwrap();
        }
        let mut rest = &output[..];
        while let [_, _, _, high, low, ..] = *rest {
            let end = 5 + usize::from(u16::from_be_bytes([high, low]));
            socket.write_all(&edit(&rest[..end])).unwrap();
            rest = &rest[end..];
        }
        if client.read_tls(socket).unwrap() == 0 {
            panic!("the end of the stream and no alert");
        }
        if let Err(error) = client.process_new_packets() {
            return std::io::Error::other(error);
        }
        assert!(client.is_handshaking(), "let in");
    }
}

#[test]
fn missing_certificate_verify() {
    leave_out(&[CERTIFICATE_VERIFY]);
}

#[test]
fn missing_certificate_message() {
    leave_out(&[CERTIFICATE, CERTIFICATE_VERIFY]);
}

fn no_control(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

#[test]
fn nul_in_name() {
    let rules = format!("rule = [{{ name = \"one\", allow = {{ uri = \"{CLIENT_ID}\" }} }}]");
    let expected = refusal(AlertDescription::AccessDenied, CloseReason::PolicyUnmatched);
    let issue = |world: &World| {
        leaf(world, |params| {
            params.subject_alt_names = vec![pki::uri(&format!("{CLIENT_ID}\0.evil.example"))];
        })
    };
    for report in offer(&rules, issue, &expected) {
        let identity = report.identity.unwrap();
        assert_eq!(identity.uris, [""; 0]);
        assert_eq!(identity.rejected_names.len(), 1);
        no_control(&identity.rejected_names[0]);
        no_control(&report.detail);
    }
}

#[test]
fn control_bytes() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let forged = format!("client\nuri:{CLIENT_ID}");
    let mut params = pki::client_with(
        &forged,
        vec![
            pki::dns("client.example"),
            pki::uri(&format!("x:y\nuri:{CLIENT_ID}")),
            pki::email("a@b.example\ndns:admin.example"),
        ],
    );
    params.serial_number = pki::serial(0x0b0b);
    let mut stream = world.connect(&world.client_ca.issue(params));
    stream.write_all(b"x").unwrap();
    finish(stream);
    let header = upstream.visit().header.unwrap();
    assert_eq!(header.text(tlv::SANS), Some("dns:client.example"));
    assert_eq!(header.text(tlv::SPIFFE_ID), None);
    assert_eq!(header.text(tlv::SSL_CN), None);
}

/// The same names where the client is refused: what is logged of them holds no control byte.
#[test]
fn control_bytes_in_a_report() {
    let rules = "rule = [{ name = \"one\", allow = { cn = \"client\" } }]";
    let expected = refusal(AlertDescription::AccessDenied, CloseReason::PolicyUnmatched);
    let issue = |world: &World| {
        leaf(world, |params| {
            params.distinguished_name = pki::common_name("client\nreason=let_in\0");
        })
    };
    for report in offer(rules, issue, &expected) {
        let identity = report.identity.unwrap();
        assert_eq!(identity.common_name, None);
        for text in [&identity.subject, &identity.issuer, &report.detail] {
            no_control(text);
        }
    }
}

/// Writes `bytes` on a plain connection and reads what is answered.
fn send_plain(world: &World, bytes: &[u8]) -> Vec<u8> {
    let mut socket = world.dial();
    socket.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A reset is as good an end as any.
    let _ = socket.read_to_end(&mut answer);
    answer
}

#[test]
fn garbage_is_no_tls() {
    for garbage in [&[0xff; 100][..], b"\x16\x02\x00\x00\x05", b"SSH-2.0-x\r\n"] {
        let upstream = Upstream::new(Manner::Echo);
        let world = World::new(&upstream.toml(), "");
        assert_eq!(send_plain(&world, garbage), b"");
        let report = world.refused(CloseReason::NotTls, &upstream);
        assert!(report.server_name.is_none() && report.identity.is_none());
    }
}

#[test]
fn garbage_in_the_clothes_of_tls() {
    let record = |body: &[u8]| [&[22, 3, 1, 0, body.len().to_le_bytes()[0]], body].concat();
    for (garbage, alert) in [
        // A ClientHello of nonsense.
        (
            record(&[1, 0, 0, 4, 9, 9, 9, 9]),
            AlertDescription::DecodeError,
        ),
        // A Finished.
        (
            record(&[20, 0, 0, 4, 9, 9, 9, 9]),
            AlertDescription::UnexpectedMessage,
        ),
        // No handshake message.
        (
            record(&[99, 0, 0, 4, 9, 9, 9, 9]),
            AlertDescription::UnexpectedMessage,
        ),
    ] {
        let upstream = Upstream::new(Manner::Echo);
        let world = World::new(&upstream.toml(), "");
        let answer = send_plain(&world, &garbage);
        let [21, 3, _, 0, 2, 2, description] = answer[..] else {
            panic!("no fatal alert: {answer:?}");
        };
        assert_eq!(AlertDescription::from(description), alert, "{garbage:?}");
        world.refused(CloseReason::ProtocolViolation, &upstream);
    }
}

#[test]
fn plain_http() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let answer = send_plain(&world, b"GET / HTTP/1.1\r\nHost: app.example\r\n\r\n");
    assert_eq!(answer, b"");
    let report = world.refused(CloseReason::NotTls, &upstream);
    assert!(report.detail.contains("https"), "{}", report.detail);
}

#[test]
fn port_scan() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    for count in 1..=20 {
        drop(world.dial());
        world.closed(CloseReason::ClientGoneInHandshake, count);
    }
    world.quiet();
    assert_eq!((world.ends(), world.upstream_connects()), (20, 0));
    assert!(world.report_if_any().is_none(), "a scan deserves no line");
}

/// What a client's own ClientHello leads to, before it shows a certificate.
fn hello_refused(
    lines: &str,
    config: impl Fn(&World) -> (ClientConfig, &'static str),
    expected: &Refusal,
) -> Report {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), lines);
    let (config, name) = config(&world);
    assert_eq!(alert(world.connect_with(config, name)), expected.alert);
    world.refused(expected.reason, &upstream)
}

#[test]
fn unknown_server_name() {
    let expected = refusal(
        AlertDescription::UnrecognisedName,
        CloseReason::UnknownServerName,
    );
    for version in VERSIONS {
        let lines = "min_version = \"1.2\"\nserver_names = [\"app.example\"]";
        let config = |world: &World| {
            let config = world.client_config(Some(&world.client()), &[version]);
            (config, "other.example")
        };
        let report = hello_refused(lines, config, &expected);
        assert_eq!(report.server_name.as_deref(), Some("other.example"));
    }
}

#[test]
fn missing_server_name() {
    let expected = refusal(
        AlertDescription::MissingExtension,
        CloseReason::UnknownServerName,
    );
    let config = |world: &World| {
        let mut config = world.client_config(Some(&world.client()), &[&rustls::version::TLS13]);
        config.enable_sni = false;
        (config, SERVER_NAME)
    };
    let report = hello_refused("server_names = [\"app.example\"]", config, &expected);
    assert_eq!(report.server_name, None);
}

#[test]
fn tls12_where_tls13_is_asked_for() {
    let expected = refusal(
        AlertDescription::ProtocolVersion,
        CloseReason::NothingInCommon,
    );
    let config = |world: &World| {
        let config = world.client_config(Some(&world.client()), &[&rustls::version::TLS12]);
        (config, SERVER_NAME)
    };
    hello_refused("", config, &expected);
}

#[test]
fn no_application_protocol_in_common() {
    let expected = refusal(
        AlertDescription::NoApplicationProtocol,
        CloseReason::NothingInCommon,
    );
    for version in VERSIONS {
        let lines = "min_version = \"1.2\"\nalpn = [\"h2\"]";
        let config = |world: &World| {
            let mut config = world.client_config(Some(&world.client()), &[version]);
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            (config, SERVER_NAME)
        };
        hello_refused(lines, config, &expected);
    }
}
