//! Routes by server name inside one listener: each has its own certificate, trust, policy and
//! upstream.

use std::io::{Read, Write};
use std::sync::Arc;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use ringgate::close_reason::CloseReason;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{AlertDescription, ClientConfig, SignatureScheme, SupportedProtocolVersion};

use crate::pem::pem;
use crate::pki::{self, Ca, Leaf};
use crate::upstream::{Manner, Upstream};
use crate::world::{
    CLIENT_ID, Folder, SERVER_NAME, TlsStream, World, alert, certified, finish, server_leaf,
    write_leaf,
};

const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;

/// The name that the server's certificate is for.
fn certificate_shown(stream: &TlsStream) -> Vec<String> {
    let chain = stream.conn.peer_certificates().unwrap();
    ringgate::trust::Identity::from_der(&chain[0])
        .unwrap()
        .dns_names
}

fn says_through(mut stream: TlsStream, words: &[u8]) -> Vec<String> {
    let mut back = vec![0; words.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, words);
    let shown = certificate_shown(&stream);
    finish(stream);
    shown
}

/// A client whatever the server's certificate is for.
fn asking(world: &World, leaf: &Leaf, server_name: &str) -> TlsStream {
    world.connect_as(Some(leaf), server_name, &[TLS13])
}

struct Routed {
    world: World,
    /// Another CA, which the second route alone trusts.
    partners: Ca,
    upstreams: [Upstream; 3],
}

/// Three routes: `app.example`, `partner.example` with its own trust and policy, and
/// `*.wild.example`; without a default unless `more` makes one.
fn routed(more: &str) -> Routed {
    let upstreams =
        [&b"app"[..], b"partner", b"wild"].map(|words| Upstream::new(Manner::Say(words)));
    let partners = Ca::root("Partners");
    let [app, partner, wild] = upstreams.each_ref().map(Upstream::toml);
    let config = format!(
        r#"
[[listener]]
address = "127.0.0.1:0"
client_ca = "clients.pem"
rule = [{{ name = "clients", allow = {{ uri = "{CLIENT_ID}" }} }}]
{more}

[[listener.route]]
server_names = ["app.example"]
certificate = "server.pem"
key = "server.key"
upstream = {app}

[[listener.route]]
server_names = ["partner.example"]
certificate = "partner.pem"
key = "partner.key"
client_ca = "partners.pem"
rule = [{{ name = "partners", allow = {{ cn = "partner" }} }}]
upstream = {partner}

[[listener.route]]
server_names = ["*.wild.example"]
certificate = "wild.pem"
key = "wild.key"
upstream = {wild}
"#
    );
    let prepare = |folder: &Folder, _: &Ca, servers: &Ca| {
        for (file, name) in [("partner", "partner.example"), ("wild", "*.wild.example")] {
            write_leaf(folder, file, &server_leaf(servers, name));
        }
        folder.write("partners.pem", &pem("CERTIFICATE", &partners.certificate));
    };
    Routed {
        world: World::with(prepare, &config),
        partners,
        upstreams,
    }
}

#[test]
fn a_name_leads_to_its_certificate_trust_policy_and_upstream() {
    let Routed {
        world,
        partners,
        upstreams,
    } = routed("");
    let ours = world.client();
    let theirs = partners.issue(pki::client("partner"));
    for (leaf, name, words, certificate) in [
        (&ours, "app.example", &b"app"[..], "app.example"),
        (&ours, "APP.example", b"app", "app.example"),
        (&theirs, "partner.example", b"partner", "partner.example"),
        (&ours, "a.wild.example", b"wild", "*.wild.example"),
        (&ours, "b.wild.example", b"wild", "*.wild.example"),
    ] {
        let shown = says_through(asking(&world, leaf, name), words);
        assert_eq!(shown, [certificate], "{name}");
    }
    assert_eq!(upstreams.each_ref().map(Upstream::connections), [2, 1, 2]);
    let rule = upstreams[1].visit().header.unwrap();
    assert_eq!(rule.text(crate::proxy_v2::RULE), Some("partners"));
    world.closed(CloseReason::Complete, 5);
}

/// What one route trusts or allows is worth nothing on another of the same listener.
#[test]
fn a_route_does_not_borrow_another_routes_trust_or_policy() {
    for (cn, partner_ca, name, reason, told) in [
        (
            "client",
            false,
            "partner.example",
            CloseReason::CertificateUnknownCa,
            AlertDescription::UnknownCA,
        ),
        (
            "partner",
            true,
            "app.example",
            CloseReason::CertificateUnknownCa,
            AlertDescription::UnknownCA,
        ),
        (
            "stranger",
            true,
            "partner.example",
            CloseReason::PolicyUnmatched,
            AlertDescription::AccessDenied,
        ),
    ] {
        let Routed {
            world,
            partners,
            upstreams,
        } = routed("");
        let params = pki::client_with(cn, vec![pki::uri(CLIENT_ID)]);
        let ca = if partner_ca {
            &partners
        } else {
            &world.client_ca
        };
        let stream = asking(&world, &ca.issue(params), name);
        assert_eq!(alert(stream), told, "{cn} at {name}");
        for upstream in &upstreams {
            assert_eq!(upstream.connections(), 0);
        }
        let report = world.refused(reason, &upstreams[0]);
        assert_eq!(report.server_name.as_deref(), Some(name));
    }
}

