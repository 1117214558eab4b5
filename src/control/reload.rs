//! Reload: another configuration is loaded, prepared and taken up by every shard, or nothing
//! changes.
//!
//! One load runs at a time, and one installation: what is asked for meanwhile becomes one more
//! load. So however often files change, the shards change over as fast as they can and no faster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ageing::Ageing;
use super::loader::{Failure, Load, Loaded, Loader, Source};
use super::log;
use super::report::escaped;
use super::retired::Retired;
use super::shards::{Port, Shard};
use super::supervisor::Supervisor;
use super::watch::Watch;
use crate::clock::Clock;
use crate::config::Config;
use crate::limits::RELOAD_ERRORS_LOGGED_MAX;
use crate::shard::mailbox::{Change, Command};
use crate::snapshot::{Changes, Limits, Snapshot, needs_restart};

/// How long a load or an installation may take before a line in the log says so.
const PATIENCE: Duration = Duration::from_secs(10);

/// Readies running shards for a snapshot; or says why that cannot be, and nothing has changed.
pub type Prepare<'a> = dyn FnMut(&Arc<Snapshot>) -> Result<Change, String> + 'a;

/// What asked for a reload.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Cause {
    /// Nothing is to be changed: what would be loaded is asked for.
    Rehearsal,
    /// Files have changed.
    Watch,
    /// Somebody asked over the admin interface.
    Asked,
    Signal,
}

impl Cause {
    fn label(self) -> &'static str {
        match self {
            Self::Asked => "request",
            Self::Rehearsal => "rehearsal",
            Self::Signal => "SIGHUP",
            Self::Watch => "changed files",
        }
    }
}

/// How reloads have gone.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Status {
    /// Of the installation that the shards work from; 0 for what the process started with.
    pub(super) generation: u64,
    /// When the last load ended, since the Unix epoch.
    pub(super) last_attempt: Option<Duration>,
    /// When all shards had last taken up a configuration, since the Unix epoch.
    pub(super) last_success: Option<Duration>,
    /// Attempts that have ended, well or not.
    pub(super) attempts: u64,
    /// What was wrong at the last attempt; empty after a good one.
    pub(super) errors: Vec<String>,
    /// What the shards were told by the last one; their rings may have no room for what is configured.
    pub(super) limits: Option<Limits>,
}

/// A reload on its way.
#[derive(Debug)]
struct Going {
    cause: Cause,
    since: Instant,
    stage: Stage,
    /// Whether the log has been told that this takes long.
    is_late: bool,
}

#[derive(Debug)]
enum Stage {
    Loading(Load),
    /// The shards have been sent this generation and take it up.
    Installing(u64, Changes),
}

/// Which rehearsal, and what the files said then, or what was wrong with them.
pub(super) type Rehearsed = (u64, Result<Arc<Snapshot>, Vec<String>>);

/// Reloads when asked to.
pub(super) struct Reloader<'a> {
    loader: Loader,
    /// `None` while a load has it.
    watch: Option<Watch>,
    prepare: Box<Prepare<'a>>,
    clock: Clock,
    /// What the shards serve, or were told to.
    current: Loaded,
    /// What the process began with, which some settings stay at.
    started: Config,
    /// What the log has been told to need a restart.
    restart: Vec<String>,
    wanted: Option<Cause>,
    /// Somebody wants to know what would be loaded, and no more.
    rehearsal_wanted: bool,
    /// Rehearsals that have begun.
    rehearsals: u64,
    /// What the last of them loaded.
    rehearsed: Option<Rehearsed>,
    going: Option<Going>,
    retired: Retired,
    ageing: Ageing,
    status: Status,
    /// Loads that were begun.
    loads: u64,
}

impl<'a> Reloader<'a> {
    pub(super) fn new(source: Source, prepare: Box<Prepare<'a>>, clock: Clock) -> Self {
        Self {
            loader: source.loader,
            watch: Some(source.watch),
            prepare,
            started: source.loaded.config.clone(),
            ageing: Ageing::new(&source.loaded.snapshot, &clock),
            restart: Vec::new(),
            current: source.loaded,
            wanted: None,
            rehearsal_wanted: false,
            rehearsals: 0,
            rehearsed: None,
            going: None,
            retired: Retired::default(),
            status: Status::default(),
            loads: 0,
            clock,
        }
    }

