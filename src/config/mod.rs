//! TOML -> [`Config`], valid by construction: whoever holds one need not check it again.
//!
//! The text is walked by hand, so that every error is found in one go, each with its file, line,
//! key, value and remedy. Nothing here reads the files that the configuration names; that is
//! [`crate::snapshot`].

mod admin;
mod confinement;
mod document;
mod error;
mod format;
mod listener;
mod network;
mod overload;
mod process;
mod route;
mod rule;
mod upstream;

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::limits::CONFIG_BYTES_MAX;
use crate::trust::Policy;
use crate::trust::domain::RevocationPolicy;
use crate::trust::name::NamePattern;
use crate::trust::spiffe::TrustDomainName;

pub use admin::AdminOptions;
pub use confinement::{ConfinementOptions, ProcessOptions};
pub use error::{ConfigError, Place, render};
pub use format::{show_duration, show_size};
pub use network::Network;
pub use overload::{HalfOpenLimits, RateLimit};
pub use upstream::{Ejection, HealthCheck, HostPort, HttpCheck, UpstreamTreatment};

/// A configuration whose every value is of the right form and within its range.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    pub file: Arc<Path>,
    /// At least one; names and addresses are distinct.
    pub listeners: Vec<ListenerConfig>,
    pub shards: ShardPlan,
    pub limits: LimitOptions,
    pub drain: DrainOptions,
    pub log: LogOptions,
    pub resumption: ResumptionOptions,
    pub verdict_cache: VerdictCacheOptions,
    pub live_revocation: LiveRevocation,
    pub reload: ReloadOptions,
    pub admin: AdminOptions,
    pub process: ProcessOptions,
    pub confinement: ConfinementOptions,
    /// Every file that is named anywhere above.
    pub files: FileReferences,
}

/// One listener: where it listens and what it does with whom.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenerConfig {
    pub place: Place,
    pub name: Arc<str>,
    /// At least one.
    pub addresses: Vec<SocketAddr>,
    /// At least one; no two have a server name in common. The default one, if any, is the last.
    pub routes: Vec<RouteConfig>,
    pub alpn: Vec<Vec<u8>>,
    pub min_version: MinVersion,
    pub greeting: Greeting,
    /// Where connections come from that begin with a PROXY header.
    pub accept_proxy: Vec<NetworkSetting>,
    pub timeouts: Timeouts,
    pub tenure: Tenure,
    /// Of new connections.
    pub rate: Option<RateLimit>,
}

/// Where the clients that ask for certain names go, with the listener's settings filled in.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RouteConfig {
    pub place: Place,
    pub name: Arc<str>,
    /// Empty for the default route.
    pub server_names: Vec<NamePattern>,
    /// At least one, in order of preference.
    pub certificates: Vec<CertificateFiles>,
    /// At least one, where there are no `bundles`.
    pub client_ca: Vec<FileSetting>,
    /// SPIFFE trust domains that vouch for their own clients; at least one, where there is no
    /// `client_ca`.
    pub bundles: Vec<BundleFiles>,
    /// Empty: revocation is not checked.
    pub crls: Vec<FileSetting>,
    pub unknown_revocation: RevocationPolicy,
    pub expired_crl: RevocationPolicy,
    /// At least one rule allows somebody.
    pub policy: Policy,
    /// At least one.
    pub upstreams: Vec<UpstreamSetting>,
    pub balance: Balance,
    pub treatment: UpstreamTreatment,
    /// Of the connections of each client that is let in.
    pub identity_rate: Option<RateLimit>,
}

/// A path that the configuration names, and where it does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileSetting {
    pub path: PathBuf,
    pub place: Place,
}

/// An IP network, and where the configuration names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetworkSetting {
    pub network: Network,
    pub place: Place,
}

/// A certificate chain, leaf first, and the key of its leaf.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFiles {
    pub certificate: FileSetting,
    pub key: FileSetting,
}

/// The authorities of a SPIFFE trust domain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BundleFiles {
    pub trust_domain: TrustDomainName,
    /// At least one.
    pub files: Vec<FileSetting>,
}

