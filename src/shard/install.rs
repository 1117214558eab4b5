//! Changing over to another snapshot, between two turns of the loop.

use std::rc::Rc;

use super::Shard;
use super::accepting::Gate;
use super::front::Front;
use super::mailbox::{Installation, ListeningSocket};
use crate::snapshot::Renewal;
use crate::trust::cache::{self, VerdictCache};

impl Shard {
    /// Serves the installation's snapshot from now on. No connection is dropped, and none that
    /// waits at a socket that stays is refused.
    pub(super) fn install(&mut self, installation: Installation) {
        let Installation {
            generation,
            snapshot,
            limits,
            sockets,
            rosters,
            counters,
        } = installation;
        let began = self.clock.now();
        let caches_anew = snapshot.verdict_cache != self.snapshot.verdict_cache;
        let mut rosters = rosters.into_iter();
        self.fronts = snapshot
            .listeners
            .iter()
            .zip(counters)
            .map(|(listener, counters)| {
                let before = self.counterpart(listener);
                let endpoints = rosters.next().unwrap_or_default();
                let before = before.map(|front| &**front);
                Front::new(listener, counters, generation, before, endpoints, began)
            })
            .collect();
        self.limit_identities();
        self.generation = generation;
        self.snapshot = snapshot;
        self.admission.set_bounds(&limits);
        self.pool.set_capacity(limits.buffer_blocks);
        self.inbox.report_access(self.snapshot.log.access);
        if caches_anew {
            self.remember_verdicts();
        }
        self.change_sockets(sockets);
        self.begin_review(generation, began);
        self.inbox.counters().set_generation(generation);
    }

    /// Uses other upstreams for some routes; connections to those that are gone go on.
    pub(super) fn renew_upstreams(&self, renewals: Vec<Renewal>) {
        for renewal in renewals {
            let front = self.fronts.get(renewal.listener);
            if let Some(group) = front.and_then(|front| front.groups.get(renewal.route)) {
                group.set(renewal.endpoints, self.now);
            }
        }
    }

    /// What serves the listener of this name now.
    pub(super) fn front(&self, name: &str) -> Option<&Rc<Front>> {
        self.fronts
            .iter()
            .find(|front| &*front.listener.name == name)
    }

    /// Starts an empty verdict cache of the snapshot's size.
    pub(super) fn remember_verdicts(&self) {
        let bounds = self.snapshot.verdict_cache;
        cache::install(bounds.map(|(bounds, ttl)| VerdictCache::new(bounds, ttl)));
    }

    /// Accepts at these sockets and no others.
    fn change_sockets(&mut self, sockets: Vec<(usize, ListeningSocket)>) {
        if self.stopping || self.draining.is_some() {
            return;
        }
        let mut unnamed: Vec<usize> = self.gates.iter().map(|(gate, _)| gate).collect();
        for (index, socket) in sockets {
            let front = Rc::clone(&self.fronts[index]);
            match socket {
                ListeningSocket::New(socket) => {
                    self.gates.insert(Gate::new(socket, front));
                }
                ListeningSocket::Kept(address) => {
                    // Several where more sockets than shards were taken over.
                    unnamed.retain(|&gate| {
                        let gate = &mut self.gates[gate];
                        let is_kept = gate.is_at(address);
                        if is_kept {
                            gate.front = Rc::clone(&front);
                        }
                        !is_kept
                    });
                }
            }
        }
        for gate in unnamed {
            self.close_gate(gate);
        }
        self.accept_everywhere();
    }
}