    /// What the shards serve, or were told to.
    pub(super) fn current(&self) -> &Snapshot {
        &self.current.snapshot
    }

    /// Asks for a reload, which begins as soon as the one that may be going on is through.
    pub(super) fn request(&mut self, cause: Cause) {
        self.wanted = self.wanted.max(Some(cause));
    }

    /// Has the service manager know what is going on.
    pub(super) fn tell(&self, supervisor: &mut Supervisor) {
        supervisor.reloads(self.loads, self.going.is_some(), &self.status);
    }

    pub(super) fn status(&self) -> &Status {
        &self.status
    }

    /// The attempt that begins after now, by the count of those that will have ended with it.
    pub(super) fn next_attempt(&self) -> u64 {
        let counts = |going: &Going| going.cause != Cause::Rehearsal;
        self.status.attempts + 1 + u64::from(self.going.as_ref().is_some_and(counts))
    }

    /// Asks for what the files say now, which nobody is to serve.
    pub(super) fn rehearse(&mut self) {
        self.rehearsal_wanted = true;
    }

    /// The rehearsal that begins after now, by how many have begun with it.
    pub(super) fn next_rehearsal(&self) -> u64 {
        self.rehearsals + 1
    }

    /// What the files say, once it is known; or what is wrong with them.
    pub(super) fn take_rehearsed(&mut self) -> Option<Rehearsed> {
        self.rehearsed.take()
    }

    /// Frees `snapshot` once nobody holds it.
    pub(super) fn retire(&mut self, snapshot: Arc<Snapshot>) {
        self.retired.add(snapshot);
    }

    /// Gives up what has not reached the shards: the process is ending.
    pub(super) fn give_up(&mut self) {
        let loading = |going: &mut Going| matches!(going.stage, Stage::Loading(_));
        let given_up = self.going.take_if(loading).is_some();
        if self.wanted.take().is_some() || given_up {
            tracing::warn!("the process is ending: the reload is given up");
        }
    }

    /// Frees what no shard holds any more.
    pub(super) fn sweep(&mut self) {
        self.retired.sweep();
    }

    /// Goes on as far as that needs no waiting.
    pub(super) fn tick<P: Port>(&mut self, shards: &mut [Shard<P>]) {
        self.sweep();
        self.look();
        self.ageing.look(&self.current.snapshot, &self.clock);
        match self.going.take() {
            None => self.start(),
            Some(going) => self.go_on(going, shards),
        }
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.going.is_none() && self.wanted.is_none()
    }

    /// Looks whether files have changed.
    fn look(&mut self) {
        let Some(watch) = &mut self.watch else {
            return;
        };
        log::notes(&watch.take_problems());
        if watch.is_ripe(self.clock.now()) {
            self.request(Cause::Watch);
        }
    }

    fn start(&mut self) {
        let rehearsal = || std::mem::take(&mut self.rehearsal_wanted).then_some(Cause::Rehearsal);
        let Some(cause) = self.wanted.take().or_else(rehearsal) else {
            return;
        };
        self.rehearsals += u64::from(cause == Cause::Rehearsal);
        self.loads += u64::from(cause != Cause::Rehearsal);
        let before = Arc::clone(&self.current.snapshot);
        match self.loader.start(&mut self.watch, before) {
            Ok(load) => {
                self.going = Some(Going {
                    cause,
                    since: self.clock.now(),
                    stage: Stage::Loading(load),
                    is_late: false,
                });
            }
            Err(failure) => self.fail(failure, cause),
        }
    }

