//! A `ringgate` process on a host, its upstream there, and clients that come to it.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};

use crate::network::Namespace;
use crate::pki::{self, Ca, Identity, Key};
use crate::program::{PATIENCE, Scratch, Service, until};
use crate::proxy_v2::Header;

/// The certificates that all hosts share.
pub struct Site {
    scratch: Scratch,
    server_ca: Ca,
    identity: Identity,
}

impl Site {
    pub fn new() -> Self {
        let scratch = Scratch::named("hosts");
        let ca = |name| Ca::root(scratch.path(), name, Key::P256);
        let (server_ca, client_ca) = (ca("server-root"), ca("client-root"));
        server_ca.issue("server", &pki::server());
        let identity = client_ca.issue("client", &pki::client());
        Self {
            scratch,
            server_ca,
            identity,
        }
    }

    /// A client on `host` that has no ticket yet.
    pub fn client<'n>(
        &self,
        host: &'n Namespace,
        version: &'static SupportedProtocolVersion,
    ) -> Client<'n> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&self.server_ca.file).unwrap())
            .unwrap();
        let chain = CertificateDer::pem_file_iter(&self.identity.chain).unwrap();
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(&self.identity.key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        Client {
            host,
            fingerprint: self.identity.sha256.clone(),
            config: Arc::new(config),
        }
    }
}

/// A running process, whose only upstream the test is itself; killed when dropped.
pub struct Gate {
    pub address: SocketAddr,
    upstream: TcpListener,
    service: Service,
}

impl Gate {
    /// On `host`, with ticket keys from `secret`, or from one that it makes for itself.
    #[track_caller]
    pub fn start(site: &Site, host: &Namespace, port: u16, secret: Option<&str>) -> Self {
        let address = SocketAddr::from((host.address, port));
        let upstream = host.inside(|| TcpListener::bind("127.0.0.1:0").unwrap());
        upstream.set_nonblocking(true).unwrap();
        let folder = site.scratch.path();
        let name = address.to_string().replace(':', "-");
        let mut config = configuration(address, upstream.local_addr().unwrap());
        if let Some(secret) = secret {
            let file = format!("{name}.stek");
            write_private(&folder.join(&file), secret);
            config += &format!("[resumption]\nstek = \"{file}\"\n");
        }
        let file = folder.join(format!("{name}.toml"));
        fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate"));
        command.arg("run").arg("-c").arg(file);
        let log = folder.join(format!("{name}.log"));
        let service = host.inside(|| Service::start(&mut command, &log, address));
        Self {
            address,
            upstream,
            service,
        }
    }

    /// Ends the process as an operator does. When this returns the address is free; after a kill the
    /// kernel takes its time to end a ring, and what listens on it still takes connections.
    #[track_caller]
    pub fn stop(self) {
        self.service.terminate();
    }

    /// The next connection to the upstream.
    #[track_caller]
    fn accept(&self) -> TcpStream {
        let (stream, _) = until("a connection to the upstream", || {
            match self.upstream.accept() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                accepted => Some(accepted.unwrap()),
            }
        });
        stream.set_nonblocking(false).unwrap();
        bounded(stream)
    }
}

/// A client that keeps its tickets.
pub struct Client<'n> {
    pub host: &'n Namespace,
    /// SHA-256 of its certificate.
    pub fingerprint: Vec<u8>,
    config: Arc<ClientConfig>,
}

impl Client<'_> {
    /// One byte there and back: how the handshake went, and what the upstream was told.
    #[track_caller]
    pub fn visit(&self, gate: &Gate) -> (HandshakeKind, Header) {
        let name = ServerName::try_from(pki::SERVER_NAME).unwrap();
        let session = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
        let stream = self
            .host
            .inside(|| TcpStream::connect(gate.address).unwrap());
        let mut stream = StreamOwned::new(session, bounded(stream));
        stream.write_all(b"x").unwrap();
        let mut upstream = gate.accept();
        let header = Header::read(&mut upstream).unwrap();
        let mut byte = [0];
        upstream.read_exact(&mut byte).unwrap();
        upstream.write_all(&byte).unwrap();
        // The ticket came before what the upstream says.
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        let kind = stream.conn.handshake_kind().unwrap();
        (kind, header)
    }
}

/// A stream on which nothing waits for good.
fn bounded(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A secret that others can read is refused.
fn write_private(path: &Path, content: &str) {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.unwrap().write_all(content.as_bytes()).unwrap();
}

/// A listener's name is what its tickets are good for, so all have the same.
fn configuration(address: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        r#"
        [shards]
        count = 1

        [limits]
        connections = 64

        [[listener]]
        name = "front"
        address = "{address}"
        certificate = "server.pem"
        key = "server.key"
        client_ca = "client-root.pem"
        min_version = "1.2"
        upstream = "{upstream}"
        rule = [{{ name = "billing", allow = {{ uri = "spiffe://prod.test/ns/billing/sa/*" }} }}]

        "#
    )
}
