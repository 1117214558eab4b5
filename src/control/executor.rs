//! The executor and its loop.

use std::io;
use std::time::{Duration, Instant};

use glommio::{GlommioError, LocalExecutor, LocalExecutorBuilder, Placement, ReactorErrorKind};

use super::ShardHandle;
use super::signals::{Collected, Signal, Signals};
use crate::clock::Clock;

/// How often reports are collected and shards looked after.
const TICK: Duration = Duration::from_millis(20);

/// Entries of each of the executor's rings: it has a handful of operations in flight.
const RING_DEPTH: usize = 16;

/// Bytes that the executor registers for storage I/O, which it does none of: its least.
const IO_MEMORY: usize = 64 << 10;

/// How long past its deadline a draining shard may take before it is told to end at once.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// How long a shard that is told to end at once may take before it is given up.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Why the control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(
        "this process may lock {limit} bytes of memory, and its control ring needs {needed}; raise \
         the limit: ulimit -l unlimited, LimitMEMLOCK=infinity in a systemd unit, or \
         --ulimit memlock=-1 for a container"
    )]
    LockedMemory { limit: u64, needed: u64 },
    #[error(
        "the control plane's io_uring cannot be set up: {0}; allow io_uring (sysctl \
         kernel.io_uring_disabled=0, and a seccomp profile that permits it) on Linux 6.1 or newer"
    )]
    Ring(String),
    #[error("signals cannot be taken over: {0}; raise the limit of open files (ulimit -n)")]
    Signals(#[from] io::Error),
}

/// How the process came to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// It was told to end, and every shard finished within the drain.
    Drained,
    /// A shard ended though nobody had told it to.
    ShardLost,
    /// It was told to end at once, or the drain took too long.
    Stopped,
    /// Shards did not answer and were left behind.
    Unresponsive,
}

/// The control plane, ready to run.
#[derive(Debug)]
pub struct Control {
    executor: LocalExecutor,
    signals: Signals,
    clock: Clock,
}

impl Control {
    /// Sets up the executor on this thread and takes SIGTERM, SIGINT and SIGHUP over. Call it
    /// before the first shard starts: what can fail fails here.
    pub fn new(clock: Clock) -> Result<Self, ControlError> {
        Self::with_signals(Signals::register()?, clock)
    }

    fn with_signals(signals: Signals, clock: Clock) -> Result<Self, ControlError> {
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .name("ringgate-control")
            .ring_depth(RING_DEPTH)
            .io_memory(IO_MEMORY)
            .make()
            .map_err(set_up_error)?;
        Ok(Self {
            executor,
            signals,
            clock,
        })
    }

    /// Looks after `shards` until all have ended: the first SIGTERM or SIGINT drains them, the
    /// second ends them at once. `access` logs connections that end well, too.
    pub fn run(
        mut self,
        shards: Vec<ShardHandle>,
        drain_timeout: Duration,
        access: bool,
    ) -> Ending {
        let Self {
            executor,
            signals,
            clock,
        } = &mut self;
        executor.run(async {
            let signals = match signals.collect() {
                Ok(signals) => signals,
                Err(error) => {
                    tracing::error!(%error, "signals cannot be read; ending at once");
                    let mut keeper = Keeper::new(shards, drain_timeout, access);
                    keeper.stop(clock.now());
                    return keeper.see_off(clock).await;
                }
            };
            let mut keeper = Keeper::new(shards, drain_timeout, access);
            keeper.keep(&signals, clock).await
        })
    }
}

fn set_up_error(error: GlommioError<()>) -> ControlError {
    match error {
        GlommioError::ReactorError(ReactorErrorKind::MemLockLimit(limit, needed)) => {
            ControlError::LockedMemory { limit, needed }
        }
        other => ControlError::Ring(other.to_string()),
    }
}

/// What the shards are doing.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Serving,
    Draining { until: Instant },
    Stopping { until: Instant },
}

