//! A file for each command, and what several of them need.
//!
//! The program ends with 0, with 1 where it failed, and with 2 where it was used wrongly.

mod autotune;
mod explain;
mod inspect;
mod plan;
mod simulate;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use ringgate_tune::cpu_set::CpuSet;
use ringgate_tune::host::Host;
use ringgate_tune::inspection::Inspection;

#[derive(Subcommand)]
pub enum Command {
    /// Show what is here: CPUs, caches, memory nodes, network cards, limits and their remedies.
    Inspect(inspect::Inspect),
    /// Print a layout for this host, and for each line why.
    Plan(plan::Plan),
    /// Show a layout as a picture: sockets, nodes, caches, cores, and who lives where.
    Explain(explain::Explain),
    /// Try layouts under load, and keep the winner or say "keep what you have".
    Autotune(autotune::Autotune),
    /// Compute what utilisation and latency follow with more shards than can be measured.
    Simulate(simulate::Simulate),
}

impl Command {
    pub fn run(self) -> ExitCode {
        match self {
            Self::Autotune(autotune) => autotune.run(),
            Self::Inspect(inspect) => inspect.run(),
            Self::Plan(plan) => plan.run(),
            Self::Explain(explain) => explain.run(),
            Self::Simulate(simulate) => simulate.run(),
        }
    }
}

/// Which host is meant: this one, or one that was copied into a folder.
#[derive(Args)]
pub struct Roots {
    /// Read another machine's sysfs, copied into this folder.
    #[arg(long, value_name = "ROOT", requires = "proc")]
    sysfs: Option<PathBuf>,
    /// Read another machine's proc, copied into this folder.
    #[arg(long, value_name = "ROOT", requires = "sysfs")]
    proc: Option<PathBuf>,
}

impl Roots {
    /// Reads the host; network interfaces in `nics` whatever they are.
    fn inspect_with(self, nics: &[String]) -> Inspection {
        match (self.sysfs, self.proc) {
            (Some(sysfs), Some(proc)) => Inspection::read_with(&Host { sysfs, proc }, None, nics),
            _ => Inspection::read_with(&Host::default(), own_affinity(), nics),
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

/// Writes `text` to standard output.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read us has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&format_args!("standard output: {error}")),
    }
}

/// Says what failed.
fn fail(problem: &dyn Display) -> ExitCode {
    eprintln!("ringgate-tune: {problem}");
    ExitCode::FAILURE
}
