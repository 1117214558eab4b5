//! What a reload would do to the clients that are connected, for whoever asks before it is done.

use std::sync::Arc;

use hyper::StatusCode;
use rtrb::{Consumer, RingBuffer};

use super::admin::{Answer, Asker, DryRun, Withdrawn};
use super::executor::Keeper;
use super::report::escaped;
use super::shards::Port;
use crate::shard::mailbox::{self, Command, Review};
use crate::snapshot::Snapshot;

/// A rehearsal and who waits for what comes of it.
#[derive(Debug, Default)]
pub(super) struct Rehearsals {
    /// Each with the rehearsal that it waits for: one that began after it asked.
    askers: Vec<(u64, Asker)>,
    under_way: Option<UnderWay>,
}

/// One that the shards are at.
#[derive(Debug)]
struct UnderWay {
    snapshot: Arc<Snapshot>,
    askers: Vec<Asker>,
    /// Of shards that have not answered.
    awaited: Vec<Consumer<Review>>,
    sum: DryRun,
}

impl<P: Port> Keeper<'_, P> {
    /// Somebody wants to know what a reload would do.
    pub(super) fn ask_for_rehearsal(&mut self, asker: Asker) {
        let awaited = self.reloader.next_rehearsal();
        self.rehearsals.askers.push((awaited, asker));
        self.reloader.rehearse();
    }

    /// Goes on with what was asked for.
    pub(super) fn rehearse(&mut self) {
        if let Some(mut under_way) = self.rehearsals.under_way.take() {
            under_way.gather();
            if under_way.awaited.is_empty() {
                let answer = Answer::json(StatusCode::OK, &under_way.sum);
                for asker in under_way.askers {
                    asker.answer(answer.clone());
                }
                self.reloader.retire(under_way.snapshot);
            } else {
                self.rehearsals.under_way = Some(under_way);
            }
            return;
        }
        match self.reloader.take_rehearsed() {
            None => {}
            Some((number, Err(errors))) => {
                let sum = DryRun {
                    errors,
                    ..DryRun::default()
                };
                let answer = Answer::json(StatusCode::UNPROCESSABLE_ENTITY, &sum);
                for asker in self.rehearsals.take(number) {
                    asker.answer(answer.clone());
                }
            }
            Some((number, Ok(snapshot))) => {
                let awaited = self.shards.iter_mut().map(|shard| {
                    let (outcome, review) = RingBuffer::new(1);
                    let snapshot = Arc::clone(&snapshot);
                    let rehearsal = mailbox::Rehearsal { snapshot, outcome };
                    shard.command(Command::Rehearse(Box::new(rehearsal)));
                    review
                });
                self.rehearsals.under_way = Some(UnderWay {
                    awaited: awaited.collect(),
                    askers: self.rehearsals.take(number),
                    sum: DryRun::default(),
                    snapshot,
                });
            }
        }
    }
}

impl Rehearsals {
    /// Those who wait for this rehearsal, or an earlier one.
    fn take(&mut self, number: u64) -> Vec<Asker> {
        let waiting = self
            .askers
            .extract_if(.., |(awaited, _)| *awaited <= number);
        waiting.map(|(_, asker)| asker).collect()
    }

    /// Everybody who waits.
    pub(super) fn give_up(&mut self) -> Vec<Asker> {
        let under_way = self.under_way.take().map(|under_way| under_way.askers);
        let mut askers = self.take(u64::MAX);
        askers.extend(under_way.into_iter().flatten());
        askers
    }
}

impl UnderWay {
    fn gather(&mut self) {
        self.awaited.retain_mut(|review| {
            let is_abandoned = review.is_abandoned();
            let Ok(review) = review.pop() else {
                // A shard that has ended has no clients.
                return !is_abandoned;
            };
            self.sum.judged += review.judged;
            self.sum.lost += review.lost;
            let examples = review.examples.iter().map(|lost| Withdrawn {
                reason: lost.reason.label().to_owned(),
                listener: escaped(&lost.listener),
                peer: lost.peer,
                via: lost.via,
                connection: format!("{:032x}", lost.unique_id),
                detail: escaped(&lost.detail),
            });
            self.sum.examples.extend(examples);
            false
        });
    }
}
