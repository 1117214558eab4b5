//! Reading a configuration on a thread of its own: files may be slow and parsers may fail, and
//! neither is to hold up or end anything else.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;

use super::log;
use super::report::escaped;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::snapshot::Snapshot;

/// How much a load gives way to other threads on the same CPU, such as a shard: all the way.
const NICENESS: i32 = 19;

/// A configuration that is sound, with all that it names.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub snapshot: Arc<Snapshot>,
}

/// Why nothing was loaded.
#[derive(Debug)]
pub(super) enum Failure {
    /// What is wrong with the configuration or a file that it names.
    Config(Vec<ConfigError>),
    /// A defect of ours.
    Panicked(String),
    /// It cannot be served by this process as it runs.
    Refused(String),
    Thread(io::Error),
}

impl Failure {
    /// What is wrong, each with its remedy, for the log.
    pub(super) fn errors(&self) -> Vec<String> {
        match self {
            Self::Config(errors) => errors.iter().map(log::error_line).collect(),
            Self::Panicked(message) => vec![format!(
                "reading the configuration ended in a defect of Ringgate ({}): please report it \
                 with the file that was changed last",
                escaped(message)
            )],
            Self::Refused(problem) => vec![escaped(problem)],
            Self::Thread(error) => vec![format!(
                "no thread to read the configuration on: {error}; raise the limit of processes \
                 (ulimit -u, TasksMax=)"
            )],
        }
    }
}

type Read = dyn Fn() -> Result<Loaded, Vec<ConfigError>> + Send + Sync;

/// Loads one configuration, as often as asked.
#[derive(Clone)]
pub struct Loader(Arc<Read>);

impl Loader {
    pub fn new(file: PathBuf, clock: Clock) -> Self {
        Self::with(move || {
            let (config, snapshot) = Snapshot::load_parsed(Config::load(&file), &clock)?;
            Ok(Loaded {
                config,
                snapshot: Arc::new(snapshot),
            })
        })
    }

    pub(super) fn with(
        read: impl Fn() -> Result<Loaded, Vec<ConfigError>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(read))
    }

    /// Loads now, on this thread.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, not only the first.
    pub fn load(&self) -> Result<Loaded, Vec<ConfigError>> {
        (self.0)()
    }

    /// Loads on a thread of its own.
    pub(super) fn start(&self) -> Result<Load, Failure> {
        let (sender, outcome) = mpsc::channel();
        let loader = self.clone();
        thread::Builder::new()
            .name("ringgate-loader".to_owned())
            .spawn(move || {
                // Where it cannot be had, the load competes like any other thread.
                let _ = rustix::process::nice(NICENESS);
                // What a panic leaves behind is this load's alone: nothing is shared but the clock.
                let loaded = catch_unwind(AssertUnwindSafe(|| loader.load()));
                let loaded = loaded.map_err(|panic| Failure::Panicked(message(&*panic)));
                // The control plane may have ended meanwhile.
                let _ = sender.send(loaded.and_then(|loaded| loaded.map_err(Failure::Config)));
            })
            .map_err(Failure::Thread)?;
        Ok(Load { outcome })
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader").finish_non_exhaustive()
    }
}

/// What a panic says.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message").to_owned()
}

/// A load that is going on.
#[derive(Debug)]
pub(super) struct Load {
    outcome: mpsc::Receiver<Result<Loaded, Failure>>,
}

impl Load {
    /// What came of it, once it is done.
    pub(super) fn outcome(&self) -> Option<Result<Loaded, Failure>> {
        match self.outcome.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                let message = "its thread ended early".to_owned();
                Some(Err(Failure::Panicked(message)))
            }
        }
    }
}
