//! `ringgate run` as a user runs it: what it logs, and how it ends.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::PrivateKeyDer;
use time::OffsetDateTime;

use crate::front_with;
use crate::pki::{Leaf, client_with, uri};
use crate::scratch::Scratch;

/// How long a program may take to do what is waited for.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A running program; killed when dropped.
pub struct Running {
    pub child: Child,
    log: BufReader<ChildStderr>,
    /// What it said of where its shards run.
    layout: String,
    /// What it said that it gave up.
    pub confinement: String,
    pub address: SocketAddr,
}

impl Running {
    /// On a free port, one shard, JSON lines, one rule that lets `spiffe://x/in` in.
    pub fn start(scratch: &Scratch, upstream: &str, more: &str) -> Self {
        Self::start_with(
            scratch,
            upstream,
            &format!("{more}\n[shards]\ncount = 1\n"),
            &[],
        )
    }

    /// The same, where `more` or the arguments say where shards run.
    pub fn start_with(scratch: &Scratch, upstream: &str, more: &str, arguments: &[&str]) -> Self {
        let text = front_with("address", "address = \"127.0.0.1:0\"")
            .replace("127.0.0.1:8080", upstream)
            .replace("{ any = true }", "{ uri = \"spiffe://x/in\" }")
            + more
            + "\n[limits]\nconnections = 64\n[log]\nformat = \"json\"\n";
        scratch.write("ringgate.toml", text);
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate"));
        command
            .args(["run", "-c", scratch.path("ringgate.toml").to_str().unwrap()])
            .args(arguments);
        Self::of(command)
    }

    /// What `command` starts, as soon as it listens.
    pub fn of(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let address = "0.0.0.0:0".parse().unwrap();
        let mut running = Self {
            child,
            log,
            layout: String::new(),
            confinement: String::new(),
            address,
        };
        running.layout = running.line_with("layout: ");
        running.confinement = running.line_with("confinement: ");
        let line = running.line_with("listening");
        running.address = field(&line, "address").parse().unwrap();
        running
    }

    /// Reads the log up to a line with `part`.
    #[track_caller]
    pub fn line_with(&mut self, part: &str) -> String {
        let mut seen = String::new();
        loop {
            let before = seen.len();
            let len = self.log.read_line(&mut seen).unwrap();
            assert!(len > 0, "the log ended without `{part}`:\n{seen}");
            if seen[before..].contains(part) {
                return seen.split_off(before);
            }
        }
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    pub fn ended(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// A client that has sent a byte and may or may not have been let in.
    pub fn connect(&self, scratch: &Scratch, client: Option<&Leaf>) -> Stream {
        Self::greet(scratch, TcpStream::connect(self.address).unwrap(), client)
    }

    /// The same, over a connection that is there already.
    pub fn greet(scratch: &Scratch, socket: TcpStream, client: Option<&Leaf>) -> Stream {
        let mut roots = RootCertStore::empty();
        roots.add(scratch.ca.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            Some(leaf) => {
                let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
                config
                    .with_client_auth_cert(vec![leaf.certificate.clone()], key)
                    .unwrap()
            }
            None => config.with_no_client_auth(),
        };
        let name = ServerName::try_from("server.example").unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = StreamOwned::new(tls, socket);
        // A client's write may race with the refusal.
        let _ = stream.write_all(b"x");
        stream
    }
}

/// What comes of a command that ends by itself; it is ended where it does not in time.
#[track_caller]
pub fn outcome(command: &mut Command) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let id = child.id().to_string();
    let (sender, receiver) = channel();
    let waits = thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(LIMIT) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            // Nobody else has that id: whoever waits for it has not been told of its end.
            let _ = Command::new("kill").args(["-s", "KILL", &id]).status();
            let _ = waits.join();
            panic!("{command:?} has not ended within {LIMIT:?}");
        }
    }
}

pub type Stream = StreamOwned<ClientConnection, TcpStream>;

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The string value of a field of a JSON line.
pub fn field<'l>(line: &'l str, name: &str) -> &'l str {
    let start = format!("\"{name}\":\"");
    let at = line
        .find(&start)
        .unwrap_or_else(|| panic!("no {name} in {line}"))
        + start.len();
    &line[at..at + line[at..].find('"').unwrap()]
}

/// Valid by the real clock, which the program goes by.
pub fn scratch() -> Scratch {
    let scratch = Scratch::new();
    scratch.write_leaf("server", &scratch.server(valid_now));
    scratch
}

fn valid_now(params: &mut rcgen::CertificateParams) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - std::time::Duration::from_secs(3600);
    params.not_after = now + std::time::Duration::from_secs(3600);
}

pub fn client(scratch: &Scratch, id: &str) -> Leaf {
    let mut params = client_with("a client", vec![uri(id)]);
    valid_now(&mut params);
    scratch.ca.issue(params)
}

