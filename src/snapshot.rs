//! The immutable runtime form of a configuration that shards work from.
//!
//! [`Snapshot::load`] reads and checks every file that the configuration names; afterwards nothing
//! on the data path reads a file.

mod changes;
mod crls;
mod expiry;
mod files;
mod names;
mod stek;
mod upstreams;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{
    self, Config, ConfigError, ListenerConfig, ResumptionOptions, RouteConfig, VerdictCacheOptions,
};
use crate::limits::{BLOCK_LEN, BYTES_PER_VERDICT};
use crate::tls::acceptor::{AcceptorError, MinVersion, Resumption};
use crate::tls::{Acceptor, AcceptorOptions, Route};
use crate::trust::TrustDomain;
use crate::trust::cache::CacheBounds;
use crate::trust::domain::TrustSources;
use crate::trust::stek::{Secret, Stek};

pub use crate::config::{
    Balance, DrainOptions, Ejection, Greeting, HalfOpenLimits, HealthCheck, HostPort, HttpCheck,
    LiveRevocation, LogFormat, LogLevel, LogOptions, Network, RateLimit, ShardPlan, Tenure,
    Timeouts, UpstreamAddress, UpstreamSetting, UpstreamTreatment,
};
pub use crate::tls::disclosure::to as disclose_secrets;
pub use crate::trust::{span, utc};
pub use changes::{Changes, needs_restart};
pub use expiry::{Expiry, ExpiryKind};
use files::Files;
pub use files::read_chain;
pub use names::{Found, Lookup, LookupOver, Names};
pub use stek::new_stek;
pub use upstreams::{
    Checked, Endpoint, Figures, Health, NameState, Renewal, Rosters, State, Upstreams, route_key,
};

/// Everything that shards need to know, read and checked.
#[derive(Debug)]
pub struct Snapshot {
    pub listeners: Vec<Arc<Listener>>,
    pub limits: Limits,
    pub drain: DrainOptions,
    pub shards: ShardPlan,
    pub log: LogOptions,
    /// What ticket keys come from; `None` where every handshake is a full one.
    pub stek: Option<Arc<Secret>>,
    /// What each shard remembers of chains that it has checked, if anything.
    pub verdict_cache: Option<(CacheBounds, Duration)>,
    /// What becomes of open connections whose client this snapshot does not let in.
    pub live_revocation: LiveRevocation,
    /// Rings do only what shards ask of them.
    pub restricts_rings: bool,
    /// What does not stop the process but should not stay, such as an expired server certificate.
    pub warnings: Vec<ConfigError>,
    /// Until when each server certificate, trust anchor and CRL counts; the first to expire first.
    /// CRLs that newer ones have replaced are not among them.
    pub expiries: Vec<Expiry>,
    /// Where names of upstreams led when the snapshot was loaded; later they may lead elsewhere.
    pub names: Names,
}

/// Bounds of one shard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    pub connections: usize,
    pub handshakes: usize,
    pub half_open: HalfOpenLimits,
    /// Blocks of [`BLOCK_LEN`] bytes.
    pub buffer_blocks: usize,
}

/// One listener at run time.
#[derive(Debug)]
pub struct Listener {
    pub name: Arc<str>,
    /// At least one.
    pub addresses: Vec<SocketAddr>,
    pub acceptor: Acceptor,
    /// With the same indices as the acceptor's routes.
    pub routes: Vec<RouteTarget>,
    pub greeting: Greeting,
    /// Where connections come from that begin with a PROXY header.
    pub accept_proxy: Vec<Network>,
    pub timeouts: Timeouts,
    pub tenure: Tenure,
    /// Of new connections, on all shards that serve it together.
    pub rate: Option<RateLimit>,
    /// How many shards serve it; 1 until it is known.
    pub shards: usize,
}

impl Listener {
    /// The same for one shard, see [`Acceptor::for_shard`].
    fn for_shard(&self, shards: usize) -> Result<Self, AcceptorError> {
        let route = |route: &RouteTarget| RouteTarget {
            name: Arc::from(&*route.name),
            ..route.clone()
        };
        Ok(Self {
            name: Arc::from(&*self.name),
            addresses: self.addresses.clone(),
            acceptor: self.acceptor.for_shard()?,
            routes: self.routes.iter().map(route).collect(),
            greeting: self.greeting,
            accept_proxy: self.accept_proxy.clone(),
            timeouts: self.timeouts,
            tenure: self.tenure,
            rate: self.rate,
            shards,
        })
    }

    /// Whether a connection from `peer` begins with a PROXY header.
    pub fn is_introduced(&self, peer: SocketAddr) -> bool {
        let mut networks = self.accept_proxy.iter();
        networks.any(|network| network.contains(peer.ip()))
    }