/// Looks after the shards.
struct Keeper {
    shards: Vec<ShardHandle>,
    drain_timeout: Duration,
    access: bool,
    phase: Phase,
    is_shard_lost: bool,
}

impl Keeper {
    fn new(shards: Vec<ShardHandle>, drain_timeout: Duration, access: bool) -> Self {
        Self {
            shards,
            drain_timeout,
            access,
            phase: Phase::Serving,
            is_shard_lost: false,
        }
    }

    async fn keep(&mut self, signals: &Collected, clock: &Clock) -> Ending {
        loop {
            while let Some(signal) = signals.next() {
                self.take(signal, clock.now());
            }
            if let Some(ending) = self.tick(clock.now()) {
                return ending;
            }
            glommio::timer::sleep(TICK).await;
        }
    }

    /// Waits for shards that were told to end at once.
    async fn see_off(&mut self, clock: &Clock) -> Ending {
        loop {
            if let Some(ending) = self.tick(clock.now()) {
                return ending;
            }
            glommio::timer::sleep(TICK).await;
        }
    }

    fn take(&mut self, signal: Signal, now: Instant) {
        match (signal, self.phase) {
            (Signal::Reload, _) => {
                tracing::warn!("SIGHUP: reload is not supported yet; restart to apply changes");
            }
            (Signal::End, Phase::Serving) => {
                tracing::info!(
                    timeout_s = self.drain_timeout.as_secs_f64(),
                    "draining; a second signal ends at once"
                );
                self.drain(now);
            }
            (Signal::End, Phase::Draining { .. }) => {
                tracing::info!("second signal: ending at once");
                self.stop(now);
            }
            (Signal::End, Phase::Stopping { .. }) => {}
        }
    }

    fn drain(&mut self, now: Instant) {
        self.shards
            .iter()
            .for_each(|shard| (shard.drain)(self.drain_timeout));
        self.phase = Phase::Draining {
            until: now + self.drain_timeout + DRAIN_GRACE,
        };
    }

    fn stop(&mut self, now: Instant) {
        self.shards.iter().for_each(|shard| (shard.stop)());
        self.phase = Phase::Stopping {
            until: now + STOP_PATIENCE,
        };
    }

