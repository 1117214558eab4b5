//! `--html`: a result as one page that needs no network and no script.

mod chart;

use std::fmt::Write as _;
use std::path::Path;

use crate::cli::Status;
use crate::details::Details;
use crate::report::{Phase, Report, Unit};
use crate::search::Found;
use chart::{Axis, Line, Mark};

const STYLE: &str = include_str!("style.css");

/// Writes the page.
pub fn write(path: &Path, report: &Report) -> Result<(), String> {
    std::fs::write(path, page(report)).map_err(|error| {
        format!(
            "{}: {error}; name a file that can be written",
            path.display()
        )
    })
}

/// The page.
pub fn page(report: &Report) -> String {
    let held = if report.status == Status::Held {
        "verdict held"
    } else {
        "verdict"
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{0}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{0}</h1>\n\
         <p class=\"{held}\">{1}</p>\n",
        escape(&title(report)),
        escape(&report.verdict)
    );
    page.push_str(&tiles(report));
    page.push_str("<div class=\"charts\">\n");
    if let Some(found) = &report.search {
        page.push_str(&capacity(found));
    }
    if let Some(details) = &report.details {
        page.push_str(&distribution(details));
        page.push_str(&throughput(details, report.phases.first()));
    }
    page.push_str(&costs(report));
    page.push_str("</div>\n");
    if let Some(details) = &report.details {
        page.push_str(&percentiles(details));
    }
    page.push_str(&errors(report));
    if let Some(details) = &report.details {
        page.push_str(&settings(details));
    }
    page.push_str(
        "<footer><p>Percentiles are left out where there are too few samples. Server CPU per unit \
         carries over to other rates and hosts of the same kind; rates of a small machine do not.\
         </p></footer>\n</body>\n</html>\n",
    );
    page
}

/// Text that stands for itself in HTML, in attributes too.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn title(report: &Report) -> String {
    match &report.details {
        Some(details) => format!(
            "{} on {}",
            match details.settings.mode.as_str() {
                "handshake" => "Mutual-TLS handshakes",
                "rr" => "Requests",
                "bulk" => "Bulk",
                "hold" => "Held connections",
                other => other,
            },
            details.settings.target
        ),
        None => "Mutual TLS".to_owned(),
    }
}

fn time(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e5 => format!("{:.2} ms", us / 1e3),
        us if us < 1e6 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// A power of ten.
fn time_tick(us: f64) -> String {
    match us {
        us if us < 0.99 => format!("{us} µs"),
        us if us < 999.0 => format!("{us:.0} µs"),
        us if us < 999_000.0 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.0} s", us / 1e6),
    }
}

fn cost(phase: &Phase, us: f64) -> String {
    match phase.unit {
        Unit::Byte => format!("{:.3} ns", us * 1e3),
        _ if us < 10.0 => format!("{us:.2} µs"),
        _ => format!("{us:.1} µs"),
    }
}

fn count(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{:.2} G", value / 1e9),
        value if value >= 1e7 => format!("{:.1} M", value / 1e6),
        value if value >= 1e5 => format!("{:.0} k", value / 1e3),
        value if value >= 10.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}

fn tiles(report: &Report) -> String {
    let mut tiles = Vec::new();
    if let Some(rate) = report.search.as_ref().and_then(|found| found.rate) {
        tiles.push((count(rate), "a second hold the conditions".to_owned()));
    }
    if let Some(phase) = report.phases.first() {
        let unit = match phase.unit {
            Unit::Byte => "bytes/s",
            Unit::Connection => "connections/s",
            Unit::Handshake => "handshakes/s, confirmed",
            Unit::Request => "requests/s",
        };
        tiles.push((count(phase.confirmed_per_s), unit.to_owned()));
        if let Some(p99) = phase.p99_us {
            tiles.push((time(p99), "p99 latency".to_owned()));
        }
        if let Some(us) = phase.server_cpu_us_per_unit {
            let beside = phase.floor_ratio.map_or_else(String::new, |ratio| {
                format!(", {ratio:.1} × the cryptography alone")
            });
            tiles.push((cost(phase, us), format!("server CPU per unit{beside}")));
        }
        let failed: u64 = phase.errors.values().sum();
        tiles.push((failed.to_string(), "errors".to_owned()));
    }
    if let Some(handshakes) = report
        .handshakes
        .as_ref()
        .filter(|all| all.resume_aimed > 0.0)
    {
        tiles.push((
            format!("{:.1}%", handshakes.resume_reached * 100.0),
            format!("resumed, {:.0}% aimed at", handshakes.resume_aimed * 100.0),
        ));
    }
    let tiles: String = tiles
        .iter()
        .map(|(value, name)| {
            format!(
                "<div class=\"tile\"><b>{}</b><span>{}</span></div>\n",
                escape(value),
                escape(name)
            )
        })
        .collect();
    format!("<div class=\"tiles\">\n{tiles}</div>\n")
}

