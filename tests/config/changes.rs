//! What is said of the difference between two configurations.

use ringgate::config::Config;
use ringgate::snapshot::{Changes, Listener, Snapshot, needs_restart};

use crate::pem::pem;
use crate::pki::{self, Ca, NOW};
use crate::scratch::Scratch;
use crate::{FRONT, front, front_with};

fn load(scratch: &Scratch, text: &str) -> (Config, Snapshot) {
    scratch.write("ringgate.toml", text);
    let snapshot = scratch.loaded();
    let file = scratch.path("ringgate.toml");
    (Config::load(&file).unwrap(), snapshot)
}

fn between(before: &(Config, Snapshot), after: &(Config, Snapshot)) -> Changes {
    Changes::between((&before.0, &before.1), (&after.0, &after.1))
}

/// What changes from one text to the other.
pub fn changes(scratch: &Scratch, before: &str, after: &str) -> Changes {
    between(&load(scratch, before), &load(scratch, after))
}

/// The only kind of change there is, and what it says.
#[track_caller]
fn only(changes: &Changes) -> (&'static str, &[String]) {
    let kinds: [(_, &[_]); 7] = [
        ("listeners", &changes.listeners),
        ("certificates", &changes.certificates),
        ("anchors", &changes.anchors),
        ("crls", &changes.crls),
        ("rules", &changes.rules),
        ("upstreams", &changes.upstreams),
        ("settings", &changes.settings),
    ];
    let mut kinds = kinds.into_iter().filter(|(_, lines)| !lines.is_empty());
    let kind = kinds.next();
    assert!(kind.is_some() && kinds.next().is_none(), "{changes:?}");
    kind.unwrap()
}

#[test]
fn the_same_again_is_no_change() {
    let scratch = Scratch::new();
    let moved = format!("# a line more\n\n{FRONT}");
    assert!(changes(&scratch, FRONT, &moved).is_empty());
    // The same content in another file.
    scratch.write(
        "other.pem",
        std::fs::read(scratch.path("server.pem")).unwrap(),
    );
    let other = front_with("certificate", "certificate = \"other.pem\"");
    assert!(changes(&scratch, FRONT, &other).is_empty());
}

#[test]
fn listeners_come_go_and_change() {
    let scratch = Scratch::new();
    let more = FRONT.replace("8443", "9443");
    let both = format!("{FRONT}{more}");
    let listeners = |before: &str, after: &str| {
        let changes = changes(&scratch, before, after);
        assert_eq!(only(&changes).0, "listeners");
        changes.listeners
    };
    let came = listeners(FRONT, &both);
    assert_eq!(came, ["+127.0.0.1:9443 at 127.0.0.1:9443"]);
    assert_eq!(listeners(&both, FRONT), ["-127.0.0.1:9443"]);
    let named = front("name = \"f\"\n");
    for (more, line) in [
        ("idle_timeout = \"7s\"", "idle_timeout 5m -> 7s (f)"),
        (
            "handshake_timeout = \"7s\"",
            "handshake_timeout 10s -> 7s (f)",
        ),
        ("connect_timeout = \"7s\"", "connect_timeout 5s -> 7s (f)"),
        (
            "close_on_expiry = true",
            "close_on_expiry false -> true (f)",
        ),
        ("max_age = \"7h\"", "max_age none -> 7h (f)"),
        ("rate = 7", "rate none -> 7/s, 7 at once (f)"),
        (
            "identity_rate = 7\nidentity_burst = 9",
            "identity_rate none -> 7/s, 9 at once (f)",
        ),
        (
            "half_close_timeout = \"7s\"",
            "half_close_timeout 1m -> 7s (f)",
        ),
        ("alpn = [\"h2\"]", "alpn [] -> [h2] (f)"),
        ("min_version = \"1.2\"", "min_version Tls13 -> Tls12 (f)"),
        ("proxy_protocol = \"off\"", "(f)"),
        (
            "accept_proxy = [\"10.0.0.0/8\", \"fd00::1\"]",
            "accept_proxy [] -> [10.0.0.0/8, fd00::1/128] (f)",
        ),
        (
            "balance = \"least-connections\"",
            "balance RoundRobin -> LeastConnections (f)",
        ),
        ("expired_crl = \"allow\"", "expired_crl Deny -> Allow (f)"),
        (
            "unknown_revocation = \"allow\"",
            "unknown_revocation Deny -> Allow (f)",
        ),
        ("server_names = [\"x.y\"]", "server_names [] -> [x.y] (f)"),
    ] {
        // Without a CRL a policy for CRLs is refused.
        let crl = if more.contains("cr") || more.contains("revocation") {
            let crl = scratch.ca.crl(&[]);
            scratch.write("revoked.pem", pem("X509 CRL", &crl));
            "crl = \"revoked.pem\"\n"
        } else {
            ""
        };
        let before = format!("{named}{crl}");
        let said = listeners(&before, &format!("{before}{more}\n"));
        assert!(
            said.len() == 1 && said[0].contains(line),
            "{line}: {said:?}"
        );
    }
    let moved = named.replace("8443", "9443");
    let line = "address 127.0.0.1:8443 -> 127.0.0.1:9443 (f)";
    assert_eq!(listeners(&named, &moved), [line]);
    let route = "[[listener.route]]\nname = \"r\"\nserver_names = [\"a.b\"]\n";
    let routed = format!("{named}{route}");
    assert_eq!(listeners(&named, &routed), ["+f/r"]);
    assert_eq!(listeners(&routed, &named), ["-f/r"]);
}

