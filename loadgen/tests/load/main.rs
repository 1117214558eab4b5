//! The load against servers that behave, and against servers that do not.

mod bad;
mod hold;
mod mishaps;
mod open_loop;
mod outputs;
mod program;
mod resumption;
mod server;

use std::sync::Arc;
use std::time::Duration;

use ringgate_loadgen::client::{
    Close, Confirm, Credentials, Distribution, Offer, ServerTrust, Sources, Work, Workload,
};
use ringgate_loadgen::failure::Failure;
use ringgate_loadgen::pki::{Credential, Pki, PkiOptions};
use ringgate_loadgen::run::{Measured, RunPlan, measure};
use rustls::RootCertStore;
use rustls_pki_types::ServerName;

use server::{Behaviour, Server};

fn credentials(pool: &[Credential], trust: ServerTrust) -> Credentials {
    Credentials::new(pool, trust, &Offer::default()).unwrap()
}

fn plan(pki: &Pki, server: &Server) -> RunPlan {
    let mut roots = RootCertStore::empty();
    roots.add(pki.server_ca.clone()).unwrap();
    RunPlan {
        target: server.address(),
        server_name: ServerName::try_from("localhost").unwrap(),
        credentials: Arc::new(credentials(&pki.clients, ServerTrust::Roots(roots))),
        workload: Workload {
            work: Work::Handshakes,
            requests_per_connection: None,
            close: Close::Fin,
            confirm: Confirm::Echo,
            payload: Arc::from(&b"x"[..]),
            timeout: Duration::from_secs(10),
        },
        connections: 3,
        pace: None,
        warmup: Duration::ZERO,
        duration: Duration::from_millis(500),
        units_max: None,
        resume: 0.0,
        sources: Sources::Any,
        distribution: Distribution::Uniform,
        slow: 0,
        threads: 1,
        cpus: Vec::new(),
        delivered: None,
        server: None,
    }
}

fn pki() -> Pki {
    Pki::generate(&PkiOptions {
        clients: 2,
        expired: 1,
        revoked: 1,
        wrong_ca: 1,
        ..PkiOptions::default()
    })
    .unwrap()
}

fn run(behaviour: Behaviour, change: impl FnOnce(&mut RunPlan, &Pki)) -> Measured {
    let pki = pki();
    let server = Server::start(&pki, behaviour);
    let mut plan = plan(&pki, &server);
    change(&mut plan, &pki);
    measure(&plan).unwrap()
}

fn count(measured: &Measured, failure: &str) -> u64 {
    let named = measured.statistics.errors.iter();
    named
        .filter(|(name, _)| name.to_string() == failure)
        .map(|(_, count)| count)
        .sum()
}

#[test]
fn handshakes_are_confirmed_by_their_echo() {
    let measured = run(Behaviour::Echo, |plan, _| {
        (plan.units_max, plan.duration) = (Some(40), Duration::from_secs(10));
    });
    let statistics = &measured.statistics;
    assert_eq!(
        (statistics.confirmed, statistics.failed()),
        (40, 0),
        "{:?}",
        statistics.errors
    );
    assert_eq!(
        (statistics.tls.count(), statistics.confirm.count()),
        (40, 40)
    );
}

#[test]
fn requests_and_bulk_come_back_whole() {
    for size in [1, 1 << 10, 64 << 10] {
        let measured = run(Behaviour::Echo, |plan, _| {
            plan.workload.work = Work::Requests;
            plan.workload.payload = (0..size).map(|i: u32| i.to_le_bytes()[0]).collect();
            plan.units_max = Some(60);
            (plan.threads, plan.duration) = (2, Duration::from_secs(10));
        });
        let statistics = &measured.statistics;
        assert_eq!(
            (statistics.confirmed, statistics.failed()),
            (60, 0),
            "{:?}",
            statistics.errors
        );
        assert_eq!(statistics.bytes, 60 * 2 * u64::from(size));
    }
}

#[test]
fn a_connection_is_made_anew_after_its_requests() {
    let measured = run(Behaviour::Echo, |plan, _| {
        plan.workload.work = Work::Requests;
        plan.workload.requests_per_connection = Some(5);
        (plan.units_max, plan.duration) = (Some(60), Duration::from_secs(10));
    });
    let statistics = &measured.statistics;
    assert_eq!(
        (statistics.confirmed, statistics.failed()),
        (60, 0),
        "{:?}",
        statistics.errors
    );
    assert!(statistics.tls.count() >= 12, "{}", statistics.tls.count());
    assert_eq!(statistics.first_byte.count(), 60);
}

