//! What a person and what a program sees of a result.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cli::Status;
use crate::details::Details;
use crate::identity_check::IdentityCounts;
use crate::run::Measured;
use crate::search::Found;
use crate::statistics::{Kind, Statistics};

/// Prints for people. A reader that has gone, as `head` does, is no error.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// What is counted in a phase.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A connection that was made and is held.
    Connection,
    /// A byte in one direction: an echo of n bytes counts 2 n.
    Byte,
    Handshake,
    Request,
}

/// A phase as it is printed and written.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Phase {
    pub name: String,
    /// Units that were served in the measured time.
    pub confirmed: u64,
    /// Units a second.
    pub confirmed_per_s: f64,
    /// `None` where the server's CPU time is not known or nothing was confirmed.
    pub server_cpu_us_per_unit: Option<f64>,
    pub floor_us: Option<f64>,
    pub floor_ratio: Option<f64>,
    /// CPU time of the load threads.
    pub generator_cpu_us_per_unit: Option<f64>,
    /// Of a handshake, a request or a whole echo; from the due moment with a rate. `None` where
    /// there are too few samples.
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub p999_us: Option<f64>,
    pub errors: BTreeMap<String, u64>,
    pub unit: Unit,
}

impl Phase {
    /// The figures of `measured`; `floor_us` is the cryptography of one unit.
    #[allow(clippy::cast_precision_loss)]
    pub fn new(name: &str, unit: Unit, measured: &Measured, floor_us: Option<f64>) -> Self {
        let statistics = &measured.statistics;
        let units = match unit {
            Unit::Byte => statistics.bytes,
            Unit::Connection | Unit::Handshake | Unit::Request => statistics.confirmed,
        };
        let server_cpu_us_per_unit = measured.server_cpu_us_per(units);
        let latency = statistics.latency();
        let errors = &statistics.errors;
        Self {
            name: name.to_owned(),
            confirmed: units,
            confirmed_per_s: measured.per_s(units as f64),
            server_cpu_us_per_unit,
            floor_us,
            floor_ratio: server_cpu_us_per_unit
                .zip(floor_us)
                .map(|(cpu, floor)| cpu / floor),
            generator_cpu_us_per_unit: measured.own_cpu_us_per(units),
            p50_us: latency.quantile_us(0.5),
            p99_us: latency.quantile_us(0.99),
            p999_us: latency.quantile_us(0.999),
            errors: errors
                .iter()
                .map(|(failure, count)| (failure.to_string(), *count))
                .collect(),
            unit,
        }
    }

    /// The handshakes of one kind out of a run with both. CPU time is given to a kind only where
    /// nearly all handshakes were of it.
    #[allow(clippy::cast_precision_loss)]
    pub fn of_kind(kind: Kind, measured: &Measured, floor_us: Option<f64>) -> Self {
        const NEARLY_ALL: f64 = 0.99;
        let statistics = &measured.statistics;
        let (name, of_kind) = match kind {
            Kind::Full => ("full", &statistics.full),
            Kind::Resumed => ("resumed", &statistics.resumed),
        };
        let units = of_kind.confirmed;
        let alone = units as f64 >= NEARLY_ALL * statistics.confirmed as f64;
        let server_cpu_us_per_unit = measured.server_cpu_us_per(units).filter(|_| alone);
        Self {
            name: name.to_owned(),
            confirmed: units,
            confirmed_per_s: measured.per_s(units as f64),
            server_cpu_us_per_unit,
            floor_us,
            floor_ratio: server_cpu_us_per_unit
                .zip(floor_us)
                .map(|(cpu, floor)| cpu / floor),
            generator_cpu_us_per_unit: measured.own_cpu_us_per(units).filter(|_| alone),
            p50_us: of_kind.unit.quantile_us(0.5),
            p99_us: of_kind.unit.quantile_us(0.99),
            p999_us: of_kind.unit.quantile_us(0.999),
            errors: BTreeMap::new(),
            unit: Unit::Handshake,
        }
    }
}

/// What the handshakes of a run were.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Handshakes {
    /// Done, as the TLS sessions say; served or not.
    pub full: u64,
    pub resumed: u64,
    /// Share of resumed ones that was aimed at, and that was reached.
    pub resume_aimed: f64,
    pub resume_reached: f64,
    /// By version, cipher suite and group.
    pub agreed: BTreeMap<String, u64>,
}

