//! The control plane: one asynchronous executor that turns signals and changed files into commands
//! for the shards and what the shards report into log lines. The data plane never waits for it.

mod ageing;
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
mod supervisor;
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

/// How much of what expires is told; the rest has more time left than these.
const EXPIRIES_TOLD: usize = 8;

/// What of a snapshot expires first, one line each, for people.
pub fn soonest_expiries(snapshot: &Snapshot, clock: &Clock) -> Vec<String> {
    let now = i64::try_from(clock.unix().as_secs()).unwrap_or(i64::MAX);
    let soonest = snapshot.expiries.iter().take(EXPIRIES_TOLD);
    soonest
        .map(|expiry| report::escaped(&expiry.told(now)))
        .collect()
}

/// Reads and checks a configuration and every file that it names.
///
/// # Errors
///
/// Everything that is wrong, not only the first.
pub fn load(file: &Path, clock: &Clock) -> Result<Snapshot, Vec<ConfigError>> {
    Snapshot::load_file(file, clock).map(|(_, snapshot)| snapshot)
}
