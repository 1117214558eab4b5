//! A PKI in memory, a terminator's TLS side fed by hand, and a client that forges records.
#![allow(
    dead_code,
    reason = "shared by the tests and the benchmarks, which need parts of it"
)]

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType, SignatureAlgorithm,
};
use ringgate::block::Pool;
use ringgate::clock::Clock;
use ringgate::tls::acceptor::MinVersion;
use ringgate::tls::{
    Acceptor, AcceptorOptions, Established, Handshake, HandshakeFailure, Progress, Route,
};
use ringgate::tls::{ServerCertificate, load_certified_key};
use ringgate::trust::TrustDomain;
use ringgate::trust::domain::{RevocationPolicy, TrustSources};
use ringgate::trust::name::NamePattern;
use ringgate::trust::policy::{Effect, Matcher, Policy, Rule, UriPattern};
use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::sign::CertifiedKey;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, ConnectionTrafficSecrets, RootCertStore,
    SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::CertificateDer;

pub const SERVER_NAME: &str = "server.test";
pub const CLIENT_ID: &str = "spiffe://ringgate.test/client";

/// All AEAD suites that differ in how records are made.
pub const SUITES: [CipherSuite; 6] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    pub anchor: CertificateDer<'static>,
    pub server: ServerCertificate,
    pub client: Arc<CertifiedKey>,
}

