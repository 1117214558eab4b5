//! Reload: another configuration is loaded, prepared and taken up by every shard, or nothing
//! changes.
//!
//! One load runs at a time, and one installation: what is asked for meanwhile becomes one more
//! load. So however often files change, the shards change over as fast as they can and no faster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::loader::{Failure, Load, Loaded, Loader};
use super::log;
use super::retired::Retired;
use super::shards::{Port, Shard};
use crate::clock::Clock;
use crate::limits::RELOAD_ERRORS_LOGGED_MAX;
use crate::shard::mailbox::{Change, Command};
use crate::snapshot::Snapshot;

/// How long a load or an installation may take before a line in the log says so.
const PATIENCE: Duration = Duration::from_secs(10);

/// Readies running shards for a snapshot; or says why that cannot be, and nothing has changed.
pub type Prepare<'a> = dyn FnMut(&Arc<Snapshot>) -> Result<Change, String> + 'a;

/// What asked for a reload.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Cause {
    Signal,
}

impl Cause {
    fn label(self) -> &'static str {
        match self {
            Self::Signal => "SIGHUP",
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
    /// What was wrong at the last attempt; empty after a good one.
    pub(super) errors: Vec<String>,
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
    Installing(u64),
}

/// Reloads when asked to.
pub(super) struct Reloader<'a> {
    loader: Loader,
    prepare: Box<Prepare<'a>>,
    clock: Clock,
    /// What the shards serve, or were told to.
    current: Loaded,
    wanted: Option<Cause>,
    going: Option<Going>,
    retired: Retired,
    status: Status,
}

impl<'a> Reloader<'a> {
    pub(super) fn new(
        loader: Loader,
        prepare: Box<Prepare<'a>>,
        clock: Clock,
        current: Loaded,
    ) -> Self {
        Self {
            loader,
            prepare,
            clock,
            current,
            wanted: None,
            going: None,
            retired: Retired::default(),
            status: Status::default(),
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
        match self.going.take() {
            None => self.start(),
            Some(going) => self.go_on(going, shards),
        }
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.going.is_none() && self.wanted.is_none()
    }

    fn start(&mut self) {
        let Some(cause) = self.wanted.take() else {
            return;
        };
        match self.loader.start() {
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
            Stage::Loading(load) => match load.outcome() {
                Some(Ok(loaded)) => return self.install(loaded, going, shards),
                Some(Err(failure)) => return self.fail(failure, going.cause),
                None => {}
            },
            Stage::Installing(generation) => {
                if shards.iter().all(|shard| shard.has_installed(*generation)) {
                    return self.succeed(*generation, &going);
                }
            }
        }
        let late = self.clock.now().duration_since(going.since) >= PATIENCE;
        if late && !going.is_late {
            let what = match going.stage {
                Stage::Loading(_) => "files are being read",
                Stage::Installing(_) => "shards have not taken it up",
            };
            tracing::warn!(what, "a reload takes long");
            going.is_late = true;
        }
        self.going = Some(going);
    }

    /// Sends every shard what it needs to serve `loaded` from now on.
    fn install<P: Port>(&mut self, loaded: Loaded, going: Going, shards: &mut [Shard<P>]) {
        let change = match (self.prepare)(&loaded.snapshot) {
            Ok(change) => change,
            Err(problem) => return self.fail(Failure::Refused(problem), going.cause),
        };
        let installations = &change.installations;
        let Some(generation) = installations.first().map(|first| first.generation) else {
            return;
        };
        for warning in &loaded.snapshot.warnings {
            log::warning(warning);
        }
        log::notes(&change.notes);
        for (shard, installation) in shards.iter_mut().zip(change.installations) {
            shard.command(Command::Install(Box::new(installation)));
        }
        let before = std::mem::replace(&mut self.current, loaded);
        self.retired.add(before.snapshot);
        self.going = Some(Going {
            stage: Stage::Installing(generation),
            ..going
        });
    }

    fn succeed(&mut self, generation: u64, going: &Going) {
        let now = self.clock.unix();
        self.status = Status {
            generation,
            last_attempt: Some(now),
            last_success: Some(now),
            errors: Vec::new(),
        };
        let took = self.clock.now().duration_since(going.since);
        tracing::info!(
            cause = going.cause.label(),
            generation,
            took_s = took.as_secs_f64(),
            "reloaded"
        );
    }

    /// Says what is wrong. What is served stays as it is.
    fn fail(&mut self, failure: Failure, cause: Cause) {
        let errors = failure.errors();
        let count = errors.len();
        for error in errors.iter().take(RELOAD_ERRORS_LOGGED_MAX) {
            tracing::error!("{error}");
        }
        let served = self.status.generation;
        tracing::error!(
            cause = cause.label(),
            errors = count,
            generation = served,
            "reload failed: nothing has changed, and what was served before is"
        );
        self.status.last_attempt = Some(self.clock.unix());
        self.status.errors = errors;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Weak, mpsc};

    use super::*;
    use crate::control::fake::{FakeShard, Told, loaded, logged, prepare};

    struct Scene {
        reloader: Reloader<'static>,
        port: FakeShard,
        shards: Vec<Shard<FakeShard>>,
        clock: Clock,
    }

    impl Scene {
        fn new(loader: Loader) -> Self {
            Self::preparing(loader, prepare(1))
        }

        fn preparing(loader: Loader, prepare: Box<Prepare<'static>>) -> Self {
            let clock = Clock::manual(Duration::from_secs(1_000));
            let port = FakeShard::default();
            Self {
                reloader: Reloader::new(loader, prepare, clock.clone(), loaded()),
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
            logged(|| {
                self.reloader.request(Cause::Signal);
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
        let mut scene = Scene::new(Loader::with(|| Ok(loaded())));
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
        let mut scene = Scene::new(Loader::with(move || {
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
        let mut scene = Scene::new(Loader::with(move || {
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
        let mut scene = Scene::new(Loader::with(|| Ok(loaded())));
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
    fn what_cannot_be_prepared_changes_nothing() {
        let refuse = |_: &Arc<Snapshot>| Err("cannot listen on there".to_owned());
        let mut scene = Scene::preparing(Loader::with(|| Ok(loaded())), Box::new(refuse));
        let before = served(&scene);
        let text = scene.reload();
        assert!(text.contains("cannot listen on there"), "{text}");
        assert!(Weak::ptr_eq(&before, &served(&scene)));
    }
}
