use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::clock::Clock;
use crate::tls::acceptor::MinVersion;
use crate::tls::load_certified_key;
use crate::tls::{AcceptorOptions, Route};
use crate::trust::TrustDomain;
use crate::trust::domain::TrustSources;
use crate::trust::policy::{Effect, Matcher, Policy, Rule};

fn authority() -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "Test CA");
    let anchor = params.self_signed(&key).unwrap().der().clone();
    (anchor, Issuer::new(params, key))
}

/// One certificate for both sides, let in by its fingerprint.
fn both_sides() -> (Acceptor, ClientConnection) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["server.test".to_owned()]).unwrap();
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let (anchor, issuer) = authority();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let certified =
        load_certified_key(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let fingerprint = Identity::from_der(certificate.der()).unwrap().fingerprint;
    let rule = Rule {
        name: "me".into(),
        effect: Effect::Allow,
        matchers: vec![Matcher::Fingerprint(fingerprint)],
    };
    let domain = TrustDomain::new(TrustSources {
        anchors: vec![anchor.clone()],
        policy: Policy { rules: vec![rule] },
        ..TrustSources::default()
    })
    .unwrap();
    let route = Route {
        name: "only".into(),
        server_names: Vec::new(),
        certificates: vec![certified],
        domain: Arc::new(domain),
    };
    let acceptor = Acceptor::new(AcceptorOptions {
        routes: vec![route],
        default_route: Some(0),
        alpn: Vec::new(),
        min_version: MinVersion::Tls13,
        resumption: None,
        clock: Clock::system(),
    })
    .unwrap();

    let mut roots = RootCertStore::empty();
    roots.add(anchor).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let client = ClientConnection::new(Arc::new(config), "server.test".try_into().unwrap());
    (acceptor, client.unwrap())
}

/// A handshake that rustls holds for done, before our own record layer takes over.
fn done_by_rustls(pool: &mut Pool) -> Handshake {
    let (acceptor, mut client) = both_sides();
    let mut handshake = Handshake::new(&acceptor).unwrap();
    for _ in 0..2 {
        let mut input = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut input).unwrap();
        }
        let mut out = pool.take().unwrap();
        handshake.process_in_place(&mut input, &mut out).unwrap();
        if !out.is_empty() {
            client.read_tls(&mut out.filled()).unwrap();
            client.process_new_packets().unwrap();
        }
        pool.give(out);
    }
    handshake
}

#[test]
fn a_judged_client_is_established() {
    let mut pool = Pool::new(4, 4);
    let mut handshake = done_by_rustls(&mut pool);
    let mut out = pool.take().unwrap();
    assert!(handshake.establish(&[], &mut pool, &mut out).is_ok());
}

#[test]
fn nobody_gets_in_without_a_verdict() {
    let mut pool = Pool::new(4, 4);
    let mut handshake = done_by_rustls(&mut pool);
    handshake.judgement.verdict = None;
    let mut out = pool.take().unwrap();
    let ending = handshake
        .establish(b"\x17\x03", &mut pool, &mut out)
        .unwrap_err();
    assert_eq!(ending.reason, CloseReason::Internal);
    assert_eq!(
        pool.lent(),
        1,
        "what came behind the Finished is still held"
    );
    assert!(!out.is_empty(), "the client is told");
}

#[test]
fn nobody_gets_in_by_a_verdict_about_another() {
    let mut pool = Pool::new(4, 4);
    let mut handshake = done_by_rustls(&mut pool);
    let mut another = done_by_rustls(&mut pool);
    std::mem::swap(&mut handshake.judgement, &mut another.judgement);
    let mut out = pool.take().unwrap();
    let ending = handshake.establish(&[], &mut pool, &mut out).unwrap_err();
    assert_eq!(ending.reason, CloseReason::Internal);
    assert!(!out.is_empty(), "the client is told");
}

#[test]
fn a_silent_client_costs_nothing_on_the_heap() {
    let (acceptor, _) = both_sides();
    let mut handshake = Handshake::new(&acceptor).unwrap();
    let mut pool = Pool::new(2, 2);
    let mut out = pool.take().unwrap();
    handshake.receive(&mut [], &mut pool, &mut out).unwrap();
    assert!(handshake.connection.is_none() && handshake.kept.is_empty());
    assert!(
        handshake
            .receive(&mut b"SSH-2.0-x\r\n".to_vec(), &mut pool, &mut out)
            .is_err()
    );
    assert!(handshake.connection.is_none());
    assert!(
        size_of::<Handshake>() <= 512,
        "{} bytes",
        size_of::<Handshake>()
    );
}

#[test]
fn input_after_the_end_is_refused() {
    let (acceptor, _) = both_sides();
    let mut handshake = Handshake::new(&acceptor).unwrap();
    let mut pool = Pool::new(2, 2);
    let mut out = pool.take().unwrap();
    for reason in [CloseReason::NotTls, CloseReason::Internal] {
        let failure = handshake
            .receive(&mut [0x80], &mut pool, &mut out)
            .unwrap_err();
        assert_eq!(failure.reason, reason);
    }
}
