//! Judging the clients of open connections by a snapshot that is not served: what a reload would do
//! to them.
//!
//! As a review, a few at a time. One that is under way goes first: it may have to end somebody.

use std::time::{Duration, Instant};

use rustls_pki_types::UnixTime;

use super::Shard;
use super::entry::Entry;
use super::mailbox::{Rehearsal, Review};
use super::review::{TURN_BUDGET, gone, judge, lost};
use crate::limits::REVIEW_EXAMPLES_MAX;
use crate::snapshot::{Listener, LiveRevocation, Snapshot};
use crate::trust::Refusal;

/// A rehearsal that is under way.
pub(super) struct Rehearsing {
    rehearsal: Rehearsal,
    /// The next connection to look at, and how many there may be.
    next: usize,
    end: usize,
    began: Instant,
    figures: Review,
}

impl Shard {
    /// Starts to judge the clients of all open connections. One that had not ended never will.
    pub(super) fn begin_rehearsal(&mut self, rehearsal: Rehearsal) {
        self.rehearsal = Some(Rehearsing {
            rehearsal,
            next: 0,
            end: self.connections.capacity(),
            began: self.clock.now(),
            figures: Review {
                generation: self.generation,
                mode: LiveRevocation::DryRun,
                judged: 0,
                lost: 0,
                examples: Vec::new(),
                took: Duration::ZERO,
                longest_turn: Duration::ZERO,
                finished: true,
            },
        });
    }

    /// Goes on with the rehearsal for a part of a turn.
    pub(super) fn go_on_with_rehearsal(&mut self) {
        if self.review.is_some() {
            return;
        }
        let Some(mut under_way) = self.rehearsal.take() else {
            return;
        };
        let began = self.clock.now();
        let mut held_up = Duration::ZERO;
        while under_way.next < under_way.end && held_up < TURN_BUDGET {
            if let Some(entry) = self.connections.get(under_way.next) {
                let now = UnixTime::since_unix_epoch(self.clock.unix());
                under_way.judge(entry, now);
            }
            under_way.next += 1;
            held_up = self.clock.now() - began;
        }
        let figures = &mut under_way.figures;
        figures.longest_turn = figures.longest_turn.max(held_up);
        if under_way.next < under_way.end {
            self.rehearsal = Some(under_way);
            return;
        }
        figures.took = self.clock.now() - under_way.began;
        // There is room for one; who asked may have left.
        let _ = under_way.rehearsal.outcome.push(under_way.figures);
    }
}

impl Rehearsing {
    fn judge(&mut self, entry: &Entry, now: UnixTime) {
        if !entry.connection.is_open() {
            return;
        }
        let figures = &mut self.figures;
        let refused: Refusal = match successor(&self.rehearsal.snapshot, &entry.front.listener) {
            None => gone(&entry.front.listener.name),
            Some(listener) => match judge(entry, listener, now, &mut figures.judged) {
                Ok(_) => return,
                Err(refusal) => refusal,
            },
        };
        figures.lost += 1;
        if figures.examples.len() < REVIEW_EXAMPLES_MAX {
            figures.examples.push(lost(entry, refused));
        }
    }
}

/// What `snapshot` serves in the place of `listener`, as in a review.
fn successor<'a>(snapshot: &'a Snapshot, listener: &Listener) -> Option<&'a Listener> {
    let mut listeners = snapshot.listeners.iter();
    let same = listeners.clone().find(|other| other.name == listener.name);
    let renamed = || {
        listeners.find(|other| {
            let mut addresses = other.addresses.iter();
            addresses.any(|address| listener.addresses.contains(address))
        })
    };
    same.or_else(renamed).map(|listener| &**listener)
}