    /// One round of looking after the shards; how it ended, once it has.
    fn tick(&mut self, now: Instant) -> Option<Ending> {
        // Before reports are read: what a shard reported before it ended is then never missed.
        let ended = self.shards.iter().filter(|shard| (shard.ended)()).count();
        let access = self.access;
        self.shards
            .iter_mut()
            .for_each(|shard| shard.log_reports(access));
        if ended == self.shards.len() {
            return Some(match self.phase {
                Phase::Serving => Ending::ShardLost,
                _ if self.is_shard_lost => Ending::ShardLost,
                Phase::Draining { .. } => Ending::Drained,
                Phase::Stopping { .. } => Ending::Stopped,
            });
        }
        match self.phase {
            Phase::Serving if ended > 0 => {
                tracing::error!("a shard ended by itself; draining the others");
                self.is_shard_lost = true;
                self.drain(now);
            }
            Phase::Draining { until } if now >= until => {
                let left = self.shards.len() - ended;
                tracing::warn!(shards = left, "the drain took too long; ending at once");
                self.stop(now);
            }
            Phase::Stopping { until } if now >= until => {
                let left = self.shards.len() - ended;
                tracing::error!(shards = left, "shards do not answer; leaving them behind");
                return Some(Ending::Unresponsive);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::io::Write;
    use std::rc::Rc;

    use super::*;

    /// A shard that notes its commands and ends after the one named.
    #[derive(Clone, Default)]
    struct FakeShard {
        commands: Rc<RefCell<Vec<&'static str>>>,
        ended: Rc<Cell<bool>>,
        ends_on: &'static str,
    }

    impl FakeShard {
        fn ending_on(command: &'static str) -> Self {
            Self {
                ends_on: command,
                ..Self::default()
            }
        }

        fn command(&self, command: &'static str) {
            self.commands.borrow_mut().push(command);
            if command == self.ends_on {
                self.ended.set(true);
            }
        }

        fn handle(&self) -> ShardHandle {
            let [drained, stopped, asked] = [self.clone(), self.clone(), self.clone()];
            ShardHandle {
                drain: Box::new(move |_| drained.command("drain")),
                stop: Box::new(move || stopped.command("stop")),
                ended: Box::new(move || asked.ended.get()),
                report: Box::new(|| None),
            }
        }
    }

    fn clock() -> Clock {
        Clock::manual(Duration::from_secs(1))
    }

    fn keeper(shards: &[&FakeShard]) -> Keeper {
        let handles = shards.iter().map(|shard| shard.handle()).collect();
        Keeper::new(handles, Duration::from_secs(30), false)
    }

    #[test]
    fn the_first_signal_drains_through_the_executor() {
        let (signals, [mut end, mut reload]) = Signals::stand_in();
        let control = Control::with_signals(signals, clock()).unwrap();
        let shards = [FakeShard::ending_on("drain"), FakeShard::ending_on("drain")];
        reload.write_all(b"x").unwrap();
        end.write_all(b"x").unwrap();
        let handles = shards.iter().map(FakeShard::handle).collect();
        assert_eq!(
            control.run(handles, Duration::from_secs(30), false),
            Ending::Drained
        );
        for shard in &shards {
            assert_eq!(*shard.commands.borrow(), ["drain"]);
        }
    }

    #[test]
    fn a_second_signal_ends_at_once() {
        let shard = FakeShard::ending_on("stop");
        let (mut keeper, now) = (keeper(&[&shard]), clock().now());
        keeper.take(Signal::End, now);
        assert_eq!(keeper.tick(now), None);
        keeper.take(Signal::End, now);
        assert_eq!(keeper.tick(now), Some(Ending::Stopped));
        assert_eq!(*shard.commands.borrow(), ["drain", "stop"]);
    }

    #[test]
    fn a_reload_signal_changes_nothing() {
        let shard = FakeShard::default();
        let (mut keeper, now) = (keeper(&[&shard]), clock().now());
        keeper.take(Signal::Reload, now);
        assert_eq!(keeper.tick(now), None);
        assert!(shard.commands.borrow().is_empty());
    }

    #[test]
    fn a_drain_that_takes_too_long_is_cut_short_and_the_deaf_are_left_behind() {
        let (shard, clock) = (FakeShard::default(), clock());
        let mut keeper = keeper(&[&shard]);
        keeper.take(Signal::End, clock.now());
        clock.advance(Duration::from_secs(30));
        assert_eq!(keeper.tick(clock.now()), None);
        assert_eq!(
            *shard.commands.borrow(),
            ["drain"],
            "the shard's own deadline comes first"
        );
        clock.advance(DRAIN_GRACE);
        assert_eq!(keeper.tick(clock.now()), None);
        assert_eq!(*shard.commands.borrow(), ["drain", "stop"]);
        clock.advance(STOP_PATIENCE);
        assert_eq!(keeper.tick(clock.now()), Some(Ending::Unresponsive));
    }

    #[test]
    fn a_lost_shard_drains_the_others_and_is_told() {
        let (lost, other) = (FakeShard::default(), FakeShard::ending_on("drain"));
        let (mut keeper, now) = (keeper(&[&lost, &other]), clock().now());
        lost.ended.set(true);
        assert_eq!(keeper.tick(now), None);
        assert_eq!(*other.commands.borrow(), ["drain"]);
        assert_eq!(keeper.tick(now), Some(Ending::ShardLost));
    }

    #[test]
    fn a_small_locked_memory_limit_names_the_remedy() {
        let kind = ReactorErrorKind::MemLockLimit(65_536, 524_288);
        let text = set_up_error(GlommioError::ReactorError(kind)).to_string();
        assert!(
            text.contains("65536 bytes") && text.contains("LimitMEMLOCK"),
            "{text}"
        );
    }
}
