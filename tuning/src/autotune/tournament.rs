//! Which candidate is better than the present layout, if any: asks for blocks, and decides.
//!
//! # Blocks, pairs and quads
//!
//! A host changes while it is measured: it warms up, others come and go. So a candidate is never
//! compared with something measured long before, but with the present layout beside it: four blocks
//! in the order ABBA, and BAAB the next time. The mean log-ratio of the two pairs in such a quad is
//! one sample; a change of the host that is linear over the quad cancels in it, and quads are far
//! more independent of each other than blocks are.
//!
//! # How it goes
//!
//! 1. A against A: the present layout with itself. Its interval is the noise: the largest ratio that
//!    a layout seems to have to itself here.
//! 2. Rounds: every candidate gets quads, the better half goes on to a round with twice as many. A
//!    round keeps the best by rate, and in its last place the cheapest in CPU. Candidates that hold
//!    the thresholds less often than the present layout beside them stand behind all others.
//! 3. Confirmation: the one that is left, on blocks of its own.
//!
//! # Why the best of twelve is no better than it should be
//!
//! The best of twelve equal ones always looks better than it is (the winner's curse), and twelve
//! tests at 95 % are wrong far more often than one. Therefore the rounds only choose whom to look
//! at. What decides is the confirmation alone: one candidate, chosen before, on fresh blocks; of the
//! blocks that chose it none is counted. Two things are asked of it there, rate and CPU, each with
//! 2.5 % on its side at most; that the interval must lie outside the noise of A against A, and not
//! only off 0, leaves far less.

use serde::Serialize;

use super::interval::{Interval, samples_to_see};
use super::{Block, Failure, Measure, PRESENT};

/// Quads of each stage, before they are multiplied by the effort.
const NOISE_QUADS: usize = 8;
const FIRST_ROUND_QUADS: usize = 1;
const CONFIRMATION_QUADS: usize = 12;

/// Blocks of a quad.
const QUAD_BLOCKS: usize = 4;

/// An adopted layout misses the thresholds in one block of so many at most.
const MISSED_PART: usize = 10;

/// Noise beyond which hardly any layout could be told from another: ln 1.1.
pub const NOISE_WIDE: f64 = 0.095;

/// The effect that a verdict speaks of when it says how many blocks more it would take: ln 1.02.
const SMALL_EFFECT: f64 = 0.0198;

/// What the present layout seems to be to itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Noise {
    pub rate: Interval,
    /// `None` where the server's CPU time is not known.
    pub cpu: Option<Interval>,
}

/// One candidate in one stage, against the present layout beside it; of the rounds before, too,
/// where it is a round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    pub candidate: usize,
    /// Blocks of the candidate that count; the present layout had as many beside it.
    pub blocks: usize,
    /// Blocks of both in which the generator was the limit. Their quads do not count.
    pub limited: usize,
    /// Blocks in which the thresholds did not hold.
    pub missed: usize,
    pub present_missed: usize,
    /// Means over the candidate's blocks that count.
    pub confirmed_per_s: Option<f64>,
    pub p99_us: Option<f64>,
    /// Log-ratios to the present layout; `None` where no quad counts.
    pub rate: Option<Interval>,
    pub cpu: Option<Interval>,
    /// Goes on to the next stage.
    pub goes_on: bool,
}

/// How often a candidate holds the thresholds, the better the less.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Holding {
    /// Where the present layout mostly does not.
    WherePresentDoesNot,
    NoLessOften,
    LessOften,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Round {
    /// Counted from 1; the confirmation is the last one.
    pub number: usize,
    pub confirmation: bool,
    /// Best first.
    pub lines: Vec<Line>,
}

/// Why a candidate is adopted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gain {
    Rate,
    /// Cheaper, and not worse in rate outside of noise.
    Cpu,
    /// Holds the thresholds where the present layout mostly does not.
    Thresholds,
}

/// Why the present layout stays.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    NoCandidate,
    /// Too few blocks in which the generator was not the limit.
    GeneratorLimit,
    /// The candidate misses the thresholds: a rate without them counts for nothing.
    ThresholdsMissed,
    /// Cheaper, but slower outside of noise.
    RateLost,
    /// What was measured could be noise.
    WithinNoise,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Adopt {
        candidate: usize,
        gain: Gain,
    },
    Keep {
        reason: Keep,
        /// Blocks that it would take, beyond those of A against A and of the confirmation that
        /// count, to see an effect of 2 % four times of five.
        more_blocks: Option<usize>,
    },
    /// Came to no end.
    Stopped(String),
}

