//! Ringgate beside the other terminators that are installed, on the same work in interleaved rounds:
//! nginx (stream), HAProxy, hitch and stunnel.
//!
//! Servers on one CPU, load and upstream on another; CPU time of the server's processes from the
//! scheduler's accounts, per unit of work. Prints a table of medians with their range, and what part
//! of each peer's time Ringgate takes. `--rounds N` and `--seconds S` (each measurement's) change
//! how long it takes.
//!
//! `--against itself` has Ringgate with everything on in place of the peers: an access line for each
//! connection, every limit, health checks, and a scrape of `/metrics` each second. The target is at
//! most 3 % more CPU time per handshake and per request.

#[path = "../common/arguments.rs"]
mod arguments;
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/flights.rs"]
mod flights;
#[path = "../common/plain.rs"]
mod plain;
#[path = "../common/process.rs"]
mod process;

mod servers;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use core_affinity::CoreId;

use self::arguments::{argument, number};
use self::figures::Spread;
use self::plain::Manner;
use self::process::Server;
use self::servers::Setup;

const SERVER_NAME: &str = "gate.test";

/// Clients with a certificate and sessions of their own; more than connections at a time.
const CLIENTS: &str = "64";

/// A row of the table.
struct Work {
    name: &'static str,
    /// For `ringgate-loadgen run`.
    arguments: &'static [&'static str],
    unit: &'static str,
    /// Units in a microsecond.
    scale: f64,
    digits: usize,
    resumes: bool,
}

const WORKS: [Work; 4] = [
    Work {
        name: "full handshake, connect, one byte, close",
        arguments: &["--mode", "handshake", "--connections", "32"],
        unit: "µs",
        scale: 1.0,
        digits: 0,
        resumes: false,
    },
    Work {
        name: "the same, resumed",
        arguments: &[
            "--mode",
            "handshake",
            "--connections",
            "32",
            "--resume",
            "1",
        ],
        unit: "µs",
        scale: 1.0,
        digits: 0,
        resumes: true,
    },
    Work {
        name: "1 KiB request and answer, 32 connections",
        arguments: &["--mode", "rr", "--connections", "32"],
        unit: "µs",
        scale: 1.0,
        digits: 1,
        resumes: false,
    },
    Work {
        name: "64 KiB echoes, 8 connections, per byte",
        arguments: &["--mode", "bulk", "--connections", "8"],
        unit: "ns",
        scale: 1e3,
        digits: 2,
        resumes: false,
    },
];

/// The share of connections that must resume for a figure of resumption to be one.
const RESUMED_MIN: f64 = 0.95;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let rounds = number("--rounds", 4) as usize;
    let seconds = number("--seconds", 3);
    let cpus = core_affinity::get_core_ids().unwrap_or_default();
    let [server_cpu, load_cpu, ..] = cpus[..] else {
        println!("two CPUs are needed to keep servers apart from their load; nothing is run");
        return Ok(());
    };
    let generator = Generator::build(load_cpu)?;
    let scratch = Scratch::new()?;
    generator.make_certificates(scratch.path())?;
    let echo = plain::Server::start(Manner::Echo, load_cpu);
    let setup = Setup {
        folder: scratch.path(),
        upstream: echo.address,
        cpu: server_cpu,
    };
    let servers = match argument("--against").as_deref() {
        None => servers::start(&setup)?,
        Some("itself") => {
            let (servers, admin) = servers::start_itself(&setup)?;
            // Ends with this program.
            thread::spawn(move || {
                loop {
                    thread::sleep(Duration::from_secs(1));
                    process::scrape(admin).expect("a scrape");
                }
            });
            servers
        }
        Some(other) => return Err(format!("--against takes itself, not {other}")),
    };
    for server in &servers {
        generator.expect_refusal(server, scratch.path())?;
    }
    let mut figures = vec![vec![Vec::new(); servers.len()]; WORKS.len()];
    for round in 0..rounds {
        eprintln!("round {} of {rounds} ...", round + 1);
        for (work, figures) in WORKS.iter().zip(&mut figures) {
            for turn in 0..servers.len() {
                // Another one goes first in each round.
                let index = (turn + round) % servers.len();
                let server = &servers[index];
                match generator.measure(work, server, scratch.path(), seconds) {
                    Ok(figure) => figures[index].push(figure * work.scale),
                    Err(why) => eprintln!("{}, {}: {why}", server.name, work.name),
                }
            }
        }
    }
    print_table(&servers, &figures);
    Ok(())
}

