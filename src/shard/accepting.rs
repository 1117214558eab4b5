//! Accepting connections, and ceasing to.

use std::io;

use super::entry::{Entry, Kind};
use super::{ACCEPT_PAUSE, Shard};
use crate::close_reason::CloseReason;
use crate::connection::{Addresses, Connection, Context};
use crate::limits::ACCEPTS_IN_FLIGHT;
use crate::ring::Accepted;

impl Shard {
    /// Keeps a number of accepts in flight, so that a burst is taken in one turn.
    pub(super) fn accept_more(&mut self, gate: usize) {
        let Some(gate_entry) = self.gates.get_mut(gate) else {
            return;
        };
        if gate_entry.paused_until.is_some() {
            return;
        }
        for index in 0..ACCEPTS_IN_FLIGHT {
            if gate_entry.accepts[index].is_some() {
                continue;
            }
            let key = u32::try_from(gate * ACCEPTS_IN_FLIGHT + index)
                .expect("listeners are far fewer than 2^29");
            match self
                .ring
                .accept(&gate_entry.listener, Kind::Accept.token(key))
            {
                Ok(operation) => gate_entry.accepts[index] = Some(operation),
                Err(_) => {
                    gate_entry.paused_until = Some(self.now + ACCEPT_PAUSE);
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
            // Accepting has stopped: what was accepted in the meantime is turned away.
            if let Ok(accepted) = result {
                self.turn_away(accepted);
            }
            return;
        };
        gate_entry.accepts[index] = None;
        match result {
            Ok(accepted) => self.admit(gate, accepted),
            // The client left before it was accepted.
            Err(error) if concerns_one_connection(&error) => {}
            Err(_) => gate_entry.paused_until = Some(self.now + ACCEPT_PAUSE),
        }
        self.accept_more(gate);
    }

    fn admit(&mut self, gate: usize, accepted: Accepted) {
        self.inbox.counters().count_accepted();
        self.accepted += 1;
        if !self.admission.admit() {
            self.turn_away(accepted);
            return;
        }
        let Accepted {
            descriptor,
            peer,
            local,
        } = accepted;
        let gate = &self.gates[gate];
        let mut context = Context {
            now: self.now,
            pool: &mut self.pool,
            actions: &mut self.actions,
        };
        let unique_id = u128::from(self.identifier_prefix) << 64
            | u128::from(self.id) << 48
            | u128::from(self.accepted);
        let connection = Connection::new(
            &self.snapshot.listeners[gate.index].acceptor,
            gate.settings.clone(),
            Addresses {
                client: peer,
                local,
            },
            unique_id,
            &mut context,
        );
        let entry = Entry::new(connection, descriptor, gate.index, self.now);
        let key = u32::try_from(self.connections.insert(entry))
            .expect("connections are bounded far below 2^32");
        self.carry_out(key);
    }

    fn turn_away(&mut self, accepted: Accepted) {
        self.inbox
            .counters()
            .count_closed(CloseReason::TooManyConnections, [0; 2]);
        self.ring.close(accepted.descriptor);
    }

    /// Closes the listening sockets. The accepts in flight hold them open until they are cancelled.
    pub(super) fn stop_accepting(&mut self) {
        for gate in self.gates.drain(..) {
            for operation in gate.accepts.into_iter().flatten() {
                self.ring.cancel(operation);
            }
        }
    }
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
