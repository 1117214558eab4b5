//! `ringgate-tune dropin`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use ringgate_tune::dropin::dropin;

use super::{layout, print};

#[derive(Args)]
pub struct Dropin {
    /// The layout that the terminator runs with.
    #[arg(value_name = "LAYOUT")]
    layout: PathBuf,
}

impl Dropin {
    pub fn run(self) -> ExitCode {
        match layout(&self.layout) {
            Ok(layout) => print(&dropin(&layout)),
            Err(code) => code,
        }
    }
}
