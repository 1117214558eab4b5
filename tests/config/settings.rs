//! Settings of the process and the timeouts: defaults, ranges, formats.

use std::time::Duration;

use ringgate::config::{
    Greeting, HalfOpenLimits, LiveRevocation, LogFormat, LogLevel, MinVersion, RateLimit,
    ShardPlan, Tenure,
};
use ringgate::limits;

use crate::{FRONT, accepted, assert_error, front};

#[test]
fn defaults() {
    let config = accepted(FRONT);
    assert_eq!(config.shards, ShardPlan::Planned);
    assert_eq!(config.limits.connections, limits::CONNECTIONS_PER_SHARD);
    assert_eq!(config.limits.handshakes, limits::HANDSHAKES_PER_SHARD);
    assert_eq!(config.limits.buffer_bytes, 256 << 20);
    assert_eq!(config.drain.timeout, Duration::from_secs(30));
    assert_eq!(config.drain.notice, Duration::ZERO);
    assert_eq!(
        (config.log.format, config.log.level),
        (LogFormat::Human, LogLevel::Info)
    );
    assert!(!config.log.access);
    assert_eq!(
        (config.log.access_rate, config.log.refusal_rate),
        (10_000, 1000)
    );
    let listener = &config.listeners[0];
    assert_eq!(listener.min_version, MinVersion::Tls13);
    assert_eq!(
        listener.greeting,
        Greeting::ProxyV2 {
            client_certificate: false
        }
    );
    assert!(listener.alpn.is_empty());
    let timeouts = listener.timeouts;
    let seconds = [
        timeouts.handshake,
        timeouts.idle,
        timeouts.connect,
        timeouts.half_close,
    ];
    assert_eq!(seconds.map(|timeout| timeout.as_secs()), [10, 300, 5, 60]);
}

