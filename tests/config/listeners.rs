//! Listeners, routes and upstreams.

use std::path::PathBuf;

use ringgate::config::{Balance, Greeting, UpstreamAddress, UpstreamSetting};
use ringgate::trust::domain::RevocationPolicy;

use crate::{FRONT, accepted, assert_error, front, front_with, rejected};

const ROUTE: &str = "[[listener.route]]\nserver_names = [\"billing.example\"]\n";

#[test]
fn relative_paths_start_at_the_file_and_absolute_ones_stay() {
    let config = accepted(&front_with("key", "key = \"/run/keys/server.key\""));
    let files = &config.listeners[0].routes[0].certificates[0];
    assert_eq!(
        files.certificate.path,
        PathBuf::from("/etc/ringgate/server.pem")
    );
    assert_eq!(files.key.path, PathBuf::from("/run/keys/server.key"));
}

#[test]
fn several_addresses_and_ipv6() {
    let config = accepted(&front_with(
        "address",
        "address = [\"0.0.0.0:1\", \"[::]:1\"]",
    ));
    assert_eq!(config.listeners[0].addresses.len(), 2);
    assert!(config.listeners[0].addresses[1].is_ipv6());
}

#[test]
fn addresses_that_are_none() {
    for address in [
        "8443",
        "localhost:8443",
        "127.0.0.1",
        "::1:8443",
        "127.0.0.1:99999",
        "",
    ] {
        let text = front_with("address", &format!("address = \"{address}\""));
        assert_error(
            &text,
            "ringgate.toml:3: listener[0].address",
            &["\"[::]:8443\""],
        );
    }
    let text = front_with("address", "address = []");
    assert_error(&text, "ringgate.toml:3:", &["is an empty list"]);
    let text = front_with("address", "");
    assert_error(
        &text,
        "ringgate.toml:2: listener[0]: `address` is missing",
        &["0.0.0.0:8443"],
    );
}

#[test]
fn duplicate_addresses() {
    let text = format!("{FRONT}name = \"a\"\n{FRONT}name = \"b\"\n");
    let parts = ["is already listened on (line 3)"];
    assert_error(&text, "ringgate.toml:12: listener[1].address", &parts);
    let text = front_with("address", "address = [\"127.0.0.1:1\", \"127.0.0.1:1\"]");
    assert_error(
        &text,
        "ringgate.toml:3: listener[0].address[1]",
        &["is already listened on"],
    );
}

#[test]
fn duplicate_names() {
    let second = front_with("address", "address = \"127.0.0.1:2\"");
    let text = format!("{FRONT}name = \"a\"\n{second}name = \"a\"\n");
    assert_error(
        &text,
        "ringgate.toml:18: listener[1].name = \"a\"",
        &["listener of line 2"],
    );
    let text = format!("{FRONT}name = \"127.0.0.1:2\"\n{second}");
    assert_error(
        &text,
        "ringgate.toml:11: listener[1]:",
        &["\"127.0.0.1:2\" is taken"],
    );
    // Port 0 is another each time; the name would be the same.
    let any_port = front_with("address", "address = \"127.0.0.1:0\"");
    assert_error(
        &format!("{any_port}{any_port}"),
        "ringgate.toml:10: listener[1]:",
        &["\"127.0.0.1:0\" is taken"],
    );
    accepted(&format!("{any_port}{any_port}name = \"other\"\n"));
}

#[test]
fn upstreams_of_every_form() {
    let config = accepted(&front_with(
        "upstream",
        "upstream = [\"10.0.0.5:80\", \"[fd00::5]:80\", \"App-1.internal.:80\", \"localhost:80\", \
         \"unix:/run/app.sock\", \"unix:app.sock\"]\n\
         balance = \"least-connections\"",
    ));
    let route = &config.listeners[0].routes[0];
    let shown: Vec<String> = route
        .upstreams
        .iter()
        .map(UpstreamSetting::to_string)
        .collect();
    let unix = ["unix:/run/app.sock", "unix:/etc/ringgate/app.sock"];
    assert_eq!(
        shown,
        [
            &["10.0.0.5:80", "[fd00::5]:80"][..],
            &["app-1.internal.:80", "localhost:80"],
            &unix
        ]
        .concat()
    );
    assert_eq!(route.balance, Balance::LeastConnections);
}

