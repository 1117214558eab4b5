//! What an idle connection costs in memory: the growth of the server's anonymous resident memory
//! over connections that were made and then rest, first one after another, then all at the same
//! moment. What the kernel holds for their sockets is not in it.
//!
//! The server is a process of its own. `--connections N` (4,000 unless given) takes 2 N descriptors
//! and some here and there: the soft limit is raised to the hard one, and where that does not do, it
//! is said and as many as there may be are opened. Clients and upstreams have addresses of 127.0.0.0/8
//! by the number, so that ports do.

#[path = "common/arguments.rs"]
mod arguments;
#[path = "../tests/interop/echo.rs"]
#[allow(dead_code, reason = "the tests need all of it")]
mod echo;
#[path = "../tests/interop/gate.rs"]
#[allow(dead_code, reason = "the tests need all of it")]
mod gate;
#[path = "../tests/interop/pki.rs"]
#[allow(dead_code, reason = "the tests need all of it")]
mod pki;
#[path = "../tests/interop/program.rs"]
#[allow(dead_code, reason = "the tests need all of it")]
mod program;
#[path = "../tests/common/proxy_v2.rs"]
mod proxy_v2;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use ringgate::ring::raise_descriptor_limit;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use socket2::{Domain, Socket, Type};

use gate::{Chains, Gate};

const CONNECTIONS: u32 = 4_000;

/// Connections before the first reading, so that what is made once is not counted.
const FIRST: usize = 50;

/// Connections at the same moment: as many as wait to be accepted (`net.core.somaxconn`), and no
/// handshake times out because of the others.
const AT_ONCE: usize = 4_000;

/// Descriptors of a process beside those of connections.
const BESIDE: u64 = 500;

/// Connections from each of the clients' addresses, and to each of the upstream's: fewer than one
/// address has ports for.
const BY_ADDRESS: usize = 4_000;

/// The memory that mimalloc has purged by then is no longer counted.
const REST: Duration = Duration::from_secs(2);

fn main() {
    let count = count();
    measure("one after another", count, 1);
    measure("at the same moment", count, AT_ONCE);
}

/// How many connections are asked for, as far as descriptors go.
fn count() -> usize {
    let wanted = u64::from(arguments::number("--connections", CONNECTIONS));
    let limit = raise_descriptor_limit().unwrap_or(u64::MAX);
    let room = limit.saturating_sub(BESIDE) / 2;
    if room < wanted {
        let needed = wanted * 2 + BESIDE;
        println!(
            "{wanted} connections need {needed} descriptors, and {limit} are allowed (ulimit -Hn): \
             {room} are opened. For all of them raise the limit first, with CAP_SYS_RESOURCE: \
             prlimit --nofile={needed}:{needed} --pid $$"
        );
    }
    let count = usize::try_from(wanted.min(room)).expect("a number of connections");
    assert!(count > 0, "{limit} descriptors are too few for anything");
    count
}

/// Prints what each of `count` connections costs, so many of which are opened at once.
fn measure(manner: &str, count: usize, at_once: usize) {
    let upstream = listen();
    let port = upstream.local_addr().unwrap().port();
    let gate = Gate::configured(Chains::P256, |address| {
        configuration(address, port, count + FIRST)
    });
    let mut clients = Clients {
        config: client_config(&gate),
        target: gate.address,
        upstream,
        held: Vec::new(),
    };
    (0..FIRST).for_each(|_| clients.open(1));
    sleep(REST);
    let before = anonymous_kib(gate.process_id());
    let mut left = count;
    while left > 0 {
        let now = left.min(at_once);
        clients.open(now);
        left -= now;
    }
    sleep(REST);
    let after = anonymous_kib(gate.process_id());
    let each = f64::from(after.saturating_sub(before)) / f64::from(u32::try_from(count).unwrap());
    let batches = match count > at_once && at_once > 1 {
        true => format!(", {at_once} at a time"),
        false => String::new(),
    };
    println!(
        "idle memory: {each:.2} KiB for each of {count} connections opened {manner}{batches} \
         ({before} -> {after} KiB)"
    );
}

/// On all of 127.0.0.0/8.
fn listen() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}

fn configuration(address: SocketAddr, upstream_port: u16, connections: usize) -> String {
    let upstreams = 1..=connections.div_ceil(BY_ADDRESS);
    let upstreams: Vec<String> = upstreams
        .map(|at| format!("127.2.0.{at}:{upstream_port}"))
        .collect();
    // One to spare for whoever looks whether the server listens.
    let connections = connections + 1;
    format!(
        r#"
        [shards]
        count = 1

        [limits]
        connections = {connections}
        handshakes = {connections}

        [[listener]]
        address = "{address}"
        certificate = "server.pem"
        key = "server.key"
        client_ca = "client-root.pem"
        upstream = {upstreams:?}
        handshake_timeout = "60s"
        idle_timeout = "24h"
        rule = [{{ name = "everyone", allow = {{ any = true }} }}]
        "#
    )
}

/// All clients, and the upstream.
struct Clients {
    config: Arc<ClientConfig>,
    target: SocketAddr,
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
            (session, connect(self.target, (first + at) / BY_ADDRESS))
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

/// From an address of its own for each `source`.
fn connect(target: SocketAddr, source: usize) -> TcpStream {
    let [.., high, low] = u32::try_from(source + 1).unwrap().to_be_bytes();
    let source = SocketAddr::from((Ipv4Addr::new(127, 1, high, low), 0));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    socket.bind(&source.into()).unwrap();
    socket.connect(&target.into()).unwrap();
    socket.into()
}

fn client_config(gate: &Gate) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(&gate.server_root).unwrap())
        .unwrap();
    let chain = CertificateDer::pem_file_iter(&gate.client.chain).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(&gate.client.key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

/// RssAnon of /proc/PID/status, in KiB.
fn anonymous_kib(process_id: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
