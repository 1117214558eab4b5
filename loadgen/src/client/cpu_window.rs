//! How busy a load thread was.

use std::time::{Duration, Instant};

use super::Recorder;
use crate::cpu_time;

/// The thread's own CPU time between the beginning and the end of measuring.
#[derive(Debug, Default)]
pub(super) struct CpuWindow {
    began: Option<(Instant, Duration)>,
    ended: Option<(Instant, Duration)>,
}

impl CpuWindow {
    pub(super) fn observe(&mut self, now: Instant, recorder: &mut Recorder) {
        if self.began.is_none() && now >= recorder.from {
            let cpu = cpu_time::of_this_thread();
            recorder.notes.start(cpu);
            self.began = Some((now, cpu));
        }
        if self.ended.is_none() && now >= recorder.until {
            self.ended = Some((now, cpu_time::of_this_thread()));
        }
    }

    /// CPU time and its share of the time that passed.
    pub(super) fn spent(&self) -> (Duration, f64) {
        let (Some(began), Some(ended)) = (self.began, self.ended) else {
            return Default::default();
        };
        let cpu = ended.1.saturating_sub(began.1);
        let passed = (ended.0 - began.0).as_secs_f64();
        let share = if passed > 0.0 {
            cpu.as_secs_f64() / passed
        } else {
            0.0
        };
        (cpu, share)
    }
}