    /// Whether anybody but the owner of this reference holds the listener or a part of it.
    pub fn is_held(this: &Arc<Self>) -> bool {
        Arc::strong_count(this) > 1 || this.acceptor.is_held()
    }
}

/// Where the connections of a route go.
#[derive(Clone, Debug)]
pub struct RouteTarget {
    pub name: Arc<str>,
    /// At least one.
    pub upstreams: Vec<UpstreamSetting>,
    pub balance: Balance,
    pub treatment: UpstreamTreatment,
    /// Of the connections of each client, on all shards that serve the listener together.
    pub identity_rate: Option<RateLimit>,
}

impl Snapshot {
    /// The same for one shard: what a connection writes, be it only a count of references, no other
    /// thread writes. What is large, and read alone, is shared. `shards` tells of a listener's name
    /// how many shards serve it.
    ///
    /// # Errors
    ///
    /// When a private key cannot be made again.
    pub fn for_shard(&self, shards: impl Fn(&str) -> usize) -> Result<Self, AcceptorError> {
        let listeners = self.listeners.iter();
        Ok(Self {
            listeners: listeners
                .map(|listener| listener.for_shard(shards(&listener.name)).map(Arc::new))
                .collect::<Result<_, _>>()?,
            limits: self.limits,
            drain: self.drain,
            shards: self.shards.clone(),
            log: self.log,
            stek: self.stek.clone(),
            verdict_cache: self.verdict_cache,
            live_revocation: self.live_revocation,
            restricts_rings: self.restricts_rings,
            // Those are the control plane's.
            warnings: Vec::new(),
            expiries: Vec::new(),
            names: Names::default(),
        })
    }

    /// Reads and checks every file that `config` names.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with those files, not only the first.
    pub fn load(config: &Config, clock: &Clock) -> Result<Self, Vec<ConfigError>> {
        let mut files = Files::new(clock);
        let stek = load_stek(&config.resumption, &mut files);
        let listeners = config.listeners.iter();
        let listeners: Vec<_> = listeners
            .filter_map(|listener| {
                let resumption = stek.as_ref().map(|stek| Resumption {
                    listener: Arc::clone(&listener.name),
                    stek: stek.clone(),
                    cap: config.resumption.cap,
                    verdict_ttl: config.verdict_cache.ttl,
                    tickets: config.resumption.tickets,
                });
                load_listener(listener, resumption, &mut files, clock)
            })
            .collect();
        let expiries = files.expiries();
        let (errors, warnings) = files.into_findings();
        if !errors.is_empty() {
            return Err(errors);
        }
        let limits = config.limits;
        let buffer_blocks = limits.buffer_bytes / BLOCK_LEN as u64;
        Ok(Self {
            listeners: listeners.into_iter().map(Arc::new).collect(),
            limits: Limits {
                connections: limits.connections,
                handshakes: limits.handshakes,
                half_open: limits.half_open,
                buffer_blocks: usize::try_from(buffer_blocks).unwrap_or(usize::MAX),
            },
            drain: config.drain,
            shards: config.shards.clone(),
            log: config.log,
            stek: stek.map(|stek| Arc::clone(stek.secret())),
            verdict_cache: cache_bounds(config.verdict_cache),
            live_revocation: config.live_revocation,
            restricts_rings: config.confinement.rings,
            warnings,
            expiries,
            names: Names::default(),
        })
    }

    /// Takes over from `before` who signed the CRLs that both have, as far as shards have found out.
    /// It may take milliseconds: not on a shard.
    pub fn carry_signers(&self, before: &Self) {
        TrustDomain::carry_signers(before.domains(), self.domains());
    }

    /// The trust domains of all routes.
    pub fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        let listeners = self.listeners.iter();
        listeners.flat_map(|listener| listener.acceptor.domains())
    }

    /// Reads and checks the configuration in `file` and every file that it names.
    ///
    /// # Errors
    ///
    /// Everything that is wrong: where the configuration itself is, the files that it names are
    /// checked all the same.
    pub fn load_file(file: &Path, clock: &Clock) -> Result<(Config, Self), Vec<ConfigError>> {
        Self::load_parsed(Config::load(file), clock)
    }

    /// As [`Self::load_file`], of a configuration that was read already.
    ///
    /// # Errors
    ///
    /// As [`Self::load_file`].
    pub fn load_parsed(
        parsed: Result<Config, config::Rejected>,
        clock: &Clock,
    ) -> Result<(Config, Self), Vec<ConfigError>> {
        match parsed {
            Ok(config) => Self::load(&config, clock).map(|snapshot| (config, snapshot)),
            Err(config::Rejected {
                mut errors,
                files: references,
            }) => {
                let mut files = Files::new(clock);
                files.check(&references);
                errors.extend(files.into_findings().0);
                Err(errors)
            }
        }
    }
}

