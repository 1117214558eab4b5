//! Everything back to what the journal says it was, but what somebody else changed since.

use std::path::Path;

use crate::apply::{foreign, named, undo_of};
use crate::journal::State;
use crate::kernel::{Access, Knobs, shown};
use crate::undo::{Outcome, Undo, undo};

/// How it ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// Everything is as it was.
    Done,
    /// All but what somebody else changed, which is left to them.
    Foreign,
    /// Something could not be written; it stays in the journal.
    Failed,
}

/// What was done, a line for each knob.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reverted {
    pub lines: Vec<String>,
    pub ending: Ending,
}

/// Reverts what the journal in `folder` names.
///
/// # Errors
///
/// The directory or its journal cannot be used; nothing was written.
pub fn revert(access: &dyn Access, folder: &Path) -> Result<Reverted, String> {
    let nothing = |line: String| Reverted {
        lines: vec![line],
        ending: Ending::Done,
    };
    let state = State::find(folder)?;
    let journal = state.as_ref().map_or(Ok(None), State::journal)?;
    let (Some(state), Some(mut journal)) = (state, journal) else {
        let folder = folder.display();
        return Ok(nothing(format!(
            "nothing to revert: no journal in {folder}"
        )));
    };
    if !journal.is_of_this_boot(access)? {
        state.clear()?;
        return Ok(nothing(
            "the journal was of another boot, whose settings are gone; removed it".to_owned(),
        ));
    }
    journal.is_of_this_network()?;
    let host = journal.host();
    let knobs = Knobs {
        host: &host,
        access,
    };
    journal.own_what_came_along(&knobs);
    let items: Vec<Undo> = journal.entries.iter().map(undo_of).collect();
    let outcomes = undo(&knobs, &items);
    let (mut lines, mut ending) = (Vec::new(), Ending::Done);
    let beside = journal.entries.iter().map(|entry| entry.beside);
    for ((item, outcome), beside) in items.iter().zip(&outcomes).zip(beside).rev() {
        let knob = &item.knob;
        if beside && matches!(outcome, Outcome::Already | Outcome::Gone) {
            continue;
        }
        lines.push(match outcome {
            Outcome::Restored => format!("{knob}: {} again", shown(&item.old)),
            Outcome::Already => format!("{knob}: {} already", shown(&item.old)),
            Outcome::Gone => format!("{knob}: gone; nothing to put back"),
            Outcome::Foreign(now) => {
                if ending == Ending::Done {
                    ending = Ending::Foreign;
                }
                foreign(item, now)
            }
            Outcome::Failed(problem) => {
                ending = Ending::Failed;
                named(knob, problem)
            }
        });
    }
    if ending == Ending::Failed {
        let mut outcomes = outcomes.iter();
        let failed = |outcome: Option<&Outcome>| matches!(outcome, Some(Outcome::Failed(_)));
        journal.entries.retain(|_| failed(outcomes.next()));
        let entries: Vec<_> = journal.entries.iter().collect();
        let script = crate::apply::undo_script(&knobs, &entries);
        state.save(&journal, &script)?;
    } else {
        state.clear()?;
    }
    Ok(Reverted { lines, ending })
}
