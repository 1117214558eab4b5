//! A layout to the kernel's knobs: all of it, or nothing.

mod survey;

use std::path::Path;

use crate::inspection::Inspection;
use crate::journal::{Entry, Journal, State};
use crate::kernel::{Knobs, Problem, ProblemKind, shown};
use crate::knob::Knob;
use crate::layout::Layout;
use crate::undo::{Outcome, Undo, undo};

pub use survey::dry_run;
pub(crate) use survey::undo_script;
use survey::{Target, queue_counts, targets};

/// What went wrong; nothing of it is left half done but what `left` names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Failed {
    pub problems: Vec<String>,
    /// What could not be put back.
    pub left: Vec<String>,
}

impl Failed {
    fn of(problem: impl Into<String>) -> Self {
        Self {
            problems: vec![problem.into()],
            left: Vec::new(),
        }
    }
}

/// A layout that was applied. The state directory stays locked until it is dropped.
pub struct Applied<'a> {
    knobs: Knobs<'a>,
    state: State,
    /// The journal that there was before.
    previous: Option<Journal>,
    journal: Journal,
    /// What this run set.
    done: Vec<Undo>,
    /// What every knob was before this run touched anything.
    seen: Vec<(Knob, String)>,
    /// What is to be known, though nothing failed.
    pub notes: Vec<String>,
    /// How many values were written.
    pub written: usize,
}

/// A value that is to be written.
struct Step {
    target: Target,
    value: String,
}

/// Applies `layout` with its journal in `folder`. `say` gets the undo script before the first
/// write, and whatever has to be added to it.
///
/// # Errors
///
/// What is in the way, or what failed; everything is as before then, but what it names.
pub fn apply<'a>(
    knobs: Knobs<'a>,
    layout: &Layout,
    folder: &Path,
    say: &mut dyn FnMut(&str) -> Result<(), String>,
) -> Result<Applied<'a>, Failed> {
    let misfits = layout.misfits(&Inspection::read(knobs.host, None));
    if !misfits.is_empty() {
        return Err(Failed {
            problems: misfits,
            left: Vec::new(),
        });
    }
    let state = State::open(folder).map_err(Failed::of)?;
    let mut run = Applied::begin(knobs, state).map_err(Failed::of)?;
    let targets = targets(layout, run.previous.as_ref());
    match run.all(targets, say) {
        Ok(()) => Ok(run),
        Err(problems) => Err(run.take_back(problems)),
    }
}

impl<'a> Applied<'a> {
    fn begin(knobs: Knobs<'a>, state: State) -> Result<Self, String> {
        let mut notes = Vec::new();
        let mut journal = Journal::new(knobs.host, knobs.access)?;
        let previous = match state.journal()? {
            Some(previous) if previous.host() != *knobs.host => {
                return Err(format!(
                    "{} has a journal about {}: `ringgate-tune revert` first, or give another \
                     directory with --state",
                    state.folder().display(),
                    previous.sysfs.display()
                ));
            }
            Some(mut previous) if previous.boot == journal.boot => {
                previous.is_of_this_network()?;
                previous.own_what_came_along(&knobs);
                Some(previous)
            }
            Some(_) => {
                notes.push("a journal of another boot is not needed any more".to_owned());
                state.clear()?;
                None
            }
            None => None,
        };
        if let Some(previous) = &previous {
            journal.entries.clone_from(&previous.entries);
        }
        Ok(Self {
            knobs,
            state,
            previous,
            journal,
            done: Vec::new(),
            seen: Vec::new(),
            notes,
            written: 0,
        })
    }

    /// Puts everything back that this run set, unless somebody else changed it meanwhile, and the
    /// former journal too.
    pub fn take_back(mut self, problems: Vec<String>) -> Failed {
        let mut failed = Failed {
            problems,
            left: Vec::new(),
        };
        self.own_what_came_along();
        let outcomes = undo(&self.knobs, &self.done);
        for (item, outcome) in self.done.iter().zip(outcomes) {
            let knob = &item.knob;
            match outcome {
                Outcome::Failed(problem) => {
                    let old = shown(&item.old);
                    failed
                        .left
                        .push(format!("{knob}, which was {old}: {problem}"));
                }
                Outcome::Foreign(now) => failed.problems.push(foreign(item, &now)),
                Outcome::Restored | Outcome::Already | Outcome::Gone => {}
            }
        }
        // What was not put back stays in the journal that is there.
        if failed.left.is_empty() {
            self.journal.entries = self.previous.take().map_or_else(Vec::new, |it| it.entries);
            failed.problems.extend(self.save().err());
        }
        failed
    }