/// As README has it.
fn print_table(servers: &[Server], figures: &[Vec<Vec<f64>>]) {
    print!("\n| work, CPU time of the server |");
    servers
        .iter()
        .for_each(|server| print!(" {} |", server.name));
    println!("\n|---|{}", "---|".repeat(servers.len()));
    for (work, figures) in WORKS.iter().zip(figures) {
        print!("| {} |", work.name);
        let own = Spread::of(&figures[0]).map(|own| own.middle);
        for of_server in figures {
            let cell = Spread::of(of_server).map(|spread| {
                let ratio = own.map_or(0.0, |own| own / spread.middle);
                let cell = spread.text(work.digits, &format!(" {}", work.unit));
                let own = (ratio - 1.0).abs() < f64::EPSILON;
                if own {
                    cell
                } else {
                    format!("{cell}, {ratio:.2}")
                }
            });
            print!(" {} |", cell.unwrap_or_else(|| "-".to_owned()));
        }
        println!();
    }
    println!(
        "\nMedians with their range; behind a peer's, the part of its time that Ringgate takes."
    );
}

/// `ringgate-loadgen`, whose load runs on one CPU.
struct Generator {
    program: PathBuf,
    cpu: String,
}

impl Generator {
    fn build(cpu: CoreId) -> Result<Self, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build
            .args(["build", "--release", "--locked", "-p", "ringgate-loadgen"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        finished(&mut build)?;
        // This program is in the folder `deps` beside it.
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let folder = own
            .parent()
            .and_then(Path::parent)
            .unwrap_or_else(|| Path::new("."));
        let program = folder.join("ringgate-loadgen");
        let cpu = cpu.id.to_string();
        match program.exists() {
            true => Ok(Self { program, cpu }),
            false => Err(format!("{} was not built", program.display())),
        }
    }

    fn make_certificates(&self, folder: &Path) -> Result<(), String> {
        let mut pki = Command::new(&self.program);
        pki.arg("pki").arg(folder);
        pki.args(["--clients", CLIENTS, "--server-name", SERVER_NAME]);
        finished(&mut pki)
    }

    /// A server that lets clients without a certificate in does less than the others.
    fn expect_refusal(&self, server: &Server, folder: &Path) -> Result<(), String> {
        let load = [
            "--connections",
            "1",
            "--duration",
            "300ms",
            "--warmup",
            "0s",
        ];
        let report = self.load(server, folder, &load)?;
        match report["phases"][0]["confirmed"].as_u64() {
            Some(0) => Ok(()),
            served => Err(format!(
                "{} served {served:?} clients without a certificate",
                server.name
            )),
        }
    }

    /// CPU time of `server` for each unit of `work`, in microseconds.
    fn measure(
        &self,
        work: &Work,
        server: &Server,
        folder: &Path,
        seconds: u32,
    ) -> Result<f64, String> {
        let duration = format!("{seconds}s");
        let identities = folder.display().to_string();
        let pid = server.process_id().to_string();
        let more = [
            "--duration",
            &duration,
            "--identities",
            &identities,
            "--server-pid",
            &pid,
        ];
        let report = self.load(server, folder, &[work.arguments, &more[..]].concat())?;
        let phase = &report["phases"][0];
        if let Some(errors) = phase["errors"]
            .as_object()
            .filter(|errors| !errors.is_empty())
        {
            return Err(format!("units failed: {errors:?}"));
        }
        if work.resumes {
            let reached = report["handshakes"]["resume_reached"].as_f64();
            if reached.is_none_or(|reached| reached < RESUMED_MIN) {
                return Err(format!("only {reached:?} of the connections resumed"));
            }
        }
        let figure = phase["server_cpu_us_per_unit"].as_f64();
        figure.ok_or_else(|| "nothing was served".to_owned())
    }

    /// Runs load on `server`; its report.
    fn load(
        &self,
        server: &Server,
        folder: &Path,
        arguments: &[&str],
    ) -> Result<serde_json::Value, String> {
        let file = folder.join("report.json");
        let _ = std::fs::remove_file(&file);
        let mut load = Command::new(&self.program);
        load.args(["run", &server.address.to_string(), "--quiet"])
            .args(arguments)
            .args(["--tls", "1.3", "--groups", "X25519"])
            .args(["--ciphers", "TLS_AES_128_GCM_SHA256"])
            .args(["--sni", SERVER_NAME, "--cpus", &self.cpu])
            .arg("--ca")
            .arg(folder.join("ca.pem"))
            .arg("--json")
            .arg(&file);
        // A generator at its limit says nothing of rates, but CPU time counts all the same: what it
        // says with its exit code is in the report, too.
        let output = load.output().map_err(|error| error.to_string())?;
        let text = std::fs::read_to_string(&file)
            .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }
}

fn finished(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

/// A folder that is removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, String> {
        let name = format!("peers-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
