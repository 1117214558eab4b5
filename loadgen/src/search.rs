//! `search`: the highest rate at which conditions hold. Doubling until they do not, halving the gap,
//! and then confirmed three times.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::args::SearchArgs;
use crate::cli::Status;
use crate::client::Pace;
use crate::outputs;
use crate::report::{Report, print};
use crate::run::{Measured, measure_watched};
use crate::run_command::{self, Prepared, Refused};
use crate::threshold::Thresholds;
use crate::verdict::{generator_limit, judge};

/// Times that a rate must hold before it is the answer.
const CONFIRMATIONS: u32 = 3;

/// Trials of a search at most.
const TRIALS_MAX: usize = 100;

/// One rate that was tried.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Trial {
    pub rate: f64,
    pub held: bool,
    /// Why not.
    pub missed: String,
    pub confirmed_per_s: f64,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub failed: u64,
    pub sent_ratio: f64,
    /// CPUs that the server kept busy.
    pub server_busy_cpus: Option<f64>,
    pub server_cpu_us_per_unit: Option<f64>,
}

/// What a search found.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Found {
    pub slo: String,
    /// `None` where not even the lowest rate held.
    pub rate: Option<f64>,
    /// CPUs of the server, and which share of them was busy at that rate.
    pub server_cpus: Option<u32>,
    pub utilisation: Option<f64>,
    pub trials: Vec<Trial>,
}

/// Which rate to try next.
#[derive(Debug)]
struct Search {
    next: f64,
    held: Option<f64>,
    missed: Option<f64>,
    confirmed: u32,
    precision: f64,
}

impl Search {
    /// The least rate that is tried.
    const RATE_MIN: f64 = 1.0;

    fn new(start: f64, precision: f64) -> Self {
        Self {
            next: start,
            held: None,
            missed: None,
            confirmed: 0,
            precision,
        }
    }

    /// Takes what came of [`Search::next`]; true when the search is over.
    fn tell(&mut self, held: bool) -> bool {
        let tried = self.next;
        if held {
            if self.held == Some(tried) {
                self.confirmed += 1;
            } else {
                (self.held, self.confirmed) = (Some(tried), 0);
            }
        } else {
            self.missed = Some(tried);
            if self.held.is_some_and(|held| held >= tried) {
                // It held once and does not now: a little less must do.
                self.held = None;
                self.next = tried * (1.0 - self.precision);
                return self.next < Self::RATE_MIN;
            }
        }
        match (self.held, self.missed) {
            (Some(held), None) => self.next = held * 2.0,
            (None, Some(missed)) => self.next = missed / 2.0,
            (Some(held), Some(missed)) if missed / held > 1.0 + self.precision => {
                self.next = (held + missed) / 2.0;
            }
            (Some(held), Some(_)) => self.next = held,
            (None, None) => {}
        }
        self.confirmed >= CONFIRMATIONS || self.next < Self::RATE_MIN
    }
}

/// Does what the arguments say.
pub fn run(args: &SearchArgs) -> Status {
    match search(args) {
        Ok(status) => status,
        Err(Refused(status, error)) => {
            eprintln!("{error}");
            status
        }
    }
}

