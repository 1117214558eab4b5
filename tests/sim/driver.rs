//! Carries out actions, and holds the connection to the contract of its drivers.

use std::io::ErrorKind;

use ringgate::block::Block;
use ringgate::close_reason::CloseReason;
use ringgate::connection::{Action, ConnectPermit, Side};

use crate::scenario::ConnectOutcome;
use crate::world::{Connecting, SIDES, World, index};

impl World<'_> {
    /// Carries out the actions that the connection left, in their order.
    pub fn carry_out(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            assert_eq!(self.closed, None, "{action:?} after Close");
            self.act(action);
        }
        self.actions = actions;
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::AbandonConnect => {
                let connecting = self.connecting.as_mut();
                let connecting = connecting.expect("there is a connect to abandon");
                assert!(!connecting.abandoned, "a connect is abandoned twice");
                connecting.abandoned = true;
                self.note("AbandonConnect", None, self.attempts);
            }
            Action::Close(reason) => self.close(reason),
            Action::CloseUpstream => {
                self.note("CloseUpstream", None, 0);
                self.close_socket(1);
                self.connecting = None;
            }
            Action::Connect(permit) => self.connect(&permit),
            Action::Receive(side) => {
                self.note("Receive", Some(side), 0);
                let socket = self.usable(side);
                assert!(!socket.ended, "Receive after the end of {side:?}");
                assert!(!socket.wanted, "Receive of {side:?} twice");
                socket.wanted = true;
                // What was still to come comes with the rest.
                socket.late = 0;
            }
            Action::Send(side, block) => self.start_send(side, block),
            Action::ShutdownSend(side) => {
                self.note("ShutdownSend", Some(side), 0);
                let socket = self.usable(side);
                assert!(socket.sending.is_none(), "a FIN before what is being sent");
                assert!(!socket.shut, "two FINs for {side:?}");
                socket.shut = true;
                match side {
                    Side::Client => self.client.reach_end(),
                    Side::Upstream => self.upstream.saw_fin = true,
                }
            }
            Action::StopReceiving(side) => {
                self.note("StopReceiving", Some(side), 0);
                let late = self.rng.within(0, self.scenario.late_receives);
                let socket = self.usable(side);
                assert!(socket.wanted, "StopReceiving of {side:?} without Receive");
                socket.wanted = false;
                socket.late = late;
            }
        }
    }

    fn usable(&mut self, side: Side) -> &mut crate::world::Socket {
        let socket = &mut self.sockets[index(side)];
        assert!(socket.open, "{side:?} is not open");
        socket
    }

    fn start_send(&mut self, side: Side, block: Block) {
        self.note("Send", Some(side), block.filled().len());
        assert!(!block.is_empty(), "an empty send");
        if side == Side::Upstream {
            assert!(self.connected, "a send before the upstream is there");
            self.check_authorised();
        }
        let socket = self.usable(side);
        assert!(!socket.shut, "a send behind the FIN for {side:?}");
        assert!(socket.sending.is_none(), "two sends to {side:?} in flight");
        socket.sending = Some(block);
    }

    fn connect(&mut self, permit: &ConnectPermit) {
        self.note("Connect", None, permit.attempt());
        self.check_authorised();
        assert_eq!(permit.attempt(), self.attempts, "attempts are counted");
        assert!(self.connecting.is_none(), "two connects at once");
        assert!(!self.sockets[1].open, "a connect beside an open upstream");
        let outcome = self.scenario.connects[self.attempts];
        self.connecting = Some(Connecting {
            attempt: self.attempts,
            outcome,
            abandoned: false,
        });
        self.attempts += 1;
        if outcome == ConnectOutcome::NothingLeft {
            self.connect_ended(Err(ErrorKind::NotConnected.into()));
        }
    }

    /// Both of the invariants that matter most: nothing goes upstream for a client that is not let
    /// in, or not yet.
    pub fn check_authorised(&self) {
        assert!(
            self.scenario.lets_in(),
            "a client that is refused was let in"
        );
        let finished_at = self
            .client
            .finished_at
            .expect("the client sent its Finished");
        assert!(
            self.wires[0].received() >= finished_at,
            "authorised before the client's Finished"
        );
    }

    /// Closes a socket: what is in flight is cancelled and comes back.
    fn close_socket(&mut self, side: usize) {
        let socket = &mut self.sockets[side];
        (socket.open, socket.wanted, socket.late) = (false, false, 0);
        match SIDES[side] {
            Side::Client => self.client.hang_up(),
            Side::Upstream => self.upstream.saw_fin = true,
        }
    }

    fn close(&mut self, reason: CloseReason) {
        self.note("Close", None, 0);
        assert!(self.connection.is_closed());
        self.closed = Some(reason);
        self.close_socket(0);
        self.close_socket(1);
    }
}
