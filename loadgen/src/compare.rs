//! `compare`: two results beside each other, as ratios with confidence intervals.

use crate::details::{Details, Row};
use crate::interval_estimate::{Estimate, Samples};
use crate::report::Report;

/// A figure of both results.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    name: String,
    first: f64,
    second: f64,
    /// Second by first; without an interval where the results hold one value each.
    ratio: Estimate,
    has_interval: bool,
    more_is_better: bool,
}

/// The table of two results.
pub fn table(first: &Report, second: &Report) -> Result<String, String> {
    let lines = match (&first.details, &second.details) {
        (Some(one), Some(other)) => of_runs(one, other)?,
        _ => of_phases(first, second),
    };
    if lines.is_empty() {
        return Err("the two results have no figure in common".to_owned());
    }
    let mut table = format!(
        "{:<32} {:>12} {:>12} {:>8}  {:<16}\n",
        "", "first", "second", "ratio", "95% interval"
    );
    for line in lines {
        let interval = if line.has_interval {
            format!("{:.3} to {:.3}", line.ratio.low, line.ratio.high)
        } else {
            "-".to_owned()
        };
        table.push_str(&format!(
            "{:<32} {:>12.2} {:>12.2} {:>8.3}  {:<16} {}\n",
            line.name,
            line.first,
            line.second,
            line.ratio.value,
            interval,
            line.says()
        ));
    }
    table.push_str(
        "intervals come from the seconds of one run each: they know nothing of what differs from \
         run to run\n",
    );
    Ok(table)
}

impl Line {
    fn says(&self) -> &'static str {
        if !self.has_interval {
            return "";
        }
        if self.ratio.low <= 1.0 && self.ratio.high >= 1.0 {
            return "no difference shown";
        }
        if (self.ratio.value > 1.0) == self.more_is_better {
            "better"
        } else {
            "worse"
        }
    }
}

/// Figures of each interval of a run.
fn of_runs(first: &Details, second: &Details) -> Result<Vec<Line>, String> {
    let (one, other) = (&first.settings, &second.settings);
    if one.mode != other.mode {
        return Err(format!(
            "the results are of different work: {} and {}",
            one.mode, other.mode
        ));
    }
    type Figure = fn(&Row) -> Option<f64>;
    let figures: [(&str, bool, Figure); 6] = [
        ("served/s", true, served_per_s),
        ("server CPU, µs per unit", false, server_us_per_unit),
        ("server CPU, ns per byte", false, server_ns_per_byte),
        ("p50, µs", false, |row| row.p50_us),
        ("p99, µs", false, |row| row.p99_us),
        ("generator CPU, µs per unit", false, generator_us_per_unit),
    ];
    let mut lines = Vec::new();
    for (name, more_is_better, figure) in figures {
        let samples = |details: &Details| {
            Samples::new(&details.series.iter().filter_map(figure).collect::<Vec<_>>())
        };
        if let (Some(one), Some(other)) = (samples(first), samples(second))
            && let Some(ratio) = other.ratio_to(&one)
        {
            lines.push(Line {
                name: name.to_owned(),
                first: one.mean,
                second: other.mean,
                has_interval: ratio.low.is_finite() && ratio.high.is_finite(),
                ratio,
                more_is_better,
            });
        }
    }
    Ok(lines)
}

#[allow(clippy::cast_precision_loss)]
fn served_per_s(row: &Row) -> Option<f64> {
    (row.len_s > 0.0).then(|| row.confirmed as f64 / row.len_s)
}

/// CPU time of the server for each unit of an interval.
#[allow(clippy::cast_precision_loss)]
pub fn server_us_per_unit(row: &Row) -> Option<f64> {
    let cpu = row.server_cpu_s.filter(|_| row.confirmed > 0)?;
    Some(cpu * 1e6 / row.confirmed as f64)
}

/// And for each byte, in both directions.
#[allow(clippy::cast_precision_loss)]
pub fn server_ns_per_byte(row: &Row) -> Option<f64> {
    const BULK: u64 = 1 << 20;
    let cpu = row.server_cpu_s.filter(|_| row.bytes > BULK)?;
    Some(cpu * 1e9 / row.bytes as f64)
}

#[allow(clippy::cast_precision_loss)]
fn generator_us_per_unit(row: &Row) -> Option<f64> {
    (row.confirmed > 0).then(|| row.generator_cpu_s * 1e6 / row.confirmed as f64)
}

/// Figures of phases with the same name.
fn of_phases(first: &Report, second: &Report) -> Vec<Line> {
    let mut lines = Vec::new();
    for one in &first.phases {
        let Some(other) = second.phases.iter().find(|other| other.name == one.name) else {
            continue;
        };
        let figures = [
            (
                "served/s",
                true,
                Some(one.confirmed_per_s),
                Some(other.confirmed_per_s),
            ),
            (
                "server CPU, µs per unit",
                false,
                one.server_cpu_us_per_unit,
                other.server_cpu_us_per_unit,
            ),
            ("p99, µs", false, one.p99_us, other.p99_us),
        ];
        for (name, more_is_better, one_value, other_value) in figures {
            if let (Some(first), Some(second)) = (one_value, other_value)
                && first > 0.0
            {
                lines.push(Line {
                    name: format!("{}: {name}", one.name),
                    first,
                    second,
                    ratio: Estimate::exact(second / first),
                    has_interval: false,
                    more_is_better,
                });
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(cpu_us: f64) -> Details {
        let mut details = Details::default();
        for second in 0..10_u32 {
            // A little noise that is the same for all.
            let noise = 1.0 + 0.01 * (f64::from(second % 3) - 1.0);
            details.series.push(Row {
                at_s: second.into(),
                len_s: 1.0,
                confirmed: 1_000,
                server_cpu_s: Some(cpu_us * 1e-3 * noise),
                p99_us: Some(100.0 * noise),
                ..Row::default()
            });
        }
        details
    }

    #[test]
    fn a_difference_is_told_from_noise() {
        let lines = of_runs(&details(100.0), &details(90.0)).unwrap();
        let line = |name: &str| {
            lines
                .iter()
                .find(|line| line.name.starts_with(name))
                .unwrap()
        };
        let cpu = line("server CPU, µs");
        assert!((cpu.ratio.value - 0.9).abs() < 1e-6 && cpu.has_interval);
        assert_eq!(cpu.says(), "better");
        assert_eq!(line("p99").says(), "no difference shown");
        let lines = of_runs(&details(90.0), &details(100.0)).unwrap();
        let cpu = lines
            .iter()
            .find(|line| line.name.starts_with("server CPU, µs"));
        assert_eq!(cpu.unwrap().says(), "worse");
    }

    #[test]
    fn different_work_is_not_compared() {
        let mut other = details(1.0);
        other.settings.mode = "rr".to_owned();
        let error = of_runs(&details(1.0), &other).unwrap_err();
        assert!(error.contains("rr"), "{error}");
    }
}
