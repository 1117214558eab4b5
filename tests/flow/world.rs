//! A terminator with its PKI, an upstream that remembers what it was told, and clients.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringgate::Terminator;
use ringgate::clock::Clock;
use ringgate::close_reason::CloseReason;
use ringgate::shard::mailbox::Report;
use ringgate::snapshot::Snapshot;
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::pki::{self, Ca, Leaf};
use crate::proxy_v2::Header;

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

pub fn pem(label: &str, der: &[u8]) -> String {
    let base64: String = base64(der);
    let lines: Vec<&str> = base64
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .fold(0, |group, &byte| group << 8 | u32::from(byte));
        let group = group << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let digit = (group >> (18 - 6 * position)) & 63;
            text.push(if position <= chunk.len() {
                char::from(DIGITS[digit as usize])
            } else {
                '='
            });
        }
    }
    text
}

/// What the configuration says of a listener's files.
pub const FILES: &str = r#"certificate = "server.pem"
key = "server.key"
client_ca = "clients.pem"
"#;

pub const EVERYONE: &str = r#"rule = [{ name = "everyone", allow = { any = true } }]"#;

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
        let folder = Folder::new();
        let (client_ca, server_ca) = (Ca::root("Clients"), Ca::root("Servers"));
        write_leaf(&folder, "server", &server_leaf(&server_ca, SERVER_NAME));
        folder.write("clients.pem", &pem("CERTIFICATE", &client_ca.certificate));
        prepare(&folder, &client_ca, &server_ca);
        let file = folder.write("ringgate.toml", &format!("{config}\n[shards]\ncount = 1\n"));
        let clock = Clock::manual(Duration::from_secs(pki::NOW.unsigned_abs()));
        let terminator = Terminator::start(&Arc::new(load(&file, &clock)), &clock).unwrap();
        Self {
            folder,
            clock,
            client_ca,
            server_ca,
            terminator: Mutex::new(terminator),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.terminator.lock().unwrap().addresses()[0]
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.terminator.lock().unwrap().addresses().to_vec()
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
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> TlsStream {
        let config = self.client_config(leaf, versions);
        self.connect_with(config, server_name)
    }

    pub fn connect_with(&self, config: ClientConfig, server_name: &str) -> TlsStream {
        let name = ServerName::try_from(server_name.to_owned()).unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        StreamOwned::new(connection, self.dial())
    }

    pub fn client_config(
        &self,
        leaf: Option<&Leaf>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.server_ca.certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_details(
            Arc::new(provider::default_provider()),
            Arc::new(Fixed),
        )
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
        match leaf {
            Some(leaf) => {
                let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
                builder
                    .with_client_auth_cert(vec![leaf.certificate.clone()], key)
                    .unwrap()
            }
            None => builder.with_no_client_auth(),
        }
    }

    /// A plain TCP connection to the terminator.
    pub fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// The next report of a connection's end.
    pub fn report(&self) -> Report {
        let until = Instant::now() + LIMIT;
        loop {
            let report = self.terminator(|terminator| {
                terminator
                    .mailboxes()
                    .find_map(ringgate::shard::mailbox::Mailbox::report)
            });
            match report {
                Some(report) => return report,
                None if Instant::now() > until => panic!("no report within {LIMIT:?}"),
                None => std::thread::yield_now(),
            }
        }
    }

    /// Waits until `count` connections have ended for `reason`.
    pub fn closed(&self, reason: CloseReason, count: u64) {
        self.eventually(&format!("{count} ended as {reason}"), |terminator| {
            terminator
                .mailboxes()
                .map(|mailbox| mailbox.counters().closed(reason))
                .sum::<u64>()
                == count
        });
    }

    /// Waits until nothing is open.
    pub fn quiet(&self) {
        self.eventually("nothing is open", |terminator| {
            terminator
                .mailboxes()
                .all(|mailbox| mailbox.counters().open() == 0)
        });
    }

    pub fn eventually(&self, what: &str, check: impl Fn(&mut Terminator) -> bool) {
        let until = Instant::now() + LIMIT;
        while !self.terminator(&check) {
            assert!(
                Instant::now() < until,
                "not within {LIMIT:?}: {what}; {}",
                self.reasons()
            );
            std::thread::yield_now();
        }
    }

    /// Connects to upstreams that were started so far.
    pub fn upstream_connects(&self) -> u64 {
        self.terminator(|terminator| {
            terminator
                .mailboxes()
                .map(|mailbox| mailbox.counters().upstream_connects())
                .sum()
        })
    }

    fn reasons(&self) -> String {
        self.terminator(|terminator| {
            let mut text = String::new();
            for mailbox in terminator.mailboxes() {
                for &reason in CloseReason::ALL {
                    let count = mailbox.counters().closed(reason);
                    if count > 0 {
                        text.push_str(&format!("{reason}={count} "));
                    }
                }
            }
            text
        })
    }
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

/// The calendar of the PKI, for clients.
#[derive(Debug)]
struct Fixed;

impl rustls::time_provider::TimeProvider for Fixed {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(pki::now())
    }
}

