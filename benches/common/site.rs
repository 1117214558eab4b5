//! A terminator's TLS side in memory and a client that comes to it, for each kind of key and group.
#![allow(dead_code, reason = "each bench uses its part")]

use std::sync::Arc;
use std::time::Duration;

use rcgen::{ExtendedKeyUsagePurpose, KeyPair, SignatureAlgorithm};
use ringgate::block::{Block, Pool};
use ringgate::clock::Clock;
use ringgate::limits::{BYTES_PER_VERDICT, RESUMPTION_CAP, STEK_ROTATION, VERDICT_TTL};
use ringgate::tls::acceptor::{MinVersion, Resumption};
use ringgate::tls::{
    Acceptor, AcceptorOptions, Established, Handshake, Progress, Route, load_certified_key,
};
use ringgate::trust::TrustDomain;
use ringgate::trust::cache::{self, CacheBounds, VerdictCache};
use ringgate::trust::domain::TrustSources;
use ringgate::trust::policy::{Effect, Matcher, Policy, Rule};
use ringgate::trust::stek::{Secret, Stek};
use rustls::client;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs as provider};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, version};
use rustls_pki_types::{PrivateKeyDer, ServerName};

use crate::believe::BelieveAll;
use crate::meter::Meter;
use crate::pki::{self, Ca, NOW};

/// What a handshake finds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// Nothing of the client is known.
    Uncached,
    /// The verdict on its chain is remembered.
    Cached,
    /// It has a ticket, and the verdict is remembered.
    Resumed,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Uncached, Self::Cached, Self::Resumed];

    pub fn name(self) -> &'static str {
        match self {
            Self::Uncached => "uncached",
            Self::Cached => "cached",
            Self::Resumed => "resumed",
        }
    }
}

/// Kinds of certificate keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Key {
    Ed25519,
    P256,
    Rsa2048,
}

impl Key {
    fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::Ed25519 => &rcgen::PKCS_ED25519,
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
        }
    }
}

/// Groups for the key exchange.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Group {
    X25519,
    X25519MlKem768,
}

impl Group {
    fn supported(self) -> &'static dyn SupportedKxGroup {
        match self {
            Self::X25519 => provider::kx_group::X25519,
            Self::X25519MlKem768 => provider::kx_group::X25519MLKEM768,
        }
    }
}

/// A server and its only client.
pub struct Site {
    pub acceptor: Acceptor,
    pub pool: Pool,
    full: Arc<ClientConfig>,
    resuming: Arc<ClientConfig>,
    /// What the shard remembers, while it is not in use.
    verdicts: Option<VerdictCache>,
}

