//! Small TLS servers, a thread per connection.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringgate_loadgen::pki::Pki;
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// What a server does with its connections.
#[derive(Clone, Copy, Debug)]
pub enum Behaviour {
    /// Shakes hands and answers nothing.
    Deaf,
    /// Resumes sessions, of TLS 1.2 too.
    Echo,
    /// Echoes once and closes TCP.
    EndAfterEcho,
    EchoAfter(Duration),
    /// As `Echo`, for whoever comes: it asks for no certificate.
    EchoToAnyone,
    /// As `Echo`, and forgets every session.
    Forgetful,
    /// Shakes hands with whoever comes, reads, and takes its leave without a word.
    Goodbye,
    /// Shakes hands and closes TCP.
    HangUp,
    /// Closes TCP as soon as it is there.
    Impatient,
    /// As `Echo`, and gives no session tickets.
    NoTickets,
    /// Accepts and never speaks.
    Silent,
    WrongEcho,
}

pub struct Server {
    address: SocketAddr,
    peers: Arc<Mutex<BTreeSet<String>>>,
    resets: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub fn start(pki: &Pki, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (config, stopped) = (config(pki, behaviour), stop.clone());
        let peers: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let seen = peers.clone();
        let resets: Arc<AtomicU64> = Arc::default();
        let counted = resets.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let (stream, config) = (stream.unwrap(), config.clone());
                if let Ok(peer) = stream.peer_addr() {
                    seen.lock().unwrap().insert(peer.ip().to_string());
                }
                let resets = counted.clone();
                std::thread::spawn(move || {
                    let served = serve(stream, config, behaviour);
                    if served.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset) {
                        resets.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self {
            address,
            peers,
            resets,
            stop,
        }
    }

    /// Connections that ended with a reset from the client.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }

    /// Addresses that connected.
    pub fn peers(&self) -> BTreeSet<String> {
        self.peers.lock().unwrap().clone()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

fn config(pki: &Pki, behaviour: Behaviour) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(pki.client_ca.clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .with_crls(pki.client_crls.clone())
        .build();
    let verifier = match behaviour {
        Behaviour::EchoToAnyone | Behaviour::Goodbye => WebPkiClientVerifier::no_client_auth(),
        _ => verifier.unwrap(),
    };
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(pki.server.chain.clone(), pki.server.key.clone_key());
    let mut config = config.unwrap();
    match behaviour {
        // Tickets are kept in the server's memory, or not at all.
        Behaviour::Forgetful => config.session_storage = Arc::new(Forgets),
        Behaviour::NoTickets => config.send_tls13_tickets = 0,
        _ => config.session_storage = ServerSessionMemoryCache::new(4096),
    }
    Arc::new(config)
}

/// Hands out tickets and knows none of them later.
#[derive(Debug)]
struct Forgets;

impl StoresServerSessions for Forgets {
    fn put(&self, _key: Vec<u8>, _value: Vec<u8>) -> bool {
        true
    }

    fn get(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn can_cache(&self) -> bool {
        true
    }
}

fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    behaviour: Behaviour,
) -> std::io::Result<()> {
    let limit = Some(Duration::from_secs(20));
    stream.set_read_timeout(limit)?;
    stream.set_nodelay(true)?;
    let mut raw = stream.try_clone()?;
    if let Behaviour::Impatient = behaviour {
        return Ok(());
    }
    if let Behaviour::Silent = behaviour {
        while raw.read(&mut [0; 1024])? > 0 {}
        return Ok(());
    }
    let session = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut tls = StreamOwned::new(session, stream);
    while tls.conn.is_handshaking() {
        if tls.conn.complete_io(&mut tls.sock).is_err() {
            // The alert went out; what the client sent behind its Finished must be read, or the
            // close becomes a reset.
            while raw.read(&mut [0; 1024])? > 0 {}
            return Ok(());
        }
    }
    let mut buffer = vec![0; 1 << 16];
    loop {
        let len = match behaviour {
            Behaviour::HangUp => return Ok(()),
            _ => tls.read(&mut buffer)?,
        };
        match behaviour {
            Behaviour::Goodbye => {
                tls.conn.send_close_notify();
                tls.conn.complete_io(&mut tls.sock)?;
                return Ok(());
            }
            _ if len == 0 => {
                tls.conn.send_close_notify();
                return tls.conn.complete_io(&mut tls.sock).map(drop);
            }
            Behaviour::Deaf => continue,
            Behaviour::EchoAfter(pause) => std::thread::sleep(pause),
            Behaviour::WrongEcho => buffer[0] ^= 1,
            Behaviour::Echo
            | Behaviour::EchoToAnyone
            | Behaviour::EndAfterEcho
            | Behaviour::Impatient
            | Behaviour::Forgetful
            | Behaviour::HangUp
            | Behaviour::NoTickets
            | Behaviour::Silent => {}
        }
        tls.write_all(&buffer[..len])?;
        tls.flush()?;
        if let Behaviour::EndAfterEcho = behaviour {
            return Ok(());
        }
    }
}
