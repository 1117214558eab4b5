//! The memory of a process whose peers take nothing and send all they can.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringgate::limits::{BLOCK_LEN, RECEIVE_BUFFERS};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::Socket;
use time::OffsetDateTime;

use crate::flood::Flood;
use crate::pem::pem;
use crate::pki::{self, Ca, Leaf};
use crate::streams::{HELD_MAX, limits_receives};
use crate::world::{EVERYONE, FILES, Folder, SERVER_NAME, write_leaf};

const CONNECTIONS: usize = 16;

/// More than the kernel's socket buffers take.
const MUCH: usize = 32 << 20;

/// The receive buffers, and as many blocks that are kept for whoever needs one next.
const FIXED: usize = 2 * RECEIVE_BUFFERS as usize * BLOCK_LEN;

/// Blocks are a little longer than 64 KiB, and mimalloc's next size is 80 KiB.
const ROUNDED: [usize; 2] = [80, 64];

/// How long nothing was written when everybody is stuck, and for how long that is waited for.
const STUCK: Duration = Duration::from_millis(500);
const AT_MOST: Duration = Duration::from_secs(5);

/// A running program; killed when dropped.
struct Program {
    child: Child,
    address: SocketAddr,
    config: Arc<ClientConfig>,
    _folder: Folder,
}

impl Program {
    fn start(upstream: SocketAddr) -> Self {
        let folder = Folder::new();
        let now = OffsetDateTime::now_utc();
        let valid = |params: &mut rcgen::CertificateParams| {
            params.not_before = now - Duration::from_secs(3600);
            params.not_after = now + Duration::from_secs(3600);
        };
        let ca = Ca::root_with("Everybody", valid);
        let mut params = pki::client_with(SERVER_NAME, vec![pki::dns(SERVER_NAME)]);
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        valid(&mut params);
        let leaf = ca.issue(params);
        write_leaf(&folder, "server", &leaf);
        folder.write("clients.pem", &pem("CERTIFICATE", &ca.certificate));
        let config = folder.write(
            "ringgate.toml",
            &format!(
                "[[listener]]\naddress = \"127.0.0.1:0\"\n{FILES}upstream = \"{upstream}\"\n\
                 {EVERYONE}\n[shards]\ncount = 1\n[log]\nformat = \"json\"\n"
            ),
        );
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringgate"))
            .args(["run", "-c", config.to_str().unwrap()])
            // Memory is counted in pages of 4 KiB then, and not by 2 MiB.
            .env("MIMALLOC_ALLOW_THP", "0")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = log.find(|line| line.as_ref().is_ok_and(|line| line.contains("listening")));
        let line = line.expect("it listens").unwrap();
        let address = line.split("\"address\":\"").nth(1).unwrap();
        let address = address.split('"').next().unwrap().parse().unwrap();
        // Ends with the program, which is not to wait for its log to be read.
        std::thread::spawn(move || log.for_each(drop));
        Self {
            child,
            address,
            config: client_config(&ca, &leaf),
            _folder: folder,
        }
    }

    /// Bytes of memory that are its own and not a file's.
    fn anonymous(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<usize>().unwrap() << 10
    }

    fn connect(&self) -> (ClientConnection, TcpStream) {
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let tls = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
        (tls, TcpStream::connect(self.address).unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn client_config(ca: &Ca, leaf: &Leaf) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![leaf.certificate.clone()], key)
        .unwrap();
    Arc::new(config)
}

/// Carries `flood` over so many connections; what `meanwhile` says once all of them are there.
fn carry<T>(
    program: &Program,
    listener: &TcpListener,
    flood: &Flood,
    connections: usize,
    meanwhile: impl FnOnce() -> T,
) -> T {
    std::thread::scope(|scope| {
        let mut ends = Vec::new();
        for connection in 0..connections {
            let (tls, socket) = program.connect();
            ends.push(scope.spawn(move || flood.client(connection, tls, socket)));
            let socket = Socket::from(listener.accept().unwrap().0);
            ends.push(scope.spawn(move || flood.upstream(&socket, true)));
        }
        let said = meanwhile();
        flood.open();
        for end in ends {
            end.join().unwrap().unwrap();
        }
        said
    })
}

#[test]
fn sixteen_connections_that_are_stuck_hold_little() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let program = Program::start(listener.local_addr().unwrap());
    // What is made once for everybody is there after the first.
    carry(&program, &listener, &Flood::new(1, 1), 1, || ());
    let before = program.anonymous();
    let flood = Flood::new(CONNECTIONS, MUCH);
    let most = carry(&program, &listener, &flood, CONNECTIONS, || {
        let (mut most, mut written, mut changed) = (0, 0, Instant::now());
        let until = changed + AT_MOST;
        // A trickle may go on: the kernel finds room in its buffers now and then.
        while changed.elapsed() < STUCK && Instant::now() < until {
            let now = flood.written();
            if now != written {
                (written, changed) = (now, Instant::now());
            }
            most = most.max(program.anonymous());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(flood.ended(), 0, "the kernel's buffers took all of it");
        most
    });
    let grown = most.saturating_sub(before);
    let bound = (HELD_MAX + FIXED) * ROUNDED[0] / ROUNDED[1];
    if limits_receives() {
        assert!(grown <= bound, "grown by {grown} bytes, {bound} allowed");
    } else {
        println!("skipped: this kernel's multishot receives know no limit");
    }
}
