//! The table of an autotune, and its one sentence of verdict.

use std::fmt::{self, Display, Formatter};

use super::interval::Interval;
use super::tournament::{Gain, Keep, Line, NOISE_WIDE, Noise, Outcome, Round, Verdict};

/// Shows what came of it; `names` are the candidates', the present layout's first.
#[derive(Debug)]
pub struct Report<'a> {
    pub names: &'a [String],
    pub outcome: &'a Outcome,
}

/// Shows one round.
#[derive(Debug)]
pub struct RoundTable<'a> {
    pub names: &'a [String],
    pub round: &'a Round,
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(noise) = &self.outcome.noise {
            write!(
                f,
                "noise, A against A: rate ±{}",
                percent(noise.rate.reach())
            )?;
            match noise.cpu {
                Some(cpu) => writeln!(f, ", server CPU ±{}", percent(cpu.reach()))?,
                None => writeln!(f, ", server CPU not known")?,
            }
        }
        for round in &self.outcome.rounds {
            let names = self.names;
            write!(f, "\n{}", RoundTable { names, round })?;
        }
        for (candidate, reason) in &self.outcome.failed {
            writeln!(f, "\n{} is out: {reason}", name(self.names, *candidate))?;
        }
        writeln!(f, "\n{}", self.verdict())
    }
}

impl Display for RoundTable<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let what = match self.round.confirmation {
            true => "confirmation, fresh blocks",
            false => "against the present layout",
        };
        writeln!(f, "round {}: {what}", self.round.number)?;
        let names = self
            .round
            .lines
            .iter()
            .map(|line| name(self.names, line.candidate).len());
        let wide = names.max().unwrap_or_default().max("candidate".len());
        writeln!(
            f,
            "  {:<wide$} {:>6} {:>11} {:>10} {:>9} {:>18} {:>9} {:>18} {:>7}",
            "candidate", "blocks", "confirmed/s", "p99", "rate", "95 %", "CPU", "95 %", "missed"
        )?;
        for line in &self.round.lines {
            self.line(f, line, wide)?;
        }
        Ok(())
    }
}

impl RoundTable<'_> {
    fn line(&self, f: &mut Formatter<'_>, line: &Line, wide: usize) -> fmt::Result {
        let rate = line.confirmed_per_s.map(|rate| format!("{rate:.0}"));
        let p99 = line.p99_us.map(|us| format!("{:.2} ms", us / 1e3));
        let unknown = || "-".to_owned();
        write!(
            f,
            "  {:<wide$} {:>6} {:>11} {:>10} {:>9} {:>18} {:>9} {:>18} {:>7}",
            name(self.names, line.candidate),
            line.blocks,
            rate.unwrap_or_else(unknown),
            p99.unwrap_or_else(unknown),
            line.rate.map_or_else(unknown, |it| change(it.mean)),
            line.rate.map_or_else(unknown, bounds),
            line.cpu.map_or_else(unknown, |it| change(it.mean)),
            line.cpu.map_or_else(unknown, bounds),
            format!("{}:{}", line.missed, line.present_missed),
        )?;
        if line.limited > 0 {
            write!(f, "  generator at its limit in {} blocks", line.limited)?;
        }
        writeln!(f, "{}", if line.goes_on { "  *" } else { "" })
    }
}