    fn go_on<P: Port>(&mut self, mut going: Going, shards: &mut [Shard<P>]) {
        match &going.stage {
            Stage::Loading(load) => {
                if let Some((outcome, watch)) = load.outcome() {
                    self.watch = Some(watch);
                    return match outcome {
                        Ok(loaded) if going.cause == Cause::Rehearsal => {
                            self.rehearsed = Some((self.rehearsals, Ok(loaded.snapshot)));
                        }
                        Ok(loaded) => self.install(loaded, going, shards),
                        Err(failure) => self.fail(failure, going.cause),
                    };
                }
            }
            Stage::Installing(generation, changes) => {
                if shards.iter().all(|shard| shard.has_installed(*generation)) {
                    return self.succeed(*generation, changes, &going);
                }
            }
        }
        let late = self.clock.now().duration_since(going.since) >= PATIENCE;
        if late && !going.is_late {
            let what = match going.stage {
                Stage::Loading(_) => "files are being read",
                Stage::Installing(..) => "shards have not taken it up",
            };
            tracing::warn!(what, "a reload takes long");
            going.is_late = true;
        }
        self.going = Some(going);
    }

    /// Sends every shard what it needs to serve `loaded` from now on.
    fn install<P: Port>(&mut self, loaded: Loaded, going: Going, shards: &mut [Shard<P>]) {
        let current = (&self.current.config, &*self.current.snapshot);
        let changes = Changes::between(current, (&loaded.config, &loaded.snapshot));
        self.tell_restart(&loaded.config, going.cause);
        if going.cause == Cause::Watch && changes.is_empty() {
            return self.find_unchanged();
        }
        let change = match (self.prepare)(&loaded.snapshot) {
            Ok(change) => change,
            Err(problem) => return self.fail(Failure::Refused(problem), going.cause),
        };
        let Some(first) = change.installations.first() else {
            return;
        };
        let generation = first.generation;
        self.status.limits = Some(first.limits);
        for warning in &loaded.snapshot.warnings {
            log::warning(warning);
        }
        log::notes(&change.notes);
        for (shard, installation) in shards.iter_mut().zip(change.installations) {
            shard.command(Command::Install(Box::new(installation)));
        }
        self.ageing = Ageing::new(&loaded.snapshot, &self.clock);
        let before = std::mem::replace(&mut self.current, loaded);
        self.retired.add(before.snapshot);
        for own in change.before {
            self.retired.add(own);
        }
        self.going = Some(Going {
            stage: Stage::Installing(generation, changes),
            ..going
        });
    }

    /// Names what `wanted` says that this process cannot become as it runs.
    fn tell_restart(&mut self, wanted: &Config, cause: Cause) {
        let restart = needs_restart(&self.started, wanted);
        if cause != Cause::Watch || restart != self.restart {
            for setting in &restart {
                tracing::warn!("{} needs a restart", escaped(setting));
            }
        }
        self.restart = restart;
    }

    /// Files were touched, and say what they said before.
    fn find_unchanged(&mut self) {
        if self.status.errors.is_empty() {
            tracing::debug!("files were written anew with what they held: nothing changed");
        } else {
            tracing::info!("the configuration is sound again, and says what is being served");
        }
        let now = self.clock.unix();
        self.status = Status {
            last_attempt: Some(now),
            last_success: Some(now),
            attempts: self.status.attempts + 1,
            errors: Vec::new(),
            ..std::mem::take(&mut self.status)
        };
    }

    fn succeed(&mut self, generation: u64, changes: &Changes, going: &Going) {
        let now = self.clock.unix();
        self.status = Status {
            generation,
            last_attempt: Some(now),
            last_success: Some(now),
            attempts: self.status.attempts + 1,
            errors: Vec::new(),
            limits: self.status.limits,
        };
        let took = self.clock.now().duration_since(going.since);
        log::reloaded(changes, going.cause.label(), generation, took);
    }