impl Handshakes {
    pub fn new(statistics: &Statistics, resume_aimed: f64) -> Self {
        let agreed = statistics.agreed.iter();
        Self {
            full: statistics.full.tls.count(),
            resumed: statistics.resumed.tls.count(),
            resume_aimed,
            resume_reached: statistics.resumed_ratio(),
            agreed: agreed
                .map(|(agreed, count)| (agreed.to_string(), *count))
                .collect(),
        }
    }
}

/// Name and version of the JSON. The version changes when a field changes its meaning or goes;
/// fields that are new do not change it.
pub const SCHEMA: &str = "ringgate-loadgen/1";

/// A whole result.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Report {
    /// [`SCHEMA`]; what has another is not read.
    pub schema: String,
    pub phases: Vec<Phase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshakes: Option<Handshakes>,
    pub identity: IdentityCounts,
    pub verdict: String,
    /// What the verdict's exit code means: see [`Status`].
    pub status: Status,
    /// Only of a search, whose other figures are those of the run that its answer rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Found>,
    /// Only of a run.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
}

impl Report {
    /// One without a figure.
    pub fn empty() -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            phases: Vec::new(),
            handshakes: None,
            identity: IdentityCounts::default(),
            verdict: String::new(),
            status: Status::TargetFailed,
            search: None,
            details: None,
        }
    }

    /// Reads one back.
    pub fn read(path: &Path) -> Result<Self, String> {
        /// Bytes of a result.
        const RESULT_BYTES_MAX: u64 = 256 << 20;
        let named = |reason: String| {
            format!(
                "{}: {reason}; expected a result that this version wrote with --json",
                path.display()
            )
        };
        let meta = std::fs::metadata(path).map_err(|error| named(error.to_string()))?;
        if meta.len() > RESULT_BYTES_MAX {
            return Err(named(format!("{} bytes are too many", meta.len())));
        }
        let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        Self::parse(&text).map_err(named)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        match value.get("schema").and_then(serde_json::Value::as_str) {
            Some(SCHEMA) => {}
            Some(other) => return Err(format!("its schema is {other:?} and not {SCHEMA:?}")),
            None => return Err("it names no schema".to_owned()),
        }
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    /// Writes it as JSON.
    pub fn write_json(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string());
        text.and_then(|text| std::fs::write(path, text + "\n").map_err(|error| error.to_string()))
            .map_err(|error| {
                format!(
                    "{}: {error}; name a file that can be written",
                    path.display()
                )
            })
    }

    /// The table for people.
    pub fn table(&self) -> String {
        const HEADS: [&str; 9] = [
            "",
            "confirmed/s",
            "p50",
            "p99",
            "p99.9",
            "server CPU",
            "crypto floor",
            "ratio",
            "generator CPU",
        ];
        let rows: Vec<[String; 9]> = self.phases.iter().map(row).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([HEADS[column].len()]).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
        let mut table = String::new();
        for row in std::iter::once(HEADS.map(str::to_owned)).chain(rows.iter().cloned()) {
            let mut line = format!("{:<1$}", row[0], widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                // Writing to a string does not fail.
                let _ = write!(line, "  {cell:>width$}");
            }
            table.push_str(line.trim_end());
            table.push('\n');
        }
        for phase in &self.phases {
            for (failure, count) in &phase.errors {
                let _ = writeln!(table, "{}: {count} times {failure}", phase.name);
            }
        }
        table
    }
}

fn row(phase: &Phase) -> [String; 9] {
    let cost = |us: Option<f64>| match us {
        None => "-".to_owned(),
        Some(us) if phase.unit == Unit::Byte => format!("{:.3} ns/byte", us * 1e3),
        Some(us) if us < 10.0 => format!("{us:.2} µs"),
        Some(us) => format!("{us:.1} µs"),
    };
    let rate = match phase.unit {
        Unit::Byte => format!("{:.2} GB", phase.confirmed_per_s / 1e9),
        Unit::Connection | Unit::Handshake | Unit::Request => {
            format!("{:.0}", phase.confirmed_per_s)
        }
    };
    [
        phase.name.clone(),
        rate,
        latency(phase.p50_us),
        latency(phase.p99_us),
        latency(phase.p999_us),
        cost(phase.server_cpu_us_per_unit),
        cost(phase.floor_us),
        phase
            .floor_ratio
            .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.1}")),
        cost(phase.generator_cpu_us_per_unit),
    ]
}

