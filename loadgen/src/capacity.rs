//! `plan`: cores and hosts for a load, from what was measured.

use crate::args::PlanArgs;
use crate::compare::{server_ns_per_byte, server_us_per_unit};
use crate::details::{Details, Row};
use crate::interval_estimate::{Estimate, Samples};
use crate::report::Report;

/// Where no search says how busy a server may be: at half of its capacity latency is still its own
/// and not the queue's.
const UTILISATION: f64 = 0.5;

/// A share of resumed handshakes within which a run speaks for another.
const NEAR: f64 = 0.02;

/// What was measured, in µs of server CPU.
#[derive(Clone, Debug, Default, PartialEq)]
struct Costs {
    /// Share of resumed handshakes, and what one handshake cost on average.
    handshakes: Vec<(f64, Estimate)>,
    request: Option<Estimate>,
    byte: Option<Estimate>,
    /// How busy the server was at the rate that held the conditions of a search.
    utilisation: Option<f64>,
    slo: Option<String>,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// Connections a second, and the share of them that resumes.
    pub rate: f64,
    pub resume: f64,
    /// Requests a second of 1 KiB and its answer, and bytes a second in both directions.
    pub requests: f64,
    pub bytes: f64,
    pub cores_per_host: u32,
}

/// A plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// µs of CPU for a full handshake, a resumed one, and the mix that is wanted.
    full: Option<Estimate>,
    resumed: Option<Estimate>,
    mixed: Estimate,
    terms: Vec<(String, Estimate)>,
    /// CPU seconds a second: what the load needs at 100 %.
    pub busy: Estimate,
    utilisation: f64,
    pub cores: Estimate,
    /// One spare among them.
    pub hosts: u32,
}

/// Does what the arguments say: the text of the plan.
pub fn plan(args: &PlanArgs) -> Result<String, String> {
    let mut costs = Costs::default();
    for path in &args.from {
        costs.add(&Report::read(path)?);
    }
    let slo = args.slo.as_ref().map(ToString::to_string);
    if let (Some(asked), Some(searched)) = (&slo, &costs.slo)
        && asked != searched
    {
        return Err(format!(
            "the search was for {searched} and the plan is for {asked}: search again with --slo \
             '{asked}'"
        ));
    }
    let wanted = Wanted {
        rate: args.rate,
        resume: args.resume,
        requests: args.requests.unwrap_or(0.0),
        bytes: args.bytes.unwrap_or(0.0),
        cores_per_host: args.cores_per_host,
    };
    let planned = compute(&costs, &wanted, args.utilisation)?;
    let searched = costs.utilisation.is_some() && args.utilisation.is_none();
    let outcome = match &args.beside {
        Some(path) => costs
            .beside(&Report::read(path)?)
            .map_err(|error| format!("{}: {error}", path.display()))?,
        None => String::new(),
    };
    let slo = slo.or_else(|| costs.slo.clone());
    Ok(planned.text(&wanted, slo.as_deref(), searched) + &outcome)
}

impl Costs {
    fn add(&mut self, report: &Report) {
        if let Some(found) = &report.search {
            self.utilisation = found.utilisation.or(self.utilisation);
            self.slo = Some(found.slo.clone());
        }
        match &report.details {
            Some(details) => self.add_run(details),
            None => self.add_demo(report),
        }
    }

    fn add_run(&mut self, details: &Details) {
        let estimate = |figure: fn(&Row) -> Option<f64>| {
            let values: Vec<f64> = details.series.iter().filter_map(figure).collect();
            Samples::new(&values).map(|samples| samples.estimate())
        };
        match details.settings.mode.as_str() {
            "handshake" => {
                let sum = |of: fn(&Row) -> u64| details.series.iter().map(of).sum::<u64>();
                let (full, resumed) = (sum(|row| row.full), sum(|row| row.resumed));
                // Far below 2^53.
                #[allow(clippy::cast_precision_loss)]
                let share = resumed as f64 / (full + resumed).max(1) as f64;
                let cost = estimate(server_us_per_unit);
                self.handshakes.extend(cost.map(|cost| (share, cost)));
            }
            "rr" => self.request = estimate(server_us_per_unit).or(self.request),
            "bulk" => {
                let byte = estimate(server_ns_per_byte).map(|ns| ns.scaled(1e-3));
                self.byte = byte.or(self.byte);
            }
            _ => {}
        }
    }

