//! The executor and its loop.

use std::io;
use std::time::{Duration, Instant};

use glommio::{GlommioError, LocalExecutor, LocalExecutorBuilder, Placement, ReactorErrorKind};

use super::access::AccessLog;
use super::admin::{Admin, Asker, Desk};
use super::lending::Lending;
use super::loader::Source;
use super::pulse::Pulse;
use super::rehearsal::Rehearsals;
use super::reload::{Cause, Prepare, Reloader};
use super::report::{RefusalLog, Refusals};
use super::shards::{Port, Shard, Spread};
use super::signals::{Collected, Signal, Signals};
use super::supervisor::Supervisor;
use super::upstreams::Upkeep;
use crate::clock::Clock;
use crate::config::DrainOptions;
use crate::shard::mailbox::Command;
use crate::snapshot::Upstreams;

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
        "the control plane's io_uring cannot be set up: {0}; rings count as locked memory, which all \
         processes of this user on the host share: raise the limit by LimitMEMLOCK=infinity in a \
         systemd unit, ulimit -l unlimited, --ulimit memlock=-1 for a container, or for a pod \
         LimitMEMLOCK=infinity in the container runtime's own unit"
    )]
    NoMemory(String),
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
    /// Nobody could have told it to end, or asked it anything: it ended at once.
    NotInControl,
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
    supervisor: Supervisor,
    clock: Clock,
    upkeep: Option<Upkeep>,
    admin: Admin,
}

impl Control {
    /// Sets up the executor on this thread and takes SIGTERM, SIGINT and SIGHUP over. Call it
    /// before the first shard starts: what can fail fails here.
    pub fn new(clock: Clock) -> Result<Self, ControlError> {
        let mut control = Self::with_signals(Signals::register()?, clock)?;
        control.supervisor = Supervisor::from_environment();
        Ok(control)
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
            supervisor: Supervisor::default(),
            clock,
            upkeep: None,
            admin: Admin::default(),
        })
    }

    /// Has these upstreams looked after, too.
    pub fn look_after(&mut self, upstreams: &Upstreams) {
        self.upkeep = Some(Upkeep::new(upstreams.clone(), self.clock.clone()));
    }

    /// Answers at `admin`, too.
    #[must_use]
    pub fn with_admin(self, admin: Admin) -> Self {
        Self { admin, ..self }
    }

    /// Looks after `shards`, which serve `source`, until all have ended: the first SIGTERM or SIGINT
    /// drains them, the second ends them at once; SIGHUP, or a change of the files, has them serve
    /// what the files say then, once `prepare` has readied it. `begin` has them accept, once there is
    /// somebody to control them; where it fails, the process ends.
    pub fn run<'a, P: Port>(
        mut self,
        shards: impl IntoIterator<Item = P>,
        source: Source,
        prepare: Box<Prepare<'a>>,
        begin: impl FnOnce() -> Result<(), String>,
    ) -> Ending {
        let Self {
            executor,
            signals,
            supervisor,
            clock,
            upkeep,
            admin,
        } = &mut self;
        let confinement = source.confinement.clone();
        let reloader = Reloader::new(source, prepare, clock.clone());
        let mut keeper = Keeper::new(shards, reloader, clock.clone());
        keeper.upkeep = upkeep.take();
        keeper.confinement = confinement;
        keeper.supervisor = std::mem::take(supervisor);
        let admin = std::mem::take(admin);
        executor.run(async {
            let _admin = match admin.serve(&keeper.desk) {
                Ok(serving) => Some(serving),
                Err(error) => {
                    tracing::error!("{error}; ending at once");
                    keeper.is_out_of_control = true;
                    keeper.stop(clock.now());
                    None
                }
            };
            let signals = signals.collect().unwrap_or_else(|error| {
                tracing::error!(%error, "signals cannot be read; ending at once");
                keeper.is_out_of_control = true;
                keeper.stop(clock.now());
                Collected::default()
            });
            if keeper.is_out_of_control {
                // Shards that wait for it end then.
                drop(begin);
            } else if let Err(problem) = begin() {
                tracing::error!("{problem}; ending at once");
                keeper.is_out_of_control = true;
                keeper.stop(clock.now());
            }
            keeper.keep(&signals, clock).await
        })
    }
}

