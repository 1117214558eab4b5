//! Configurations, good and bad: what is said of them, where, and what to do.

#[path = "../common/pem.rs"]
mod pem;
#[path = "../common/pki.rs"]
mod pki;

mod activation;
mod admin;
mod changes;
mod confined;
mod explain;
mod files;
mod listeners;
mod networks;
mod program;
mod resumption;
mod revocation;
mod rules;
mod running;
mod scratch;
mod settings;
mod spiffe;
mod supervised;
mod syntax;
mod upstreams;

use std::path::Path;

use ringgate::config::{self, Config};

/// A listener that lacks nothing; further lines go below it.
const FRONT: &str = r#"
[[listener]]
address = "127.0.0.1:8443"
certificate = "server.pem"
key = "server.key"
client_ca = "clients-ca.pem"
upstream = "127.0.0.1:8080"
rule = [{ name = "everyone", allow = { any = true } }]
"#;

/// [`FRONT`] with lines added.
fn front(more: &str) -> String {
    format!("{FRONT}{more}")
}

/// [`FRONT`] with one of its lines replaced.
fn front_with(key: &str, line: &str) -> String {
    let start = format!("{key} =");
    let lines = FRONT
        .lines()
        .map(|old| if old.starts_with(&start) { line } else { old });
    lines.fold(String::new(), |text, line| text + line + "\n")
}

fn accepted(text: &str) -> Config {
    match Config::parse(text, Path::new("/etc/ringgate/ringgate.toml")) {
        Ok(config) => config,
        Err(rejected) => panic!("{}", config::render(&rejected.errors)),
    }
}

/// What is said of a text that must not be accepted.
fn rejected(text: &str) -> String {
    let rejected = Config::parse(text, Path::new("ringgate.toml"));
    config::render(&rejected.expect_err("accepted").errors)
}

/// Asserts that `text` is rejected for this one thing, whose error begins and goes on so.
#[track_caller]
fn assert_error(text: &str, start: &str, parts: &[&str]) {
    let said = rejected(text);
    assert_eq!(
        said.matches("remedy: ").count(),
        1,
        "one error is expected, not:\n{said}"
    );
    assert!(said.starts_with(start), "`{start}` does not start:\n{said}");
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
}