    fn all(
        &mut self,
        targets: Vec<Target>,
        say: &mut dyn FnMut(&str) -> Result<(), String>,
    ) -> Result<(), Vec<String>> {
        let (queues, others): (Vec<Target>, _) =
            targets.iter().cloned().partition(|it| it.knob.is_queues());
        let changes = self.survey(&queues, &[])?;
        let changing: Vec<String> = changes
            .iter()
            .filter_map(|step| step.target.nic.clone())
            .collect();
        let mut steps = self.survey(&others, &changing)?;
        let surveyed = steps.iter().chain(&changes);
        let barred = surveyed.filter_map(|step| {
            let problem = self.knobs.may_write(&step.target.knob).err()?;
            Some(format!("{}: {problem}", step.target.knob))
        });
        let barred: Vec<String> = barred.collect();
        if !barred.is_empty() {
            return Err(barred);
        }
        for change in &changes {
            self.what_goes_with(change, &others);
        }
        let at_risk: Vec<&Target> = others
            .iter()
            .filter(|it| it.knob.comes_with_queues())
            .filter(|it| it.nic.as_ref().is_some_and(|nic| changing.contains(nic)))
            .collect();
        self.enter_at_risk(&at_risk);
        self.journal.changing_queues = !changes.is_empty();
        if !changes.is_empty() || !steps.is_empty() {
            let entries: Vec<&Entry> = self.journal.entries.iter().collect();
            say(&undo_script(&self.knobs, &entries)).map_err(|problem| vec![problem])?;
            self.save().map_err(|problem| vec![problem])?;
        }
        let changed = self.write_all(&changes);
        for target in at_risk {
            if let Some(old) = self.before(&target.knob) {
                self.did(target.knob.clone(), old, Vec::new());
            }
        }
        changed?;
        self.own_what_came_along();
        if !changes.is_empty() {
            let known: Vec<Knob> = self
                .journal
                .entries
                .iter()
                .map(|it| it.knob.clone())
                .collect();
            steps = self.survey(&others, &[])?;
            let entries = self.journal.entries.iter();
            let new: Vec<&Entry> = entries.filter(|it| !known.contains(&it.knob)).collect();
            if !new.is_empty() {
                say(&undo_script(&self.knobs, &new)).map_err(|problem| vec![problem])?;
            }
            self.save().map_err(|problem| vec![problem])?;
        }
        self.write_all(&steps)?;
        self.finish(&targets);
        // The journal that is there says all of this, and more.
        if let Err(problem) = self.save() {
            self.notes.push(problem);
        }
        Ok(())
    }

    /// Reads every target, enters what will change into the journal, and tells what is to be
    /// written. What belongs to a card whose queues are `changing` may be missing still.
    fn survey(
        &mut self,
        targets: &[Target],
        changing: &[String],
    ) -> Result<Vec<Step>, Vec<String>> {
        let (mut steps, mut problems) = (Vec::new(), Vec::new());
        for target in targets {
            match target.read(&self.knobs) {
                Ok((present, value)) => {
                    if self.enter(target, &present, &value) {
                        let target = target.clone();
                        steps.push(Step { target, value });
                    }
                }
                Err(problem) if problem.kind == ProblemKind::NoEthtool => {
                    self.notes
                        .push(format!("{} is left out: {problem}", target.knob));
                }
                Err(problem) if problem.kind == ProblemKind::Missing => {
                    let waits = !changing.is_empty()
                        && target.nic.as_ref().is_none_or(|nic| changing.contains(nic));
                    if target.back {
                        self.drop_if_gone(target, waits);
                    } else if !waits && !target.past {
                        problems.push(format!("{}: {problem}", target.knob));
                    }
                }
                Err(problem) => problems.push(format!("{}: {problem}", target.knob)),
            }
        }
        if problems.is_empty() {
            Ok(steps)
        } else {
            Err(problems)
        }
    }

