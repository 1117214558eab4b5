//! What a listener needs to start handshakes: routes by SNI, certificates, protocol options.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

use super::certificate::ServerCertificate;
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
#[derive(Clone, Debug)]
pub struct Route {
    /// For logs and metrics.
    pub name: Arc<str>,
    /// SNI patterns; empty for a default route.
    pub server_names: Vec<NamePattern>,
    /// In order of preference; the first that the client can verify is used.
    pub certificates: Vec<ServerCertificate>,
    pub domain: Arc<TrustDomain>,
}

impl Route {
    /// The same, of which no other thread writes a part.
    fn for_shard(&self) -> Result<Self, AcceptorError> {
        let certificates = self.certificates.iter();
        Ok(Self {
            name: Arc::from(&*self.name),
            server_names: self.server_names.clone(),
            certificates: certificates
                .map(ServerCertificate::for_shard)
                .collect::<Result<_, _>>()?,
            domain: Arc::new(self.domain.for_shard()),
        })
    }
}

/// The oldest protocol version that a client may speak.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MinVersion {
    Tls12,
    #[default]
    Tls13,
}

#[derive(Clone, Debug)]
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

/// A listener's TLS side; immutable.
#[derive(Debug)]
pub struct Acceptor {
    pub(super) config: Arc<ServerConfig>,
    resolver: Arc<Resolver>,
    /// Without the routes, which the resolver has.
    options: AcceptorOptions,
    /// Made by [`Acceptor::for_shard`].
    is_of_shard: bool,
}

/// What is wrong with a listener's certificates or options, and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AcceptorError(pub String);

impl Acceptor {
    /// # Errors
    ///
    /// When a route has no certificate, can never be chosen, or shares a name with another.
    pub fn new(mut options: AcceptorOptions) -> Result<Self, AcceptorError> {
        check(&options)?;
        let routes: Arc<[Route]> = std::mem::take(&mut options.routes).into();
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
        .with_client_cert_verifier(Arc::new(Verifier::new(&provider, options.clock.clone())))
        .with_cert_resolver(resolver.clone());
        config.alpn_protocols = options.alpn.clone();
        // Our own record layer takes over after the handshake.
        config.enable_secret_extraction = true;
        config.key_log = Arc::new(Capture);
        // rustls resumes without asking the verifier: sessions are kept nowhere but in tickets,
        // which are judged each time they are offered.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        if let Some(resumption) = options.resumption.clone() {
            let tickets = Tickets::new(resumption.stek, resumption.cap, resumption.verdict_ttl);
            config.ticketer = Arc::new(Ticketer::new(tickets, options.clock.clone()));
            config.send_tls13_tickets = resumption.tickets;
        }
        // Early data can be replayed, which mutual authentication does not survive.
        config.max_early_data_size = 0;
        Ok(Self {
            config: Arc::new(config),
            resolver,
            options,
            is_of_shard: false,
        })
    }

    /// The same for one shard: what its handshakes write is no other thread's, be it only a count
    /// of references. What is large, and read alone, is shared.
    ///
    /// # Errors
    ///
    /// When a key cannot be made again.
    pub fn for_shard(&self) -> Result<Self, AcceptorError> {
        let routes = self.routes().iter().map(Route::for_shard);
        let own = Self::new(AcceptorOptions {
            routes: routes.collect::<Result<_, _>>()?,
            ..self.options.clone()
        })?;
        Ok(Self {
            is_of_shard: true,
            ..own
        })
    }

    /// Whether handshakes or connections that began here still hold a part of it; and of what shards
    /// share, whether one of those that were made for them is still there.
    pub fn is_held(&self) -> bool {
        let mut domains = self.routes().iter().map(|route| &route.domain);
        let is_held = |domain: &Arc<TrustDomain>| {
            Arc::strong_count(domain) > 1 || (!self.is_of_shard && domain.is_shared())
        };
        Arc::strong_count(&self.config) > 1 || domains.any(is_held)
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
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;

    use super::*;
    use crate::tls::certificate::load_certified_key;
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
