//! Connecting to an upstream, and relaying in both directions.

use std::io;

use rustls::AlertDescription;

use super::{Action, ConnectPermit, Connection, Context, Event, Refused, Side, Stage};
use crate::close_reason::CloseReason;
use crate::limits::{BLOCK_LEN, CONNECT_ATTEMPTS_MAX, RECORD_PLAINTEXT_MAX};
use crate::tls::{Established, RecordFailure};

impl Connection {
    pub(super) fn on_open(&mut self, event: Event<'_>, context: &mut Context<'_>) {
        match event {
            Event::Received(Side::Client, bytes) => self.client_sent(bytes, context),
            Event::Received(Side::Upstream, bytes) => self.upstream_sent(bytes, context),
            Event::Ended(Side::Client, Ok(())) => self.client_ended(context),
            Event::Ended(Side::Client, Err(_)) => self.client_reset(context),
            Event::Ended(Side::Upstream, Ok(())) => self.upstream_ended(context),
            Event::Ended(Side::Upstream, Err(error)) => self.upstream_failed(&error, context),
            Event::Connected(result) => self.connected(result, context),
            Event::Deadline => self.open_deadline(context),
            Event::UpstreamsFull => self.end_with_alert(
                CloseReason::UpstreamFull,
                AlertDescription::InternalError,
                context,
            ),
            // Handled before.
            Event::Command(_) | Event::Sent(..) => {}
        }
    }

    fn connected(&mut self, result: io::Result<()>, context: &mut Context<'_>) {
        let stage = std::mem::replace(&mut self.stage, Stage::Closed(None));
        let Stage::Connecting {
            session,
            attempt,
            timed_out,
            unanswered,
        } = stage
        else {
            self.stage = stage;
            return;
        };
        match result {
            Ok(()) if !timed_out => {
                self.stage = Stage::Relaying { session };
                if let Some(reason) = self.gone {
                    return self.start_flushing(reason, context);
                }
                self.inbound.pump(Side::Upstream, context);
                self.outbound.receive(context);
                self.finish_inbound(context);
                self.touch(context);
            }
            Ok(()) => {
                // It came too late: another is tried.
                context.actions.push(Action::CloseUpstream);
                self.connect_failed(session, attempt, true, context);
            }
            Err(_) => self.connect_failed(session, attempt, timed_out || unanswered, context),
        }
    }

    /// Tries the next upstream; `unanswered`: one of those tried did not answer in time.
    fn connect_failed(
        &mut self,
        session: Box<Established>,
        attempt: usize,
        unanswered: bool,
        context: &mut Context<'_>,
    ) {
        let next = attempt + 1;
        let permit = (next < CONNECT_ATTEMPTS_MAX)
            .then(|| ConnectPermit::new(&session.client, session.route, next));
        self.stage = Stage::Connecting {
            session,
            attempt: next,
            timed_out: false,
            unanswered,
        };
        if let Some(permit) = permit {
            self.deadline = context.now + self.settings.connect_timeout;
            context.actions.push(Action::Connect(permit));
            return;
        }
        let reason = if unanswered {
            CloseReason::UpstreamConnectTimeout
        } else {
            CloseReason::UpstreamUnreachable
        };
        self.end_with_alert(reason, AlertDescription::InternalError, context);
    }

    /// Opens what the client sent and passes it on.
    pub(super) fn client_sent(&mut self, bytes: &mut [u8], context: &mut Context<'_>) {
        if self.inbound.ended {
            return;
        }
        match self.open_all(bytes, context) {
            Ok(closed) => {
                self.inbound.ended |= closed;
                self.answer_key_update(context);
                self.pump_inbound(context);
                self.finish_inbound(context);
                self.balance_inbound(context);
                self.touch(context);
            }
            Err(failure) => self.record_failed(&failure, context),
        }
    }

