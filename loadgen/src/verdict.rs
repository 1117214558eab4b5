//! What a result says, and whether it says anything about the server at all.

use crate::cli::Status;
use crate::run::Measured;
use crate::statistics::Statistics;
use crate::threshold::Thresholds;

/// A load thread that is busier than this was at its limit.
const BUSY_MAX: f64 = 0.95;

/// A server that is busier than this was at its limit itself, however many CPUs it has.
const SERVER_BUSY: f64 = 0.90;

/// With a schedule at least this share of what was due must have begun.
const SENT_MIN: f64 = 0.99;

/// A share of stolen CPU time past which times mean little.
const STOLEN_MAX: f64 = 0.05;

/// A share of the time past which a load thread that stood still has measured itself.
const STOOD_STILL_MAX: f64 = 0.05;

/// A verdict with its exit code, and in plain words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    pub status: Status,
    pub text: String,
}

/// Why the result says nothing about the server, if it does not.
pub fn generator_limit(measured: &Measured) -> Option<String> {
    let statistics = &measured.statistics;
    let local = statistics
        .errors
        .iter()
        .find(|(failure, _)| failure.is_local());
    if let Some((failure, count)) = local {
        return Some(format!("{count} times {failure}"));
    }
    if measured.stolen > STOLEN_MAX {
        let stolen = measured.stolen * 100.0;
        return Some(format!(
            "its hypervisor gave {stolen:.0}% of this host's CPU time to others"
        ));
    }
    let stood_still = statistics.stood_still.as_secs_f64();
    if stood_still > STOOD_STILL_MAX * measured.duration.as_secs_f64() {
        return Some(format!(
            "a load thread stood still for {stood_still:.1} s, as on a host that is suspended or \
             overloaded"
        ));
    }
    let server_busy = measured.server_cpu.map_or(0.0, |cpu| cpu.as_secs_f64())
        / measured.duration.as_secs_f64().max(f64::MIN_POSITIVE);
    if statistics.own_busy < BUSY_MAX || server_busy >= SERVER_BUSY {
        return None;
    }
    let own = format!(
        "a load thread used {:.0}% of its CPU",
        statistics.own_busy * 100.0
    );
    let sent = statistics.sent_ratio();
    match measured.open_loop {
        true if sent < SENT_MIN => {
            Some(format!("{own} and began {:.1}% of the units", sent * 100.0))
        }
        true => None,
        false => Some(own),
    }
}

/// The verdict; `notes` are said behind it.
pub fn judge(measured: &Measured, thresholds: Option<&Thresholds>, notes: &[String]) -> Verdict {
    let statistics = &measured.statistics;
    let missed = thresholds
        .map(|thresholds| thresholds.missed(statistics, measured.confirmed_per_s()))
        .unwrap_or_default();
    let served_wrongly = served_wrongly(statistics);
    let (status, first) = if served_wrongly > 0 {
        let text = format!("failed: {served_wrongly} clients that must be refused were served");
        (Status::TargetFailed, text)
    } else if was_all_refused(statistics) {
        (Status::TargetFailed, nothing_served(statistics))
    } else if let Some(limit) = generator_limit(measured) {
        let text = format!("the generator was the limit ({limit}): nothing is said of the server");
        (Status::GeneratorLimit, text)
    } else if statistics.confirmed == 0 {
        (Status::TargetFailed, nothing_served(statistics))
    } else if !missed.is_empty() {
        (
            Status::ThresholdMissed,
            format!("missed: {}", missed.join("; ")),
        )
    } else if thresholds.is_none() && statistics.failed() > 0 {
        let text = format!("failed: {} units were not served", statistics.failed());
        (Status::TargetFailed, text)
    } else if thresholds.is_none() && measured.open_loop && statistics.sent_ratio() < SENT_MIN {
        let text = format!(
            "failed: {:.1}% of the units began, for the others every connection was busy: the \
             server is past its capacity, or -c is too small for this rate",
            statistics.sent_ratio() * 100.0
        );
        (Status::TargetFailed, text)
    } else {
        (Status::Held, "held".to_owned())
    };
    let loop_kind = if measured.open_loop {
        "open loop: latency from the moment each unit was due"
    } else {
        "closed loop: latency from the moment each unit was begun"
    };
    let stopped = measured
        .stopped
        .then(|| "stopped by hand before its time".to_owned());
    let all: Vec<String> = std::iter::once(first)
        .chain(stopped)
        .chain([loop_kind.to_owned()])
        .chain(notes.iter().cloned())
        .collect();
    Verdict {
        status,
        text: all.join("; "),
    }
}

/// That nothing was served, and what most of it met.
fn nothing_served(statistics: &Statistics) -> String {
    let most = statistics.errors.iter().max_by_key(|(_, count)| **count);
    let met = most.map_or_else(String::new, |(failure, _)| {
        let meaning = failure.meaning();
        let meaning = meaning.map_or_else(String::new, |meaning| format!(" ({meaning})"));
        format!(", {failure}{meaning}")
    });
    format!("failed: nothing was served{met}")
}