#[test]
fn upstreams_that_are_none() {
    for (upstream, problem) in [
        ("app.example:0", "is no address to connect to"),
        ("app.example:65536", "is no IP address or name with a port"),
        ("app..example:80", "is no IP address or name with a port"),
        ("-app.example:80", "is no IP address or name with a port"),
        ("app.example-:80", "is no IP address or name with a port"),
        ("app example:80", "is no IP address or name with a port"),
        ("10.0.0.256:80", "is no IP address or name with a port"),
        ("app.example", "is no IP address or name with a port"),
        (
            &format!("{}.example:80", "x".repeat(64)),
            "is no IP address or name with a port",
        ),
        ("8080", "is no IP address or name with a port"),
        ("10.0.0.5", "is no IP address or name with a port"),
        ("http://10.0.0.5:80", "is no IP address or name with a port"),
        ("10.0.0.5:0", "is no address to connect to"),
        ("0.0.0.0:80", "is no address to connect to"),
        ("unix:", "names no socket"),
        (&format!("unix:/{}", "x".repeat(107)), "has at most 107"),
    ] {
        let text = front_with("upstream", &format!("upstream = \"{upstream}\""));
        assert_error(&text, "ringgate.toml:7: listener[0].upstream", &[problem]);
    }
    let text = front_with("upstream", "upstream = [\"10.0.0.5:1\", \"10.0.0.5:1\"]");
    assert_error(
        &text,
        "ringgate.toml:7: listener[0].upstream[1]",
        &["named twice"],
    );
}

#[test]
fn what_a_listener_cannot_do_without() {
    for (key, line) in [
        ("certificate", 2),
        ("key", 2),
        ("client_ca", 2),
        ("upstream", 2),
    ] {
        let start = format!("ringgate.toml:{line}: listener[0]: `{key}` is missing");
        assert_error(&front_with(key, ""), &start, &[&format!("add {key} = ")]);
    }
}

#[test]
fn a_listener_without_routes_is_its_own_default_route() {
    let config = accepted(FRONT);
    let routes = &config.listeners[0].routes;
    assert_eq!(routes.len(), 1);
    assert!(routes[0].server_names.is_empty());
    assert_eq!(&*routes[0].name, "127.0.0.1:8443");
}

#[test]
fn server_names_make_the_listener_refuse_others() {
    let config = accepted(&front(
        "server_names = [\"App.Example.\", \"*.app.example\"]",
    ));
    let names: Vec<&str> = config.listeners[0].routes[0]
        .server_names
        .iter()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(names, ["app.example", "*.app.example"]);
}

#[test]
fn a_route_falls_back_to_its_listener_key_by_key() {
    let more = "crl = \"revoked.pem\"\nunknown_revocation = \"allow\"\n\
                [[listener.route]]\nserver_names = \"billing.example\"\n\
                upstream = \"10.0.0.9:80\"\nexpired_crl = \"allow\"\n\
                rule = [{ name = \"billing\", allow = { cn = \"billing\" } }]\n";
    let config = accepted(&front(more));
    let [route, own] = &config.listeners[0].routes[..] else {
        panic!("two routes")
    };
    assert_eq!(
        (&*route.name, own.server_names.len()),
        ("billing.example", 0)
    );
    assert_eq!(route.certificates, own.certificates);
    assert_eq!((&route.client_ca, &route.crls), (&own.client_ca, &own.crls));
    assert_eq!(route.unknown_revocation, RevocationPolicy::Allow);
    assert_eq!(route.expired_crl, RevocationPolicy::Allow);
    assert_eq!(own.expired_crl, RevocationPolicy::Deny);
    assert_eq!(
        route.upstreams,
        [UpstreamSetting::Address(UpstreamAddress::Tcp(
            "10.0.0.9:80".parse().unwrap()
        ))]
    );
    assert_eq!(&*route.policy.rules[0].name, "billing");
    assert_eq!(&*own.policy.rules[0].name, "everyone");
}

