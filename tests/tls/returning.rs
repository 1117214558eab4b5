//! A place that clients come back to, at a time that the tests say.
#![allow(dead_code, reason = "shared by the tests and the benchmarks")]

use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use ringgate::clock::Clock;
use ringgate::tls::acceptor::{MinVersion, Resumption};
use ringgate::tls::{Acceptor, AcceptorOptions, HandshakeFailure, Route, ServerCertificate};
use ringgate::trust::domain::TrustSources;
use ringgate::trust::name::NamePattern;
use ringgate::trust::policy::{Effect, Matcher, Policy, Rule};
use ringgate::trust::stek::{Secret, Stek};
use ringgate::trust::{Authorized, TrustDomain};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::aws_lc_rs as provider;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{CipherSuite, ClientConfig, NamedGroup, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
};

use crate::pki::{self, Ca, Leaf, NOW};
use crate::support::{Server, connect, give_input, take_output};

pub const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;
pub const VERSIONS: [&SupportedProtocolVersion; 2] = [TLS13, &rustls::version::TLS12];

pub const ROTATION: Duration = Duration::from_secs(6 * 3600);
pub const CAP: Duration = Duration::from_secs(8 * 3600);

pub const LEAF_SERIAL: u64 = 77;
pub const INTERMEDIATE_SERIAL: u64 = 5;

pub type Domain = Arc<TrustDomain>;

/// A server's credentials, a client below an intermediate, and what is trusted.
pub struct Place {
    pub clock: Clock,
    pub root: Ca,
    pub intermediate: Ca,
    pub leaf: Leaf,
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    server_ca: Ca,
    server: ServerCertificate,
    secret: Arc<Secret>,
}

impl Place {
    pub fn new() -> Self {
        Self::with(|_| {}, |_| {})
    }

    /// With these changes to the intermediate and to the client's leaf.
    pub fn with(
        intermediate: impl FnOnce(&mut CertificateParams),
        leaf: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let (root, server_ca) = (Ca::root("Root"), Ca::root("Servers"));
        let below = root.intermediate_with("Intermediate", |params| {
            params.serial_number = pki::serial(INTERMEDIATE_SERIAL);
            intermediate(params);
        });
        let mut params = pki::client_with("client", vec![pki::uri("spiffe://example.org/client")]);
        params.serial_number = pki::serial(LEAF_SERIAL);
        leaf(&mut params);
        let names = ["a.test", "b.test", "server.test"].map(pki::dns);
        let mut server = pki::client_with("server", names.to_vec());
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server = server_ca.issue(server);
        Self {
            clock: Clock::manual(Duration::from_secs(NOW.unsigned_abs())),
            leaf: below.issue(params),
            server: ServerCertificate::new(
                vec![server.certificate.clone()],
                PrivateKeyDer::try_from(server.key.serialize_der()).unwrap(),
            )
            .unwrap(),
            root,
            intermediate: below,
            crls: Vec::new(),
            server_ca,
            secret: Arc::new(Secret::random()),
        }
    }

    pub fn domain(&self) -> Domain {
        self.domain_with(|_| {})
    }

    /// Trusts the root and lets everybody below it in, with these changes.
    pub fn domain_with(&self, change: impl FnOnce(&mut TrustSources)) -> Domain {
        let rule = Rule {
            name: "in".into(),
            effect: Effect::Allow,
            matchers: vec![Matcher::Any],
        };
        let mut sources = TrustSources {
            name: "clients".to_owned(),
            anchors: vec![self.root.certificate.clone()],
            crls: self.crls.clone(),
            policy: Policy { rules: vec![rule] },
            ..TrustSources::default()
        };
        change(&mut sources);
        Arc::new(TrustDomain::new(sources).unwrap())
    }

    pub fn acceptor(&self) -> Acceptor {
        self.acceptor_with(self.domain(), |_| {})
    }

