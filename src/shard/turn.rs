//! One turn: completions become events, and actions become submissions.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::Shard;
use super::counters::HandshakeKind;
use super::entry::Kind;
use super::half_open::Arrival;
use super::pressure::What;
use super::upstreams::Choice;
use crate::block::Block;
use crate::connection::{Action, ConnectPermit, Context, Event, Side};
use crate::limits::BLOCK_LEN;
use crate::ring::{DescriptorKind, Outcome, ReceiveEnd, Received, Target};
use crate::trust::tally;

impl Shard {
    /// Handles every completion that is there.
    pub(super) fn turn(&mut self) {
        while let Some(completion) = self.ring.next_completion() {
            self.active_at = Some(self.now);
            let Some((kind, key)) = Kind::parse(completion.token) else {
                continue;
            };
            match (kind, completion.outcome) {
                (Kind::Accept, Outcome::Accepted(result)) => self.accepted(key, result),
                (Kind::ConnectUpstream, Outcome::Connected(result)) => self.connected(key, result),
                (Kind::ReceiveClient, outcome) => self.on_receive(key, Side::Client, outcome),
                (Kind::ReceiveUpstream, outcome) => self.on_receive(key, Side::Upstream, outcome),
                (Kind::SendClient, Outcome::Sent { block, result }) => {
                    self.sent(key, Side::Client, block, result);
                }
                (Kind::SendUpstream, Outcome::Sent { block, result }) => {
                    self.sent(key, Side::Upstream, block, result);
                }
                (Kind::Wake, _) => self.waker.reset(),
                (kind, outcome) => debug_assert!(false, "{kind:?} completed with {outcome:?}"),
            }
        }
    }

    fn on_receive(&mut self, key: u32, side: Side, outcome: Outcome) {
        match outcome {
            Outcome::Received { buffer, more } => self.received(key, side, buffer, more),
            Outcome::ReceiveEnded(end) => self.receive_ended(key, side, end),
            outcome => debug_assert!(false, "a receive completed with {outcome:?}"),
        }
    }

