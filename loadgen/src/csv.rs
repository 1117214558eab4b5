//! A run as a table for spreadsheets, a line for each interval.

use std::fmt::Write as _;
use std::path::Path;

use crate::details::Row;

/// Writes it.
pub fn write(path: &Path, rows: &[Row]) -> Result<(), String> {
    std::fs::write(path, text(rows)).map_err(|error| {
        format!(
            "{}: {error}; name a file that can be written",
            path.display()
        )
    })
}

fn text(rows: &[Row]) -> String {
    let mut text = "second,begun,confirmed,full,resumed,failed,bytes,p50_us,p99_us,max_us,\
                    generator_cpu_s,server_cpu_s\n"
        .to_owned();
    let cell = |value: Option<f64>, digits: usize| {
        value.map_or_else(String::new, |value| format!("{value:.digits$}"))
    };
    for row in rows {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:.3},{},{},{},{},{},{},{},{},{},{:.6},{}",
            row.at_s,
            row.begun,
            row.confirmed,
            row.full,
            row.resumed,
            row.failed,
            row.bytes,
            cell(row.p50_us, 1),
            cell(row.p99_us, 1),
            cell(row.max_us, 1),
            row.generator_cpu_s,
            cell(row.server_cpu_s, 6)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_a_cell_for_each_head() {
        let rows = [
            Row {
                confirmed: 7,
                p99_us: Some(12.34),
                ..Row::default()
            },
            Row {
                at_s: 1.0,
                server_cpu_s: Some(0.5),
                ..Row::default()
            },
        ];
        let text = text(&rows);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
        let column = |name: &str| lines[0].iter().position(|head| *head == name).unwrap();
        assert_eq!(lines[1][column("p99_us")], "12.3");
        assert_eq!(lines[1][column("server_cpu_s")], "");
        assert_eq!(lines[2][column("server_cpu_s")], "0.500000");
    }
}
