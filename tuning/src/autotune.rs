//! Which layout is better here, proven by load; or "keep what you have".
//!
//! In the order in which it goes:
//!
//! - [`candidates`]: what may be worth a try on this host.
//! - [`tournament`]: A against A, rounds, confirmation; it asks for blocks and decides.
//! - [`interval`]: the statistics of pairs.
//! - [`process`]: a block by programs: the server, and load on it.
//! - [`record`]: all blocks as JSON, and a replay of them.
//! - [`report`]: the table and the sentence.
//!
//! Only what `ringgate run --layout` reads is tried. Interrupts, queues and other knobs of network
//! cards change the whole host and are left to `plan` and `apply`.

pub mod candidates;
pub mod interval;
pub mod process;
pub mod record;
pub mod report;
pub mod tournament;

use serde::{Deserialize, Serialize};

/// Position of the present layout among the candidates.
pub const PRESENT: usize = 0;

/// One stretch of load on one layout.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Block {
    /// Handshakes, or other units, that were confirmed, a second; above 0.
    pub confirmed_per_s: f64,
    pub p99_us: Option<f64>,
    /// `None` where the server's CPU time is not known.
    pub server_cpu_us_per_unit: Option<f64>,
    /// Whether the thresholds held.
    pub held: bool,
    /// The generator was the limit: the block says nothing about the layout.
    pub limited: bool,
}

/// Why there is no block.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Because of the candidate: it is out, and the rest goes on.
    Candidate(String),
    /// Because of something that would meet every candidate; or it was interrupted.
    Stop(String),
}

/// What gives blocks: programs, a record, a test.
pub trait Measure {
    /// Measures the candidate of this position; [`PRESENT`] is the present layout.
    ///
    /// # Errors
    ///
    /// Says whose fault it was.
    fn block(&mut self, candidate: usize) -> Result<Block, Failure>;
}
