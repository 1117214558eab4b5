//! What a bench does with the part of its work that is measured.
#![allow(dead_code, reason = "each bench uses its part")]

use std::time::{Duration, Instant};

/// Measures pieces of work; the rest, such as the client's side of a handshake, goes free.
pub trait Meter {
    fn run<R>(&mut self, work: impl FnOnce() -> R) -> R;
}

/// Measures time.
#[derive(Debug, Default)]
pub struct Stopwatch {
    pub total: Duration,
}

impl Meter for Stopwatch {
    fn run<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = work();
        self.total += start.elapsed();
        result
    }
}
