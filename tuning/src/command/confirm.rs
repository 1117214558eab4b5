//! `ringgate-tune confirm`.

use std::process::ExitCode;

use clap::Args;

use ringgate_tune::confirm::confirm;

use super::{StateFolder, fail, print};

#[derive(Args)]
pub struct Confirm {
    #[command(flatten)]
    state: StateFolder,
}

impl Confirm {
    pub fn run(self) -> ExitCode {
        match confirm(&self.state.state) {
            Ok(()) => print("confirmed: the layout stays\n"),
            Err(problem) => fail(&problem),
        }
    }
}
