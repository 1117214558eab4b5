//! How long a reload holds a shard's loop up: 100,000 revoked serials, 1,000 rules, and open
//! connections whose clients are all judged again.

#[path = "../tests/common/pem.rs"]
mod pem;
#[path = "../tests/common/pki.rs"]
mod pki;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pem::pem;
use ringgate::Terminator;
use ringgate::clock::Clock;
use ringgate::ring::raise_descriptor_limit;
use ringgate::shard::mailbox::{Command, Mailbox, Review};
use ringgate::snapshot::Snapshot;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};

const CONNECTIONS: usize = 2_000;
const RULES: usize = 1_000;
const SERIALS: u64 = 100_000;
const RELOADS: usize = 20;

/// How long a reload may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    raise_descriptor_limit();
    let folder = Folder::new();
    let config = folder.prepare();
    let clock = Clock::system();
    let load = |file: &Path| match Snapshot::load_file(file, &clock) {
        Ok((_, snapshot)) => Arc::new(snapshot),
        Err(errors) => panic!("{}", ringgate::config::render(&errors)),
    };
    let began = Instant::now();
    let snapshots = [0, 1].map(|which| load(&folder.write_config(which)));
    let loading = began.elapsed() / 2;
    let mut terminator = Terminator::start(&snapshots[1], &clock).unwrap();
    let address = terminator.addresses()[0];
    let held: Vec<_> = (0..CONNECTIONS).map(|_| hold(&config, address)).collect();
    // Old snapshots are never let go of by a shard: these live until the end.
    let reviews: Vec<_> = (0..RELOADS)
        .map(|turn| reload(&mut terminator, &snapshots[turn % 2]))
        .collect();
    for review in &reviews {
        assert_eq!((review.judged, review.lost), (CONNECTIONS as u64, 0));
        assert!(review.finished);
    }
    let [each, longest] = [
        |review: &Review| review.took.as_secs_f64() * 1e6 / CONNECTIONS as f64,
        |review: &Review| review.longest_turn.as_secs_f64() * 1e6,
    ]
    .map(|of| {
        let mut values: Vec<f64> = reviews.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    });
    println!(
        "reload: {SERIALS} serials, {RULES} rules read in {:.0} ms off the shards; {} connections \
         judged at {:.2} us each (median of {RELOADS}); the loop held up for {:.0} us at most \
         (median), {:.0} us (worst; target 1000)",
        loading.as_secs_f64() * 1e3,
        held.len(),
        each[RELOADS / 2],
        longest[RELOADS / 2],
        longest[RELOADS - 1],
    );
}

fn reload(terminator: &mut Terminator, snapshot: &Arc<Snapshot>) -> Review {
    let (mailboxes, mut changer) = terminator.controls();
    let change = changer.prepare(snapshot).unwrap();
    for (mailbox, installation) in mailboxes.into_iter().zip(change.installations) {
        let install = Command::Install(Box::new(installation));
        mailbox.send(install).expect("a shard that takes commands");
    }
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(review) = terminator.mailboxes().find_map(Mailbox::review) {
            return review;
        }
        assert!(Instant::now() < until, "the reload does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A connection that finished its handshake, and rests.
fn hold(
    config: &Arc<ClientConfig>,
    address: std::net::SocketAddr,
) -> (ClientConnection, TcpStream) {
    let name = ServerName::try_from("app.example").unwrap();
    let mut session = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    Stream::new(&mut session, &mut stream)
        .write_all(b"x")
        .unwrap();
    Stream::new(&mut session, &mut stream)
        .read_exact(&mut [0])
        .unwrap();
    (session, stream)
}

/// A folder of configuration and PKI; gone when dropped.
struct Folder {
    path: PathBuf,
    upstream: std::net::SocketAddr,
}

impl Folder {
    /// With an upstream that sends one byte to whoever connects.
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ringgate-reload-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = listener.local_addr().unwrap();
        // It ends with the process.
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.write_all(b"y").unwrap();
                open.push(stream);
            }
        });
        Self { path, upstream }
    }

    /// Writes every file but the configuration; what the clients are configured with.
    fn prepare(&self) -> Arc<ClientConfig> {
        // The bench reads the system's clocks, which the times of the tests' PKI do not fit.
        let today = time::OffsetDateTime::now_utc();
        let valid = |params: &mut rcgen::CertificateParams| {
            params.not_before = today - time::Duration::days(1);
            params.not_after = today + time::Duration::days(1);
        };
        let [clients, servers] = ["Clients", "Servers"].map(|name| pki::Ca::root_with(name, valid));
        let mut params = pki::client_with("server", vec![pki::dns("app.example")]);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        valid(&mut params);
        let server = servers.issue(params);
        self.write("server.pem", &pem("CERTIFICATE", &server.certificate));
        self.write("server.key", &server.key.serialize_pem());
        self.write("clients.pem", &pem("CERTIFICATE", &clients.certificate));
        // The client's serial number is not among them.
        let revoked: Vec<u64> = (10..SERIALS + 10).collect();
        let crl = clients.crl_with(&revoked, |params| {
            params.this_update = today - time::Duration::days(1);
            params.next_update = today + time::Duration::days(1);
        });
        self.write("revoked.pem", &pem("X509 CRL", &crl));
        let mut params = pki::client_with("client", vec![pki::dns("client.example")]);
        params.serial_number = pki::serial(1);
        valid(&mut params);
        let client = clients.issue(params);
        let key = PrivateKeyDer::try_from(client.key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(servers.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![client.certificate.clone()], key)
            .unwrap();
        Arc::new(config)
    }

    /// The rule that lets the client in is the last one; another one differs with `which`.
    fn write_config(&self, which: usize) -> PathBuf {
        let mut text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\ncertificate = \"server.pem\"\n\
             key = \"server.key\"\nclient_ca = \"clients.pem\"\ncrl = \"revoked.pem\"\n\
             upstream = \"{}\"\nproxy_protocol = \"off\"\nidle_timeout = \"1h\"\n",
            self.upstream
        );
        for rule in 1..RULES {
            let name = rule + which;
            writeln!(
                text,
                "[[listener.rule]]\nname = \"r{rule}\"\nallow = {{ dns = \"s{name}.example\" }}"
            )
            .unwrap();
        }
        text.push_str("[[listener.rule]]\nname = \"last\"\nallow = { dns = \"client.example\" }\n");
        text.push_str("[shards]\ncount = 1\n");
        self.write("ringgate.toml", &text)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.path.join(name);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
