//! The control plane: one asynchronous executor that turns signals into commands for the shards
//! and what the shards report into log lines. The data plane never waits for it.

mod executor;
pub mod log;
mod report;
mod shards;
mod signals;

pub use executor::{Control, ControlError, Ending};
pub use report::{Client, Report};
pub use shards::ShardHandle;
