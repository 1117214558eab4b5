//! Ringgate and the programs that it is compared with, each told to do the same: TLS 1.3 with
//! X25519, AES-128-GCM and two tickets, a certificate required of clients, one worker, everything
//! passed to the same upstream.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use core_affinity::CoreId;

use crate::process::{Server, free_address};

/// Where distributions keep nginx's stream module when it is not built in.
const STREAM_MODULES: [&str; 3] = [
    "/usr/lib/nginx/modules/ngx_stream_module.so",
    "/usr/lib64/nginx/modules/ngx_stream_module.so",
    "/usr/share/nginx/modules/ngx_stream_module.so",
];

/// What all servers work from.
pub struct Setup<'a> {
    /// With the files of `ringgate-loadgen pki`; configurations are written there, too.
    pub folder: &'a Path,
    pub upstream: SocketAddr,
    pub cpu: CoreId,
}

/// What an operator may ask of Ringgate beside its work, all at once: a line for each connection,
/// every limit, checks and an admin interface.
const EVERYTHING: [&str; 2] = [
    r#"
        rate = 1000000
        identity_rate = 1000000
        upstream_max_connections = 100000
        slow_start = "1s"
        health_check = { interval = "1s" }
    "#,
    r#"
        [limits]
        handshakes_per_source = 1024
        [log]
        format = "json"
        access = true
        access_rate = 1000000
    "#,
];

/// Starts Ringgate twice, the second time with everything on, and what to scrape of that.
pub fn start_itself(setup: &Setup<'_>) -> Result<(Vec<Server>, SocketAddr), String> {
    let admin = free_address()?;
    let plain = ringgate(setup, "Ringgate", ["", ""])?;
    let [listener, process] = EVERYTHING;
    let process = format!("{process}\n[admin]\naddress = \"{admin}\"\n");
    let full = ringgate(setup, "Ringgate, everything on", [listener, &process])?;
    Ok((vec![plain, full], admin))
}

