//! The life of one client connection, without I/O: what arrived goes in; what to send, what was
//! measured and what comes next come out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringgate::block::Block;

use super::Session;
use crate::failure::Failure;
use crate::statistics::{Kind, Statistics};

/// What counts as a served handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Confirm {
    /// An echo came back through it.
    Echo,
    /// The server gave a session ticket (TLS 1.3), or its Finished (TLS 1.2).
    Ticket,
    /// The client believes it: the server may still refuse.
    None,
}

/// What the connections do.
#[derive(Clone, Debug)]
pub struct Workload {
    /// One unit per connection, which is a handshake; or many requests on a held connection.
    pub handshakes: bool,
    /// What counts as a served handshake.
    pub confirm: Confirm,
    /// What each unit sends and expects back.
    pub payload: Arc<[u8]>,
    /// How long connecting, the handshake and each unit may take.
    pub timeout: Duration,
}

/// Statistics of the measured time: what ends before `from` or after `until` does not count.
#[derive(Debug)]
pub struct Recorder {
    pub statistics: Statistics,
    pub from: Instant,
    pub until: Instant,
    /// Whether units have a due time of their own.
    pub open_loop: bool,
}

impl Recorder {
    pub fn counts(&self, now: Instant) -> bool {
        (self.from..self.until).contains(&now)
    }

    /// Errors after the end still count: a unit that hangs must not vanish.
    pub fn fail(&mut self, failure: Failure, now: Instant) {
        if now >= self.from {
            self.statistics.fail(failure);
        }
    }
}

/// What a connection wants next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// Send what is queued, then close.
    Finished,
    /// Waits for [`Connection::begin_unit`].
    Ready,
    /// Is under way.
    Working,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Connecting,
    Handshaking,
    /// A unit's bytes are out, and this many of them have come back.
    Echoing(usize),
    /// The client is done; the server's acceptance is awaited.
    Confirming,
    Finished,
    Ready,
}

/// One client connection.
#[derive(Debug)]
pub struct Connection {
    session: Session,
    phase: Phase,
    /// When the unit under way was due, and when it was begun.
    due: Instant,
    begun: Instant,
    /// When the present phase began.
    since: Instant,
    /// What the handshake was, once it is done.
    kind: Kind,
    units_done: u64,
}

impl Connection {
    /// A connection that is being made for a unit due at `due`.
    pub fn new(session: Session, due: Instant, now: Instant) -> Self {
        Self {
            session,
            phase: Phase::Connecting,
            due,
            begun: now,
            since: now,
            kind: Kind::Full,
            units_done: 0,
        }
    }

    /// TCP is up: the ClientHello can go.
    pub fn connected(&mut self, now: Instant, recorder: &mut Recorder) {
        if recorder.counts(now) {
            recorder.statistics.connect.record(now - self.since);
        }
        (self.phase, self.since) = (Phase::Handshaking, now);
    }

