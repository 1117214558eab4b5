//! Whether a layout still holds.

use std::path::Path;

use crate::inspection::Inspection;
use crate::journal::read_journal;
use crate::kernel::{Knobs, ProblemKind, channels_wanted, shown};
use crate::knob::{Knob, Want};
use crate::layout::Layout;

/// What was found, a line for each knob.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verified {
    pub lines: Vec<String>,
    /// Something is not as the layout says.
    pub drift: bool,
    /// Something could not be judged.
    pub unknown: bool,
}

/// Holds every knob, and the CPUs, against `layout`. The journal in `folder`, where there is one,
/// tells which interrupts cannot be moved.
pub fn verify(knobs: &Knobs<'_>, layout: &Layout, folder: &Path) -> Verified {
    let mut verified = Verified::default();
    let misfits = layout.misfits(&Inspection::read(knobs.host, None));
    if misfits.is_empty() {
        verified.lines.push("ok     CPUs".to_owned());
    }
    for misfit in misfits {
        verified.drift = true;
        verified.lines.push(format!("drift  {misfit}"));
    }
    let journal = read_journal(folder).ok().flatten();
    let stays = |knob: &Knob| {
        let entry = journal.as_ref().and_then(|journal| journal.entry(knob));
        entry.is_some_and(|entry| entry.unmovable)
    };
    for Want {
        knob, value, past, ..
    } in Want::all(layout)
    {
        let line = match knobs.read(&knob) {
            Ok(present) => {
                let wanted = match knob.is_queues() {
                    true => channels_wanted(&present, &value),
                    false => value,
                };
                let (here, there) = (shown(&present), shown(&wanted));
                if knob.same(&present, &wanted) {
                    format!("ok     {knob}: {here}")
                } else if stays(&knob) {
                    format!("stays  {knob}: {here}; it cannot be moved to {there}")
                } else {
                    verified.drift = true;
                    format!("drift  {knob}: {here}, wanted {there}")
                }
            }
            Err(problem) if past && problem.kind == ProblemKind::Missing => {
                format!("ok     {knob}: gone with its queue")
            }
            Err(problem) => {
                verified.unknown = true;
                format!("?      {knob}: {problem}")
            }
        };
        verified.lines.push(line);
    }
    verified
}