    /// Says what is wrong. What is served stays as it is.
    fn fail(&mut self, failure: Failure, cause: Cause) {
        let errors = failure.errors();
        if cause == Cause::Rehearsal {
            self.rehearsed = Some((self.rehearsals, Err(errors)));
            return;
        }
        // A file that stays broken while others change is told once.
        if cause != Cause::Watch || errors != self.status.errors {
            for error in errors.iter().take(RELOAD_ERRORS_LOGGED_MAX) {
                tracing::error!("{error}");
            }
            tracing::error!(
                cause = cause.label(),
                errors = errors.len(),
                generation = self.status.generation,
                "reload failed: nothing has changed, and what was served before is"
            );
        }
        self.status.last_attempt = Some(self.clock.unix());
        self.status.attempts += 1;
        self.status.errors = errors;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Weak, mpsc};

    use super::*;
    use crate::config::{Place, ShardPlan};
    use crate::control::fake::{FakeShard, Told, loaded, logged, prepare, source};

    struct Scene {
        reloader: Reloader<'static>,
        port: FakeShard,
        shards: Vec<Shard<FakeShard>>,
        clock: Clock,
    }

    impl Scene {
        fn new(source: Source) -> Self {
            Self::preparing(source, prepare(1))
        }

        fn preparing(source: Source, prepare: Box<Prepare<'static>>) -> Self {
            let clock = Clock::manual(Duration::from_secs(1_000));
            let port = FakeShard::default();
            Self {
                reloader: Reloader::new(source, prepare, clock.clone()),
                shards: vec![Shard::new(port.clone())],
                port,
                clock,
            }
        }

        #[track_caller]
        fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
            let end = Instant::now() + Duration::from_secs(20);
            while !is_so(self) {
                assert!(Instant::now() < end, "it takes too long");
                self.reloader.tick(&mut self.shards);
                std::thread::yield_now();
            }
        }

        /// What is logged by a reload from its request to its end.
        #[track_caller]
        fn reload(&mut self) -> String {
            self.reload_for(Cause::Signal)
        }

        #[track_caller]
        fn reload_for(&mut self, cause: Cause) -> String {
            logged(|| {
                self.reloader.request(cause);
                self.until(|scene| scene.reloader.is_idle());
            })
        }

