//! The last words of a connection, and its end.

use std::time::Duration;

use rustls::AlertDescription;

use super::handshaking::forget;
use super::{Action, Connection, Context, Event, Refused, Side, Stage};
use crate::close_reason::CloseReason;
use crate::tls::Established;
use crate::trust::domain::Refusal;

/// How long a client has to take an alert and close. Closing at once with bytes unread would reset
/// the connection, and the reset may overtake the alert.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that a lingering client may still send before it is cut off.
const LINGER_BYTES_MAX: usize = 256 * 1024;

pub(super) struct Closing {
    /// Kept for the report; it holds no block any more.
    pub(super) session: Option<Box<Established>>,
    reason: CloseReason,
    /// The client's end was seen, so nothing is lost by closing at once.
    client_gone: bool,
    /// What is left to flush: the client's last words, or (truncation) the upstream's last bytes.
    pub(super) waits_for: Side,
    discarded: usize,
}

impl Connection {
    /// Closes at once, with nothing more to say.
    pub(super) fn close(&mut self, reason: CloseReason, context: &mut Context<'_>) {
        // Whatever came of it, this is what it began with.
        let reason = match &self.stage {
            Stage::Closing(closing) => closing.reason,
            _ => self.gone.unwrap_or(reason),
        };
        let session = match std::mem::replace(&mut self.stage, Stage::Closed(None)) {
            Stage::Closed(session) => {
                self.stage = Stage::Closed(session);
                return;
            }
            Stage::Handshaking(_) | Stage::Introducing(_) => None,
            Stage::Connecting { mut session, .. } | Stage::Relaying { mut session } => {
                session.records.release(context.pool);
                Some(session)
            }
            Stage::Closing(closing) => closing.session,
        };
        self.stage = Stage::Closed(session);
        forget(&mut self.inbound, context);
        forget(&mut self.outbound, context);
        context.actions.push(Action::Close(reason));
    }

    /// Ends a connection politely: with close_notify where there is a session.
    pub(super) fn end(&mut self, reason: CloseReason, context: &mut Context<'_>) {
        match self.stage {
            Stage::Closed(_) | Stage::Closing(_) => {}
            Stage::Handshaking(_) | Stage::Introducing(_) => self.close(reason, context),
            Stage::Connecting { .. } | Stage::Relaying { .. } => {
                self.end_with_alert(reason, AlertDescription::CloseNotify, context);
            }
        }
    }

    /// Ends a session whose client lost its right, with the alert that its handshake would get now.
    pub(super) fn withdraw(
        &mut self,
        reason: CloseReason,
        refusal: Refusal,
        context: &mut Context<'_>,
    ) {
        if !self.is_open() {
            return;
        }
        let alert = match refusal.reason {
            CloseReason::CertificateRevoked => AlertDescription::CertificateRevoked,
            CloseReason::CertificateUnknownCa => AlertDescription::UnknownCA,
            CloseReason::RevocationUnknown => AlertDescription::BadCertificateStatusResponse,
            // Nothing is wrong with the client or its certificate, which every other alert would say:
            // this one is "unrelated to the peer" (RFC 8446 section 6.2), so it may try again.
            CloseReason::IdentityRateLimited => AlertDescription::InternalError,
            _ => AlertDescription::AccessDenied,
        };
        self.refused = Some(Box::new(Refused {
            detail: refusal.detail,
            claimed: refusal.claimed,
            server_name: None,
        }));
        self.end_with_alert(reason, alert, context);
    }

    /// Ends a session with an alert behind what is already on its way to the client.
    pub(super) fn end_with_alert(
        &mut self,
        reason: CloseReason,
        alert: AlertDescription,
        context: &mut Context<'_>,
    ) {
        let (Stage::Connecting { session, .. } | Stage::Relaying { session }) = &mut self.stage
        else {
            return self.close(reason, context);
        };
        if self.gone.is_some() {
            return self.close(reason, context);
        }
        // After our close_notify nothing may follow (RFC 8446 section 6.1).
        if !self.outbound.ended
            && let Some(mut block) = context.pool.take()
        {
            let _ = session.records.alert(alert, &mut block);
            self.outbound.push(block, context.pool);
        }
        self.start_closing(reason, context);
    }