    pub fn acceptor_with(
        &self,
        domain: Domain,
        change: impl FnOnce(&mut AcceptorOptions),
    ) -> Acceptor {
        let mut options = AcceptorOptions {
            routes: vec![self.route("only", &[], domain)],
            default_route: Some(0),
            alpn: Vec::new(),
            min_version: MinVersion::Tls12,
            resumption: Some(Resumption {
                listener: "front".into(),
                stek: Stek::new(Arc::clone(&self.secret), ROTATION),
                cap: CAP,
                verdict_ttl: Duration::from_secs(3600),
                tickets: 1,
            }),
            clock: self.clock.clone(),
        };
        change(&mut options);
        Acceptor::new(options).unwrap()
    }

    /// A route for each name, all with the same trust domain.
    pub fn acceptor_for_names(&self, names: &[&str]) -> Acceptor {
        let domain = self.domain();
        let routes: Vec<_> = names.iter().map(|name| (*name, domain.clone())).collect();
        self.acceptor_for_domains(&routes)
    }

    /// A route for each name, with its trust domain.
    pub fn acceptor_for_domains(&self, routes: &[(&str, Domain)]) -> Acceptor {
        self.acceptor_with(self.domain(), |options| {
            let routes = routes.iter();
            options.default_route = None;
            options.routes = routes
                .map(|(name, domain)| self.route(name, &[name], domain.clone()))
                .collect();
        })
    }

    fn route(&self, name: &str, server_names: &[&str], domain: Domain) -> Route {
        let names = server_names.iter();
        Route {
            name: name.into(),
            server_names: names
                .map(|name| NamePattern::parse(name).unwrap())
                .collect(),
            certificates: vec![self.server.clone()],
            domain,
        }
    }

    pub fn client(&self, version: &'static SupportedProtocolVersion) -> Client {
        self.client_with_key(version, &self.leaf)
    }

    /// Presents the client's chain, but has another key.
    pub fn client_with_wrong_key(&self, version: &'static SupportedProtocolVersion) -> Client {
        let other = self.intermediate.issue(pki::client("other"));
        self.client_with_key(version, &other)
    }

    fn client_with_key(&self, version: &'static SupportedProtocolVersion, key: &Leaf) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.server_ca.certificate.clone()).unwrap();
        let chain = vec![
            self.leaf.certificate.clone(),
            self.intermediate.certificate.clone(),
        ];
        // One group: a second hello would only hide which one offers the ticket. SHA-256 as the
        // other benchmarks.
        let mut provider = provider::default_provider();
        let groups = &mut provider.kx_groups;
        groups.retain(|group| group.name() == NamedGroup::X25519);
        let suites = &mut provider.cipher_suites;
        suites.sort_by_key(|each| each.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        let mut config = ClientConfig::builder_with_details(Arc::new(provider), Arc::new(Fixed))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified(
                chain, key,
            ))));
        let sessions = Arc::new(Sessions {
            kept: ClientSessionMemoryCache::new(8),
            tickets: std::sync::atomic::AtomicUsize::new(0),
        });
        config.resumption = rustls::client::Resumption::store(sessions.clone());
        Client {
            config: Arc::new(config),
            sessions,
        }
    }
}

fn certified(chain: Vec<CertificateDer<'static>>, leaf: &Leaf) -> Arc<CertifiedKey> {
    let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
    let key = provider::sign::any_supported_type(&key).unwrap();
    Arc::new(CertifiedKey::new(chain, key))
}

/// To clients it is always the same time: they never think that a ticket is too old to be offered.
#[derive(Debug)]
struct Fixed;

impl TimeProvider for Fixed {
    fn current_time(&self) -> Option<UnixTime> {
        Some(pki::now())
    }
}

/// Offers what it got, to whomever the client speaks: it takes all names for one.
#[derive(Debug)]
struct Sessions {
    kept: ClientSessionMemoryCache,
    /// So many TLS 1.3 tickets came.
    tickets: std::sync::atomic::AtomicUsize,
}

