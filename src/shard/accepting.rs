//! Accepting connections, and ceasing to.

use std::io;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtrb::Producer;

use super::entry::{Entry, Kind};
use super::front::Front;
use super::half_open::Arrival;
use super::mailbox::Lent;
use super::sources::Source;
use super::{ACCEPT_PAUSE, Shard};
use crate::close_reason::CloseReason;
use crate::connection::{Addresses, Connection, Context};
use crate::limits::ACCEPTS_IN_FLIGHT;
use crate::ring::{Accepted, Listener, Operation};

/// How long a listening socket goes on once a drain began: clients whose handshake of TCP had begun
/// take a round trip to end it.
const LAST_CALL: Duration = Duration::from_millis(250);

/// Accepts that are tried at a socket which is being closed: as many as connections may wait at one. The
/// kernel lets newcomers in to the end, so somebody may always be waiting.
const TRIED_MAX: usize = 4096;

/// A listening socket of this shard.
pub(super) struct Gate {
    pub(super) socket: Listener,
    pub(super) front: Rc<Front>,
    /// Accepts in flight.
    accepts: [Option<Operation>; ACCEPTS_IN_FLIGHT],
    /// When accepting goes on after the process ran out of something.
    pub(super) paused_until: Option<Instant>,
    /// When it closes.
    pub(super) last_call: Option<Instant>,
    /// Accepts that have ended since it closes.
    tried: usize,
    /// Accepts no more; it stays until the accepts in flight have ended, which need the socket.
    closing: bool,
}

impl Gate {
    pub(super) fn new(socket: Listener, front: Rc<Front>) -> Self {
        Self {
            socket,
            front,
            accepts: [None; ACCEPTS_IN_FLIGHT],
            paused_until: None,
            last_call: None,
            tried: 0,
            closing: false,
        }
    }

    /// Stops accepting for a while.
    fn pause(&mut self, now: Instant) {
        self.paused_until = Some(now + ACCEPT_PAUSE);
    }

    /// Whether this is the socket at `address`, and accepts.
    pub(super) fn is_at(&self, address: SocketAddr) -> bool {
        !self.closing && self.socket.address() == address
    }
}

impl Shard {
    /// Sees to it that every listening socket is accepted from.
    pub(super) fn accept_everywhere(&mut self) {
        let gates: Vec<usize> = self.gates.iter().map(|(gate, _)| gate).collect();
        for gate in gates {
            self.accept_more(gate);
        }
    }

    /// Keeps a number of accepts in flight, so that a burst is taken in one turn.
    pub(super) fn accept_more(&mut self, gate: usize) {
        let accepts = |gate: &&mut Gate| !gate.closing && gate.paused_until.is_none();
        if self.gates.get_mut(gate).filter(accepts).is_some() {
            self.arm_accepts(gate);
        }
    }

    fn arm_accepts(&mut self, gate: usize) {
        let Some(gate_entry) = self.gates.get_mut(gate) else {
            return;
        };
        for index in 0..ACCEPTS_IN_FLIGHT {
            if gate_entry.accepts[index].is_some() {
                continue;
            }
            let key = u32::try_from(gate * ACCEPTS_IN_FLIGHT + index)
                .expect("listeners are far fewer than 2^29");
            match self
                .ring
                .accept(&gate_entry.socket, Kind::Accept.token(key))
            {
                Ok(operation) => gate_entry.accepts[index] = Some(operation),
                Err(_) => {
                    gate_entry.pause(self.now);
                    return;
                }
            }
        }
    }

    pub(super) fn accepted(&mut self, key: u32, result: io::Result<Accepted>) {
        let (gate, index) = (
            key as usize / ACCEPTS_IN_FLIGHT,
            key as usize % ACCEPTS_IN_FLIGHT,
        );
        let Some(gate_entry) = self.gates.get_mut(gate) else {
            debug_assert!(false, "an accept outlived its gate");
            return;
        };
        gate_entry.accepts[index] = None;
        gate_entry.tried += usize::from(gate_entry.closing && !is_lacking(&result));
        match result {
            // What was accepted in the meantime is turned away; a drain still serves it.
            Ok(accepted) if self.stopping => {
                self.turn_away(gate, accepted, CloseReason::TooManyConnections);
            }
            Ok(accepted) => self.admit(gate, accepted),
            // The client left before it was accepted.
            Err(error) if concerns_one_connection(&error) => {}
            // There was nobody to accept when its socket was to close.
            Err(error) if gate_entry.closing && is_cancelled(&error) => {}
            Err(_) => gate_entry.pause(self.now),
        }
        self.accept_more(gate);
        self.forget_closed(gate);
    }