impl Report<'_> {
    /// One sentence, or a few where something has to be said of how it came about.
    pub fn verdict(&self) -> String {
        match &self.outcome.verdict {
            Verdict::Stopped(reason) => format!("no verdict: {reason}"),
            Verdict::Adopt { candidate, gain } => self.adopted(*candidate, *gain),
            Verdict::Keep {
                reason,
                more_blocks,
            } => self.kept(*reason, *more_blocks),
        }
    }

    fn adopted(&self, candidate: usize, gain: Gain) -> String {
        let name = name(self.names, candidate);
        let line = self.confirmed();
        let noise = self.outcome.noise;
        let of = |interval: Option<Interval>, noise: Option<Interval>| {
            interval.zip(noise).map_or_else(String::new, |(it, noise)| {
                let (mean, bounds) = (change(it.mean), bounds(it));
                format!(
                    "{mean} ({bounds}), outside of the noise of ±{}",
                    percent(noise.reach())
                )
            })
        };
        let rate = of(line.and_then(|it| it.rate), noise.map(|it| it.rate));
        let cpu = of(line.and_then(|it| it.cpu), noise.and_then(|it| it.cpu));
        match gain {
            Gain::Rate => format!("adopt {name}: confirmed a second {rate}"),
            Gain::Cpu => format!("adopt {name}: as fast, and server CPU for each {cpu}"),
            Gain::Thresholds => {
                let held = |missed: usize| line.map_or(0, |line| line.blocks - missed);
                format!(
                    "adopt {name}: it held the thresholds in {} of {} blocks, the present layout \
                     in {}",
                    held(line.map_or(0, |line| line.missed)),
                    line.map_or(0, |line| line.blocks),
                    held(line.map_or(0, |line| line.present_missed)),
                )
            }
        }
    }

    fn kept(&self, reason: Keep, more_blocks: Option<usize>) -> String {
        let best = self.confirmed();
        let about = |line: &Line| {
            let rate = line.rate.map_or_else(String::new, |rate| {
                format!(
                    ", confirmed a second {} ({})",
                    change(rate.mean),
                    bounds(rate)
                )
            });
            let cpu = line.cpu.map_or_else(String::new, |cpu| {
                format!(
                    ", server CPU for each {} ({})",
                    change(cpu.mean),
                    bounds(cpu)
                )
            });
            format!("{}{rate}{cpu}", name(self.names, line.candidate))
        };
        let best = best.map_or_else(|| "no candidate".to_owned(), about);
        let why = match reason {
            Keep::NoCandidate => "no candidate came to its end".to_owned(),
            Keep::GeneratorLimit => {
                "the generator was the limit in nearly every block, which says \
                 nothing of layouts; give it CPUs of its own, or ask for a lower rate"
                    .to_owned()
            }
            Keep::ThresholdsMissed => format!(
                "the best was {best}, but it misses the thresholds, and a rate without them counts \
                 for nothing"
            ),
            Keep::RateLost => format!("the best was {best}: cheaper, but slower outside of noise"),
            Keep::WithinNoise => format!("the best was {best}, which could be noise"),
        };
        let mut text = format!("keep what you have: {why}");
        if let Some(Noise { rate, .. }) = self.outcome.noise {
            text += &format!("; noise is ±{}", percent(rate.reach()));
            if rate.reach() > NOISE_WIDE {
                text += ", so wide that hardly any layout could be told from another here: take \
                         longer blocks, and leave the host alone meanwhile";
            }
            text += &match more_blocks {
                Some(0) => "; an effect of 2 % would have been seen".to_owned(),
                Some(more) => format!("; to see an effect of 2 % would take {more} blocks more"),
                None => "; no number of blocks would show an effect of 2 %".to_owned(),
            };
        }
        text
    }

    fn confirmed(&self) -> Option<&Line> {
        let round = self.outcome.rounds.last().filter(|it| it.confirmation)?;
        round.lines.first()
    }
}

fn name(names: &[String], candidate: usize) -> &str {
    names.get(candidate).map_or("?", String::as_str)
}

/// A log-ratio as a change.
fn change(log: f64) -> String {
    format!("{:+.1} %", log.exp_m1() * 1e2)
}

/// The size of a log-ratio.
fn percent(log: f64) -> String {
    format!("{:.1} %", log.exp_m1() * 1e2)
}

fn bounds(interval: Interval) -> String {
    match interval.low.is_finite() {
        true => format!("{} to {}", change(interval.low), change(interval.high)),
        false => "-".to_owned(),
    }
}
