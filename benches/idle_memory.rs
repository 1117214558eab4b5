//! What an idle connection costs in memory: the growth of the server's anonymous resident memory
//! over connections that were made one after another and then rest.

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
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use ringgate::ring::raise_descriptor_limit;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};

use gate::{Chains, Gate};

const CONNECTIONS: u32 = 4_000;

/// Connections before the first reading, so that what is made once is not counted.
const FIRST: u32 = 50;

/// The memory that mimalloc has purged by then is no longer counted.
const REST: Duration = Duration::from_secs(2);

struct Held {
    _client: (ClientConnection, TcpStream),
    _upstream: TcpStream,
}

fn main() {
    // `cargo bench --no-run` and test runners pass flags of their own; there is nothing to choose.
    let descriptors = raise_descriptor_limit().unwrap_or(u64::MAX);
    let wanted = (descriptors.saturating_sub(100) / 2).min(u64::from(CONNECTIONS + FIRST));
    let wanted = u32::try_from(wanted).unwrap_or(FIRST);
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let gate = Gate::before(upstream.local_addr().unwrap(), Chains::P256);
    let config = client_config(&gate);
    let mut held: Vec<Held> = (0..FIRST)
        .map(|_| hold(&gate, &config, &upstream))
        .collect();
    std::thread::sleep(REST);
    let before = anonymous_kib(gate.process_id());
    held.extend((FIRST..wanted).map(|_| hold(&gate, &config, &upstream)));
    std::thread::sleep(REST);
    let after = anonymous_kib(gate.process_id());
    let count = wanted - FIRST;
    let each = f64::from(after.saturating_sub(before)) / f64::from(count);
    println!(
        "idle memory: {each:.2} KiB for each of {count} connections ({before} -> {after} KiB)"
    );
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

/// A connection through which one byte went and came back.
fn hold(gate: &Gate, config: &Arc<ClientConfig>, upstream: &TcpListener) -> Held {
    let name = ServerName::try_from(pki::SERVER_NAME).unwrap();
    let mut session = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut client = TcpStream::connect(gate.address).unwrap();
    client.set_nodelay(true).unwrap();
    Stream::new(&mut session, &mut client)
        .write_all(b"x")
        .unwrap();
    let (mut behind, _) = upstream.accept().unwrap();
    proxy_v2::Header::read(&mut behind).unwrap();
    let mut byte = [0];
    behind.read_exact(&mut byte).unwrap();
    behind.write_all(&byte).unwrap();
    Stream::new(&mut session, &mut client)
        .read_exact(&mut byte)
        .unwrap();
    assert_eq!(&byte, b"x");
    Held {
        _client: (session, client),
        _upstream: behind,
    }
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