/// Everything that came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    pub noise: Option<Noise>,
    pub rounds: Vec<Round>,
    /// Candidates that are out, and why.
    pub failed: Vec<(usize, String)>,
    pub verdict: Verdict,
}

/// How many blocks a tournament takes at most.
pub fn blocks_max(candidates: usize, effort: usize) -> usize {
    let (mut quads, mut left, mut each) = (NOISE_QUADS, candidates, FIRST_ROUND_QUADS);
    while left > 1 {
        quads += left * each;
        (left, each) = (left / 2, each * 2);
    }
    if candidates > 0 {
        quads += CONFIRMATION_QUADS;
    }
    quads * QUAD_BLOCKS * effort
}

/// Runs it on the candidates 1 to `candidates`. `effort` multiplies the blocks of every stage;
/// `tell` hears of each round when it ends.
pub fn run(
    measure: &mut dyn Measure,
    candidates: usize,
    effort: usize,
    tell: &mut dyn FnMut(&Round),
) -> Outcome {
    let mut tournament = Tournament {
        measure,
        effort: effort.max(1),
        outcome: Outcome {
            noise: None,
            rounds: Vec::new(),
            failed: Vec::new(),
            verdict: Verdict::Stopped(String::new()),
        },
        tell,
    };
    tournament.outcome.verdict = match tournament.go(candidates) {
        Ok(verdict) => verdict,
        Err(Stopped(reason)) => Verdict::Stopped(reason),
    };
    tournament.outcome
}

struct Stopped(String);

struct Tournament<'a> {
    measure: &'a mut dyn Measure,
    effort: usize,
    outcome: Outcome,
    tell: &'a mut dyn FnMut(&Round),
}

/// The blocks of one quad.
struct Quad {
    present: [Block; 2],
    candidate: [Block; 2],
}

/// A candidate and its quads so far.
struct Contender {
    candidate: usize,
    quads: Vec<Quad>,
    out: bool,
}

impl Contender {
    fn new(candidate: usize) -> Self {
        Self {
            candidate,
            quads: Vec::new(),
            out: false,
        }
    }
}

