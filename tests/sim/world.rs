//! The second driver of a connection: no kernel, no sockets, and time that a run moves itself.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringgate::block::{Block, Pool};
use ringgate::close_reason::CloseReason;
use ringgate::connection::{
    Action, Addresses, Command, Connection, Context, Event, Settings, Side,
};
use ringgate::limits::BLOCK_LEN;
use ringgate::trust::domain::Refusal;

use crate::cast::Cast;
use crate::client::Client;
use crate::ending::Ending;
use crate::rng::Rng;
use crate::scenario::{ConnectOutcome, Scenario};
use crate::trace;
use crate::upstream::Upstream;
use crate::wire::{End, Wire};

pub const UNIQUE_ID: u128 = 0x51_u128;

pub const SOURCE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 40_000);

const STEPS_MAX: usize = 200_000;

/// Deadlines that a run may need: one for the handshake, two for each connect, one for idleness,
/// two for closing.
const DEADLINES_MAX: usize = 10;

/// Both sides of a connection, index 0 the client's.
pub const SIDES: [Side; 2] = [Side::Client, Side::Upstream];

/// What the driver knows of one of the two sockets.
#[derive(Debug, Default)]
pub struct Socket {
    pub open: bool,
    pub wanted: bool,
    /// Receives still to come after StopReceiving.
    pub late: usize,
    pub sending: Option<Block>,
    /// A FIN was sent.
    pub shut: bool,
    /// The end of its stream was told.
    pub ended: bool,
    /// Bytes that its peer took.
    pub taken: usize,
}

#[derive(Debug)]
pub struct Connecting {
    pub attempt: usize,
    pub outcome: ConnectOutcome,
    pub abandoned: bool,
}

pub struct World<'a> {
    pub scenario: &'a Scenario,
    pub rng: Rng,
    pub connection: Connection,
    pub pool: Pool,
    pub actions: Vec<Action>,
    pub sockets: [Socket; 2],
    /// From the client and from the upstream.
    pub wires: [Wire; 2],
    pub client: Client,
    pub upstream: Upstream,
    pub connecting: Option<Connecting>,
    pub attempts: usize,
    /// An attempt was given up because nobody answered in time.
    pub unanswered: bool,
    pub connected: bool,
    /// A session ticket was not sent yet: it leaves with the upstream's first bytes.
    pub ticket_waits: bool,
    pub ending: Option<Ending>,
    /// When that was, and what had been received from both sides by then.
    pub ending_at: Option<(Instant, [usize; 2])>,
    pub closed: Option<CloseReason>,
    pub deadlines: usize,
    pub deadlines_after_ending: usize,
    pub start: Instant,
    pub now: Instant,
    pub steps: usize,
    depth: usize,
}

/// A ticket waits so long at most.
const TICKET_WAIT: Duration = Duration::from_millis(20);

/// What became of a run.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub reason: CloseReason,
    /// Bytes that the client and the upstream sent.
    pub sent: [usize; 2],
    /// Bytes that they were sent.
    pub taken: [usize; 2],
}

/// What can happen next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    ClientWorks,
    ConnectEnds,
    Deadline,
    Ends(usize),
    Receives(usize),
    Sends(usize),
    TimePasses,
    UpstreamWorks,
}

pub fn index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Upstream => 1,
    }
}

