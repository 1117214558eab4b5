//! The loop that drives many client connections on one ring, on one thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use ringgate::block::{Block, Pool};
use ringgate::ring::{
    Completion, DescriptorKind, Outcome, ReceiveEnd, Received, Ring, RingOptions, Target, Token,
};

use super::choice::Choice;
use super::cpu_window::CpuWindow;
use super::resumption::Steering;
use super::slot::{Live, Slot, token};
use super::{
    Close, Connection, DriverError, LoadPlan, Outcomes, Progress, Recorder, Reporting, Schedule,
    Session, Work,
};
use crate::cpu_time;
use crate::failure::Failure;
use crate::identity_check::IdentityCounts;
use crate::series::{Interval, Notes};
use crate::statistics::{Kind, Statistics};

/// How often connections that hang are looked for, and what each connection adds to that.
const SWEEP: Duration = Duration::from_millis(10);
const SWEEP_EACH: Duration = Duration::from_micros(1);

/// Connections to be held that are made at a time, unless a rate says when.
const OPENING_MAX: usize = 256;

/// How long a slot rests after a failure, so that a server that refuses is not flooded.
const REST: Duration = Duration::from_millis(10);

/// How long a connection that has said goodbye waits for the server to do the same.
const LINGER: Duration = Duration::from_secs(1);

/// One load thread.
pub struct Driver {
    ring: Ring,
    pool: Pool,
    plan: LoadPlan,
    target: Target,
    schedule: Schedule,
    steering: Steering,
    choice: Choice,
    recorder: Recorder,
    identity: IdentityCounts,
    slots: Vec<Slot>,
    /// Slots that a unit can begin on: empty ones, or connections that are ready.
    idle: Vec<usize>,
    /// Empty slots of held connections.
    vacant: Vec<usize>,
    connections_made: u64,
    units_begun: u64,
    /// Connections that are under way to be held.
    opening: usize,
    /// Slots and generations of connections that wait for receive buffers.
    starved: Vec<(usize, u32)>,
    intervals: Sender<Interval>,
    stop: Arc<AtomicBool>,
    /// Stopped before the plan's end.
    stopped: bool,
}

impl Driver {
    /// Sets the ring up; on the thread that will run.
    pub fn new(plan: LoadPlan, reporting: Reporting) -> Result<Self, DriverError> {
        let descriptors = u32::try_from(plan.connections + 16).unwrap_or(u32::MAX);
        let ring = Ring::new(&RingOptions {
            descriptors,
            ..RingOptions::default()
        })?;
        let recorder = Recorder {
            statistics: Statistics::default(),
            from: plan.from,
            until: plan.until,
            open_loop: plan.pace.is_some(),
            notes: Notes::new(plan.from, reporting.interval_len, Duration::ZERO),
        };
        let all: Vec<usize> = (0..plan.connections).rev().collect();
        let (idle, vacant) = match plan.workload.work {
            Work::Handshakes | Work::Hold => (all, Vec::new()),
            Work::Requests => (Vec::new(), all),
        };
        Ok(Self {
            ring,
            pool: Pool::new(plan.connections + 1, 64),
            target: Target::Tcp(plan.target),
            schedule: Schedule::new(
                plan.pace.clone(),
                plan.start,
                plan.share,
                plan.first_connection,
            ),
            steering: Steering::new(plan.resume, plan.first_connection),
            choice: Choice::new(
                plan.distribution,
                plan.credentials.count(),
                plan.credentials.bad_shares(),
                !plan.first_connection,
            ),
            recorder,
            identity: IdentityCounts::default(),
            slots: std::iter::repeat_with(Slot::default)
                .take(plan.connections)
                .collect(),
            idle,
            vacant,
            connections_made: plan.first_connection,
            units_begun: 0,
            opening: 0,
            starved: Vec::new(),
            intervals: reporting.intervals,
            stop: reporting.stop,
            stopped: false,
            plan,
        })
    }

