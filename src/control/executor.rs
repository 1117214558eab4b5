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
    /// Nobody could have told it to end, or asked it anything, or it could not begin to serve: it ended
    /// at once.
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
            let signals = signals.collect().unwrap_or_else(|error| {
                tracing::error!(%error, "signals cannot be read; ending at once");
                keeper.is_out_of_control = true;
                Collected::default()
            });
            let mut serving = match admin.serve(&keeper.desk) {
                Ok(serving) => Some(serving),
                Err(error) => {
                    tracing::error!("{error}; ending at once");
                    keeper.is_out_of_control = true;
                    None
                }
            };
            if keeper.is_out_of_control {
                // Shards that wait for it end then.
                drop(begin);
            } else if let Err(problem) = begin() {
                tracing::error!("{problem}; ending at once");
                keeper.is_out_of_control = true;
            }
            if keeper.is_out_of_control {
                keeper.stop(clock.now());
            } else if let Some(serving) = &mut serving {
                serving.settle();
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
            (Signal::Reload, Phase::Serving | Phase::Leaving { .. }) => {
                self.reloader.request(Cause::Signal);
            }
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

    pub(super) fn feel_pulse(&mut self, now: Instant) {
        self.pulse.feel(now, self.shards.iter().map(Shard::turns));
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
            // Whoever comes is judged by what counts today.
            Phase::Serving | Phase::Leaving { .. } => self.reloader.tick(&mut self.shards),
            Phase::Draining { .. } | Phase::Stopping { .. } => self.reloader.sweep(),
        }
        self.reloader.tell(&mut self.supervisor);
        self.feel_pulse(now);
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
mod tests;