/// Latency by percentile; equal steps to the right are equal factors closer to all.
fn distribution(details: &Details) -> String {
    let points: Vec<(f64, f64)> = details
        .distribution
        .iter()
        .map(|point| (1.0 / (1.0 - point.quantile), point.us))
        .collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return String::new();
    };
    let show = |left: f64| match left {
        left if left < 1.5 => "0%".to_owned(),
        left if left < 15.0 => "90%".to_owned(),
        left if left < 150.0 => "99%".to_owned(),
        left if left < 1_500.0 => "99.9%".to_owned(),
        left if left < 15_000.0 => "99.99%".to_owned(),
        left => {
            let percent = format!("{:.6}", 100.0 - 100.0 / left);
            format!("{}%", percent.trim_end_matches('0'))
        }
    };
    let x = Axis::powers("percentile", 1.0, last.0, show);
    let y = Axis::powers("latency", first.1, last.1, time_tick);
    let line = Line {
        name: "latency",
        class: "one",
        points,
        marked: false,
    };
    let title = if details.settings.arrival.is_some() {
        "Latency of units, from the moment each was due"
    } else {
        "Latency of units, from the beginning of each (closed loop)"
    };
    chart::lines("distribution", title, &x, &y, &[line], None)
}

#[allow(clippy::cast_precision_loss)]
fn throughput(details: &Details, phase: Option<&Phase>) -> String {
    let in_bytes = phase.is_some_and(|phase| phase.unit == Unit::Byte);
    let rows: Vec<_> = details
        .series
        .iter()
        .filter(|row| row.len_s > 0.0)
        .collect();
    let served: Vec<(f64, f64)> = rows
        .iter()
        .map(|row| {
            let amount = if in_bytes { row.bytes } else { row.confirmed };
            (row.at_s + row.len_s / 2.0, amount as f64 / row.len_s)
        })
        .collect();
    let failed: Vec<(f64, f64)> = rows
        .iter()
        .map(|row| (row.at_s + row.len_s / 2.0, row.failed as f64 / row.len_s))
        .collect();
    let most = served
        .iter()
        .chain(&failed)
        .map(|point| point.1)
        .fold(0.0, f64::max);
    if served.is_empty() {
        return String::new();
    }
    let mut lines = vec![Line {
        name: "served",
        class: "one",
        points: served,
        marked: false,
    }];
    if failed.iter().any(|point| point.1 > 0.0) {
        lines.push(Line {
            name: "failed",
            class: "two",
            points: failed,
            marked: false,
        });
    }
    let x = Axis::linear("seconds", details.settings.duration_s, count);
    let label = if in_bytes { "bytes/s" } else { "units/s" };
    let y = Axis::linear(label, most, count);
    chart::lines("throughput", "Throughput over time", &x, &y, &lines, None)
}

/// The rates of a search and what latency they had, with the answer pointed out.
fn capacity(found: &Found) -> String {
    let mut points: Vec<(f64, f64)> = found
        .trials
        .iter()
        .filter_map(|trial| Some((trial.rate, trial.p99_us?)))
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    // Of a rate that was tried again, the worst.
    points.dedup_by(|later, earlier| later.0 <= earlier.0);
    let most = points.last().map_or(1.0, |point| point.0);
    let by_latency = |a: &f64, b: &f64| a.total_cmp(b);
    let latencies = || points.iter().map(|point| point.1);
    let (Some(least), Some(worst)) = (
        latencies().min_by(by_latency),
        latencies().max_by(by_latency),
    ) else {
        return String::new();
    };
    let x = Axis::linear("units/s that were due", most, count);
    let y = Axis::powers("p99", least, worst, time_tick);
    let mark = found.rate.map(|rate| Mark {
        at: rate,
        text: format!("{} hold {}", count(rate), found.slo),
    });
    let line = Line {
        name: "p99",
        class: "one",
        points,
        marked: true,
    };
    chart::lines(
        "capacity",
        "Capacity: p99 latency at each rate that was tried",
        &x,
        &y,
        &[line],
        mark.as_ref(),
    )
}