/// Starts Ringgate and all others that are installed.
pub fn start(setup: &Setup<'_>) -> Result<Vec<Server>, String> {
    let mut servers = vec![ringgate(setup, "Ringgate", ["", ""])?];
    for (program, other) in [
        (
            "nginx",
            nginx as fn(&Setup<'_>, &Path) -> Result<Server, String>,
        ),
        ("haproxy", haproxy),
        ("hitch", hitch),
        ("stunnel", stunnel),
        ("ghostunnel", ghostunnel),
    ] {
        match find(program) {
            Some(path) => servers.push(other(setup, &path)?),
            None => println!("{program} is not installed"),
        }
    }
    Ok(servers)
}

/// With more lines for its listener, and for the process.
fn ringgate(
    setup: &Setup<'_>,
    name: &str,
    [listener, process]: [&str; 2],
) -> Result<Server, String> {
    let (address, upstream) = (free_address()?, setup.upstream);
    let text = format!(
        r#"
        [shards]
        cpus = [{}]
        [resumption]
        tickets = 2
        [[listener]]
        address = "{address}"
        certificate = "server.pem"
        key = "server.key"
        client_ca = "client-ca.pem"
        upstream = "{upstream}"
        proxy_protocol = "off"
        rule = [{{ name = "everyone", allow = {{ any = true }} }}]
        {listener}
        {process}
        "#,
        setup.cpu.id
    );
    let file = setup.write(&format!("{name}.toml"), &text)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate"));
    command.arg("run").arg("-c").arg(file);
    setup.run(name.to_owned(), &mut command, address)
}

fn nginx(setup: &Setup<'_>, program: &Path) -> Result<Server, String> {
    let (address, upstream) = (free_address()?, setup.upstream);
    let said = said(Command::new(program).arg("-V"));
    let module = STREAM_MODULES.iter().find(|path| Path::new(path).exists());
    let load = match (said.contains("--with-stream "), module) {
        (true, _) => String::new(),
        (false, Some(module)) => format!("load_module {module};"),
        (false, None) => return Err("nginx: its stream module is missing: install it".to_owned()),
    };
    let folder = setup.folder.display();
    let text = format!(
        "{load}
        daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr;
        events {{ worker_connections 8192; }}
        stream {{
            server {{
                listen {address} ssl;
                proxy_pass {upstream};
                ssl_certificate {folder}/server.pem;
                ssl_certificate_key {folder}/server.key;
                ssl_client_certificate {folder}/client-ca.pem;
                ssl_verify_client on;
                ssl_protocols TLSv1.3;
                ssl_ecdh_curve X25519;
                ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
                ssl_session_tickets on;
            }}
        }}"
    );
    let file = setup.write("nginx.conf", &text)?;
    let mut command = Command::new(program);
    command.arg("-e").arg("stderr").arg("-c").arg(file);
    setup.run(named("nginx", &said), &mut command, address)
}

fn haproxy(setup: &Setup<'_>, program: &Path) -> Result<Server, String> {
    let (address, upstream) = (free_address()?, setup.upstream);
    let pem = setup.certificate_and_key()?;
    let text = format!(
        "global
            nbthread 1
            maxconn 8192
        defaults
            mode tcp
            timeout connect 5s
            timeout client 60s
            timeout server 60s
        listen front
            bind {address} ssl crt {} ca-file {} verify required ssl-min-ver TLSv1.3 \
         curves X25519 ciphersuites TLS_AES_128_GCM_SHA256
            server echo {upstream}
        ",
        pem.display(),
        setup.folder.join("client-ca.pem").display(),
    );
    let file = setup.write("haproxy.cfg", &text)?;
    let said = said(Command::new(program).arg("-vv"));
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(file);
    setup.run(named("HAProxy", &said), &mut command, address)
}

fn hitch(setup: &Setup<'_>, program: &Path) -> Result<Server, String> {
    let (address, upstream) = (free_address()?, setup.upstream);
    let pem = setup.certificate_and_key()?;
    // It does not let its workers be root.
    let user = if rustix::process::geteuid().is_root() {
        "user = \"nobody\"\ngroup = \"nogroup\"\n"
    } else {
        ""
    };
    let text = format!(
        "frontend = \"[{}]:{}\"
        backend = \"[{}]:{}\"
        pem-file = \"{}\"
        client-verify = required
        client-verify-ca = \"{}\"
        workers = 1
        daemon = off
        tls-protos = TLSv1.3
        ciphersuites = \"TLS_AES_128_GCM_SHA256\"
        ecdh-curve = \"X25519\"
        {user}",
        address.ip(),
        address.port(),
        upstream.ip(),
        upstream.port(),
        pem.display(),
        setup.folder.join("client-ca.pem").display(),
    );
    let file = setup.write("hitch.conf", &text)?;
    let said = said(Command::new(program).arg("--version"));
    let mut command = Command::new(program);
    command.arg(format!("--config={}", file.display()));
    setup.run(named("hitch", &said), &mut command, address)
}

fn stunnel(setup: &Setup<'_>, program: &Path) -> Result<Server, String> {
    let (address, upstream) = (free_address()?, setup.upstream);
    let folder = setup.folder.display();
    let text = format!(
        "foreground = yes
        pid =
        debug = err
        socket = l:TCP_NODELAY=1
        socket = r:TCP_NODELAY=1
        [front]
        accept = {address}
        connect = {upstream}
        cert = {folder}/server.pem
        key = {folder}/server.key
        CAfile = {folder}/client-ca.pem
        requireCert = yes
        verifyChain = yes
        sslVersion = TLSv1.3
        curves = X25519
        ciphersuites = TLS_AES_128_GCM_SHA256
        "
    );
    let file = setup.write("stunnel.conf", &text)?;
    let said = said(Command::new(program).arg("-version"));
    let mut command = Command::new(program);
    command.arg(file);
    setup.run(named("stunnel", &said), &mut command, address)
}

/// Group and cipher are Go's choice among what the load offers, which is one of each.
fn ghostunnel(setup: &Setup<'_>, program: &Path) -> Result<Server, String> {
    let address = free_address()?;
    let said = said(Command::new(program).arg("--version"));
    let mut command = Command::new(program);
    command
        .env("GOMAXPROCS", "1")
        .args(["server", "--allow-all", "--quiet=all"])
        .arg(format!("--listen={address}"))
        .arg(format!("--target={}", setup.upstream))
        .arg("--keystore")
        .arg(setup.certificate_and_key()?)
        .arg("--cacert")
        .arg(setup.folder.join("client-ca.pem"));
    setup.run(named("ghostunnel", &said), &mut command, address)
}

impl Setup<'_> {
    fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let file = self.folder.join(name);
        // HAProxy wants a last line that ends and has something on it.
        fs::write(&file, text.trim_end().to_owned() + "\n")
            .map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(file)
    }

    /// In one file, as some want it.
    fn certificate_and_key(&self) -> Result<PathBuf, String> {
        let read = |name: &str| {
            let file = self.folder.join(name);
            fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))
        };
        self.write("both.pem", &(read("server.pem")? + &read("server.key")?))
    }

    /// Starts `command` on the servers' CPU and waits until it listens on `address`.
    fn run(
        &self,
        name: String,
        command: &mut Command,
        address: SocketAddr,
    ) -> Result<Server, String> {
        let log = self.folder.join(format!("{name}.log"));
        Server::start(name, command, address, self.cpu, &log)
    }
}

/// Where a program is, in the search path or where Debian keeps those of administrators.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut files = folders.map(|folder| folder.join(name));
    files.find(|file| file.is_file())
}

/// All that a command prints.
fn said(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    output.map_or_else(
        |_| String::new(),
        |output| {
            String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr)
        },
    )
}

/// The server's name with the versions of it and of its library, as far as `said` has them.
fn named(name: &str, said: &str) -> String {
    let version = |text: &str| {
        let start = text.find(|c: char| c.is_ascii_digit())?;
        let rest = &text[start..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        Some(rest[..end.unwrap_or(rest.len())].to_owned())
    };
    let own = version(said).unwrap_or_default();
    // What it was built with comes first, what it runs with last.
    let libraries = said.split("OpenSSL ").skip(1);
    let library = libraries
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        .filter_map(version)
        .last();
    match library {
        Some(library) => format!("{name} {own} (OpenSSL {library})"),
        None => format!("{name} {own}"),
    }
}
