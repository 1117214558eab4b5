//! What a listener needs to start handshakes: routes by SNI, certificates, protocol options.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{InconsistentKeys, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::resolver::Resolver;
use super::traffic_secrets::Capture;
use crate::clock::Clock;
use crate::trust::TrustDomain;
use crate::trust::domain::Refusal;
use crate::trust::name::NamePattern;
use crate::trust::stek::Stek;
use crate::trust::ticket::{TicketScope, Tickets};
use crate::trust::ticketer::Ticketer;
use crate::trust::verifier::Verifier;

/// Where clients that ask for certain names go.
#[derive(Debug)]
pub struct Route {
    /// For logs and metrics.
    pub name: Arc<str>,
    /// SNI patterns; empty for a default route.
    pub server_names: Vec<NamePattern>,
    /// In order of preference; the first that the client can verify is used.
    pub certificates: Vec<Arc<CertifiedKey>>,
    pub domain: Arc<TrustDomain>,
}

/// The oldest protocol version that a client may speak.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MinVersion {
    Tls12,
    #[default]
    Tls13,
}

#[derive(Debug)]
pub struct AcceptorOptions {
    pub routes: Vec<Route>,
    /// Index into `routes` for clients without SNI or with a name that no route has.
    pub default_route: Option<usize>,
    /// In order of preference; empty for no ALPN.
    pub alpn: Vec<Vec<u8>>,
    pub min_version: MinVersion,
    /// `None`: every handshake is a full one.
    pub resumption: Option<Resumption>,
    pub clock: Clock,
}

/// How clients come back without a full handshake.
#[derive(Clone, Debug)]
pub struct Resumption {
    /// The listener's name: its tickets count there and nowhere else.
    pub listener: Arc<str>,
    pub stek: Stek,
    /// How long after the last full handshake a client may resume.
    pub cap: Duration,
    /// How long after a check of a client's chain it is checked again.
    pub verdict_ttl: Duration,
    /// Tickets that a TLS 1.3 client gets, at least one. RFC 5077 gives a TLS 1.2 client one.
    pub tickets: usize,
}

/// A listener's TLS side; immutable, shared by all shards.
#[derive(Debug)]
pub struct Acceptor {
    pub(super) config: Arc<ServerConfig>,
    resolver: Arc<Resolver>,
}

/// What is wrong with a listener's certificates or options, and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AcceptorError(pub String);

impl Acceptor {
    /// # Errors
    ///
    /// When a route has no certificate, can never be chosen, or shares a name with another.
    pub fn new(options: AcceptorOptions) -> Result<Self, AcceptorError> {
        check(&options)?;
        let routes: Arc<[Route]> = options.routes.into();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions: &[_] = match options.min_version {
            MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            MinVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let resolver = Arc::new(Resolver {
            scopes: scopes(&routes, options.resumption.as_ref()),
            routes,
            default_route: options.default_route,
            tls13_only: options.min_version == MinVersion::Tls13,
        });
        let mut config = ServerConfig::builder_with_details(
            provider.clone(),
            Arc::new(CalendarTime(options.clock.clone())),
        )
        .with_protocol_versions(versions)
        .map_err(|error| AcceptorError(format!("protocol versions: {error}")))?
        .with_client_cert_verifier(Arc::new(Verifier::new(&provider)))
        .with_cert_resolver(resolver.clone());
        config.alpn_protocols = options.alpn;
        // Our own record layer takes over after the handshake.
        config.enable_secret_extraction = true;
        config.key_log = Arc::new(Capture);
        // rustls resumes without asking the verifier: sessions are kept nowhere but in tickets,
        // which are judged each time they are offered.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        if let Some(resumption) = options.resumption {
            let tickets = Tickets::new(resumption.stek, resumption.cap, resumption.verdict_ttl);
            config.ticketer = Arc::new(Ticketer::new(tickets, options.clock));
            config.send_tls13_tickets = resumption.tickets;
        }
        // Early data can be replayed, which mutual authentication does not survive.
        config.max_early_data_size = 0;
        Ok(Self {
            config: Arc::new(config),
            resolver,
        })
    }

    /// Whether handshakes or connections that began here still hold a part of it.
    pub fn is_held(&self) -> bool {
        let mut domains = self.routes().iter().map(|route| &route.domain);
        Arc::strong_count(&self.config) > 1 || domains.any(|domain| Arc::strong_count(domain) > 1)
    }

    /// The trust domains of the routes.
    pub fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.routes().iter().map(|route| &*route.domain)
    }

    /// The routes, in the order that [`super::Established::route`] counts.
    pub fn routes(&self) -> &[Route] {
        &self.resolver.routes
    }

    /// Index of the route of clients that ask for `server_name`, or for none.
    ///
    /// # Errors
    ///
    /// Why such a client is refused, in words.
    pub fn route_for(&self, server_name: Option<&str>) -> Result<usize, Refusal> {
        let found = self.resolver.route_for(server_name);
        found.map_err(|none| Refusal {
            reason: none.reason(),
            detail: none.detail(server_name),
            claimed: None,
        })
    }
}

/// Where the tickets of each route count.
fn scopes(routes: &[Route], resumption: Option<&Resumption>) -> Box<[Option<TicketScope>]> {
    let scope = |route: &Route| {
        resumption.map(|resumption| TicketScope::new(&resumption.listener, &route.name))
    };
    routes.iter().map(scope).collect()
}