    fn received(&mut self, key: u32, side: Side, buffer: Received, more: bool) {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return self.ring.give_back(buffer);
        };
        if !more {
            let socket = entry.socket(side);
            socket.receive = None;
            socket.drained = !socket.is_unix && self.ring.received(&buffer).len() < socket.asked;
        }
        if self.must_wait() && !self.has_room_for_handshake(key, &buffer) {
            self.park(key, side, What::Received(buffer));
        } else {
            self.deliver(key, side, buffer);
        }
    }

    /// Hands a connection what was received for it.
    pub(super) fn deliver(&mut self, key: u32, side: Side, buffer: Received) {
        let is_kept = side == Side::Client && self.keeps_for_handshake(key, &buffer);
        if !is_kept && let Some(entry) = self.connections.get_mut(key as usize) {
            let mut context = Context {
                now: self.now,
                pool: &mut self.pool,
                actions: &mut self.actions,
            };
            let bytes = self.ring.received(&buffer);
            let before = entry.connection.bytes();
            entry
                .connection
                .on(Event::Received(side, bytes), &mut context);
            // The first question and answer are still part of what a handshake was for.
            if entry.connection.bytes() != before {
                entry.count_bytes(self.inbox.counters());
            }
            let is_served = before[1] > 0 || before[0] > BLOCK_LEN as u64;
            if is_served && entry.connection.bytes() != before {
                self.handshakes.make_way(self.now);
            }
        }
        self.ring.give_back(buffer);
        self.carry_out(key);
        self.receive_if_wanted(key, side);
    }

    fn receive_ended(&mut self, key: u32, side: Side, end: ReceiveEnd) {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        let socket = entry.socket(side);
        socket.receive = None;
        socket.drained = false;
        match end {
            ReceiveEnd::Cancelled => {
                self.receive_if_wanted(key, side);
                self.retire(key);
            }
            ReceiveEnd::BuffersExhausted => {
                self.starving.push(Kind::receive(side).token(key));
                self.retire(key);
            }
            ReceiveEnd::EndOfStream => self.ended(key, side, Ok(())),
            ReceiveEnd::Failed(error) => self.ended(key, side, Err(error)),
        }
    }

    fn ended(&mut self, key: u32, side: Side, end: io::Result<()>) {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        let socket = entry.socket(side);
        socket.wanted = false;
        if socket.parked > 0 {
            self.park(key, side, What::Ended(end));
        } else {
            self.deliver_end(key, side, end);
        }
    }

    /// Tells a connection that a side's stream has ended.
    pub(super) fn deliver_end(&mut self, key: u32, side: Side, end: io::Result<()>) {
        if let Some(end) = self.keeps_end(key, side, end) {
            self.dispatch(key, Event::Ended(side, end));
        }
    }

    /// Starts receives that found no buffer again, as many as there are buffers now.
    pub(super) fn feed_starving(&mut self) {
        let (mut started, mut fed) = (0, 0);
        let starving = std::mem::take(&mut self.starving);
        for &token in &starving {
            if started >= self.ring.free_buffers() {
                break;
            }
            fed += 1;
            // Those that have ended or want nothing any more take no buffer.
            started += usize::from(match Kind::parse(token) {
                Some((Kind::ReceiveClient, key)) => self.receive_if_wanted(key, Side::Client),
                Some((Kind::ReceiveUpstream, key)) => self.receive_if_wanted(key, Side::Upstream),
                _ => false,
            });
        }
        self.starving = starving;
        self.starving.drain(..fed);
    }

    /// Starts a receive where the connection wants one and none is in flight; whether it did.
    fn receive_if_wanted(&mut self, key: u32, side: Side) -> bool {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return false;
        };
        let len = entry.connection.receive_len(side);
        let socket = entry.socket(side);
        let Some(descriptor) = &socket.descriptor else {
            return false;
        };
        let starts = socket.wanted && socket.receive.is_none() && socket.parked == 0;
        if starts {
            let token = Kind::receive(side).token(key);
            socket.receive = Some(if socket.drained {
                socket.asked = BLOCK_LEN;
                self.ring.receive(descriptor, token)
            } else {
                socket.asked = len;
                self.ring.receive_once(descriptor, token, len)
            });
        }
        starts
    }

    fn sent(&mut self, key: u32, side: Side, block: Block, result: io::Result<usize>) {
        match self.connections.get_mut(key as usize) {
            Some(entry) => {
                entry.socket(side).send = None;
                self.dispatch(key, Event::Sent(side, block, result));
            }
            None => self.pool.give(block),
        }
    }

    fn connected(&mut self, key: u32, result: io::Result<()>) {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        entry.connect = None;
        let route = entry.connection.session().map(|session| session.route);
        let group = route.and_then(|route| entry.front.groups.get(route));
        if let (Some(choice), Some(group)) = (&entry.choice, group) {
            match &result {
                Ok(()) => choice.answered(self.now),
                Err(error) if is_own_fault(error) => choice.abandoned(entry.is_probe),
                Err(_) => group.failed(choice, entry.is_probe, self.now),
            }
        }
        if result.is_err() {
            self.close_socket(key, Side::Upstream);
        }
        self.dispatch(key, Event::Connected(result));
    }

    /// Passes an event to a connection and carries out what it wants.
    pub(super) fn dispatch(&mut self, key: u32, event: Event<'_>) {
        if let Some(entry) = self.connections.get_mut(key as usize) {
            let mut context = Context {
                now: self.now,
                pool: &mut self.pool,
                actions: &mut self.actions,
            };
            entry.connection.on(event, &mut context);
        }
        self.carry_out(key);
    }

    /// Carries out the actions that a connection left, in their order.
    pub(super) fn carry_out(&mut self, key: u32) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            self.act(key, action);
        }
        self.actions = actions;
        self.leave_handshake(key);
        self.arm(key);
        self.retire(key);
    }

    fn act(&mut self, key: u32, action: Action) {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            if let Action::Send(_, block) = action {
                self.pool.give(block);
            }
            return;
        };
        match action {
            Action::AbandonConnect => {
                if let Some(operation) = entry.connect {
                    self.ring.cancel(operation);
                }
            }
            Action::Close(reason) => {
                if !entry.waiting.is_empty() {
                    entry.waiting = Vec::new();
                    self.handshakes.forget(entry.place.take());
                }
                entry.is_shed = reason.is_shed();
                self.report(key, reason);
                self.close_socket(key, Side::Client);
                self.close_socket(key, Side::Upstream);
            }
            Action::CloseUpstream => self.close_socket(key, Side::Upstream),
            Action::Connect(permit) => self.connect(key, &permit),
            Action::Receive(side) => {
                entry.socket(side).wanted = true;
                self.receive_if_wanted(key, side);
            }
            Action::Send(side, block) => self.send(key, side, block),
            Action::ShutdownSend(side) => {
                if let Some(descriptor) = &entry.socket(side).descriptor {
                    self.ring.shutdown_send(descriptor);
                }
            }
            Action::StopReceiving(side) => {
                let socket = entry.socket(side);
                socket.wanted = false;
                if let Some(operation) = socket.receive {
                    self.ring.cancel(operation);
                }
            }
        }
    }

    fn send(&mut self, key: u32, side: Side, block: Block) {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        if side == Side::Client && entry.handshaking {
            entry.answered = Some(self.now);
        }
        let socket = entry.socket(side);
        if let Some(descriptor) = &socket.descriptor {
            socket.send = Some(
                self.ring
                    .send(descriptor, block, Kind::send(side).token(key)),
            );
        } else {
            self.pool.give(block);
        }
    }

    /// The permit is the proof that policy let the client in.
    fn connect(&mut self, key: u32, _permit: &ConnectPermit) {
        if !self.may_connect(key) || !self.is_within_identity_rate(key) {
            return;
        }
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        let Some(session) = entry.connection.session() else {
            return;
        };
        let group = entry.front.groups.get(session.route);
        let choice = group.map(|group| group.choose(&mut entry.tried, self.now));
        let (upstream, is_probe) = match choice {
            Some(Choice::Upstream { upstream, is_probe }) => (upstream, is_probe),
            Some(Choice::Full) => return self.dispatch(key, Event::UpstreamsFull),
            Some(Choice::Nothing) | None => {
                let nothing_left = io::Error::from(io::ErrorKind::NotConnected);
                return self.dispatch(key, Event::Connected(Err(nothing_left)));
            }
        };
        self.inbox.counters().count_upstream_connect();
        let target = Arc::clone(&upstream.target);
        entry.last_choice = Some(Rc::clone(&upstream));
        entry.choice = Some(upstream);
        entry.is_probe = is_probe;
        entry.upstream.is_unix = matches!(*target, Target::Unix(_));
        let token = Kind::ConnectUpstream.token(key);
        match self.ring.connect(&target, DescriptorKind::Direct, token) {
            Ok((descriptor, operation)) => {
                entry.upstream.descriptor = Some(descriptor);
                entry.connect = Some(operation);
            }
            Err(error) => {
                if let Some(choice) = &entry.choice {
                    choice.abandoned(entry.is_probe);
                }
                self.close_socket(key, Side::Upstream);
                self.dispatch(key, Event::Connected(Err(error)));
            }
        }
    }

    /// Closes a socket: what is in flight on it is cancelled first, or it would keep the
    /// connection open.
    pub(super) fn close_socket(&mut self, key: u32, side: Side) {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        if side == Side::Upstream
            && let Some(choice) = entry.choice.take()
        {
            if entry.connect.is_some() {
                choice.abandoned(entry.is_probe);
            }
            choice.release();
        }
        if side == Side::Upstream
            && let Some(operation) = entry.connect
        {
            self.ring.cancel(operation);
        }
        let is_shed = entry.is_shed;
        let socket = entry.socket(side);
        socket.wanted = false;
        if let Some(descriptor) = socket.descriptor.take() {
            for operation in [socket.receive, socket.send].into_iter().flatten() {
                self.ring.cancel(operation);
            }
            if is_shed {
                self.ring.abort(descriptor);
            } else {
                self.ring.close(descriptor);
            }
        }
    }

    fn leave_handshake(&mut self, key: u32) {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        if entry.handshaking && !entry.connection.is_handshaking() {
            entry.handshaking = false;
            self.admission.handshake_done(entry.source.take());
            if let Some(session) = entry.connection.session() {
                let remembered = entry.verdict_remembered || tally::get().verdict_remembered;
                let kind = kind_of(session.resumed, session.retried, remembered);
                let took = self.clock.now() - entry.accepted_at;
                entry.front.counters.count_established(kind, took);
                self.inbox.counters().count_established(session.resumed);
                self.begin_tenure(key);
            } else if !entry.connection.is_closed() {
                let (number, at) = (entry.number, self.now);
                self.remember_refused(Arrival { key, number, at });
            }
        }
    }

    /// Lets go of a connection that is closed and has nothing in flight.
    fn retire(&mut self, key: u32) {
        let Some(entry) = self.connections.get(key as usize) else {
            return;
        };
        if entry.connection.is_closed() && entry.is_quiet() {
            self.connections.remove(key as usize);
            self.admission.connection_done();
        }
    }
}

/// Whether a connect failed for something that this host ran out of.
fn is_own_fault(error: &io::Error) -> bool {
    // Linux's numbers; std has no kinds for the descriptors of a process and of the host.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory
    ) || matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// How a client was let in.
fn kind_of(resumed: bool, retried: bool, remembered: bool) -> HandshakeKind {
    if resumed {
        HandshakeKind::Resumed
    } else if retried {
        HandshakeKind::Retried
    } else if remembered {
        HandshakeKind::Cached
    } else {
        HandshakeKind::Full
    }
}