#[test]
fn names_that_no_route_has_are_refused() {
    for name in ["other.example", "wild.example", "a.b.wild.example"] {
        let Routed {
            world, upstreams, ..
        } = routed("");
        let stream = asking(&world, &world.client(), name);
        assert_eq!(alert(stream), AlertDescription::UnrecognisedName, "{name}");
        world.refused(CloseReason::UnknownServerName, &upstreams[0]);
    }
}

#[test]
fn a_default_route_takes_unknown_names_and_none() {
    let fallback = Upstream::new(Manner::Say(b"default"));
    // Complete settings of the listener's own are its default route.
    let more = format!(
        "certificate = \"server.pem\"\nkey = \"server.key\"\nupstream = {}",
        fallback.toml()
    );
    let Routed { world, .. } = routed(&more);
    let leaf = world.client();
    let mut config = without_name_check(&world, &leaf);
    let stream = world.connect_with(config.clone(), "unknown.example");
    assert_eq!(says_through(stream, b"default"), [SERVER_NAME]);
    config.enable_sni = false;
    let stream = world.connect_with(config, "unknown.example");
    assert_eq!(says_through(stream, b"default"), [SERVER_NAME]);
    assert_eq!(
        says_through(asking(&world, &leaf, "app.example"), b"app"),
        [SERVER_NAME]
    );
    assert_eq!(fallback.connections(), 2);
}

/// A client that takes the server's certificate for a name that it is not for.
fn without_name_check(world: &World, leaf: &Leaf) -> ClientConfig {
    let mut config = world.client_config(Some(leaf), &[TLS13]);
    let verifier = Arc::new(AnyServer(default_provider()));
    config.dangerous().set_certificate_verifier(verifier);
    config
}

#[derive(Debug)]
struct AnyServer(CryptoProvider);

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.0.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

const ED25519: SignatureScheme = SignatureScheme::ED25519;
const P256: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
const RSA: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;

/// A client that can verify signatures of these schemes alone.
fn verifying(schemes: &[SignatureScheme]) -> CryptoProvider {
    let mut provider = default_provider();
    let known = provider.signature_verification_algorithms.mapping;
    let mapping: Vec<_> = known
        .iter()
        .filter(|(scheme, _)| schemes.contains(scheme))
        .copied()
        .collect();
    provider.signature_verification_algorithms.mapping = Vec::leak(mapping);
    provider
}

/// Writes certificates of three kinds for one name, each with a second name that tells its kind.
fn write_three_kinds(folder: &Folder, servers: &Ca) {
    for (file, key) in [
        ("ed25519", KeyPair::generate_for(&PKCS_ED25519).unwrap()),
        (
            "rsa",
            KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap(),
        ),
        (
            "p256",
            KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        ),
    ] {
        let names = [SERVER_NAME, &format!("{file}.kind.example")].map(pki::dns);
        let mut params = pki::client_with(SERVER_NAME, names.to_vec());
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = servers.certify(&params, &key);
        write_leaf(folder, file, &Leaf { certificate, key });
    }
}

#[test]
fn of_several_certificates_the_first_that_the_client_can_verify_is_shown() {
    let upstream = Upstream::new(Manner::Say(b"hello"));
    let pairs = ["ed25519", "rsa", "p256"]
        .map(|file| format!("{{ certificate = \"{file}.pem\", key = \"{file}.key\" }}"))
        .join(", ");
    let config = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ncertificates = [{pairs}]\n\
         client_ca = \"clients.pem\"\nupstream = {}\n{}\n",
        upstream.toml(),
        crate::world::EVERYONE
    );
    let world = World::with(
        |folder, _, servers| write_three_kinds(folder, servers),
        &config,
    );
    // The CA's own key is P-256, which every one of these clients must be able to verify; what the
    // client offers for the handshake is what it lists.
    for (schemes, expected) in [
        (&[ED25519, RSA, P256][..], "ed25519"),
        (&[RSA, P256], "rsa"),
        (&[P256, RSA], "rsa"),
        (&[P256], "p256"),
        (&[P256, ED25519], "ed25519"),
    ] {
        let leaf = world.client();
        let presents = Some(Arc::new(certified(leaf.certificate.clone(), &leaf.key)));
        let config = world.client_config_of(presents, &[TLS13], verifying(schemes));
        let mut stream = world.connect_with(config, SERVER_NAME);
        stream.flush().unwrap();
        let shown = says_through(stream, b"hello");
        assert_eq!(shown[1], format!("{expected}.kind.example"), "{schemes:?}");
    }
}

#[test]
fn a_client_that_can_verify_no_certificate_is_refused() {
    let upstream = Upstream::new(Manner::Echo);
    let world = World::new(&upstream.toml(), "");
    let leaf = world.client();
    let presents = Some(Arc::new(certified(leaf.certificate.clone(), &leaf.key)));
    let config = world.client_config_of(presents, &[TLS13], verifying(&[ED25519, RSA]));
    let mut stream = world.connect_with(config, SERVER_NAME);
    let error = stream.write_all(b"x").unwrap_err();
    assert_eq!(
        crate::world::alert_in(&error),
        AlertDescription::HandshakeFailure
    );
    drop(stream);
    world.refused(CloseReason::NothingInCommon, &upstream);
}
