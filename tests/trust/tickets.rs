//! Tickets put before the judge directly.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use ringgate::limits::TICKET_BYTES_MAX;
use ringgate::trust::policy::Effect;
use ringgate::trust::stek::{Secret, Stek};
use ringgate::trust::ticket::{TicketScope, Tickets};
use ringgate::trust::{Authorized, TrustDomain};
use rustls_pki_types::CertificateDer;

use crate::pki::{self, Ca, DAY, NOW};
use crate::{domain, judge, sources};

const HOUR: Duration = Duration::from_secs(3600);

fn tickets() -> Tickets {
    let secret = Arc::new(Secret::new(&[7; 32]).unwrap());
    Tickets::new(Stek::new(secret, 6 * HOUR), 8 * HOUR, HOUR)
}

fn scope() -> TicketScope {
    TicketScope::new("front", "only")
}

/// A client below intermediates, who lets it in, and a state as rustls would make it.
struct Client {
    root: Ca,
    domain: TrustDomain,
    authorized: Authorized,
    state: Vec<u8>,
}

impl Client {
    fn new() -> Self {
        Self::below(1)
    }

    fn below(intermediates: usize) -> Self {
        let root = Ca::root("Root");
        let mut cas: Vec<Ca> = Vec::new();
        for level in 0..intermediates {
            let name = format!("Intermediate {level}");
            cas.push(cas.last().unwrap_or(&root).intermediate(&name));
        }
        let leaf = cas.last().unwrap_or(&root).issue(pki::client("client"));
        let cas = cas.iter().rev().map(|ca| &ca.certificate);
        let chain: Vec<_> = std::iter::once(&leaf.certificate).chain(cas).collect();
        let domain = domain(sources(&root));
        Self {
            authorized: judge(&domain, &chain).unwrap(),
            state: state(&chain),
            domain,
            root,
        }
    }

    fn ticket(&self) -> Vec<u8> {
        tickets()
            .seal(&scope(), &self.authorized, NOW, &self.state, pki::now())
            .unwrap()
    }
}

