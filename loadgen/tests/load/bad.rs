//! Clients that must be refused, servers that refuse late, peers that are slow, and ends by reset.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringgate_loadgen::cli::Status;
use ringgate_loadgen::client::{BadKind, Close, Confirm, Credentials, Offer, ServerTrust};
use ringgate_loadgen::failure::Failure;
use ringgate_loadgen::pki::Pki;
use ringgate_loadgen::run::{RunPlan, measure};
use ringgate_loadgen::verdict::judge;

use crate::server::{Behaviour, Server};
use crate::{count, pki, plan, run};

/// An eighth of the clients of each kind that must be refused.
fn bad_clients(plan: &mut RunPlan, pki: &Pki) {
    let mut credentials =
        Credentials::new(&pki.clients, ServerTrust::Insecure, &Offer::default()).unwrap();
    for (kind, pool) in [
        (BadKind::Expired, &pki.expired[..]),
        (BadKind::None, &[][..]),
        (BadKind::Revoked, &pki.revoked[..]),
        (BadKind::WrongCa, &pki.wrong_ca[..]),
    ] {
        credentials.add_bad(kind, 0.125, pool).unwrap();
    }
    plan.credentials = Arc::new(credentials);
    (plan.units_max, plan.duration) = (Some(200), Duration::from_secs(20));
}

#[test]
fn bad_clients_are_refused_and_good_ones_served() {
    for confirm in [Confirm::Echo, Confirm::Ticket] {
        let mut measured = run(Behaviour::Echo, |plan, pki| {
            bad_clients(plan, pki);
            plan.workload.confirm = confirm;
        });
        // What this host is short of is not the question.
        (measured.stolen, measured.statistics.own_busy) = (0.0, 0.0);
        let statistics = &measured.statistics;
        assert_eq!(statistics.failed(), 0, "{:?}", statistics.errors);
        let refused: u64 = statistics.refused.values().sum();
        assert_eq!(refused + statistics.confirmed, 200);
        for kind in [
            BadKind::Expired,
            BadKind::None,
            BadKind::Revoked,
            BadKind::WrongCa,
        ] {
            assert!(
                statistics
                    .refused
                    .keys()
                    .any(|(refused, _)| *refused == kind),
                "{kind}: {:?}",
                statistics.refused
            );
        }
        // What must be refused is no part of the load's figures.
        assert_eq!(statistics.tls.count(), statistics.confirmed);
        assert_eq!(judge(&measured, None, &[]).status, Status::Held);
    }
}

#[test]
fn a_server_that_lets_anyone_in_is_found_out() {
    let measured = run(Behaviour::EchoToAnyone, bad_clients);
    let errors = &measured.statistics.errors;
    assert!(measured.statistics.refused.is_empty());
    for kind in ["expired", "none", "revoked", "wrong-ca"] {
        assert!(
            count(&measured, &format!("served:{kind}")) > 0,
            "{kind}: {errors:?}"
        );
    }
    let verdict = judge(&measured, None, &[]);
    assert_eq!(verdict.status, Status::TargetFailed);
    assert!(verdict.text.contains("must be refused"), "{}", verdict.text);
}

/// A TLS 1.3 client believes its handshake done before the server has looked at its certificate, and
/// a server may look at it only then.
#[test]
fn a_server_that_refuses_after_the_handshake_has_served_nobody() {
    for behaviour in [Behaviour::Goodbye, Behaviour::HangUp, Behaviour::WrongEcho] {
        let measured = run(behaviour, |plan, _| plan.units_max = Some(10));
        let statistics = &measured.statistics;
        assert_eq!(statistics.confirmed, 0, "{behaviour:?}");
        assert_eq!(
            statistics.failed(),
            10,
            "{behaviour:?}: {:?}",
            statistics.errors
        );
        assert_eq!(judge(&measured, None, &[]).status, Status::TargetFailed);
    }
}

#[test]
fn connections_end_with_a_reset_where_asked() {
    for (close, resets) in [(Close::Rst, 10), (Close::Fin, 0)] {
        let pki = pki();
        let server = Server::start(&pki, Behaviour::Echo);
        let mut plan = plan(&pki, &server);
        plan.workload.close = close;
        (plan.units_max, plan.duration) = (Some(10), Duration::from_secs(20));
        let measured = measure(&plan).unwrap();
        assert_eq!(measured.statistics.confirmed, 10);
        assert_eq!(
            measured.statistics.failed(),
            0,
            "{:?}",
            measured.statistics.errors
        );
        let begun = Instant::now();
        while server.resets() < resets {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{}",
                server.resets()
            );
            std::thread::yield_now();
        }
        assert_eq!(server.resets(), resets);
    }
}

#[test]
fn slow_peers_send_a_byte_at_a_time_beside_the_load() {
    let measured = run(Behaviour::Echo, |plan, _| plan.slow = 3);
    let slow = measured.slow.unwrap();
    assert_eq!(
        (slow.made, slow.ended, slow.finished),
        (3, 0, 0),
        "{slow:?}"
    );
    // A byte in 100 ms each, for half a second.
    assert!((3..=18).contains(&slow.bytes), "{slow:?}");
    assert!(measured.statistics.confirmed > 0);
}

#[test]
fn slow_peers_that_are_cut_off_come_again() {
    let measured = run(Behaviour::Impatient, |plan, _| plan.slow = 2);
    let slow = measured.slow.unwrap();
    assert!(slow.made > 2 && slow.ended + 2 >= slow.made, "{slow:?}");
    assert!(measured.statistics.errors.keys().all(Failure::is_refusal));
}
