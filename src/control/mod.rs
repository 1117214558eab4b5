//! The control plane: one asynchronous executor that turns signals and changed files into commands
//! for the shards and what the shards report into log lines. The data plane never waits for it.

mod executor;
#[cfg(test)]
mod fake;
mod loader;
pub mod log;
mod reload;
mod report;
mod retired;
mod shards;
mod signals;
mod watch;

use std::path::Path;

use crate::clock::Clock;
use crate::config::ConfigError;
use crate::snapshot::Snapshot;

pub use crate::snapshot::new_stek;
pub use executor::{Control, ControlError, Ending};
pub use loader::Source;
pub use reload::Prepare;
pub use shards::Port;

/// Reads and checks a configuration and every file that it names.
///
/// # Errors
///
/// Everything that is wrong, not only the first.
pub fn load(file: &Path, clock: &Clock) -> Result<Snapshot, Vec<ConfigError>> {
    Snapshot::load_file(file, clock).map(|(_, snapshot)| snapshot)
}