impl Tournament<'_> {
    fn go(&mut self, candidates: usize) -> Result<Verdict, Stopped> {
        let mut itself = Contender::new(PRESENT);
        for _ in 0..NOISE_QUADS * self.effort {
            self.quad(&mut itself)?;
        }
        let line = Line::of(&itself);
        let Some(rate) = line.rate.filter(|rate| rate.samples > 1) else {
            return Ok(self.keep(Keep::GeneratorLimit, None));
        };
        let noise = Noise {
            rate,
            cpu: line.cpu.filter(|cpu| cpu.samples > 1),
        };
        self.outcome.noise = Some(noise);
        let contenders = (1..=candidates).map(Contender::new).collect();
        let Some(finalist) = self.rounds(contenders, &noise)? else {
            return Ok(self.keep(Keep::NoCandidate, None));
        };
        self.confirm(finalist, &noise)
    }

    /// Halves the contenders until one is left.
    fn rounds(
        &mut self,
        mut contenders: Vec<Contender>,
        noise: &Noise,
    ) -> Result<Option<usize>, Stopped> {
        let mut each = FIRST_ROUND_QUADS * self.effort;
        while contenders.len() > 1 {
            for pass in 0..each {
                // So that none of them is always the first after another one.
                let first = pass % contenders.len();
                let len = contenders.len();
                for at in (first..len).chain(0..first) {
                    self.quad(&mut contenders[at])?;
                }
            }
            contenders.retain(|contender| !contender.out);
            let mut lines: Vec<Line> = contenders.iter().map(Line::of).collect();
            let going = choose(&mut lines, (contenders.len() / 2).max(1), noise);
            self.end_round(lines, false);
            contenders.retain(|contender| going.contains(&contender.candidate));
            each *= 2;
        }
        Ok(contenders.first().map(|contender| contender.candidate))
    }

    fn confirm(&mut self, finalist: usize, noise: &Noise) -> Result<Verdict, Stopped> {
        let mut contender = Contender::new(finalist);
        for _ in 0..CONFIRMATION_QUADS * self.effort {
            self.quad(&mut contender)?;
        }
        let mut line = Line::of(&contender);
        let judged = match contender.out {
            true => Err(Keep::NoCandidate),
            false => line.judge(noise),
        };
        line.goes_on = judged.is_ok();
        let rate = line.rate;
        self.end_round(vec![line], true);
        Ok(match judged {
            Ok(gain) => Verdict::Adopt {
                candidate: finalist,
                gain,
            },
            Err(reason) => self.keep(reason, rate),
        })
    }

    fn keep(&self, reason: Keep, confirmed: Option<Interval>) -> Verdict {
        let noise = self.outcome.noise.map(|noise| noise.rate);
        let known: Vec<Interval> = [noise, confirmed].into_iter().flatten().collect();
        let deviation = known
            .iter()
            .map(|interval| interval.deviation)
            .filter(|deviation| deviation.is_finite())
            .reduce(f64::max);
        let needed = deviation.and_then(|deviation| samples_to_see(SMALL_EFFECT, deviation));
        // Quads that do not count, or that never were, have shown nothing.
        let samples = |had: Option<Interval>| had.map_or(0, |interval| interval.samples);
        let lacks = |needed: usize| {
            needed.saturating_sub(samples(noise)) + needed.saturating_sub(samples(confirmed))
        };
        Verdict::Keep {
            reason,
            more_blocks: needed.map(|needed| QUAD_BLOCKS * lacks(needed)),
        }
    }

    fn end_round(&mut self, lines: Vec<Line>, confirmation: bool) {
        let round = Round {
            number: self.outcome.rounds.len() + 1,
            confirmation,
            lines,
        };
        (self.tell)(&round);
        self.outcome.rounds.push(round);
    }

    /// Four blocks. A candidate that fails is out, and gets no more of them.
    fn quad(&mut self, contender: &mut Contender) -> Result<(), Stopped> {
        if contender.out {
            return Ok(());
        }
        let order = match contender.quads.len() % 2 {
            0 => [false, true, true, false],
            _ => [true, false, false, true],
        };
        let (mut present, mut candidate) = (Vec::new(), Vec::new());
        for is_candidate in order {
            let (of, to) = match is_candidate {
                true => (contender.candidate, &mut candidate),
                false => (PRESENT, &mut present),
            };
            match self.measure.block(of).and_then(possible) {
                Ok(block) => to.push(block),
                Err(Failure::Candidate(reason)) if of != PRESENT => {
                    self.outcome.failed.push((of, reason));
                    contender.out = true;
                    return Ok(());
                }
                Err(Failure::Candidate(reason)) => {
                    return Err(Stopped(format!("the present layout: {reason}")));
                }
                Err(Failure::Stop(reason)) => return Err(Stopped(reason)),
            }
        }
        contender.quads.push(Quad {
            present: [present[0], present[1]],
            candidate: [candidate[0], candidate[1]],
        });
        Ok(())
    }
}

/// Logarithms need something.
fn possible(block: Block) -> Result<Block, Failure> {
    let positive = |value: f64| value.is_finite() && value > 0.0;
    if !block.limited && !positive(block.confirmed_per_s) {
        return Err(Failure::Candidate("nothing was confirmed".to_owned()));
    }
    Ok(Block {
        server_cpu_us_per_unit: block.server_cpu_us_per_unit.filter(|cpu| positive(*cpu)),
        ..block
    })
}