#[test]
fn refused_clients_are_one_line_each() {
    let (scratch, upstream) = (scratch(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = upstream.local_addr().unwrap().to_string();
    let mut running = Running::start(&scratch, &address, "");
    let mut stream = running.connect(&scratch, None);
    assert!(stream.read(&mut [0]).is_err());
    let line = running.line_with("client refused");
    assert_eq!(field(&line, "reason"), "certificate_missing");
    assert_eq!(
        field(&line, "peer"),
        stream.sock.local_addr().unwrap().to_string()
    );

    let mut stream = running.connect(&scratch, Some(&client(&scratch, "spiffe://x/out")));
    assert!(stream.read(&mut [0]).is_err());
    let line = running.line_with("client refused");
    for (name, value) in [
        ("reason", "policy_unmatched"),
        ("level", "WARN"),
        ("listener", "127.0.0.1:0"),
        ("subject", "CN=a client"),
        ("sans", "URI:spiffe://x/out"),
        ("issuer", "CN=clients' CA"),
        ("server_name", "server.example"),
    ] {
        assert_eq!(field(&line, name), value);
    }
    assert!(!field(&line, "serial").is_empty());
    upstream.set_nonblocking(true).unwrap();
    let accepted = upstream.accept();
    assert!(accepted.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
}

#[test]
fn the_first_sigterm_drains_and_the_second_ends_at_once() {
    let (scratch, upstream) = (scratch(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = upstream.local_addr().unwrap().to_string();
    let off = "proxy_protocol = \"off\"\n[drain]\ntimeout = \"1h\"";
    let mut running = Running::start(&scratch, &address, off);
    let mut stream = running.connect(&scratch, Some(&client(&scratch, "spiffe://x/in")));
    let (mut served, _) = upstream.accept().unwrap();
    served.read_exact(&mut [0]).unwrap();

    running.signal("HUP");
    running.line_with("reloaded, nothing changed");
    running.signal("TERM");
    running.line_with("draining");
    // What is open goes on.
    served.write_all(b"y").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    running.signal("TERM");
    running.line_with("ending at once");
    assert_eq!(running.ended().code(), Some(0));
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn a_drain_ends_with_the_last_connection() {
    let (scratch, upstream) = (scratch(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = upstream.local_addr().unwrap().to_string();
    let off = "proxy_protocol = \"off\"\n[drain]\ntimeout = \"1h\"";
    let mut running = Running::start(&scratch, &address, off);
    let mut stream = running.connect(&scratch, Some(&client(&scratch, "spiffe://x/in")));
    let (served, _) = upstream.accept().unwrap();
    running.signal("INT");
    running.line_with("draining");
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    drop((stream, served));
    assert_eq!(running.ended().code(), Some(0));
}

#[test]
fn shards_and_control_plane_live_where_the_layout_says() {
    let (scratch, upstream) = (scratch(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = upstream.local_addr().unwrap().to_string();
    let cpus = core_affinity::get_core_ids().unwrap();
    let (first, last) = (cpus[0].id, cpus[cpus.len() - 1].id);
    let layout = format!(
        "version = 1\n[host]\nonline = \"0-9999\"\ncores = 1\nnodes = 1\n[shards]\n\
         list = [{{ cpu = {first} }}]\nhousekeeping = \"{last}\"\nsteering = \"cpu\"\n"
    );
    scratch.write("layout.toml", layout);
    let file = scratch.path("layout.toml");
    let arguments = ["--layout", file.to_str().unwrap()];
    let off = "proxy_protocol = \"off\"";
    let mut running = Running::start_with(&scratch, &address, off, &arguments);
    let said = format!(
        "1 shard on CPUs {first}, by {}; housekeeping on CPUs {last}; connections by the CPU that takes them; memory local",
        file.display()
    );
    assert!(running.layout.contains(&said), "{}", running.layout);

    let threads = std::fs::read_dir(format!("/proc/{}/task", running.child.id())).unwrap();
    let mut shards = 0;
    for thread in threads {
        let folder = thread.unwrap().path();
        let name = std::fs::read_to_string(folder.join("comm")).unwrap();
        let status = std::fs::read_to_string(folder.join("status")).unwrap();
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
        let wanted = match name.trim() {
            "shard-0" => {
                shards += 1;
                first
            }
            // The kernel's own, for one ring or the other.
            kernel if kernel.starts_with("iou-") => continue,
            _ => last,
        };
        assert_eq!(allowed, Some(wanted.to_string().as_str()), "{name}");
    }
    assert_eq!(shards, 1);

    let stream = running.connect(&scratch, Some(&client(&scratch, "spiffe://x/in")));
    drop((upstream.accept().unwrap(), stream));
    running.signal("TERM");
    let spread = running.line_with("connections by shard");
    assert_eq!(field(&spread, "accepted"), "1");
    assert!(spread.contains("\"skew\":1.0"), "{spread}");
}

#[test]
fn a_layout_that_names_a_cpu_that_is_not_here_keeps_it_from_starting() {
    let scratch = scratch();
    scratch.write(
        "ringgate.toml",
        front_with("address", "address = \"127.0.0.1:0\""),
    );
    let text = "version = 1\n[host]\nonline = \"0-1\"\ncores = 1\nnodes = 1\n[shards]\n\
                list = [{ cpu = 4000 }]\n";
    scratch.write("layout.toml", text);
    let output = outcome(
        Command::new(env!("CARGO_BIN_EXE_ringgate"))
            .args(["run", "-c", scratch.path("ringgate.toml").to_str().unwrap()])
            .args(["--layout", scratch.path("layout.toml").to_str().unwrap()]),
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("shards: CPUs 4000 are not among"), "{said}");
}

#[test]
fn upstreams_are_looked_after() {
    let scratch = scratch();
    let nobody = TcpListener::bind("127.77.0.3:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let check = "[listener.health_check]\ninterval = \"100ms\"\n";
    let mut running = Running::start(&scratch, &address, check);
    let line = running.line_with("upstream is unwell");
    assert!(
        line.contains(&address) && line.contains("takes no connections"),
        "{line}"
    );
    running.line_with("every upstream of this route is unwell");
}

#[test]
fn an_upstream_that_is_left_out_is_told_and_so_is_that_it_is_back() {
    let (scratch, alive) = (scratch(), TcpListener::bind("127.0.0.1:0").unwrap());
    let nobody = TcpListener::bind("127.77.0.4:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let more = format!(
        "proxy_protocol = \"off\"\neject_for = \"100ms\"\n[[listener.route]]\n\
         server_names = [\"server.example\"]\nupstream = [\"{address}\", \"{}\"]\n",
        alive.local_addr().unwrap()
    );
    let mut running = Running::start(&scratch, "127.0.0.1:9", &more);
    let client = client(&scratch, "spiffe://x/in");
    // Each other one goes to nobody first; three are needed.
    for _ in 0..8 {
        let stream = running.connect(&scratch, Some(&client));
        drop((alive.accept().unwrap(), stream));
    }
    let line = running.line_with("it is left out");
    assert_eq!(field(&line, "upstream"), address.to_string());
    assert_eq!(field(&line, "level"), "WARN");
    let back = TcpListener::bind(address).unwrap();
    back.set_nonblocking(true).unwrap();
    let until = Instant::now() + LIMIT;
    while back.accept().is_err() {
        assert!(Instant::now() < until, "nobody asks it within {LIMIT:?}");
        drop(running.connect(&scratch, Some(&client)));
    }
    let line = running.line_with("no shard leaves the upstream out any more");
    assert_eq!(field(&line, "upstream"), address.to_string());
    assert_eq!(field(&line, "level"), "INFO");
}

#[test]
fn a_name_that_leads_nowhere_keeps_it_from_starting() {
    let scratch = scratch();
    scratch.write(
        "ringgate.toml",
        front_with("upstream", "upstream = \"nothing.invalid:80\""),
    );
    let file = scratch.path("ringgate.toml");
    let said = |command: &str| {
        let output = outcome(Command::new(env!("CARGO_BIN_EXE_ringgate")).args([
            command,
            "-c",
            file.to_str().unwrap(),
        ]));
        (
            output.status.success(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (started, text) = said("run");
    assert!(!started, "{text}");
    for part in [
        "ringgate.toml:2",
        "\"nothing.invalid:80\" cannot be looked up",
        "getent",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (sound, text) = said("check");
    assert!(sound, "a check asks nobody: {text}");
}

#[test]
fn an_address_in_use_names_it() {
    let (scratch, taken) = (scratch(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = taken.local_addr().unwrap();
    let line = format!("address = \"{address}\"");
    scratch.write("ringgate.toml", front_with("address", &line));
    let output = outcome(Command::new(env!("CARGO_BIN_EXE_ringgate")).args([
        "run",
        "-c",
        scratch.path("ringgate.toml").to_str().unwrap(),
    ]));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(&format!("cannot listen on {address}")),
        "{said}"
    );
}

#[test]
fn a_small_locked_memory_limit_names_the_remedy() {
    let scratch = scratch();
    let output = outcome(
        Command::new("sh")
            .args([
                "-c",
                "ulimit -l 64 && exec \"$0\" run -c \"$1\"",
                env!("CARGO_BIN_EXE_ringgate"),
            ])
            .arg(scratch.path("ringgate.toml")),
    );
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("may lock 65536 bytes") && said.contains("LimitMEMLOCK"),
        "{said}"
    );
}