    /// Opens every record of `bytes` into blocks; whether close_notify was among them.
    fn open_all(
        &mut self,
        mut bytes: &mut [u8],
        context: &mut Context<'_>,
    ) -> Result<bool, RecordFailure> {
        let (Stage::Connecting { session, .. } | Stage::Relaying { session }) = &mut self.stage
        else {
            return Ok(false);
        };
        let mut room = RECORD_PLAINTEXT_MAX + 1;
        loop {
            let Some(mut block) = self.inbound.writable(room, context.pool) else {
                return Err(no_block());
            };
            let before = block.filled().len();
            let opened = session.records.open(bytes, context.pool, &mut block);
            self.bytes[0] += (block.filled().len() - before) as u64;
            self.inbound.push(block, context.pool);
            let opened = opened?;
            bytes = &mut bytes[opened.consumed..];
            if opened.closed || bytes.is_empty() && !session.records.waits_for_room() {
                return Ok(opened.closed);
            }
            // What is left did not fit, and would not fit into the same block again.
            room = BLOCK_LEN;
        }
    }

    fn record_failed(&mut self, failure: &RecordFailure, context: &mut Context<'_>) {
        self.refused = Some(Box::new(Refused {
            detail: failure.detail.clone(),
            claimed: None,
            server_name: None,
        }));
        match failure.alert {
            Some(alert) => self.end_with_alert(failure.reason, alert, context),
            None => self.close(failure.reason, context),
        }
    }

    fn pump_inbound(&mut self, context: &mut Context<'_>) {
        if matches!(self.stage, Stage::Relaying { .. }) {
            self.inbound.pump(Side::Upstream, context);
        }
    }

    fn balance_inbound(&mut self, context: &mut Context<'_>) {
        let kept = self.kept_len();
        self.inbound.balance(usize::from(kept > 0), context);
    }

    /// Sends our KeyUpdate where one is due and nothing else will carry it soon.
    fn answer_key_update(&mut self, context: &mut Context<'_>) {
        let (Stage::Connecting { session, .. } | Stage::Relaying { session }) = &mut self.stage
        else {
            return;
        };
        if !session.records.wants_flush() {
            return;
        }
        let Some(mut block) = self.outbound.writable(RECORD_PLAINTEXT_MAX, context.pool) else {
            return;
        };
        let flushed = session.records.flush(&mut block);
        self.outbound.push(block, context.pool);
        match flushed {
            Ok(()) => self.outbound.pump(Side::Client, context),
            Err(_) => self.close(CloseReason::Internal, context),
        }
    }

    /// Seals what the upstream sent and passes it on.
    fn upstream_sent(&mut self, bytes: &mut [u8], context: &mut Context<'_>) {
        let Stage::Relaying { session } = &mut self.stage else {
            return;
        };
        let mut rest = &*bytes;
        while !rest.is_empty() {
            let room = session
                .records
                .sealed_len(rest.len().min(RECORD_PLAINTEXT_MAX));
            let Some(mut block) = self.outbound.writable(room, context.pool) else {
                return self.record_failed(&no_block(), context);
            };
            let sealed = session.records.seal(rest, &mut block);
            self.outbound.push(block, context.pool);
            match sealed {
                Ok(taken) => rest = &rest[taken..],
                Err(_) => return self.close(CloseReason::Internal, context),
            }
        }
        self.bytes[1] += bytes.len() as u64;
        self.ticket_leaves = None;
        self.outbound.pump(Side::Client, context);
        self.outbound.balance(0, context);
        self.touch(context);
    }

    /// A FIN from the client: the end of a session that said close_notify, or a truncation.
    fn client_ended(&mut self, context: &mut Context<'_>) {
        self.inbound.receive_ended();
        if self.inbound.ended {
            return;
        }
        // What was delivered before stands; there is nobody to answer any more.
        self.client_gone(CloseReason::ClientTruncated, context);
    }

    /// After close_notify everything was said, and it stands: a client that closes while an answer or
    /// a ticket waits to be read resets the connection (RFC 1122 section 4.2.2.13). Before it a reset
    /// takes back what has not left yet: nobody knows where that would have ended.
    pub(super) fn client_reset(&mut self, context: &mut Context<'_>) {
        if self.inbound.ended {
            self.client_gone(CloseReason::ClientReset, context);
        } else {
            self.close(CloseReason::ClientReset, context);
        }
    }