/// Whether nothing was served for reasons that are no matter of time, nor of this host.
fn was_all_refused(statistics: &Statistics) -> bool {
    statistics.confirmed == 0
        && statistics.failed() > 0
        && statistics.errors.keys().all(|failure| !failure.is_local())
}

/// Clients that must be refused and were served: nothing is worse.
fn served_wrongly(statistics: &Statistics) -> u64 {
    statistics
        .errors
        .iter()
        .filter(|(failure, _)| failure.is_wrong_service())
        .map(|(_, count)| count)
        .sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::failure::Failure;

    fn measured(own_busy: f64, server_busy: Option<f64>) -> Measured {
        let mut measured = Measured {
            duration: Duration::from_secs(10),
            server_cpu: server_busy.map(|busy| Duration::from_secs_f64(10.0 * busy)),
            ..Measured::default()
        };
        measured.statistics.own_busy = own_busy;
        measured.statistics.confirmed = 1_000;
        measured
    }

    fn status(measured: &Measured, thresholds: Option<&str>) -> Status {
        let thresholds = thresholds.map(|text| text.parse().unwrap());
        judge(measured, thresholds.as_ref(), &[]).status
    }

    #[test]
    fn the_generator_says_when_it_was_the_limit() {
        assert!(generator_limit(&measured(0.99, None)).is_some());
        assert!(generator_limit(&measured(0.99, Some(0.5))).is_some());
        assert!(generator_limit(&measured(0.99, Some(0.95))).is_none());
        assert!(generator_limit(&measured(0.80, None)).is_none());
        let mut ports = measured(0.1, None);
        ports.statistics.fail(Failure::LocalPorts);
        assert_eq!(
            generator_limit(&ports).as_deref(),
            Some("1 times local:ports")
        );
        let mut stolen = measured(0.1, None);
        stolen.stolen = 0.2;
        assert_eq!(status(&stolen, None), Status::GeneratorLimit);
        let mut suspended = measured(0.1, None);
        suspended.statistics.stood_still = Duration::from_millis(400);
        assert!(generator_limit(&suspended).is_none());
        // What failed meanwhile is not the server's doing.
        suspended.statistics.stood_still = Duration::from_secs(4);
        suspended.statistics.fail(Failure::TlsTimeout);
        assert_eq!(status(&suspended, None), Status::GeneratorLimit);
    }

    #[test]
    fn an_open_loop_that_kept_its_pace_was_not_the_limit() {
        let mut open = Measured {
            open_loop: true,
            ..measured(0.99, None)
        };
        (open.statistics.due, open.statistics.begun) = (1_000, 999);
        assert!(generator_limit(&open).is_none());
        open.statistics.begun = 900;
        assert!(generator_limit(&open).is_some());
        // With time to spare it was the server that kept every connection busy.
        open.statistics.own_busy = 0.3;
        assert_eq!(generator_limit(&open), None);
        assert_eq!(status(&open, None), Status::TargetFailed);
    }

    #[test]
    fn every_exit_code_has_its_case() {
        let held = measured(0.1, None);
        assert_eq!(status(&held, None), Status::Held);
        let mut nothing = held.clone();
        nothing.statistics.confirmed = 0;
        assert_eq!(status(&nothing, None), Status::TargetFailed);
        let mut failing = held.clone();
        failing.statistics.fail(Failure::TlsTimeout);
        assert_eq!(status(&failing, None), Status::TargetFailed);
        assert_eq!(status(&failing, Some("err<5%")), Status::Held);
        assert_eq!(status(&failing, Some("err<0.01%")), Status::ThresholdMissed);
        assert_eq!(status(&measured(1.0, None), None), Status::GeneratorLimit);
    }

    #[test]
    fn a_server_that_serves_nobody_failed_however_busy_this_host_is() {
        let mut refused = measured(1.0, None);
        (refused.statistics.confirmed, refused.stolen) = (0, 0.5);
        assert_eq!(status(&refused, None), Status::GeneratorLimit);
        refused.statistics.fail(Failure::UnexpectedEof);
        assert_eq!(status(&refused, None), Status::TargetFailed);
        refused.statistics.fail(Failure::LocalPorts);
        assert_eq!(status(&refused, None), Status::GeneratorLimit);
    }

    #[test]
    fn a_stop_by_hand_is_said() {
        let stopped = Measured {
            stopped: true,
            ..measured(0.1, None)
        };
        assert!(judge(&stopped, None, &[]).text.contains("stopped by hand"));
    }

    #[test]
    fn a_client_that_must_be_refused_and_is_served_outweighs_all_else() {
        let mut wrong = measured(1.0, None);
        wrong.statistics.fail(Failure::ServedWrongly("expired"));
        let verdict = judge(&wrong, Some(&"err<100%".parse().unwrap()), &[]);
        assert_eq!(verdict.status, Status::TargetFailed);
        assert!(verdict.text.contains("must be refused"), "{}", verdict.text);
    }
}