    /// Runs until the plan's end and until the units under way have ended or hang.
    pub fn run(mut self) -> Result<Outcomes, DriverError> {
        let sweep = SWEEP + SWEEP_EACH * u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let mut next_sweep = Instant::now();
        let mut cpu = CpuWindow::default();
        loop {
            let mut now = Instant::now();
            self.heed_stop(now);
            cpu.observe(now, &mut self.recorder);
            self.report(now);
            if now >= next_sweep {
                self.sweep(now);
                next_sweep = now + sweep;
            }
            let hard_stop = self.plan.until + self.plan.workload.timeout;
            if self.is_over(now) && (self.stopped || self.is_quiet() || now >= hard_stop) {
                break;
            }
            self.begin_due(now);
            let mut wake = next_sweep;
            if let Some(due) = self.schedule.next_due()
                && !self.idle.is_empty()
            {
                wake = wake.min(due);
            }
            now = Instant::now();
            self.ring.wait(Some(wake.saturating_duration_since(now)))?;
            self.recorder.woke(wake.max(now), Instant::now());
            self.complete_all();
        }
        Ok(self.finish(&cpu))
    }

    /// Takes completions until there are none, or until a unit is due: that goes out first.
    fn complete_all(&mut self) {
        while let Some(completion) = self.ring.next_completion() {
            let now = Instant::now();
            self.complete(completion, now);
            let due = self.schedule.next_due().is_some_and(|due| due <= now);
            if due && !self.idle.is_empty() && !self.is_over(now) {
                return;
            }
        }
        // Only now are the buffers that came back lent to the kernel again.
        for (index, generation) in std::mem::take(&mut self.starved) {
            let slot = &mut self.slots[index];
            if slot.generation == generation
                && let Some(live) = &mut slot.live
                && live.receiving.is_none()
            {
                let token = token(index, generation);
                live.receiving = Some(self.ring.receive(&live.descriptor, token));
            }
        }
    }

    fn heed_stop(&mut self, now: Instant) {
        if !self.stopped && self.stop.load(Ordering::Relaxed) && now < self.plan.until {
            self.stopped = true;
            self.plan.until = now;
            self.recorder.until = now;
        }
    }

    /// Tells of an interval that has ended.
    fn report(&mut self, now: Instant) {
        if let Some(ended) = self.recorder.notes.turn(now, cpu_time::of_this_thread) {
            // Whoever listened may have gone.
            let _ = self.intervals.send(ended);
        }
    }

    /// Whether no further unit begins.
    fn is_over(&self, now: Instant) -> bool {
        now >= self.plan.until
            || self
                .plan
                .units_max
                .is_some_and(|max| self.units_begun >= max)
    }

    /// Whether no unit is under way.
    fn is_quiet(&self) -> bool {
        self.slots.iter().all(|slot| {
            let Some(live) = &slot.live else { return true };
            live.connection.progress() == Progress::Ready || live.lingers
        })
    }

    fn finish(mut self, cpu: &CpuWindow) -> Outcomes {
        let now = Instant::now();
        for slot in &mut self.slots {
            // What is under way at the hard stop hangs; at a stop by hand nobody knows.
            if let Some(live) = slot.live.take()
                && let Some(failure) = live.connection.overdue(now, Duration::ZERO)
                && !self.stopped
            {
                self.recorder.fail(failure, now);
            }
        }
        // What was due and did not begin.
        let mut due = self.recorder.statistics.begun;
        if !self.is_bounded() {
            while let Some(moment) = self
                .schedule
                .next_due()
                .filter(|due| *due < self.plan.until)
            {
                let _ = self.schedule.take(moment);
                due += u64::from(moment >= self.plan.from);
            }
        }
        let _ = self
            .intervals
            .send(self.recorder.notes.finish(cpu_time::of_this_thread()));
        let mut statistics = self.recorder.statistics;
        statistics.due = due;
        (
            statistics.own_cpu,
            statistics.own_busy,
            statistics.own_waited,
        ) = cpu.spent();
        Outcomes {
            statistics,
            identity: self.identity,
        }
    }