impl Pki {
    pub fn new() -> Self {
        Self::with_key(&rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// Server and client keys of kind `algorithm`.
    pub fn with_key(algorithm: &'static SignatureAlgorithm) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Ringgate test CA {number}"));
        let anchor = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        let server = issue(&issuer, algorithm, Some(SERVER_NAME));
        let client = issue(&issuer, algorithm, None).certified().clone();
        Self {
            issuer,
            anchor,
            server,
            client,
        }
    }

    pub fn server_with(
        &self,
        algorithm: &'static SignatureAlgorithm,
        name: &str,
    ) -> ServerCertificate {
        issue(&self.issuer, algorithm, Some(name))
    }

    /// The client's certificate with somebody else's key.
    pub fn client_with_wrong_key(&self) -> Arc<CertifiedKey> {
        let other = issue(&self.issuer, &rcgen::PKCS_ECDSA_P256_SHA256, None);
        Arc::new(CertifiedKey::new(
            self.client.cert.clone(),
            other.key.clone(),
        ))
    }

    /// Trusts this PKI's anchor; lets its clients in, or nobody.
    pub fn domain(&self, lets_clients_in: bool) -> Arc<TrustDomain> {
        let rules = lets_clients_in.then(|| Rule {
            name: "clients".into(),
            effect: Effect::Allow,
            matchers: vec![Matcher::Uri(
                UriPattern::parse("spiffe://ringgate.test/*").unwrap(),
            )],
        });
        Arc::new(
            TrustDomain::new(TrustSources {
                name: "test".to_owned(),
                anchors: vec![self.anchor.clone()],
                bundles: Vec::new(),
                crls: Vec::new(),
                unknown_revocation: RevocationPolicy::Allow,
                expired_crl: RevocationPolicy::Deny,
                policy: Policy {
                    rules: rules.into_iter().collect(),
                },
            })
            .unwrap(),
        )
    }

    pub fn route(&self, name: &str, server_names: &[&str]) -> Route {
        Route {
            name: name.into(),
            server_names: server_names
                .iter()
                .map(|n| NamePattern::parse(n).unwrap())
                .collect(),
            certificates: vec![self.server.clone()],
            domain: self.domain(true),
        }
    }

    pub fn options(&self) -> AcceptorOptions {
        AcceptorOptions {
            routes: vec![self.route("default", &[])],
            default_route: Some(0),
            alpn: Vec::new(),
            min_version: MinVersion::Tls12,
            resumption: None,
            clock: Clock::system(),
        }
    }

    pub fn acceptor(&self) -> Acceptor {
        Acceptor::new(self.options()).unwrap()
    }

    /// A client that presents `key` and speaks `suite` alone.
    pub fn client_config(
        &self,
        suite: CipherSuite,
        key: Option<Arc<CertifiedKey>>,
    ) -> ClientConfig {
        let mut provider = provider::default_provider();
        provider.cipher_suites.retain(|each| each.suite() == suite);
        let version = provider.cipher_suites[0].version();
        self.client_config_with(provider, &[version], key)
    }

    pub fn client_config_with(
        &self,
        provider: CryptoProvider,
        versions: &[&'static SupportedProtocolVersion],
        key: Option<Arc<CertifiedKey>>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.anchor.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(Presents(key)));
        config.enable_secret_extraction = true;
        config
    }

    pub fn client(&self, suite: CipherSuite) -> ClientConnection {
        connect(
            self.client_config(suite, Some(self.client.clone())),
            SERVER_NAME,
        )
    }
}

pub fn connect(config: ClientConfig, name: &str) -> ClientConnection {
    ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap()
}

fn issue(
    issuer: &Issuer<'_, KeyPair>,
    algorithm: &'static SignatureAlgorithm,
    server_name: Option<&str>,
) -> ServerCertificate {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::default();
    match server_name {
        Some(name) => {
            params
                .subject_alt_names
                .push(SanType::DnsName(name.try_into().unwrap()));
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        None => {
            params
                .subject_alt_names
                .push(SanType::URI(CLIENT_ID.try_into().unwrap()));
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ClientAuth);
        }
    }
    let certificate = params.signed_by(&key, issuer).unwrap();
    load_certified_key(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
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

/// The terminator's side of a handshake.
pub struct Server {
    pub handshake: Handshake,
    pub pool: Pool,
    /// What it wants sent.
    pub sent: Vec<u8>,
    pub established: Option<Box<Established>>,
}

impl Server {
    pub fn new(acceptor: &Acceptor) -> Self {
        Self {
            handshake: Handshake::new(acceptor).unwrap(),
            pool: Pool::new(8, 8),
            sent: Vec::new(),
            established: None,
        }
    }

    /// Feeds `bytes` as one receive.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), HandshakeFailure> {
        let mut out = self.pool.take().unwrap();
        let progress = self
            .handshake
            .receive(&mut bytes.to_vec(), &mut self.pool, &mut out);
        self.sent.extend_from_slice(out.filled());
        self.pool.give(out);
        if let Progress::Established(established) = progress? {
            self.established = Some(established);
        }
        Ok(())
    }
}

/// Everything that `client` has to say now.
pub fn take_output(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Feeds `bytes` to `client`.
pub fn give_input(client: &mut ClientConnection, bytes: &[u8]) -> Result<(), rustls::Error> {
    let mut rest = bytes;
    while !rest.is_empty() {
        client.read_tls(&mut rest).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

/// Feeds `bytes` to `client` and returns the plaintext that it reads.
pub fn read_all(client: &mut ClientConnection, bytes: &[u8]) -> Vec<u8> {
    let mut plaintext = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        client.read_tls(&mut rest).unwrap();
        let state = client.process_new_packets().unwrap();
        let start = plaintext.len();
        plaintext.resize(start + state.plaintext_bytes_to_read(), 0);
        client.reader().read_exact(&mut plaintext[start..]).unwrap();
    }
    plaintext
}

/// Lets both sides talk until the handshake is done or one of them refuses. The client's bytes
/// arrive in pieces as `split` cuts them.
pub fn shake_hands(
    client: &mut ClientConnection,
    server: &mut Server,
    mut split: impl FnMut(Vec<u8>) -> Vec<Vec<u8>>,
) -> Result<(), HandshakeFailure> {
    for _ in 0..10 {
        for piece in split(take_output(client)) {
            server.receive(&piece)?;
        }
        // What the client refuses shows in what it sends next.
        let _ = give_input(client, &std::mem::take(&mut server.sent));
        if server.established.is_some() && !client.wants_write() {
            return Ok(());
        }
    }
    panic!("the handshake does not end");
}

pub fn whole(bytes: Vec<u8>) -> Vec<Vec<u8>> {
    vec![bytes]
}

/// A handshake that succeeds.
pub fn established(pki: &Pki, suite: CipherSuite) -> (ClientConnection, Box<Established>, Pool) {
    let mut client = pki.client(suite);
    let mut server = Server::new(&pki.acceptor());
    shake_hands(&mut client, &mut server, whole).unwrap();
    (client, server.established.unwrap(), server.pool)
}

/// Level and description of the alert that `client` got, or of a plaintext one in `sent`.
pub fn alert_in(client: &mut ClientConnection, sent: &[u8]) -> Option<rustls::AlertDescription> {
    match give_input(client, sent) {
        Err(rustls::Error::AlertReceived(alert)) => Some(alert),
        _ => None,
    }
}

/// One direction of a client's record layer, written apart from the one under test, that makes
/// whatever record a test asks for.
pub struct Forger {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    /// TLS 1.2 AES-GCM puts half of the nonce into the record.
    explicit_nonce: bool,
    is_tls13: bool,
}

impl Forger {
    pub fn new(version: rustls::ProtocolVersion, secrets: (u64, ConnectionTrafficSecrets)) -> Self {
        let (algorithm, key, iv) = match &secrets.1 {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => unreachable!(),
        };
        let is_tls13 = version == rustls::ProtocolVersion::TLSv1_3;
        Self {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).unwrap()),
            iv: iv.as_ref().try_into().unwrap(),
            sequence: secrets.0,
            explicit_nonce: !is_tls13 && *algorithm != CHACHA20_POLY1305,
            is_tls13,
        }
    }

    /// TLS_AES_128_GCM_SHA256 keys from a traffic secret (RFC 8446 section 7.3).
    pub fn from_traffic_secret(secret: &[u8]) -> Self {
        let mut key = [0; 16];
        let mut iv = [0; 12];
        expand_label(secret, b"key", &mut key);
        expand_label(secret, b"iv", &mut iv);
        Self {
            key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).unwrap()),
            iv,
            sequence: 0,
            explicit_nonce: false,
            is_tls13: true,
        }
    }

    /// Both directions of `client`: what it sends with and what it receives with.
    pub fn pair(client: ClientConnection) -> (Self, Self) {
        let version = client.protocol_version().unwrap();
        let secrets = client.dangerous_extract_secrets().unwrap();
        (
            Self::new(version, secrets.tx),
            Self::new(version, secrets.rx),
        )
    }

    fn nonce(&self) -> [u8; 12] {
        let number = u128::from_be_bytes({
            let mut wide = [0; 16];
            wide[4..].copy_from_slice(&self.iv);
            wide
        }) ^ u128::from(self.sequence);
        number.to_be_bytes()[4..].try_into().unwrap()
    }

    /// One record of `content`, padded with `padding` zero bytes on TLS 1.3.
    pub fn record(&mut self, content_type: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut body = content.to_vec();
        let nonce = self.nonce();
        let mut record = vec![content_type, 3, 3, 0, 0];
        if self.is_tls13 {
            record[0] = 23;
            body.push(content_type);
            body.resize(body.len() + padding, 0);
        } else if self.explicit_nonce {
            record.extend_from_slice(&nonce[4..]);
        }
        let len = u16::try_from(record.len() - 5 + body.len() + 16).unwrap();
        record[3..5].copy_from_slice(&len.to_be_bytes());
        let aad = if self.is_tls13 {
            record[..5].to_vec()
        } else {
            let len = u16::try_from(body.len()).unwrap();
            [
                &self.sequence.to_be_bytes()[..],
                &record[..3],
                &len.to_be_bytes(),
            ]
            .concat()
        };
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                &mut body,
            )
            .unwrap();
        self.sequence += 1;
        record.extend(body);
        record
    }

