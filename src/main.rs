//! The `ringgate` program: reads arguments, starts the parts, reports how it ended.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use ringgate::clock::Clock;
use ringgate::config::{self, ConfigError};
use ringgate::confinement::{self, Wanted};
use ringgate::control::takeover::Succession;
use ringgate::control::{self, Control, Ending, Source, ctl};
use ringgate::explain::{self, Question};
use ringgate::layout::Placement;
use ringgate::terminator::{self, Inherited, Terminator};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code of `explain` where there is no answer, as of every command for wrong usage.
const NOT_JUDGED: u8 = 2;

/// A mutual-TLS terminator: it proves who a client is, decides whether it may enter, and relays
/// it to an upstream that learns who came.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Terminates TLS as the configuration says, until SIGTERM
    ///
    /// The first SIGTERM or SIGINT drains, the second ends at once. SIGHUP, and a change of the
    /// configuration or of a file that it names, reload; what is broken changes nothing.
    Run(RunArguments),
    /// Checks a configuration and every file it names, and prints all that is wrong
    Check(ConfigArgument),
    /// Tells whether a client would be let in, or why not, without a handshake
    ///
    /// Exit code 0: let in, by at least one of the listeners that were asked; 1: refused; 2: it
    /// could not be judged.
    Explain(ExplainArguments),
    /// Asks a running process, or has it do something, over its admin socket
    Ctl(CtlArguments),
    /// Tells what this host lacks, and the remedy
    Doctor,
    /// Looks after the secret of session ticket keys
    #[command(subcommand)]
    Stek(StekCommand),
}

#[derive(Debug, Subcommand)]
enum StekCommand {
    /// Writes a new secret into a file that does not exist yet
    New {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Args, Debug)]
struct ExplainArguments {
    /// The certificates that the client presents, in PEM form, its own first
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// The server name that the client asks for; without it, it asks for none
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// The listener that it comes to; without it, each of them
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// When it comes, such as 2026-11-21T12:00:00Z or 2026-11-21; without it, now
    #[arg(long, value_name = "TIME", value_parser = explain::time)]
    at: Option<Duration>,
    #[command(flatten)]
    config: ConfigArgument,
}

#[derive(Args, Debug)]
struct RunArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Where shards run, as `ringgate-tune plan` writes it; without it, as it would plan
    #[arg(long, value_name = "FILE")]
    layout: Option<PathBuf>,
    /// Take the listening sockets of the process that runs now over from it, by its admin socket,
    /// and have it drain; where none runs, start as ever
    #[arg(long)]
    takeover: bool,
    /// Append every session's secrets to the file that SSLKEYLOGFILE names: whoever reads it reads
    /// the traffic
    #[arg(long)]
    log_session_secrets: bool,
}

#[derive(Args, Debug)]
struct CtlArguments {
    /// The admin socket; without it, the one that the configuration names
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// The configuration file of the process
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Answer as the process does, in JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    request: CtlRequest,
}

#[derive(Debug, Subcommand)]
enum CtlRequest {
    /// What the process is doing, and what it refused last
    Status,
    /// Every metric, as Prometheus reads them
    Metrics,
    /// Whether it takes new connections; exit code 1 where it does not
    Ready,
    /// Has it take up its configuration and files as they are now; tells what is wrong with them
    Reload,
    /// Has it end once its open connections are through
    Drain,
    /// Logs this level and what is worse from now on, until the next start
    LogLevel {
        /// error, warn, info, debug or trace
        level: String,
    },
    /// Who of its clients would lose their right by a reload now; nothing is changed
    RevokeDryRun,
}

#[derive(Args, Debug)]
struct ConfigArgument {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    // Usage errors end here, with exit code 2.
    let outcome = match Arguments::parse().command {
        Command::Run(arguments) => run(&arguments),
        Command::Check(ConfigArgument { config }) => check(&config),
        Command::Explain(arguments) => return explain(arguments),
        Command::Ctl(arguments) => ctl(&arguments),
        Command::Doctor => doctor(),
        Command::Stek(StekCommand::New { file }) => control::new_stek(&file),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{}", message.trim_end());
            ExitCode::FAILURE
        }
    }
}