    /// Whether the run ends with a number of units and not with time.
    fn is_bounded(&self) -> bool {
        self.plan.units_max.is_some()
    }

    /// Begins units that are due on slots that are idle, and connects held connections.
    fn begin_due(&mut self, now: Instant) {
        if self.is_over(now) {
            return;
        }
        for index in std::mem::take(&mut self.vacant) {
            self.connect(index, now, now);
        }
        while !self.idle.is_empty() && !self.is_over(now) && self.may_open() {
            let Some(due) = self.schedule.take(now) else {
                return;
            };
            let Some(index) = self.idle.pop() else { return };
            self.units_begun += 1;
            self.recorder.begin(due, now);
            match self.plan.workload.work {
                Work::Handshakes | Work::Hold => self.connect(index, due, now),
                Work::Requests => self.begin_unit(index, due, now),
            }
        }
    }

    /// Whether the server is not to be drowned in connections that are only to be held.
    fn may_open(&self) -> bool {
        self.plan.workload.work != Work::Hold
            || self.plan.pace.is_some()
            || self.opening < OPENING_MAX
    }

    fn connect(&mut self, index: usize, due: Instant, now: Instant) {
        let number = self.connections_made;
        self.connections_made += 1;
        let presents = self.choice.next(number);
        let (identity, bad) = self.plan.credentials.identity(presents);
        let (config, offers) = identity.config(bad.is_none() && self.steering.next());
        if offers {
            self.steering.offered();
        }
        let session = match Session::new(config, &self.plan.server_name) {
            Ok(session) => session,
            Err(failure) => return self.rest(index, Some(failure), now),
        };
        // Only a plain descriptor knows the local address that the upstream is told of.
        let kind = match self.plan.delivered {
            Some(_) => DescriptorKind::Plain,
            None => DescriptorKind::Direct,
        };
        let slot = &mut self.slots[index];
        slot.generation = slot.generation.wrapping_add(1);
        let token = token(index, slot.generation);
        let connected = match self.plan.sources.of_connection(number) {
            Some(source) => self.ring.connect_from(source, &self.target, token),
            None => self.ring.connect(&self.target, kind, token),
        };
        let (descriptor, connecting) = match connected {
            Ok(connecting) => connecting,
            Err(error) => return self.rest(index, Some(Failure::from(&error)), now),
        };
        self.opening += usize::from(self.plan.workload.work == Work::Hold);
        slot.live = Some(Live {
            connection: Connection::new(session, bad.is_some(), due, now),
            descriptor,
            connecting: Some(connecting),
            receiving: None,
            sending: None,
            presents,
            bad,
            offers,
            identity_checked: self.plan.delivered.is_none(),
            lingers: false,
        });
    }

    fn begin_unit(&mut self, index: usize, due: Instant, now: Instant) {
        let Some(live) = &mut self.slots[index].live else {
            return;
        };
        match live.connection.begin_unit(due, now, &self.plan.workload) {
            Ok(()) => self.flush(index),
            Err(failure) => self.end(index, Some(failure), now),
        }
    }

    fn complete(&mut self, completion: Completion, now: Instant) {
        let Completion { token, outcome } = completion;
        let Some(index) = self.find(token) else {
            return self.complete_stale(outcome);
        };
        match outcome {
            Outcome::Connected(Ok(())) => self.connected(index, now),
            Outcome::Connected(Err(error)) => {
                if let Some(live) = &mut self.slots[index].live {
                    live.connecting = None;
                }
                self.end(index, Some(Failure::from(&error)), now);
            }
            Outcome::Received { buffer, more } => self.received(index, buffer, more, now),
            Outcome::ReceiveEnded(end) => self.receive_ended(index, end, now),
            Outcome::Sent { block, result } => self.sent(index, block, result, now),
            Outcome::Accepted(_) | Outcome::Woken => {}
        }
    }