    /// Enters a knob into the journal; tells whether it is to be written.
    fn enter(&mut self, target: &Target, present: &str, value: &str) -> bool {
        let knob = &target.knob;
        let right = knob.same(present, value);
        let before = self.before(knob);
        let at = self.journal.entries.iter().position(|it| it.knob == *knob);
        let fresh = |old: &str| Entry {
            knob: knob.clone(),
            old: old.to_owned(),
            ours: vec![value.to_owned()],
            unmovable: false,
            beside: false,
        };
        let Some(before) = before else {
            self.seen.push((knob.clone(), present.to_owned()));
            match at {
                None if right => {}
                None => self.journal.entries.push(fresh(present)),
                Some(at) => {
                    let entry = &mut self.journal.entries[at];
                    entry.unmovable = false;
                    entry.beside = false;
                    if knob.same(present, &entry.old) || entry.is_ours(present) {
                        entry.own(value);
                    } else if target.back {
                        let (item, now) = (undo_of(entry), present);
                        self.notes.push(foreign(&item, now));
                        self.journal.entries.remove(at);
                        return false;
                    } else {
                        *entry = fresh(present);
                    }
                }
            }
            return !right;
        };
        // The second look, after counts of queues changed: what they changed along is our doing.
        if !knob.same(present, &before) {
            let mut entry = match at {
                Some(at) => self.journal.entries.remove(at),
                None => fresh(&before),
            };
            entry.own_too(present);
            let ours = vec![value.to_owned(), present.to_owned()];
            self.did(knob.clone(), before, ours);
            self.journal.entries.push(entry);
        }
        !right
    }

    /// What a knob was before this run touched anything, where it was looked at.
    fn before(&self, knob: &Knob) -> Option<String> {
        let seen = self.seen.iter().find(|(it, _)| it == knob);
        seen.map(|(_, before)| before.clone())
    }

    /// Takes down what this run set, in its order; a knob that it set before, too.
    fn did(&mut self, knob: Knob, old: String, ours: Vec<String>) {
        let before = self.done.iter().position(|item| item.knob == knob);
        let mut all = before.map_or_else(Vec::new, |at| self.done.remove(at).ours);
        all.extend(ours);
        let ours = all;
        self.done.push(Undo { knob, old, ours });
    }

    /// What is as wanted already and may be set anew, or go, along with a count of queues.
    fn enter_at_risk(&mut self, targets: &[&Target]) {
        for target in targets {
            let knob = &target.knob;
            let known = self.journal.entry(knob).is_some();
            if let Some(old) = self.before(knob).filter(|_| !known) {
                self.journal.entries.push(Entry {
                    knob: knob.clone(),
                    ours: vec![old.clone()],
                    old,
                    unmovable: false,
                    beside: true,
                });
            }
        }
    }

    /// A knob that is to be put back, and is not there: forgotten, unless its queue may come back.
    fn drop_if_gone(&mut self, target: &Target, waits: bool) {
        let queues_are_ours = self.journal.entries.iter().any(|entry| {
            matches!(&entry.knob, Knob::Queues { nic } if target.nic.as_ref().is_none_or(|it| it == nic))
        });
        if !waits && !queues_are_ours {
            self.notes
                .push(format!("{} is gone; nothing to put back", target.knob));
            self.journal
                .entries
                .retain(|entry| entry.knob != target.knob);
        }
    }