impl Site {
    /// Leaves have keys of kind `key`, CAs P-256. With `intermediate` the client's chain has one.
    pub fn new(key: Key, group: Group, intermediate: bool) -> Self {
        let (root, servers) = (Ca::root("Root"), Ca::root("Servers"));
        let below = intermediate.then(|| root.intermediate("Intermediate"));
        let leaf = KeyPair::generate_for(key.algorithm()).expect("a key");
        let id = pki::uri("spiffe://example.org/client");
        let params = pki::client_with("client", vec![id]);
        let mut chain = vec![below.as_ref().unwrap_or(&root).certify(&params, &leaf)];
        chain.extend(below.map(|below| below.certificate));

        let crypto = CryptoProvider {
            cipher_suites: vec![provider::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![group.supported()],
            ..provider::default_provider()
        };
        let leaf = PrivateKeyDer::try_from(leaf.serialize_der()).expect("a key");
        let mut full = ClientConfig::builder_with_provider(Arc::new(crypto))
            .with_protocol_versions(&[&version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(BelieveAll))
            .with_client_auth_cert(chain, leaf)
            .expect("a key that fits its certificate");
        let mut resuming = full.clone();
        full.resumption = client::Resumption::disabled();
        resuming.resumption = client::Resumption::in_memory_sessions(4);
        Self {
            acceptor: acceptor(&root, &servers, key),
            pool: Pool::new(8, 8),
            full: Arc::new(full),
            resuming: Arc::new(resuming),
            verdicts: Some(VerdictCache::new(
                CacheBounds {
                    entries: 1000,
                    bytes: 1000 * BYTES_PER_VERDICT,
                },
                VERDICT_TTL,
            )),
        }
    }

    /// Lets the client come once in each way, so that the shard knows it and it has a ticket.
    pub fn warm_up(&mut self, meter: &mut impl Meter) {
        for config in [self.full.clone(), self.resuming.clone()] {
            self.remembering(|site| site.shake_hands(&config, meter));
        }
    }

    /// One handshake, of which the server's part goes through `meter`. The site must be warm.
    pub fn handshake(&mut self, way: Way, meter: &mut impl Meter) -> Arrived {
        let (full, resuming) = (self.full.clone(), self.resuming.clone());
        let arrived = match way {
            Way::Uncached => self.shake_hands(&full, meter),
            Way::Cached => self.remembering(|site| site.shake_hands(&full, meter)),
            Way::Resumed => self.remembering(|site| site.shake_hands(&resuming, meter)),
        };
        assert_eq!(arrived.established.resumed, way == Way::Resumed);
        arrived
    }

    /// How often a verdict was not found in the cache.
    pub fn misses(&self) -> u64 {
        let verdicts = self.verdicts.as_ref().expect("it is not in use");
        verdicts.figures().misses
    }

    /// A client that means to come.
    pub fn client(&self) -> ClientConnection {
        connection(&self.full)
    }

    /// What a client has that comes in full each time, and one that resumes.
    pub fn client_configs(&self) -> [Arc<ClientConfig>; 2] {
        [self.full.clone(), self.resuming.clone()]
    }

    fn remembering<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> R {
        cache::install(self.verdicts.take());
        let result = work(self);
        self.verdicts = cache::install(None);
        result
    }

    fn shake_hands(&mut self, config: &Arc<ClientConfig>, meter: &mut impl Meter) -> Arrived {
        let mut client = connection(config);
        let mut out = self.block();
        let mut hello = take_output(&mut client);
        let mut handshake = Handshake::new(&self.acceptor).expect("a handshake");
        let pool = &mut self.pool;
        let progress = meter.run(|| handshake.receive(&mut hello, pool, &mut out));
        assert!(matches!(progress, Ok(Progress::Continue)));
        give_input(&mut client, out.filled());
        out.clear();
        let mut flight = take_output(&mut client);
        let progress = meter.run(|| handshake.receive(&mut flight, pool, &mut out));
        let Ok(Progress::Established(established)) = progress else {
            panic!("a client that must be let in is not: {progress:?}");
        };
        // With the ticket for the next time.
        give_input(&mut client, out.filled());
        self.pool.give(out);
        let resumed = client.handshake_kind() == Some(HandshakeKind::Resumed);
        assert_eq!(established.resumed, resumed);
        Arrived {
            client,
            established,
        }
    }

    /// A block from a pool that is warm, as a shard's is.
    fn block(&mut self) -> Block {
        let spare = self.pool.take().expect("a block");
        let block = self.pool.take().expect("a block");
        self.pool.give(spare);
        block
    }
}

/// A client that was let in.
pub struct Arrived {
    pub client: ClientConnection,
    pub established: Box<Established>,
}

fn acceptor(root: &Ca, servers: &Ca, key: Key) -> Acceptor {
    let pair = KeyPair::generate_for(key.algorithm()).expect("a key");
    let mut params = pki::client_with("server", vec![pki::dns("server.test")]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params
        .signed_by(&pair, &servers.issuer)
        .expect("a certificate");
    let rule = Rule {
        name: "in".into(),
        effect: Effect::Allow,
        matchers: vec![Matcher::Any],
    };
    let domain = TrustDomain::new(TrustSources {
        name: "clients".to_owned(),
        anchors: vec![root.certificate.clone()],
        policy: Policy { rules: vec![rule] },
        ..TrustSources::default()
    });
    let certified = load_certified_key(
        certificate.pem().as_bytes(),
        pair.serialize_pem().as_bytes(),
    );
    Acceptor::new(AcceptorOptions {
        routes: vec![Route {
            name: "only".into(),
            server_names: Vec::new(),
            certificates: vec![certified.expect("a key that fits its certificate")],
            domain: Arc::new(domain.expect("good sources")),
        }],
        default_route: Some(0),
        alpn: Vec::new(),
        min_version: MinVersion::Tls13,
        resumption: Some(Resumption {
            listener: "front".into(),
            stek: Stek::new(Arc::new(Secret::random()), STEK_ROTATION),
            cap: RESUMPTION_CAP,
            verdict_ttl: VERDICT_TTL,
            tickets: 1,
        }),
        clock: Clock::manual(Duration::from_secs(NOW.unsigned_abs())),
    })
    .expect("an acceptor")
}

/// A client that means to come.
pub fn connection(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("server.test").expect("a name");
    ClientConnection::new(Arc::clone(config), name).expect("a client")
}

/// Everything that `client` has to say now.
pub fn take_output(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("memory");
    }
    bytes
}

/// Feeds `bytes` to `client`.
pub fn give_input(client: &mut ClientConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).expect("a slice");
        client.process_new_packets().expect("good records");
    }
}
