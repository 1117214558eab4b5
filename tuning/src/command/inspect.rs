//! `ringgate-tune inspect`.

use std::process::ExitCode;

use clap::Args;

use ringgate_tune::plan::missing_nics;
use ringgate_tune::table::Table;

use super::{Roots, fail, print};

#[derive(Args)]
pub struct Inspect {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Show this network interface also where it is no card: a bridge, one half of a pair.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    nic: Vec<String>,
    #[command(flatten)]
    roots: Roots,
}

impl Inspect {
    pub fn run(self) -> ExitCode {
        let inspection = self.roots.inspect_with(&self.nic);
        if let Some(missing) = missing_nics(&inspection, &self.nic).first() {
            return fail(missing);
        }
        if self.json {
            let json = serde_json::to_string_pretty(&inspection);
            print(&(json.expect("an inspection has string keys and finite numbers only") + "\n"))
        } else {
            print(&Table(&inspection).to_string())
        }
    }
}
