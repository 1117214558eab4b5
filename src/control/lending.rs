//! Gathering every shard's listening sockets for a successor.

use std::time::{Duration, Instant};

use rtrb::{Consumer, RingBuffer};

use super::admin::{Asker, Lent};
use super::executor::{Keeper, Phase};
use super::shards::Port;
use super::takeover::Passed;
use crate::shard::mailbox::{self, Command};

/// How long the shards may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sockets on their way from the shards.
#[derive(Debug)]
pub(super) struct Lending {
    asker: Asker<Lent>,
    /// Of shards that have not answered.
    awaited: Vec<Consumer<Vec<mailbox::Lent>>>,
    passed: Vec<Passed>,
    until: Instant,
}

impl<P: Port> Keeper<'_, P> {
    /// Goes on with what successors ask for.
    pub(super) fn lend(&mut self) {
        if self.lending.is_none() {
            let Some(asker) = self.desk.next_borrower() else {
                return;
            };
            if !matches!(self.phase, Phase::Serving) {
                return asker.answer(Err("it is ending already".to_owned()));
            }
            let awaited = self.shards.iter_mut().map(|shard| {
                let (lender, borrower) = RingBuffer::new(1);
                shard.command(Command::Lend(lender));
                borrower
            });
            self.lending = Some(Lending {
                asker,
                awaited: awaited.collect(),
                passed: Vec::new(),
                until: self.clock.now() + PATIENCE,
            });
        }
        let now = self.clock.now();
        if let Some(lending) = &mut self.lending
            && let Some(lent) = lending.gather(now)
        {
            lending.asker.answer(lent);
            self.lending = None;
        }
    }
}

impl Lending {
    /// All sockets, once every shard has answered; or why that will not be.
    fn gather(&mut self, now: Instant) -> Option<Lent> {
        let mut failed = false;
        self.awaited.retain_mut(|borrower| {
            // Before it is looked into: what was put there last is then never missed.
            let is_abandoned = borrower.is_abandoned();
            let Ok(lent) = borrower.pop() else {
                failed |= is_abandoned;
                return true;
            };
            self.passed.extend(lent.into_iter().map(|lent| Passed {
                is_shared: lent.socket.is_shared(),
                number: lent.socket.number(),
                socket: lent.socket.into_fd(),
                listener: lent.listener.to_string(),
            }));
            false
        });
        if failed {
            let why = "a shard could not duplicate its sockets: raise LimitNOFILE= or `ulimit -n`";
            return Some(Err(why.to_owned()));
        }
        if self.awaited.is_empty() {
            return Some(Ok(std::mem::take(&mut self.passed)));
        }
        (now >= self.until).then(|| Err("its shards do not answer".to_owned()))
    }
}