fn check(file: &Path) -> Result<(), String> {
    let clock = Clock::system();
    let snapshot = control::load(file, &clock).map_err(|errors| listed(&errors, file))?;
    for warning in &snapshot.warnings {
        eprintln!("warning: {warning}");
    }
    let count = |number: usize, one: &str, several: &str| {
        format!("{number} {}", if number == 1 { one } else { several })
    };
    let listeners = &snapshot.listeners;
    let addresses = listeners
        .iter()
        .map(|listener| listener.addresses.len())
        .sum();
    let routes = listeners.iter().map(|listener| listener.routes.len()).sum();
    let mut text = format!(
        "config ok: {} on {}, {}\nfirst to expire:\n",
        count(listeners.len(), "listener", "listeners"),
        count(addresses, "address", "addresses"),
        count(routes, "route", "routes")
    );
    for line in control::soonest_expiries(&snapshot, &clock) {
        let _ = writeln!(text, "  {line}");
    }
    print(&text)
}

fn explain(arguments: ExplainArguments) -> ExitCode {
    let (file, clock) = (arguments.config.config, Clock::system());
    let question = Question {
        chain: arguments.cert,
        server_name: arguments.sni,
        listener: arguments.listener,
        at: arguments.at.unwrap_or_else(|| clock.unix()),
    };
    let answer = control::load(&file, &clock)
        .map_err(|errors| listed(&errors, &file))
        .and_then(|snapshot| explain::explain(&snapshot, &question));
    let answer = answer.and_then(|answer| print(&answer.text).map(|()| answer));
    match answer {
        Ok(answer) => ExitCode::from(u8::from(!answer.let_in)),
        Err(message) => {
            eprintln!("{}", message.trim_end());
            ExitCode::from(NOT_JUDGED)
        }
    }
}

fn doctor() -> Result<(), String> {
    let mut checks = terminator::host_checks();
    checks.extend(confinement::checks());
    let missing = checks.iter().filter(|check| check.is_missing()).count();
    let lines: Vec<String> = checks.iter().map(|check| format!("{check}\n")).collect();
    print(&lines.concat())?;
    if missing > 0 {
        return Err(format!(
            "{missing} of {} must be mended before a start",
            checks.len()
        ));
    }
    Ok(())
}