    fn admit(&mut self, gate: usize, accepted: Accepted) {
        self.accepted += 1;
        let is_introduced = self.gates[gate].front.listener.is_introduced(accepted.peer);
        // All clients of a load balancer would be one source: each is counted once it is introduced.
        let source = (!is_introduced)
            .then(|| self.admission.source(accepted.peer.ip()))
            .flatten();
        if let Err(reason) = self.may_come(gate, source) {
            return self.turn_away(gate, accepted, reason);
        }
        self.admission.admit(source);
        self.inbox.counters().count_accepted();
        let Accepted {
            descriptor,
            peer,
            local,
        } = accepted;
        let front = Rc::clone(&self.gates[gate].front);
        front.counters.count_accepted();
        let mut context = Context {
            now: self.now,
            pool: &mut self.pool,
            actions: &mut self.actions,
        };
        let unique_id = u128::from(self.identifier_prefix) << 64
            | u128::from(self.id) << 48
            | u128::from(self.accepted);
        let begin = if is_introduced {
            Connection::introduced
        } else {
            Connection::new
        };
        let connection = begin(
            &front.listener.acceptor,
            front.settings.clone(),
            Addresses {
                client: peer,
                local,
            },
            unique_id,
            &mut context,
        );
        let number = self.accepted;
        let entry = Entry::new(connection, descriptor, front, self.now, number, source);
        let key = u32::try_from(self.connections.insert(entry))
            .expect("connections are bounded far below 2^32");
        let at = self.now;
        self.remember_arrival(Arrival { key, number, at }, source);
        self.carry_out(key);
    }

    /// Counts a client under its own source, now that its load balancer said where it comes from; or
    /// resets it, where that has all the handshakes that it may.
    pub(super) fn count_introduced(&mut self, key: u32) {
        let Some(entry) = self.connections.get(key as usize) else {
            return;
        };
        let source = self
            .admission
            .source(entry.connection.addresses().client.ip());
        if self.may_come_from(source).is_err() {
            return self.shed(key, CloseReason::HandshakesPerSource);
        }
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        entry.source = source;
        let (number, at) = (entry.number, self.now);
        self.admission.count_in_source(source);
        self.remember_in_source(Arrival { key, number, at }, source);
    }

    /// Whether `source` may have another handshake; true where somebody of it gave way.
    fn may_come_from(&mut self, source: Option<Source>) -> Result<bool, CloseReason> {
        if !self.admission.is_source_full(source) {
            return Ok(false);
        }
        // After a change of the bound there may be more than one too many.
        if self.make_room_in(source) && !self.admission.is_source_full(source) {
            return Ok(true);
        }
        Err(CloseReason::HandshakesPerSource)
    }

    /// Whether a connection from `source` is taken on, before anything is spent on it.
    fn may_come(&mut self, gate: usize, source: Option<Source>) -> Result<(), CloseReason> {
        // Nobody gives way to one that is turned away, and one that finds no place uses nothing up.
        let front = Rc::clone(&self.gates[gate].front);
        if !front.may_take_another(self.now) {
            return Err(CloseReason::RateLimited);
        }
        let has_room = self.may_come_from(source)? || self.admission.has_room();
        // Who gives way counts as a connection until nothing is in flight for it any more.
        if !has_room && !self.make_room() {
            return Err(CloseReason::TooManyConnections);
        }
        front.take_another(self.now);
        Ok(())
    }

    /// Resets a connection: it costs nothing more, and its client need not wait to find out.
    fn turn_away(&mut self, gate: usize, accepted: Accepted, reason: CloseReason) {
        let counters = self.inbox.counters();
        counters.count_accepted();
        counters.count_closed(reason);
        let counters = &self.gates[gate].front.counters;
        counters.count_accepted();
        counters.count_closed(reason, true);
        self.ring.abort(accepted.descriptor);
    }

