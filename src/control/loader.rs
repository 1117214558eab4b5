//! Reading a configuration on a thread of its own: files may be slow and parsers may fail, and
//! neither is to hold up or end anything else.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;

use super::log;
use super::report::escaped;
use super::watch::Watch;
use crate::clock::Clock;
use crate::config::{Config, ConfigError, FileSetting};
use crate::confinement::Confinement;
use crate::snapshot::Snapshot;

/// How much a load gives way to other threads on the same CPU, such as a shard: it gets about a tenth
/// of what each of them does (sched(7)). Less would hold a revocation up on a host that is busy.
const NICENESS: i32 = 10;

/// A configuration that is sound, with all that it names.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) config: Config,
    pub(super) snapshot: Arc<Snapshot>,
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

type Read = dyn Fn(&mut Watch) -> Result<Loaded, Vec<ConfigError>> + Send + Sync;

/// A configuration file: what it says now, and what it takes to read it again.
#[derive(Debug)]
pub struct Source {
    pub(super) loader: Loader,
    pub(super) loaded: Loaded,
    pub(super) watch: Watch,
    /// How the process is confined, for `/status`.
    pub(super) confinement: Vec<(&'static str, String)>,
}

impl Source {
    /// Reads and checks `file` and every file that it names; from then on they are watched, unless
    /// the configuration says otherwise.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, not only the first.
    pub fn open(file: PathBuf, clock: Clock) -> Result<Self, Vec<ConfigError>> {
        let loader = Loader::new(file, clock);
        let mut watch = Watch::new(true);
        let loaded = (loader.0)(&mut watch)?;
        loaded.snapshot.look_up_names_of(&loaded.config, None)?;
        Ok(Self {
            loader,
            loaded,
            watch,
            confinement: Vec::new(),
        })
    }

    /// Has loads from now on say which files the process shut itself out from.
    pub fn confine(&mut self, confinement: &Confinement) {
        let parts = confinement.parts().iter();
        self.confinement = parts
            .map(|(name, state)| (*name, state.to_string()))
            .collect();
        let (loader, confinement) = (self.loader.clone(), confinement.clone());
        let file = Arc::clone(&self.loaded.config.file);
        self.loader = Loader::with(move |watch| {
            let outcome = (loader.0)(watch);
            outcome.map_err(|errors| {
                let shut_out = shut_out(&file, &confinement);
                shut_out.into_iter().chain(errors).collect()
            })
        });
    }

    pub fn config(&self) -> &Config {
        &self.loaded.config
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.loaded.snapshot
    }
}

/// Loads one configuration, as often as asked.
#[derive(Clone)]
pub(super) struct Loader(Arc<Read>);

impl Loader {
    fn new(file: PathBuf, clock: Clock) -> Self {
        Self::with(move |watch| read(&file, &clock, watch))
    }

    pub(super) fn with(
        read: impl Fn(&mut Watch) -> Result<Loaded, Vec<ConfigError>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(read))
    }

    /// Loads on a thread of its own, which `watch` goes along to; where there is no thread, it is
    /// left in its place. What the shards have learned with `before` is carried over.
    pub(super) fn start(
        &self,
        watch: &mut Option<Watch>,
        before: Arc<Snapshot>,
    ) -> Result<Load, Failure> {
        let (sender, outcome) = mpsc::channel();
        // Sent after the thread is there: what a thread that cannot start was given is lost.
        let (give, given) = mpsc::channel::<Option<Watch>>();
        let loader = self.clone();
        thread::Builder::new()
            .name("ringgate-loader".to_owned())
            .spawn(move || {
                // Where it cannot be had, the load competes like any other thread.
                let _ = rustix::process::nice(NICENESS);
                let watch = given.recv().ok().flatten();
                let mut watch = watch.unwrap_or_else(|| Watch::new(false));
                // What a panic leaves behind is this load's alone, but for the watch, whose worst is
                // that a directory is watched in vain.
                let load = || {
                    let loaded = (loader.0)(&mut watch);
                    loaded.and_then(|loaded| {
                        loaded.snapshot.carry_signers(&before);
                        let names = &loaded.snapshot;
                        names.look_up_names_of(&loaded.config, Some(&before))?;
                        Ok(loaded)
                    })
                };
                let loaded = catch_unwind(AssertUnwindSafe(load));
                drop(before);
                let loaded = loaded.map_err(|panic| Failure::Panicked(message(&*panic)));
                let loaded = loaded.and_then(|loaded| loaded.map_err(Failure::Config));
                // The control plane may have ended meanwhile.
                let _ = sender.send((loaded, watch));
            })
            .map_err(Failure::Thread)?;
        // The thread waits for it.
        let _ = give.send(watch.take());
        Ok(Load { outcome })
    }
}

/// Reads and checks `file` and all that it names. Each is watched before it is read, so that no
/// change falls between.
fn read(file: &Path, clock: &Clock, watch: &mut Watch) -> Result<Loaded, Vec<ConfigError>> {
    let was_wanted = watch.is_wanted();
    watch.cover([file]);
    let parsed = Config::load(file);
    let (is_wanted, files) = match &parsed {
        Ok(config) => (config.reload.watch, &config.files),
        Err(rejected) => (was_wanted, &*rejected.files),
    };
    if is_wanted {
        watch.cover(std::iter::once(file).chain(files.paths()));
    } else {
        watch.stop();
    }
    let (config, snapshot) = Snapshot::load_parsed(parsed, clock)?;
    Ok(Loaded {
        config,
        snapshot: Arc::new(snapshot),
    })
}

/// Files that `file` names and that cannot be read for `confinement`.
fn shut_out(file: &Path, confinement: &Confinement) -> Vec<ConfigError> {
    let parsed = Config::load(file);
    let files = match &parsed {
        Ok(config) => &config.files,
        Err(rejected) => &*rejected.files,
    };
    let shut_out = files
        .settings()
        .filter(|file| !confinement.lets_read(&file.path));
    let error = |file: &FileSetting| {
        file.place.error(
            format!(
                "{} needs a restart: it lies outside the directories that this process confined \
                 itself to",
                file.path.display()
            ),
            "restart; or move it to where the files lie that the process was started with; or \
             leave Landlock out (confinement.landlock = false)",
        )
    };
    shut_out.map(error).collect()
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
    outcome: mpsc::Receiver<(Result<Loaded, Failure>, Watch)>,
}

impl Load {
    /// What came of it, once it is done, and the watch.
    pub(super) fn outcome(&self) -> Option<(Result<Loaded, Failure>, Watch)> {
        match self.outcome.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                let message = "its thread ended early".to_owned();
                Some((Err(Failure::Panicked(message)), Watch::new(true)))
            }
        }
    }
}
