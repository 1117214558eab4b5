//! `ringgate-tune verify`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use ringgate_tune::kernel::{Kernel, Knobs};
use ringgate_tune::verify::verify;

use super::{Roots, StateFolder, layout, print};

/// The exit code where something is not as the layout says.
const DRIFT: u8 = 2;

#[derive(Args)]
pub struct Verify {
    /// The layout that is to hold.
    #[arg(value_name = "LAYOUT")]
    layout: PathBuf,
    #[command(flatten)]
    state: StateFolder,
    #[command(flatten)]
    roots: Roots,
}

impl Verify {
    pub fn run(self) -> ExitCode {
        let layout = match layout(&self.layout) {
            Ok(layout) => layout,
            Err(code) => return code,
        };
        let host = self.roots.host();
        let knobs = Knobs {
            host: &host,
            access: &Kernel,
        };
        let verified = verify(&knobs, &layout, &self.state.state);
        let printed = print(&(verified.lines.join("\n") + "\n"));
        match (verified.drift, verified.unknown) {
            (true, _) => ExitCode::from(DRIFT),
            (false, true) => ExitCode::FAILURE,
            (false, false) => printed,
        }
    }
}
