//! Every scenario is a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Load, slowness and faults that must be held, each by a test of this name.
const ROWS: [&str; 24] = [
    "abort_at_every_point",
    "buffer_exhaustion",
    "cq_overflow",
    "drain_under_load",
    "fd_exhaustion",
    "garbage_senders",
    "handshake_storm",
    "io_uring_disabled",
    "old_kernel",
    "reload_broken",
    "reload_under_load",
    "revoke_live",
    "seccomp",
    "silent_handshakes",
    "slow_finished",
    "slow_hello",
    "slow_reader",
    "slow_upstream",
    "small_memlock",
    "upstream_down",
    "upstream_flapping",
    "upstream_resets",
    "upstream_slow_connect",
    "upgrade_under_load",
];

/// Names of the tests in the files below `folder`.
fn tests(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let marked = text.split("#[test]\nfn ").skip(1);
            names.extend(marked.filter_map(|rest| Some(rest.split_once("()")?.0.to_owned())));
        }
    }
}

#[test]
fn every_scenario_is_a_test() {
    let mut names = BTreeSet::new();
    tests(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"),
        &mut names,
    );
    let missing: Vec<_> = ROWS.iter().filter(|row| !names.contains(**row)).collect();
    assert!(missing.is_empty(), "no test is called {missing:?}");
}
