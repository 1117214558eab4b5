//! Who may import whom.

use crate::paths::paths;
use crate::source::{Source, expect_none, tree};

/// Modules that know nobody; everyone may know them.
const LEAF: [&str; 4] = ["block", "clock", "close_reason", "limits"];

/// A module of `src/`, and what else of the crate it may name; all but the leaf modules themselves
/// may also name [`LEAF`].
const TABLE: &[(&str, &[&str])] = &[
    ("block", &["limits"]),
    ("clock", &[]),
    ("close_reason", &[]),
    (
        "config",
        &[
            "trust::Policy",
            "trust::domain::RevocationPolicy",
            "trust::name",
            "trust::policy",
            "trust::spiffe",
        ],
    ),
    // What the kernel lets the process give up; its findings are for `doctor`.
    ("confinement", &["ring"]),
    ("connection", &["tls", "trust"]),
    (
        "control",
        &["config", "confinement", "shard::mailbox", "snapshot"],
    ),
    // Judges offline by what shards judge with; so it knows trust, which control does not.
    ("explain", &["snapshot", "trust"]),
    // The planner is a crate of its own, which knows nothing of this one.
    ("layout", &["config::ShardPlan"]),
    ("limits", &[]),
    ("ring", &[]),
    // The queue of handshakes looks at first messages to know whom to serve first.
    (
        "shard",
        &["connection", "ring", "snapshot", "tls::hello", "trust"],
    ),
    ("snapshot", &["config", "tls", "trust"]),
    (
        "terminator",
        &["config", "layout", "ring", "shard", "snapshot"],
    ),
    ("tls", &["trust"]),
    ("trust", &[]),
];

/// What of `ringgate` a program may name besides [`LEAF`], by the beginning of its files' paths.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("loadgen/", &["ring", "terminator"]),
    (
        "src/main.rs",
        &[
            "config",
            "confinement",
            "control",
            "explain",
            "layout",
            "terminator",
        ],
    ),
    ("tuning/", &[]),
];

fn violations(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        let Some((who, root, allowed)) = allowed_for(&source.path) else {
            if source.path.starts_with("src/") && source.path != "src/lib.rs" {
                violations.push(source.at(1, "is in no row of the import table"));
            }
            continue;
        };
        for path in paths(source).iter().filter(|path| path.head() == root) {
            let target = path.segments[1..].join("::");
            if target.is_empty() || is_below(&target, &who) {
                continue;
            }
            if !allowed.iter().any(|prefix| is_below(&target, prefix)) {
                let problem = format!("{who} may not import {target}, only {}", allowed.join(", "));
                violations.push(source.at(path.line, &problem));
            }
        }
    }
    violations
}

/// Who the file belongs to, how it names the crate, and what it may name of it; `None` for files
/// that may name anything.
fn allowed_for(path: &str) -> Option<(String, &'static str, Vec<&'static str>)> {
    let with_leaf = |others: &[&'static str]| [others, &LEAF].concat();
    for (prefix, others) in PROGRAMS {
        // Tests of a program may set up whatever they need.
        if path.starts_with(prefix) && !path.contains("/tests/") {
            return Some(((*prefix).to_owned(), "ringgate", with_leaf(others)));
        }
    }
    let module = path
        .strip_prefix("src/")?
        .split('/')
        .next()?
        .trim_end_matches(".rs");
    let (name, others) = TABLE.iter().find(|(name, _)| *name == module)?;
    let allowed = if LEAF.contains(name) {
        others.to_vec()
    } else {
        with_leaf(others)
    };
    Some(((*name).to_owned(), "crate", allowed))
}

/// Whether a path is `prefix` or lies below it.
fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[test]
fn import_table() {
    expect_none(&violations(&tree()));
}

#[test]
fn import_table_finds_what_breaks_it() {
    for (path, text, found) in [
        (
            "src/trust/domain.rs",
            "use crate::clock::Clock;\n\nuse crate::tls::Records;",
            3,
        ),
        ("src/limits.rs", "use crate::clock::Clock;", 1),
        (
            "src/tls/record.rs",
            "fn f() {\n super::super::shard::run(); }",
            2,
        ),
        (
            "src/control/mod.rs",
            "use crate::{config::A,\n shard::{mailbox::B, run}};",
            2,
        ),
        (
            "src/connection/mod.rs",
            "mod tests {\n use crate::ring::Ring; }",
            2,
        ),
        ("src/main.rs", "use ringgate::tls::Acceptor;", 1),
        (
            "loadgen/src/run.rs",
            "\nfn f() { ringgate::connection::x() }",
            2,
        ),
        (
            "loadgen/src/demo.rs",
            "use ringgate::snapshot::Snapshot;",
            1,
        ),
        ("tuning/src/main.rs", "use ringgate::ring::Ring;", 1),
        (
            "src/config/rule.rs",
            "use crate::trust::{Policy, TrustDomain};",
            1,
        ),
        ("src/helpers.rs", "", 1),
        ("src/shard/mod.rs", "use crate::Anything;", 1),
    ] {
        let violations = violations(&[Source::new(path, text)]);
        assert_eq!(violations.len(), 1, "{path}: {violations:?}");
        assert!(
            violations[0].starts_with(&format!("{path}:{found}: ")),
            "{violations:?}"
        );
    }
}

#[test]
fn import_table_lets_be_what_keeps_it() {
    for (path, text) in [
        (
            "src/trust/domain.rs",
            "use super::{Decision, Identity}; use crate::{clock, limits};",
        ),
        ("src/control/mod.rs", "use crate::shard::mailbox::Mailbox;"),
        (
            "src/block.rs",
            "use crate::limits::BLOCK_LEN; mod tests { use super::*; }",
        ),
        ("src/lib.rs", "pub use crate::tls::Acceptor;"),
        (
            "src/tls/mod.rs",
            "/// See `crate::shard`.\nfn f() { g(\"crate::shard::x\") }",
        ),
        (
            "loadgen/src/demo.rs",
            "use ringgate::{ring::Ring, terminator::Terminator};",
        ),
        ("loadgen/tests/demo.rs", "use ringgate::tls::Acceptor;"),
    ] {
        assert_eq!(violations(&[Source::new(path, text)]), [""; 0], "{path}");
    }
}