impl<'a> World<'a> {
    pub fn new(scenario: &'a Scenario, cast: &Cast, mut rng: Rng) -> Self {
        let now = Instant::now();
        let settings = Settings {
            greeting: scenario.greeting,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(5),
            half_close_timeout: Duration::from_secs(30),
        };
        let addresses = Addresses {
            client: SOURCE,
            local: SocketAddr::from((Ipv4Addr::LOCALHOST, 443)),
        };
        let mut pool = Pool::new(scenario.pool, 16);
        let mut actions = Vec::new();
        let mut context = Context {
            now,
            pool: &mut pool,
            actions: &mut actions,
        };
        let settings = Arc::new(settings);
        let begin = if scenario.introduced {
            Connection::introduced
        } else {
            Connection::new
        };
        let connection = begin(&cast.acceptor, settings, addresses, UNIQUE_ID, &mut context);
        let mut world = Self {
            scenario,
            client: Client::new(scenario, cast, &mut rng),
            upstream: Upstream::new(scenario, &mut rng),
            wires: scenario.trouble.map(Wire::new),
            rng,
            connection,
            pool,
            actions,
            sockets: Default::default(),
            connecting: None,
            unanswered: false,
            attempts: 0,
            connected: false,
            ticket_waits: false,
            ending: None,
            ending_at: None,
            closed: None,
            deadlines: 0,
            deadlines_after_ending: 0,
            start: now,
            now,
            steps: 0,
            depth: 0,
        };
        world.sockets[0].open = true;
        world.wires[0].send(&scenario.header);
        world.carry_out();
        world
    }

