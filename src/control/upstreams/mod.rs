//! Looking after upstreams: are they well, and where do their names lead.

mod ejections;
mod health;
mod probe;

use std::time::{Duration, Instant};

use glommio::{LocalExecutorBuilder, Placement};

use super::report::escaped;
use crate::clock::Clock;
use crate::config::HostPort;
use crate::shard::mailbox::Command;
use crate::snapshot::{Found, Lookup, LookupOver, Renewal, Upstreams};
use ejections::Ejections;
use health::Checks;

/// How often an upkeep of its own looks what is to be done.
const TICK: Duration = Duration::from_millis(20);

/// How long a look-up may take before a line in the log says so.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks after the upstreams of a terminator.
#[derive(Debug)]
pub struct Upkeep {
    upstreams: Upstreams,
    clock: Clock,
    /// Of the upstreams that are looked after now; `None` at first.
    revision: Option<u64>,
    checks: Checks,
    ejections: Ejections,
    names: Vec<Name>,
    lookup: Option<Going>,
}

/// A name that is looked up every so often.
#[derive(Debug)]
struct Name {
    name: HostPort,
    every: Duration,
    next_at: Instant,
    is_failing: bool,
}

#[derive(Debug)]
struct Going {
    lookup: Lookup,
    since: Instant,
    is_late: bool,
}

impl Upkeep {
    pub fn new(upstreams: Upstreams, clock: Clock) -> Self {
        Self {
            upstreams,
            ejections: Ejections::new(clock.now()),
            clock,
            revision: None,
            checks: Checks::new(),
            names: Vec::new(),
            lookup: None,
        }
    }

    /// Looks after the upstreams on an executor of its own until `is_over`: for a program that runs
    /// a terminator without a [`super::Control`]. `send` sends a command to the shard of that index,
    /// and is asked again where it gives the command back.
    ///
    /// # Errors
    ///
    /// When there is no executor.
    pub fn run(
        mut self,
        mut send: impl FnMut(usize, Command) -> Result<(), Command>,
        is_over: impl Fn() -> bool,
    ) -> Result<(), super::ControlError> {
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .name("ringgate-upkeep")
            .make()
            .map_err(|error| super::ControlError::Ring(error.to_string()))?;
        executor.run(async {
            let mut unsent = Vec::new();
            while !is_over() {
                unsent.extend(self.tick().into_iter().enumerate());
                let waiting = std::mem::take(&mut unsent);
                for (shard, renewals) in waiting {
                    if let Err(Command::Renew(renewals)) = send(shard, Command::Renew(renewals)) {
                        unsent.push((shard, renewals));
                    }
                }
                glommio::timer::sleep(TICK).await;
            }
        });
        Ok(())
    }

    pub(super) fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// Does what is to be done; what each shard is to be sent of it, with the indices of the shards,
    /// or nothing.
    pub(super) fn tick(&mut self) -> Vec<Vec<Renewal>> {
        let now = self.clock.now();
        let mut renewals: Vec<Vec<Renewal>> = Vec::new();
        for found in self.found(now) {
            let renewed = self.take(found);
            renewals.resize_with(renewals.len().max(renewed.len()), Vec::new);
            for (all, renewed) in renewals.iter_mut().zip(renewed) {
                all.extend(renewed);
            }
        }
        self.catch_up(now);
        self.look_up(now);
        self.checks.tick(now);
        self.ejections.tick(now, || self.upstreams.states());
        renewals
    }

    /// Looks after what there is now.
    fn catch_up(&mut self, now: Instant) {
        let revision = self.upstreams.revision();
        if self.revision.replace(revision) == Some(revision) {
            return;
        }
        self.checks.set(self.upstreams.checked(), now);
        let mut before = std::mem::take(&mut self.names);
        for (name, every) in self.upstreams.names() {
            let known = before.iter().position(|known| known.name == name);
            let next_at = now + every;
            self.names.push(match known {
                Some(known) => {
                    let known = before.swap_remove(known);
                    Name {
                        every,
                        next_at: known.next_at.min(next_at),
                        ..known
                    }
                }
                None => Name {
                    name,
                    every,
                    next_at,
                    is_failing: false,
                },
            });
        }
    }

    /// Starts to look up the names that are due, where no look-up is on its way.
    fn look_up(&mut self, now: Instant) {
        if self.lookup.is_some() {
            return;
        }
        let due = self.names.iter_mut().filter(|name| name.next_at <= now);
        let due = due.map(|name| {
            name.next_at = now + name.every;
            name.name.clone()
        });
        let due: Vec<_> = due.collect();
        if due.is_empty() {
            return;
        }
        match Lookup::start(due) {
            Ok(lookup) => {
                self.lookup = Some(Going {
                    lookup,
                    since: now,
                    is_late: false,
                });
            }
            Err(error) => tracing::warn!(%error, "no thread to look up names of upstreams on"),
        }
    }

    /// What has been found.
    fn found(&mut self, now: Instant) -> Vec<Found> {
        let mut all = Vec::new();
        let Some(going) = &mut self.lookup else {
            return all;
        };
        loop {
            match going.lookup.next() {
                Ok(Some(found)) => all.push(found),
                Ok(None) => break,
                Err(LookupOver) => {
                    self.lookup = None;
                    return all;
                }
            }
        }
        if !going.is_late && now.saturating_duration_since(going.since) >= PATIENCE {
            going.is_late = true;
            tracing::warn!("looking up names of upstreams takes long; the last addresses stay");
        }
        all
    }

    /// Takes in what was found for a name; what each shard is to be sent of it.
    fn take(&mut self, (name, found): Found) -> Vec<Vec<Renewal>> {
        let known = self.names.iter_mut().find(|known| known.name == name);
        let shown = escaped(&name.to_string());
        let is_failing = found.is_err();
        let was_failing =
            known.is_some_and(|known| std::mem::replace(&mut known.is_failing, is_failing));
        match found {
            Err(problem) => {
                self.upstreams.count_lookup_failure(&name);
                if !was_failing {
                    let problem = escaped(&problem);
                    tracing::warn!(
                        name = shown,
                        problem,
                        "the name of an upstream cannot be looked up; its last addresses stay"
                    );
                }
                Vec::new()
            }
            Ok(addresses) => {
                if was_failing {
                    tracing::info!(name = shown, "the name of an upstream is found again");
                }
                let listed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let renewals = self.upstreams.set_addresses(&name, addresses);
                if renewals.is_some() {
                    let addresses = listed.join(" ");
                    tracing::info!(name = shown, addresses, "an upstream has other addresses");
                }
                renewals.unwrap_or_default()
            }
        }
    }
}
