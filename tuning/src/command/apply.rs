//! `ringgate-tune apply`.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use ringgate_tune::apply::{Applied, Failed, apply, dry_run};
use ringgate_tune::confirm::{Answer, Waiter};
use ringgate_tune::kernel::{Kernel, Knobs};

use super::{Roots, StateFolder, fail, layout, print};

/// The exit code where something could not be put back.
const LEFT: u8 = 3;

/// Longer than this nobody waits to be locked out.
const CONFIRM_WITHIN_MAX: Duration = Duration::from_secs(3600);

#[derive(Args)]
pub struct Apply {
    /// The layout, as `ringgate-tune plan` writes it.
    #[arg(value_name = "LAYOUT")]
    layout: PathBuf,
    /// Print what would be done; write nothing at all.
    #[arg(long)]
    dry_run: bool,
    /// Put everything back unless `ringgate-tune confirm` comes from a new session in time, as in
    /// 120s.
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "dry_run")]
    confirm_within: Option<Duration>,
    #[command(flatten)]
    state: StateFolder,
    #[command(flatten)]
    roots: Roots,
}

impl Apply {
    pub fn run(self) -> ExitCode {
        let layout = match layout(&self.layout) {
            Ok(layout) => layout,
            Err(code) => return code,
        };
        let (host, folder) = (self.roots.host(), self.state.state);
        let knobs = Knobs {
            host: &host,
            access: &Kernel,
        };
        if self.dry_run {
            return match dry_run(&knobs, &layout, &folder) {
                Ok(text) => print(&text),
                Err(text) => {
                    print(&text);
                    ExitCode::FAILURE
                }
            };
        }
        // Before the first write: a session that ends in between must not end this.
        let waiting = self
            .confirm_within
            .map(|within| Ok((Waiter::new()?, within)));
        let waiting: io::Result<_> = waiting.transpose();
        let waiting = match waiting {
            Ok(waiting) => waiting,
            Err(error) => return fail(&format_args!("signals cannot be caught: {error}")),
        };
        let mut say = |script: &str| {
            let mut out = io::stdout().lock();
            let said = out.write_all(script.as_bytes()).and_then(|()| out.flush());
            said.map_err(|error| format!("the undo script could not be printed: {error}"))
        };
        match apply(knobs, &layout, &folder, &mut say) {
            Err(failed) => not_applied(&failed),
            Ok(applied) => {
                tell_applied(&applied);
                match waiting {
                    Some((waiter, within)) => until_confirmed(applied, &waiter, within),
                    None => ExitCode::SUCCESS,
                }
            }
        }
    }
}

fn until_confirmed(applied: Applied<'_>, waiter: &Waiter, within: Duration) -> ExitCode {
    let waited = waiter.listen(applied.folder()).and_then(|waiting| {
        tell(&format_args!(
            "waits {within:?} for `ringgate-tune confirm` from a new session"
        ));
        waiting.wait(within)
    });
    let problem = match waited {
        Ok(Answer::Confirmed) => {
            tell(&"confirmed");
            return ExitCode::SUCCESS;
        }
        Ok(Answer::TooLate) => format!("not confirmed within {within:?}"),
        Ok(Answer::Interrupted) => "interrupted before it was confirmed".to_owned(),
        Err(error) => format!("cannot wait to be confirmed: {error}"),
    };
    not_applied(&applied.take_back(vec![problem]))
}

fn tell_applied(applied: &Applied<'_>) {
    applied.notes.iter().for_each(|note| tell(note));
    match applied.written {
        0 => tell(&"everything is as the layout says already"),
        1 => tell(&"applied: 1 value written"),
        count => tell(&format_args!("applied: {count} values written")),
    }
}

fn not_applied(failed: &Failed) -> ExitCode {
    failed.problems.iter().for_each(|problem| tell(problem));
    if failed.left.is_empty() {
        tell(&"nothing is changed");
        return ExitCode::FAILURE;
    }
    for left in &failed.left {
        tell(&format_args!("could not be put back: {left}"));
    }
    tell(&"`ringgate-tune revert` tries it again");
    ExitCode::from(LEFT)
}

/// To standard error; where that is gone, to nobody.
fn tell(text: &dyn Display) {
    let _ = writeln!(io::stderr(), "ringgate-tune: {text}");
}

/// A time such as `120s`, `2m` or `500ms`.
fn time(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000)];
    let time = units.into_iter().find_map(|(unit, ms)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(ms).map(Duration::from_millis)
    });
    match time {
        Some(time) if (Duration::from_millis(1)..=CONFIRM_WITHIN_MAX).contains(&time) => Ok(time),
        Some(_) => Err("give 1ms to 60m".to_owned()),
        None => Err("give a time such as 120s, 2m or 500ms".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_an_end() {
        for (text, ms) in [
            ("120s", 120_000),
            ("2m", 120_000),
            ("500ms", 500),
            ("60m", 3_600_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for odd in [
            "",
            "s",
            "5",
            "0s",
            "61m",
            "-1s",
            "1h",
            "99999999999999999999s",
        ] {
            assert!(time(odd).is_err(), "{odd}");
        }
    }
}