/// What an upstream saw of one connection.
#[derive(Debug)]
pub struct Visit {
    pub header: Option<Header>,
    /// Everything up to the end.
    pub bytes: Vec<u8>,
    /// Whether the end was a FIN.
    pub clean: bool,
}

/// What an upstream does with a connection.
#[derive(Clone, Copy)]
pub enum Manner {
    /// Sends back what it gets; ends when the client has.
    Echo,
    /// Says this and ends, then reads until the end.
    Say(&'static [u8]),
    /// Resets the connection after the first byte.
    Reset,
    /// Reads nothing until told through the gate.
    Stall,
}

/// An upstream on loopback.
pub struct Upstream {
    pub address: SocketAddr,
    visits: Receiver<Visit>,
    pub accepted: Arc<AtomicUsize>,
    gate: Arc<(Mutex<bool>, std::sync::Condvar)>,
}

impl Upstream {
    /// Expects a PROXY header in front of every connection.
    pub fn new(manner: Manner) -> Self {
        Self::with_header(manner, true)
    }

    pub fn with_header(manner: Manner, header: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (visit, visits) = channel();
        let accepted = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new((Mutex::new(false), std::sync::Condvar::new()));
        let (counter, opened) = (Arc::clone(&accepted), Arc::clone(&gate));
        // The threads end with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counter.fetch_add(1, Ordering::SeqCst);
                let (visit, opened) = (visit.clone(), Arc::clone(&opened));
                std::thread::spawn(move || {
                    let _ = visit.send(serve(stream.unwrap(), manner, header, &opened));
                });
            }
        });
        Self {
            address,
            visits,
            accepted,
            gate,
        }
    }

    /// As a value of `upstream =`.
    pub fn toml(&self) -> String {
        format!("\"{}\"", self.address)
    }

    /// The next connection that ended.
    pub fn visit(&self) -> Visit {
        self.visits
            .recv_timeout(LIMIT)
            .expect("an upstream connection ends")
    }

    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Lets connections that stall go on.
    pub fn open_gate(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

fn serve(
    mut stream: TcpStream,
    manner: Manner,
    header: bool,
    gate: &(Mutex<bool>, std::sync::Condvar),
) -> Visit {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let header = header.then(|| Header::read(&mut stream).ok()).flatten();
    let mut bytes = Vec::new();
    match manner {
        Manner::Say(words) => {
            stream.write_all(words).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        }
        Manner::Reset => {
            let _ = stream.read(&mut [0; 1]);
            let socket = socket2::SockRef::from(&stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            return Visit {
                header,
                bytes,
                clean: false,
            };
        }
        Manner::Stall => {
            let mut open = gate.0.lock().unwrap();
            while !*open {
                open = gate.1.wait(open).unwrap();
            }
        }
        Manner::Echo => {}
    }
    let echo = matches!(manner, Manner::Echo | Manner::Stall);
    let mut buffer = vec![0; 64 * 1024];
    let clean = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break true,
            Ok(len) => {
                bytes.extend_from_slice(&buffer[..len]);
                if echo && stream.write_all(&buffer[..len]).is_err() {
                    break false;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break false,
        }
    };
    Visit {
        header,
        bytes,
        clean,
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

/// A certificate's DER, for comparison.
pub fn der(leaf: &Leaf) -> &CertificateDer<'static> {
    &leaf.certificate
}
