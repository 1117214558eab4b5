//! `ringgate-tune revert`.

use std::process::ExitCode;

use clap::Args;

use ringgate_tune::kernel::Kernel;
use ringgate_tune::revert::{Ending, revert};

use super::{StateFolder, fail, print};

/// The exit code where something was left to somebody else.
const FOREIGN: u8 = 2;

#[derive(Args)]
pub struct Revert {
    #[command(flatten)]
    state: StateFolder,
}

impl Revert {
    pub fn run(self) -> ExitCode {
        match revert(&Kernel, &self.state.state) {
            Err(problem) => fail(&problem),
            Ok(reverted) => {
                let printed = print(&(reverted.lines.join("\n") + "\n"));
                match reverted.ending {
                    Ending::Done => printed,
                    Ending::Foreign => ExitCode::from(FOREIGN),
                    Ending::Failed => ExitCode::FAILURE,
                }
            }
        }
    }
}
