//! rustls's ProducesTickets: sealing and judging for the handshake in progress on this thread.

use std::time::Duration;

use rustls::server::ProducesTickets;
use rustls_pki_types::UnixTime;

use super::ticket::Tickets;
use super::{judgement, tally};
use crate::clock::Clock;

/// The longest lifetime that a ticket may claim (RFC 8446 section 4.6.1).
const LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Works with the [`judgement::Judgement`] that is current; without one there are no tickets.
#[derive(Debug)]
pub struct Ticketer {
    tickets: Tickets,
    clock: Clock,
}

impl Ticketer {
    pub fn new(tickets: Tickets, clock: Clock) -> Self {
        Self { tickets, clock }
    }

    fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch(self.clock.unix())
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        let lifetime = self.tickets.lifetime().min(LIFETIME_MAX);
        u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, state: &[u8]) -> Option<Vec<u8>> {
        let now = self.now();
        let (scope, client, authenticated_at) = judgement::for_ticket(now)?;
        let ticket = self
            .tickets
            .seal(&scope, &client, authenticated_at, state, now)?;
        tally::note(|tally| tally.tickets_issued += 1);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (scope, domain) = judgement::ticket_offered()?;
        let resumption = self.tickets.judge(&scope, &domain, ticket, self.now());
        tally::note(|tally| match resumption {
            Some(_) => tally.tickets_accepted += 1,
            None => tally.tickets_declined += 1,
        });
        let resumption = resumption?;
        judgement::may_resume(resumption.client, resumption.authenticated_at);
        Some(resumption.state)
    }
}
