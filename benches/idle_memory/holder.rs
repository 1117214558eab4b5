//! A process that holds both ends of connections through the server: clients and upstreams.
//!
//! It is this bench again, started with [`ROLE`], and does what its standard input says, a line at a
//! time. It ends with its standard input, so at the latest with who started it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use ringgate::ring::raise_descriptor_limit;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use socket2::{Domain, Socket, Type};

use crate::gate::Gate;
use crate::{pki, proxy_v2};

/// The argument that makes the bench a holder; its number is behind it.
pub const ROLE: &str = "--hold";

/// Connections from each of the clients' addresses, and to each of the upstream's: fewer than one
/// address has ports for.
const BY_ADDRESS: usize = 4_000;

/// Between the parts of a line; paths do not have it.
const SEPARATOR: char = '\t';

/// A holder, as who started it sees it; it ends when dropped.
pub struct Holder {
    process: Child,
    /// Taken when it is to end.
    told: Option<ChildStdin>,
    says: BufReader<ChildStdout>,
    number: usize,
    upstream_port: u16,
}

impl Holder {
    /// The holder with this number, of which there is no other at the time.
    pub fn start(number: usize) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut process = Command::new(program)
            .args([ROLE, &number.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let told = process.stdin.take();
        let says = BufReader::new(process.stdout.take().unwrap());
        let mut holder = Self {
            process,
            told,
            says,
            number,
            upstream_port: 0,
        };
        holder.upstream_port = holder.answer().parse().unwrap();
        holder
    }

    /// Where the server finds upstreams for `connections` of this holder.
    pub fn upstreams(&self, connections: usize) -> Vec<String> {
        let addresses = 1..=connections.div_ceil(BY_ADDRESS);
        addresses
            .map(|at| format!("127.2.{}.{at}:{}", self.number, self.upstream_port))
            .collect()
    }

    /// Tells it whom to connect to.
    pub fn meet(&mut self, gate: &Gate, address: SocketAddr) {
        let paths = [&gate.server_root, &gate.client.chain, &gate.client.key];
        let paths = paths.map(|path| path.to_str().unwrap().to_owned());
        self.tell(&[&address.to_string(), &paths.join(&SEPARATOR.to_string())]);
    }

    /// Has it open so many connections, `at_once` of them together, and waits until they are open.
    pub fn open(&mut self, count: usize, at_once: usize) {
        self.tell(&[&count.to_string(), &at_once.to_string()]);
        let opened = self.answer();
        assert_eq!(opened, count.to_string(), "connections that were opened");
    }

    fn tell(&mut self, parts: &[&str]) {
        let line = parts.join(&SEPARATOR.to_string()) + "\n";
        let told = self.told.as_mut().unwrap();
        told.write_all(line.as_bytes()).unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        let number = self.number;
        assert!(line.ends_with('\n'), "holder {number} ended, see above");
        line.trim_end().to_owned()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.told = None;
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the process of a holder does.
pub fn hold(number: u8) {
    // Who started this one has asked how far that goes.
    let _ = raise_descriptor_limit();
    let upstream = listen();
    say(upstream.local_addr().unwrap().port());
    let mut lines = std::io::stdin().lines().map(Result::unwrap);
    let Some(line) = lines.next() else { return };
    let [target, server_root, chain, key] = parts(&line);
    let mut clients = Clients {
        config: client_config(Path::new(server_root), &chain.into(), &key.into()),
        target: target.parse().unwrap(),
        number,
        upstream,
        held: Vec::new(),
    };
    for line in lines {
        let [count, at_once] = parts(&line).map(|part| part.parse::<usize>().unwrap());
        let mut left = count;
        while left > 0 {
            let now = left.min(at_once);
            clients.open(now);
            left -= now;
        }
        say(count);
    }
}

fn say(what: impl std::fmt::Display) {
    println!("{what}");
    std::io::stdout().flush().unwrap();
}

fn parts<const N: usize>(line: &str) -> [&str; N] {
    let parts: Vec<&str> = line.split(SEPARATOR).collect();
    parts.try_into().unwrap()
}

/// On all of 127.0.0.0/8.
fn listen() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

/// All clients, and the upstream.
struct Clients {
    config: Arc<ClientConfig>,
    target: SocketAddr,
    /// The holder's.
    number: u8,
    upstream: TcpListener,
    held: Vec<Held>,
}

/// A connection's both ends. Its session is not needed any more: nothing more is said.
struct Held {
    _client: TcpStream,
    _upstream: TcpStream,
}

impl Clients {
    /// Opens `count` connections, all of which are connected before the first begins its handshake,
    /// and take each step of it together; through each goes one byte there and back.
    fn open(&mut self, count: usize) {
        let first = self.held.len();
        let connect = |at| {
            let name = ServerName::try_from(pki::SERVER_NAME).unwrap();
            let session = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
            (session, self.connect((first + at) / BY_ADDRESS))
        };
        let mut clients: Vec<_> = (0..count).map(connect).collect();
        for (session, stream) in &mut clients {
            session.write_tls(stream).unwrap();
        }
        for (session, stream) in &mut clients {
            Stream::new(session, stream).write_all(b"x").unwrap();
        }
        let behind: Vec<TcpStream> = (0..count).map(|_| self.echo()).collect();
        for ((mut session, mut client), upstream) in clients.into_iter().zip(behind) {
            let mut byte = [0];
            Stream::new(&mut session, &mut client)
                .read_exact(&mut byte)
                .unwrap();
            assert_eq!(&byte, b"x");
            self.held.push(Held {
                _client: client,
                _upstream: upstream,
            });
        }
    }

    /// From an address of its own for each `source`.
    fn connect(&self, source: usize) -> TcpStream {
        let source = u8::try_from(source + 1).unwrap();
        let source = SocketAddr::from((Ipv4Addr::new(127, 1, self.number, source), 0));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_tcp_nodelay(true).unwrap();
        socket.bind(&source.into()).unwrap();
        socket.connect(&self.target.into()).unwrap();
        socket.into()
    }

    /// A connection's other end, which has sent back the byte that came.
    fn echo(&self) -> TcpStream {
        let (mut stream, _) = self.upstream.accept().unwrap();
        proxy_v2::Header::read(&mut stream).unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(&byte).unwrap();
        stream
    }
}

fn client_config(server_root: &Path, chain: &PathBuf, key: &PathBuf) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(server_root).unwrap())
        .unwrap();
    let chain = CertificateDer::pem_file_iter(chain).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    Arc::new(config)
}
