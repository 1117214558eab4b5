//! `ringgate-tune plan`.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use ringgate_tune::layout::Steering;
use ringgate_tune::plan::{self, PlanOptions, missing_nics};

use super::{Roots, fail, print};

#[derive(Args)]
pub struct Plan {
    /// Plan for these network cards or bonds, instead of all cards that are up.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    nic: Vec<String>,
    /// Physical cores that no shard gets, where there are more than two.
    #[arg(long, value_name = "CORES", default_value_t = 1)]
    reserve: usize,
    /// With `on`, a shard on each SMT sibling instead of on each physical core.
    #[arg(long, value_name = "off|on", default_value = "off")]
    smt: Smt,
    /// How a connection finds its shard: by hash, or by the CPU that took its interrupt.
    #[arg(long, value_name = "hash|cpu", default_value = "hash")]
    steering: By,
    #[command(flatten)]
    roots: Roots,
}

#[derive(Clone, Copy, ValueEnum)]
enum Smt {
    Off,
    On,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    Hash,
    Cpu,
}

impl Plan {
    pub fn run(self) -> ExitCode {
        let here = self.roots.inspect_with(&self.nic);
        if let Some(missing) = missing_nics(&here, &self.nic).first() {
            return fail(missing);
        }
        let plan = plan::Plan::new(
            &here,
            &PlanOptions {
                reserve: self.reserve,
                smt: matches!(self.smt, Smt::On),
                steering: match self.steering {
                    By::Hash => Steering::Hash,
                    By::Cpu => Steering::Cpu,
                },
                nics: self.nic,
                place_interrupts: true,
            },
        );
        // Standard output may go to a file; these are for who runs the command.
        for problem in &plan.problems {
            eprintln!("ringgate-tune: {problem}");
        }
        for note in &here.notes {
            eprintln!("ringgate-tune: {note}");
        }
        print(&plan.to_toml())
    }
}
