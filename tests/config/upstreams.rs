//! How upstreams are treated.

use std::time::Duration;

use ringgate::config::{Ejection, HealthCheck, HttpCheck, UpstreamTreatment};

use crate::scratch::Scratch;
use crate::{accepted, assert_error, front};

const SECOND: Duration = Duration::from_secs(1);

fn treatment(more: &str) -> UpstreamTreatment {
    let config = accepted(&front(more));
    config.listeners[0].routes.last().unwrap().treatment.clone()
}

#[test]
fn upstreams_are_treated_as_the_defaults_say() {
    assert_eq!(treatment(""), UpstreamTreatment::default());
    let expected = UpstreamTreatment {
        connections_max: None,
        slow_start: None,
        ejection: Some(Ejection {
            after: 3,
            span: 5 * SECOND,
        }),
        health_check: None,
        resolve_every: 30 * SECOND,
    };
    assert_eq!(UpstreamTreatment::default(), expected);
    let health_check = HealthCheck {
        interval: 2 * SECOND,
        timeout: SECOND,
        healthy_after: 2,
        unhealthy_after: 3,
        http: None,
    };
    let checked = treatment("health_check = {}");
    assert_eq!(checked.health_check, Some(health_check));
}

#[test]
fn upstreams_are_treated_as_configured() {
    let more = "upstream_max_connections = 100\nslow_start = \"30s\"\neject_after = 5\n\
                eject_for = \"1m\"\nresolve_every = \"7s\"\n[listener.health_check]\n\
                interval = \"500ms\"\ntimeout = \"100ms\"\nhealthy_after = 4\n\
                unhealthy_after = 5\nhttp = \"/healthz?full=1\"\nhttp_host = \"app.internal\"\n\
                http_status = \"204\"\n";
    let expected = UpstreamTreatment {
        connections_max: Some(100),
        slow_start: Some(30 * SECOND),
        ejection: Some(Ejection {
            after: 5,
            span: 60 * SECOND,
        }),
        health_check: Some(HealthCheck {
            interval: Duration::from_millis(500),
            timeout: Duration::from_millis(100),
            healthy_after: 4,
            unhealthy_after: 5,
            http: Some(HttpCheck {
                path: "/healthz?full=1".to_owned(),
                host: Some("app.internal".to_owned()),
                status: 204..=204,
            }),
        }),
        resolve_every: 7 * SECOND,
    };
    assert_eq!(treatment(more), expected);
    assert_eq!(treatment("eject_after = 0").ejection, None);
    let http = treatment("health_check = { http = \"/\" }").health_check;
    assert_eq!(http.unwrap().http.unwrap().status, 200..=399);
}

#[test]
fn a_route_treats_its_upstreams_as_its_listener_does_where_it_says_nothing() {
    let more = "upstream_max_connections = 100\neject_for = \"7s\"\nhealth_check = {}\n\
                [[listener.route]]\nserver_names = \"a.b\"\nupstream_max_connections = 9\n\
                health_check = { interval = \"9s\" }\n";
    let config = accepted(&front(more));
    let route = &config.listeners[0].routes[0].treatment;
    assert_eq!(route.connections_max, Some(9));
    assert_eq!(route.ejection.unwrap().span, 7 * SECOND);
    assert_eq!(route.health_check.as_ref().unwrap().interval, 9 * SECOND);
    let own = &config.listeners[0].routes[1].treatment;
    assert_eq!(own.connections_max, Some(100));
}

#[test]
fn a_route_turns_off_what_its_listener_has() {
    let more = "upstream_max_connections = 100\neject_after = 5\nhealth_check = {}\n\
                slow_start = \"7s\"\n\
                [[listener.route]]\nserver_names = \"a.b\"\nupstream_max_connections = 0\n\
                eject_after = 0\nhealth_check = false\nslow_start = \"0s\"\n";
    let config = accepted(&front(more));
    let off = UpstreamTreatment {
        ejection: None,
        ..UpstreamTreatment::default()
    };
    assert_eq!(config.listeners[0].routes[0].treatment, off);
    let own = &config.listeners[0].routes[1].treatment;
    assert_eq!(own.connections_max, Some(100));
    assert_eq!(own.slow_start, Some(7 * SECOND));
    assert!(own.health_check.is_some() && own.ejection.is_some());
}