    /// The phases of a demo, which hold one value each.
    fn add_demo(&mut self, report: &Report) {
        for phase in &report.phases {
            let Some(cost) = phase.server_cpu_us_per_unit.map(Estimate::exact) else {
                continue;
            };
            match phase.name.as_str() {
                "full handshakes" => self.handshakes.push((0.0, cost)),
                "resumed handshakes" => self.handshakes.push((1.0, cost)),
                "1 KiB requests" => self.request = Some(cost),
                "bulk 64 KiB" => self.byte = Some(cost),
                _ => {}
            }
        }
    }

    /// What a run took of the server, and what these costs say that its units take.
    #[allow(clippy::cast_precision_loss)]
    fn beside(&self, report: &Report) -> Result<String, String> {
        const WANTED: &str = "expected a run with --server-pid";
        let details = report.details.as_ref().ok_or(WANTED)?;
        let server = details.server.as_ref().ok_or(WANTED)?;
        let seconds: f64 = details.series.iter().map(|row| row.len_s).sum();
        let a_second = |of: fn(&Row) -> u64| {
            details.series.iter().map(of).sum::<u64>() as f64 / seconds.max(f64::MIN_POSITIVE)
        };
        let confirmed = a_second(|row| row.confirmed);
        let (what, amount, cost) = match details.settings.mode.as_str() {
            "handshake" => {
                let share = a_second(|row| row.resumed) / confirmed.max(f64::MIN_POSITIVE);
                let what = format!("handshakes/s, {:.0}% of them resumed,", share * 100.0);
                (what, confirmed, Some(self.handshake(share)?))
            }
            "rr" => ("requests/s".to_owned(), confirmed, self.request),
            "bulk" => ("bytes/s".to_owned(), a_second(|row| row.bytes), self.byte),
            other => return Err(format!("a run with --mode {other} has no rate")),
        };
        let cost = cost.ok_or_else(|| format!("no result says what {what} cost"))?;
        let predicted = cost.scaled(amount * 1e-6);
        let off = (server.busy_cpus / predicted.value.max(f64::MIN_POSITIVE) - 1.0) * 100.0;
        Ok(format!(
            "\nbeside a run: {amount:.0} {what} took {:.3} CPUs, and {} were predicted: {:.1}% {}\n",
            server.busy_cpus,
            show(&predicted, 3),
            off.abs(),
            if off < 0.0 { "less" } else { "more" }
        ))
    }

    /// The cost of a handshake of which this share resumes: on the line through the runs with the
    /// least and the greatest share.
    fn handshake(&self, share: f64) -> Result<Estimate, String> {
        let by_share = |a: &&(f64, Estimate), b: &&(f64, Estimate)| a.0.total_cmp(&b.0);
        let least = self.handshakes.iter().min_by(by_share);
        let (Some(least), Some(greatest)) = (least, self.handshakes.iter().max_by(by_share)) else {
            return Err(
                "no result says what a handshake costs the server: run with --mode handshake \
                 --server-pid PID --json F, and give F with --from"
                    .to_owned(),
            );
        };
        let near = self
            .handshakes
            .iter()
            .find(|(known, _)| (known - share).abs() <= NEAR);
        if let Some((_, cost)) = near {
            return Ok(*cost);
        }
        let gap = greatest.0 - least.0;
        if gap < 0.2 {
            return Err(format!(
                "the results have {:.0}% of their handshakes resumed and the plan {:.0}%: add one \
                 of a run with --resume {share}, or two with --resume 0 and --resume 1",
                greatest.0 * 100.0,
                share * 100.0
            ));
        }
        let weight = (share - least.0) / gap;
        Ok(Estimate::sum(&[
            least.1.scaled(1.0 - weight),
            greatest.1.scaled(weight),
        ]))
    }
}

