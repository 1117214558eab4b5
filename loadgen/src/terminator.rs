//! The one public way to start a terminator, as the demo uses it.

use std::path::Path;

/// A terminator that runs in this process.
#[derive(Debug)]
pub struct Running {}

/// Starts one with the configuration in `config`, its shards on `cpus`.
pub fn start(config: &Path, cpus: &[usize]) -> Result<Running, String> {
    Err(format!(
        "no terminator in this build for {} on {cpus:?}",
        config.display()
    ))
}

impl Running {
    /// Kernel ids of the shards' threads.
    pub fn shard_thread_ids(&self) -> Vec<i32> {
        Vec::new()
    }

    pub fn stop(self) {}
}
