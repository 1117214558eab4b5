//! Shards that note what they are told, and configurations without listeners.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::loader::{Loaded, Loader, Source};
use super::log::tests::logged as logged_with;
use super::reload::Prepare;
use super::shards::Port;
use super::watch::Watch;
use crate::config::{
    AdminOptions, Config, ConfigError, ConfinementOptions, DrainOptions, FileReferences,
    HalfOpenLimits, LimitOptions, LiveRevocation, LogFormat, LogLevel, LogOptions, ProcessOptions,
    ReloadOptions, ResumptionOptions, ShardPlan, VerdictCacheOptions,
};
use crate::shard::mailbox::{
    Change, Command, Counters, Installation, ListenerCounters, Report, Review,
};
use crate::snapshot::{Limits, Names, Snapshot};

/// What a shard was told, in short.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Told {
    Drain(Duration),
    Install(u64),
    Renew(usize),
    Lend,
    Rehearse,
    Stop,
}

pub(super) const DRAIN: Told = Told::Drain(DRAIN_TIMEOUT);

const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

impl From<&Command> for Told {
    fn from(command: &Command) -> Self {
        match command {
            Command::Drain { within } | Command::HandOver { within } => Self::Drain(*within),
            Command::Install(installation) => Self::Install(installation.generation),
            Command::Renew(renewals) => Self::Renew(renewals.len()),
            Command::Lend(_) => Self::Lend,
            Command::Rehearse(_) => Self::Rehearse,
            Command::Stop => Self::Stop,
        }
    }
}

/// A shard that notes its commands and ends after the one named.
#[derive(Clone, Default)]
pub(super) struct FakeShard {
    pub(super) commands: Rc<RefCell<Vec<Told>>>,
    pub(super) ended: Rc<Cell<bool>>,
    pub(super) ends_on: Option<Told>,
    /// How many commands it has no room for before it takes one.
    pub(super) refuses: Rc<Cell<usize>>,
    /// The last installation that it was sent; it works from it at once unless it dawdles.
    pub(super) installation: Rc<RefCell<Option<Installation>>>,
    pub(super) dawdles: Rc<Cell<bool>>,
    pub(super) turns: Rc<Cell<u64>>,
    installed: Rc<Cell<u64>>,
    counters: Rc<Counters>,
}

impl FakeShard {
    pub(super) fn ending_on(command: Told) -> Self {
        Self {
            ends_on: Some(command),
            ..Self::default()
        }
    }

    pub(super) fn was_told(&self, what: Told) -> bool {
        self.commands.borrow().contains(&what)
    }

    /// Works from the last installation now.
    pub(super) fn take_up(&self) {
        if let Some(installation) = &*self.installation.borrow() {
            self.installed.set(installation.generation);
        }
    }
}

impl Port for FakeShard {
    fn send(&mut self, command: Command) -> Result<(), Command> {
        if let Some(left) = self.refuses.get().checked_sub(1) {
            self.refuses.set(left);
            return Err(command);
        }
        let told = Told::from(&command);
        self.commands.borrow_mut().push(told);
        self.ended
            .set(self.ended.get() || Some(told) == self.ends_on);
        if let Command::Install(installation) = command {
            self.installation.replace(Some(*installation));
            if !self.dawdles.get() {
                self.take_up();
            }
        }
        Ok(())
    }

    fn installed(&self) -> u64 {
        self.installed.get()
    }

    fn ended(&self) -> bool {
        self.ended.get()
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn listeners(&self) -> &[(Arc<str>, Arc<ListenerCounters>)] {
        &[]
    }

    fn thread_id(&self) -> Option<i32> {
        None
    }

    fn turns(&self) -> u64 {
        self.turns.get()
    }

    fn report(&mut self) -> Option<Report> {
        None
    }

    fn review(&mut self) -> Option<Review> {
        None
    }
}

/// Readies so many shards for whatever comes.
pub(super) fn prepare(shards: usize) -> Box<Prepare<'static>> {
    let mut generation = 0;
    Box::new(move |snapshot| {
        generation += 1;
        let installation = || Installation {
            counters: Vec::new(),
            generation,
            snapshot: Arc::clone(snapshot),
            limits: snapshot.limits,
            sockets: Vec::new(),
            rosters: Vec::new(),
        };
        Ok(Change {
            installations: (0..shards).map(|_| installation()).collect(),
            before: Vec::new(),
            notes: Vec::new(),
        })
    })
}

/// A configuration that listens nowhere.
pub(super) fn loaded() -> Loaded {
    let limits = LimitOptions {
        connections: 1,
        handshakes: 1,
        half_open: HalfOpenLimits::of(1),
        buffer_bytes: 0,
    };
    let log = LogOptions {
        format: LogFormat::Human,
        level: LogLevel::Debug,
        access: false,
        access_rate: 1000,
        refusal_rate: 1000,
    };
    let config = Config {
        file: Arc::from(Path::new("ringgate.toml")),
        listeners: Vec::new(),
        shards: ShardPlan::Planned,
        limits,
        drain: DrainOptions {
            notice: Duration::ZERO,
            timeout: DRAIN_TIMEOUT,
        },
        log,
        resumption: ResumptionOptions {
            stek: None,
            rotation: Duration::from_secs(60),
            cap: Duration::from_secs(60),
            tickets: 0,
        },
        verdict_cache: VerdictCacheOptions {
            entries: 0,
            ttl: Duration::from_secs(1),
        },
        reload: ReloadOptions { watch: false },
        admin: AdminOptions::default(),
        process: ProcessOptions::default(),
        confinement: ConfinementOptions {
            landlock: true,
            privileges: true,
            rings: true,
        },
        live_revocation: LiveRevocation::Close,
        files: FileReferences::default(),
    };
    let snapshot = Snapshot {
        listeners: Vec::new(),
        limits: Limits {
            connections: limits.connections,
            handshakes: limits.handshakes,
            half_open: limits.half_open,
            buffer_blocks: 0,
        },
        drain: config.drain,
        shards: config.shards.clone(),
        log,
        stek: None,
        verdict_cache: None,
        live_revocation: config.live_revocation,
        restricts_rings: config.confinement.rings,
        warnings: Vec::new(),
        expiries: Vec::new(),
        names: Names::default(),
    };
    Loaded {
        config,
        snapshot: Arc::new(snapshot),
    }
}

/// A configuration that listens nowhere, read again by `read`.
pub(super) fn source(
    read: impl Fn() -> Result<Loaded, Vec<ConfigError>> + Send + Sync + 'static,
) -> Source {
    Source {
        loader: Loader::with(move |_| read()),
        loaded: loaded(),
        watch: Watch::new(false),
        confinement: Vec::new(),
    }
}

/// What `work` logs, everything of it.
pub(super) fn logged(work: impl FnOnce()) -> String {
    logged_with(loaded().config.log, work)
}