#[test]
fn a_listener_that_gives_no_upstream_of_its_own_has_no_default_route() {
    let listener = front_with("upstream", "");
    let config = accepted(&format!("{listener}{ROUTE}upstream = \"10.0.0.9:80\"\n"));
    let routes = &config.listeners[0].routes;
    assert_eq!(routes.len(), 1);
    assert!(!routes[0].server_names.is_empty());
}

#[test]
fn routes_that_lack_something() {
    let text = front("[[listener.route]]\nupstream = \"10.0.0.9:80\"\n");
    assert_error(
        &text,
        "ringgate.toml:9: listener[0].route[0]: `server_names` is missing",
        &[],
    );
    let text = format!("{}{ROUTE}", front_with("upstream", ""));
    let parts = ["here or for the whole listener \"127.0.0.1:8443\""];
    assert_error(
        &text,
        "ringgate.toml:9: listener[0].route[0]: `upstream` is missing",
        &parts,
    );
}

#[test]
fn the_same_name_for_two_routes() {
    let route = |names: &str| format!("[[listener.route]]\nserver_names = \"a.b\"\n{names}");
    let second = "[[listener.route]]\nserver_names = \"c.d\"\n";
    for (routes, line, problem) in [
        (
            format!("{}{second}name = \"one\"\n", route("name = \"one\"\n")),
            14,
            "called `one` too",
        ),
        (
            format!("{}{second}", route("name = \"c.d\"\n")),
            12,
            "called `c.d` too",
        ),
        (
            route("name = \"127.0.0.1:8443\"\n"),
            2,
            "its own route is called `127.0.0.1:8443`",
        ),
    ] {
        let start = format!("ringgate.toml:{line}: listener[0]");
        assert_error(&front(&routes), &start, &[problem, "name = \"app\""]);
    }
}

#[test]
fn the_same_server_name_in_two_routes() {
    let text = front(&format!("{ROUTE}{}", ROUTE.replace("billing", "BILLING")));
    let start = "ringgate.toml:12: listener[0].route[1].server_names[0] = \"BILLING.example\"";
    assert_error(
        &text,
        start,
        &["\"billing.example\" is routed already (line 10)"],
    );
    let text = front(&format!("server_names = \"billing.example\"\n{ROUTE}"));
    let said = rejected(&text);
    assert!(said.contains("is routed already"), "{said}");
    let text = front("server_names = \"*\"");
    assert_error(
        &text,
        "ringgate.toml:9:",
        &["is no host name pattern", "*.app.example"],
    );
}

#[test]
fn certificates_in_pairs() {
    let pairs = "certificates = [{ certificate = \"a.pem\", key = \"a.key\" }, \
                 { certificate = \"b.pem\", key = \"b.key\" }]";
    let text = front_with("certificate", pairs).replace("key = \"server.key\"\n", "");
    assert_eq!(accepted(&text).listeners[0].routes[0].certificates.len(), 2);
    let start = "ringgate.toml:9: listener[0].certificates";
    assert_error(
        &front(pairs),
        start,
        &["stands beside `certificate` or `key`"],
    );
    let half = text.replace(", key = \"b.key\"", "");
    let start = "ringgate.toml:4: listener[0].certificates[1]: `key` is missing";
    assert_error(&half, start, &["fits `certificate`"]);
}

#[test]
fn revocation_settings_without_a_crl_would_check_nothing() {
    for more in ["unknown_revocation = \"deny\"", "expired_crl = \"deny\""] {
        assert_error(
            &front(more),
            "ringgate.toml:2:",
            &["names no CRL", "revoked.pem"],
        );
    }
}

#[test]
fn application_protocols() {
    let said = rejected(&front("alpn = [\"h2\", \"\", \"h2\"]"));
    assert!(
        said.contains("alpn[1] = \"\": is no protocol name"),
        "{said}"
    );
    assert!(said.contains("alpn[2] = \"h2\": is named twice"), "{said}");
    assert_eq!(
        accepted(&front("proxy_protocol = \"off\"")).listeners[0].greeting,
        Greeting::Off
    );
}
