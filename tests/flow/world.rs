//! A terminator with its PKI, an upstream that remembers what it was told, and clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringgate::Terminator;
use ringgate::clock::Clock;
use ringgate::close_reason::CloseReason;
use ringgate::layout::Layout;
use ringgate::shard::Counters;
use ringgate::shard::mailbox::{Command, Mailbox, Report};
use ringgate::snapshot::Snapshot;
use ringgate::terminator::{Inherited, StartError};
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, RootCertStore, SignatureScheme, StreamOwned,
    SupportedProtocolVersion,
};

use crate::pem::pem;
use crate::pki::{self, Ca, Leaf};
use crate::upstream::Upstream;

pub const SERVER_NAME: &str = "app.example";
pub const CLIENT_ID: &str = "spiffe://example.org/client";

/// How long anything may take before a test fails.
pub const LIMIT: Duration = Duration::from_secs(20);

pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// Everything a test needs; gone when dropped.
pub struct World {
    pub folder: Folder,
    pub clock: Clock,
    pub client_ca: Ca,
    pub server_ca: Ca,
    terminator: Mutex<Terminator>,
}

/// A folder of its own for each test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringgate-flow-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.0.join(name);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(&path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the configuration says of a listener's files.
pub const FILES: &str = r#"certificate = "server.pem"
key = "server.key"
client_ca = "clients.pem"
"#;

pub const EVERYONE: &str = r#"rule = [{ name = "everyone", allow = { any = true } }]"#;

/// What a terminator starts from.
pub struct Site {
    pub folder: Folder,
    pub clock: Clock,
    pub client_ca: Ca,
    pub server_ca: Ca,
    pub snapshot: Arc<Snapshot>,
}

impl Site {
    /// With exactly this configuration, after `prepare` has written its files.
    pub fn new(prepare: impl FnOnce(&Folder, &Ca, &Ca), config: &str) -> Self {
        let folder = Folder::new();
        let (client_ca, server_ca) = (Ca::root("Clients"), Ca::root("Servers"));
        write_leaf(&folder, "server", &server_leaf(&server_ca, SERVER_NAME));
        folder.write("clients.pem", &pem("CERTIFICATE", &client_ca.certificate));
        prepare(&folder, &client_ca, &server_ca);
        let file = folder.write("ringgate.toml", config);
        let clock = Clock::manual(Duration::from_secs(pki::NOW.unsigned_abs()));
        let snapshot = Arc::new(load(&file, &clock));
        Self {
            folder,
            clock,
            client_ca,
            server_ca,
            snapshot,
        }
    }
}

impl World {
    /// A terminator with one listener: `FILES`, everyone let in, this upstream and `more` lines.
    pub fn new(upstream: &str, more: &str) -> Self {
        Self::with_listener(&format!(
            "{FILES}upstream = {upstream}\n{EVERYONE}\n{more}\n"
        ))
    }

    /// A terminator whose only listener has these lines beside its address.
    pub fn with_listener(lines: &str) -> Self {
        Self::with(
            |_, _, _| {},
            &format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{lines}"),
        )
    }

    /// A terminator with this configuration, on one shard, after `prepare` has written its files.
    pub fn with(prepare: impl FnOnce(&Folder, &Ca, &Ca), config: &str) -> Self {
        Self::start(prepare, &format!("{config}\n[shards]\ncount = 1\n")).unwrap()
    }

    /// A terminator with exactly this configuration.
    pub fn start(
        prepare: impl FnOnce(&Folder, &Ca, &Ca),
        config: &str,
    ) -> Result<Self, StartError> {
        Self::start_on(prepare, config, None)
    }

