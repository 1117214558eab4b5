//! One measured run: load threads on their CPUs, and the server's CPU time over the same window.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use rustls_pki_types::ServerName;

use crate::client::{Credentials, Driver, DriverError, LoadPlan, Outcomes, Workload};
use crate::cpu_time::{CpuTimeError, Watched};
use crate::identity_check::{Delivered, IdentityCounts};
use crate::statistics::Statistics;

/// A load thread that is busier than this was at its limit.
const BUSY_MAX: f64 = 0.95;

/// A server that is busier than this was at its limit itself.
const SERVER_BUSY: f64 = 0.90;

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
    pub rate: Option<f64>,
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
    /// Where the echo upstream writes down whom it was told of.
    pub delivered: Option<Arc<Delivered>>,
    /// Whose CPU time is the server's.
    pub server: Option<Watched>,
}

/// Why a run could not be made. None of these says anything about the server.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error("CPU time of the server: {0}")]
    ServerCpu(#[from] CpuTimeError),
    #[error("starting a load thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("a load thread panicked")]
    Panicked,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Measured {
    pub statistics: Statistics,
    pub identity: IdentityCounts,
    pub duration: Duration,
    pub server_cpu: Option<Duration>,
    pub open_loop: bool,
}

impl Measured {
    #[allow(clippy::cast_precision_loss)]
    pub fn confirmed_per_s(&self) -> f64 {
        self.statistics.confirmed as f64 / self.duration.as_secs_f64()
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

    /// Why the result says nothing about the server, if it does not.
    pub fn generator_limit(&self) -> Option<String> {
        let statistics = &self.statistics;
        if let Some((failure, count)) = statistics
            .errors
            .iter()
            .find(|(failure, _)| failure.is_local())
        {
            return Some(format!("{count} times {failure}"));
        }
        let server_busy = self.server_cpu.map_or(0.0, |cpu| cpu.as_secs_f64())
            / self.duration.as_secs_f64().max(f64::MIN_POSITIVE);
        let own = format!(
            "a load thread used {:.0}% of its CPU",
            statistics.own_busy * 100.0
        );
        if statistics.own_busy < BUSY_MAX || server_busy >= SERVER_BUSY {
            return None;
        }
        let sent = statistics.sent_ratio();
        match self.open_loop {
            true if sent < 0.99 => {
                Some(format!("{own} and began {:.1}% of the units", sent * 100.0))
            }
            true => None,
            false => Some(own),
        }
    }
}

/// Runs the load.
pub fn measure(plan: &RunPlan) -> Result<Measured, RunError> {
    let from = Instant::now() + plan.warmup;
    let until = from + plan.duration;
    let threads = (0..plan.threads.min(plan.connections).max(1))
        .map(|number| {
            let (plan, cpu) = (load_plan(plan, number, from, until), cpu_of(plan, number));
            std::thread::Builder::new()
                .name(format!("load-{number}"))
                .spawn(move || {
                    if let Some(cpu) = cpu {
                        core_affinity::set_for_current(cpu);
                    }
                    Driver::new(plan)?.run()
                })
        })
        .collect::<Result<Vec<_>, _>>()?;

    let server_cpu = match &plan.server {
        None => None,
        Some(server) => {
            sleep_until(from);
            let before = server.read()?;
            sleep_until(until);
            Some(server.read()?.since(&before))
        }
    };
    let mut measured = Measured {
        duration: plan.duration,
        server_cpu,
        open_loop: plan.rate.is_some(),
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
    Ok(measured)
}

fn cpu_of(plan: &RunPlan, number: usize) -> Option<CoreId> {
    plan.cpus.get(number % plan.cpus.len().max(1)).copied()
}

/// A thread's share of the plan.
fn load_plan(plan: &RunPlan, number: usize, from: Instant, until: Instant) -> LoadPlan {
    let threads = plan.threads.min(plan.connections).max(1);
    let share = |all: usize| all / threads + usize::from(number < all % threads);
    // Far below 2^53.
    #[allow(clippy::cast_precision_loss)]
    let rate = plan.rate.map(|rate| rate / threads as f64);
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
        rate,
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
        delivered: plan.delivered.clone(),
    }
}

fn sleep_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    fn measured(own_busy: f64, server_busy: Option<f64>) -> Measured {
        let mut measured = Measured {
            duration: Duration::from_secs(10),
            server_cpu: server_busy.map(|busy| Duration::from_secs_f64(10.0 * busy)),
            ..Measured::default()
        };
        measured.statistics.own_busy = own_busy;
        measured
    }

    #[test]
    fn the_generator_says_when_it_was_the_limit() {
        assert!(measured(0.99, None).generator_limit().is_some());
        assert!(measured(0.99, Some(0.5)).generator_limit().is_some());
        assert!(measured(0.99, Some(0.95)).generator_limit().is_none());
        assert!(measured(0.80, None).generator_limit().is_none());
        let mut ports = measured(0.1, None);
        ports.statistics.fail(Failure::LocalPorts);
        assert_eq!(
            ports.generator_limit().as_deref(),
            Some("1 times local:ports")
        );
    }

    #[test]
    fn an_open_loop_that_kept_its_pace_was_not_the_limit() {
        let mut open = Measured {
            open_loop: true,
            ..measured(0.99, None)
        };
        (open.statistics.due, open.statistics.begun) = (1_000, 999);
        assert!(open.generator_limit().is_none());
        open.statistics.begun = 900;
        assert!(open.generator_limit().is_some());
    }

    #[test]
    fn cpu_per_unit() {
        assert_eq!(
            measured(0.0, Some(0.5)).server_cpu_us_per(50_000),
            Some(100.0)
        );
        assert_eq!(measured(0.0, Some(0.5)).server_cpu_us_per(0), None);
        assert_eq!(measured(0.0, None).server_cpu_us_per(5), None);
    }
}
