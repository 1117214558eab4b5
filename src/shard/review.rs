//! Judging the clients of open connections again after another snapshot was installed.
//!
//! A few at a time between two turns of the loop, so that nobody who is being served notices.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::UnixTime;

use super::Shard;
use super::entry::Entry;
use super::front::Front;
use super::mailbox::{Lost, Review};
use super::upstreams::Tried;
use crate::close_reason::CloseReason;
use crate::connection::{Command, Event};
use crate::limits::REVIEW_EXAMPLES_MAX;
use crate::snapshot::{Listener, LiveRevocation};
use crate::trust::Authorized;
use crate::trust::domain::Refusal;

/// How long one turn of the loop spends on it.
pub(super) const TURN_BUDGET: Duration = Duration::from_micros(500);

/// A review that is under way.
pub(super) struct UnderWay {
    /// The next connection to look at, and how many there may be.
    next: usize,
    end: usize,
    began: Instant,
    figures: Review,
}

impl Shard {
    /// Starts to judge the clients of all open connections again, by what is served now; the change
    /// to it `began` in this turn.
    ///
    /// Where nobody is to be ended or told of it, they are judged all the same: each connection would
    /// keep what was served when it came, and with many reloads that is much.
    pub(super) fn begin_review(&mut self, generation: u64, began: Instant) {
        self.end_review(false);
        let mode = self.snapshot.live_revocation;
        let figures = Review {
            generation,
            mode,
            judged: 0,
            lost: 0,
            examples: Vec::new(),
            took: Duration::ZERO,
            longest_turn: self.clock.now() - began,
            finished: false,
        };
        self.review = Some(UnderWay {
            next: 0,
            end: self.connections.capacity(),
            began,
            figures,
        });
    }

    /// Goes on with the review for a part of a turn.
    pub(super) fn go_on_with_review(&mut self) {
        let Some(mut review) = self.review.take() else {
            return;
        };
        let began = self.clock.now();
        let mut held_up = Duration::ZERO;
        while review.next < review.end && held_up < TURN_BUDGET {
            self.review_one(review.next, &mut review.figures);
            review.next += 1;
            held_up = self.clock.now() - began;
        }
        let figures = &mut review.figures;
        figures.longest_turn = figures.longest_turn.max(held_up);
        let finished = review.next >= review.end;
        self.review = Some(review);
        if finished {
            self.end_review(true);
        }
    }

    fn end_review(&mut self, finished: bool) {
        if let Some(review) = self.review.take()
            && review.figures.mode != LiveRevocation::Off
        {
            let took = self.clock.now() - review.began;
            self.inbox.review(Review {
                took,
                finished,
                ..review.figures
            });
        }
    }

    fn review_one(&mut self, key: usize, figures: &mut Review) {
        let Ok(key) = u32::try_from(key) else {
            return;
        };
        let Some(refusal) = self.judge_again(key, &mut figures.judged).err() else {
            return;
        };
        figures.lost += 1;
        if figures.mode == LiveRevocation::Close {
            self.withdraw(key, CloseReason::AccessWithdrawn, refusal);
        } else if figures.mode == LiveRevocation::DryRun
            && figures.examples.len() < REVIEW_EXAMPLES_MAX
            && let Some(entry) = self.connections.get(key as usize)
        {
            figures.examples.push(lost(entry, refusal));
        }
    }

    /// Whether the client of an open connection may connect upstream: one that was let in by what
    /// was served before is judged by what is served now.
    pub(super) fn may_connect(&mut self, key: u32) -> bool {
        match self.judge_again(key, &mut 0) {
            Ok(()) => true,
            Err(refusal) => {
                let reason = refusal.reason;
                self.withdraw(key, reason, refusal);
                false
            }
        }
    }

    /// Ends the session of a client that lost its right.
    pub(super) fn withdraw(&mut self, key: u32, reason: CloseReason, refusal: Refusal) {
        let command = Command::Withdraw(reason, refusal);
        self.dispatch(key, Event::Command(command));
    }

    /// Judges the client of an open connection by what is served now. If it keeps its right, the
    /// connection goes on under what is served now, and holds nothing of before any more.
    fn judge_again(&mut self, key: u32, judged: &mut u64) -> Result<(), Refusal> {
        let Some(entry) = self.connections.get(key as usize) else {
            return Ok(());
        };
        if !entry.connection.is_open() || entry.front.generation == self.generation {
            return Ok(());
        }
        let now = UnixTime::since_unix_epoch(self.clock.unix());
        let successor = self.counterpart(&entry.front.listener);
        let front = successor.ok_or_else(|| gone(&entry.front.listener.name))?;
        let Some((client, route)) = judge(entry, &front.listener, now, judged)? else {
            return Ok(());
        };
        let front = Rc::clone(front);
        if let Some(entry) = self.connections.get_mut(key as usize) {
            let settings = Arc::clone(&front.settings);
            entry.connection.adopt(settings, client, route);
            let before = std::mem::replace(&mut entry.front, front);
            // A listener that was given another name is counted anew.
            if !Arc::ptr_eq(&before.counters, &entry.front.counters) {
                entry.front.counters.adopt_from(&before.counters);
            }
            // Of the upstreams of before.
            entry.tried = Tried::default();
        }
        self.begin_tenure(key);
        Ok(())
    }

    /// What serves now in the place of `listener`: that of the same name, or else one with an address
    /// of it, which was given another name.
    pub(super) fn counterpart(&self, listener: &Listener) -> Option<&Rc<Front>> {
        let renamed = || {
            self.fronts.iter().find(|front| {
                let mut addresses = front.listener.addresses.iter();
                addresses.any(|address| listener.addresses.contains(address))
            })
        };
        self.front(&listener.name).or_else(renamed)
    }
}

/// A client that would no longer be let in, for people.
pub(super) fn lost(entry: &Entry, refusal: Refusal) -> Lost {
    Lost {
        reason: refusal.reason,
        detail: refusal.detail,
        listener: entry.front.listener.name.clone(),
        peer: entry.connection.addresses().client,
        via: entry.connection.via(),
        unique_id: entry.connection.unique_id(),
    }
}

/// Whether `listener` lets in who was let in before: the client with the rule that does, and its
/// route. `None` for a connection without a session.
pub(super) fn judge(
    entry: &Entry,
    listener: &Listener,
    now: UnixTime,
    judged: &mut u64,
) -> Result<Option<(Authorized, usize)>, Refusal> {
    let Some(session) = entry.connection.session() else {
        return Ok(None);
    };
    let before = &entry.front.listener.acceptor.routes()[session.route].domain;
    let acceptor = &listener.acceptor;
    let route = acceptor.route_for(session.server_name.as_deref())?;
    let domain = &acceptor.routes()[route].domain;
    if domain.digest() == before.digest() {
        return Ok(Some((session.client.clone(), route)));
    }
    *judged += 1;
    let client = domain.authorize_again(&session.client, now)?;
    Ok(Some((client, route)))
}

/// Nobody has a right at a listener that is not there.
pub(super) fn gone(listener: &str) -> Refusal {
    Refusal {
        reason: CloseReason::PolicyUnmatched,
        detail: format!("the listener `{listener}` is no longer configured"),
        claimed: None,
    }
}
