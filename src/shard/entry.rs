//! One connection of a shard: the state machine, its sockets and what is in flight for them.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use super::Counters;
use super::front::Front;
use super::handshakes::Place;
use super::sources::Source;
use super::tenure::TimeUp;
use super::upstreams::{Tried, Upstream};
use crate::connection::{Connection, Side};
use crate::ring::{Descriptor, Operation, Token};
use crate::tls::hello::Hello;

/// What a completion is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Accept,
    ConnectUpstream,
    ReceiveClient,
    ReceiveUpstream,
    SendClient,
    SendUpstream,
    Wake,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Accept,
        Self::ConnectUpstream,
        Self::ReceiveClient,
        Self::ReceiveUpstream,
        Self::SendClient,
        Self::SendUpstream,
        Self::Wake,
    ];

    /// The token of an operation of this kind for the connection or gate `key`.
    pub(super) fn token(self, key: u32) -> Token {
        Token((self as u64) << 32 | u64::from(key))
    }

    /// What a token was made from.
    pub(super) fn parse(token: Token) -> Option<(Self, u32)> {
        let key = u32::try_from(token.0 & u64::from(u32::MAX)).ok()?;
        let kind = usize::try_from(token.0 >> 32).ok()?;
        Some((*Self::ALL.get(kind)?, key))
    }

    pub(super) fn receive(side: Side) -> Self {
        match side {
            Side::Client => Self::ReceiveClient,
            Side::Upstream => Self::ReceiveUpstream,
        }
    }

    pub(super) fn send(side: Side) -> Self {
        match side {
            Side::Client => Self::SendClient,
            Side::Upstream => Self::SendUpstream,
        }
    }
}

impl From<Kind> for Token {
    fn from(kind: Kind) -> Self {
        kind.token(0)
    }
}

/// A socket and its operations in flight.
#[derive(Debug, Default)]
pub(super) struct Socket {
    pub(super) descriptor: Option<Descriptor>,
    pub(super) receive: Option<Operation>,
    pub(super) send: Option<Operation>,
    /// The connection wants to receive; the receive may have to be started again for it.
    pub(super) wanted: bool,
    /// Bytes that the last receive asked for at a time.
    pub(super) asked: usize,
    /// The last receive took all that there was. Until then one buffer at a time is received: a
    /// peer that sends much does not fill every buffer before it is stopped, and its reset is seen.
    pub(super) drained: bool,
    /// It is a Unix socket. There the kernel (since 6.17) takes what is there, waits for more and
    /// does not see the end behind it: one buffer at a time is received always.
    pub(super) is_unix: bool,
    /// Receives that ended, or bytes received, which wait for blocks.
    pub(super) parked: usize,
}

/// A connection with what the shard keeps for it.
pub(super) struct Entry {
    pub(super) connection: Connection,
    pub(super) client: Socket,
    pub(super) upstream: Socket,
    pub(super) connect: Option<Operation>,
    /// The upstream that counts this connection.
    pub(super) choice: Option<Rc<Upstream>>,
    /// Its connect finds out whether that one answers again.
    pub(super) is_probe: bool,
    /// The upstream tried last, for the report; it stays when `choice` is released.
    pub(super) last_choice: Option<Rc<Upstream>>,
    pub(super) tried: Tried,
    /// Where it was accepted.
    pub(super) front: Rc<Front>,
    pub(super) accepted_at: Instant,
    /// Which connection of its shard it is.
    pub(super) number: u64,
    /// What its handshake is counted under, once that is known.
    pub(super) source: Option<Source>,
    /// When it ends whatever happens on it, if ever.
    pub(super) time_up: Option<TimeUp>,
    /// What the client sent of a handshake, until it is its turn.
    pub(super) waiting: Vec<u8>,
    /// Where it waits for that turn.
    pub(super) place: Option<Place>,
    /// How the client's stream ended behind what waits.
    pub(super) end_behind: Option<io::Result<()>>,
    /// A step of the handshake was taken.
    pub(super) has_begun: bool,
    /// A step of it found the verdict on its client's chain remembered. Another may end the handshake.
    pub(super) verdict_remembered: bool,
    /// It counts at its client's rate.
    pub(super) is_rated: bool,
    /// When something was last sent to the client in its handshake.
    pub(super) answered: Option<Instant>,
    /// The client is reset and not told anything.
    pub(super) is_shed: bool,
    /// Counted as a handshake still.
    pub(super) handshaking: bool,
    /// Plaintext bytes from the client and to it that are counted already.
    counted: [u64; 2],
    /// The earliest timer that runs for this connection.
    timer: Option<Instant>,
}

impl Entry {
    pub(super) fn new(
        connection: Connection,
        descriptor: Descriptor,
        front: Rc<Front>,
        now: Instant,
        number: u64,
        source: Option<Source>,
    ) -> Self {
        Self {
            connection,
            client: Socket {
                descriptor: Some(descriptor),
                ..Socket::default()
            },
            upstream: Socket::default(),
            connect: None,
            choice: None,
            is_probe: false,
            last_choice: None,
            tried: Tried::default(),
            front,
            accepted_at: now,
            number,
            source,
            time_up: None,
            waiting: Vec::new(),
            place: None,
            end_behind: None,
            has_begun: false,
            verdict_remembered: false,
            is_rated: false,
            answered: None,
            is_shed: false,
            handshaking: true,
            counted: [0; 2],
            timer: None,
        }
    }

    /// Counts the bytes that were relayed since this was last done.
    pub(super) fn count_bytes(&mut self, counters: &Counters) {
        let bytes = self.connection.bytes();
        let [up, down] = [0, 1].map(|side| bytes[side] - self.counted[side]);
        self.counted = bytes;
        counters.count_bytes([up, down]);
        self.front.counters.count_bytes([up, down]);
    }

    /// Whether what its client said first, and waits, is no TLS.
    pub(super) fn speaks_no_tls(&self) -> bool {
        !self.has_begun && !Hello::may_begin(&self.waiting)
    }

    pub(super) fn socket(&mut self, side: Side) -> &mut Socket {
        match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }

    /// Whether nothing is in flight any more, so that the entry can go.
    pub(super) fn is_quiet(&self) -> bool {
        let idle = |socket: &Socket| {
            socket.receive.is_none() && socket.send.is_none() && socket.parked == 0
        };
        idle(&self.client) && idle(&self.upstream) && self.connect.is_none()
    }

    /// When something is to be done about it though nothing happens.
    pub(super) fn deadline(&self) -> Instant {
        let deadline = self.connection.deadline();
        self.time_up
            .map_or(deadline, |time_up| deadline.min(time_up.instant()))
    }

    /// Whether a timer must be started for `deadline`; if so it counts as started.
    pub(super) fn needs_timer(&mut self, deadline: Instant) -> bool {
        let needed = self.timer.is_none_or(|timer| deadline < timer);
        if needed {
            self.timer = Some(deadline);
        }
        needed
    }

    /// Whether a timer for `at` is the one that runs for this connection.
    pub(super) fn awaits(&self, at: Instant) -> bool {
        self.timer == Some(at)
    }

    /// Whether the timer that fired by `now` is this connection's, and not left by one before.
    pub(super) fn timer_fired(&mut self, now: Instant) -> bool {
        let fired = self.timer.is_some_and(|timer| timer <= now);
        if fired {
            self.timer = None;
        }
        fired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_what_they_were_made_from() {
        for kind in Kind::ALL {
            for key in [0, 1, u32::MAX] {
                assert_eq!(Kind::parse(kind.token(key)), Some((kind, key)));
            }
        }
        assert_eq!(Kind::parse(Token(u64::MAX)), None);
    }
}