#[test]
fn certificates_and_anchors_are_told_by_subject_fingerprint_and_end() {
    let scratch = Scratch::new();
    let routes = "[[listener.route]]\nname = \"r\"\nserver_names = [\"a.b\"]\n";
    let text = front(&format!("name = \"f\"\n{routes}"));
    let before = load(&scratch, &text);
    scratch.write_leaf("server", &scratch.server(|_| {}));
    let after = load(&scratch, &text);
    let said = between(&before, &after);
    let (kind, lines) = only(&said);
    assert_eq!((kind, lines.len()), ("certificates", 2));
    assert!(lines[0].starts_with("+CN=server sha256:"), "{lines:?}");
    assert!(
        lines[0].ends_with(" until 2026-01-11T00:00:00Z (f, f/r)"),
        "{lines:?}"
    );
    assert!(lines[1].starts_with("-CN=server sha256:"), "{lines:?}");

    let other = Ca::root("another CA");
    let both = [&scratch.ca, &other].map(|ca| pem("CERTIFICATE", &ca.certificate));
    scratch.write("clients-ca.pem", both.concat());
    let more = load(&scratch, &text);
    let said = between(&after, &more);
    let (kind, lines) = only(&said);
    assert_eq!((kind, lines.len()), ("anchors", 1));
    assert!(lines[0].starts_with("+CN=another CA sha256:"), "{lines:?}");
    let said = between(&more, &after);
    assert!(
        only(&said).1[0].starts_with("-CN=another CA sha256:"),
        "{said:?}"
    );

    let leaf = std::fs::read_to_string(scratch.path("server.pem")).unwrap();
    scratch.write("server.pem", leaf + &pem("CERTIFICATE", &other.certificate));
    let said = between(&more, &load(&scratch, &text));
    let (kind, lines) = only(&said);
    assert!(kind == "certificates" && lines.len() == 1, "{said:?}");
    assert!(lines[0].contains("has other intermediates"), "{said:?}");
}

#[test]
fn crls_are_told_by_issuer_revoked_and_this_update() {
    let scratch = Scratch::new();
    let text = front("name = \"f\"\ncrl = \"revoked.pem\"\n");
    let write = |revoked: &[u64], at: i64| {
        let crl = scratch
            .ca
            .crl_with(revoked, |params| params.this_update = pki::at(at));
        scratch.write("revoked.pem", pem("X509 CRL", &crl));
        load(&scratch, &text)
    };
    let without = load(&scratch, &front("name = \"f\"\n"));
    let first = write(&[1], NOW - 7200);
    let second = write(&[1, 2, 3], NOW - 3600);
    let said = between(&first, &second);
    assert_eq!(
        only(&said),
        (
            "crls",
            &[
                "CN=clients' CA: 1 revoked since 2025-12-31T22:00:00Z -> 3 revoked since \
               2025-12-31T23:00:00Z (f)"
                    .to_owned()
            ][..]
        )
    );
    let said = between(&without, &first);
    assert!(
        only(&said).1[0].starts_with("+CN=clients' CA: 1 revoked"),
        "{said:?}"
    );
    let said = between(&first, &without);
    assert!(
        only(&said).1[0].starts_with("-CN=clients' CA: 1 revoked"),
        "{said:?}"
    );
}

#[test]
fn rules_and_upstreams_come_go_and_change() {
    let scratch = Scratch::new();
    let rules = |rules: &str| front_with("rule", &format!("name = \"f\"\nrule = [{rules}]"));
    let one = r#"{ name = "a", allow = { cn = "x" } }, { name = "b", deny = { cn = "y" } }"#;
    let other = r#"{ name = "a", allow = { cn = "z" } }, { name = "c", deny = { cn = "y" } }"#;
    let said = changes(&scratch, &rules(one), &rules(other));
    let lines = ["+c (f)", "-b (f)", "a changed (f)"].map(str::to_owned);
    assert_eq!(only(&said), ("rules", &lines[..]));

    let upstreams =
        |list: &str| front_with("upstream", &format!("name = \"f\"\nupstream = [{list}]"));
    let (a, b) = ("\"127.0.0.1:1\"", "\"unix:/run/b\"");
    let said = changes(&scratch, &upstreams(a), &upstreams(b));
    let lines = ["+unix:/run/b (f)", "-127.0.0.1:1 (f)"].map(str::to_owned);
    assert_eq!(only(&said), ("upstreams", &lines[..]));
    let (ab, ba) = (format!("{a}, {b}"), format!("{b}, {a}"));
    let said = changes(&scratch, &upstreams(&ab), &upstreams(&ba));
    assert_eq!(
        only(&said),
        ("upstreams", &["another order (f)".to_owned()][..])
    );
}

