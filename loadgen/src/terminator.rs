//! The one public way to start a terminator, as the demo uses it.

use std::path::Path;
use std::sync::Arc;

use ringgate::Terminator;
use ringgate::clock::Clock;
use ringgate::snapshot::Snapshot;

/// Starts a terminator in this process with the configuration in `config`.
pub fn start(config: &Path) -> Result<Terminator, String> {
    let clock = Clock::system();
    let (_, snapshot) = Snapshot::load_file(config, &clock).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        lines.join("\n")
    })?;
    Terminator::start(&Arc::new(snapshot), &clock).map_err(|error| error.to_string())
}