fn compute(costs: &Costs, wanted: &Wanted, utilisation: Option<f64>) -> Result<Planned, String> {
    let mut terms = Vec::new();
    let mixed = costs.handshake(wanted.resume)?;
    terms.push((
        format!("{:.0} handshakes/s × {:.1} µs", wanted.rate, mixed.value),
        mixed.scaled(wanted.rate * 1e-6),
    ));
    for (what, amount, cost, mode) in [
        ("requests/s", wanted.requests, costs.request, "rr"),
        ("bytes/s", wanted.bytes, costs.byte, "bulk"),
    ] {
        if amount > 0.0 {
            let cost = cost.ok_or_else(|| {
                format!("no result says what {what} cost: add one of a run with --mode {mode}")
            })?;
            terms.push((
                format!("{amount:.0} {what} × {:.5} µs", cost.value),
                cost.scaled(amount * 1e-6),
            ));
        }
    }
    let parts: Vec<Estimate> = terms.iter().map(|(_, term)| *term).collect();
    let busy = Estimate::sum(&parts);
    let utilisation = utilisation.or(costs.utilisation).unwrap_or(UTILISATION);
    let cores = busy.scaled(1.0 / utilisation);
    Ok(Planned {
        full: costs.handshake(0.0).ok(),
        resumed: costs.handshake(1.0).ok(),
        mixed,
        terms,
        busy,
        utilisation,
        cores,
        hosts: hosts(&cores, wanted.cores_per_host),
    })
}

/// Hosts for the upper end of the interval, and a spare one.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn hosts(cores: &Estimate, per_host: u32) -> u32 {
    let most = if cores.high.is_finite() {
        cores.high
    } else {
        cores.value
    };
    (most / f64::from(per_host)).ceil().clamp(1.0, 1e6) as u32 + 1
}

impl Planned {
    fn text(&self, wanted: &Wanted, slo: Option<&str>, searched: bool) -> String {
        let held = slo.map_or_else(String::new, |slo| format!(" at {slo}"));
        let mut text = format!(
            "{:.0} connections a second, {:.0}% of them resumed{held}, need {} cores: {} hosts of \
             {} cores, one of them spare.\n\n",
            wanted.rate,
            wanted.resume * 100.0,
            show(&self.cores, 1),
            self.hosts,
            wanted.cores_per_host
        );
        for (name, cost) in [
            ("full handshake", self.full),
            ("resumed handshake", self.resumed),
            ("this mix", Some(self.mixed)),
        ] {
            if let Some(cost) = cost {
                text.push_str(&format!("{name:<24} {} µs of server CPU\n", show(&cost, 1)));
            }
        }
        for (what, term) in &self.terms {
            text.push_str(&format!("{what:<40} = {} CPUs\n", show(term, 3)));
        }
        let why = if searched {
            "as busy as the server was in the search"
        } else if (self.utilisation - UTILISATION).abs() < f64::EPSILON {
            "half of capacity, as no search says how busy a server may be"
        } else {
            "as asked"
        };
        text.push_str(&format!(
            "{} CPUs / {:.2} ({why}) = {} cores\n",
            show(&self.busy, 3),
            self.utilisation,
            show(&self.cores, 1)
        ));
        text
    }
}