    /// Duplicates every listening socket for `borrower`, or none where one cannot be.
    pub(super) fn lend(&mut self, borrower: &mut Producer<Vec<Lent>>) {
        let gates = self.gates.iter().filter(|(_, gate)| !gate.closing);
        let lent = gates.map(|(_, gate)| {
            Ok(Lent {
                listener: Arc::from(&*gate.front.listener.name),
                socket: gate.socket.duplicate()?,
            })
        });
        if let Ok(lent) = lent.collect::<io::Result<_>>() {
            // There is room for one.
            let _ = borrower.push(lent);
        }
    }

    /// Closes the listening sockets soon. What another process keeps is left to it at once.
    pub(super) fn call_last(&mut self) {
        for (_, gate) in &mut self.gates {
            let closes_at = match gate.socket.is_shared() {
                true => self.now,
                false => self.now + LAST_CALL,
            };
            gate.last_call.get_or_insert(closes_at);
        }
    }

    /// Closes the listening sockets whose last call is over.
    pub(super) fn close_called(&mut self) {
        let is_over = |gate: &Gate| gate.last_call.is_some_and(|at| at <= self.now);
        let gates = self.gates.iter().filter(|(_, gate)| is_over(gate));
        let gates: Vec<usize> = gates.map(|(gate, _)| gate).collect();
        for gate in gates {
            self.close_gate(gate);
        }
    }

    /// Closes the listening sockets.
    pub(super) fn stop_accepting(&mut self) {
        let gates: Vec<usize> = self.gates.iter().map(|(gate, _)| gate).collect();
        for gate in gates {
            self.close_gate(gate);
        }
    }

    /// Closes a listening socket, as soon as its accepts in flight have ended.
    pub(super) fn close_gate(&mut self, gate: usize) {
        let Some(gate_entry) = self.gates.get_mut(gate) else {
            return;
        };
        gate_entry.closing = true;
        gate_entry.paused_until = None;
        gate_entry.last_call = None;
        for operation in gate_entry.accepts.into_iter().flatten() {
            self.ring.cancel(operation);
        }
        self.forget_closed(gate);
    }

    fn forget_closed(&mut self, gate: usize) {
        let is_over = |gate: &Gate| gate.closing && gate.accepts.iter().all(Option::is_none);
        let Some(gate_entry) = self.gates.get_mut(gate).filter(|gate| is_over(gate)) else {
            return;
        };
        // Whoever waits at it now would be reset with it. And where another process goes on with it:
        // the kernel wakes one who waits for each connection; where that was an accept which was being
        // cancelled, the other does not know of the connection. So they are taken, until there is none.
        if self.stopping || gate_entry.tried >= TRIED_MAX || !gate_entry.socket.has_waiting() {
            self.gates.remove(gate);
        } else if gate_entry.paused_until.is_none() {
            self.take_waiting(gate);
        }
    }

    pub(super) fn forget_all_closed(&mut self) {
        let gates: Vec<usize> = self.gates.iter().map(|(gate, _)| gate).collect();
        for gate in gates {
            self.forget_closed(gate);
        }
    }

    /// Asks for as many of those who wait as accepts may be in flight. None of the accepts stays.
    fn take_waiting(&mut self, gate: usize) {
        self.arm_accepts(gate);
        let Some(gate_entry) = self.gates.get_mut(gate) else {
            return;
        };
        for accept in gate_entry.accepts.into_iter().flatten() {
            // It has been tried by then.
            self.ring.cancel(accept);
        }
    }
}

/// Whether an accept failed for something that there was none of.
fn is_lacking(result: &io::Result<Accepted>) -> bool {
    let error = result.as_ref().err();
    error.is_some_and(|error| !concerns_one_connection(error) && !is_cancelled(error))
}

/// Whether an operation ended because it was asked to.
fn is_cancelled(error: &io::Error) -> bool {
    // Linux's number; std has no kind for it.
    const ECANCELED: i32 = 125;
    error.raw_os_error() == Some(ECANCELED)
}

/// Whether only this one connection is lost, so that accepting may go on at once. After everything
/// else it pauses: trying again at once would spin.
fn concerns_one_connection(error: &io::Error) -> bool {
    // Linux's number; std has no kind for a protocol error on a queued connection.
    const EPROTO: i32 = 71;
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    ) || error.raw_os_error() == Some(EPROTO)
}
