//! The verifier inside rustls handshakes in memory.

use std::sync::Arc;

use rcgen::KeyPair;
use ringgate::clock::Clock;
use ringgate::close_reason::CloseReason;
use ringgate::trust::TrustDomain;
use ringgate::trust::domain::TrustSources;
use ringgate::trust::judgement::{Judgement, choose_domain, enter};
use ringgate::trust::policy::{Effect, Matcher, Policy, Rule};
use ringgate::trust::verifier::Verifier;
use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::pki::{Ca, Leaf, client, client_with, dns};
use crate::{domain, refused, sources};

#[derive(Debug)]
struct Now;

impl TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        Some(crate::pki::now())
    }
}

/// Presents one certificate, whoever asks.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A server's certificate; names the trust domain for the handshake, as a route would.
#[derive(Debug)]
struct RouteOf(Arc<CertifiedKey>, Option<Arc<TrustDomain>>);

impl ResolvesServerCert for RouteOf {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(domain) = &self.1 {
            choose_domain(Arc::clone(domain), None);
        }
        Some(Arc::clone(&self.0))
    }
}

fn certified(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Arc<CertifiedKey> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
    Arc::new(CertifiedKey::new(chain, key))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

struct Outcome {
    judgement: Judgement,
    is_established: bool,
    /// The alert that the client got.
    alert: Option<AlertDescription>,
}

/// One handshake between a client that presents `presented` and a server with `domain`.
fn handshake(
    version: &'static SupportedProtocolVersion,
    presented: Option<Arc<CertifiedKey>>,
    domain: Option<Arc<TrustDomain>>,
) -> Outcome {
    let server_ca = Ca::root("Server CA");
    let mut params = client_with("server", vec![dns("server.test")]);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let server = server_ca.issue(params);
    let route = RouteOf(certified(vec![server.certificate], &server.key), domain);
    let config = ServerConfig::builder_with_details(provider(), Arc::new(Now))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Verifier::new(&provider(), Clock::system())))
        .with_cert_resolver(Arc::new(route));
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();

    let mut roots = RootCertStore::empty();
    roots.add(server_ca.certificate).unwrap();
    let config = ClientConfig::builder_with_details(provider(), Arc::new(Now))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let config = match presented {
        Some(key) => config.with_client_cert_resolver(Arc::new(Always(key))),
        None => config.with_no_client_auth(),
    };
    let name = "server.test".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();

    let mut judgement = Judgement::default();
    let mut alert = None;
    // More flights than any handshake has.
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            server.read_tls(&mut wire).unwrap();
            if enter(&mut judgement, || server.process_new_packets()).is_err() {
                break;
            }
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            if let Err(Error::AlertReceived(received)) = client.process_new_packets() {
                alert = Some(received);
            }
        }
    }
    Outcome {
        judgement,
        is_established: !server.is_handshaking() && alert.is_none(),
        alert,
    }
}

fn made(sources: TrustSources) -> Option<Arc<TrustDomain>> {
    Some(Arc::new(domain(sources)))
}

fn presented(leaf: &Leaf) -> Option<Arc<CertifiedKey>> {
    Some(certified(vec![leaf.certificate.clone()], &leaf.key))
}

#[track_caller]
fn assert_refused(outcome: Outcome, reason: CloseReason, alert: AlertDescription) {
    assert!(!outcome.is_established);
    assert_eq!(outcome.alert, Some(alert));
    refused(outcome.judgement.verdict.unwrap(), reason, &[]);
}

#[test]
fn a_good_client_is_let_in() {
    let root = Ca::root("Root");
    let leaf = root.issue(client("leaf"));
    for version in [&TLS12, &TLS13] {
        let outcome = handshake(version, presented(&leaf), made(sources(&root)));
        assert!(outcome.is_established);
        let authorized = outcome.judgement.verdict.unwrap().unwrap();
        assert_eq!(authorized.identity().common_name.as_deref(), Some("leaf"));
        assert_eq!(authorized.rule(), "in");
    }
}

#[test]
fn no_certificate() {
    let root = Ca::root("Root");
    let outcome = handshake(&TLS13, None, made(sources(&root)));
    assert!(!outcome.is_established && outcome.judgement.verdict.is_none());
    assert_eq!(outcome.alert, Some(AlertDescription::CertificateRequired));
    let outcome = handshake(&TLS12, None, made(sources(&root)));
    assert!(!outcome.is_established && outcome.judgement.verdict.is_none());
}