    /// The same, with its shards where `layout` says.
    pub fn start_on(
        prepare: impl FnOnce(&Folder, &Ca, &Ca),
        config: &str,
        layout: Option<&Layout>,
    ) -> Result<Self, StartError> {
        let Site {
            folder,
            clock,
            client_ca,
            server_ca,
            snapshot,
        } = Site::new(prepare, config);
        let terminator = match layout {
            Some(layout) => Terminator::start_on(&snapshot, &clock, layout, Inherited::default())?,
            None => Terminator::start(&snapshot, &clock)?,
        };
        Ok(Self {
            folder,
            clock,
            client_ca,
            server_ca,
            terminator: Mutex::new(terminator),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.terminator.lock().unwrap().addresses()[0]
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.terminator.lock().unwrap().addresses()
    }

    pub fn terminator<R>(&self, use_it: impl FnOnce(&mut Terminator) -> R) -> R {
        use_it(&mut self.terminator.lock().unwrap())
    }

    /// A certificate that is let in.
    pub fn client(&self) -> Leaf {
        self.client_ca
            .issue(pki::client_with("client", vec![pki::uri(CLIENT_ID)]))
    }

    /// A connected client with this certificate; its handshake runs with the first byte.
    pub fn connect(&self, leaf: &Leaf) -> TlsStream {
        self.connect_as(Some(leaf), SERVER_NAME, &[&rustls::version::TLS13])
    }

    pub fn connect_as(
        &self,
        leaf: Option<&Leaf>,
        server_name: &str,
        versions: &[&'static SupportedProtocolVersion],
    ) -> TlsStream {
        let config = self.client_config(leaf, versions);
        self.connect_with(config, server_name)
    }

    pub fn connect_with(&self, config: ClientConfig, server_name: &str) -> TlsStream {
        self.connect_to(&Arc::new(config), server_name)
    }

    pub fn connect_to(&self, config: &Arc<ClientConfig>, server_name: &str) -> TlsStream {
        let name = ServerName::try_from(server_name.to_owned()).unwrap();
        let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        StreamOwned::new(connection, self.dial())
    }

    pub fn client_config(
        &self,
        leaf: Option<&Leaf>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let presents = leaf.map(|leaf| Arc::new(certified(leaf.certificate.clone(), &leaf.key)));
        self.client_config_of(presents, versions, provider::default_provider())
    }

    /// A client that presents this certificate with this key, whether they fit or not.
    pub fn client_config_of(
        &self,
        presents: Option<Arc<CertifiedKey>>,
        versions: &[&'static SupportedProtocolVersion],
        provider: rustls::crypto::CryptoProvider,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.server_ca.certificate.clone()).unwrap();
        ClientConfig::builder_with_details(Arc::new(provider), Arc::new(Fixed))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::new(Presents(presents)))
    }

    /// A plain TCP connection to the terminator.
    pub fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// The next report of a connection's end.
    pub fn report(&self) -> Report {
        let until = Instant::now() + LIMIT;
        loop {
            match self.report_if_any() {
                Some(report) => return report,
                None if Instant::now() > until => panic!("no report within {LIMIT:?}"),
                None => std::thread::yield_now(),
            }
        }
    }

    pub fn report_if_any(&self) -> Option<Report> {
        self.terminator(|terminator| terminator.mailboxes().find_map(Mailbox::report))
    }

    /// Checks that the only connection so far was refused for `reason`: counted once, reported
    /// once, and at no upstream's cost.
    pub fn refused(&self, reason: CloseReason, upstream: &Upstream) -> Report {
        let report = self.ended(reason);
        assert!(report.service.is_none(), "let in: {report:?}");
        assert_eq!(report.listener.as_ref(), "127.0.0.1:0");
        let connects = (self.upstream_connects(), upstream.connections());
        assert_eq!(connects, (0, 0), "upstream connections for {reason}");
        assert_eq!(self.figure(Counters::established), 0);
        report
    }

    /// Checks that the only connection so far ended for `reason`, and that it was reported once.
    pub fn ended(&self, reason: CloseReason) -> Report {
        self.closed(reason, 1);
        self.quiet();
        assert_eq!(self.ends(), 1, "exactly one reason: {}", self.reasons());
        let report = self.report();
        assert_eq!(report.reason, reason);
        assert!(self.report_if_any().is_none(), "a second report");
        report
    }

    /// Connections that have ended.
    pub fn ends(&self) -> u64 {
        self.figure(ends)
    }

    /// One of the counters, over all shards.
    pub fn figure(&self, of: impl Fn(&Counters) -> u64) -> u64 {
        self.terminator(|terminator| sum(terminator, of))
    }

    /// Sends every shard a command.
    pub fn command(&self, command: impl Fn() -> Command) {
        self.terminator(|terminator| {
            let mut mailboxes = terminator.mailboxes();
            assert!(mailboxes.all(|mailbox| mailbox.send(command()).is_ok()));
        });
    }

    /// Changes the shards over to what `config` says now and waits until they have. Notes of what
    /// stays as it is are returned.
    pub fn install(&self, snapshot: &Arc<Snapshot>) -> Result<Vec<String>, StartError> {
        let (generation, notes) = self.terminator(|terminator| {
            let (mailboxes, mut changer) = terminator.controls();
            let change = changer.prepare(snapshot)?;
            let generation = change.installations[0].generation;
            for (mailbox, installation) in mailboxes.into_iter().zip(change.installations) {
                let command = Command::Install(Box::new(installation));
                mailbox.send(command).expect("a shard that takes commands");
            }
            Ok((generation, change.notes))
        })?;
        let until = Instant::now() + LIMIT;
        let is_installed = |terminator: &mut Terminator| {
            terminator.mailboxes().all(|m| m.installed() == generation)
        };
        while !self.terminator(is_installed) {
            assert!(Instant::now() < until, "not installed within {LIMIT:?}");
            std::thread::yield_now();
        }
        Ok(notes)
    }

    /// Waits until `count` connections have ended for `reason`.
    pub fn closed(&self, reason: CloseReason, count: u64) {
        self.reaches(&format!("ended as {reason}"), count, |counters| {
            counters.closed(reason)
        });
    }

    /// Waits until nothing is open.
    pub fn quiet(&self) {
        self.reaches("open", 0, Counters::open);
    }

    /// Waits until nothing is under way but accepting, and receiving on both sides of so many
    /// connections. What was sent last has then been seen to leave, and moves no deadline any more.
    pub fn settled(&self, relaying: u64) {
        const WAKER: u64 = 1;
        let accepting = ringgate::limits::ACCEPTS_IN_FLIGHT as u64;
        self.reaches(
            "operations in flight",
            accepting + WAKER + 2 * relaying,
            Counters::operations_in_flight,
        );
    }

    /// Waits until a figure is `count`.
    pub fn reaches(&self, what: &str, count: u64, of: impl Fn(&Counters) -> u64) {
        self.eventually(&format!("{count} {what}"), |terminator| {
            sum(terminator, &of) == count
        });
    }

    pub fn eventually(&self, what: &str, mut check: impl FnMut(&mut Terminator) -> bool) {
        let until = Instant::now() + LIMIT;
        while !self.terminator(&mut check) {
            assert!(
                Instant::now() < until,
                "not within {LIMIT:?}: {what}; {}{}",
                self.reasons(),
                self.under_way(),
            );
            std::thread::yield_now();
        }
    }

    /// Connects to upstreams that were started so far.
    pub fn upstream_connects(&self) -> u64 {
        self.figure(Counters::upstream_connects)
    }

    /// What goes on, for the message of a test that waited in vain.
    fn under_way(&self) -> String {
        format!(
            "open {}, handshaking {}, operations in flight {}, submissions {}, completions {}",
            self.figure(Counters::open),
            self.figure(Counters::handshaking),
            self.figure(Counters::operations_in_flight),
            self.figure(Counters::submissions),
            self.figure(Counters::completions),
        )
    }

    pub fn reasons(&self) -> String {
        let mut text = String::new();
        for &reason in CloseReason::ALL {
            let count = self.figure(|counters| counters.closed(reason));
            if count > 0 {
                text.push_str(&format!("{reason}={count} "));
            }
        }
        text
    }
}

impl Drop for World {
    /// Time goes on, so that a connection that lingers does not keep a failed test from ending.
    fn drop(&mut self) {
        self.terminator(|terminator| {
            for mailbox in terminator.mailboxes() {
                let _ = mailbox.send(Command::Stop);
            }
        });
        while !self.terminator(|terminator| terminator.ended()) {
            self.clock.advance(Duration::from_secs(1));
            std::thread::yield_now();
        }
    }
}

/// Connections of one shard that have ended.
pub fn ends(counters: &Counters) -> u64 {
    let reasons = CloseReason::ALL.iter();
    reasons.map(|&reason| counters.closed(reason)).sum()
}

fn sum(terminator: &mut Terminator, of: impl Fn(&Counters) -> u64) -> u64 {
    terminator
        .mailboxes()
        .map(|mailbox| of(mailbox.counters()))
        .sum()
}

pub fn load(file: &Path, clock: &Clock) -> Snapshot {
    match Snapshot::load_file(file, clock) {
        Ok((_, snapshot)) => snapshot,
        Err(errors) => panic!("{}", ringgate::config::render(&errors)),
    }
}

pub fn server_leaf(ca: &Ca, name: &str) -> Leaf {
    let mut params = pki::client_with(name, vec![pki::dns(name)]);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    ca.issue(params)
}

pub fn write_leaf(folder: &Folder, name: &str, leaf: &Leaf) {
    folder.write(
        &format!("{name}.pem"),
        &pem("CERTIFICATE", &leaf.certificate),
    );
    folder.write(&format!("{name}.key"), &leaf.key.serialize_pem());
}

/// A certificate with a key that need not be its own.
pub fn certified(certificate: CertificateDer<'static>, key: &rcgen::KeyPair) -> CertifiedKey {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = provider::sign::any_supported_type(&key).unwrap();
    CertifiedKey::new(vec![certificate], key)
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

/// The calendar of the PKI, for clients.
#[derive(Debug)]
struct Fixed;

impl rustls::time_provider::TimeProvider for Fixed {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(pki::now())
    }
}

/// Sends close_notify, reads the answer to its end, and returns it.
pub fn finish(mut stream: TlsStream) -> Vec<u8> {
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    let mut rest = Vec::new();
    stream
        .read_to_end(&mut rest)
        .expect("the answer ends with close_notify");
    rest
}

/// The alert that ends a connection on which the client tried to speak.
pub fn alert(mut stream: TlsStream) -> AlertDescription {
    let spoke = stream
        .write_all(b"never relayed")
        .and_then(|()| stream.flush());
    let heard = spoke.and_then(|()| stream.read(&mut [0; 1]));
    alert_in(&heard.expect_err("the connection ends with an alert"))
}

/// The alert that this error is about.
pub fn alert_in(error: &std::io::Error) -> AlertDescription {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("no alert: {error:?}"),
    }
}

/// Bytes of which no two neighbouring pieces are equal.
pub fn patterned(len: usize) -> Vec<u8> {
    (0..len)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 16).to_le_bytes()[0])
        .collect()
}

/// A certificate's DER, for comparison.
pub fn der(leaf: &Leaf) -> &CertificateDer<'static> {
    &leaf.certificate
}
