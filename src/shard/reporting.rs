//! Telling the control plane what happened.

use std::sync::Arc;

use super::Shard;
use super::mailbox::{Report, Service};
use crate::close_reason::{Blame, CloseReason};
use crate::connection::Connection;
use crate::shard::entry::Entry;
use crate::trust::cache;

impl Shard {
    /// Counts the end of a connection, and reports it where someone wants to know.
    pub(super) fn report(&mut self, key: u32, reason: CloseReason) {
        let Some(entry) = self.connections.get_mut(key as usize) else {
            return;
        };
        let counters = self.inbox.counters();
        entry.count_bytes(counters);
        counters.count_closed(reason);
        let refused = entry.connection.session().is_none();
        entry.front.counters.count_closed(reason, refused);
        let Some(entry) = self.connections.get(key as usize) else {
            return;
        };
        if self.inbox.reports_access() || deserves_a_line(&entry.connection, reason) {
            let report = self.describe(entry, reason);
            self.inbox.report(report);
        }
    }

    fn describe(&self, entry: &Entry, reason: CloseReason) -> Report {
        let connection = &entry.connection;
        let listener = &entry.front.listener;
        let refused = connection.refused();
        let session = connection.session();
        let identity = session.map(|session| Arc::clone(session.client.peer().identity()));
        Report {
            reason,
            detail: refused
                .map(|refused| refused.detail.clone())
                .unwrap_or_default(),
            listener: Arc::clone(&listener.name),
            peer: connection.addresses().client,
            unique_id: connection.unique_id(),
            server_name: refused
                .and_then(|refused| refused.server_name.clone())
                .or_else(|| session.and_then(|session| session.server_name.clone())),
            identity: refused
                .and_then(|refused| refused.claimed.clone())
                .or(identity),
            service: session.map(|session| Service {
                route: Arc::clone(&listener.routes[session.route].name),
                rule: Arc::from(session.client.rule()),
                upstream: entry
                    .last_choice
                    .as_ref()
                    .map(|upstream| Arc::clone(&upstream.target)),
                bytes_up: connection.bytes()[0],
                bytes_down: connection.bytes()[1],
                lasted: self.now - entry.accepted_at,
            }),
        }
    }

    /// Publishes the figures that others read.
    pub(super) fn publish(&mut self) {
        let counters = self.inbox.counters();
        counters.set_open(self.admission.connections(), self.admission.handshakes());
        counters.set_pool(&self.pool);
        counters.set_ring(&self.ring);
        counters.set_verdicts(cache::figures());
    }
}

/// Refusals, and failures that an operator can do something about.
fn deserves_a_line(connection: &Connection, reason: CloseReason) -> bool {
    connection.refused().is_some() || matches!(reason.blame(), Blame::Upstream | Blame::Ringgate)
}