#[test]
fn wrong_key() {
    let root = Ca::root("Root");
    let leaf = root.issue(client("leaf"));
    let stolen = certified(vec![leaf.certificate], &KeyPair::generate().unwrap());
    for version in [&TLS12, &TLS13] {
        let outcome = handshake(version, Some(Arc::clone(&stolen)), made(sources(&root)));
        let claimed = outcome
            .judgement
            .verdict
            .as_ref()
            .unwrap()
            .as_ref()
            .unwrap_err();
        assert_eq!(claimed.claimed.as_ref().unwrap().subject, "CN=leaf");
        assert_refused(
            outcome,
            CloseReason::CertificatePossessionUnproven,
            AlertDescription::DecryptError,
        );
    }
}

#[test]
fn without_a_trust_domain_nobody_comes_in() {
    let leaf = Ca::root("Root").issue(client("leaf"));
    for version in [&TLS12, &TLS13] {
        let outcome = handshake(version, presented(&leaf), None);
        let refusal = outcome
            .judgement
            .verdict
            .as_ref()
            .unwrap()
            .as_ref()
            .unwrap_err();
        assert!(
            refusal.detail.contains("no trust domain"),
            "{}",
            refusal.detail
        );
        assert_refused(
            outcome,
            CloseReason::Internal,
            AlertDescription::HandshakeFailure,
        );
    }
}

#[test]
fn refusals_reach_the_client_as_alerts() {
    let root = Ca::root("Root");
    let mut expired = client("leaf");
    expired.not_after = crate::pki::at(crate::pki::NOW - 1);
    let deny = |matcher| Policy {
        rules: vec![
            Rule {
                name: "in".into(),
                effect: Effect::Allow,
                matchers: vec![Matcher::Any],
            },
            Rule {
                name: "out".into(),
                effect: Effect::Deny,
                matchers: vec![matcher],
            },
        ],
    };
    for (leaf, policy, crls, reason, alert) in [
        (
            root.issue(expired),
            None,
            vec![],
            CloseReason::CertificateExpired,
            AlertDescription::CertificateExpired,
        ),
        (
            Ca::root("Other").issue(client("leaf")),
            None,
            vec![],
            CloseReason::CertificateUnknownCa,
            AlertDescription::UnknownCA,
        ),
        (
            root.issue(client("leaf")),
            Some(deny(Matcher::CommonName("leaf".to_owned()))),
            vec![],
            CloseReason::PolicyDenied,
            AlertDescription::AccessDenied,
        ),
        (
            root.issue(client("leaf")),
            Some(Policy::default()),
            vec![],
            CloseReason::PolicyUnmatched,
            AlertDescription::AccessDenied,
        ),
        (
            root.issue(client("leaf")),
            None,
            vec![Ca::root("Other").crl(&[])],
            CloseReason::RevocationUnknown,
            AlertDescription::CertificateUnknown,
        ),
    ] {
        let mut sources = sources(&root);
        sources.crls = crls;
        sources.policy = policy.unwrap_or(sources.policy);
        assert_refused(
            handshake(&TLS13, presented(&leaf), made(sources)),
            reason,
            alert,
        );
    }
}

#[test]
fn a_verdict_waits_for_the_proof_of_possession() {
    use rustls::server::danger::ClientCertVerifier;

    let root = Ca::root("Root");
    let leaf = root.issue(client("leaf"));
    let mut judgement = Judgement::default();
    let domain = made(sources(&root)).unwrap();
    let verifier = Verifier::new(&provider(), Clock::system());
    enter(&mut judgement, || {
        choose_domain(domain, None);
        verifier
            .verify_client_cert(&leaf.certificate, &[], crate::pki::now())
            .unwrap();
    });
    assert!(judgement.verdict.is_none());
    assert!(verifier.root_hint_subjects().is_empty() && verifier.client_auth_mandatory());
}

#[test]
fn a_judgement_survives_a_panic_and_stays_in_its_scope() {
    let root = Ca::root("Root");
    let domain = made(sources(&root)).unwrap();
    // Outside of a scope: does nothing.
    choose_domain(Arc::clone(&domain), None);
    let mut judgement = Judgement::default();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        enter(&mut judgement, || {
            choose_domain(Arc::clone(&domain), None);
            std::panic::resume_unwind(Box::new(()));
        })
    }));
    assert!(panicked.is_err());
    assert!(judgement.domain.is_some());
    let mut other = Judgement::default();
    enter(&mut other, || {});
    assert!(other.domain.is_none());
}