    /// Takes what the server sent.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        now: Instant,
        workload: &Workload,
        recorder: &mut Recorder,
    ) -> Result<Progress, Failure> {
        let mut echoed = match self.phase {
            Phase::Echoing(echoed) => echoed,
            _ => 0,
        };
        let before = echoed;
        let closed = self.session.receive(bytes, |plain| {
            let expected = workload.payload.get(echoed..echoed + plain.len());
            echoed += plain.len();
            if expected == Some(plain) {
                Ok(())
            } else {
                Err(Failure::EchoMismatch)
            }
        })?;
        if let Phase::Echoing(_) = self.phase {
            if before == 0 && echoed > 0 && workload.handshakes && recorder.counts(now) {
                recorder.statistics.confirm.record(now - self.since);
            }
            self.phase = Phase::Echoing(echoed);
            if echoed == workload.payload.len() {
                self.unit_done(now, workload, recorder);
            }
        } else if echoed > 0 {
            return Err(Failure::EchoMismatch);
        }
        if self.phase == Phase::Handshaking && !self.session.is_handshaking() {
            self.handshake_done(now, workload, recorder)?;
        }
        if self.phase == Phase::Confirming && self.session.is_accepted() {
            if recorder.counts(now) {
                recorder.statistics.confirm.record(now - self.since);
            }
            self.unit_done(now, workload, recorder);
        }
        if closed && self.phase != Phase::Finished {
            return Err(Failure::UnexpectedEof);
        }
        Ok(self.progress())
    }

    /// Sends the next unit on a connection that is [`Progress::Ready`].
    pub fn begin_unit(
        &mut self,
        due: Instant,
        now: Instant,
        workload: &Workload,
    ) -> Result<(), Failure> {
        (self.due, self.begun, self.since) = (due, now, now);
        self.phase = Phase::Echoing(0);
        self.session.write(&workload.payload)
    }

    fn handshake_done(
        &mut self,
        now: Instant,
        workload: &Workload,
        recorder: &mut Recorder,
    ) -> Result<(), Failure> {
        self.kind = self.session.kind();
        if recorder.counts(now) {
            let statistics = &mut recorder.statistics;
            statistics.tls.record(now - self.since);
            statistics.of_kind(self.kind).tls.record(now - self.since);
            if let Some(agreed) = self.session.agreed() {
                statistics.agree(agreed);
            }
        }
        self.since = now;
        if !workload.handshakes {
            self.phase = Phase::Ready;
            return Ok(());
        }
        match workload.confirm {
            Confirm::Echo => {
                self.phase = Phase::Echoing(0);
                self.session.write(&workload.payload)
            }
            Confirm::Ticket => {
                self.phase = Phase::Confirming;
                Ok(())
            }
            Confirm::None => {
                self.unit_done(now, workload, recorder);
                Ok(())
            }
        }
    }

    fn unit_done(&mut self, now: Instant, workload: &Workload, recorder: &mut Recorder) {
        if recorder.counts(now) {
            let statistics = &mut recorder.statistics;
            statistics.confirmed += 1;
            if !workload.handshakes || workload.confirm == Confirm::Echo {
                statistics.bytes += 2 * workload.payload.len() as u64;
            }
            statistics.plain.record(now - self.begun);
            if workload.handshakes {
                let of_kind = statistics.of_kind(self.kind);
                of_kind.confirmed += 1;
                of_kind.unit.record(now - self.begun);
            }
            if recorder.open_loop {
                statistics
                    .corrected
                    .record(now.saturating_duration_since(self.due));
            }
        }
        self.since = now;
        self.units_done += 1;
        if workload.handshakes {
            self.session.close();
            self.phase = Phase::Finished;
        } else {
            self.phase = Phase::Ready;
        }
    }

    /// Units that were served on this connection.
    pub fn units_done(&self) -> u64 {
        self.units_done
    }

    /// What the handshake was: `None` while it goes on.
    pub fn kind(&self) -> Option<Kind> {
        (!matches!(self.phase, Phase::Connecting | Phase::Handshaking)).then_some(self.kind)
    }

    /// What the connection wants next.
    pub fn progress(&self) -> Progress {
        match self.phase {
            Phase::Finished => Progress::Finished,
            Phase::Ready => Progress::Ready,
            Phase::Connecting | Phase::Handshaking | Phase::Echoing(_) | Phase::Confirming => {
                Progress::Working
            }
        }
    }

    /// The failure of a connection that hangs at `now`, if it does.
    pub fn overdue(&self, now: Instant, timeout: Duration) -> Option<Failure> {
        if now.saturating_duration_since(self.since) < timeout {
            return None;
        }
        match self.phase {
            Phase::Connecting => Some(Failure::TcpTimeout),
            Phase::Handshaking => Some(Failure::TlsTimeout),
            Phase::Echoing(_) => Some(Failure::RequestTimeout),
            Phase::Confirming => Some(Failure::ConfirmTimeout),
            Phase::Finished | Phase::Ready => None,
        }
    }

    /// Whether the server has let a finished connection wait for its end since `timeout`.
    pub fn is_left_alone(&self, now: Instant, timeout: Duration) -> bool {
        self.phase == Phase::Finished && now.saturating_duration_since(self.since) >= timeout
    }

    /// Whether [`Connection::take_output`] has something.
    pub fn wants_output(&self) -> bool {
        self.phase != Phase::Connecting && self.session.wants_output()
    }

    /// Appends bytes for the server to `block`.
    pub fn take_output(&mut self, block: &mut Block) {
        self.session.take_output(block);
    }
}