/// A value and its interval, where it has one.
fn show(estimate: &Estimate, digits: usize) -> String {
    let Estimate { value, low, high } = estimate;
    if !low.is_finite() || !high.is_finite() || high - low < f64::EPSILON {
        return format!("{value:.digits$}");
    }
    format!("{value:.digits$} ({low:.digits$} to {high:.digits$})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mode: &str, resumed: u64, cpu_us: f64) -> Details {
        let mut details = Details::default();
        details.settings.mode = mode.to_owned();
        for second in 0..10_u32 {
            let noise = 1.0 + 0.01 * (f64::from(second % 3) - 1.0);
            details.series.push(Row {
                confirmed: 1_000,
                full: 1_000 - resumed,
                resumed,
                bytes: 1_000_000_000,
                server_cpu_s: Some(cpu_us * 1e-3 * noise),
                ..Row::default()
            });
        }
        details
    }

    fn costs(runs: &[Details]) -> Costs {
        let mut costs = Costs::default();
        for run in runs {
            costs.add_run(run);
        }
        costs
    }

    const WANTED: Wanted = Wanted {
        rate: 50_000.0,
        resume: 0.9,
        requests: 0.0,
        bytes: 0.0,
        cores_per_host: 16,
    };

    #[test]
    fn the_formula() {
        let costs = costs(&[run("handshake", 0, 200.0), run("handshake", 1_000, 100.0)]);
        let planned = compute(&costs, &WANTED, Some(0.5)).unwrap();
        // 50000 × (0.1 × 200 + 0.9 × 100) µs = 5.5 CPUs.
        assert!((planned.busy.value - 5.5).abs() < 0.01, "{planned:?}");
        assert!((planned.cores.value - 11.0).abs() < 0.02);
        assert!(planned.cores.low < 11.0 && planned.cores.high > 11.0);
        assert_eq!(planned.hosts, 2);
        let text = planned.text(&WANTED, Some("p99<20ms"), false);
        let first = text.lines().next().unwrap();
        assert!(first.contains("90% of them resumed at p99<20ms"), "{first}");
    }

    #[test]
    fn every_term_adds() {
        let costs = costs(&[
            run("handshake", 900, 110.0),
            run("rr", 0, 10.0),
            run("bulk", 0, 400.0),
        ]);
        let wanted = Wanted {
            requests: 100_000.0,
            bytes: 1e9,
            ..WANTED
        };
        let planned = compute(&costs, &wanted, Some(1.0)).unwrap();
        // 5.5 + 1 + 0.4 CPUs: 400 µs for a million bytes.
        assert!((planned.busy.value - 6.9).abs() < 0.02, "{planned:?}");
    }

    #[test]
    fn what_was_not_measured_is_asked_for() {
        let error =
            |runs: &[Details], wanted: &Wanted| compute(&costs(runs), wanted, None).unwrap_err();
        assert!(error(&[], &WANTED).contains("--mode handshake"));
        assert!(error(&[run("handshake", 0, 200.0)], &WANTED).contains("--resume 0.9"));
        let wanted = Wanted {
            requests: 1.0,
            ..WANTED
        };
        assert!(error(&[run("handshake", 900, 1.0)], &wanted).contains("--mode rr"));
    }

    #[test]
    fn a_prediction_stands_beside_its_outcome() {
        let costs = costs(&[run("handshake", 0, 200.0), run("handshake", 1_000, 100.0)]);
        let mut outcome = Report::empty();
        let error = costs.beside(&outcome).unwrap_err();
        assert!(error.contains("--server-pid"), "{error}");
        let mut details = run("handshake", 500, 0.0);
        for row in &mut details.series {
            row.len_s = 1.0;
        }
        // 1000 a second at 149.85 µs, the mean of the noise.
        details.server = Some(crate::details::Server {
            busy_cpus: 0.165,
            ..Default::default()
        });
        outcome.details = Some(details);
        let text = costs.beside(&outcome).unwrap();
        assert!(
            text.contains("1000 handshakes/s, 50% of them resumed, took 0.165 CPUs")
                && text.contains("10.1% more"),
            "{text}"
        );
        outcome.details.as_mut().unwrap().settings.mode = "rr".to_owned();
        assert!(costs.beside(&outcome).is_err());
    }

    #[test]
    fn a_spare_host_is_always_there() {
        assert_eq!(hosts(&Estimate::exact(0.1), 16), 2);
        assert_eq!(hosts(&Estimate::exact(16.0), 16), 2);
        assert_eq!(hosts(&Estimate::exact(16.1), 16), 3);
    }
}
