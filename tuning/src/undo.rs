//! Back to what was: only what is still as we set it.

use crate::kernel::{Knobs, Problem, ProblemKind};
use crate::knob::Knob;

/// What to put back.
#[derive(Clone, Debug)]
pub struct Undo {
    pub knob: Knob,
    pub old: String,
    /// Values that we may have set; any other one is somebody else's.
    pub ours: Vec<String>,
}

/// How it went with one knob.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    Restored,
    /// The old value was there already.
    Already,
    /// Somebody else set it to this meanwhile; left alone.
    Foreign(String),
    /// It went with its device or queue; there is nothing to put back.
    Gone,
    Failed(Problem),
}

/// Puts everything back, the last first. Outcomes are in the order of `items`.
pub fn undo(knobs: &Knobs<'_>, items: &[Undo]) -> Vec<Outcome> {
    let outcomes = items.iter().rev().map(|item| put_back(knobs, item));
    let mut outcomes: Vec<Outcome> = outcomes.collect();
    outcomes.reverse();
    let queues = |wanted: fn(&Outcome) -> bool| {
        let mut pairs = items.iter().zip(&outcomes);
        pairs.any(|(item, outcome)| item.knob.is_queues() && wanted(outcome))
    };
    let restored = queues(|outcome| *outcome == Outcome::Restored);
    let failed = queues(|outcome| matches!(outcome, Outcome::Failed(_)));
    if restored {
        settle(knobs, items, &mut outcomes);
    }
    if failed {
        // What went with its queue comes back with it: not given up yet.
        for (item, outcome) in items.iter().zip(&mut outcomes) {
            if *outcome == Outcome::Gone {
                let problem = knobs.read(&item.knob).err();
                *outcome = problem.map_or(Outcome::Gone, Outcome::Failed);
            }
        }
    }
    outcomes
}

/// A count of queues that comes back brings queues and interrupts back, and drivers set some of
/// them anew: what was ours is put back once more.
fn settle(knobs: &Knobs<'_>, items: &[Undo], outcomes: &mut [Outcome]) {
    for (item, outcome) in items.iter().zip(outcomes) {
        let ours = matches!(
            outcome,
            Outcome::Restored | Outcome::Already | Outcome::Gone
        );
        if !ours || item.knob.is_queues() {
            continue;
        }
        match knobs.read(&item.knob) {
            Ok(present) if !item.knob.same(&present, &item.old) => *outcome = write(knobs, item),
            Ok(_) if *outcome == Outcome::Gone => *outcome = Outcome::Restored,
            _ => {}
        }
    }
}

fn put_back(knobs: &Knobs<'_>, item: &Undo) -> Outcome {
    let Undo { knob, old, ours } = item;
    match knobs.read(knob) {
        Err(problem) if problem.kind == ProblemKind::Missing => Outcome::Gone,
        Err(problem) => Outcome::Failed(problem),
        Ok(present) if knob.same(&present, old) => Outcome::Already,
        Ok(present) if !ours.iter().any(|ours| knob.same(ours, &present)) => {
            Outcome::Foreign(present)
        }
        Ok(_) => write(knobs, item),
    }
}

fn write(knobs: &Knobs<'_>, item: &Undo) -> Outcome {
    let written = knobs.write(&item.knob, &item.old);
    written.map_or_else(Outcome::Failed, |()| Outcome::Restored)
}