/// Server CPU per unit beside the cryptography that no server can do without.
fn costs(report: &Report) -> String {
    let mut rows = Vec::new();
    for phase in &report.phases {
        if let Some(us) = phase.server_cpu_us_per_unit {
            let name = format!("{}: server", phase.name);
            rows.push((name, "one", us, cost(phase, us)));
            if let Some(floor) = phase.floor_us {
                let name = format!("{}: cryptography alone", phase.name);
                rows.push((name, "two", floor, cost(phase, floor)));
            }
        }
    }
    // Bytes and handshakes have no scale in common.
    let of_bytes = report
        .phases
        .iter()
        .filter(|phase| phase.unit == Unit::Byte);
    let of_bytes = of_bytes.count();
    if rows.is_empty() || (of_bytes > 0 && of_bytes < report.phases.len()) {
        return String::new();
    }
    chart::bars("costs", "Server CPU per unit", &rows)
}

fn percentiles(details: &Details) -> String {
    let mut table = "<h2>Where the time goes</h2>\n<div class=\"wide\"><table>\n<tr><th>phase</th>\
                     <th>samples</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>p99.99\
                     </th><th>max</th></tr>\n"
        .to_owned();
    for (name, row) in &details.latency_us {
        let _ = write!(
            table,
            "<tr><td>{}</td><td>{}</td>",
            escape(&name.replace('_', " ")),
            row.count
        );
        for cell in [row.p50, row.p90, row.p99, row.p999, row.p9999, row.max] {
            let text = cell.map_or_else(|| "–".to_owned(), time);
            let _ = write!(table, "<td>{text}</td>");
        }
        table.push_str("</tr>\n");
    }
    table.push_str("</table></div>\n");
    table
}

fn errors(report: &Report) -> String {
    let mut rows: Vec<(String, u64)> = Vec::new();
    for phase in &report.phases {
        for (name, count) in &phase.errors {
            rows.push((name.clone(), *count));
        }
    }
    let refused = report.details.iter().flat_map(|details| &details.refused);
    for (kind, looks) in refused {
        for (look, count) in looks {
            rows.push((
                format!("refused as they must be: {kind}, by {look}"),
                *count,
            ));
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let rows: String = rows
        .iter()
        .map(|(name, count)| format!("<dt>{count}</dt><dd>{}</dd>\n", escape(name)))
        .collect();
    format!("<h2>Errors and refusals</h2>\n<dl>\n{rows}</dl>\n")
}

fn settings(details: &Details) -> String {
    let settings = &details.settings;
    let generator = &details.generator;
    let mut rows = vec![
        ("target", settings.target.clone()),
        (
            "load",
            format!(
                "{} connections, {} load thread{}, {:.0} s after {:.1} s of warm-up",
                settings.connections,
                settings.threads,
                if settings.threads == 1 { "" } else { "s" },
                settings.duration_s,
                settings.warmup_s
            ),
        ),
        (
            "schedule",
            match (settings.rate, &settings.arrival) {
                (Some(rate), Some(arrival)) => format!("{} a second, {arrival}", count(rate)),
                (None, Some(arrival)) => format!("a ramp, {arrival}"),
                _ => "closed loop".to_owned(),
            },
        ),
        ("identities", settings.identities.to_string()),
        ("confirmed by", settings.confirm.clone()),
        (
            "server's certificate",
            if settings.server_checked {
                "checked"
            } else {
                "not checked"
            }
            .to_owned(),
        ),
        (
            "generator",
            format!(
                "busiest thread {:.0}% of its CPU, {:.1}% of the units begun{}, {:.1}% of CPU time \
                 stolen, {:.0}% waited for a CPU",
                generator.busy * 100.0,
                generator.sent_ratio * 100.0,
                generator
                    .late_p99_us
                    .map_or_else(String::new, |us| format!(", within {} at p99", time(us))),
                generator.stolen * 100.0,
                generator.waited * 100.0
            ),
        ),
    ];
    if let Some(server) = &details.server {
        rows.push(("server", format!("{:.2} CPUs busy", server.busy_cpus)));
    }
    let rows: String = rows
        .iter()
        .map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>\n", escape(value)))
        .collect();
    format!("<h2>How it was measured</h2>\n<dl>\n{rows}</dl>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        let mut report = Report::empty();
        report.verdict = "<script>alert('x')</script> & \"more\"".to_owned();
        let page = page(&report);
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)"));
    }

    #[test]
    fn a_page_without_figures_is_a_page() {
        let page = page(&Report::empty());
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    }
}
