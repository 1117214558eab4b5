//! Who takes part: one terminator, and clients that it lets in or refuses. Made once.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ED25519,
};
use ringgate::clock::Clock;
use ringgate::close_reason::CloseReason;
use ringgate::tls::acceptor::{MinVersion, Resumption};
use ringgate::tls::{Acceptor, AcceptorOptions, Route, ServerCertificate};
use ringgate::trust::TrustDomain;
use ringgate::trust::domain::{RevocationPolicy, TrustSources};
use ringgate::trust::policy::{Effect, Matcher, Policy, Rule, UriPattern};
use ringgate::trust::stek::{Secret, Stek};
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs as provider;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::{PrivateKeyDer, UnixTime};

use crate::pki::{self, Ca};

const HOUR: Duration = Duration::from_secs(3600);
const SERVER_NAME: &str = "server.test";
pub const CLIENT_ID: &str = "spiffe://ringgate.test/client";

/// Whose certificate a client presents.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Who {
    LetIn,
    Denied,
    Expired,
    NoCertificate,
    OtherCa,
    Unmatched,
}

impl Who {
    pub const REFUSED: [Self; 5] = [
        Self::Denied,
        Self::Expired,
        Self::NoCertificate,
        Self::OtherCa,
        Self::Unmatched,
    ];

    /// Why this client is refused, and the alert that tells it.
    pub fn refusal(self) -> Option<(CloseReason, AlertDescription)> {
        match self {
            Self::LetIn => None,
            Self::Denied => Some((CloseReason::PolicyDenied, AlertDescription::AccessDenied)),
            Self::Expired => Some((
                CloseReason::CertificateExpired,
                AlertDescription::CertificateExpired,
            )),
            Self::NoCertificate => Some((
                CloseReason::CertificateMissing,
                AlertDescription::CertificateRequired,
            )),
            Self::OtherCa => Some((
                CloseReason::CertificateUnknownCa,
                AlertDescription::UnknownCA,
            )),
            Self::Unmatched => Some((CloseReason::PolicyUnmatched, AlertDescription::AccessDenied)),
        }
    }
}

/// All that runs share.
pub struct Cast {
    pub acceptor: Acceptor,
    clients: Vec<(Who, [Arc<ClientConfig>; 2])>,
}

impl Cast {
    pub fn get() -> &'static Self {
        static CAST: OnceLock<Cast> = OnceLock::new();
        CAST.get_or_init(Self::new)
    }

    /// A client that has not said anything yet.
    pub fn client(&self, who: Who, tls12: bool) -> ClientConnection {
        let (_, configs) = self.clients.iter().find(|(each, _)| *each == who).unwrap();
        let config = configs[usize::from(tls12)].clone();
        let mut client = ClientConnection::new(config, SERVER_NAME.try_into().unwrap()).unwrap();
        client.set_buffer_limit(None);
        client
    }

    fn new() -> Self {
        let (ours, other) = (root("Ringgate"), root("Other"));
        let roots = |who: Who| if who == Who::OtherCa { &other } else { &ours };
        let client = |who: Who| {
            let id = match who {
                Who::Denied => "spiffe://ringgate.test/denied",
                Who::Unmatched => "spiffe://elsewhere.test/client",
                _ => CLIENT_ID,
            };
            let mut params = pki::client_with("client", vec![pki::uri(id)]);
            params.serial_number = pki::serial(77);
            if who == Who::Expired {
                params.not_after = pki::at(pki::NOW - pki::DAY);
            }
            let key = (who != Who::NoCertificate)
                .then(|| certified(roots(who), &params).certified().clone());
            let version = |version| Arc::new(client_config(&ours, version, key.clone()));
            let configs = [
                version(&rustls::version::TLS13),
                version(&rustls::version::TLS12),
            ];
            (who, configs)
        };
        let clients = [Who::LetIn].into_iter().chain(Who::REFUSED);
        Self {
            acceptor: acceptor(&ours),
            clients: clients.map(client).collect(),
        }
    }
}

/// A CA whose signatures, and so its certificates, have one length: a seed then leads to the same
/// run whenever it is run.
fn root(name: &str) -> Ca {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = pki::common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.serial_number = pki::serial(99);
    Ca {
        certificate: params.self_signed(&key).unwrap().der().clone(),
        issuer: Issuer::new(params, key),
    }
}

fn certified(ca: &Ca, params: &CertificateParams) -> ServerCertificate {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let chain = vec![ca.certify(params, &key)];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    ServerCertificate::new(chain, key).unwrap()
}

fn acceptor(ca: &Ca) -> Acceptor {
    let mut server = pki::client_with(SERVER_NAME, vec![pki::dns(SERVER_NAME)]);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.serial_number = pki::serial(78);
    let rule = |effect, uri: &str| Rule {
        name: uri.into(),
        effect,
        matchers: vec![Matcher::Uri(UriPattern::parse(uri).unwrap())],
    };
    let domain = TrustDomain::new(TrustSources {
        name: "sim".to_owned(),
        anchors: vec![ca.certificate.clone()],
        bundles: Vec::new(),
        crls: Vec::new(),
        unknown_revocation: RevocationPolicy::Allow,
        expired_crl: RevocationPolicy::Deny,
        policy: Policy {
            rules: vec![
                rule(Effect::Allow, "spiffe://ringgate.test/*"),
                rule(Effect::Deny, "spiffe://ringgate.test/denied"),
            ],
        },
    });
    Acceptor::new(AcceptorOptions {
        routes: vec![Route {
            name: "default".into(),
            server_names: Vec::new(),
            certificates: vec![certified(ca, &server)],
            domain: Arc::new(domain.unwrap()),
        }],
        default_route: Some(0),
        alpn: Vec::new(),
        min_version: MinVersion::Tls12,
        resumption: Some(Resumption {
            listener: "sim".into(),
            stek: Stek::new(Arc::new(Secret::new(&[7; 32]).unwrap()), HOUR),
            cap: HOUR,
            verdict_ttl: HOUR,
            tickets: 1,
        }),
        clock: Clock::manual(Duration::from_secs(pki::NOW.unsigned_abs())),
    })
    .unwrap()
}

fn client_config(
    ca: &Ca,
    version: &'static SupportedProtocolVersion,
    key: Option<Arc<CertifiedKey>>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate.clone()).unwrap();
    let mut crypto = provider::default_provider();
    crypto.kx_groups = vec![provider::kx_group::X25519];
    let mut config = ClientConfig::builder_with_details(Arc::new(crypto), Arc::new(Calendar))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(Presents(key)));
    config.enable_secret_extraction = true;
    // A run must not depend on those before it.
    config.resumption = rustls::client::Resumption::disabled();
    config
}

/// The time for which the PKI was made.
#[derive(Debug)]
struct Calendar;

impl TimeProvider for Calendar {
    fn current_time(&self) -> Option<UnixTime> {
        Some(pki::now())
    }
}

/// Presents a certificate whatever the server asks for, or none.
#[derive(Debug)]
struct Presents(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Presents {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}