fn latency(us: Option<f64>) -> String {
    match us {
        None => "-".to_owned(),
        Some(us) if us < 1e3 => format!("{us:.0} µs"),
        Some(us) if us < 1e6 => format!("{:.2} ms", us / 1e3),
        Some(us) => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::failure::Failure;

    fn report() -> Report {
        let mut measured = Measured {
            duration: Duration::from_secs(2),
            server_cpu: Some(Duration::from_secs(1)),
            ..Measured::default()
        };
        measured.statistics.confirmed = 10_000;
        measured.statistics.bytes = 2_000_000_000;
        for _ in 0..10_000 {
            measured.statistics.plain.record(Duration::from_micros(500));
        }
        measured.statistics.fail(Failure::TlsTimeout);
        let phases = vec![
            Phase::new("full handshakes", Unit::Handshake, &measured, Some(50.0)),
            Phase::new("bulk", Unit::Byte, &measured, Some(5e-5)),
        ];
        let identity = IdentityCounts {
            checked: 2,
            ..IdentityCounts::default()
        };
        Report {
            phases,
            handshakes: None,
            identity,
            verdict: "held".to_owned(),
            status: Status::Held,
            search: None,
            details: None,
            schema: SCHEMA.to_owned(),
        }
    }

    #[test]
    fn a_kind_gets_the_cpu_time_only_where_it_was_alone() {
        let mut measured = Measured {
            duration: Duration::from_secs(1),
            server_cpu: Some(Duration::from_millis(100)),
            ..Measured::default()
        };
        measured.statistics.confirmed = 1_000;
        measured.statistics.resumed.confirmed = 995;
        measured.statistics.full.confirmed = 5;
        let resumed = Phase::of_kind(Kind::Resumed, &measured, None);
        assert!(resumed.server_cpu_us_per_unit.is_some());
        let full = Phase::of_kind(Kind::Full, &measured, None);
        assert_eq!((full.confirmed, full.server_cpu_us_per_unit), (5, None));
        measured.statistics.resumed.confirmed = 900;
        let resumed = Phase::of_kind(Kind::Resumed, &measured, None);
        assert_eq!(resumed.server_cpu_us_per_unit, None);
    }

    #[test]
    fn json_has_exactly_the_agreed_fields() {
        let json: serde_json::Value = serde_json::to_value(report()).unwrap();
        let keys = |value: &serde_json::Value| {
            value
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<std::collections::BTreeSet<_>>()
        };
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(
            keys(&json),
            set(&["schema", "phases", "identity", "verdict", "status"])
        );
        assert_eq!(
            keys(&json["identity"]),
            set(&[
                "checked",
                "mismatched",
                "resumed_checked",
                "resumed_mismatched"
            ])
        );
        let phase = &json["phases"][0];
        let fields = [
            "name",
            "confirmed",
            "confirmed_per_s",
            "server_cpu_us_per_unit",
            "floor_us",
            "floor_ratio",
            "generator_cpu_us_per_unit",
            "p50_us",
            "p99_us",
            "p999_us",
            "errors",
            "unit",
        ];
        assert_eq!(keys(phase), set(&fields));
        assert_eq!(phase["confirmed_per_s"], 5_000.0);
        assert_eq!(phase["server_cpu_us_per_unit"], 100.0);
        assert_eq!(phase["floor_ratio"], 2.0);
        assert_eq!(phase["errors"]["tls_timeout"], 1);
        assert_eq!(
            json["phases"][1]["server_cpu_us_per_unit"], 5e-4,
            "µs for one byte"
        );
    }

    #[test]
    fn results_read_back_and_others_are_refused() {
        let text = serde_json::to_string(&report()).unwrap();
        let back = Report::parse(&text).unwrap();
        assert_eq!(back.phases.len(), 2);
        assert!(back.details.is_none());
        let other = text.replace("ringgate-loadgen/1", "ringgate-loadgen/2");
        assert!(Report::parse(&other).unwrap_err().contains("loadgen/2"));
        for len in (0..text.len()).filter(|len| text.is_char_boundary(*len)) {
            assert!(Report::parse(&text[..len]).is_err(), "{len}");
        }
        assert!(Report::parse("{}").unwrap_err().contains("no schema"));
        let path = std::env::temp_dir().join("ringgate-no-such-result.json");
        assert!(Report::read(&path).unwrap_err().contains("--json"));
    }

    #[test]
    fn the_table_shows_every_phase_with_its_unit() {
        let table = report().table();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].starts_with("full handshakes") && lines[1].contains("100.0 µs"));
        assert!(
            lines[2].contains("0.500 ns/byte") && lines[2].contains("1.00 GB"),
            "{table}"
        );
        assert_eq!(lines[3], "full handshakes: 1 times tls_timeout");
    }
}
