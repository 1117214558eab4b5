//! From the first byte to the moment policy lets the client in.

use std::time::Duration;

use rustls::ProtocolVersion;

use super::relay::Direction;
use super::{ConnectPermit, Connection, Context, Event, Refused, Side, Stage, greeting};
use crate::close_reason::CloseReason;
use crate::connection::{Action, Greeting};
use crate::limits::BLOCK_LEN;
use crate::tls::{Established, HandshakeFailure, Progress};

/// How long session tickets wait for the answer to what the client sent behind its Finished. With it
/// they cost no send of their own. Where nothing came behind the Finished they leave at once: a
/// client that gathers its small writes (Nagle) may be waiting for our acknowledgement, which would
/// else be delayed.
const TICKET_WAIT: Duration = Duration::from_millis(20);

impl Connection {
    pub(super) fn on_handshaking(&mut self, event: Event<'_>, context: &mut Context<'_>) {
        match event {
            Event::Received(Side::Client, bytes) => self.handshake(bytes, context),
            Event::Ended(Side::Client, _) => {
                self.inbound.receive_ended();
                self.close(CloseReason::ClientGoneInHandshake, context);
            }
            Event::Deadline => self.close(CloseReason::HandshakeTimeout, context),
            // Nothing upstream exists yet.
            Event::Received(Side::Upstream, _)
            | Event::Ended(Side::Upstream, _)
            | Event::Connected(_)
            | Event::Command(_)
            | Event::Sent(..)
            | Event::UpstreamsFull => {}
        }
    }

    pub(super) fn handshake(&mut self, bytes: &mut [u8], context: &mut Context<'_>) {
        let Stage::Handshaking(handshake) = &mut self.stage else {
            return;
        };
        let Some(mut out) = context.pool.take() else {
            return self.close(CloseReason::BufferLimit, context);
        };
        let result = handshake.receive(bytes, context.pool, &mut out);
        self.outbound.push(out, context.pool);
        match result {
            Ok(Progress::Continue) => self.outbound.pump(Side::Client, context),
            Ok(Progress::Established(session)) => {
                if session.version == ProtocolVersion::TLSv1_3 && session.records.is_mid_record() {
                    // The client does not wait for anything but its answer.
                    self.ticket_leaves = Some(context.now + TICKET_WAIT);
                } else {
                    self.outbound.pump(Side::Client, context);
                }
                self.established(session, context);
            }
            Err(failure) => self.refuse(failure, context),
        }
    }

    /// Policy let the client in: tell the upstream who it is, and connect.
    fn established(&mut self, session: Box<Established>, context: &mut Context<'_>) {
        if let Err(failure) = self.greet(&session, context) {
            self.stage = Stage::Connecting {
                session,
                attempt: 0,
                timed_out: false,
                unanswered: false,
            };
            return self.end_with_alert(failure, rustls::AlertDescription::InternalError, context);
        }
        let permit = ConnectPermit::new(&session.client, session.route, 0);
        let sent_more = session.records.is_mid_record();
        self.stage = Stage::Connecting {
            session,
            attempt: 0,
            timed_out: false,
            unanswered: false,
        };
        self.deadline = context.now + self.settings.connect_timeout;
        if sent_more {
            // Behind its Finished.
            self.client_sent(&mut [], context);
        }
        // It comes last: where nobody is to be connected to, carrying it out ends the connection, and
        // what was wanted before must not come after that.
        if matches!(self.stage, Stage::Connecting { .. }) {
            context.actions.push(Action::Connect(permit));
        }
    }

    fn greet(
        &mut self,
        session: &Established,
        context: &mut Context<'_>,
    ) -> Result<(), CloseReason> {
        let Greeting::ProxyV2 { client_certificate } = self.settings.greeting else {
            return Ok(());
        };
        let mut block = context.pool.take().ok_or(CloseReason::BufferLimit)?;
        let told = greeting::Told {
            addresses: self.addresses,
            unique_id: self.unique_id,
            session,
            client_certificate,
        };
        let written = greeting::encode(&told, &mut block);
        self.inbound.push(block, context.pool);
        written.map_err(|greeting::TooLong| CloseReason::CertificateChainTooLong)
    }

    /// Ends a handshake that failed, after its alert has left.
    /// Refuses a client that has sent more than may wait for the first answer.
    pub fn overran(&mut self, context: &mut Context<'_>) {
        let failure = HandshakeFailure {
            reason: CloseReason::ProtocolViolation,
            detail: format!("more than {BLOCK_LEN} bytes before the first answer"),
            claimed: None,
            server_name: None,
        };
        self.refuse(failure, context);
    }

    pub(super) fn refuse(&mut self, failure: HandshakeFailure, context: &mut Context<'_>) {
        let HandshakeFailure {
            reason,
            detail,
            claimed,
            server_name,
        } = failure;
        self.refused = Some(Box::new(Refused {
            detail,
            claimed,
            server_name,
        }));
        match reason {
            // A scanner or a wrong protocol is not worth waiting for.
            CloseReason::NotTls if self.outbound.is_flushed() => self.close(reason, context),
            _ => self.start_closing(reason, context),
        }
    }
}

/// Gives a direction's memory back where a connection ends.
pub(super) fn forget(direction: &mut Direction, context: &mut Context<'_>) {
    direction.discard(context.pool);
}