fn search(args: &SearchArgs) -> Result<Status, Refused> {
    let run = &args.run;
    if run.rate.is_some() || run.ramp.is_some() || run.threshold.is_some() {
        let error = "search chooses rates itself and judges by --slo: leave out -R, --ramp and \
                     --threshold";
        return Err(Refused(Status::Usage, error.to_owned()));
    }
    let mut prepared = run_command::prepare(run)?;
    let stop = Arc::new(AtomicBool::new(false));
    run_command::heed_signals(&stop);
    let mut search = Search::new(args.start, args.precision);
    let mut found = Found {
        slo: args.slo.to_string(),
        ..Found::default()
    };
    // The last trial that held, which the answer rests on.
    let mut best: Option<Best> = None;
    let mut limit = None;
    let mut stopped = false;
    while found.trials.len() < TRIALS_MAX && !stop.load(Ordering::Relaxed) {
        prepared.plan.pace = Some(Pace::steady(search.next, run.arrival));
        let (measured, mut trial) = try_rate(&prepared, &args.slo, &stop, search.next)?;
        if measured.stopped {
            stopped = true;
            break;
        }
        if !run.quiet {
            print(&line(&trial));
        }
        limit = generator_limit(&measured);
        if let Some(limit) = &limit {
            trial.missed.clone_from(limit);
            found.trials.push(trial);
            break;
        }
        if trial.held
            && best
                .as_ref()
                .is_none_or(|best| best.trial.rate <= trial.rate)
        {
            best = Some(Best {
                report: run_command::report(run, &prepared, &measured),
                trial: trial.clone(),
                measured,
            });
        }
        let held = trial.held;
        found.trials.push(trial);
        if search.tell(held) {
            break;
        }
        if search.held.is_none() {
            // What held once and did not again is no answer.
            best = None;
        }
    }
    let is_confirmed = search.confirmed >= CONFIRMATIONS;
    let end = match limit {
        Some(limit) => End::GeneratorLimit(limit),
        None if is_confirmed => End::Confirmed,
        None if stopped || stop.load(Ordering::Relaxed) => End::Stopped,
        None => End::NoRate,
    };
    finish(args, found, best, &end)
}

/// A trial that held.
struct Best {
    report: Report,
    trial: Trial,
    measured: Measured,
}

/// Why a search ended.
enum End {
    Confirmed,
    GeneratorLimit(String),
    NoRate,
    /// By hand.
    Stopped,
}

fn try_rate(
    prepared: &Prepared,
    slo: &Thresholds,
    stop: &Arc<AtomicBool>,
    rate: f64,
) -> Result<(Measured, Trial), Refused> {
    const SENT_MIN: f64 = 0.99;
    let measured = measure_watched(&prepared.plan, stop, &mut |_| {})
        .map_err(|error| Refused(Status::GeneratorLimit, error.to_string()))?;
    let statistics = &measured.statistics;
    let verdict = judge(&measured, Some(slo), &[]);
    let mut missed = slo.missed(statistics, measured.confirmed_per_s());
    if statistics.sent_ratio() < SENT_MIN {
        missed.push(format!("{:.1}% sent", statistics.sent_ratio() * 100.0));
    }
    if statistics.failed() > 0 && !slo.bounds_errors() {
        missed.push(format!("{} errors", statistics.failed()));
    }
    if statistics.confirmed == 0 {
        missed.push("nothing was served".to_owned());
    }
    let busy = measured
        .server_cpu
        .map(|cpu| measured.per_s(cpu.as_secs_f64()));
    let trial = Trial {
        rate,
        held: missed.is_empty() && verdict.status == Status::Held,
        missed: missed.join("; "),
        confirmed_per_s: measured.confirmed_per_s(),
        p50_us: statistics.latency().quantile_us(0.5),
        p99_us: statistics.latency().quantile_us(0.99),
        failed: statistics.failed(),
        sent_ratio: statistics.sent_ratio(),
        server_busy_cpus: busy,
        server_cpu_us_per_unit: measured.server_cpu_us_per(statistics.confirmed),
    };
    Ok((measured, trial))
}

fn line(trial: &Trial) -> String {
    let ms =
        |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{:.2} ms", us / 1e3));
    let busy = trial
        .server_busy_cpus
        .map_or_else(String::new, |busy| format!(", server {busy:.2} CPUs"));
    let verdict = if trial.held { "held" } else { &trial.missed };
    format!(
        "{:>9.0}/s: p50 {}, p99 {}{busy}: {verdict}\n",
        trial.rate,
        ms(trial.p50_us),
        ms(trial.p99_us)
    )
}