/// The files that a configuration names.
#[derive(Clone, Debug, Default)]
pub struct FileReferences {
    pub certificates: Vec<CertificateFiles>,
    pub client_ca: Vec<FileSetting>,
    pub bundles: Vec<BundleFiles>,
    pub crls: Vec<FileSetting>,
    pub steks: Vec<FileSetting>,
}

impl FileReferences {
    /// The paths of all files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.settings().map(|file| file.path.as_path())
    }

    /// All files, each with where it is named.
    pub fn settings(&self) -> impl Iterator<Item = &FileSetting> {
        let pairs = self.certificates.iter();
        let pairs = pairs.flat_map(|pair| [&pair.certificate, &pair.key]);
        let bundles = self.bundles.iter().flat_map(|bundle| &bundle.files);
        let others = [&self.client_ca, &self.crls, &self.steks];
        pairs.chain(bundles).chain(others.into_iter().flatten())
    }
}

/// Where an upstream listens.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum UpstreamAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// An upstream, or a name that leads to some.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum UpstreamSetting {
    Address(UpstreamAddress),
    Name(HostPort),
}

impl std::fmt::Display for UpstreamSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// How connections spread over several upstreams.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Balance {
    LeastConnections,
    #[default]
    RoundRobin,
}

/// The oldest TLS version that a listener speaks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MinVersion {
    Tls12,
    #[default]
    Tls13,
}

/// What an upstream is told before the client's bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Greeting {
    Off,
    /// A PROXY protocol v2 header, with the client's certificate in it on request.
    ProxyV2 {
        client_certificate: bool,
    },
}

/// How long a connection may take for what.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// From accept to the end of the handshake, whatever the client sends meanwhile.
    pub handshake: Duration,
    /// Without a byte in either direction.
    pub idle: Duration,
    /// For each upstream that is tried.
    pub connect: Duration,
    /// For the other direction, once one has ended.
    pub half_close: Duration,
}

/// How long a client that was let in may stay.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tenure {
    /// Until the first certificate of its chain expires.
    pub until_expiry: bool,
    /// For this long from accept, give or take a tenth, so that connections which came together do
    /// not end together.
    pub max_age: Option<Duration>,
}

/// What becomes of open connections whose client a reload no longer lets in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LiveRevocation {
    /// They are ended.
    #[default]
    Close,
    /// They go on; it is told which would be ended.
    DryRun,
    /// They go on, and nobody looks.
    Off,
}

impl std::fmt::Display for LiveRevocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Close => "close",
            Self::DryRun => "dry_run",
            Self::Off => "off",
        })
    }
}

/// How many shards there are, and where.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum ShardPlan {
    /// So many, where a layout planned for this host has its first ones.
    Count(usize),
    /// One on each of these.
    Cpus(Vec<usize>),
    /// As a layout says, given or planned for this host.
    #[default]
    Planned,
}

/// Bounds of one shard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LimitOptions {
    pub connections: usize,
    pub handshakes: usize,
    pub half_open: HalfOpenLimits,
    /// Bytes of blocks for what is being relayed.
    pub buffer_bytes: u64,
}

/// How clients come back without a full handshake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ResumptionOptions {
    /// The file of the secret that ticket keys come from; without one a random secret lives as long
    /// as the process.
    pub stek: Option<FileSetting>,
    /// How often ticket keys change.
    pub rotation: Duration,
    /// How long after a full handshake a client may resume.
    pub cap: Duration,
    /// Tickets after each handshake; 0 turns resumption off.
    pub tickets: usize,
}

/// What a shard remembers of chains that it has checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VerdictCacheOptions {
    /// 0 turns it off.
    pub entries: usize,
    /// How long a verdict stands at most.
    pub ttl: Duration,
}

/// How a running process takes up what has changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReloadOptions {
    /// Whether files are watched, so that no signal is needed.
    pub watch: bool,
}