/// Sorts `lines`, best first, marks those that go on, and names them.
fn choose(lines: &mut [Line], places: usize, noise: &Noise) -> Vec<usize> {
    let reach = noise.rate.reach();
    let mean = |interval: Option<Interval>, without: f64| interval.map_or(without, |it| it.mean);
    if lines.is_empty() {
        return Vec::new();
    }
    lines.sort_by(|a, b| {
        let rate = |line: &Line| mean(line.rate, f64::NEG_INFINITY);
        let holding = a.holding().cmp(&b.holding());
        holding.then(rate(b).total_cmp(&rate(a)))
    });
    // Who may go on for being cheap: not slower outside of noise, and not missing more.
    let cheapest = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.holding() != Holding::LessOften)
        .filter(|(_, line)| line.rate.is_some_and(|rate| rate.mean >= -reach))
        .filter_map(|(at, line)| Some((at, line.cpu?.mean)))
        .min_by(|(_, a), (_, b)| a.total_cmp(b));
    if let Some((at, cpu)) = cheapest.filter(|(at, _)| *at >= places) {
        let last = places - 1;
        let by_rate = lines[last].holding() == Holding::WherePresentDoesNot
            || mean(lines[last].rate, 0.0) > reach;
        let worth = noise.cpu.is_some_and(|noise| cpu < -noise.reach());
        // One place alone goes to the rate where that is above noise.
        if places > 1 || (worth && !by_rate) {
            lines[last..=at].rotate_right(1);
        }
    }
    for line in lines.iter_mut().take(places) {
        line.goes_on = true;
    }
    let going = lines.iter().filter(|line| line.goes_on);
    going.map(|line| line.candidate).collect()
}

impl Line {
    #[expect(clippy::cast_precision_loss, reason = "blocks are few")]
    fn of(contender: &Contender) -> Self {
        let blocks = |quad: &Quad| [quad.present, quad.candidate].concat();
        let quads = &contender.quads;
        let counted: Vec<&Quad> = quads
            .iter()
            .filter(|quad| blocks(quad).iter().all(|block| !block.limited))
            .collect();
        let ln = |value: fn(&Block) -> Option<f64>, blocks: &[Block; 2]| {
            Some((value(&blocks[0])?.ln() + value(&blocks[1])?.ln()) / 2.0)
        };
        let ratios = |value: fn(&Block) -> Option<f64>| {
            let samples = counted
                .iter()
                .filter_map(|quad| Some(ln(value, &quad.candidate)? - ln(value, &quad.present)?));
            Interval::of(&samples.collect::<Vec<_>>())
        };
        let mean = |value: fn(&Block) -> Option<f64>| {
            let values: Vec<f64> = counted
                .iter()
                .flat_map(|quad| quad.candidate.iter().filter_map(value))
                .collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let missed = |blocks: fn(&Quad) -> &[Block; 2]| {
            let blocks = counted.iter().flat_map(|quad| blocks(quad));
            blocks.filter(|block| !block.held).count()
        };
        Self {
            candidate: contender.candidate,
            blocks: 2 * counted.len(),
            limited: quads
                .iter()
                .flat_map(blocks)
                .filter(|block| block.limited)
                .count(),
            missed: missed(|quad| &quad.candidate),
            present_missed: missed(|quad| &quad.present),
            confirmed_per_s: mean(|block| Some(block.confirmed_per_s)),
            p99_us: mean(|block| block.p99_us),
            rate: ratios(|block| Some(block.confirmed_per_s)),
            cpu: ratios(|block| block.server_cpu_us_per_unit),
            goes_on: false,
        }
    }

    fn holding(&self) -> Holding {
        let mostly_missed = self.present_missed * 2 > self.blocks;
        if self.missed > self.present_missed {
            Holding::LessOften
        } else if mostly_missed && self.holds() {
            Holding::WherePresentDoesNot
        } else {
            Holding::NoLessOften
        }
    }

    fn holds(&self) -> bool {
        self.missed * MISSED_PART <= self.blocks
    }

    fn judge(&self, noise: &Noise) -> Result<Gain, Keep> {
        let Some(rate) = self.rate.filter(|rate| rate.samples > 1) else {
            return Err(Keep::GeneratorLimit);
        };
        match self.holding() {
            Holding::LessOften => return Err(Keep::ThresholdsMissed),
            Holding::NoLessOften if !self.holds() => return Err(Keep::ThresholdsMissed),
            Holding::WherePresentDoesNot => return Ok(Gain::Thresholds),
            Holding::NoLessOften => {}
        }
        if rate.low > noise.rate.reach() {
            return Ok(Gain::Rate);
        }
        let cheaper = self
            .cpu
            .zip(noise.cpu)
            .is_some_and(|(cpu, noise)| cpu.high < -noise.reach());
        match cheaper {
            true if rate.mean < -noise.rate.reach() => Err(Keep::RateLost),
            true => Ok(Gain::Cpu),
            false => Err(Keep::WithinNoise),
        }
    }
}
