//! The shards as the control plane sees them.

use std::time::Duration;

use super::Report;
use crate::limits::REPORT_QUEUE_LEN;

/// One shard's mailbox: commands in, reports out. None of these calls may block.
pub struct ShardHandle {
    /// Tells it to stop accepting, to finish what is open within the time given, and to end.
    pub drain: Box<dyn Fn(Duration)>,
    /// Tells it to end at once.
    pub stop: Box<dyn Fn()>,
    /// Whether its thread has ended.
    pub ended: Box<dyn Fn() -> bool>,
    /// The next thing that it reports.
    pub report: Box<dyn FnMut() -> Option<Report>>,
}

impl ShardHandle {
    /// Logs what waits in the queue; at most one queue's worth, so that a flood of reports from
    /// one shard keeps the control plane from neither signals nor the other shards.
    pub(super) fn log_reports(&mut self, access: bool) {
        for _ in 0..REPORT_QUEUE_LEN {
            match (self.report)() {
                Some(report) => report.log(access),
                None => return,
            }
        }
    }
}

impl std::fmt::Debug for ShardHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardHandle")
            .field("ended", &(self.ended)())
            .finish_non_exhaustive()
    }
}
