//! One measured run: load threads on their CPUs, and the server's CPU time over the same window.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use core_affinity::CoreId;
use rustls_pki_types::ServerName;

use crate::client::{
    Credentials, Distribution, Driver, DriverError, LoadPlan, Outcomes, Pace, Reporting,
    SlowOutcome, SlowPlan, Sources, Workload, run_slow,
};
use crate::cpu_time::{CpuTimeError, Reading, Spread, Watched};
use crate::host::{self, CpuTicks};
use crate::identity_check::{Delivered, IdentityCounts};
use crate::series::{Interval, Series, interval_len};
use crate::statistics::Statistics;

/// How often a stop by hand is looked for.
const HEED: Duration = Duration::from_millis(50);

/// What to run.
#[derive(Clone, Debug)]
pub struct RunPlan {
    pub target: SocketAddr,
    pub server_name: ServerName<'static>,
    pub credentials: Arc<Credentials>,
    pub workload: Workload,
    /// Over all threads.
    pub connections: usize,
    /// Units a second over all threads; `None` is a closed loop.
    pub pace: Option<Pace>,
    pub warmup: Duration,
    pub duration: Duration,
    /// Units in all; `None` is no bound. With a bound the run ends when they have.
    pub units_max: Option<u64>,
    /// The share of connections that shall resume a session, 0 to 1; needs credentials that
    /// [`Credentials::keep_sessions`].
    pub resume: f64,
    pub threads: usize,
    /// The threads are pinned to these in turn; empty: not pinned.
    pub cpus: Vec<CoreId>,
    pub sources: Sources,
    pub distribution: Distribution,
    /// Peers beside the load that send their handshake a byte at a time.
    pub slow: usize,
    /// Where the echo upstream writes down whom it was told of.
    pub delivered: Option<Arc<Delivered>>,
    /// Whose CPU time is the server's.
    pub server: Option<Watched>,
}

impl RunPlan {
    fn thread_count(&self) -> usize {
        self.threads.min(self.connections).max(1)
    }
}

/// Why a run could not be made. None of these says anything about the server.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("starting a load thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("a load thread panicked")]
    Panicked,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub statistics: Statistics,
    pub identity: IdentityCounts,
    pub duration: Duration,
    pub server_cpu: Option<Duration>,
    /// How the server's work was spread over its threads.
    pub server_spread: Option<Spread>,
    /// Why there is no CPU time of a server that was to be watched to the end.
    pub server_lost: Option<String>,
    pub open_loop: bool,
    /// When measuring began.
    pub started: Option<SystemTime>,
    pub series: Series,
    /// The share of this host's CPU time that its hypervisor gave to others, 0 to 1.
    pub stolen: f64,
    /// Ended by hand before its time.
    pub stopped: bool,
    /// What became of the slow peers.
    pub slow: Option<SlowOutcome>,
    /// Bytes of memory that the server took while the run went on.
    pub server_grew: Option<u64>,
}

impl Measured {
    #[allow(clippy::cast_precision_loss)]
    pub fn confirmed_per_s(&self) -> f64 {
        self.per_s(self.statistics.confirmed as f64)
    }

    /// `amount` by the seconds of the run; none where it was stopped before it began.
    pub fn per_s(&self, amount: f64) -> f64 {
        if self.duration.is_zero() {
            0.0
        } else {
            amount / self.duration.as_secs_f64()
        }
    }

    /// Server CPU in µs for each of `units`.
    #[allow(clippy::cast_precision_loss)]
    pub fn server_cpu_us_per(&self, units: u64) -> Option<f64> {
        let cpu_us = self.server_cpu?.as_secs_f64() * 1e6;
        (units > 0).then(|| cpu_us / units as f64)
    }

    /// CPU in µs of the load threads for each of `units`.
    #[allow(clippy::cast_precision_loss)]
    pub fn own_cpu_us_per(&self, units: u64) -> Option<f64> {
        let cpu_us = self.statistics.own_cpu.as_secs_f64() * 1e6;
        (units > 0 && cpu_us > 0.0).then(|| cpu_us / units as f64)
    }
}

/// Runs the load.
pub fn measure(plan: &RunPlan) -> Result<Measured, RunError> {
    measure_watched(plan, &Arc::default(), &mut |_| {})
}