/// `None` where there is to be no resumption, or where something is wrong, which `files` then knows.
fn load_stek(config: &ResumptionOptions, files: &mut Files<'_>) -> Option<Stek> {
    let secret = match &config.stek {
        // Also read where it is not used: a file that is named is to be there.
        Some(file) => files.secret(file)?,
        None => Secret::of_process(),
    };
    (config.tickets > 0).then(|| Stek::new(secret, config.rotation))
}

fn cache_bounds(config: VerdictCacheOptions) -> Option<(CacheBounds, Duration)> {
    let bounds = CacheBounds {
        entries: config.entries,
        bytes: config.entries * BYTES_PER_VERDICT,
    };
    (config.entries > 0).then_some((bounds, config.ttl))
}

/// `None` where something is wrong, which `files` then knows.
fn load_listener(
    config: &ListenerConfig,
    resumption: Option<Resumption>,
    files: &mut Files<'_>,
    clock: &Clock,
) -> Option<Listener> {
    let routes: Vec<_> = config
        .routes
        .iter()
        .map(|route| load_route(config, route, files))
        .collect();
    let routes = routes.into_iter().collect::<Option<Vec<_>>>()?;
    let options = AcceptorOptions {
        routes,
        default_route: config
            .routes
            .iter()
            .position(|route| route.server_names.is_empty()),
        alpn: config.alpn.clone(),
        min_version: match config.min_version {
            config::MinVersion::Tls12 => MinVersion::Tls12,
            config::MinVersion::Tls13 => MinVersion::Tls13,
        },
        resumption,
        clock: clock.clone(),
    };
    let acceptor = match Acceptor::new(options) {
        Ok(acceptor) => acceptor,
        Err(error) => {
            files.report(config.place.error(
                format!("this listener cannot speak TLS: {error}"),
                "correct the certificates, alpn and min_version of this listener",
            ));
            return None;
        }
    };
    let targets = config.routes.iter().map(|route| RouteTarget {
        name: Arc::clone(&route.name),
        upstreams: route.upstreams.clone(),
        balance: route.balance,
        treatment: route.treatment.clone(),
        identity_rate: route.identity_rate,
    });
    Some(Listener {
        name: Arc::clone(&config.name),
        addresses: config.addresses.clone(),
        acceptor,
        routes: targets.collect(),
        greeting: config.greeting,
        accept_proxy: accept_proxy(config, files),
        timeouts: config.timeouts,
        tenure: config.tenure,
        rate: config.rate,
        shards: 1,
    })
}

/// The networks of the listener's load balancers; warns where anybody could be one.
fn accept_proxy(config: &ListenerConfig, files: &mut Files<'_>) -> Vec<Network> {
    let settings = config.accept_proxy.iter();
    for setting in settings
        .clone()
        .filter(|setting| setting.network.is_everyone())
    {
        files.warn(setting.place.error(
            "whoever connects may claim to come from any address",
            "name the networks of the load balancers alone",
        ));
    }
    settings.map(|setting| setting.network).collect()
}

fn load_route(
    listener: &ListenerConfig,
    route: &RouteConfig,
    files: &mut Files<'_>,
) -> Option<Route> {
    let certificates: Vec<_> = route
        .certificates
        .iter()
        .map(|pair| files.certified_key(pair))
        .collect();
    let anchors: Vec<_> = route
        .client_ca
        .iter()
        .map(|file| files.anchors(file))
        .collect();
    let bundles: Vec<_> = route
        .bundles
        .iter()
        .map(|bundle| files.bundle(bundle))
        .collect();
    let crls: Vec<_> = route.crls.iter().map(|file| files.crls(file)).collect();
    let name = if route.name == listener.name {
        listener.name.to_string()
    } else {
        format!("{}/{}", listener.name, route.name)
    };
    let sources = TrustSources {
        name,
        anchors: anchors.into_iter().collect::<Option<Vec<_>>>()?.concat(),
        bundles: bundles.into_iter().collect::<Option<Vec<_>>>()?,
        crls: crls
            .into_iter()
            .collect::<Option<Vec<_>>>()?
            .iter()
            .flat_map(|crls| crls.iter())
            .map(|crl| crl.der.clone())
            .collect(),
        unknown_revocation: route.unknown_revocation,
        expired_crl: route.expired_crl,
        policy: route.policy.clone(),
    };
    let domain = match TrustDomain::new(sources) {
        Ok(domain) => domain,
        Err(error) => {
            files.report(route.place.error(
                format!("client_ca, spiffe and crl make no trust domain: {error}"),
                "replace the file that this names",
            ));
            return None;
        }
    };
    files.note_expiries(route);
    Some(Route {
        name: Arc::clone(&route.name),
        server_names: route.server_names.clone(),
        certificates: certificates.into_iter().collect::<Option<Vec<_>>>()?,
        domain: Arc::new(domain),
    })
}