    /// Lets the client's last words leave, then closes.
    pub(super) fn start_closing(&mut self, reason: CloseReason, context: &mut Context<'_>) {
        self.begin(reason, Side::Client, context);
        if self.outbound.is_flushed() {
            self.close_now(context);
        } else {
            self.outbound.pump(Side::Client, context);
        }
    }

    /// Lets the last bytes of a client that is gone reach the upstream, then closes.
    pub(super) fn start_flushing(&mut self, reason: CloseReason, context: &mut Context<'_>) {
        self.begin(reason, Side::Upstream, context);
        self.inbound.pump(Side::Upstream, context);
    }

    fn begin(&mut self, reason: CloseReason, waits_for: Side, context: &mut Context<'_>) {
        let session = match std::mem::replace(&mut self.stage, Stage::Closed(None)) {
            Stage::Handshaking(_) | Stage::Introducing(_) => None,
            Stage::Connecting { mut session, .. } | Stage::Relaying { mut session } => {
                session.records.release(context.pool);
                if waits_for == Side::Client {
                    context.actions.push(Action::CloseUpstream);
                }
                Some(session)
            }
            Stage::Closed(session) => session,
            Stage::Closing(closing) => closing.session,
        };
        let client_gone = waits_for == Side::Upstream;
        self.stage = Stage::Closing(Closing {
            session,
            reason,
            client_gone,
            waits_for,
            discarded: 0,
        });
        match waits_for {
            Side::Client => {
                forget(&mut self.inbound, context);
                self.inbound.receive(context);
            }
            Side::Upstream => {
                forget(&mut self.outbound, context);
                // An upstream that is not read from may not read either.
                self.outbound.receive(context);
            }
        }
        self.deadline = context.now + LINGER;
    }

    pub(super) fn on_closing(&mut self, event: Event<'_>, context: &mut Context<'_>) {
        let Stage::Closing(closing) = &mut self.stage else {
            return;
        };
        match event {
            Event::Deadline => self.close_now(context),
            Event::Ended(Side::Client, _) => {
                self.inbound.receive_ended();
                closing.client_gone = true;
                if closing.waits_for == Side::Client && self.outbound.is_flushed() {
                    self.close_now(context);
                }
            }
            Event::Ended(Side::Upstream, Err(_)) => {
                if closing.waits_for == Side::Upstream {
                    self.close_now(context);
                }
            }
            Event::Received(Side::Client, bytes) => {
                closing.discarded += bytes.len();
                if closing.discarded > LINGER_BYTES_MAX {
                    self.close_now(context);
                }
            }
            // An upstream that has said everything may still be reading.
            Event::Ended(Side::Upstream, Ok(()))
            | Event::Received(Side::Upstream, _)
            | Event::Connected(_)
            | Event::Command(_)
            | Event::Sent(..)
            | Event::UpstreamsFull => {}
        }
    }

    /// A block has left while closing.
    pub(super) fn closing_sent(&mut self, side: Side, context: &mut Context<'_>) {
        let Stage::Closing(closing) = &self.stage else {
            return;
        };
        let (waits_for, client_gone) = (closing.waits_for, closing.client_gone);
        if side != waits_for {
            return;
        }
        let direction = self.direction_to(side);
        direction.pump(side, context);
        if !direction.is_flushed() {
            if side == Side::Upstream {
                self.deadline = context.now + LINGER;
            }
            return;
        }
        if side == Side::Upstream || client_gone {
            self.close_now(context);
        } else {
            self.deadline = context.now + LINGER;
            context.actions.push(Action::ShutdownSend(Side::Client));
        }
    }

    /// Closes with the reason that closing began with.
    pub(super) fn close_now(&mut self, context: &mut Context<'_>) {
        let reason = match &self.stage {
            Stage::Closing(closing) => closing.reason,
            _ => CloseReason::Internal,
        };
        self.close(reason, context);
    }
}
