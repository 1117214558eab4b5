//! Thin: arguments in, text out.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use ringgate_tune::cpu_set::CpuSet;
use ringgate_tune::host::Host;
use ringgate_tune::inspection::Inspection;
use ringgate_tune::table::Table;

/// Plans and proves per-host core layouts.
#[derive(Parser)]
#[command(name = "ringgate-tune", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what is here: CPUs, SMT siblings, caches, memory nodes, control group limits.
    Inspect(Inspect),
}

#[derive(Args)]
struct Inspect {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Read another machine's sysfs, copied into this folder.
    #[arg(long, value_name = "ROOT", requires = "proc")]
    sysfs: Option<PathBuf>,
    /// Read another machine's proc, copied into this folder.
    #[arg(long, value_name = "ROOT", requires = "sysfs")]
    proc: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Command::Inspect(inspect) = Arguments::parse().command;
    match print(&inspect.run()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read us has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringgate-tune: standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Inspect {
    fn run(self) -> String {
        let inspection = match (self.sysfs, self.proc) {
            (Some(sysfs), Some(proc)) => Inspection::read(&Host { sysfs, proc }, None),
            _ => Inspection::read(&Host::default(), own_affinity()),
        };
        if self.json {
            let json = serde_json::to_string_pretty(&inspection);
            json.expect("an inspection has string keys and finite numbers only") + "\n"
        } else {
            Table(&inspection).to_string()
        }
    }
}

/// The CPUs that this process may run on.
fn own_affinity() -> Option<CpuSet> {
    let ids = core_affinity::get_core_ids()?;
    Some(
        ids.into_iter()
            .filter_map(|core| u32::try_from(core.id).ok())
            .collect(),
    )
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