/// How the process ends once it is told to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DrainOptions {
    /// How long it says that it is not ready before it ceases to accept: whoever sends clients is to
    /// find out meanwhile.
    pub notice: Duration,
    /// How long open connections may go on from then on.
    pub timeout: Duration,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogOptions {
    pub format: LogFormat,
    pub level: LogLevel,
    /// Whether connections that end well get a line, too.
    pub access: bool,
    /// Lines of those a second at most; the rest is counted.
    pub access_rate: usize,
    /// Lines of refusals and failures a second at most; the rest is counted.
    pub refusal_rate: usize,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    #[default]
    Human,
    Json,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogLevel {
    Debug,
    Error,
    #[default]
    Info,
    Trace,
    Warn,
}

impl LogLevel {
    /// Every level, the quietest first.
    pub const ALL: [Self; 5] = [
        Self::Error,
        Self::Warn,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];

    /// As the configuration names it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Error => "error",
            Self::Info => "info",
            Self::Trace => "trace",
            Self::Warn => "warn",
        }
    }
}

/// A configuration that was not accepted.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// At least one.
    pub errors: Vec<ConfigError>,
    /// What the configuration names all the same, so that it can be checked in one go with it.
    pub files: Box<FileReferences>,
}

impl Config {
    /// Reads and checks `file`.
    pub fn load(file: &Path) -> Result<Self, Rejected> {
        let place = Place::whole(&Arc::from(file));
        let text = read(file).map_err(|(problem, remedy)| Rejected {
            errors: vec![place.error(problem, remedy)],
            files: Box::default(),
        })?;
        Self::parse(&text, file)
    }

    /// Checks `text`, which stands in `file`: relative paths start at its directory.
    pub fn parse(text: &str, file: &Path) -> Result<Self, Rejected> {
        let file: Arc<Path> = Arc::from(file);
        let directory = file.parent().unwrap_or_else(|| Path::new(""));
        let document = document::Document::new(&file, directory, text);
        let config = document.parse().and_then(|root| {
            let root = document::Table::root(&document, root.get_ref());
            process::config(&file, root)
        });
        match (config, document.into_errors()) {
            (Some(config), (errors, files)) if errors.is_empty() => Ok(Self { files, ..config }),
            (_, (errors, files)) => Err(Rejected {
                errors,
                files: Box::new(files),
            }),
        }
    }
}

/// The admin socket that `file` names, whatever else is wrong with it: a process that runs may have to
/// be asked just then.
pub fn admin_socket(file: &Path) -> Option<PathBuf> {
    let text = read(file).ok()?;
    let shared: Arc<Path> = Arc::from(file);
    let directory = file.parent().unwrap_or_else(|| Path::new(""));
    let document = document::Document::new(&shared, directory, &text);
    // Of a text that is no TOML, what could be read.
    let root = document.parse_leniently();
    let root = document::Table::root(&document, root.get_ref());
    let admin = root.entry("admin")?.table("a section [admin]")?;
    admin::admin(Some(&admin)).socket
}

impl std::fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The text of a configuration file, or what is wrong with it and the remedy.
fn read(file: &Path) -> Result<String, (String, String)> {
    let refused = |error: std::io::Error| {
        let remedy = "name a file that exists and that this user may read: ringgate check -c FILE";
        (format!("cannot be read: {error}"), remedy.to_owned())
    };
    if std::fs::metadata(file).map_err(refused)?.is_dir() {
        let remedy = "name the file itself: ringgate check -c FILE";
        return Err(("is a directory".to_owned(), remedy.to_owned()));
    }
    let mut bytes = Vec::new();
    let mut reader = std::fs::File::open(file)
        .map_err(refused)?
        .take(CONFIG_BYTES_MAX + 1);
    reader.read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        let problem = format!("is larger than {}", format::show_size(CONFIG_BYTES_MAX));
        return Err((problem, "name a configuration file".to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..at]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        let problem = format!("is not UTF-8: the first bad byte is in line {line}");
        (problem, "TOML is UTF-8 text: correct that line".to_owned())
    })
}