    pub fn data(&mut self, content: &[u8]) -> Vec<u8> {
        self.record(23, content, 0)
    }

    /// Content type and content of each record in `bytes`.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut rest = bytes;
        let mut contents = Vec::new();
        while !rest.is_empty() {
            let end = 5 + usize::from(u16::from_be_bytes([rest[3], rest[4]]));
            let (record, behind) = rest.split_at(end);
            contents.push(self.read_record(record));
            rest = behind;
        }
        contents
    }

    fn read_record(&mut self, record: &[u8]) -> (u8, Vec<u8>) {
        let mut nonce = self.nonce();
        let mut body = record[5..].to_vec();
        if self.explicit_nonce {
            nonce[4..].copy_from_slice(&body[..8]);
            body.drain(..8);
        }
        let aad = if self.is_tls13 {
            record[..5].to_vec()
        } else {
            let len = u16::try_from(body.len() - 16).unwrap();
            [
                &self.sequence.to_be_bytes()[..],
                &record[..3],
                &len.to_be_bytes(),
            ]
            .concat()
        };
        let nonce = Nonce::assume_unique_for_key(nonce);
        let mut content = self
            .key
            .open_in_place(nonce, Aad::from(aad), &mut body)
            .unwrap()
            .to_vec();
        self.sequence += 1;
        if !self.is_tls13 {
            return (record[0], content);
        }
        while content.last() == Some(&0) {
            content.pop();
        }
        (content.pop().unwrap(), content)
    }
}

/// HKDF-Expand-Label with SHA-256 and no context (RFC 8446 section 7.1).
pub fn expand_label(secret: &[u8], label: &[u8], out: &mut [u8]) {
    struct Len(usize);
    impl KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    let len = u16::try_from(out.len()).unwrap().to_be_bytes();
    let label_len = [u8::try_from(6 + label.len()).unwrap()];
    let info = [&len[..], &label_len, b"tls13 ", label, &[0]];
    let prk = Prk::new_less_safe(HKDF_SHA256, secret);
    prk.expand(&info, Len(out.len()))
        .unwrap()
        .fill(out)
        .unwrap();
}

/// A handshake that must fail: why, and the alert that the client saw.
pub fn refused(
    acceptor: &Acceptor,
    config: ClientConfig,
) -> (HandshakeFailure, Option<rustls::AlertDescription>) {
    let mut client = connect(config, SERVER_NAME);
    let mut server = Server::new(acceptor);
    let failure = shake_hands(&mut client, &mut server, whole).unwrap_err();
    assert_eq!(server.pool.lent(), 0, "a block is left behind");
    let alert = alert_in(&mut client, &server.sent);
    (failure, alert)
}
