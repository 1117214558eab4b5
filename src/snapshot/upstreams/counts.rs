//! What is known of one upstream: its health, and what a shard counts.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Whether an upstream is well, by the control plane's checks. Only that writes. Aligned so that no
/// other data shares a cache line with it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Health {
    /// Even: it is well.
    changes: AtomicU32,
}

impl Health {
    pub fn is_well(&self) -> bool {
        self.changes().is_multiple_of(2)
    }

    /// How often that has changed; even while it is well.
    pub fn changes(&self) -> u32 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Says how it is; whether that is new.
    pub fn set(&self, is_well: bool) -> bool {
        let is_new = self.is_well() != is_well;
        if is_new {
            let changes = self.changes().wrapping_add(1);
            self.changes.store(changes, Ordering::Relaxed);
        }
        is_new
    }
}

/// What one shard counts of one upstream. Only the shard writes. Aligned so that no other thread's
/// data shares a cache line with them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Figures {
    open: AtomicU64,
    connects: AtomicU64,
    failures: AtomicU64,
    ejections: AtomicU64,
    ejected: AtomicU64,
}

impl Figures {
    /// Connections to it, those that are being connected among them.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Connects that were started.
    pub fn connects(&self) -> u64 {
        self.connects.load(Ordering::Relaxed)
    }

    /// Connects that failed by its doing, or were not answered in time.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Times that it was left out for connects that failed.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// Whether it is left out now.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed) != 0
    }

    pub fn set_open(&self, open: usize) {
        self.open.store(open as u64, Ordering::Relaxed);
    }

    pub fn count_connect(&self) {
        add_one(&self.connects);
    }

    pub fn count_failure(&self) {
        add_one(&self.failures);
    }

    pub fn count_ejection(&self) {
        add_one(&self.ejections);
    }

    pub fn set_ejected(&self, ejected: bool) {
        self.ejected.store(ejected.into(), Ordering::Relaxed);
    }
}

/// Adds to a counter that only this thread writes: no locked instruction is needed.
fn add_one(counter: &AtomicU64) {
    let count = counter.load(Ordering::Relaxed);
    counter.store(count.wrapping_add(1), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_counts_its_changes() {
        let health = Health::default();
        assert!(health.is_well() && !health.set(true));
        assert!(health.set(false) && !health.is_well() && !health.set(false));
        assert!(health.set(true));
        assert_eq!(health.changes(), 2);
    }
}
