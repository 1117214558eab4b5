//! A running `ringgate`, its log, an upstream that echoes, and clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ringgate::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use time::OffsetDateTime;

use crate::pem::pem;
use crate::pki::{Leaf, client_with, uri};
use crate::scratch::Scratch;

/// A listener that lacks nothing.
pub const FRONT: &str = r#"
[[listener]]
name = "front"
address = "127.0.0.1:0"
certificate = "server.pem"
key = "server.key"
client_ca = "clients-ca.pem"
upstream = "127.0.0.1:8080"
proxy_protocol = "off"
rule = [{ name = "in", allow = { uri = "spiffe://x/in" } }]
"#;

/// How long anything may take before a test fails.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Lines of the log that a test which fails shows.
const LINES_SHOWN: usize = 40;

/// What is below every configuration here.
const PROCESS: &str =
    "\n[shards]\ncount = 2\n[limits]\nconnections = 64\n[log]\nformat = \"json\"\n";

pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A running program with its folder; killed when dropped.
pub struct Gate {
    pub scratch: Scratch,
    pub address: SocketAddr,
    upstream: SocketAddr,
    child: Child,
    log: Arc<Log>,
    read: usize,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Gate {
    /// [`FRONT`] on a free port, with `more` lines.
    pub fn start(more: &str) -> Self {
        Self::start_with(more, |_| {})
    }

    /// As [`Self::start`], after `prepare` has laid out the folder.
    pub fn start_with(more: &str, prepare: impl FnOnce(&Scratch)) -> Self {
        let scratch = folder();
        prepare(&scratch);
        let upstream = echo();
        scratch.write("ringgate.toml", text(upstream, more));
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate"));
        command.args(["run", "-c", scratch.path("ringgate.toml").to_str().unwrap()]);
        Self::launch(scratch, upstream, &mut command)
    }

    /// What `command` starts, which leads to `upstream`, once it listens.
    #[track_caller]
    pub fn launch(scratch: Scratch, upstream: SocketAddr, command: &mut Command) -> Self {
        let (child, log) = spawn(command);
        let mut gate = Self {
            scratch,
            address: "0.0.0.0:0".parse().unwrap(),
            upstream,
            child,
            log,
            read: 0,
        };
        let line = gate.line("listening");
        gate.address = field(&line, "address").unwrap().parse().unwrap();
        gate
    }

    /// Has a new process take over, which is this gate's from then on; the one before, which may
    /// still have clients to serve.
    #[track_caller]
    pub fn upgrade(&mut self) -> Predecessor {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate"));
        command.args(["run", "--takeover", "-c"]);
        command.arg(self.scratch.path("ringgate.toml"));
        let (child, log) = spawn(&mut command);
        let before = std::mem::replace(&mut self.child, child);
        (self.log, self.read) = (log, 0);
        let predecessor = Predecessor(before);
        self.line("listening");
        predecessor
    }

    /// Writes the configuration anew, with other `more` lines and parts of it replaced, at once.
    pub fn configure(&self, more: &str, replaced: &[(&str, &str)]) {
        let text = replaced
            .iter()
            .fold(text(self.upstream, more), |text, (old, new)| {
                assert!(text.contains(old), "no {old} in {text}");
                text.replace(old, new)
            });
        self.replace("ringgate.toml", text);
    }

    /// Puts a file with this content into the place of the one that is there, if any, by renaming.
    pub fn replace(&self, name: &str, content: impl AsRef<[u8]>) {
        self.scratch.write("new", content);
        self.scratch.set_mode("new", 0o600);
        std::fs::rename(self.scratch.path("new"), self.scratch.path(name)).unwrap();
    }

    /// Waits for a line with `part` after those that were waited for before.
    #[track_caller]
    pub fn line(&mut self, part: &str) -> String {
        let end = Instant::now() + LIMIT;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            let found = lines[self.read..]
                .iter()
                .position(|line| line.contains(part));
            if let Some(found) = found {
                self.read += found + 1;
                return lines[self.read - 1].clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "no line with `{part}` after:\n{}",
                lines[self.read..].join("\n")
            );
            lines = self.log.more.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Every line up to now.
    pub fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.log.lines.lock().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).unwrap();
    }

