//! The text as a whole: TOML, keys and types.

use crate::{FRONT, accepted, assert_error, front, front_with, rejected};

#[test]
fn five_lines_suffice() {
    let config = accepted(FRONT);
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(&*config.listeners[0].name, "127.0.0.1:8443");
}

#[test]
fn an_empty_file_is_told_what_a_listener_needs() {
    for text in ["", "# nothing\n", "\n\n"] {
        assert_error(
            text,
            "ringgate.toml: `listener` is missing",
            &["[[listener]]", "client_ca"],
        );
    }
}

#[test]
fn wrong_syntax_names_its_line() {
    assert_error(
        "[[listener]]\naddress = \n",
        "ringgate.toml:2: not valid TOML",
        &[],
    );
    let text = front("\naddress = \"127.0.0.1:1\"\n");
    assert_error(
        &text,
        "ringgate.toml:10: not valid TOML: duplicate key",
        &[],
    );
}

#[test]
fn garbage_is_refused_without_a_flood_of_errors() {
    for text in [
        "\0\u{1}\u{2}",
        "-----BEGIN CERTIFICATE-----",
        "{{{{",
        &"[".repeat(10_000),
    ] {
        let said = rejected(text);
        assert!(
            (1..=5).contains(&said.matches("remedy: ").count()),
            "{said}"
        );
        assert!(
            !said
                .chars()
                .any(|character| character.is_control() && character != '\n')
        );
    }
}

#[test]
fn every_error_is_reported_at_once_in_the_order_of_lines() {
    let said = rejected(
        "[[listener]]\naddress = \"here\"\ncertificate = 3\nkei = \"server.key\"\n\
         upstream = \"app\"\nrule = []\n[drain]\ntimeout = 5\n",
    );
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.starts_with("  remedy"))
        .collect();
    let starts = [
        "ringgate.toml:1: listener[0]: `key` is missing",
        "ringgate.toml:1: listener[0]: `client_ca` is missing",
        "ringgate.toml:2: listener[0].address = \"here\": is no IP address with a port",
        "ringgate.toml:3: listener[0].certificate = 3: is an integer, not a string",
        "ringgate.toml:4: listener[0].kei = \"server.key\": unknown key",
        "ringgate.toml:5: listener[0].upstream = \"app\": is no IP address or name with a port",
        "ringgate.toml:6: listener[0].rule = []: no rule allows anybody",
        "ringgate.toml:8: drain.timeout = 5: is an integer, not a string",
    ];
    assert_eq!(lines.len(), starts.len(), "{said}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "`{start}` does not start `{line}`");
    }
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    for (more, key, meant) in [
        ("adress = \"x\"", "listener[0].adress = \"x\"", "`address`"),
        (
            "client-ca = \"x\"",
            "listener[0].client-ca = \"x\"",
            "`client_ca`",
        ),
        (
            "balanced = \"x\"",
            "listener[0].balanced = \"x\"",
            "`balance`",
        ),
        (
            "[log]\nformats = \"json\"",
            "log.formats = \"json\"",
            "`format`",
        ),
        ("[limit]\nx = 1", "limit", "`limits`"),
    ] {
        let text = front(more);
        let line = if more.starts_with("[log]") { 10 } else { 9 };
        let start = format!("ringgate.toml:{line}: {key}: unknown key");
        assert_error(&text, &start, &[&format!("did you mean {meant}?")]);
    }
    let text = front("[drain]\ncolour = \"blue\"");
    assert_error(
        &text,
        "ringgate.toml:10: drain.colour",
        &["known here: notice, timeout"],
    );
}

#[test]
fn wrong_types_say_what_is_wanted() {
    for (more, parts) in [
        (
            "proxy_client_certificate = \"yes\"",
            ["is a string, not a boolean", "without quotes"],
        ),
        (
            "idle_timeout = 10",
            ["is an integer, not a string", "\"10s\""],
        ),
        ("alpn = [1]", ["alpn[0] = 1: is an integer", "\"h2\""]),
        (
            "crl = { file = \"x\" }",
            ["is a table, not a string", "revoked.pem"],
        ),
        (
            "route = 1",
            ["is an integer, not a list of tables", "[[listener.route]]"],
        ),
    ] {
        assert_error(&front(more), "ringgate.toml:9: listener[0].", &parts);
    }
    assert_error(
        "listener = 1",
        "ringgate.toml:1: listener = 1: is an integer",
        &["[[listener]]"],
    );
    assert_error(
        &front("[limits]\nconnections = 1.5"),
        "ringgate.toml:10:",
        &["is a float"],
    );
    assert_error(
        &format!("log = 1\n{FRONT}"),
        "ringgate.toml:1: log = 1",
        &["[log]"],
    );
}

#[test]
fn values_with_control_characters_cannot_reach_the_terminal() {
    let text = front_with("upstream", "upstream = \"app\\u001b[2J:80\"");
    assert!(!rejected(&text).contains('\u{1b}'));
    let text = front("\"\\u001b[2J\" = 1");
    assert!(!rejected(&text).contains('\u{1b}'));
}