fn check(options: &AcceptorOptions) -> Result<(), AcceptorError> {
    let len = options.routes.len();
    if let Some(index) = options.default_route.filter(|&index| index >= len) {
        return Err(AcceptorError(format!(
            "default route {index} of {len} routes"
        )));
    }
    let mut names = HashSet::new();
    for (index, route) in options.routes.iter().enumerate() {
        if route.certificates.is_empty() {
            return Err(AcceptorError(format!(
                "route `{}` has no certificate",
                route.name
            )));
        }
        if route.server_names.is_empty() && options.default_route != Some(index) {
            return Err(AcceptorError(format!(
                "route `{}` has no server name and is not the default: no client can reach it",
                route.name
            )));
        }
        for name in &route.server_names {
            if !names.insert(name) {
                return Err(AcceptorError(format!(
                    "server name `{}` of route `{}` is given twice; a name leads to one route",
                    name.as_str(),
                    route.name
                )));
            }
        }
    }
    if len == 0 {
        return Err(AcceptorError(
            "a listener needs at least one route".to_owned(),
        ));
    }
    Ok(())
}

/// Reads a certificate chain, leaf first, and its private key from PEM.
///
/// # Errors
///
/// When either is missing, malformed or encrypted, or when the key is not the leaf's. The caller
/// knows the files' names and puts them in front.
pub fn load_certified_key(
    chain_pem: &[u8],
    key_pem: &[u8],
) -> Result<Arc<CertifiedKey>, AcceptorError> {
    let chain = load_chain(chain_pem)?;
    let key = load_key(key_pem)?;
    let provider: CryptoProvider = aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider)
        .map(Arc::new)
        .map_err(|error| {
            AcceptorError(match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                "the private key does not belong to the first certificate of the chain; give the \
                 leaf certificate first, and its own key"
                    .to_owned()
            }
            rustls::Error::InvalidCertificate(error) => {
                format!("the first certificate of the chain is malformed: {error:?}")
            }
            error => format!("the private key cannot be used: {error}"),
        })
        })
}

fn load_chain(chain_pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, AcceptorError> {
    let chain = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| AcceptorError(format!("the certificate chain is no PEM: {error}")))?;
    if chain.is_empty() {
        return Err(AcceptorError(
            "there is no certificate: a chain is one or more PEM blocks `BEGIN CERTIFICATE`, the \
             leaf first"
                .to_owned(),
        ));
    }
    Ok(chain)
}

fn load_key(key_pem: &[u8]) -> Result<PrivateKeyDer<'static>, AcceptorError> {
    const ENCRYPTED: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];
    let contains = |part: &[u8]| key_pem.windows(part.len()).any(|window| window == part);
    if ENCRYPTED.into_iter().any(contains) {
        return Err(AcceptorError(
            "the private key is encrypted; write it without a passphrase (`openssl pkey`) into a \
             file that only Ringgate can read"
                .to_owned(),
        ));
    }
    PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| {
        AcceptorError(match error {
            pem::Error::NoItemsFound => "there is no private key: one PEM block `BEGIN PRIVATE \
                                         KEY`, `BEGIN RSA PRIVATE KEY` or `BEGIN EC PRIVATE KEY` \
                                         is needed"
                .to_owned(),
            error => format!("the private key is no PEM: {error}"),
        })
    })
}

/// Tells rustls the time.
#[derive(Debug)]
struct CalendarTime(Clock);

impl TimeProvider for CalendarTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.unix()))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;
    use crate::trust::domain::TrustSources;

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["server.test".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn route(names: &[&str]) -> Route {
        let (chain, key) = pair();
        let anchor = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
        let sources = TrustSources {
            anchors: vec![anchor],
            ..TrustSources::default()
        };
        Route {
            name: "web".into(),
            server_names: names
                .iter()
                .map(|name| NamePattern::parse(name).unwrap())
                .collect(),
            certificates: vec![load_certified_key(chain.as_bytes(), key.as_bytes()).unwrap()],
            domain: Arc::new(TrustDomain::new(sources).unwrap()),
        }
    }

    fn problem(routes: Vec<Route>, default_route: Option<usize>) -> String {
        Acceptor::new(AcceptorOptions {
            routes,
            default_route,
            alpn: Vec::new(),
            min_version: MinVersion::Tls13,
            resumption: None,
            clock: Clock::system(),
        })
        .unwrap_err()
        .to_string()
    }

    #[test]
    fn a_key_and_its_chain_belong_together() {
        let ((chain, key), (other_chain, _)) = (pair(), pair());
        let load = |chain: &str, key: &str| {
            load_certified_key(chain.as_bytes(), key.as_bytes()).map(|key| key.cert.len())
        };
        assert_eq!(load(&format!("{chain}{other_chain}"), &key).unwrap(), 2);
        for (chain, key, part) in [
            (&*format!("{other_chain}{chain}"), &*key, "does not belong"),
            ("", &key, "there is no certificate"),
            (&key, &key, "there is no certificate"),
            (
                "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
                &key,
                "is no PEM",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                &key,
                "malformed",
            ),
            (&chain, "", "there is no private key"),
            (&chain, &chain, "there is no private key"),
            (
                &chain,
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "is encrypted",
            ),
            (
                &chain,
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n",
                "is encrypted",
            ),
            (
                &chain,
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "cannot be used",
            ),
        ] {
            let error = load(chain, key).unwrap_err().to_string();
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn routes_that_make_no_sense_are_refused() {
        assert!(problem(Vec::new(), None).contains("at least one route"));
        assert!(problem(vec![route(&["a.test"])], Some(1)).contains("default route 1 of 1"));
        assert!(problem(vec![route(&[])], None).contains("no client can reach it"));
        let twice = vec![route(&["a.test"]), route(&["b.test", "A.test"])];
        assert!(problem(twice, None).contains("`a.test`"));
        let bare = Route {
            certificates: Vec::new(),
            ..route(&["a.test"])
        };
        assert!(problem(vec![bare], None).contains("has no certificate"));
    }
}