    /// Runs to the end and a little further.
    pub fn run(mut self) -> Outcome {
        while self.closed.is_none() {
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "the run does not end");
            self.interfere();
            if self.closed.is_none() {
                let step = self.choose();
                self.take(step);
            }
        }
        self.settle()
    }

    /// Does what the scenario wants done at this step.
    fn interfere(&mut self) {
        if let Some((step, by)) = self.scenario.jump
            && step == self.steps
        {
            self.now += by;
            self.note("time jumps", None, self.steps);
        }
        if let Some((step, reason)) = self.scenario.command
            && step == self.steps
        {
            let command = match reason {
                CloseReason::AccessWithdrawn => Command::Withdraw(
                    reason,
                    Refusal {
                        reason: CloseReason::CertificateRevoked,
                        detail: "its certificate was revoked".to_owned(),
                        claimed: None,
                    },
                ),
                CloseReason::BufferLimit => Command::Cut(reason),
                reason => Command::End(reason),
            };
            self.event(Event::Command(command));
        }
    }

    /// One of the things that can happen now, at random.
    fn choose(&mut self) -> Step {
        let possible = self.possible();
        if !possible.iter().any(|step| *step != Step::TimePasses) {
            self.check_nothing_is_stuck();
            self.now = self.now.max(self.connection.deadline());
            return Step::Deadline;
        }
        let weight = |step: &Step| match step {
            Step::Deadline => 16,
            Step::TimePasses => 1,
            Step::ClientWorks => self.scenario.weights[0],
            Step::UpstreamWorks => self.scenario.weights[1],
            Step::ConnectEnds => self.scenario.weights[2],
            Step::Receives(side) => self.scenario.weights[3 + side],
            Step::Sends(side) => self.scenario.weights[5 + side],
            Step::Ends(side) => self.scenario.weights[7 + side],
        };
        let total: usize = possible.iter().map(weight).sum();
        let mut drawn = self.rng.below(total);
        for step in &possible {
            match drawn.checked_sub(weight(step)) {
                Some(rest) => drawn = rest,
                None => return *step,
            }
        }
        Step::TimePasses
    }

    fn possible(&self) -> Vec<Step> {
        let mut possible = vec![Step::TimePasses];
        if self.now >= self.connection.deadline() {
            possible.push(Step::Deadline);
        }
        if self.client.has_work(self.scenario, &self.upstream.data) {
            possible.push(Step::ClientWorks);
        }
        if self.connected && self.upstream.has_work(self.scenario) {
            possible.push(Step::UpstreamWorks);
        }
        if self.connecting.as_ref().is_some_and(Connecting::can_end) {
            possible.push(Step::ConnectEnds);
        }
        for side in 0..2 {
            let (socket, wire) = (&self.sockets[side], &self.wires[side]);
            if socket.open && !socket.ended && (socket.wanted || socket.late > 0) {
                if wire.waiting() > 0 {
                    possible.push(Step::Receives(side));
                } else if wire.end().is_some() {
                    possible.push(Step::Ends(side));
                }
            }
            let ends = !socket.open || self.is_broken(side) || self.room(side) > 0;
            if socket.sending.is_some() && ends {
                possible.push(Step::Sends(side));
            }
        }
        possible
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::TimePasses => {
                let passed = self.rng.magnitude(1 << 14);
                self.now += Duration::from_micros(u64::try_from(passed).unwrap());
            }
            Step::Deadline => {
                self.deadlines += 1;
                assert!(self.deadlines <= DEADLINES_MAX, "deadlines without end");
                let had_ticket = self.ticket_waits;
                self.event(Event::Deadline);
                assert!(
                    had_ticket || self.closed.is_some() || self.connection.deadline() > self.now,
                    "the deadline that was handled stands"
                );
            }
            Step::ClientWorks => {
                let (client, wire) = (&mut self.client, &mut self.wires[0]);
                client.work(self.scenario, &mut self.rng, wire, &self.upstream.data);
            }
            Step::UpstreamWorks => {
                let (upstream, wire) = (&mut self.upstream, &mut self.wires[1]);
                upstream.work(self.scenario, &mut self.rng, wire);
            }
            Step::ConnectEnds => self.end_connect(),
            Step::Receives(side) => self.receive(side),
            Step::Sends(side) => self.send(side),
            Step::Ends(side) => {
                let result = match self.wires[side].end() {
                    Some(End::Fin) => Ok(()),
                    _ => Err(ErrorKind::ConnectionReset.into()),
                };
                let socket = &mut self.sockets[side];
                (socket.ended, socket.wanted, socket.late) = (true, false, 0);
                self.event(Event::Ended(SIDES[side], result));
            }
        }
    }

    fn receive(&mut self, side: usize) {
        let drawn = self.scenario.receives[side].draw(&mut self.rng);
        let wire = &mut self.wires[side];
        let mut bytes = wire.receive(drawn.min(wire.waiting()).min(BLOCK_LEN));
        let socket = &mut self.sockets[side];
        if !socket.wanted {
            socket.late -= 1;
        }
        self.event(Event::Received(SIDES[side], &mut bytes));
    }

    /// Whether what is sent to this side fails.
    pub fn is_broken(&self, side: usize) -> bool {
        let wire = &self.wires[side];
        wire.is_reset() || side == 0 && self.scenario.leaves && wire.has_end()
    }

    /// Bytes that this side still takes.
    fn room(&self, side: usize) -> usize {
        self.scenario.reads_until[side].map_or(usize::MAX, |until| {
            until.saturating_sub(self.sockets[side].taken)
        })
    }

    /// Ends the send in flight: whole, short, or with an error.
    fn send(&mut self, side: usize) {
        let Some(block) = self.sockets[side].sending.take() else {
            return;
        };
        let sent = if self.is_broken(side) {
            Err(io::Error::from(ErrorKind::BrokenPipe))
        } else if !self.sockets[side].open && self.rng.once_in(2) {
            // Cancelled before a byte of it went.
            Err(ErrorKind::Interrupted.into())
        } else {
            let drawn = self.scenario.sends[side].draw(&mut self.rng);
            Ok(drawn.min(block.filled().len()).min(self.room(side)))
        };
        if let Ok(len) = sent {
            self.deliver(side, &block.filled()[..len]);
        }
        self.event(Event::Sent(SIDES[side], block, sent));
    }

    /// Bytes reach the client or the upstream.
    pub fn deliver(&mut self, side: usize, bytes: &[u8]) {
        self.sockets[side].taken += bytes.len();
        match SIDES[side] {
            Side::Client => self.client.reach(bytes),
            Side::Upstream => {
                let upstream = &mut self.upstream;
                upstream.reach(bytes, self.scenario, &self.client.data);
                if self
                    .scenario
                    .breaks_at
                    .is_some_and(|at| upstream.got.len() >= at)
                {
                    self.wires[1].reset();
                }
            }
        }
    }

    fn end_connect(&mut self) {
        let Some(connecting) = &self.connecting else {
            return;
        };
        let result = match connecting.outcome {
            ConnectOutcome::Accepted | ConnectOutcome::Hangs { late: true } => Ok(()),
            ConnectOutcome::Hangs { late: false } => Err(ErrorKind::Interrupted.into()),
            _ => Err(ErrorKind::ConnectionRefused.into()),
        };
        self.connect_ended(result);
    }

    pub fn connect_ended(&mut self, result: io::Result<()>) {
        let in_time = self.connecting.as_ref().is_some_and(|each| !each.abandoned);
        self.unanswered |= !in_time;
        if result.is_ok() {
            self.sockets[1].open = true;
            self.connected = in_time;
        }
        self.event(Event::Connected(result));
    }

    /// Hands the connection an event, and carries out what it wants.
    pub fn event(&mut self, event: Event<'_>) {
        self.note_event(&event);
        let handshaking = self.connection.is_handshaking();
        let deadline_was_ahead = self.connection.deadline() > self.now;
        if self.closed.is_none() {
            self.foresee(&event);
        }
        if matches!(event, Event::Connected(_)) {
            self.connecting = None;
        }
        if matches!(event, Event::Deadline | Event::Received(Side::Upstream, _)) {
            self.ticket_waits = false;
        }
        let mut context = Context {
            now: self.now,
            pool: &mut self.pool,
            actions: &mut self.actions,
        };
        self.connection.on(event, &mut context);
        if handshaking && !self.connection.is_handshaking() {
            self.handshake_ended();
        }
        self.depth += 1;
        self.carry_out();
        self.depth -= 1;
        if self.depth == 0 {
            assert!(
                self.closed.is_some()
                    || !deadline_was_ahead
                    || self.connection.deadline() > self.now,
                "a deadline in the past"
            );
            self.check_blocks();
        }
    }

    fn foresee(&mut self, event: &Event<'_>) {
        if self.ending.is_some() {
            self.deadlines_after_ending += usize::from(matches!(event, Event::Deadline));
        } else if let Some(reason) = self.ending_by(event) {
            self.end_begins(Ending::Exactly(reason));
        }
    }

    fn end_begins(&mut self, ending: Ending) {
        self.ending = Some(ending);
        let received = [0, 1].map(|side| self.wires[side].received());
        self.ending_at = Some((self.now, received));
    }

    fn handshake_ended(&mut self) {
        if self.connection.session().is_some() {
            // A connect may take longer.
            self.ticket_waits = self.connection.deadline() <= self.now + TICKET_WAIT;
            self.check_authorised();
        } else if self.ending.is_none() {
            let ending = self.ending_by_refusal();
            self.end_begins(ending);
        }
    }

    pub fn note(&self, what: &'static str, side: Option<Side>, number: usize) {
        trace::add(self.now - self.start, what, side, number);
    }

    fn note_event(&self, event: &Event<'_>) {
        match event {
            Event::Command(_) => self.note("command", None, 0),
            Event::Connected(Ok(())) => self.note("connected", None, self.attempts),
            Event::Connected(Err(_)) => self.note("connect failed", None, self.attempts),
            Event::Deadline => self.note("deadline", None, self.deadlines),
            Event::Ended(side, Ok(())) => self.note("ended", Some(*side), 0),
            Event::Ended(side, Err(_)) => self.note("was reset", Some(*side), 0),
            Event::Received(side, bytes) => self.note("received", Some(*side), bytes.len()),
            Event::Sent(side, _, Ok(sent)) => self.note("sent", Some(*side), *sent),
            Event::Sent(side, _, Err(_)) => self.note("sending failed", Some(*side), 0),
            Event::UpstreamsFull => self.note("upstreams full", None, self.attempts),
        }
    }
}

impl Connecting {
    fn can_end(&self) -> bool {
        match self.outcome {
            ConnectOutcome::Hangs { .. } => self.abandoned,
            ConnectOutcome::Stuck => false,
            _ => true,
        }
    }
}