        fn generation(&self) -> u64 {
            self.reloader.status.generation
        }
    }

    fn served(scene: &Scene) -> Weak<Snapshot> {
        Arc::downgrade(&scene.reloader.current.snapshot)
    }

    #[test]
    fn what_was_served_is_freed_here_once_no_shard_holds_it() {
        let mut scene = Scene::new(source(|| Ok(loaded())));
        scene.reload();
        let first = served(&scene);
        scene.reload();
        assert_eq!(scene.generation(), 2);
        assert!(first.upgrade().is_none(), "nobody held it");

        let second = served(&scene);
        let held_by_a_shard = second.upgrade();
        scene.reload();
        scene.reloader.tick(&mut scene.shards);
        // The shard lets go, and its thread frees nothing.
        std::thread::spawn(move || drop(held_by_a_shard))
            .join()
            .unwrap();
        assert!(second.upgrade().is_some());
        scene.reloader.tick(&mut scene.shards);
        assert!(second.upgrade().is_none());
    }

    #[test]
    fn a_panic_while_loading_is_that_reloads_alone() {
        let calls = AtomicUsize::new(0);
        let mut scene = Scene::new(source(move || {
            match calls.fetch_add(1, Ordering::Relaxed) {
                0 => panic!("a parser slipped\non line 7"),
                _ => Ok(loaded()),
            }
        }));
        let before = served(&scene);
        let text = scene.reload();
        assert!(text.contains("a parser slipped\\non line 7"), "{text}");
        assert!(text.contains("reload failed"), "{text}");
        assert!(Weak::ptr_eq(&before, &served(&scene)));
        assert!(scene.port.commands.borrow().is_empty());
        assert_eq!(scene.reloader.status.errors.len(), 1);
        assert_eq!(scene.reloader.status.last_success, None);
        scene.reload();
        assert_eq!(scene.generation(), 1);
        assert_eq!(scene.reloader.status.errors, [""; 0]);
    }

    #[test]
    fn requests_while_loading_become_one_more_load() {
        let (go_on, wait) = mpsc::channel();
        let wait = std::sync::Mutex::new(wait);
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let mut scene = Scene::new(source(move || {
            wait.lock().unwrap().recv().unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            Ok(loaded())
        }));
        scene.reloader.request(Cause::Signal);
        scene.reloader.tick(&mut scene.shards);
        for _ in 0..100 {
            scene.reloader.request(Cause::Signal);
            scene.reloader.tick(&mut scene.shards);
        }
        for _ in 0..100 {
            go_on.send(()).unwrap();
        }
        scene.until(|scene| scene.reloader.is_idle());
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        assert_eq!(
            *scene.port.commands.borrow(),
            [Told::Install(1), Told::Install(2)]
        );
    }

    #[test]
    fn the_next_installation_waits_for_the_last_one() {
        let mut scene = Scene::new(source(|| Ok(loaded())));
        scene.port.dawdles.set(true);
        scene.reloader.request(Cause::Signal);
        scene.until(|scene| scene.port.was_told(Told::Install(1)));
        scene.reloader.request(Cause::Signal);
        let late = logged(|| {
            for _ in 0..3 {
                scene.clock.advance(PATIENCE);
                scene.reloader.tick(&mut scene.shards);
            }
        });
        assert_eq!(late.matches("a reload takes long").count(), 1, "{late}");
        assert_eq!(scene.port.commands.borrow().len(), 1);
        assert_eq!(scene.generation(), 0);
        scene.port.take_up();
        scene.until(|scene| scene.port.was_told(Told::Install(2)));
        // A shard that has ended is not waited for.
        scene.port.ended.set(true);
        scene.until(|scene| scene.reloader.is_idle());
    }

    #[test]
    fn what_needs_a_restart_is_named_until_it_comes() {
        let started = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&started);
        let mut scene = Scene::new(source(move || {
            let mut loaded = loaded();
            if count.fetch_add(1, Ordering::Relaxed) < 2 {
                loaded.config.shards = ShardPlan::Count(3);
            }
            Ok(loaded)
        }));
        for _ in 0..2 {
            let text = scene.reload();
            let line = "shards Planned -> Count(3) needs a restart";
            assert_eq!(text.matches(line).count(), 1, "{text}");
            assert!(text.contains("reloaded, nothing changed"), "{text}");
        }
        let text = scene.reload();
        assert!(!text.contains("restart"), "{text}");
    }

    #[test]
    fn files_that_say_the_same_change_nothing_and_a_signal_installs_all_the_same() {
        let calls = AtomicUsize::new(0);
        let mut scene = Scene::new(source(move || {
            match calls.fetch_add(1, Ordering::Relaxed) {
                1 | 2 => Err(vec![
                    Place::whole(&Path::new("x").into()).error("is broken", "mend it"),
                ]),
                _ => Ok(loaded()),
            }
        }));
        let before = served(&scene);
        let text = scene.reload_for(Cause::Watch);
        assert!(text.contains("DEBUG") && !text.contains("INFO"), "{text}");
        let text = scene.reload_for(Cause::Watch);
        assert!(text.contains("x: is broken; remedy: mend it"), "{text}");
        assert_eq!(scene.reload_for(Cause::Watch), "", "told once");
        let text = scene.reload_for(Cause::Watch);
        assert!(text.contains("sound again"), "{text}");
        assert!(Weak::ptr_eq(&before, &served(&scene)));
        assert!(scene.port.commands.borrow().is_empty());
        let text = scene.reload();
        assert!(text.contains("reloaded, nothing changed"), "{text}");
        assert_eq!(scene.generation(), 1);
    }

    #[test]
    fn what_cannot_be_prepared_changes_nothing() {
        let refuse = |_: &Arc<Snapshot>| Err("cannot listen on there".to_owned());
        let mut scene = Scene::preparing(source(|| Ok(loaded())), Box::new(refuse));
        let before = served(&scene);
        let text = scene.reload();
        assert!(text.contains("cannot listen on there"), "{text}");
        assert!(Weak::ptr_eq(&before, &served(&scene)));
    }
}