fn set_up_error(error: GlommioError<()>) -> ControlError {
    if let GlommioError::ReactorError(ReactorErrorKind::MemLockLimit(limit, needed)) = error {
        return ControlError::LockedMemory { limit, needed };
    }
    let text = error.to_string();
    match locked_memory(&text) {
        Some((limit, needed)) => ControlError::LockedMemory { limit, needed },
        None if is_out_of_memory(&text) => ControlError::NoMemory(text),
        None => ControlError::Ring(text),
    }
}

/// Whether the kernel had no memory for a ring (ENOMEM), which on its way out may become text, too.
fn is_out_of_memory(text: &str) -> bool {
    text.contains("(os error 12)")
}

/// The figures of the executor's memlock error, which on its way out becomes the text of an I/O
/// error: `MemLockLimit(limit/needed)`.
fn locked_memory(text: &str) -> Option<(u64, u64)> {
    let (_, figures) = text.split_once("MemLockLimit(")?;
    let (limit, needed) = figures.split_once(')')?.0.split_once('/')?;
    Some((limit.parse().ok()?, needed.parse().ok()?))
}

/// What the shards are doing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    Serving,
    /// It says that it is not ready, and serves whoever comes all the same.
    Leaving {
        until: Instant,
    },
    Draining {
        until: Instant,
    },
    Stopping {
        until: Instant,
    },
}

/// Looks after the shards.
pub(super) struct Keeper<'a, P> {
    pub(super) shards: Vec<Shard<P>>,
    pub(super) reloader: Reloader<'a>,
    pub(super) phase: Phase,
    /// A signal has told it to end; whoever else does sends none before.
    is_signalled: bool,
    is_shard_lost: bool,
    /// Signals or the admin interface could not be had.
    is_out_of_control: bool,
    pub(super) upkeep: Option<Upkeep>,
    /// How the process is confined.
    pub(super) confinement: Vec<(&'static str, String)>,
    supervisor: Supervisor,
    pub(super) pulse: Pulse,
    pub(super) clock: Clock,
    /// Since the Unix epoch.
    pub(super) started: Duration,
    pub(super) refusals: Refusals,
    pub(super) access: AccessLog,
    pub(super) refusal_log: RefusalLog,
    pub(super) desk: Desk,
    /// Who waits for which attempt to reload.
    pub(super) awaiting_reload: Vec<(u64, Asker)>,
    pub(super) lending: Option<Lending>,
    pub(super) rehearsals: Rehearsals,
}

impl<'a, P: Port> Keeper<'a, P> {
    fn new(ports: impl IntoIterator<Item = P>, reloader: Reloader<'a>, clock: Clock) -> Self {
        let shards = ports.into_iter().map(Shard::new).collect();
        let log = reloader.current().log;
        Self {
            shards,
            reloader,
            phase: Phase::Serving,
            is_signalled: false,
            is_shard_lost: false,
            is_out_of_control: false,
            upkeep: None,
            confinement: Vec::new(),
            supervisor: Supervisor::default(),
            pulse: Pulse::default(),
            started: clock.unix(),
            access: AccessLog::new(
                log.format,
                log.access_rate as u64,
                super::log::writer(),
                clock.clone(),
            ),
            refusal_log: RefusalLog::new(log.refusal_rate as u64, clock.clone()),
            refusals: Refusals::new(clock.clone()),
            clock,
            desk: Desk::default(),
            awaiting_reload: Vec::new(),
            lending: None,
            rehearsals: Rehearsals::default(),
        }
    }

    async fn keep(&mut self, signals: &Collected, clock: &Clock) -> Ending {
        if !self.is_out_of_control {
            self.supervisor.ready();
        }
        loop {
            while let Some(signal) = signals.next() {
                self.take(signal, clock.now());
            }
            self.answer_all();
            self.lend();
            self.rehearse();
            if let Some(ending) = self.tick(clock.now()) {
                super::log::spread(&Spread::of(&self.shards));
                return ending;
            }
            glommio::timer::sleep(TICK).await;
        }
    }

    pub(super) fn take(&mut self, signal: Signal, now: Instant) {
        match (signal, self.phase) {
            (Signal::Reload, Phase::Serving) => self.reloader.request(Cause::Signal),
            (Signal::Reload, _) => {
                tracing::warn!("the process is ending: SIGHUP reloads nothing");
            }
            (Signal::End, Phase::Serving) => {
                self.is_signalled = true;
                self.leave(now);
            }
            (Signal::End, Phase::Leaving { .. } | Phase::Draining { .. }) if !self.is_signalled => {
                self.is_signalled = true;
                tracing::info!("draining already; a second signal ends at once");
            }
            (Signal::End, Phase::Leaving { .. } | Phase::Draining { .. }) => {
                tracing::info!("second signal: ending at once");
                self.stop(now);
            }
            (Signal::End, Phase::Stopping { .. }) => {}
        }
    }

