//! The control plane: one asynchronous executor that turns signals and changed files into commands
//! for the shards and what the shards report into log lines. The data plane never waits for it.

mod access;
pub mod admin;
mod ageing;
mod answers;
pub mod ctl;
mod executor;
#[cfg(test)]
mod fake;
mod lending;
mod loader;
pub mod log;
mod pace;
mod pulse;
mod rehearsal;
mod reload;
mod report;
mod retired;
mod secrets;
mod shards;
mod signals;
mod supervisor;
pub mod takeover;
mod upstreams;
mod watch;

use std::path::Path;

use crate::clock::Clock;
use crate::config::ConfigError;
use crate::snapshot::Snapshot;

pub use crate::snapshot::new_stek;
pub use admin::{Admin, AdminError};
pub use executor::{Control, ControlError, Ending};
pub use loader::Source;
pub use reload::Prepare;
pub use secrets::{SecretsError, SecretsFile, SecretsWriting, log_session_secrets};
pub use shards::Port;
use takeover::Succession;
pub use upstreams::Upkeep;

/// How much of what expires is told; the rest has more time left than these.
const EXPIRIES_TOLD: usize = 8;

/// The admin interface that the configuration asks for.
///
/// # Errors
///
/// When it cannot be had.
pub fn admin(source: &Source, succession: &mut Succession) -> Result<Admin, AdminError> {
    Admin::bind(&source.loaded.config.admin, succession)
}

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