/// The same, telling `watch` of every interval that has ended, until `stop` says to end early.
pub fn measure_watched(
    plan: &RunPlan,
    stop: &Arc<AtomicBool>,
    watch: &mut dyn FnMut(&Interval),
) -> Result<Measured, RunError> {
    let from = Instant::now() + plan.warmup;
    let until = from + plan.duration;
    let (intervals, heard) = mpsc::channel();
    let reporting = Reporting {
        intervals,
        interval_len: interval_len(plan.duration),
        stop: stop.clone(),
    };
    let mut watched = WatchedRun::new(plan, from, &reporting);
    let threads = (0..plan.thread_count())
        .map(|number| {
            let (plan, cpu) = (load_plan(plan, number, from, until), cpu_of(plan, number));
            let reporting = reporting.clone();
            std::thread::Builder::new()
                .name(format!("load-{number}"))
                .spawn(move || {
                    if let Some(cpu) = cpu {
                        core_affinity::set_for_current(cpu);
                    }
                    Driver::new(plan, reporting)?.run()
                })
        })
        .collect::<Result<Vec<_>, _>>()?;
    drop(reporting);
    let slow = slow_plan(plan, until, stop).map(|plan| std::thread::spawn(|| run_slow(plan)));

    watched.follow(&heard, stop, watch);
    let mut measured = Measured {
        open_loop: plan.pace.is_some(),
        ..Measured::default()
    };
    for thread in threads {
        let Outcomes {
            statistics,
            identity,
        } = thread.join().map_err(|_| RunError::Panicked)??;
        measured.statistics.add(&statistics);
        measured.identity.add(identity);
    }
    if let Some(slow) = slow {
        let outcome = slow.join().map_err(|_| RunError::Panicked)??;
        measured.slow = Some(outcome);
    }
    watched.finish(&mut measured);
    Ok(measured)
}

/// What is seen of a run from outside of its load threads.
struct WatchedRun<'a> {
    plan: &'a RunPlan,
    from: Instant,
    interval_len: Duration,
    /// Intervals that the run has.
    count: u32,
    series: Series,
    /// How many threads have told of each interval.
    told: Vec<usize>,
    /// The server's CPU time at the beginning and at the end of each interval, while it was there.
    readings: Vec<Option<Reading>>,
    lost: Option<CpuTimeError>,
    ticks: [CpuTicks; 2],
    memory: [Option<u64>; 2],
    started: Option<SystemTime>,
    ended: Instant,
    stopped: bool,
}

impl<'a> WatchedRun<'a> {
    fn new(plan: &'a RunPlan, from: Instant, reporting: &Reporting) -> Self {
        let interval_len = reporting.interval_len;
        let count = plan.duration.as_nanos().div_ceil(interval_len.as_nanos());
        Self {
            plan,
            from,
            interval_len,
            count: u32::try_from(count).unwrap_or(u32::MAX).max(1),
            series: Series::new(interval_len),
            told: Vec::new(),
            readings: Vec::new(),
            lost: None,
            ticks: Default::default(),
            memory: [plan.resident_bytes(), None],
            started: None,
            ended: from + plan.duration,
            stopped: false,
        }
    }