#[test]
fn settings_are_told_with_both_values_and_secrets_without() {
    let scratch = Scratch::new();
    for (text, line) in [
        ("[limits]\nconnections = 7", "limits.connections 8192 -> 7"),
        ("[limits]\nhandshakes = 7", "limits.handshakes 2048 -> 7"),
        (
            "[limits]\nhandshakes_per_source = 7",
            "limits.handshakes_per_source 512 -> 7",
        ),
        (
            "[limits]\nsource_prefix_v4 = 24",
            "limits.source_prefix_v4 32 -> 24",
        ),
        (
            "[limits]\nsource_prefix_v6 = 48",
            "limits.source_prefix_v6 64 -> 48",
        ),
        (
            "[limits]\nhandshake_queue = \"1s\"",
            "limits.handshake_queue 2s -> 1s",
        ),
        (
            "[limits]\nbuffers = \"64MiB\"",
            "limits.buffers 256MiB -> 64MiB",
        ),
        ("[drain]\ntimeout = \"7s\"", "drain.timeout 30s -> 7s"),
        ("[drain]\nnotice = \"7s\"", "drain.notice 0s -> 7s"),
        ("[log]\naccess = true", "log.access false -> true"),
        ("[log]\naccess_rate = 7", "log.access_rate 10000 -> 7"),
        ("[log]\nrefusal_rate = 7", "log.refusal_rate 1000 -> 7"),
        (
            "[resumption]\nrotation = \"7h\"",
            "resumption.rotation 6h -> 7h",
        ),
        ("[resumption]\ncap = \"7h\"", "resumption.cap 8h -> 7h"),
        ("[resumption]\ntickets = 2", "resumption.tickets 1 -> 2"),
        (
            "[verdict_cache]\nentries = 7",
            "verdict_cache.entries 16384 -> 7",
        ),
        (
            "[verdict_cache]\nttl = \"7m\"",
            "verdict_cache.ttl 1h -> 7m",
        ),
        (
            "[revocation]\nlive = \"off\"",
            "revocation.live close -> off",
        ),
        ("[reload]\nwatch = false", "reload.watch true -> false"),
    ] {
        let said = changes(&scratch, FRONT, &front(text));
        let (kind, lines) = only(&said);
        assert!(
            kind == "settings" && lines.contains(&line.to_owned()),
            "{line}: {said:?}"
        );
    }
    let text = front("[resumption]\nstek = \"stek.key\"");
    let write = |secret: &str| {
        scratch.write("stek.key", secret.repeat(32));
        scratch.set_mode("stek.key", 0o600);
        load(&scratch, &text)
    };
    let (first, again, second) = (write("1"), write("1"), write("2"));
    assert!(between(&first, &again).is_empty());
    let said = between(&first, &second);
    let line = "resumption.stek holds another secret".to_owned();
    assert_eq!(only(&said), ("settings", &[line][..]));
}

#[test]
fn what_needs_a_restart_is_told_with_both_values() {
    let scratch = Scratch::new();
    let (started, _) = load(&scratch, FRONT);
    let text = front("[shards]\ncount = 3\n[log]\nlevel = \"warn\"\nformat = \"json\"");
    let (wanted, _) = load(&scratch, &text);
    assert_eq!(
        needs_restart(&started, &wanted),
        [
            "log.format Human -> Json",
            "log.level Info -> Warn",
            "shards Planned -> Count(3)",
        ]
    );
    assert!(changes(&scratch, FRONT, &text).is_empty());
    assert_eq!(needs_restart(&started, &started), [""; 0]);
}

#[test]
fn a_listener_is_held_as_long_as_a_part_of_it_is() {
    let scratch = Scratch::new();
    let listener = scratch.loaded().listeners.remove(0);
    assert!(!Listener::is_held(&listener));
    // As a handshake holds its trust domain, when its connection holds nothing else.
    let domain = listener.acceptor.routes()[0].domain.clone();
    assert!(Listener::is_held(&listener));
    drop(domain);
    let connection = listener.clone();
    assert!(Listener::is_held(&listener));
    drop(connection);
    assert!(!Listener::is_held(&listener));
}
