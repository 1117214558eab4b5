//! A file for each command, and what several of them need.
//!
//! The program ends with 0, with 1 where it failed, and with 2 where it was used wrongly; commands
//! that end otherwise say so.

mod apply;
mod autotune;
mod confirm;
mod dropin;
mod explain;
mod inspect;
mod plan;
mod revert;
mod simulate;
mod verify;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use ringgate_tune::cpu_set::CpuSet;
use ringgate_tune::host::Host;
use ringgate_tune::inspection::Inspection;
use ringgate_tune::layout::Layout;

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
    /// Turn the kernel's knobs as a layout says, all of them or none.
    ///
    /// Prints the undo script first. Exit code 0: applied; 1: failed, and nothing is changed; 3:
    /// failed, and something that is named could not be put back.
    Apply(apply::Apply),
    /// Tell whether a layout still holds, a line for each knob.
    ///
    /// Exit code 0: it holds; 2: something drifted; 1: something could not be judged.
    Verify(verify::Verify),
    /// Put back what `apply` changed, but for what somebody else changed since.
    ///
    /// Exit code 0: everything is as it was; 2: all but what somebody else changed; 1: something
    /// could not be put back, and stays in the journal.
    Revert(revert::Revert),
    /// Tell an `apply --confirm-within` that waits to keep what it did.
    Confirm(confirm::Confirm),
    /// Print a layout as a drop-in of the terminator's systemd unit.
    Dropin(dropin::Dropin),
}

impl Command {
    pub fn run(self) -> ExitCode {
        match self {
            Self::Autotune(autotune) => autotune.run(),
            Self::Inspect(inspect) => inspect.run(),
            Self::Plan(plan) => plan.run(),
            Self::Explain(explain) => explain.run(),
            Self::Simulate(simulate) => simulate.run(),
            Self::Apply(apply) => apply.run(),
            Self::Verify(verify) => verify.run(),
            Self::Revert(revert) => revert.run(),
            Self::Confirm(confirm) => confirm.run(),
            Self::Dropin(dropin) => dropin.run(),
        }
    }
}

/// Which host is meant: this one, or one that was copied into a folder.
#[derive(Args)]
pub struct Roots {
    /// Another machine's sysfs, copied into this folder; `apply` writes there, too.
    #[arg(long, value_name = "ROOT", requires = "proc")]
    sysfs: Option<PathBuf>,
    /// Another machine's proc, copied into this folder; `apply` writes there, too.
    #[arg(long, value_name = "ROOT", requires = "sysfs")]
    proc: Option<PathBuf>,
}

impl Roots {
    fn host(self) -> Host {
        match (self.sysfs, self.proc) {
            (Some(sysfs), Some(proc)) => Host { sysfs, proc },
            _ => Host::default(),
        }
    }

    /// Reads the host; network interfaces in `nics` whatever they are.
    fn inspect_with(self, nics: &[String]) -> Inspection {
        match (self.sysfs, self.proc) {
            (Some(sysfs), Some(proc)) => Inspection::read_with(&Host { sysfs, proc }, None, nics),
            _ => Inspection::read_with(&Host::default(), own_affinity(), nics),
        }
    }
}

/// Where it is kept what was before.
#[derive(Args)]
pub struct StateFolder {
    /// Where the journal is kept; like the settings, it need not outlive a boot.
    #[arg(long, value_name = "DIR", default_value = "/run/ringgate-tune")]
    state: PathBuf,
}

/// The layout, or everything that is wrong with it, said.
fn layout(file: &Path) -> Result<Layout, ExitCode> {
    Layout::read(file).map_err(|errors| {
        for error in errors {
            fail(&error);
        }
        ExitCode::FAILURE
    })
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
