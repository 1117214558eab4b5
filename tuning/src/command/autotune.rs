//! `ringgate-tune autotune`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use ringgate_tune::autotune::Measure;
use ringgate_tune::autotune::candidates::{can_busy_poll, candidates};
use ringgate_tune::autotune::process::{Bench, Deadlines, Programs};
use ringgate_tune::autotune::record::{EFFORT_MAX, Record, Recorder, Replay};
use ringgate_tune::autotune::report::Report;
use ringgate_tune::autotune::tournament::{Outcome, Round, Verdict, blocks_max, run};
use ringgate_tune::host::Host;
use ringgate_tune::inspection::Inspection;
use ringgate_tune::layout::Layout;
use ringgate_tune::plan::{PlanOptions, plan};
use ringgate_tune::units;

use super::{fail, own_affinity, print};

/// As shells have it for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// What starting and ending the programs adds to a block, about.
const BESIDE_BLOCK: Duration = Duration::from_millis(1500);

#[derive(Args)]
pub struct Autotune {
    /// The terminator's configuration.
    #[arg(short, long, value_name = "FILE", required_unless_present = "replay")]
    config: Option<PathBuf>,
    /// The present layout [default: what `ringgate run` does without one].
    #[arg(long, value_name = "FILE")]
    layout: Option<PathBuf>,
    /// The terminator [default: `ringgate` beside this program, else in PATH].
    #[arg(long, value_name = "PROGRAM")]
    ringgate: Option<PathBuf>,
    /// The load generator [default: `ringgate-loadgen` beside this program, else in PATH].
    #[arg(long, value_name = "PROGRAM")]
    loadgen: Option<PathBuf>,
    /// Measured time of each block.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = units::duration)]
    block: Duration,
    /// So many times as many blocks, to see smaller effects.
    #[arg(long, value_name = "N", default_value = "1", value_parser = effort)]
    effort: usize,
    /// Write everything measured, with the outcome, to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the layout here if one is adopted.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Measure nothing: judge what --json wrote.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "layout", "load"])]
    replay: Option<PathBuf>,
    /// Arguments of `ringgate-loadgen run`; `--threshold p99<20ms` among them is the SLO.
    #[arg(last = true, value_name = "LOAD", required_unless_present = "replay")]
    load: Vec<String>,
}

impl Autotune {
    pub fn run(self) -> ExitCode {
        match self.tune() {
            Ok(code) => code,
            Err(problem) => fail(&problem),
        }
    }

    fn tune(self) -> Result<ExitCode, String> {
        if let Some(file) = &self.replay {
            let record = Record::read(file)?;
            let outcome = judge(&mut Replay::new(&record), &record.clone(), record.effort);
            return self.tell(&record, &outcome);
        }
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, stop.clone())
                .map_err(|error| format!("signal {signal} cannot be heard: {error}"))?;
        }
        let mut record = Record::new(self.effort, &self.candidates()?);
        let layouts = record.candidates.iter().map(|it| it.layout.clone());
        let programs = Programs {
            ringgate: program(self.ringgate.as_ref(), "ringgate"),
            loadgen: program(self.loadgen.as_ref(), "ringgate-loadgen"),
            config: self.config.clone().unwrap_or_default(),
            load: load(&self.load)?,
            block: self.block,
        };
        let mut bench = Bench::new(programs, Deadlines::default(), layouts.collect(), stop)?;
        let announced = record.clone();
        self.announce(&announced);
        let outcome = judge(
            &mut Recorder {
                measure: &mut bench,
                record: &mut record,
            },
            &announced,
            self.effort,
        );
        for note in &bench.notes {
            eprintln!("ringgate-tune: {note}");
        }
        // Its files are gone before this ends.
        drop(bench);
        self.tell(&record, &outcome)
    }

    /// The present layout, and those to try.
    fn candidates(&self) -> Result<Vec<ringgate_tune::autotune::candidates::Candidate>, String> {
        let here = Inspection::read(&Host::default(), own_affinity());
        let present = match &self.layout {
            // As `ringgate run` plans without a layout: nobody has moved interrupts.
            None => {
                let options = PlanOptions {
                    place_interrupts: false,
                    ..PlanOptions::default()
                };
                plan(&here, &options)
            }
            Some(file) => {
                let layout = Layout::read(file).map_err(|errors| {
                    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                    lines.join("\n")
                })?;
                let misfits = layout.misfits(&here);
                if !misfits.is_empty() {
                    return Err(format!("{}: {}", file.display(), misfits.join("\n")));
                }
                layout
            }
        };
        let release = Host::default().proc.join("sys/kernel/osrelease");
        let release = fs::read_to_string(release).unwrap_or_default();
        Ok(candidates(&here, &present, can_busy_poll(release.trim())))
    }

    fn announce(&self, record: &Record) {
        let blocks = blocks_max(record.candidates.len() - 1, self.effort);
        let seconds = (self.block + BESIDE_BLOCK).as_secs_f64();
        let blocks_f = u32::try_from(blocks).map_or(f64::MAX, f64::from);
        eprintln!(
            "{blocks} blocks at most, about {:.0} min and what the load warms up",
            (blocks_f * seconds / 60.0).ceil()
        );
        for candidate in &record.candidates {
            eprintln!("  {:<22} {}", candidate.name, candidate.why);
        }
    }

    /// Prints the report, and writes what was asked for.
    fn tell(&self, record: &Record, outcome: &Outcome) -> Result<ExitCode, String> {
        let names = &names(record);
        let mut text = Report { names, outcome }.to_string();
        if let Some(file) = &self.json {
            write(file, &record.to_json(outcome))?;
        }
        if let Some(file) = &self.out {
            let adopted = match outcome.verdict {
                Verdict::Adopt { candidate, .. } => record.candidates.get(candidate),
                _ => None,
            };
            match adopted {
                Some(entry) => {
                    let head = format!("# {}: {}\n", entry.name, entry.why);
                    write(file, &(head + &entry.layout))?;
                    text += &format!("{}: its layout\n", file.display());
                }
                None => text += &format!("{}: not written\n", file.display()),
            }
        }
        let printed = print(&text);
        Ok(match &outcome.verdict {
            Verdict::Stopped(reason) if reason == "interrupted" => ExitCode::from(INTERRUPTED),
            Verdict::Stopped(_) => ExitCode::FAILURE,
            Verdict::Adopt { .. } | Verdict::Keep { .. } => printed,
        })
    }
}

