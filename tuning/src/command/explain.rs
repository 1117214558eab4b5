//! `ringgate-tune explain`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use ringgate_tune::explain::Picture;
use ringgate_tune::layout::Layout;

use super::{Roots, fail, print};

#[derive(Args)]
pub struct Explain {
    /// The layout, as `ringgate-tune plan` prints it.
    #[arg(value_name = "layout.toml")]
    layout: PathBuf,
    #[command(flatten)]
    roots: Roots,
}

impl Explain {
    pub fn run(self) -> ExitCode {
        let layout = match Layout::read(&self.layout) {
            Ok(layout) => layout,
            Err(errors) => {
                errors.iter().for_each(|error| {
                    fail(error);
                });
                return ExitCode::FAILURE;
            }
        };
        let nics: Vec<String> = layout.nics.iter().map(|nic| nic.name.clone()).collect();
        let here = self.roots.inspect_with(&nics);
        print(
            &Picture {
                layout: &layout,
                here: &here,
            }
            .to_string(),
        )
    }
}