fn state(chain: &[&CertificateDer<'_>]) -> Vec<u8> {
    let mut state = b"\x01\x0bserver.test\x03\x04 a secret and more".to_vec();
    for der in chain {
        state.extend_from_slice(&u32::try_from(der.len()).unwrap().to_be_bytes());
        state.extend_from_slice(der);
    }
    state.extend_from_slice(b"when, and what else");
    state
}

#[test]
fn what_was_sealed_comes_back_with_who_it_is_about() {
    let client = Client::new();
    let ticket = client.ticket();
    assert!(
        ticket.len() < client.state.len() + 512,
        "the chain is in it once"
    );
    let opened = tickets()
        .judge(&scope(), &client.domain, &ticket, pki::now())
        .unwrap();
    assert_eq!(
        (opened.authenticated_at, opened.state),
        (NOW, client.state.clone())
    );
    let (before, after) = (client.authorized.peer(), opened.client.peer());
    assert_eq!(after.identity(), before.identity());
    assert_eq!(
        (after.leaf(), after.intermediates()),
        (before.leaf(), before.intermediates())
    );
    assert_eq!(after.anchor_spki(), before.anchor_spki());
    assert_eq!(
        (after.not_before(), after.not_after()),
        (before.not_before(), before.not_after())
    );
}

/// Without another check of the chain there is still no way past today's policy: the digest of a
/// domain covers it, but the rules are asked all the same.
#[test]
fn a_ticket_counts_in_its_scope_and_with_its_domain() {
    let client = Client::new();
    let ticket = client.ticket();
    let judged = |scope: TicketScope, domain: &TrustDomain| {
        tickets()
            .judge(&scope, domain, &ticket, pki::now())
            .is_some()
    };
    assert!(judged(scope(), &client.domain));
    for (listener, route) in [
        ("front", "other"),
        ("back", "only"),
        ("fronto", "nly"),
        ("", ""),
    ] {
        assert!(!judged(TicketScope::new(listener, route), &client.domain));
    }
    let mut denied = sources(&client.root);
    denied.policy.rules[0].effect = Effect::Deny;
    assert!(!judged(scope(), &domain(denied)));
    assert!(
        !judged(scope(), &domain(sources(&Ca::root("Root")))),
        "the same name, another key"
    );
}

#[test]
fn a_ticket_ends_with_the_cap_the_chain_or_the_key() {
    let client = Client::new();
    let scope = scope();
    let later = |seconds: i64| {
        let seconds = (NOW + seconds).unsigned_abs();
        rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    };
    let good_for = |tickets: &Tickets, authenticated_at: i64, seconds: i64| {
        let ticket = tickets.seal(
            &scope,
            &client.authorized,
            authenticated_at,
            &client.state,
            pki::now(),
        );
        ticket.is_some_and(|ticket| {
            tickets
                .judge(&scope, &client.domain, &ticket, later(seconds))
                .is_some()
        })
    };
    let cap = 8 * 3600;
    assert!(good_for(&tickets(), NOW, cap - 1));
    assert!(!good_for(&tickets(), NOW, cap));
    assert!(good_for(&tickets(), NOW - cap + 10, 9));
    assert!(!good_for(&tickets(), NOW - cap + 10, 10));
    let past = tickets().seal(
        &scope,
        &client.authorized,
        NOW - cap,
        &client.state,
        pki::now(),
    );
    assert_eq!(past, None, "none is made past the cap");
    assert!(
        !good_for(&tickets(), NOW + 61, 0),
        "from a clock that is set back since"
    );

    let secret = Arc::new(Secret::new(&[7; 32]).unwrap());
    let for_ever = Duration::from_secs((100 * DAY).unsigned_abs());
    let long = Tickets::new(Stek::new(Arc::clone(&secret), for_ever), for_ever, HOUR);
    assert!(good_for(&long, NOW, 10 * DAY));
    assert!(!good_for(&long, NOW, 10 * DAY + 1), "the leaf has expired");
    assert_eq!(
        Tickets::new(Stek::new(Arc::clone(&secret), HOUR), 8 * HOUR, HOUR).lifetime(),
        HOUR
    );
    assert_eq!(
        Tickets::new(Stek::new(secret, 9 * HOUR), 8 * HOUR, HOUR).lifetime(),
        8 * HOUR
    );
}

/// What a ticket has beside rustls's state, in which the chain is, so that clients send it in one
/// packet.
#[test]
fn a_ticket_is_little_larger_than_the_chain() {
    for intermediates in 0..=2 {
        let client = Client::below(intermediates);
        let (ticket, state) = (client.ticket().len(), client.state.len());

        let bound = state + 200 + 96 * (1 + intermediates);
        assert!(ticket <= bound, "{ticket} bytes, {bound} allowed");
    }
}

#[test]
fn a_ticket_that_would_be_too_large_is_not_made() {
    let client = Client::new();
    let seal = |state: &[u8]| tickets().seal(&scope(), &client.authorized, NOW, state, pki::now());
    let overhead = client.ticket().len() - client.state.len();
    let mut state = client.state.clone();
    state.resize(TICKET_BYTES_MAX - overhead, 0);
    assert_eq!(seal(&state).unwrap().len(), TICKET_BYTES_MAX);
    state.push(0);
    assert_eq!(seal(&state), None);
    // Nor one whose state is about another client.
    assert_eq!(seal(b"no certificates"), None);
}

#[test]
fn ticket_garbage() {
    let client = Client::new();
    let ticket = client.ticket();
    let (tickets, scope) = (tickets(), scope());
    let judged = |ticket: &[u8]| tickets.judge(&scope, &client.domain, ticket, pki::now());
    for len in 0..ticket.len() {
        assert!(judged(&ticket[..len]).is_none());
    }
    for at in 0..ticket.len() {
        for bit in [0, 7] {
            let mut changed = ticket.clone();
            changed[at] ^= 1 << bit;
            assert!(judged(&changed).is_none());
        }
    }
    assert!(judged(&[&ticket[..], &[0]].concat()).is_none());
    assert!(judged(&vec![0; TICKET_BYTES_MAX]).is_none());
    assert!(judged(&ticket.repeat(TICKET_BYTES_MAX / ticket.len() + 1)).is_none());
}

proptest! {
    #[test]
    fn ticket_garbage_of_any_kind(
        cut in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        foreign in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        thread_local! {
            static CLIENT: Client = Client::new();
        }
        CLIENT.with(|client| {
            let ticket = client.ticket();
            let mut changed = ticket.clone();
            for (at, byte) in &changes {
                changed[at.index(ticket.len())] = *byte;
            }
            changed.truncate(cut.index(ticket.len() + 1));
            changed.extend_from_slice(&foreign);
            let judged = |ticket: &[u8]| {
                tickets().judge(&scope(), &client.domain, ticket, pki::now()).is_some()
            };
            prop_assert_eq!(judged(&changed), changed == ticket);
            prop_assert!(!judged(&foreign));
            Ok(())
        })?;
    }
}
