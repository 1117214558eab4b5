//! How busy a load thread was.

use std::time::{Duration, Instant};

use super::Recorder;
use crate::cpu_time::ThreadTimes;

/// The thread's own CPU time between the beginning and the end of measuring.
#[derive(Debug, Default)]
pub(super) struct CpuWindow {
    began: Option<(Instant, ThreadTimes)>,
    ended: Option<(Instant, ThreadTimes)>,
}

impl CpuWindow {
    pub(super) fn observe(&mut self, now: Instant, recorder: &mut Recorder) {
        if self.began.is_none() && now >= recorder.from {
            let times = ThreadTimes::now();
            recorder.notes.start(times.on_cpu);
            self.began = Some((now, times));
        }
        if self.ended.is_none() && now >= recorder.until {
            self.ended = Some((now, ThreadTimes::now()));
        }
    }

    /// CPU time, and the shares of the time that passed on a CPU and waiting for one.
    pub(super) fn spent(&self) -> (Duration, f64, f64) {
        let (Some(began), Some(ended)) = (self.began, self.ended) else {
            return Default::default();
        };
        let cpu = ended.1.on_cpu.saturating_sub(began.1.on_cpu);
        let waited = ended.1.waiting.saturating_sub(began.1.waiting);
        let passed = (ended.0 - began.0).as_secs_f64();
        let share = |time: Duration| {
            if passed > 0.0 {
                time.as_secs_f64() / passed
            } else {
                0.0
            }
        };
        (cpu, share(cpu), share(waited))
    }
}