fn anybody() -> ServerName<'static> {
    "anybody.test".try_into().unwrap()
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(anybody(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(&anybody())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.kept.set_tls12_session(anybody(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept.tls12_session(&anybody())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.kept.remove_tls12_session(&anybody());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.tickets
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.kept.insert_tls13_ticket(anybody(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept.take_tls13_ticket(&anybody())
    }
}

/// A client that keeps its tickets from one connection to the next.
pub struct Client {
    pub config: Arc<ClientConfig>,
    sessions: Arc<Sessions>,
}

/// A handshake that was let in.
#[derive(Debug)]
pub struct Visit {
    pub resumed: bool,
    /// Whether the client offered a ticket.
    pub offered: bool,
    /// TLS 1.3 tickets that the client got.
    pub tickets: usize,
    pub client: Authorized,
    pub route: usize,
    pub server_name: Option<Arc<str>>,
}

/// A handshake that was not.
#[derive(Debug)]
pub struct Refused {
    pub failure: HandshakeFailure,
    pub offered: bool,
}

impl Client {
    /// This client without its tickets.
    pub fn forgetful(&self) -> Arc<ClientConfig> {
        let mut config = (*self.config).clone();
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }

    pub fn visit(&mut self, acceptor: &Acceptor) -> Result<Visit, Refused> {
        self.visit_as(acceptor, "server.test")
    }

    pub fn visit_as(&mut self, acceptor: &Acceptor, name: &str) -> Result<Visit, Refused> {
        use std::sync::atomic::Ordering::Relaxed;
        let tickets_before = self.sessions.tickets.load(Relaxed);
        let mut client = connect((*self.config).clone(), name);
        let mut server = Server::new(acceptor);
        let hello = take_output(&mut client);
        let offered = offers_ticket(&hello);
        let mut flight = hello;
        for _ in 0..10 {
            if let Err(failure) = server.receive(&flight) {
                return Err(Refused { failure, offered });
            }
            give_input(&mut client, &std::mem::take(&mut server.sent)).unwrap();
            flight = take_output(&mut client);
            if flight.is_empty() {
                break;
            }
        }
        let established = server.established.expect("the handshake ends");
        let kind = client.handshake_kind().unwrap();
        assert_eq!(established.resumed, kind == rustls::HandshakeKind::Resumed);
        assert_eq!(server.pool.lent(), 0);
        Ok(Visit {
            resumed: established.resumed,
            offered,
            tickets: self.sessions.tickets.load(Relaxed) - tickets_before,
            client: established.client.clone(),
            route: established.route,
            server_name: established.server_name.clone(),
        })
    }
}

/// Whether a ClientHello has a pre_shared_key extension (RFC 8446 section 4.2.11) or a session
/// ticket that is not empty (RFC 5077 section 3.2).
fn offers_ticket(hello: &[u8]) -> bool {
    const PRE_SHARED_KEY: u16 = 41;
    const SESSION_TICKET: u16 = 35;
    // Record header, message header, version, random.
    let mut rest = &hello[5 + 4 + 2 + 32..];
    let mut skip = |len_bytes: usize| {
        let len = rest[..len_bytes]
            .iter()
            .fold(0, |len, &byte| len << 8 | usize::from(byte));
        rest = &rest[len_bytes + len..];
    };
    // Session id, cipher suites, compression methods.
    [1, 2, 1].into_iter().for_each(&mut skip);
    let mut extensions = &rest[2..];
    while let [kind_high, kind_low, len_high, len_low, behind @ ..] = extensions {
        let kind = u16::from_be_bytes([*kind_high, *kind_low]);
        let len = usize::from(u16::from_be_bytes([*len_high, *len_low]));
        if kind == PRE_SHARED_KEY || (kind == SESSION_TICKET && len > 0) {
            return true;
        }
        extensions = &behind[len..];
    }
    false
}
