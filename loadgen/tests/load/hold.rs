//! Connections that are made and kept.

use std::collections::BTreeSet;
use std::time::Duration;

use ringgate_loadgen::client::{Arrival, Pace, Sources, Work};

use crate::server::{Behaviour, Server};
use crate::{count, pki, plan, run};
use ringgate_loadgen::run::measure;

#[test]
fn connections_are_held_to_the_end() {
    for pace in [None, Some(Pace::steady(1_000.0, Arrival::Uniform))] {
        let measured = run(Behaviour::Echo, |plan, _| {
            plan.workload.work = Work::Hold;
            plan.connections = 20;
            plan.pace = pace;
            plan.duration = Duration::from_secs(1);
        });
        let statistics = &measured.statistics;
        assert_eq!(
            (statistics.confirmed, statistics.failed()),
            (20, 0),
            "{:?}",
            statistics.errors
        );
    }
}

#[test]
fn a_held_connection_that_the_server_ends_is_an_error() {
    let measured = run(Behaviour::EndAfterEcho, |plan, _| {
        plan.workload.work = Work::Hold;
    });
    assert!(measured.statistics.confirmed >= 3);
    assert!(
        count(&measured, "unexpected_eof") >= 3,
        "{:?}",
        measured.statistics.errors
    );
}

#[test]
fn connections_come_from_as_many_addresses_as_asked() {
    let pki = pki();
    let server = Server::start(&pki, Behaviour::Echo);
    let mut plan = plan(&pki, &server);
    plan.sources = Sources::Loopback(3);
    (plan.units_max, plan.duration) = (Some(9), Duration::from_secs(20));
    let measured = measure(&plan).unwrap();
    let statistics = &measured.statistics;
    assert_eq!(
        (statistics.confirmed, statistics.failed()),
        (9, 0),
        "{:?}",
        statistics.errors
    );
    let expected: BTreeSet<String> = (1..=3).map(|last| format!("127.0.0.{last}")).collect();
    assert_eq!(server.peers(), expected);
}
