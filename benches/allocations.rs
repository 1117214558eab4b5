//! Heap allocations of the data path, after warm-up: what rustls makes for a handshake by itself,
//! what a handshake makes here, and what relaying makes, which must be nothing.
//!
//! rustls by itself has a verifier and tickets that do next to nothing. Both believe the client's
//! chain without looking at it: here the verdict on it is remembered. What aws-lc allocates, which is
//! C, is not in it.

#[path = "common/believe.rs"]
mod believe;
#[path = "common/meter.rs"]
mod meter;
#[path = "../tests/common/pki.rs"]
mod pki;
#[path = "common/relayed.rs"]
mod relayed;
#[path = "common/site.rs"]
mod site;

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs as provider};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ProducesTickets, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    version,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use self::meter::Meter;
use self::pki::Ca;
use self::relayed::Relayed;
use self::site::{Group, Key, Site, Way, connection, give_input, take_output};

/// Handshakes that are counted; each makes as many as the others.
const TIMES: u64 = 10;

/// Counts allocations of this thread; one that grows counts again.
#[derive(Default)]
struct Counter {
    allocations: u64,
    bytes: u64,
}

impl Meter for Counter {
    fn run<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let mut result = None;
        let info = allocation_counter::measure(|| result = Some(work()));
        self.allocations += info.count_total;
        self.bytes += info.bytes_total;
        result.expect("it was run")
    }
}

fn main() {
    println!("{:<36} {:>12} {:>12}", "heap", "allocations", "bytes");
    for (name, way) in [("full", Way::Cached), ("resumed", Way::Resumed)] {
        print(&format!("handshake, {name}: rustls"), &by_rustls(way));
        print(&format!("handshake, {name}: here"), &here(way));
    }
    print("relay, 1 KiB both ways", &relaying());
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn print(name: &str, counter: &Counter) {
    let each = |count: u64| count as f64 / TIMES as f64;
    let Counter { allocations, bytes } = *counter;
    println!(
        "{name:<36} {:>12.1} {:>12.0}",
        each(allocations),
        each(bytes)
    );
}

fn here(way: Way) -> Counter {
    let mut site = Site::new(Key::P256, Group::X25519, false);
    site.warm_up(&mut Counter::default());
    site.handshake(way, &mut Counter::default());
    let mut counter = Counter::default();
    (0..TIMES).for_each(|_| drop(site.handshake(way, &mut counter)));
    counter
}

fn relaying() -> Counter {
    let mut relayed = Relayed::new(&Site::new(Key::P256, Group::X25519, false));
    let mut turn = |counter: &mut Counter| {
        let (mut records, mut reply) = relayed.prepare(10, 1 << 10);
        relayed.round_trips(&mut records, &mut reply, counter);
    };
    turn(&mut Counter::default());
    let mut counter = Counter::default();
    turn(&mut counter);
    counter
}

fn by_rustls(way: Way) -> Counter {
    let clients = Site::new(Key::P256, Group::X25519, false).client_configs();
    let client = &clients[usize::from(way == Way::Resumed)];
    let server = Arc::new(server());
    let (mut uncounted, mut counter) = (Counter::default(), Counter::default());
    for _ in 0..3 {
        shake_hands(&server, client, &mut uncounted);
    }
    for _ in 0..TIMES {
        shake_hands(&server, client, &mut counter);
    }
    counter
}

fn server() -> ServerConfig {
    let servers = Ca::root("Servers");
    let leaf = rcgen::KeyPair::generate().expect("a key");
    let params = pki::client_with("server", vec![pki::dns("server.test")]);
    let chain = vec![servers.certify(&params, &leaf)];
    let leaf = PrivateKeyDer::try_from(leaf.serialize_der()).expect("a key");
    let crypto = CryptoProvider {
        cipher_suites: vec![provider::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![provider::kx_group::X25519],
        ..provider::default_provider()
    };
    let verifier = LetAllIn(crypto.signature_verification_algorithms);
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto))
        .with_protocol_versions(&[&version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, leaf)
        .expect("a key that fits its certificate");
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Arc::new(Plain);
    config.send_tls13_tickets = 1;
    config
}

fn shake_hands(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>, counter: &mut Counter) {
    let mut client = connection(client);
    let mut hello = take_output(&mut client);
    let mut out = vec![0; 1 << 14];
    let (mut server, len) = counter.run(|| {
        let mut server = UnbufferedServerConnection::new(Arc::clone(server)).expect("a server");
        let len = drive(&mut server, &mut hello, &mut out);
        (server, len)
    });
    give_input(&mut client, &out[..len]);
    let mut flight = take_output(&mut client);
    let len = counter.run(|| drive(&mut server, &mut flight, &mut out));
    assert!(!server.is_handshaking());
    give_input(&mut client, &out[..len]);
}

/// Lets rustls work on `bytes` until it needs more; how many it has written to `out`.
fn drive(server: &mut UnbufferedServerConnection, bytes: &mut [u8], out: &mut [u8]) -> usize {
    let (mut read, mut written) = (0, 0);
    loop {
        let UnbufferedStatus { discard, state } = server.process_tls_records(&mut bytes[read..]);
        read += discard;
        match state.expect("a client that plays along") {
            ConnectionState::EncodeTlsData(mut data) => {
                written += data.encode(&mut out[written..]).expect("room");
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => {
                return written;
            }
            other => panic!("a handshake does not come to {other:?}"),
        }
    }
}

/// Checks that a client holds its key, and nothing else.
#[derive(Debug)]
struct LetAllIn(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for LetAllIn {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Tickets that are not sealed at all: one allocation each way.
#[derive(Debug)]
struct Plain;

impl ProducesTickets for Plain {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        3600
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        Some(plain.to_vec())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        Some(cipher.to_vec())
    }
}
