//! Which route and certificate a server name leads to.

use ringgate::close_reason::CloseReason;
use ringgate::tls::{Acceptor, AcceptorOptions};
use rustls::crypto::aws_lc_rs as provider;
use rustls::{AlertDescription, SignatureScheme};

use crate::forged::{TLS12, TLS13};
use crate::support::*;

/// Three routes: an exact name, a wildcard that covers it, and one more.
fn routed(pki: &Pki, default_route: Option<usize>) -> Acceptor {
    let ed25519 = &rcgen::PKCS_ED25519;
    let mut routes = vec![
        pki.route("wildcard", &["*.a.test"]),
        pki.route("exact", &["x.a.test"]),
        pki.route("other", &["server.test"]),
    ];
    routes[0].certificates = vec![pki.server_with(ed25519, "*.a.test")];
    routes[1].certificates = vec![pki.server_with(ed25519, "x.a.test")];
    Acceptor::new(AcceptorOptions {
        routes,
        default_route,
        ..pki.options()
    })
    .unwrap()
}

#[test]
fn the_server_name_picks_route_and_certificate() {
    let pki = Pki::new();
    let acceptor = routed(&pki, Some(2));
    assert_eq!(acceptor.routes()[1].name.as_ref(), "exact");
    for (name, route) in [
        ("x.a.test", 1),
        ("X.A.test", 1),
        ("y.a.test", 0),
        ("server.test", 2),
    ] {
        for suite in [TLS13, TLS12] {
            let config = pki.client_config(suite, Some(pki.client.clone()));
            let mut client = connect(config, name);
            let mut server = Server::new(&acceptor);
            shake_hands(&mut client, &mut server, whole).unwrap();
            let established = server.established.unwrap();
            assert_eq!(established.route, route, "{name}");
            assert_eq!(
                established.server_name.as_deref(),
                Some(&*name.to_lowercase())
            );
            let shown = &client.peer_certificates().unwrap()[0];
            assert_eq!(shown, &acceptor.routes()[route].certificates[0].cert[0]);
        }
    }
}

#[test]
fn a_name_that_no_route_has_is_refused_or_takes_the_default() {
    let pki = Pki::new();
    for suite in [TLS13, TLS12] {
        let mut client = connect(
            pki.client_config(suite, Some(pki.client.clone())),
            "nobody.test",
        );
        let mut server = Server::new(&routed(&pki, None));
        let failure = shake_hands(&mut client, &mut server, whole).unwrap_err();
        assert_eq!(failure.reason, CloseReason::UnknownServerName);
        assert!(failure.detail.contains("nobody.test"), "{}", failure.detail);
        let alert = alert_in(&mut client, &server.sent);
        assert_eq!(alert, Some(AlertDescription::UnrecognisedName));

        let mut without_name = pki.client_config(suite, Some(pki.client.clone()));
        without_name.enable_sni = false;
        let (failure, alert) = refused(&routed(&pki, None), without_name.clone());
        assert_eq!(failure.reason, CloseReason::UnknownServerName);
        assert_eq!(alert, Some(AlertDescription::MissingExtension));

        let mut client = connect(without_name, SERVER_NAME);
        let mut server = Server::new(&routed(&pki, Some(2)));
        shake_hands(&mut client, &mut server, whole).unwrap();
        let established = server.established.unwrap();
        assert_eq!((established.route, established.server_name), (2, None));
    }
}

#[test]
fn a_certificate_is_chosen_by_what_the_client_verifies() {
    let pki = Pki::new();
    let mut options = pki.options();
    let ed25519 = pki.server_with(&rcgen::PKCS_ED25519, SERVER_NAME);
    options.routes[0].certificates = vec![ed25519.clone(), pki.server.clone()];
    let acceptor = Acceptor::new(options).unwrap();

    let client = |only: Option<SignatureScheme>| {
        let mut provider = provider::default_provider();
        if let Some(only) = only {
            let all = provider.signature_verification_algorithms.mapping;
            let kept: Vec<_> = all
                .iter()
                .copied()
                .filter(|(scheme, _)| *scheme == only)
                .collect();
            provider.signature_verification_algorithms.mapping = kept.leak();
        }
        let versions = [&rustls::version::TLS13];
        pki.client_config_with(provider, &versions, Some(pki.client.clone()))
    };
    for (only, shown) in [
        (None, &ed25519),
        (Some(SignatureScheme::ED25519), &ed25519),
        (Some(SignatureScheme::ECDSA_NISTP256_SHA256), &pki.server),
    ] {
        let mut client = connect(client(only), SERVER_NAME);
        let mut server = Server::new(&acceptor);
        shake_hands(&mut client, &mut server, whole).unwrap();
        assert_eq!(
            client.peer_certificates().unwrap()[0],
            shown.cert[0],
            "{only:?}"
        );
    }
    let (failure, alert) = refused(&acceptor, client(Some(SignatureScheme::RSA_PSS_SHA256)));
    assert_eq!(failure.reason, CloseReason::NothingInCommon);
    assert_eq!(alert, Some(AlertDescription::HandshakeFailure));
}