    /// Listens until every load thread has ended.
    fn follow(
        &mut self,
        heard: &Receiver<Interval>,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(&Interval),
    ) {
        loop {
            let now = Instant::now();
            if stop.load(Ordering::Relaxed) && !self.stopped && now < self.ended {
                (self.stopped, self.ended) = (true, now);
                self.read_server();
            }
            let next = self.next_reading();
            if next.is_some_and(|next| next <= now) {
                self.read_server();
                continue;
            }
            let wait = next.map_or(HEED, |next| (next - now).min(HEED));
            match heard.recv_timeout(wait) {
                Ok(interval) => self.hear(&interval, watch),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    if self.next_reading().is_some() && !self.readings.is_empty() {
                        self.ended = Instant::now();
                        self.read_server();
                    }
                    return;
                }
            }
        }
    }

    /// When the server is looked at next: where an interval begins, and at the end.
    fn next_reading(&self) -> Option<Instant> {
        let number = u32::try_from(self.readings.len()).unwrap_or(u32::MAX);
        let moment = self.from + self.interval_len * number;
        (number <= self.count && !self.stopped).then(|| moment.min(self.ended))
    }

    /// A server that has gone costs its figures and not those of the load.
    fn read_server(&mut self) {
        let reading = self.plan.server.as_ref().and_then(|server| {
            let reading = server.read();
            reading.map_err(|error| self.lost = Some(error)).ok()
        });
        if self.readings.is_empty() {
            self.ticks[0] = CpuTicks::now();
            self.started = Some(SystemTime::now());
        }
        self.readings.push(reading);
        self.ticks[1] = CpuTicks::now();
        self.memory[1] = self.plan.resident_bytes();
    }

    fn hear(&mut self, interval: &Interval, watch: &mut dyn FnMut(&Interval)) {
        self.series.add(interval, self.count);
        self.told.resize(self.series.intervals.len(), 0);
        let number = interval.number.min(self.count - 1) as usize;
        self.told[number] += 1;
        if self.told[number] == self.plan.thread_count() {
            watch(&self.series.intervals[number]);
        }
    }

    fn finish(mut self, measured: &mut Measured) {
        // A run of so many units ends when they have.
        measured.duration = match self.plan.units_max {
            None => self.ended.saturating_duration_since(self.from),
            Some(_) => self.plan.duration,
        };
        measured.stopped = self.stopped;
        measured.started = self.started;
        for (number, pair) in self.readings.windows(2).enumerate() {
            if let [Some(before), Some(after)] = pair {
                self.series.server_cpu(number, after.since(before));
            }
        }
        if let [Some(first), .., Some(last)] = &self.readings[..] {
            measured.server_cpu = Some(last.since(first));
            measured.server_spread = last.spread_since(first);
        }
        measured.server_lost = self.lost.map(|error| error.to_string());
        measured.stolen = self.ticks[1].stolen_since(&self.ticks[0]);
        if let [Some(before), Some(after)] = self.memory {
            measured.server_grew = Some(after.saturating_sub(before));
        }
        measured.series = self.series;
    }
}

impl RunPlan {
    fn resident_bytes(&self) -> Option<u64> {
        match &self.server {
            Some(Watched::Processes(pids)) => host::resident_bytes(pids),
            _ => None,
        }
    }
}

fn slow_plan(plan: &RunPlan, until: Instant, stop: &Arc<AtomicBool>) -> Option<SlowPlan> {
    (plan.slow > 0).then(|| SlowPlan {
        target: plan.target,
        server_name: plan.server_name.clone(),
        config: plan.credentials.plain_config(),
        peers: plan.slow,
        until,
        stop: stop.clone(),
    })
}

fn cpu_of(plan: &RunPlan, number: usize) -> Option<CoreId> {
    plan.cpus.get(number % plan.cpus.len().max(1)).copied()
}

/// A thread's share of the plan.
fn load_plan(plan: &RunPlan, number: usize, from: Instant, until: Instant) -> LoadPlan {
    let threads = plan.thread_count();
    let share = |all: usize| all / threads + usize::from(number < all % threads);
    let pace = plan.pace.as_ref().map(|pace| pace.share(threads));
    let units_max = plan.units_max.map(|all| {
        let (threads, number) = (threads as u64, number as u64);
        all / threads + u64::from(number < all % threads)
    });
    LoadPlan {
        target: plan.target,
        server_name: plan.server_name.clone(),
        credentials: plan.credentials.clone(),
        workload: plan.workload.clone(),
        connections: share(plan.connections),
        pace: pace.map(|pace| pace.after_warmup(plan.warmup)),
        // Far below 2^53.
        #[allow(clippy::cast_precision_loss)]
        share: number as f64 / threads as f64,
        start: from - plan.warmup,
        from,
        until,
        units_max,
        first_connection: (0..number)
            .map(|earlier| {
                let all = plan.connections;
                (all / threads + usize::from(earlier < all % threads)) as u64
            })
            .sum(),
        resume: plan.resume,
        sources: plan.sources,
        distribution: plan.distribution,
        delivered: plan.delivered.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(server_busy: Option<f64>) -> Measured {
        Measured {
            duration: Duration::from_secs(10),
            server_cpu: server_busy.map(|busy| Duration::from_secs_f64(10.0 * busy)),
            ..Measured::default()
        }
    }

    #[test]
    fn cpu_per_unit() {
        assert_eq!(measured(Some(0.5)).server_cpu_us_per(50_000), Some(100.0));
        assert_eq!(measured(Some(0.5)).server_cpu_us_per(0), None);
        assert_eq!(measured(None).server_cpu_us_per(5), None);
    }
}
