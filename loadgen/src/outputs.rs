//! The files that a run or a search was asked to write.

use std::fs::OpenOptions;
use std::path::Path;

use crate::args::RunArgs;
use crate::report::Report;
use crate::run::Measured;
use crate::{csv, hlog, page};

/// Refuses files that cannot be written, before any load is made for them.
pub fn check(args: &RunArgs) -> Result<(), String> {
    for path in [&args.json, &args.csv, &args.hlog, &args.html]
        .into_iter()
        .flatten()
    {
        may_write(path).map_err(|error| {
            format!(
                "{}: {error}; name a file that can be written",
                path.display()
            )
        })?;
    }
    Ok(())
}

/// Changes nothing that is there, and leaves nothing behind.
fn may_write(path: &Path) -> std::io::Result<()> {
    let is_new = !path.exists();
    OpenOptions::new().append(true).create(true).open(path)?;
    if is_new {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// Writes all of them that can be written.
pub fn write(args: &RunArgs, report: &Report, measured: Option<&Measured>) -> Result<(), String> {
    let details = report.details.as_ref();
    let results = [
        args.json.as_ref().map(|path| report.write_json(path)),
        args.html.as_ref().map(|path| page::write(path, report)),
        args.csv
            .as_ref()
            .zip(details)
            .map(|(path, details)| csv::write(path, &details.series)),
        args.hlog
            .as_ref()
            .zip(measured)
            .map(|(path, measured)| hlog::write(path, &hlog::entries(measured))),
    ];
    let failed: Vec<String> = results
        .into_iter()
        .flatten()
        .filter_map(Result::err)
        .collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("\n"))
    }
}
