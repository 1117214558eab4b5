//! The shards as the control plane sees them.

use std::collections::VecDeque;
use std::sync::Arc;

use super::access::AccessLog;
use super::report::{RefusalLog, Refusals};
use crate::limits::REPORT_QUEUE_LEN;
use crate::shard::mailbox::{Command, Counters, ListenerCounters, Mailbox, Report, Review};

/// One shard's mailbox. None of these calls may block.
pub trait Port {
    /// Sends a command; gives it back when the shard has not taken the last ones.
    fn send(&mut self, command: Command) -> Result<(), Command>;
    /// The generation of the installation that the shard works from.
    fn installed(&self) -> u64;
    /// Whether the shard has ended.
    fn ended(&self) -> bool;
    /// Grows with every turn of the shard's loop.
    fn turns(&self) -> u64;
    /// What the shard counts.
    fn counters(&self) -> &Counters;
    /// And of each listener.
    fn listeners(&self) -> &[(Arc<str>, Arc<ListenerCounters>)];
    /// The shard's thread (gettid).
    fn thread_id(&self) -> Option<i32>;
    /// The next report that waits.
    fn report(&mut self) -> Option<Report>;
    /// The next review of its open connections that waits.
    fn review(&mut self) -> Option<Review>;
}

impl Port for &mut Mailbox {
    fn send(&mut self, command: Command) -> Result<(), Command> {
        Mailbox::send(self, command)
    }

    fn installed(&self) -> u64 {
        Mailbox::installed(self)
    }

    fn ended(&self) -> bool {
        Mailbox::ended(self)
    }

    fn counters(&self) -> &Counters {
        Mailbox::counters(self)
    }

    fn listeners(&self) -> &[(Arc<str>, Arc<ListenerCounters>)] {
        Mailbox::listeners(self)
    }

    fn thread_id(&self) -> Option<i32> {
        Mailbox::thread_id(self)
    }

    fn turns(&self) -> u64 {
        // Each turn waits in the ring.
        self.counters().enters()
    }

    fn report(&mut self) -> Option<Report> {
        Mailbox::report(self)
    }

    fn review(&mut self) -> Option<Review> {
        Mailbox::review(self)
    }
}

/// How connections were spread over the shards.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spread {
    /// Connections accepted, by shard.
    pub(super) accepted: Vec<u64>,
}

impl Spread {
    pub(super) fn of<P: Port>(shards: &[Shard<P>]) -> Self {
        Self {
            accepted: shards
                .iter()
                .map(|shard| shard.port.counters().accepted())
                .collect(),
        }
    }

    /// What the busiest shard accepted over the mean of all: 1 is even, the number of shards is all
    /// on one. `None` where nobody came.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of connections fit 52 bits"
    )]
    pub(super) fn skew(&self) -> Option<f64> {
        let sum: u64 = self.accepted.iter().sum();
        let busiest = *self.accepted.iter().max()?;
        (sum > 0).then(|| busiest as f64 * self.accepted.len() as f64 / sum as f64)
    }
}

/// A shard, and the commands that it still has to be sent, the oldest first.
#[derive(Debug)]
pub(super) struct Shard<P> {
    port: P,
    unsent: VecDeque<Command>,
}

impl<P: Port> Shard<P> {
    pub(super) fn new(port: P) -> Self {
        Self {
            port,
            unsent: VecDeque::new(),
        }
    }

    /// Sends `command`, now or as soon as there is room for it.
    pub(super) fn command(&mut self, command: Command) {
        self.unsent.push_back(command);
        self.send_unsent();
    }

    pub(super) fn send_unsent(&mut self) {
        while let Some(command) = self.unsent.pop_front() {
            if let Err(command) = self.port.send(command) {
                self.unsent.push_front(command);
                return;
            }
        }
    }

    /// Whether the shard works from this installation or a later one, or never will.
    pub(super) fn has_installed(&self, generation: u64) -> bool {
        self.port.installed() >= generation || self.port.ended()
    }

    pub(super) fn ended(&self) -> bool {
        self.port.ended()
    }

    /// Turns of its loop; `None` once it has ended.
    pub(super) fn turns(&self) -> Option<u64> {
        (!self.ended()).then(|| self.port.turns())
    }

    pub(super) fn port(&self) -> &P {
        &self.port
    }

    /// Logs what waits in the queues; at most one queue's worth, so that a flood of reports from
    /// one shard keeps the control plane from neither signals nor the other shards.
    pub(super) fn log_reports(
        &mut self,
        number: usize,
        refusal_log: &mut RefusalLog,
        mut access: Option<&mut AccessLog>,
        refusals: &mut Refusals,
    ) {
        while let Some(review) = self.port.review() {
            super::report::log_review(number, &review);
        }
        for _ in 0..REPORT_QUEUE_LEN {
            match self.port.report() {
                Some(report) => {
                    super::report::log(&report, refusal_log, access.as_deref_mut());
                    refusals.note(&report);
                }
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skew_is_the_busiest_over_the_mean() {
        for (accepted, skew) in [
            (vec![], None),
            (vec![0, 0], None),
            (vec![5], Some(1.0)),
            (vec![10, 10, 10, 10], Some(1.0)),
            (vec![30, 10], Some(1.5)),
            (vec![0, 0, 0, 7], Some(4.0)),
        ] {
            assert_eq!(Spread { accepted }.skew(), skew);
        }
    }
}
