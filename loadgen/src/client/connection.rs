//! The life of one client connection, without I/O: what arrived goes in; what to send, what was
//! measured and what comes next come out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringgate::block::Block;

use super::{Recorder, Served, Session};
use crate::failure::Failure;
use crate::statistics::Kind;

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

/// What a unit of work is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    /// A connection: made, shaken hands, confirmed, closed.
    Handshakes,
    /// A connection that is made, confirmed, and then held without a byte until the end.
    Hold,
    /// An echo on a connection that is held.
    Requests,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Close {
    /// With close_notify and FIN, and the server's too.
    #[default]
    Fin,
    /// With a reset.
    Rst,
}

/// What the connections do.
#[derive(Clone, Debug)]
pub struct Workload {
    pub work: Work,
    /// What counts as a served handshake.
    pub confirm: Confirm,
    /// What each unit sends and expects back.
    pub payload: Arc<[u8]>,
    /// Requests after which a connection is closed and made anew; `None` is never.
    pub requests_per_connection: Option<u64>,
    pub close: Close,
    /// How long connecting, the handshake and each unit may take.
    pub timeout: Duration,
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
    /// Its figures are no load's, and being served is an error.
    must_be_refused: bool,
}

impl Connection {
    /// A connection that is being made for a unit due at `due`.
    pub fn new(session: Session, must_be_refused: bool, due: Instant, now: Instant) -> Self {
        Self {
            session,
            phase: Phase::Connecting,
            due,
            begun: now,
            since: now,
            kind: Kind::Full,
            units_done: 0,
            must_be_refused,
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
            if before == 0 && echoed > 0 && self.counts(now, recorder) {
                let statistics = &mut recorder.statistics;
                let first = match workload.work {
                    Work::Handshakes | Work::Hold => &mut statistics.confirm,
                    Work::Requests => &mut statistics.first_byte,
                };
                first.record(now - self.since);
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
            if self.counts(now, recorder) {
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
        if self.counts(now, recorder) {
            let statistics = &mut recorder.statistics;
            statistics.tls.record(now - self.since);
            statistics.of_kind(self.kind).tls.record(now - self.since);
            if let Some(agreed) = self.session.agreed() {
                statistics.agree(agreed);
            }
        }
        self.since = now;
        if workload.work == Work::Requests {
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
        let echoes = workload.work == Work::Requests || workload.confirm == Confirm::Echo;
        let served = Served {
            due: self.due,
            begun: self.begun,
            kind: (workload.work != Work::Requests).then_some(self.kind),
            bytes: 2 * workload.payload.len() as u64 * u64::from(echoes),
        };
        if !self.must_be_refused {
            recorder.serve(&served, now);
        }
        self.since = now;
        self.units_done += 1;
        let is_last = match workload.work {
            Work::Handshakes => true,
            Work::Hold => false,
            Work::Requests => workload
                .requests_per_connection
                .is_some_and(|max| self.units_done >= max),
        };
        if is_last {
            if workload.close == Close::Fin {
                self.session.close();
            }
            self.phase = Phase::Finished;
        } else {
            self.phase = Phase::Ready;
        }
    }

    fn counts(&self, now: Instant, recorder: &Recorder) -> bool {
        !self.must_be_refused && recorder.counts(now)
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