fn judge(measure: &mut dyn Measure, record: &Record, effort: usize) -> Outcome {
    let names = names(record);
    let mut tell = |round: &Round| {
        let going = round.lines.iter().filter(|line| line.goes_on);
        let going: Vec<&str> = going.map(|line| names[line.candidate].as_str()).collect();
        match round.confirmation {
            true => eprintln!("round {}: the confirmation has ended", round.number),
            false => eprintln!("round {}: on go {}", round.number, going.join(", ")),
        }
    };
    run(measure, record.candidates.len() - 1, effort, &mut tell)
}

fn names(record: &Record) -> Vec<String> {
    let candidates = record.candidates.iter();
    candidates.map(|candidate| candidate.name.clone()).collect()
}

/// The named program, or the one beside this one, or the one in PATH.
fn program(named: Option<&PathBuf>, name: &str) -> PathBuf {
    named.cloned().unwrap_or_else(|| {
        let own = std::env::current_exe().ok();
        let beside = own.and_then(|own| Some(own.parent()?.join(name)));
        let beside = beside.filter(|beside| beside.is_file());
        beside.unwrap_or_else(|| name.into())
    })
}

/// Arguments of the load, without those that belong to a block.
fn load(arguments: &[String]) -> Result<Vec<String>, String> {
    const OURS: [(&str, &str); 6] = [
        ("--duration", "--block says how long a block measures"),
        ("-d", "--block says how long a block measures"),
        ("--ramp", "a block has one rate"),
        (
            "--json",
            "`--json` before the `--` writes everything measured",
        ),
        ("--server-pid", "each block has a server of its own"),
        ("--start-at", "blocks begin one after the other"),
    ];
    let mut kept = Vec::new();
    for argument in arguments {
        let is = |name: &str| match name.starts_with("--") {
            true => argument.split('=').next() == Some(name),
            false => argument.starts_with(name),
        };
        if let Some((name, why)) = OURS.iter().find(|(name, _)| is(name)) {
            return Err(format!("leave out {name} after the `--`: {why}"));
        }
        // Given to every block already.
        if argument != "-q" && argument != "--quiet" {
            kept.push(argument.clone());
        }
    }
    match kept.first().map(String::as_str) {
        Some("run") => Err("leave out `run` after the `--`: what follows it is enough".to_owned()),
        _ => Ok(kept),
    }
}

fn effort(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(effort) if (1..=EFFORT_MAX).contains(&effort) => Ok(effort),
        _ => Err(format!(
            "`{text}`: expected a number from 1 to {EFFORT_MAX}"
        )),
    }
}

/// Whole or not at all: what was there stays until the new text is complete.
fn write(file: &Path, text: &str) -> Result<(), String> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = file.with_file_name(name);
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, file))
        .map_err(|error| {
            let _ = fs::remove_file(&new);
            format!(
                "{}: {error}; name a file that can be written",
                file.display()
            )
        })
}
