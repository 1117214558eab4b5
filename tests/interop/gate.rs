//! A running `ringgate` with an upstream behind it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::echo::Echo;
use super::pki::{self, Ca, Identity, Key};
use super::program::{Scratch, Service, free_address};

/// How the certificates of a scenario are made.
#[derive(Clone, Copy, Debug)]
pub struct Chains {
    pub key: Key,
    /// Whether a CA stands between the roots and the leaves.
    pub intermediate: bool,
}

impl Chains {
    pub const P256: Self = Self {
        key: Key::P256,
        intermediate: false,
    };
}

/// The terminator, and all that a client needs to come in.
pub struct Gate {
    pub address: SocketAddr,
    /// The root that clients check the server against.
    pub server_root: PathBuf,
    /// The CA that clients' certificates come from.
    pub client_ca: Ca,
    /// The client whom the policy knows.
    pub client: Identity,
    service: Service,
    scratch: Scratch,
}

impl Gate {
    /// In front of an echo that reads PROXY v2.
    pub fn before_echo(chains: Chains) -> (Self, Echo) {
        let echo = Echo::with_greeting(free_address());
        (Self::before(echo.address, chains), echo)
    }

    /// In front of whatever listens on `upstream` and reads PROXY v2.
    pub fn before(upstream: SocketAddr, chains: Chains) -> Self {
        Self::configured(chains, |address| configuration(address, upstream))
    }

    /// With what `configuration` says of the address that is to be listened on. The files are named
    /// as in [`Gate::before`]'s.
    pub fn configured(chains: Chains, configuration: impl FnOnce(SocketAddr) -> String) -> Self {
        let scratch = Scratch::named("gate");
        let folder = scratch.path();
        let ca = |name: &str| {
            let root = Ca::root(folder, &format!("{name}-root"), chains.key);
            if chains.intermediate {
                root.intermediate(&format!("{name}-intermediate"))
            } else {
                root
            }
        };
        let (server_ca, client_ca) = (ca("server"), ca("client"));
        server_ca.issue("server", &pki::server());
        let client = client_ca.issue("client", &pki::client());
        let address = free_address();
        let config = folder.join("ringgate.toml");
        fs::write(&config, configuration(address)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate"));
        command.arg("run").arg("--config").arg(&config);
        let service = Service::start(&mut command, &folder.join("ringgate.log"), address);
        Self {
            address,
            server_root: server_ca.file,
            client_ca,
            client,
            service,
            scratch,
        }
    }

    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    #[allow(dead_code, reason = "a bench asks for it")]
    pub fn process_id(&self) -> u32 {
        self.service.process_id()
    }

    pub fn log(&self) -> String {
        self.service.log()
    }
}

fn configuration(address: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        r#"
        [shards]
        count = 1

        [limits]
        # Every client comes from one address.
        handshakes_per_source = 2048

        [[listener]]
        address = "{address}"
        certificate = "server.pem"
        key = "server.key"
        client_ca = "client-root.pem"
        upstream = "{upstream}"
        alpn = ["http/1.1", "echo"]
        rule = [
            {{ name = "billing", allow = {{ uri = "spiffe://prod.test/ns/billing/sa/*" }} }},
            {{ name = "retired", deny = {{ cn = "retired" }} }},
        ]
        "#
    )
}
