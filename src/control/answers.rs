//! What the control loop answers to what was asked over the admin interface.

use hyper::StatusCode;

use super::admin::{
    Answer, Asker, Known, Observation, Question, Reloaded, Stage, metrics, observe, status,
};
use super::executor::{Keeper, Phase};
use super::log;
use super::reload::Cause;
use super::shards::Port;
use super::upstreams::Upkeep;
use crate::limits::SHARD_PATIENCE;
use crate::snapshot::Upstreams;

const ENDING: &str = "the process is ending: nothing is reloaded";

impl<P: Port> Keeper<'_, P> {
    /// Answers whoever can be answered now.
    pub(super) fn answer_all(&mut self) {
        while let Some((question, asker)) = self.desk.next() {
            self.answer(question, asker);
        }
        let status = self.reloader.status();
        for (_, asker) in self
            .awaiting_reload
            .extract_if(.., |(attempt, _)| status.attempts >= *attempt)
        {
            let code = match status.errors.is_empty() {
                true => StatusCode::OK,
                false => StatusCode::UNPROCESSABLE_ENTITY,
            };
            let outcome = Reloaded {
                generation: status.generation,
                errors: status.errors.clone(),
            };
            asker.answer(Answer::json(code, &outcome));
        }
    }

    /// The process is ending: who waits for what will not be is told so.
    pub(super) fn answer_in_vain(&mut self) {
        let reloads = self.awaiting_reload.drain(..).map(|(_, asker)| asker);
        for asker in reloads.chain(self.rehearsals.give_up()) {
            asker.answer(Answer::text(StatusCode::CONFLICT, ENDING));
        }
    }

    fn answer(&mut self, question: Question, asker: Asker) {
        let is_serving = matches!(self.phase, Phase::Serving);
        let reloads = is_serving || matches!(self.phase, Phase::Leaving { .. });
        let answer = match question {
            Question::Live => self.liveness(),
            Question::Ready if is_serving => Answer::text(StatusCode::OK, "ok"),
            Question::Ready => {
                Answer::text(StatusCode::SERVICE_UNAVAILABLE, "the process is ending")
            }
            Question::Metrics => metrics(self.observe()),
            Question::Status => status(&self.observe()),
            Question::LogLevel(level) => match log::set_level(level) {
                true => {
                    tracing::warn!("log level {} from here on", level.label());
                    Answer::text(StatusCode::OK, format!("log level {}", level.label()))
                }
                false => Answer::text(
                    StatusCode::CONFLICT,
                    "another program than ringgate run holds the log",
                ),
            },
            Question::Drain => {
                if is_serving {
                    self.leave(self.clock.now());
                }
                Answer::text(StatusCode::ACCEPTED, "draining")
            }
            Question::Release => {
                if is_serving {
                    tracing::info!("draining: a successor accepts the connections from here on");
                    self.hand_over(self.clock.now());
                    Answer::text(StatusCode::ACCEPTED, "draining")
                } else {
                    Answer::text(StatusCode::CONFLICT, "the process is ending already")
                }
            }
            Question::Reload | Question::DryRun if !reloads => {
                Answer::text(StatusCode::CONFLICT, ENDING)
            }
            Question::DryRun => return self.ask_for_rehearsal(asker),
            Question::Reload => {
                let attempt = self.reloader.next_attempt();
                self.reloader.request(Cause::Asked);
                return self.awaiting_reload.push((attempt, asker));
            }
        };
        asker.answer(answer);
    }

    /// Whether every shard that has not ended turns.
    pub(super) fn liveness(&mut self) -> Answer {
        let now = self.clock.now();
        self.feel_pulse(now);
        match self.pulse.stands_still(now, SHARD_PATIENCE) {
            None => Answer::text(StatusCode::OK, "ok"),
            Some(shard) => {
                let text = format!("shard {shard} stands still");
                Answer::text(StatusCode::SERVICE_UNAVAILABLE, text)
            }
        }
    }

    fn observe(&self) -> Observation {
        let upstreams = self.upkeep.as_ref().map(Upkeep::upstreams);
        let known = Known {
            stage: match self.phase {
                Phase::Serving => Stage::Serving,
                Phase::Leaving { .. } | Phase::Draining { .. } => Stage::Draining,
                Phase::Stopping { .. } => Stage::Stopping,
            },
            now: self.clock.unix(),
            started: self.started,
            reload: self.reloader.status(),
            snapshot: self.reloader.current(),
            refusals: self.refusals.last(),
            upstreams: upstreams.map(Upstreams::states).unwrap_or_default(),
            names: upstreams.map(Upstreams::name_states).unwrap_or_default(),
            confinement: self.confinement.clone(),
            access_skipped: self.access.skipped(),
            refusals_skipped: self.refusal_log.skipped(),
            log_dropped: log::dropped(),
        };
        observe(known, &self.shards)
    }
}
