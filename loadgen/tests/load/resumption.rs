//! Sessions that are resumed, and those that are not.

use std::sync::Arc;
use std::time::Duration;

use ringgate_loadgen::client::{Confirm, Credentials, Offer, ServerTrust};
use ringgate_loadgen::pki::Pki;
use ringgate_loadgen::run::{Measured, RunPlan};
use ringgate_loadgen::statistics::Statistics;

use crate::run;
use crate::server::Behaviour;

/// Clients that keep sessions and offer `tls`, with a ratio aimed at.
fn resuming(plan: &mut RunPlan, pki: &Pki, tls: &str, ratio: f64) {
    let versions = tls.parse().unwrap();
    let offer = Offer::new(None, None, Some(&versions));
    let mut credentials = Credentials::new(&pki.clients, ServerTrust::Insecure, &offer).unwrap();
    credentials.keep_sessions(plan.connections);
    plan.credentials = Arc::new(credentials);
    plan.resume = ratio;
    (plan.units_max, plan.duration) = (Some(200), Duration::from_secs(20));
}

/// Handshakes by kind, full ones first.
fn kinds(statistics: &Statistics) -> (u64, u64) {
    assert_eq!(statistics.failed(), 0, "{:?}", statistics.errors);
    assert_eq!(
        statistics.confirmed,
        statistics.full.confirmed + statistics.resumed.confirmed
    );
    assert_eq!(statistics.confirmed, 200);
    (statistics.full.confirmed, statistics.resumed.confirmed)
}

fn measured(behaviour: Behaviour, tls: &str, ratio: f64) -> Measured {
    run(behaviour, |plan, pki| resuming(plan, pki, tls, ratio))
}

#[test]
fn all_resume_that_have_a_session() {
    for tls in ["1.3", "1.2"] {
        let measured = measured(Behaviour::Echo, tls, 1.0);
        let (full, resumed) = kinds(&measured.statistics);
        // Two identities and three connections at a time: a handful begin without a session.
        assert!(
            (1..=6).contains(&full),
            "TLS {tls}: {full} full of {resumed}"
        );
        let version = format!("TLS {tls}");
        let agreed = &measured.statistics.agreed;
        assert!(
            agreed
                .iter()
                .all(|(agreed, _)| agreed.to_string().starts_with(&version)),
            "{agreed:?}"
        );
        assert_eq!(measured.statistics.resumed.unit.count(), resumed);
    }
}

#[test]
fn the_ratio_is_met() {
    for tls in ["1.3", "1.2"] {
        let measured = measured(Behaviour::Echo, tls, 0.5);
        let (full, resumed) = kinds(&measured.statistics);
        assert!(
            (90..=110).contains(&resumed),
            "TLS {tls}: {full} full, {resumed} resumed"
        );
    }
}

#[test]
fn nothing_resumes_unless_asked() {
    assert_eq!(
        kinds(&measured(Behaviour::Echo, "1.3", 0.0).statistics),
        (200, 0)
    );
}

#[test]
fn what_the_server_declines_counts_as_full() {
    let measured = measured(Behaviour::Forgetful, "1.3", 1.0);
    assert_eq!(kinds(&measured.statistics), (200, 0));
    assert!(measured.statistics.resumed_ratio() < 1e-9);
}

#[test]
fn a_ticket_confirms_full_and_resumed_handshakes() {
    for (tls, behaviour) in [("1.3", Behaviour::Deaf), ("1.2", Behaviour::Deaf)] {
        let measured = run(behaviour, |plan, pki| {
            resuming(plan, pki, tls, 0.5);
            plan.workload.confirm = Confirm::Ticket;
        });
        let (full, resumed) = kinds(&measured.statistics);
        assert!(full >= 90 && resumed >= 90, "TLS {tls}: {full}, {resumed}");
        assert_eq!(measured.statistics.bytes, 0);
    }
}

#[test]
fn without_a_ticket_nothing_is_confirmed_by_one() {
    let measured = run(Behaviour::NoTickets, |plan, _| {
        plan.workload.confirm = Confirm::Ticket;
        plan.workload.timeout = Duration::from_millis(200);
    });
    let statistics = &measured.statistics;
    assert_eq!(statistics.confirmed, 0);
    assert!(
        crate::count(&measured, "confirm_timeout") >= 3,
        "{:?}",
        statistics.errors
    );
}

#[test]
fn a_refused_client_gets_no_ticket() {
    let measured = run(Behaviour::Echo, |plan, pki| {
        let credentials = Credentials::new(&pki.wrong_ca, ServerTrust::Insecure, &Offer::default());
        plan.credentials = Arc::new(credentials.unwrap());
        plan.workload.confirm = Confirm::Ticket;
        plan.units_max = Some(10);
    });
    assert_eq!(
        (measured.statistics.confirmed, measured.statistics.failed()),
        (0, 10)
    );
}