#[test]
fn everything_set() {
    let config = accepted(&front(
        "name = \"front\"\nalpn = [\"h2\", \"http/1.1\"]\nmin_version = \"1.2\"\n\
         proxy_client_certificate = true\nhandshake_timeout = \"500ms\"\nidle_timeout = \"1h\"\n\
         connect_timeout = \"2s\"\nhalf_close_timeout = \"3m\"\n\
         [shards]\ncpus = [2, 0]\n[limits]\nconnections = 0x10\nhandshakes = 8\n\
         buffers = \"1GiB\"\n[drain]\nnotice = \"7s\"\ntimeout = \"0s\"\n\
         [log]\nformat = \"json\"\nlevel = \"debug\"\naccess = true\n\
         access_rate = 7\nrefusal_rate = 8\n",
    ));
    let listener = &config.listeners[0];
    assert_eq!(&*listener.name, "front");
    assert_eq!(listener.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert_eq!(listener.min_version, MinVersion::Tls12);
    assert_eq!(
        listener.greeting,
        Greeting::ProxyV2 {
            client_certificate: true
        }
    );
    assert_eq!(listener.timeouts.handshake, Duration::from_millis(500));
    assert_eq!(listener.timeouts.half_close, Duration::from_secs(180));
    assert_eq!(config.shards, ShardPlan::Cpus(vec![2, 0]));
    assert_eq!(
        (config.limits.connections, config.limits.handshakes),
        (16, 8)
    );
    assert_eq!(
        (config.limits.buffer_bytes, config.drain.timeout),
        (1 << 30, Duration::ZERO)
    );
    assert_eq!(config.drain.notice, Duration::from_secs(7));
    assert_eq!(
        (config.log.format, config.log.level),
        (LogFormat::Json, LogLevel::Debug)
    );
    assert!(config.log.access);
    assert_eq!((config.log.access_rate, config.log.refusal_rate), (7, 8));
}

#[test]
fn what_is_out_of_range_is_told_the_range() {
    for (more, remedy) in [
        ("handshake_timeout = \"1h\"", "from 100ms to 5m"),
        ("connect_timeout = \"0s\"", "from 10ms to 5m"),
        ("idle_timeout = \"8000h\"", "from 100ms to 168h"),
        ("[shards]\ncount = 0", "from 1 to 1024"),
        ("[shards]\ncount = -1", "from 1 to 1024"),
        ("[shards]\ncpus = [0, 99999]", "from 0 to 4095"),
        (
            "[limits]\nconnections = 99999999999999999999",
            "from 1 to 1048576",
        ),
        ("[limits]\nbuffers = \"1KiB\"", "from 16MiB to 1024GiB"),
        ("[drain]\ntimeout = \"25h\"", "from 0s to 24h"),
        ("[drain]\nnotice = \"2h\"", "from 0s to 1h"),
        ("[log]\naccess_rate = 0", "from 1 to 1000000"),
        ("[log]\nrefusal_rate = 0", "from 1 to 1000000"),
    ] {
        assert_error(&front(more), "ringgate.toml:", &["out of range", remedy]);
    }
}

#[test]
fn durations_and_sizes_need_units() {
    for text in ["10", "ten", "1.5s", "-1s", ""] {
        let more = format!("idle_timeout = \"{text}\"");
        assert_error(
            &front(&more),
            "ringgate.toml:9:",
            &["not a duration", "\"500ms\""],
        );
    }
    assert_error(
        &front("[limits]\nbuffers = \"256\""),
        "ringgate.toml:10:",
        &["not a size", "MiB"],
    );
}

#[test]
fn choices_name_the_words() {
    for (more, remedy) in [
        (
            "balance = \"random\"",
            "\"round-robin\" or \"least-connections\"",
        ),
        ("min_version = \"1.1\"", "\"1.3\" or \"1.2\""),
        ("proxy_protocol = \"v1\"", "\"v2\" or \"off\""),
        (
            "[log]\nlevel = \"loud\"",
            "\"error\" or \"warn\" or \"info\"",
        ),
    ] {
        assert_error(&front(more), "ringgate.toml:", &["not a choice", remedy]);
    }
}

#[test]
fn settings_that_exclude_each_other() {
    let both = front("[shards]\ncount = 1\ncpus = [0]");
    assert_error(
        &both,
        "ringgate.toml:10: shards.count",
        &["exclude each other"],
    );
    let twice = front("[shards]\ncpus = [0, 1, 0]");
    assert_error(
        &twice,
        "ringgate.toml:10: shards.cpus[2] = 0",
        &["named twice"],
    );
    let handshakes = front("[limits]\nconnections = 10\nhandshakes = 11");
    assert_error(
        &handshakes,
        "ringgate.toml:11: limits.handshakes = 11",
        &["the 10 connections"],
    );
    let nothing_carries = front("proxy_protocol = \"off\"\nproxy_client_certificate = true");
    assert_error(
        &nothing_carries,
        "ringgate.toml:10:",
        &["proxy_protocol = \"v2\""],
    );
}

#[test]
fn few_connections_lower_the_default_of_handshakes() {
    let config = accepted(&front("[limits]\nconnections = 10"));
    assert_eq!(config.limits.handshakes, 10);
}

#[test]
fn half_open_limits() {
    let half_open = |limits: &str| {
        let config = accepted(&front(&format!("[limits]\n{limits}")));
        config.limits.half_open
    };
    let default = half_open("");
    assert_eq!(default, HalfOpenLimits::of(limits::HANDSHAKES_PER_SHARD));
    assert_eq!(default.per_source, 512);
    assert_eq!((default.prefix_v4, default.prefix_v6), (32, 64));
    assert_eq!(default.queue, Duration::from_secs(2));
    // A quarter, but nobody is kept out of a few.
    for (handshakes, per_source) in [(8192, 2048), (128, 64), (10, 10)] {
        let half_open = half_open(&format!("handshakes = {handshakes}"));
        assert_eq!(half_open.per_source, per_source, "{handshakes}");
    }
    let expected = HalfOpenLimits {
        per_source: 5,
        prefix_v4: 24,
        prefix_v6: 48,
        queue: Duration::from_millis(500),
    };
    let set = "handshakes_per_source = 5\nsource_prefix_v4 = 24\nsource_prefix_v6 = 48\n\
               handshake_queue = \"500ms\"";
    assert_eq!(half_open(set), expected);
    for (line, parts) in [
        ("handshakes_per_source = 0", ["out of range", "from 1 to"]),
        (
            "handshakes_per_source = 3000",
            ["more than the 2048 handshakes", "raise limits.handshakes"],
        ),
        ("source_prefix_v4 = 33", ["out of range", "from 1 to 32"]),
        ("source_prefix_v6 = 0", ["out of range", "from 1 to 128"]),
        (
            "handshake_queue = \"1ms\"",
            ["out of range", "from 10ms to 5m"],
        ),
    ] {
        let text = front(&format!("[limits]\n{line}"));
        assert_error(&text, "ringgate.toml:10:", &parts);
    }
}

#[test]
fn rates() {
    let limit = |per_second, burst| Some(RateLimit { per_second, burst });
    let listener = |more: &str| accepted(&front(more)).listeners.remove(0);
    let own = listener("");
    assert_eq!((own.rate, own.routes[0].identity_rate), (None, None));
    let own = listener("rate = 500\nidentity_rate = 5\nidentity_burst = 20");
    assert_eq!(own.rate, limit(500, 500), "what a second brings at once");
    assert_eq!(own.routes[0].identity_rate, limit(5, 20));
    assert_eq!(listener("rate = 0\nburst = 7").rate, None);
    let routes = listener(
        "identity_rate = 5\n[[listener.route]]\nserver_names = [\"a.b\"]\nidentity_rate = 0\n\
         [[listener.route]]\nserver_names = [\"c.d\"]\nidentity_rate = 7\nidentity_burst = 1\n\
         [[listener.route]]\nserver_names = [\"e.f\"]",
    )
    .routes;
    let rates: Vec<_> = routes.iter().map(|route| route.identity_rate).collect();
    assert_eq!(rates, [None, limit(7, 1), limit(5, 5), limit(5, 5)]);
    for (line, parts) in [
        ("rate = 1000001", ["out of range", "from 0 to 1000000"]),
        ("rate = 1\nburst = 0", ["burst", "from 1 to 1000000"]),
        ("burst = 5", ["there is no rate", "add rate"]),
        (
            "identity_burst = 5",
            ["no identity_rate", "add identity_rate"],
        ),
    ] {
        assert_error(&front(line), "ringgate.toml:", &parts);
    }
}

#[test]
fn how_long_clients_may_stay() {
    let config = accepted(FRONT);
    assert_eq!(config.listeners[0].tenure, Tenure::default());
    assert_eq!(config.live_revocation, LiveRevocation::Close);
    let config = accepted(&front(
        "close_on_expiry = true\nmax_age = \"8h\"\n[revocation]\nlive = \"dry_run\"\n",
    ));
    let expected = Tenure {
        until_expiry: true,
        max_age: Some(Duration::from_secs(8 * 3600)),
    };
    assert_eq!(config.listeners[0].tenure, expected);
    assert_eq!(config.live_revocation, LiveRevocation::DryRun);
    for (more, parts) in [
        ("max_age = \"0s\"", ["max_age", "out of range"]),
        ("close_on_expiry = 1", ["close_on_expiry", "true"]),
        (
            "[revocation]\nlive = \"maybe\"",
            ["not a choice", "dry_run"],
        ),
    ] {
        assert_error(&front(more), "ringgate.toml:", &parts);
    }
}
