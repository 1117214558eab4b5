//! What benches of a running terminator have in common: CPUs and their accounts,
//! certificates, and the terminator itself.
#![allow(dead_code, reason = "each bench uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use core_affinity::CoreId;
use ringgate::Terminator;
use ringgate::clock::Clock;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::pki::{self, Ca, Key};
use crate::session::{Credential, Offer};

/// As the program has it.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One CPU for the server and one for its load; says so where there are none.
pub fn two_cpus() -> Option<[CoreId; 2]> {
    match core_affinity::get_core_ids().unwrap_or_default()[..] {
        [one, two, ..] => Some([one, two]),
        _ => {
            println!("two CPUs are needed to keep the server apart from its load; nothing is run");
            None
        }
    }
}

/// CPU time of a thread of this process: the first field of schedstat, in nanoseconds.
pub fn cpu_time(thread: i32) -> Duration {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"));
    let text = text.expect("a thread that is there");
    let ns = text.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.expect("nanoseconds"))
}

/// Writes what a terminator in `folder` needs, all keys of the kind `key` and so many CAs between
/// roots and leaves; what its client presents.
pub fn certify(folder: &Path, key: Key, intermediates: usize, offer: Offer) -> Credential {
    let issuer = |name: &str| {
        let root = Ca::root(folder, &format!("{name}-root"), key);
        (0..intermediates).fold(root, |above, at| {
            above.intermediate(&format!("{name}-intermediate-{at}"))
        })
    };
    issuer("server").issue("server", &pki::server());
    let client = issuer("client").issue("client", &pki::client());
    let chain = CertificateDer::pem_file_iter(&client.chain).expect("a chain");
    Credential {
        offer,
        chain: chain.collect::<Result<_, _>>().expect("certificates"),
        key: PrivateKeyDer::from_pem_file(&client.key).expect("a key"),
        server_name: ServerName::try_from(pki::SERVER_NAME).expect("a name"),
    }
}

/// Of a configuration: a listener with what [`certify`] wrote. `settings` are its own.
pub fn listener(upstream: &str, settings: &str) -> String {
    format!(
        r#"
        [[listener]]
        address = "127.0.0.1:0"
        certificate = "server.pem"
        key = "server.key"
        client_ca = "client-root.pem"
        upstream = "{upstream}"
        rule = [{{ name = "everyone", allow = {{ any = true }} }}]
        {settings}
        "#
    )
}

/// A terminator with a shard on each of these CPUs, and for the rest as configured.
pub fn start(folder: &Path, shards: &[CoreId], configuration: &str) -> Terminator {
    let cpus: Vec<usize> = shards.iter().map(|cpu| cpu.id).collect();
    let file = folder.join("ringgate.toml");
    let text = format!("[shards]\ncpus = {cpus:?}\n{configuration}");
    fs::write(&file, text).expect("a folder to write to");
    let terminator = Terminator::start_file(&file, &Clock::system());
    terminator.unwrap_or_else(|error| panic!("{error}"))
}

/// A folder that is removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A folder in this one.
    pub fn below(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).expect("a folder");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
