//! Which end a run must have: decided by the first event that ends it, told from outside.

use ringgate::close_reason::{Blame, CloseReason};
use ringgate::connection::{Command, Event, Side};

use crate::scenario::Opening;
use crate::world::World;

/// Why a connection must end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    Exactly(CloseReason),
    /// What came was no TLS, or none that makes sense.
    Nonsense,
}

impl World<'_> {
    /// What `event` means for the end, before the connection sees it.
    pub fn ending_by(&self, event: &Event<'_>) -> Option<CloseReason> {
        let handshaking = self.connection.is_handshaking();
        match event {
            Event::Command(Command::Cut(reason) | Command::End(reason)) => Some(*reason),
            // A handshake is concluded first.
            Event::Command(Command::Withdraw(reason, _)) => (!handshaking).then_some(*reason),
            Event::Deadline if handshaking => Some(CloseReason::HandshakeTimeout),
            Event::Deadline if self.ticket_waits => None,
            Event::Deadline => match &self.connecting {
                Some(connecting) if connecting.abandoned => {
                    Some(CloseReason::UpstreamConnectTimeout)
                }
                Some(_) => None,
                None => Some(CloseReason::IdleTimeout),
            },
            Event::Ended(Side::Client, _) | Event::Sent(Side::Client, _, Err(_)) if handshaking => {
                Some(CloseReason::ClientGoneInHandshake)
            }
            Event::Ended(Side::Client, Ok(())) => {
                (!self.client_said_goodbye()).then_some(CloseReason::ClientTruncated)
            }
            Event::Ended(Side::Client, Err(_)) | Event::Sent(Side::Client, _, Err(_)) => {
                Some(CloseReason::ClientReset)
            }
            Event::Ended(Side::Upstream, Err(_)) | Event::Sent(Side::Upstream, _, Err(_)) => {
                Some(CloseReason::UpstreamReset)
            }
            Event::Connected(result) => {
                let connecting = self.connecting.as_ref().expect("a connect was asked for");
                let last = connecting.attempt + 1 == self.scenario.connects.len();
                match result {
                    Ok(()) if !connecting.abandoned => None,
                    _ if !last => None,
                    _ if self.unanswered => Some(CloseReason::UpstreamConnectTimeout),
                    _ => Some(CloseReason::UpstreamUnreachable),
                }
            }
            Event::UpstreamsFull => (!handshaking).then_some(CloseReason::UpstreamFull),
            Event::Ended(Side::Upstream, Ok(())) | Event::Received(..) | Event::Sent(..) => None,
        }
    }

    /// The end of a handshake that just failed.
    pub fn ending_by_refusal(&self) -> Ending {
        if self.scenario.lacks_header() {
            return Ending::Exactly(CloseReason::ProxyHeaderInvalid);
        }
        match self.scenario.who.refusal() {
            Some((reason, _)) if matches!(self.scenario.opening, Opening::Tls) => {
                Ending::Exactly(reason)
            }
            _ => Ending::Nonsense,
        }
    }

    /// Whether the client's close_notify was received.
    pub fn client_said_goodbye(&self) -> bool {
        let received = self.wires[0].received();
        self.client.close_notify_at.is_some_and(|at| received >= at)
    }

    /// Whether a byte that was changed on the way was received.
    pub fn received_flipped(&self) -> bool {
        let received = self.wires[0].received();
        let flipped = self.scenario.trouble[0].flipped;
        flipped.is_some_and(|at| received > at)
    }

    pub fn check_reason(&self, reason: CloseReason) {
        if self.received_flipped() {
            assert_ne!(
                reason,
                CloseReason::Internal,
                "a flipped bit is the client's fault"
            );
            return;
        }
        let fits = match self.ending {
            Some(Ending::Exactly(expected)) => reason == expected,
            Some(Ending::Nonsense) => {
                matches!(self.scenario.opening, Opening::Bytes(_))
                    && reason.blame() == Blame::Client
            }
            None => reason == CloseReason::Complete && !self.scenario.key_update_flood,
        };
        let flood = self.scenario.key_update_flood && reason == CloseReason::KeyUpdateFlood;
        let starved =
            self.scenario.pool < crate::scenario::POOL_PLENTY && reason == CloseReason::BufferLimit;
        assert!(
            fits || flood || starved,
            "ended as {reason}, which does not fit {:?}",
            self.ending
        );
    }
}