    /// Queues that go take their settings along and come back without, and drivers set those of
    /// queues that stay anew, as fits the new count: `revert` puts back what they were.
    fn what_goes_with(&mut self, change: &Step, others: &[Target]) {
        let Knob::Queues { nic } = &change.target.knob else {
            return;
        };
        let seen = self.seen.iter();
        let mut seen = seen.filter(|(knob, _)| *knob == change.target.knob);
        let (receive, transmit) = queue_counts(seen.next().map_or("", |(_, present)| present));
        let nic = || nic.clone();
        let receive = (0..receive).map(|queue| Knob::Rps { nic: nic(), queue });
        let transmit = (0..transmit).map(|queue| Knob::Xps { nic: nic(), queue });
        for knob in receive.chain(transmit) {
            let known = others.iter().any(|other| other.knob == knob);
            let Ok(old) = self.knobs.read(&knob) else {
                continue;
            };
            if known || self.journal.entry(&knob).is_some() {
                continue;
            }
            let entry = Entry {
                knob,
                old,
                // As a queue is when it comes back.
                ours: vec!["0".to_owned()],
                unmovable: false,
                beside: true,
            };
            self.done.push(undo_of(&entry));
            self.journal.entries.push(entry);
        }
    }

    /// What a driver set anew since counts of queues began to change is our doing.
    fn own_what_came_along(&mut self) {
        if self.journal.changing_queues {
            self.journal.own_what_came_along(&self.knobs);
            let items = self.done.iter_mut();
            for item in items.filter(|item| item.knob.comes_with_queues()) {
                item.ours.extend(self.knobs.read(&item.knob));
            }
        }
    }

    fn write_all(&mut self, steps: &[Step]) -> Result<(), Vec<String>> {
        for Step { target, value } in steps {
            let knob = &target.knob;
            let old = self.before(knob).unwrap_or_default();
            let mut ours = vec![value.clone()];
            match self.knobs.write(knob, value) {
                Ok(()) => {
                    self.written += 1;
                    self.did(knob.clone(), old, ours);
                }
                Err(problem) if problem.kind == ProblemKind::Unmovable => {
                    self.notes.push(format!("{knob}: {problem}"));
                    let mut entries = self.journal.entries.iter_mut();
                    if let Some(entry) = entries.find(|entry| entry.knob == *knob) {
                        entry.unmovable = true;
                    }
                }
                Err(problem) => {
                    // What the kernel took in place of the value goes too.
                    ours.extend(self.knobs.read(knob));
                    self.did(knob.clone(), old, ours);
                    return Err(vec![format!("{knob}: {problem}")]);
                }
            }
        }
        Ok(())
    }

    /// Leaves the journal with what is set, and nothing else.
    fn finish(&mut self, targets: &[Target]) {
        let (knobs, seen) = (self.knobs, &self.seen);
        self.journal.entries.retain_mut(|entry| {
            let target = targets.iter().find(|target| target.knob == entry.knob);
            let Some(target) =
                target.filter(|target| seen.iter().any(|(it, _)| *it == target.knob))
            else {
                return true;
            };
            if entry.unmovable {
                return true;
            }
            match target.read(&knobs) {
                Ok((_, value)) => {
                    let kept = !entry.knob.same(&entry.old, &value);
                    entry.ours = vec![value];
                    kept && !target.back
                }
                Err(_) => true,
            }
        });
    }

    /// Brings the journal to disk, or removes it where it is empty.
    fn save(&self) -> Result<(), String> {
        if self.journal.entries.is_empty() {
            return self.state.clear();
        }
        let entries: Vec<&Entry> = self.journal.entries.iter().collect();
        let script = undo_script(&self.knobs, &entries);
        self.state.save(&self.journal, &script)
    }

    /// The state directory that it holds.
    pub fn folder(&self) -> &Path {
        self.state.folder()
    }
}

/// What an entry puts back.
pub fn undo_of(entry: &Entry) -> Undo {
    Undo {
        knob: entry.knob.clone(),
        old: entry.old.clone(),
        ours: entry.ours.clone(),
    }
}

/// What is said of a knob that somebody else changed.
pub fn foreign(item: &Undo, now: &str) -> String {
    let ours = item.ours.last().map_or("", String::as_str);
    format!(
        "{}: changed by someone else to {}, left alone; we had set {}, before it was {}",
        item.knob,
        shown(now),
        shown(ours),
        shown(&item.old)
    )
}

/// One knob that could not be judged or set.
pub(crate) fn named(knob: &Knob, problem: &Problem) -> String {
    format!("{knob}: {problem}")
}