    pub fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until the program has ended by itself.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        ended(&mut self.child)
    }

    /// Reloads by a signal; the line about it.
    #[track_caller]
    pub fn reload(&mut self) -> String {
        self.signal(Signal::HUP);
        self.line("\"message\":\"reloaded")
    }

    /// How many directories the program watches; `None` where it does not watch at all.
    pub fn watched(&self) -> Option<usize> {
        let process = format!("/proc/{}", self.child.id());
        let files = std::fs::read_dir(format!("{process}/fd")).unwrap();
        let files: Vec<_> = files.map(|file| file.unwrap()).collect();
        let inotify = files.iter().find(|file| {
            let target = std::fs::read_link(file.path()).unwrap_or_default();
            target.to_string_lossy().contains("inotify")
        })?;
        let number = inotify.file_name();
        let info = format!("{process}/fdinfo/{}", number.to_str().unwrap());
        let info = std::fs::read_to_string(info).unwrap();
        Some(info.matches("inotify wd:").count())
    }

    /// A client of this kind, who remembers tickets.
    pub fn client(&self, leaf: &Leaf) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.scratch.ca.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![leaf.certificate.clone()], key)
            .unwrap();
        Client {
            config: Arc::new(config),
            address: self.address,
        }
    }

    /// A certificate that rule `in` lets in.
    pub fn leaf(&self) -> Leaf {
        self.leaf_with(|_| {})
    }

    pub fn leaf_with(&self, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Leaf {
        let mut params = client_with("a client", vec![uri("spiffe://x/in")]);
        valid_now(&mut params);
        change(&mut params);
        self.scratch.ca.issue(params)
    }

    /// A CRL of the clients' CA as a PEM file, from a minute ago.
    pub fn crl(&self, revoked: &[u64]) -> String {
        let now = now();
        let crl = self.scratch.ca.crl_with(revoked, |params| {
            params.this_update = now - Duration::from_secs(60);
            params.next_update = now + Duration::from_secs(3600);
        });
        pem("X509 CRL", &crl)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // Whoever waited for a line in vain had the lock.
            let lines = self.log.lines.lock();
            let lines = lines.unwrap_or_else(|poisoned| poisoned.into_inner());
            let last = lines.len().saturating_sub(LINES_SHOWN);
            eprintln!("the last of {} lines:", lines.len());
            lines[last..].iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// A process that another one took over from; killed when dropped.
pub struct Predecessor(Child);

impl Predecessor {
    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        ended(&mut self.0)
    }
}

impl Drop for Predecessor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn ended(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < end, "it has not ended in {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a program whose log is kept.
fn spawn(command: &mut Command) -> (Child, Arc<Log>) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let log = Arc::new(Log::default());
    let (stderr, writer) = (child.stderr.take().unwrap(), Arc::clone(&log));
    // Ends with the program.
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            writer.lines.lock().unwrap().push(line);
            writer.more.notify_all();
        }
    });
    (child, log)
}

fn text(upstream: SocketAddr, more: &str) -> String {
    let upstream = upstream.to_string();
    FRONT.replace("127.0.0.1:8080", &upstream) + more + PROCESS
}

/// The string value of a field of a JSON line.
pub fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let (_, value) = line.split_once(&format!("\"{name}\":\""))?;
    value.split('"').next()
}

fn now() -> OffsetDateTime {
    let unix = Clock::system().unix().as_secs();
    OffsetDateTime::from_unix_timestamp(unix.try_into().unwrap()).unwrap()
}

fn valid_now(params: &mut rcgen::CertificateParams) {
    params.not_before = now() - Duration::from_secs(3600);
    params.not_after = now() + Duration::from_secs(3600);
}

/// A folder with certificates that are valid by the real clock.
pub fn folder() -> Scratch {
    let scratch = Scratch::new();
    scratch.write_leaf("server", &server(&scratch));
    scratch
}

/// A new certificate for the server.
pub fn server(scratch: &Scratch) -> Leaf {
    scratch.server(valid_now)
}

/// An upstream that sends back what it gets; it ends with the test's process.
pub fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut bytes = [0; 1024];
                while let Ok(len @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..len]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Whoever connects with one certificate.
#[derive(Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
    address: SocketAddr,
}

impl Client {
    /// A socket to the server, and what would be said on it.
    pub fn dial(&self) -> std::io::Result<Stream> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(StreamOwned::new(self.session(), socket))
    }

    /// The client's part of a handshake that has not begun.
    pub fn session(&self) -> ClientConnection {
        let name = ServerName::try_from("server.example").unwrap();
        ClientConnection::new(Arc::clone(&self.config), name).unwrap()
    }

    /// Connects, and has a byte echoed.
    pub fn connect(&self) -> std::io::Result<Stream> {
        let mut stream = self.dial()?;
        echoed(&mut stream)?;
        Ok(stream)
    }

    /// Connects; how the handshake went.
    #[track_caller]
    pub fn handshake(&self) -> HandshakeKind {
        let mut stream = self.connect().unwrap();
        let kind = stream.conn.handshake_kind().unwrap();
        close(&mut stream).unwrap();
        kind
    }

    /// The same client without a ticket, now and later.
    pub fn newcomer(&self) -> Self {
        let mut config = (*self.config).clone();
        config.resumption = Resumption::disabled();
        Self {
            config: Arc::new(config),
            ..*self
        }
    }

    /// The same client at another address.
    pub fn at(&self, address: SocketAddr) -> Self {
        Self {
            address,
            ..self.clone()
        }
    }

    /// The certificate that the server shows in a full handshake.
    #[track_caller]
    pub fn shown(&self) -> CertificateDer<'static> {
        let mut stream = self.newcomer().connect().unwrap();
        let certificates = stream.conn.peer_certificates().unwrap();
        let leaf = certificates[0].clone();
        close(&mut stream).unwrap();
        leaf
    }
}

/// Has a byte echoed.
pub fn echoed(stream: &mut Stream) -> std::io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

/// Ends a connection as it should: the other side's end is waited for.
pub fn close(stream: &mut Stream) -> std::io::Result<()> {
    stream.conn.send_close_notify();
    stream.flush()?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(std::io::Error::other("bytes after the last echo")),
    }
}