/// The answer in one sentence, and the result as a file. Without an answer the figures are those of
/// the best rate that was not confirmed.
fn finish(
    args: &SearchArgs,
    mut found: Found,
    best: Option<Best>,
    end: &End,
) -> Result<Status, Refused> {
    let (mut report, best) = match best {
        Some(best) => (best.report, Some((best.trial, best.measured))),
        None => (Report::empty(), None),
    };
    let held_once = best.as_ref().map_or_else(
        || format!("no rate had held {} until then", found.slo),
        |(trial, _)| format!("{:.0} a second held {} until then", trial.rate, found.slo),
    );
    if let (End::Confirmed, Some((trial, _))) = (end, &best) {
        found.rate = Some(trial.rate);
        let busy = trial.server_busy_cpus;
        found.server_cpus = busy.map(|busy| args.server_cpus.unwrap_or_else(|| whole_cpus(busy)));
        found.utilisation = busy
            .zip(found.server_cpus)
            .map(|(busy, cpus)| busy / f64::from(cpus));
    }
    (report.status, report.verdict) = match (end, found.rate) {
        (End::Confirmed, Some(rate)) => (
            Status::Held,
            format!(
                "{rate:.0} a second hold {}, confirmed {CONFIRMATIONS} times{}",
                found.slo,
                found.utilisation.map_or_else(String::new, |used| format!(
                    "; the server's CPUs are {:.0}% busy then",
                    used * 100.0
                ))
            ),
        ),
        (End::GeneratorLimit(limit), _) => (
            Status::GeneratorLimit,
            format!(
                "the generator was the limit ({limit}): the server may hold more; {held_once}, \
                 unconfirmed"
            ),
        ),
        (End::Stopped, _) => (
            Status::GeneratorLimit,
            format!("stopped by hand before an answer; {held_once}, unconfirmed"),
        ),
        (End::Confirmed | End::NoRate, _) => (
            Status::TargetFailed,
            format!("no rate was found that holds {}", found.slo),
        ),
    };
    report.search = Some(found);
    if !args.run.quiet {
        print(&format!("{}\n", report.verdict));
    }
    let measured = best.as_ref().map(|(_, measured)| measured);
    outputs::write(&args.run, &report, measured)?;
    Ok(report.status)
}

/// CPUs that a server has at least that keeps `busy` of them busy.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole_cpus(busy: f64) -> u32 {
    busy.ceil().clamp(1.0, 65_536.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a server that holds less than `capacity`, and counts the trials.
    fn found(capacity: f64, start: f64) -> (Option<f64>, u32) {
        let mut search = Search::new(start, 0.05);
        for trial in 1..100 {
            let held = search.next < capacity;
            if search.tell(held) {
                return (search.held, trial);
            }
        }
        panic!("{search:?}");
    }

    #[test]
    fn the_highest_rate_is_found_from_below_and_from_above() {
        for start in [100.0, 1_000.0, 50_000.0] {
            let (rate, trials) = found(3_333.0, start);
            let rate = rate.unwrap();
            assert!((3_333.0 / 1.05..3_333.0).contains(&rate), "{start}: {rate}");
            assert!(trials < 25, "{start}: {trials} trials");
        }
    }

    #[test]
    fn a_server_that_holds_nothing_is_given_up() {
        assert_eq!(found(0.5, 1_000.0).0, None);
    }

    #[test]
    fn a_rate_that_held_once_and_not_again_is_left() {
        let mut search = Search::new(1_000.0, 0.05);
        // It holds 1000, misses 2000, and holds on the way until it is to be confirmed.
        let mut at_confirmation = 0;
        for _ in 0..100 {
            let confirming = search.held == Some(search.next);
            at_confirmation += u32::from(confirming && search.next > 1_400.0);
            let held = if confirming {
                search.next < 1_400.0
            } else {
                search.next < 1_500.0
            };
            if search.tell(held) {
                break;
            }
        }
        assert!(at_confirmation > 0);
        let rate = search.held.unwrap();
        assert!((1_250.0..1_400.0).contains(&rate), "{rate}");
    }

    #[test]
    fn cpus_are_whole() {
        assert_eq!(
            (whole_cpus(0.2), whole_cpus(1.0), whole_cpus(3.4)),
            (1, 1, 4)
        );
    }
}