#[test]
fn treatment_that_makes_no_sense() {
    for (line, key, parts) in [
        (
            "upstream_max_connections = -1",
            "upstream_max_connections",
            ["out of range", "from 0 to"],
        ),
        (
            "slow_start = \"30\"",
            "slow_start",
            ["not a duration", "a unit"],
        ),
        (
            "slow_start = \"2h\"",
            "slow_start",
            ["out of range", "from 0s to 1h"],
        ),
        (
            "eject_after = -1",
            "eject_after",
            ["out of range", "from 0 to 1000"],
        ),
        (
            "eject_for = \"6m\"",
            "eject_for",
            ["out of range", "from 100ms to 5m"],
        ),
        (
            "resolve_every = \"1ms\"",
            "resolve_every",
            ["out of range", "from 1s to 1h"],
        ),
        (
            "health_check = true",
            "health_check",
            ["not a table", "health_check = {"],
        ),
        (
            "health_check = { every = \"1s\" }",
            "health_check.every",
            ["unknown key", "remedy"],
        ),
        (
            "health_check = { interval = \"1ms\" }",
            "health_check.interval",
            ["out of range", "100ms"],
        ),
        (
            "health_check = { timeout = \"2m\" }",
            "health_check.timeout",
            ["out of range", "1m"],
        ),
        (
            "health_check = { healthy_after = 0 }",
            "health_check.healthy_after",
            ["out of range", "1 to 100"],
        ),
        (
            "health_check = { unhealthy_after = 101 }",
            "health_check.unhealthy_after",
            ["out of range", "1 to 100"],
        ),
        (
            "health_check = { http = \"healthz\" }",
            "health_check.http",
            ["is no path", "slash"],
        ),
        (
            "health_check = { http = \"/a b\" }",
            "health_check.http",
            ["cannot stand in", "visible ASCII"],
        ),
        (
            "health_check = { http = \"/\", http_host = \"a\\r\\nb\" }",
            "health_check.http_host",
            ["cannot stand in", "visible"],
        ),
        (
            "health_check = { http_host = \"a\" }",
            "health_check.http_host",
            ["without `http`", "add http"],
        ),
        (
            "health_check = { http = \"/\", http_status = \"399-200\" }",
            "health_check.http_status",
            ["no range", "200-399"],
        ),
        (
            "health_check = { http = \"/\", http_status = \"100\" }",
            "health_check.http_status",
            ["no range", "200 to 599"],
        ),
    ] {
        let start = format!("ringgate.toml:9: listener[0].{key}");
        assert_error(&front(line), &start, &parts);
    }
}

#[test]
fn changes_of_treatment_are_told() {
    let scratch = Scratch::new();
    let before = "name = \"f\"\nhealth_check = {}\n";
    for (more, line) in [
        (
            "upstream_max_connections = 7",
            "upstream_max_connections none -> 7 (f)",
        ),
        ("slow_start = \"7s\"", "slow_start none -> 7s (f)"),
        ("eject_after = 7", "eject_after 3 -> 7 (f)"),
        ("eject_after = 0", "eject_after 3 -> 0 (f)"),
        ("eject_for = \"7s\"", "eject_for 5s -> 7s (f)"),
        ("resolve_every = \"7s\"", "resolve_every 30s -> 7s (f)"),
    ] {
        let after = format!("{before}{more}\n");
        let said = crate::changes::changes(&scratch, &front(before), &front(&after));
        assert_eq!(said.listeners, [line]);
    }
    for (after, line) in [
        ("", "-health_check (f)"),
        (
            "health_check = { http = \"/\" }",
            "another health_check (f)",
        ),
    ] {
        let after = front(&format!("name = \"f\"\n{after}\n"));
        let said = crate::changes::changes(&scratch, &front(before), &after);
        assert_eq!(said.listeners, [line]);
    }
}