    /// The slot that a completion is for, if its connection is still there.
    fn find(&self, token: Token) -> Option<usize> {
        let index = usize::try_from(token.0 & u64::from(u32::MAX)).ok()?;
        let slot = self.slots.get(index)?;
        (u64::from(slot.generation) == token.0 >> 32 && slot.live.is_some()).then_some(index)
    }

    fn complete_stale(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Received { buffer, .. } => self.ring.give_back(buffer),
            Outcome::Sent { block, .. } => self.pool.give(block),
            _ => {}
        }
    }

    fn connected(&mut self, index: usize, now: Instant) {
        let slot = &mut self.slots[index];
        let Some(live) = &mut slot.live else { return };
        live.connecting = None;
        live.connection.connected(now, &mut self.recorder);
        live.receiving = Some(
            self.ring
                .receive(&live.descriptor, token(index, slot.generation)),
        );
        self.flush(index);
    }

    fn received(&mut self, index: usize, buffer: Received, more: bool, now: Instant) {
        let slot = &mut self.slots[index];
        let Some(live) = &mut slot.live else { return };
        let before = live.connection.progress();
        let bytes = self.ring.received(&buffer);
        let result = live
            .connection
            .receive(bytes, now, &self.plan.workload, &mut self.recorder);
        self.ring.give_back(buffer);
        if !more {
            let token = token(index, slot.generation);
            live.receiving = Some(self.ring.receive(&live.descriptor, token));
        }
        match result {
            Err(failure) => self.end(index, Some(failure), now),
            Ok(progress) => {
                if let Some(kind) = live.connection.kind()
                    && std::mem::take(&mut live.offers)
                    && kind == Kind::Full
                {
                    self.steering.declined();
                }
                if let Some(kind) = live.bad
                    && live.connection.units_done() > 0
                {
                    return self.end(index, Some(Failure::ServedWrongly(kind.name())), now);
                }
                self.check_identity(index, now);
                // Tickets arrive on connections that are ready already.
                if progress == Progress::Ready && before == Progress::Working {
                    self.opening = self.opening.saturating_sub(1);
                    if self.plan.workload.work == Work::Requests {
                        self.idle.push(index);
                    }
                }
                self.flush(index);
            }
        }
    }

    fn receive_ended(&mut self, index: usize, end: ReceiveEnd, now: Instant) {
        let slot = &mut self.slots[index];
        let Some(live) = &mut slot.live else { return };
        live.receiving = None;
        match end {
            // At once it would only end again, and keep the completions from ever being drained.
            ReceiveEnd::BuffersExhausted | ReceiveEnd::Cancelled => {
                self.starved.push((index, slot.generation));
            }
            ReceiveEnd::EndOfStream if live.connection.progress() == Progress::Finished => {
                self.end(index, None, now);
            }
            ReceiveEnd::EndOfStream => self.end(index, Some(Failure::UnexpectedEof), now),
            // After the unit was confirmed a reset takes nothing back.
            ReceiveEnd::Failed(_) if live.connection.progress() == Progress::Finished => {
                self.end(index, None, now);
            }
            ReceiveEnd::Failed(error) => self.end(index, Some(Failure::from(&error)), now),
        }
    }

    fn sent(
        &mut self,
        index: usize,
        mut block: Block,
        result: std::io::Result<usize>,
        now: Instant,
    ) {
        let slot = &mut self.slots[index];
        let Some(live) = &mut slot.live else { return };
        live.sending = None;
        match result {
            Ok(len) => {
                block.consume(len);
                if block.is_empty() {
                    self.pool.give(block);
                    self.flush(index);
                } else {
                    let token = token(index, slot.generation);
                    live.sending = Some(self.ring.send(&live.descriptor, block, token));
                }
            }
            Err(error) => {
                self.pool.give(block);
                // The alert that explains a reset may wait to be read: the receive tells.
                if live.receiving.is_none() || live.connection.progress() == Progress::Finished {
                    self.end(index, Some(Failure::from(&error)), now);
                }
            }
        }
    }

    /// Sends what the session has queued; one send at a time. Closing at once behind close_notify
    /// would reset the connection under the server's own close_notify, so its end is awaited.
    fn flush(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some(live) = &mut slot.live else { return };
        if live.sending.is_some() {
            return;
        }
        if live.connection.wants_output() {
            // There are as many blocks as slots.
            let Some(mut block) = self.pool.take() else {
                return;
            };
            live.connection.take_output(&mut block);
            let token = token(index, slot.generation);
            live.sending = Some(self.ring.send(&live.descriptor, block, token));
        } else if live.connection.progress() == Progress::Finished {
            live.lingers = true;
            if self.plan.workload.close == Close::Rst {
                self.end(index, None, Instant::now());
            }
        }
    }

    /// After the first unit of a connection: was the upstream told of this client?
    fn check_identity(&mut self, index: usize, now: Instant) {
        let (Some(live), Some(delivered)) = (&mut self.slots[index].live, &self.plan.delivered)
        else {
            return;
        };
        if live.identity_checked || live.connection.units_done() == 0 {
            return;
        }
        live.identity_checked = true;
        let (presented, _) = self.plan.credentials.identity(live.presents);
        let kind = live.connection.kind().unwrap_or(Kind::Full);
        let matched = live.descriptor.local_address().is_ok_and(|local| {
            delivered.matches(
                &local,
                presented.fingerprint.as_ref(),
                presented.spiffe_id.as_deref(),
                kind == Kind::Resumed,
            )
        });
        self.identity.count(matched, kind == Kind::Resumed);
        if !matched {
            self.recorder.fail(Failure::IdentityMismatch, now);
        }
    }

    /// Ends connections that hang.
    fn sweep(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            let Some(live) = &self.slots[index].live else {
                continue;
            };
            if let Some(failure) = live.connection.overdue(now, self.plan.workload.timeout) {
                self.end(index, Some(failure), now);
            } else if live.connection.is_left_alone(now, LINGER) {
                self.end(index, None, now);
            }
        }
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if slot.rests_until.is_some_and(|until| until <= now) {
                slot.rests_until = None;
                self.free(index);
            }
        }
    }

    /// Closes a connection, with the reason where it failed.
    fn end(&mut self, index: usize, failure: Option<Failure>, now: Instant) {
        let mut failure = failure;
        if let Some(live) = self.slots[index].live.take() {
            if let (Some(kind), Some(refusal)) = (live.bad, &failure)
                && refusal.is_refusal()
            {
                self.recorder.refuse(kind, refusal.clone(), now);
                failure = None;
            }
            if live.connection.progress() == Progress::Working {
                self.opening = self.opening.saturating_sub(1);
            }
            let operations = [live.connecting, live.receiving, live.sending];
            for operation in operations.into_iter().flatten() {
                self.ring.cancel(operation);
            }
            let served = live.connection.progress() == Progress::Finished;
            if served && self.plan.workload.close == Close::Rst {
                self.ring.abort(live.descriptor);
            } else {
                self.ring.close(live.descriptor);
            }
        }
        if self.plan.workload.work == Work::Requests {
            self.idle.retain(|&idle| idle != index);
        }
        self.rest(index, failure, now);
    }

    /// Frees an empty slot, after a rest where it failed.
    fn rest(&mut self, index: usize, failure: Option<Failure>, now: Instant) {
        match failure {
            Some(failure) => {
                self.recorder.fail(failure, now);
                self.slots[index].rests_until = Some(now + REST);
            }
            None => self.free(index),
        }
    }

    /// Lets an empty slot be used again.
    fn free(&mut self, index: usize) {
        match self.plan.workload.work {
            Work::Handshakes | Work::Hold => self.idle.push(index),
            Work::Requests => self.vacant.push(index),
        }
    }
}