    /// The client is gone: what it said goes on to the upstream.
    fn client_gone(&mut self, reason: CloseReason, context: &mut Context<'_>) {
        self.inbound.ended = true;
        self.inbound.receive_ended();
        match self.stage {
            Stage::Relaying { .. } if !self.inbound.is_flushed() => {
                self.start_flushing(reason, context);
            }
            // There is something to deliver, but nobody to take it yet.
            Stage::Connecting { .. } if self.bytes[0] > 0 => {
                self.gone.get_or_insert(reason);
            }
            _ => self.close(reason, context),
        }
    }

    fn upstream_ended(&mut self, context: &mut Context<'_>) {
        self.outbound.receive_ended();
        self.outbound.ended = true;
        let Stage::Relaying { session } = &mut self.stage else {
            return;
        };
        let room = session.records.sealed_len(2);
        let Some(mut block) = self.outbound.writable(room, context.pool) else {
            return self.close(CloseReason::BufferLimit, context);
        };
        let said = session.records.close_notify(&mut block);
        self.outbound.push(block, context.pool);
        if said.is_err() {
            return self.close(CloseReason::Internal, context);
        }
        self.outbound.pump(Side::Client, context);
        self.touch(context);
    }

    pub(super) fn upstream_failed(&mut self, _error: &io::Error, context: &mut Context<'_>) {
        self.outbound.receive_ended();
        self.end_with_alert(
            CloseReason::UpstreamReset,
            AlertDescription::InternalError,
            context,
        );
    }

    /// A block has left for `side`.
    pub(super) fn relay_sent(&mut self, side: Side, context: &mut Context<'_>) {
        match side {
            Side::Client => {
                self.outbound.pump(Side::Client, context);
                if matches!(self.stage, Stage::Relaying { .. }) {
                    self.outbound.balance(0, context);
                }
                self.finish_outbound(context);
            }
            Side::Upstream => {
                self.pump_inbound(context);
                self.balance_inbound(context);
                self.finish_inbound(context);
            }
        }
        if !self.is_closed() {
            self.touch(context);
        }
    }

    /// Tells the upstream of the client's end once everything before it has left.
    fn finish_inbound(&mut self, context: &mut Context<'_>) {
        let relaying = matches!(self.stage, Stage::Relaying { .. });
        if relaying && self.inbound.ended && self.inbound.is_flushed() && !self.inbound.shut {
            self.inbound.shut = true;
            context.actions.push(Action::ShutdownSend(Side::Upstream));
            self.complete(context);
        }
    }

    fn finish_outbound(&mut self, context: &mut Context<'_>) {
        if self.outbound.ended && self.outbound.is_flushed() && !self.outbound.shut {
            self.outbound.shut = true;
            if !self.complete(context) {
                context.actions.push(Action::ShutdownSend(Side::Client));
            }
        }
    }

    /// Closes once both directions have ended and everything has left.
    fn complete(&mut self, context: &mut Context<'_>) -> bool {
        let done = self.inbound.shut && self.outbound.shut;
        if done {
            self.close(CloseReason::Complete, context);
        }
        done
    }

    /// Moves the deadline on: something happened. A connect's deadline stands.
    fn touch(&mut self, context: &Context<'_>) {
        if matches!(self.stage, Stage::Relaying { .. }) {
            let half_closed = self.inbound.ended || self.outbound.ended;
            let timeout = if half_closed {
                self.settings.half_close_timeout
            } else {
                self.settings.idle_timeout
            };
            self.deadline = context.now + timeout;
        }
    }

    fn open_deadline(&mut self, context: &mut Context<'_>) {
        if self.ticket_leaves.take().is_some() {
            return self.outbound.pump(Side::Client, context);
        }
        match &mut self.stage {
            Stage::Connecting { timed_out, .. } if !*timed_out => {
                *timed_out = true;
                self.deadline = context.now + self.settings.connect_timeout;
                context.actions.push(Action::AbandonConnect);
            }
            // The connect did not even end when it was given up.
            Stage::Connecting { .. } => self.end_with_alert(
                CloseReason::UpstreamConnectTimeout,
                AlertDescription::InternalError,
                context,
            ),
            _ => self.end(CloseReason::IdleTimeout, context),
        }
    }
}

fn no_block() -> RecordFailure {
    RecordFailure {
        reason: CloseReason::BufferLimit,
        detail: "no block is free; raise limits.buffers".into(),
        alert: Some(AlertDescription::InternalError),
    }
}
