//! What must hold after every step, when nothing moves, and at the end.

use std::io::ErrorKind;
use std::time::Duration;

use ringgate::close_reason::CloseReason;
use ringgate::connection::greeting::unique_id_hex;
use ringgate::connection::{Command, Event, Greeting};
use ringgate::limits::BLOCKS_PER_DIRECTION;

use crate::cast::CLIENT_ID;
use crate::ending::Ending;
use crate::scenario::{Opening, POOL_PLENTY, Scenario};
use crate::world::{Outcome, SIDES, SOURCE, UNIQUE_ID, World, index};

/// Time from the event that ends a connection to its Close: two rounds of lingering, and what
/// passes in between.
const CLOSING_MAX: Duration = Duration::from_secs(4);

/// Bytes that a client may send while it is told of the end, before it is cut off.
const LINGER_BYTES: usize = 256 * 1024;

impl Scenario {
    pub fn lets_in(&self) -> bool {
        self.who.refusal().is_none() && matches!(self.opening, Opening::Tls) && !self.lacks_header()
    }

    /// Whether TLS begins where a header must come.
    pub fn lacks_header(&self) -> bool {
        self.introduced && self.header.is_empty()
    }
}

impl World<'_> {
    /// Blocks are bounded, and each is accounted for.
    pub fn check_blocks(&self) {
        let (held, lent) = (self.connection.blocks(), self.pool.lent());
        let sending = self
            .sockets
            .iter()
            .filter(|socket| socket.sending.is_some())
            .count();
        if self.closed.is_some() {
            assert_eq!(
                lent, sending,
                "blocks lent, and blocks still being sent, after Close"
            );
            return;
        }
        // Besides, one for the start of a flight whose rest has not come.
        let flight = usize::from(self.connection.is_handshaking());
        assert!(
            (held..=held + flight).contains(&lent),
            "{lent} blocks are lent, {held} are held"
        );
        // A receive fills at most two more blocks, an alert or a greeting one.
        let receives = 1 + self.scenario.late_receives;
        let bound = 2 * (BLOCKS_PER_DIRECTION + 2 * receives + 1);
        assert!(
            held <= bound,
            "{held} blocks are held where {bound} are enough"
        );
        if self.connected && sending == 0 {
            let waiting = [self.ticket_waits, self.connection.holds_part_of_record()];
            assert!(
                held <= waiting.map(usize::from).iter().sum(),
                "{held} blocks wait though nothing is being sent"
            );
        }
    }

    /// When nothing can happen any more but time, whatever was received must have been passed on.
    pub fn check_nothing_is_stuck(&self) {
        if !self.sockets[1].open || self.ending.is_some() || self.received_flipped() {
            return;
        }
        let received = [0, 1].map(|side| self.wires[side].received());
        if self.scenario.reads_until[1].is_none() {
            let whole = self.client.data_within(received[0]);
            assert_eq!(
                self.upstream.payload().len(),
                whole,
                "stuck on the way to the upstream"
            );
            assert_eq!(
                self.wires[0].waiting(),
                0,
                "the client is not read any more"
            );
        }
        if self.scenario.reads_until[0].is_none() {
            assert_eq!(
                self.client.got, received[1],
                "stuck on the way to the client"
            );
            assert_eq!(
                self.wires[1].waiting(),
                0,
                "the upstream is not read any more"
            );
            let session = self.connection.session();
            let owes = session.is_some_and(|session| session.records.wants_flush());
            assert!(!owes, "a KeyUpdate is not answered");
        }
    }

    /// Ends what is still in flight, and checks the whole run.
    pub fn settle(mut self) -> Outcome {
        let reason = self.closed.expect("the run is over");
        self.stir();
        while self.client.has_work(self.scenario, &self.upstream.data) {
            let (client, wire) = (&mut self.client, &mut self.wires[0]);
            client.work(self.scenario, &mut self.rng, wire, &self.upstream.data);
        }
        self.check_reason(reason);
        // A bit of the header may be what was flipped.
        if !self.received_flipped() {
            let source = self.scenario.claims.unwrap_or(SOURCE);
            self.upstream
                .check_header(source, &unique_id_hex(UNIQUE_ID), CLIENT_ID);
        }
        if !self.scenario.lets_in() {
            assert_eq!(self.attempts, 0, "a connect for a client that is refused");
        }
        if self.connection.session().is_none() {
            assert_eq!(self.upstream.got.len(), 0);
        }
        if reason == CloseReason::Complete {
            self.check_complete();
        }
        if let Some((since, received)) = self.ending_at
            && !self.received_flipped()
            && reason != CloseReason::BufferLimit
            && reason != CloseReason::KeyUpdateFlood
            && !self.was_cut_off()
        {
            if self.scenario.jump.is_none() {
                assert!(self.now - since < CLOSING_MAX, "closing takes too long");
            }
            self.check_last_words(reason, received);
        }
        Outcome {
            reason,
            sent: [0, 1].map(|side| self.wires[side].sent()),
            taken: [0, 1].map(|side| self.sockets[side].taken),
        }
    }

    /// A driver's last events still reach a connection that is closed; it must not act on them.
    fn stir(&mut self) {
        for side in SIDES {
            if let Some(block) = self.sockets[index(side)].sending.take() {
                let len = block.filled().len();
                let result = match self.rng.below(3) {
                    0 => Err(ErrorKind::Interrupted.into()),
                    1 => Ok(self.rng.below(len)),
                    _ => Ok(len),
                };
                self.event(Event::Sent(side, block, result));
            }
        }
        for side in SIDES {
            self.event(Event::Received(side, &mut [22, 3, 3]));
            self.event(Event::Ended(side, Ok(())));
        }
        self.event(Event::Connected(Err(ErrorKind::Interrupted.into())));
        self.event(Event::Deadline);
        self.event(Event::Command(Command::End(CloseReason::Drained)));
        assert_eq!(self.pool.lent(), 0, "blocks are lost");
        assert_eq!(self.connection.blocks(), 0);
    }

    /// A clean end: everything was said, and all of it has arrived.
    fn check_complete(&self) {
        let (client, upstream) = (&self.client, &self.upstream);
        assert_eq!(upstream.payload().len(), client.data_within(usize::MAX));
        assert_eq!(client.got, self.wires[1].sent());
        assert!(client.saw_close_notify && upstream.saw_fin);
        let header_len = upstream.got.len() - upstream.payload().len();
        assert_eq!(header_len > 0, self.scenario.greeting != Greeting::Off);
        let bytes = [client.data_within(usize::MAX), client.got];
        assert_eq!(
            self.connection
                .bytes()
                .map(|len| usize::try_from(len).unwrap()),
            bytes
        );
    }

    /// Whether it was ended for its blocks, which says nothing more to anybody.
    fn was_cut_off(&self) -> bool {
        let command = self.scenario.command;
        command
            .is_some_and(|(step, reason)| reason == CloseReason::BufferLimit && step <= self.steps)
    }

    /// An end that is not clean: what came before it is passed on all the same where it can be,
    /// and the client is told.
    fn check_last_words(&self, reason: CloseReason, received: [usize; 2]) {
        let in_time = self.deadlines_after_ending == 0 && self.scenario.pool == POOL_PLENTY;
        let lingered = self.wires[0].received() - received[0] <= LINGER_BYTES;
        let client_reads = lingered && !self.is_broken(0) && self.scenario.reads_until[0].is_none();
        let upstream_reads = !self.is_broken(1) && self.scenario.reads_until[1].is_none();
        if !in_time {
            return;
        }
        if reason == CloseReason::ClientTruncated && self.connected && upstream_reads {
            let whole = self.client.data_within(received[0]);
            assert_eq!(
                self.upstream.payload().len(),
                whole,
                "bytes before a truncation"
            );
        }
        if !client_reads {
            return;
        }
        if let (Some((_, alert)), Some(Ending::Exactly(expected))) =
            (self.scenario.who.refusal(), self.ending)
            && self.ending_by_refusal() == Ending::Exactly(reason)
            && !self.scenario.lacks_header()
        {
            assert_eq!(expected, reason);
            assert!(self.client.was_told(alert), "told {:?}", self.client.error);
        }
        let polite = matches!(
            reason,
            CloseReason::Drained
                | CloseReason::IdleTimeout
                | CloseReason::Shutdown
                | CloseReason::UpstreamConnectTimeout
                | CloseReason::UpstreamFull
                | CloseReason::UpstreamReset
                | CloseReason::UpstreamUnreachable
        );
        if polite && self.connection.session().is_some() {
            assert_eq!(self.client.got, received[1], "bytes before {reason}");
            assert!(
                self.client.was_told_the_end(),
                "the client is not told of {reason}"
            );
        }
    }
}
