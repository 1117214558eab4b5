//! All blocks as JSON, and a replay of them: who doubts a verdict can have it judged again.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::candidates::Candidate;
use super::tournament::Outcome;
use super::{Block, Failure, Measure};
use crate::layout::why::Why;

/// Name and version of the JSON; another one is not read.
const SCHEMA: &str = "ringgate-autotune/1";

/// Bytes of a record; one of ten times the effort has fewer.
const RECORD_LEN_MAX: u64 = 64 << 20;

/// What was tried and measured.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Record {
    schema: String,
    /// Multiplier of all blocks.
    pub effort: usize,
    /// The present layout first.
    pub candidates: Vec<Entry>,
    /// In the order in which they were measured.
    pub blocks: Vec<Measured>,
}

/// A candidate.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Entry {
    pub name: String,
    pub why: String,
    /// Its `layout.toml`.
    pub layout: String,
}

/// One block, or why there is none.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Measured {
    /// Position of the candidate.
    pub candidate: usize,
    pub result: Result<Block, Failure>,
}

impl Record {
    pub fn new(effort: usize, candidates: &[Candidate]) -> Self {
        let entries = candidates.iter().map(|candidate| Entry {
            name: candidate.name.clone(),
            why: candidate.why.clone(),
            layout: candidate.layout.to_toml(&Why::default()),
        });
        Self {
            schema: SCHEMA.to_owned(),
            effort,
            candidates: entries.collect(),
            blocks: Vec::new(),
        }
    }

    /// Reads one back.
    ///
    /// # Errors
    ///
    /// Names the file, what is wrong with it, and where records come from.
    pub fn read(file: &Path) -> Result<Self, String> {
        let named = |problem: String| {
            format!(
                "{}: {problem}; give a file that `ringgate-tune autotune --json` wrote",
                file.display()
            )
        };
        let mut text = String::new();
        File::open(file)
            .and_then(|it| it.take(RECORD_LEN_MAX).read_to_string(&mut text))
            .map_err(|error| named(format!("cannot be read: {error}")))?;
        let record: Self = serde_json::from_str(&text).map_err(|error| named(error.to_string()))?;
        if record.schema != SCHEMA {
            return Err(named(format!(
                "its schema is `{}`, not `{SCHEMA}`",
                record.schema
            )));
        }
        if record.candidates.is_empty() || !(1..=EFFORT_MAX).contains(&record.effort) {
            let (effort, len) = (record.effort, record.candidates.len());
            return Err(named(format!(
                "{len} candidates with an effort of {effort}"
            )));
        }
        Ok(record)
    }

    /// With what followed from it, as JSON.
    pub fn to_json(&self, outcome: &Outcome) -> String {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            record: &'a Record,
            outcome: &'a Outcome,
        }
        let whole = Whole {
            record: self,
            outcome,
        };
        let json = serde_json::to_string_pretty(&whole);
        json.expect("a record has string keys") + "\n"
    }
}

/// Highest multiplier of blocks.
pub const EFFORT_MAX: usize = 100;

/// Measures, and keeps all that was measured.
pub struct Recorder<'a> {
    pub measure: &'a mut dyn Measure,
    pub record: &'a mut Record,
}

impl Measure for Recorder<'_> {
    fn block(&mut self, candidate: usize) -> Result<Block, Failure> {
        let result = self.measure.block(candidate);
        self.record.blocks.push(Measured {
            candidate,
            result: result.clone(),
        });
        result
    }
}

/// Gives the blocks of a record, in their order.
pub struct Replay<'a> {
    record: &'a Record,
    next: usize,
}

impl<'a> Replay<'a> {
    pub fn new(record: &'a Record) -> Self {
        Self { record, next: 0 }
    }
}

impl Measure for Replay<'_> {
    fn block(&mut self, candidate: usize) -> Result<Block, Failure> {
        let blocks = &self.record.blocks;
        let Some(measured) = blocks.get(self.next) else {
            let problem = format!("the record ends after {} blocks", blocks.len());
            return Err(Failure::Stop(problem));
        };
        if measured.candidate != candidate {
            let problem = format!(
                "block {} of the record is of candidate {}, and {candidate} is its turn: it was \
                 written by another version, or changed",
                self.next + 1,
                measured.candidate
            );
            return Err(Failure::Stop(problem));
        }
        self.next += 1;
        measured.result.clone()
    }
}