    /// Ends the process in due form: not ready first, where that is asked for, then a drain.
    pub(super) fn leave(&mut self, now: Instant) {
        let DrainOptions { notice, timeout } = self.reloader.current().drain;
        tracing::info!(
            notice_s = notice.as_secs_f64(),
            timeout_s = timeout.as_secs_f64(),
            "draining; a second signal ends at once"
        );
        if notice.is_zero() {
            return self.drain(now);
        }
        self.reloader.give_up();
        self.answer_in_vain();
        self.supervisor
            .stopping(notice + timeout + DRAIN_GRACE + STOP_PATIENCE);
        self.phase = Phase::Leaving {
            until: now + notice,
        };
    }

    fn drain(&mut self, now: Instant) {
        self.end(now, |within| Command::Drain { within });
    }

    /// Another process accepts connections: ends open ones as a drain does.
    pub(super) fn hand_over(&mut self, now: Instant) {
        self.end(now, |within| Command::HandOver { within });
    }

    fn end(&mut self, now: Instant, command: impl Fn(Duration) -> Command) {
        self.reloader.give_up();
        self.answer_in_vain();
        let within = self.reloader.current().drain.timeout;
        for shard in &mut self.shards {
            shard.command(command(within));
        }
        let within = within + DRAIN_GRACE;
        self.supervisor.stopping(within + STOP_PATIENCE);
        self.phase = Phase::Draining {
            until: now + within,
        };
    }

    fn stop(&mut self, now: Instant) {
        self.shards
            .iter_mut()
            .for_each(|shard| shard.command(Command::Stop));
        self.phase = Phase::Stopping {
            until: now + STOP_PATIENCE,
        };
    }

