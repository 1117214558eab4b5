//! The table of counts that is kept in the repository.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::works::WORKS;

/// Percent that a count may differ. Two counts of the same program lie far less apart.
const CHANGE_MAX: f64 = 3.0;

const HEAD: &str = "\
# Instructions of one piece of work on x86-64 as valgrind shows it; see main.rs.
# Written by: cargo bench --bench instructions -- --accept
";

/// Instructions by the name of the work.
#[derive(Debug, Default)]
pub struct Table(BTreeMap<String, u64>);

impl Table {
    pub fn read() -> Result<Self, String> {
        let path = path();
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}; write it with --accept", path.display()))?;
        let mut table = Self::default();
        for (line, text) in (1..).zip(text.lines()) {
            if text.starts_with('#') || text.trim().is_empty() {
                continue;
            }
            let entry = text.trim_end().rsplit_once(' ');
            let count = entry.and_then(|(name, count)| Some((name, count.parse().ok()?)));
            let Some((name, count)) = count else {
                return Err(format!(
                    "{}:{line}: {text:?} is no name and number; write it with --accept",
                    path.display()
                ));
            };
            table.set(name.trim_end(), count);
        }
        Ok(table)
    }

    pub fn write(&self) -> Result<(), String> {
        let lines = WORKS.iter().filter_map(|work| {
            let count = self.get(work.name)?;
            Some(format!("{:<38} {count:>10}\n", work.name))
        });
        let text = lines.fold(HEAD.to_owned(), |text, line| text + &line);
        print!("{text}");
        std::fs::write(path(), text).map_err(|error| format!("{}: {error}", path().display()))
    }

    pub fn set(&mut self, name: &str, count: u64) {
        self.0.insert(name.to_owned(), count);
    }

    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// Prints both counts of everything.
    ///
    /// # Errors
    ///
    /// Everything that differs by more than [`CHANGE_MAX`] percent or is in one table alone.
    pub fn compare(&self, counted: &Self) -> Result<(), String> {
        let mut faults = Vec::new();
        for name in self.0.keys().filter(|name| counted.get(name).is_none()) {
            faults.push(format!(
                "\"{name}\" is in the table and is not counted any more"
            ));
        }
        for work in WORKS {
            let (name, now) = (work.name, counted.get(work.name).unwrap_or_default());
            let Some(before) = self.get(name) else {
                faults.push(format!("\"{name}\" is not in the table"));
                continue;
            };
            let change = percent(now, before);
            println!("{name:<38} {before:>10} -> {now:>10}  {change:>+6.2} %");
            if change.abs() > CHANGE_MAX {
                faults.push(format!(
                    "\"{name}\" took {before} instructions and takes {now}: {change:+.2} %"
                ));
            }
        }
        if faults.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{}\nwhere that is meant, accept it: cargo bench --bench instructions -- --accept",
            faults.join("\n")
        ))
    }
}

/// How much more `now` is than `before`.
#[allow(clippy::cast_precision_loss, reason = "for people")]
pub fn percent(now: u64, before: u64) -> f64 {
    (now as f64 / before as f64 - 1.0) * 100.0
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/table.txt")
}
