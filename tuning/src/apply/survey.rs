//! What is to be done, before anything is: targets, the undo script, the dry run.

use std::fmt::Write;
use std::path::Path;

use super::named;
use crate::inspection::Inspection;
use crate::journal::{Entry, Journal, read_journal};
use crate::kernel::{Knobs, Problem, ProblemKind, channels_wanted, shown};
use crate::knob::{Knob, Want};
use crate::layout::Layout;

/// A knob and where it is to be.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) knob: Knob,
    value: String,
    /// The card that it comes and goes with; `None` where nobody knows.
    pub(super) nic: Option<String>,
    /// As [`Want::past`].
    pub(super) past: bool,
    /// It is in the journal, and not in the layout any more: it is put back.
    pub(super) back: bool,
}

/// Counts of queues first, then what the layout wants, then what it no longer wants.
pub(super) fn targets(layout: &Layout, journal: Option<&Journal>) -> Vec<Target> {
    let wants = Want::all(layout);
    let entries = journal.map_or(&[][..], |journal| &journal.entries);
    let orphans = entries.iter().rev();
    let orphans = orphans.filter(|entry| {
        let mut wants = wants.iter();
        match &entry.knob {
            // Put back along with the count of queues, not before.
            Knob::Rps { nic, .. } | Knob::Xps { nic, .. } if entry.beside => wants.all(|want| {
                let queues = Knob::Queues { nic: nic.clone() };
                want.knob != entry.knob && want.knob != queues
            }),
            knob => wants.all(|want| want.knob != *knob),
        }
    });
    let orphans: Vec<Target> = orphans
        .map(|entry| Target {
            knob: entry.knob.clone(),
            value: entry.old.clone(),
            nic: match &entry.knob {
                Knob::Queues { nic } | Knob::Rps { nic, .. } | Knob::Xps { nic, .. } => {
                    Some(nic.clone())
                }
                _ => None,
            },
            past: false,
            back: true,
        })
        .collect();
    let wants = wants.into_iter().map(|want| Target {
        knob: want.knob,
        value: want.value,
        nic: want.nic,
        past: want.past,
        back: false,
    });
    let mut targets: Vec<Target> = wants.chain(orphans).collect();
    targets.sort_by_key(|target| !target.knob.is_queues());
    targets
}

impl Target {
    /// What the knob is, and what is to be written.
    pub(super) fn read(&self, knobs: &Knobs<'_>) -> Result<(String, String), Problem> {
        let present = knobs.read(&self.knob)?;
        let value = match self.knob.is_queues() && !self.back {
            true => channels_wanted(&present, &self.value),
            false => self.value.clone(),
        };
        Ok((present, value))
    }
}

/// The receive and the transmit queues that `ethtool -L` means.
pub(super) fn queue_counts(words: &str) -> (u32, u32) {
    let mut numbers = words.split(' ').filter_map(|word| word.parse().ok());
    let first: u32 = numbers.next().unwrap_or(0);
    (first, numbers.next().unwrap_or(first))
}

/// What puts everything back, for sh: counts of queues first, since they make queues anew.
pub(crate) fn undo_script(knobs: &Knobs<'_>, entries: &[&Entry]) -> String {
    let mut script = "#!/bin/sh\n# Puts back what `ringgate-tune apply` changed.\n".to_owned();
    let (queues, others): (Vec<&Entry>, _) =
        entries.iter().partition(|entry| entry.knob.is_queues());
    for entry in queues.iter().chain(others.iter().rev()) {
        let line = knobs.undo_line(&entry.knob, &entry.old);
        let line = line.unwrap_or_else(|| {
            let old = entry.old.escape_debug();
            format!("# not here now: {}, which was {old}", entry.knob)
        });
        let _ = writeln!(script, "{line}");
    }
    script
}

/// One line for each knob: what `apply` would do. Writes nothing.
///
/// # Errors
///
/// The same, where something of it cannot be done.
pub fn dry_run(knobs: &Knobs<'_>, layout: &Layout, folder: &Path) -> Result<String, String> {
    let misfits = layout.misfits(&Inspection::read(knobs.host, None));
    if !misfits.is_empty() {
        return Err(misfits.join("\n") + "\n");
    }
    let journal = read_journal(folder).map_err(|problem| problem + "\n")?;
    let journal = journal.filter(|it| it.is_of_this_boot(knobs.access).unwrap_or(false));
    let (mut text, mut possible, mut queues_change) = (String::new(), true, false);
    for target in targets(layout, journal.as_ref()) {
        let knob = &target.knob;
        let entry = journal.as_ref().and_then(|journal| journal.entry(knob));
        let line = match target.read(knobs) {
            Ok((present, value)) if knob.same(&present, &value) => {
                format!("{knob}: {}, as it is", shown(&present))
            }
            Ok((present, value)) => {
                queues_change |= knob.is_queues();
                let foreign = entry.is_some_and(|entry| {
                    !entry.is_ours(&present) && !knob.same(&present, &entry.old)
                });
                let (present, value) = (shown(&present), shown(&value));
                match knobs.may_write(knob) {
                    Err(problem) => {
                        possible = false;
                        named(knob, &problem)
                    }
                    Ok(()) if target.back && foreign => {
                        format!("{knob}: {present}, as someone else set it")
                    }
                    Ok(()) if target.back => {
                        format!("{knob}: {present} -> {value} (no longer in the layout)")
                    }
                    Ok(()) => format!("{knob}: {present} -> {value}"),
                }
            }
            Err(problem) if problem.kind == ProblemKind::NoEthtool => {
                format!("{knob} is left out: {problem}")
            }
            Err(problem) if problem.kind == ProblemKind::Missing && target.back => {
                format!("{knob}: gone")
            }
            Err(problem) if problem.kind == ProblemKind::Missing && target.past => {
                format!("{knob}: gone with its queue")
            }
            Err(problem) if problem.kind == ProblemKind::Missing && queues_change => {
                let value = shown(&target.value);
                format!("{knob}: -> {value}, where the count of queues makes it")
            }
            Err(problem) => {
                possible = false;
                named(knob, &problem)
            }
        };
        text += &line;
        text.push('\n');
    }
    if possible { Ok(text) } else { Err(text) }
}