fn run(arguments: &RunArguments) -> Result<(), String> {
    let file = &*arguments.config.config;
    // Before anything else is opened: they are known by their numbers.
    let mut inherited = Inherited::from_environment().map_err(|error| error.to_string())?;
    let clock = Clock::system();
    let source = Source::open(file.to_owned(), clock.clone());
    let mut source = source.map_err(|errors| listed(&errors, file))?;
    let snapshot = Arc::clone(source.snapshot());
    control::log::init(snapshot.log);
    for warning in &snapshot.warnings {
        control::log::warning(warning);
    }
    let secrets = control::log_session_secrets(arguments.log_session_secrets);
    let secrets = secrets.map_err(|error| error.to_string())?;
    let placement = match &arguments.layout {
        Some(file) => Placement::read(file, &snapshot.shards),
        None => Placement::planned(&snapshot.shards),
    };
    let placement = placement.map_err(|error| error.to_string())?;
    control::log::notes(&placement.notes);
    control::log::layout(&placement.to_string());
    // What is started from here on inherits it; shards go where the layout says.
    control::log::notes(placement.keep_house().as_slice());
    // Before the shards: from their first connection on, somebody takes signals and reports.
    let mut succession = match arguments.takeover {
        true => Succession::begin(&source).map_err(|error| error.to_string())?,
        false => Succession::default(),
    };
    for passed in succession.sockets() {
        let (name, number) = (passed.listener, passed.number);
        let added = inherited.add_predecessors(passed.socket, name, passed.is_shared, number);
        added.map_err(|error| error.to_string())?;
    }
    let listening = Terminator::listen_on(&snapshot, &clock, &placement.layout, inherited)
        .map_err(|error| error.to_string())?;
    // While there is one thread, as the others inherit it.
    confine(file, &mut source)?;
    let (_log, _secrets) = (control::log::write_aside(), secrets.write());
    // With no more rights than it will be published with.
    let admin = control::admin(&source, &mut succession).map_err(|error| error.to_string())?;
    let control = Control::new(clock.clone()).map_err(|error| error.to_string())?;
    let mut control = control.with_admin(admin);
    let (mut terminator, opening) = listening.start().map_err(|error| error.to_string())?;
    // The control plane knows when nobody needs it any more.
    drop(snapshot);
    control::log::notes(terminator.notes());
    control.look_after(terminator.upstreams());
    let addresses = terminator.addresses();
    // Nothing may fail behind it: a predecessor accepts no more then.
    let begin = || {
        control::log::notes(&opening.open().map_err(|error| error.to_string())?);
        control::log::started(&addresses);
        succession.complete();
        Ok(())
    };
    let (mailboxes, mut changer) = terminator.controls();
    let prepare = move |snapshot: &_| changer.prepare(snapshot).map_err(|e| e.to_string());
    let ending = control.run(mailboxes, source, Box::new(prepare), begin);
    if ending == Ending::Unresponsive {
        // Joining their threads would wait for ever.
        std::mem::forget(terminator);
        return Err("shards did not end when told to".to_owned());
    }
    terminator
        .stop()
        .map_err(|error| format!("a shard failed: {error}"))?;
    match ending {
        Ending::ShardLost => Err("a shard ended by itself".to_owned()),
        Ending::NotInControl => Err("it could not serve, as the log says".to_owned()),
        _ => Ok(()),
    }
}

/// Gives up what the configuration in `source`, which is that of `file`, does not need.
fn confine(file: &Path, source: &mut Source) -> Result<(), String> {
    let config = source.config();
    let wanted = Wanted {
        user: config.process.user.clone(),
        group: config.process.group.clone(),
        privileges: config.confinement.privileges,
        landlock: config.confinement.landlock,
        rings: config.confinement.rings,
        reads: std::iter::once(file)
            .chain(config.files.paths())
            .map(Path::to_owned)
            .collect(),
        sockets: config.admin.socket.iter().cloned().collect(),
    };
    let confinement = confinement::confine(&wanted).map_err(|error| error.to_string())?;
    control::log::notes(confinement.notes());
    control::log::confinement(&confinement.to_string());
    source.confine(&confinement);
    Ok(())
}

fn ctl(arguments: &CtlArguments) -> Result<(), String> {
    let socket = match (&arguments.socket, &arguments.config) {
        (Some(socket), _) => socket.clone(),
        (None, Some(config)) => ctl::socket_of(config)?,
        (None, None) => PathBuf::from(ctl::DEFAULT_SOCKET),
    };
    let request = match &arguments.request {
        CtlRequest::Status => ctl::Request::Status,
        CtlRequest::Metrics => ctl::Request::Metrics,
        CtlRequest::Ready => ctl::Request::Ready,
        CtlRequest::Reload => ctl::Request::Reload,
        CtlRequest::Drain => ctl::Request::Drain,
        CtlRequest::LogLevel { level } => ctl::Request::LogLevel(level),
        CtlRequest::RevokeDryRun => ctl::Request::DryRun,
    };
    print(&ctl::ask(&socket, request, arguments.json)?)
}

/// Writes to standard output. Whoever reads it may have seen enough.
fn print(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("standard output: {error}"))
        }
        _ => Ok(()),
    }
}

/// Everything that is wrong with a configuration, and how much that is.
fn listed(errors: &[ConfigError], file: &Path) -> String {
    let noun = if errors.len() == 1 { "error" } else { "errors" };
    format!(
        "{}{} {noun} in {}",
        config::render(errors),
        errors.len(),
        file.display()
    )
}
