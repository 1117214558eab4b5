//! What is no longer served, until no shard holds it.
//!
//! Freeing a list of a hundred thousand revoked serial numbers takes longer than a shard has. So
//! the control plane keeps a reference of its own, and lets go of it last.

use std::sync::Arc;

use crate::limits::RETIRED_MAX;
use crate::snapshot::{Listener, Snapshot};

/// Past so many a line in the log tells how many there are.
const A_FEW: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Retired {
    snapshots: Vec<Arc<Snapshot>>,
    /// Those of snapshots that nobody holds any more: each may live as long as one of its
    /// connections.
    listeners: Vec<Arc<Listener>>,
}

impl Retired {
    pub(super) fn add(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshots.push(snapshot);
        if self.len() > A_FEW {
            let held = self.len();
            tracing::debug!(held, "earlier configurations are held by open connections");
        }
    }

    /// Frees what nobody holds.
    pub(super) fn sweep(&mut self) {
        for snapshot in std::mem::take(&mut self.snapshots) {
            match Arc::try_unwrap(snapshot) {
                Ok(snapshot) => self.listeners.extend(snapshot.listeners),
                Err(held) => self.snapshots.push(held),
            }
        }
        self.listeners.retain(Listener::is_held);
        // Whoever holds them frees them then.
        let over = self.len().saturating_sub(RETIRED_MAX);
        self.listeners.drain(..over.min(self.listeners.len()));
    }

    fn len(&self) -> usize {
        self.snapshots.len() + self.listeners.len()
    }
}
