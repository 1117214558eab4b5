//! Which connections resume a session, and the sessions there are to resume.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::ServerName;

use super::Random;

/// The sessions of one identity with the one server of a run. Shared by the load threads.
#[derive(Debug)]
pub(super) struct Sessions {
    kept: Mutex<Kept>,
    /// Tickets that are kept; the oldest goes first.
    tickets_max: usize,
}

#[derive(Debug, Default)]
struct Kept {
    tickets: VecDeque<Tls13ClientSessionValue>,
    tls12: Option<Tls12ClientSessionValue>,
    group: Option<NamedGroup>,
}

impl Sessions {
    pub(super) fn new(tickets_max: usize) -> Self {
        Self {
            kept: Mutex::default(),
            tickets_max,
        }
    }

    /// Whether there is one to resume.
    pub(super) fn any(&self) -> bool {
        let kept = self.kept();
        !kept.tickets.is_empty() || kept.tls12.is_some()
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _server_name: ServerName<'static>, group: NamedGroup) {
        self.kept().group = Some(group);
    }

    fn kx_hint(&self, _server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().group
    }

    fn set_tls12_session(&self, _server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.kept().tls12 = Some(value);
    }

    fn tls12_session(&self, _server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept().tls12.clone()
    }

    fn remove_tls12_session(&self, _server_name: &ServerName<'static>) {
        self.kept().tls12 = None;
    }

    fn insert_tls13_ticket(
        &self,
        _server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        let mut kept = self.kept();
        if kept.tickets.len() >= self.tickets_max {
            kept.tickets.pop_front();
        }
        kept.tickets.push_back(value);
    }

    /// The newest, which the server is the least likely to have forgotten.
    fn take_tls13_ticket(
        &self,
        _server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        self.kept().tickets.pop_back()
    }
}

/// Keeps what a server gives and offers nothing: for full handshakes whose tickets later
/// connections resume.
#[derive(Debug)]
pub(super) struct KeepOnly(pub(super) Arc<Sessions>);

impl ClientSessionStore for KeepOnly {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, _server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _server_name: &ServerName<'static>) {}

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        self.0.insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(
        &self,
        _server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        None
    }
}

/// Chooses which connections shall resume, so that their share meets a ratio. What could not be
/// resumed for want of a session, or because the server would not, is made up for later, but not
/// without bound.
#[derive(Debug)]
pub(super) struct Steering {
    ratio: f64,
    owed: f64,
    random: Random,
}

impl Steering {
    const OWED_MAX: f64 = 64.0;

    /// `ratio` from 0 to 1.
    pub(super) fn new(ratio: f64, seed: u64) -> Self {
        Self {
            ratio,
            owed: 0.0,
            random: Random::new(seed),
        }
    }

    /// Whether the next connection shall resume. A share of chance keeps the choice from falling
    /// into step with the order of the identities.
    pub(super) fn next(&mut self) -> bool {
        self.owed = (self.owed + self.ratio).min(Self::OWED_MAX);
        self.owed > self.random.unit()
    }

    /// A connection offers a session.
    pub(super) fn offered(&mut self) {
        self.owed -= 1.0;
    }

    /// A connection that offered a session got a full handshake.
    pub(super) fn declined(&mut self) {
        self.owed = (self.owed + 1.0).min(Self::OWED_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of `count` connections that offer a session.
    fn share(ratio: f64, count: u32, available: impl Fn(u32) -> bool) -> f64 {
        let mut steering = Steering::new(ratio, 1);
        let mut offered = 0;
        for number in 0..count {
            if steering.next() && available(number) {
                steering.offered();
                offered += 1;
            }
        }
        f64::from(offered) / f64::from(count)
    }

    #[test]
    fn the_share_meets_the_ratio() {
        for ratio in [0.0, 0.1, 0.5, 0.7, 0.99, 1.0] {
            let share = share(ratio, 10_000, |_| true);
            assert!((share - ratio).abs() < 0.001, "{ratio}: {share}");
        }
    }

    #[test]
    fn what_was_not_available_is_made_up_for() {
        let share = share(0.5, 10_000, |number| number % 3 == 0 || number > 100);
        assert!((share - 0.5).abs() < 0.01, "{share}");
    }

    #[test]
    fn no_parity_decides_who_resumes() {
        let mut steering = Steering::new(0.5, 1);
        let mut even = 0;
        for number in 0..10_000 {
            if steering.next() {
                steering.offered();
                even += u32::from(number % 2 == 0);
            }
        }
        assert!((2_000..3_000).contains(&even), "{even} of about 2,500");
    }

    #[test]
    fn a_server_that_declines_is_asked_again() {
        let mut steering = Steering::new(0.5, 1);
        let mut asked = 0;
        for _ in 0..1_000 {
            if steering.next() {
                steering.offered();
                steering.declined();
                asked += 1;
            }
        }
        assert!(asked > 900, "{asked}");
    }
}