#[test]
fn a_server_that_never_speaks_is_a_timeout_by_name() {
    let measured = run(Behaviour::Silent, |plan, _| {
        plan.workload.timeout = Duration::from_millis(200);
    });
    assert_eq!(measured.statistics.confirmed, 0);
    assert!(count(&measured, "tls_timeout") >= 3);
    assert_eq!(
        measured.statistics.failed(),
        count(&measured, "tls_timeout")
    );
}

#[test]
fn a_server_that_hangs_at_the_end_is_a_timeout_too() {
    // The timeout is longer than the run: nothing ends before the hard stop.
    let measured = run(Behaviour::Silent, |plan, _| {
        (plan.workload.timeout, plan.duration) =
            (Duration::from_millis(400), Duration::from_millis(100));
    });
    assert_eq!(count(&measured, "tls_timeout"), 3);
}

#[test]
fn a_server_that_hangs_after_the_handshake_is_a_timeout_of_the_request() {
    let measured = run(Behaviour::Deaf, |plan, _| {
        plan.workload.timeout = Duration::from_millis(300);
    });
    assert_eq!(measured.statistics.confirmed, 0);
    assert!(
        count(&measured, "request_timeout") >= 3,
        "{:?}",
        measured.statistics.errors
    );
}

#[test]
fn a_client_refused_after_its_handshake_is_never_served() {
    let wrong = |plan: &mut RunPlan, pki: &Pki| {
        plan.credentials = Arc::new(credentials(&pki.wrong_ca, ServerTrust::Insecure));
        plan.units_max = Some(10);
    };
    let measured = run(Behaviour::Echo, wrong);
    let errors = &measured.statistics.errors;
    assert_eq!(measured.statistics.confirmed, 0, "{errors:?}");
    assert_eq!(measured.statistics.failed(), 10);
    assert!(errors.keys().all(Failure::is_refusal), "{errors:?}");

    // The client alone believes itself served.
    let measured = run(Behaviour::Echo, |plan, pki| {
        wrong(plan, pki);
        plan.workload.confirm = Confirm::None;
    });
    assert!(measured.statistics.confirmed > 0);
}

#[test]
fn an_unknown_server_is_not_believed() {
    let measured = run(Behaviour::Echo, |plan, pki| {
        let mut roots = RootCertStore::empty();
        roots.add(pki.client_ca.clone()).unwrap();
        plan.credentials = Arc::new(credentials(&pki.clients, ServerTrust::Roots(roots)));
        plan.units_max = Some(3);
    });
    assert_eq!(measured.statistics.confirmed, 0);
    assert_eq!(measured.statistics.failed(), 3);
    let errors = &measured.statistics.errors;
    assert!(
        errors
            .keys()
            .all(|failure| matches!(failure, Failure::Tls(_))),
        "{errors:?}"
    );
}

#[test]
fn a_client_that_no_upstream_was_told_of_is_a_mismatch() {
    // This server echoes by itself: nobody writes reports.
    let measured = run(Behaviour::Echo, |plan, _| {
        plan.delivered = Some(Arc::default());
        plan.units_max = Some(5);
    });
    assert_eq!(
        (measured.identity.checked, measured.identity.mismatched),
        (5, 5)
    );
    assert_eq!(count(&measured, "identity_mismatch"), 5);
}

#[test]
fn a_wrong_echo_is_an_error() {
    let measured = run(Behaviour::WrongEcho, |plan, _| plan.units_max = Some(5));
    assert_eq!(measured.statistics.confirmed, 0);
    assert_eq!(count(&measured, "echo_mismatch"), 5);
}

#[test]
fn an_end_without_close_notify_is_named() {
    let measured = run(Behaviour::HangUp, |plan, _| plan.units_max = Some(5));
    assert_eq!(measured.statistics.confirmed, 0);
    let ended = count(&measured, "unexpected_eof") + count(&measured, "tcp_reset");
    assert_eq!(ended, 5, "{:?}", measured.statistics.errors);
}

#[test]
fn a_closed_port_is_refused() {
    let measured = run(Behaviour::Echo, |plan, _| {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        plan.target = free.local_addr().unwrap();
        plan.units_max = Some(5);
    });
    assert_eq!(
        count(&measured, "tcp_refused"),
        5,
        "{:?}",
        measured.statistics.errors
    );
}
