//! `ringgate-tune inspect`.

use std::process::ExitCode;

use clap::Args;

use ringgate_tune::table::Table;

use super::{Roots, print};

#[derive(Args)]
pub struct Inspect {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    roots: Roots,
}

impl Inspect {
    pub fn run(self) -> ExitCode {
        let inspection = self.roots.inspect();
        if self.json {
            let json = serde_json::to_string_pretty(&inspection);
            print(&(json.expect("an inspection has string keys and finite numbers only") + "\n"))
        } else {
            print(&Table(&inspection).to_string())
        }
    }
}