    /// One round of looking after the shards; how it ended, once it has.
    fn tick(&mut self, now: Instant) -> Option<Ending> {
        // Before reports are read: what a shard reported before it ended is then never missed.
        let ended = self.shards.iter().filter(|shard| shard.ended()).count();
        let log = self.reloader.current().log;
        self.access.set_rate(log.access_rate as u64);
        self.refusal_log.set_rate(log.refusal_rate as u64);
        for (number, shard) in self.shards.iter_mut().enumerate() {
            let access = log.access.then_some(&mut self.access);
            shard.log_reports(number, &mut self.refusal_log, access, &mut self.refusals);
            shard.send_unsent();
        }
        self.access.flush();
        self.refusal_log.tell();
        if let Some(upkeep) = &mut self.upkeep {
            let renewals = upkeep.tick().into_iter();
            let shards = self.shards.iter_mut().zip(renewals);
            for (shard, renewals) in shards.filter(|(_, renewals)| !renewals.is_empty()) {
                shard.command(Command::Renew(renewals));
            }
        }
        match self.phase {
            Phase::Serving => self.reloader.tick(&mut self.shards),
            Phase::Leaving { .. } | Phase::Draining { .. } | Phase::Stopping { .. } => {
                self.reloader.sweep();
            }
        }
        self.reloader.tell(&mut self.supervisor);
        self.pulse.feel(now, self.shards.iter().map(Shard::turns));
        self.supervisor.beat(now, &self.pulse);
        if ended == self.shards.len() {
            return Some(match self.phase {
                Phase::Serving | Phase::Leaving { .. } => Ending::ShardLost,
                _ if self.is_shard_lost => Ending::ShardLost,
                _ if self.is_out_of_control => Ending::NotInControl,
                Phase::Draining { .. } => Ending::Drained,
                Phase::Stopping { .. } => Ending::Stopped,
            });
        }
        match self.phase {
            Phase::Serving | Phase::Leaving { .. } if ended > 0 => {
                tracing::error!("a shard ended by itself; draining the others");
                self.is_shard_lost = true;
                self.drain(now);
            }
            Phase::Leaving { until } if now >= until => self.drain(now),
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
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use crate::control::fake::{DRAIN, FakeShard, Told, loaded, logged, prepare, source};
    use crate::control::report::tests::refused;
    use crate::limits::SHARD_PATIENCE;

    fn clock() -> Clock {
        Clock::manual(Duration::from_secs(1))
    }

    fn keeper(shards: &[&FakeShard]) -> Keeper<'static, FakeShard> {
        let ports = shards.iter().map(|shard| (*shard).clone());
        let source = source(|| Ok(loaded()));
        let reloader = Reloader::new(source, prepare(shards.len()), clock());
        Keeper::new(ports, reloader, clock())
    }

    impl Keeper<'_, FakeShard> {
        /// Ticks until `is_so`.
        #[track_caller]
        fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
            let end = Instant::now() + Duration::from_secs(20);
            while !is_so(self) {
                assert!(Instant::now() < end, "it takes too long");
                assert_eq!(self.tick(clock().now()), None);
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn the_first_signal_drains_through_the_executor() {
        let (signals, [mut end, mut reload]) = Signals::stand_in();
        let control = Control::with_signals(signals, clock()).unwrap();
        let shards = [FakeShard::ending_on(DRAIN), FakeShard::ending_on(DRAIN)];
        reload.write_all(b"x").unwrap();
        end.write_all(b"x").unwrap();
        let source = source(|| Ok(loaded()));
        assert_eq!(
            control.run(shards.clone(), source, prepare(2), || Ok(())),
            Ending::Drained
        );
        for shard in &shards {
            assert_eq!(shard.commands.borrow().last(), Some(&DRAIN));
        }
    }

    #[test]
    fn a_second_signal_ends_at_once() {
        let shard = FakeShard::ending_on(Told::Stop);
        let (mut keeper, now) = (keeper(&[&shard]), clock().now());
        keeper.take(Signal::End, now);
        assert_eq!(keeper.tick(now), None);
        keeper.take(Signal::End, now);
        assert_eq!(keeper.tick(now), Some(Ending::Stopped));
        assert_eq!(*shard.commands.borrow(), [DRAIN, Told::Stop]);
    }

    #[test]
    fn the_first_signal_behind_another_word_ends_nothing_at_once() {
        let shard = FakeShard::default();
        let (mut keeper, now) = (keeper(&[&shard]), clock().now());
        keeper.leave(now);
        keeper.take(Signal::End, now);
        assert_eq!(keeper.tick(now), None);
        assert_eq!(*shard.commands.borrow(), [DRAIN]);
        keeper.take(Signal::End, now);
        assert_eq!(*shard.commands.borrow(), [DRAIN, Told::Stop]);
    }

    #[test]
    fn a_shard_that_stands_still_is_told_of() {
        let (turns, stands, clock) = (FakeShard::default(), FakeShard::default(), clock());
        let reloader = Reloader::new(source(|| Ok(loaded())), prepare(2), clock.clone());
        let ports = [turns.clone(), stands.clone()];
        let mut keeper = Keeper::new(ports, reloader, clock.clone());
        let mut goes_on = |turning: &[&FakeShard]| {
            for shard in turning {
                shard.turns.set(shard.turns.get() + 1);
            }
            clock.advance(SHARD_PATIENCE / 2);
            assert_eq!(keeper.tick(clock.now()), None);
            let answer = keeper.liveness();
            (answer.status.as_u16(), answer.body)
        };
        assert_eq!(goes_on(&[&turns, &stands]).0, 200);
        assert_eq!(goes_on(&[&turns]).0, 200);
        let still = (503, "shard 1 stands still\n".to_owned());
        assert_eq!(goes_on(&[&turns]), still);
        assert_eq!(goes_on(&[&turns, &stands]).0, 200);
    }

    #[test]
    fn notice_is_given_before_a_drain() {
        const NOTICE: Duration = Duration::from_secs(5);
        let (shard, clock) = (FakeShard::ending_on(DRAIN), clock());
        let mut source = source(|| Ok(loaded()));
        let snapshot = Arc::get_mut(&mut source.loaded.snapshot).unwrap();
        snapshot.drain.notice = NOTICE;
        let reloader = Reloader::new(source, prepare(1), clock.clone());
        let mut keeper = Keeper::new([shard.clone()], reloader, clock.clone());
        keeper.take(Signal::End, clock.now());
        clock.advance(NOTICE - Duration::from_millis(1));
        assert_eq!(keeper.tick(clock.now()), None);
        assert!(shard.commands.borrow().is_empty(), "it serves on");
        assert!(matches!(keeper.phase, Phase::Leaving { .. }));
        clock.advance(Duration::from_millis(1));
        assert_eq!(keeper.tick(clock.now()), None);
        assert_eq!(keeper.tick(clock.now()), Some(Ending::Drained));
        assert_eq!(*shard.commands.borrow(), [DRAIN]);
    }

    #[test]
    fn a_command_that_finds_no_room_is_sent_again() {
        let shard = FakeShard::ending_on(DRAIN);
        shard.refuses.set(2);
        let (mut keeper, now) = (keeper(&[&shard]), clock().now());
        keeper.take(Signal::End, now);
        assert_eq!(keeper.tick(now), None);
        assert_eq!(keeper.tick(now), None);
        assert_eq!(keeper.tick(now), Some(Ending::Drained));
        assert_eq!(*shard.commands.borrow(), [DRAIN]);
    }

    #[test]
    fn a_reload_signal_reaches_every_shard() {
        let shards = [FakeShard::default(), FakeShard::default()];
        let (mut keeper, now) = (keeper(&[&shards[0], &shards[1]]), clock().now());
        keeper.take(Signal::Reload, now);
        keeper.until(|_| shards.iter().all(|shard| shard.was_told(Told::Install(1))));
    }

    #[test]
    fn a_reload_is_refused_while_draining() {
        let shard = FakeShard::default();
        let (mut keeper, now) = (keeper(&[&shard]), clock().now());
        keeper.take(Signal::Reload, now);
        assert_eq!(keeper.tick(now), None);
        assert!(!keeper.reloader.is_idle());
        let text = logged(|| keeper.take(Signal::End, now));
        assert!(text.contains("the reload is given up"), "{text}");
        let text = logged(|| keeper.take(Signal::Reload, now));
        assert!(text.contains("SIGHUP reloads nothing"), "{text}");
        assert_eq!(keeper.tick(now), None);
        assert!(keeper.reloader.is_idle());
        assert_eq!(*shard.commands.borrow(), [DRAIN]);
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
            [DRAIN],
            "the shard's own deadline comes first"
        );
        clock.advance(DRAIN_GRACE);
        assert_eq!(keeper.tick(clock.now()), None);
        assert_eq!(*shard.commands.borrow(), [DRAIN, Told::Stop]);
        clock.advance(STOP_PATIENCE);
        assert_eq!(keeper.tick(clock.now()), Some(Ending::Unresponsive));
    }

    #[test]
    fn a_lost_shard_drains_the_others_and_is_told() {
        let (lost, other) = (FakeShard::default(), FakeShard::ending_on(DRAIN));
        let (mut keeper, now) = (keeper(&[&lost, &other]), clock().now());
        lost.ended.set(true);
        assert_eq!(keeper.tick(now), None);
        assert_eq!(*other.commands.borrow(), [DRAIN]);
        assert_eq!(keeper.tick(now), Some(Ending::ShardLost));
    }

    #[test]
    fn refusals_that_were_left_out_are_told() {
        let shard = FakeShard::default();
        let mut keeper = keeper(&[&shard]);
        let rate = loaded().config.log.refusal_rate;
        logged(|| {
            for _ in 0..rate + 7 {
                crate::control::report::log(&refused(), &mut keeper.refusal_log, None);
            }
        });
        keeper.clock.advance(Duration::from_secs(10));
        let text = logged(|| assert_eq!(keeper.tick(clock().now()), None));
        assert!(text.contains("lines=7"), "{text}");
    }

    #[test]
    fn a_small_locked_memory_limit_names_the_remedy() {
        let error = io::Error::other("MemLockLimit(65536/524288)");
        for error in [
            GlommioError::ReactorError(ReactorErrorKind::MemLockLimit(65_536, 524_288)),
            GlommioError::IoError(error),
        ] {
            let text = set_up_error(error).to_string();
            assert!(
                text.contains("65536 bytes") && text.contains("LimitMEMLOCK"),
                "{text}"
            );
        }
        let full = io::Error::from(rustix::io::Errno::NOMEM);
        for error in [io::Error::other(full.to_string()), full] {
            let text = set_up_error(GlommioError::IoError(error)).to_string();
            assert!(
                text.contains("of this user") && !text.contains("io_uring_disabled"),
                "{text}"
            );
        }
        let other = GlommioError::IoError(io::ErrorKind::PermissionDenied.into());
        assert!(
            set_up_error(other)
                .to_string()
                .contains("io_uring_disabled")
        );
    }
}
