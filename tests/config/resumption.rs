//! Resumption, the secret of its keys, and the verdict cache.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output};
use std::time::Duration;

use ringgate::config::ResumptionOptions;
use ringgate::limits;

use crate::scratch::Scratch;
use crate::{FRONT, accepted, assert_error, front};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn defaults() {
    let config = accepted(FRONT);
    assert_eq!(
        config.resumption,
        ResumptionOptions {
            stek: None,
            rotation: 6 * HOUR,
            cap: 8 * HOUR,
            tickets: 1,
        }
    );
    let cache = config.verdict_cache;
    assert_eq!(
        (cache.entries, cache.ttl),
        (limits::VERDICTS_PER_SHARD, HOUR)
    );
}

#[test]
fn everything_set() {
    let config = accepted(&front(
        "[resumption]\nstek = \"stek.key\"\nrotation = \"30m\"\ncap = \"1h\"\ntickets = 2\n\
         [verdict_cache]\nentries = 10\nttl = \"5m\"\n",
    ));
    let resumption = config.resumption;
    let stek = resumption.stek.unwrap();
    assert_eq!(stek.path.to_str(), Some("/etc/ringgate/stek.key"));
    assert_eq!(
        (resumption.rotation, resumption.cap, resumption.tickets),
        (HOUR / 2, HOUR, 2)
    );
    let cache = config.verdict_cache;
    assert_eq!((cache.entries, cache.ttl), (10, HOUR / 12));
}

#[test]
fn what_is_wrong_is_told() {
    for (more, parts) in [
        (
            "[resumption]\nsteck = \"x\"",
            ["unknown key", "did you mean `stek`?"],
        ),
        (
            "[resumption]\nlifetime = \"1h\"",
            ["unknown key", "stek, rotation, cap, tickets"],
        ),
        (
            "[resumtion]\ncap = \"1h\"",
            ["unknown key", "did you mean `resumption`?"],
        ),
        ("[verdict_cache]\nsize = 1", ["unknown key", "entries, ttl"]),
        (
            "[resumption]\nrotation = \"1s\"",
            ["out of range", "from 1m to 168h"],
        ),
        (
            "[resumption]\ncap = \"169h\"",
            ["out of range", "from 1m to 168h"],
        ),
        ("[resumption]\ntickets = 5", ["out of range", "from 0 to 4"]),
        ("[resumption]\nstek = \"\"", ["is no path", "stek.key"]),
        (
            "[verdict_cache]\nentries = 1048577",
            ["out of range", "from 0 to 1048576"],
        ),
        (
            "[verdict_cache]\nttl = \"0s\"",
            ["out of range", "from 1s to 168h"],
        ),
    ] {
        assert_error(&front(more), "ringgate.toml:", &parts);
    }
}

/// Where `stek =` stands.
const LINE: usize = 10;

fn with_secret(content: &str, mode: u32) -> Scratch {
    let scratch = Scratch::new();
    scratch.write(
        "ringgate.toml",
        front("[resumption]\nstek = \"stek.key\"\n"),
    );
    scratch.write("stek.key", content);
    scratch.set_mode("stek.key", mode);
    scratch
}

#[test]
fn a_secret_is_for_its_owner_alone_and_long_enough() {
    let good = "0123456789abcdef0123456789abcdef\n";
    with_secret(good, 0o600).loaded();
    with_secret(good, 0o400).loaded();
    for mode in [0o640, 0o604, 0o660, 0o644] {
        let parts = [
            "stek.key",
            "open to group or others",
            &format!("mode 0{mode:o}"),
        ];
        with_secret(good, mode).assert_error(LINE, &parts);
    }
    let short = &good[1..];
    with_secret(short, 0o600).assert_error(LINE, &["holds 31 bytes", "ringgate stek new"]);
    with_secret("", 0o600).assert_error(LINE, &["holds 0 bytes"]);
    with_secret(&good.repeat(200), 0o600).assert_error(LINE, &["at most 4096"]);
    let missing = with_secret(good, 0o600);
    std::fs::remove_file(missing.path("stek.key")).unwrap();
    missing.assert_error(LINE, &["cannot read", "stek.key"]);
    // Even where nothing is sealed with it, and where the configuration itself is wrong.
    let unused = with_secret(short, 0o600);
    let line = "[resumption]\nstek = \"stek.key\"\ntickets = 0\n";
    unused.write("ringgate.toml", front(line));
    unused.assert_error(LINE, &["holds 31 bytes"]);
    unused.write("ringgate.toml", front(&format!("{line}colour = 1\n")));
    let said = unused.said();
    assert!(
        said.contains("unknown key") && said.contains("holds 31 bytes"),
        "{said}"
    );
}

#[test]
fn what_is_off_is_not_there() {
    let scratch = Scratch::new();
    let snapshot = scratch.loaded();
    assert!(snapshot.stek.is_some() && snapshot.verdict_cache.is_some());
    let off = "[resumption]\ntickets = 0\n[verdict_cache]\nentries = 0\n";
    scratch.write("ringgate.toml", front(off));
    let snapshot = scratch.loaded();
    assert!(snapshot.stek.is_none() && snapshot.verdict_cache.is_none());
}

/// Every configuration that a process loads has the same random secret.
#[test]
fn a_random_secret_outlives_a_reload() {
    let scratch = Scratch::new();
    let [before, after] = [(); 2].map(|()| scratch.loaded().stek.unwrap());
    assert_eq!(before.memory(), after.memory());
}

fn stek_new(file: &std::path::Path) -> Output {
    let program = env!("CARGO_BIN_EXE_ringgate");
    let mut command = Command::new(program);
    command.args(["stek", "new"]).arg(file).output().unwrap()
}

#[test]
fn stek_new_writes_a_secret_that_can_be_used_and_never_over_another() {
    let scratch = with_secret("", 0o600);
    let file = scratch.path("stek.key");
    std::fs::remove_file(&file).unwrap();
    let made = stek_new(&file);
    assert!(made.status.success() && made.stderr.is_empty() && made.stdout.is_empty());
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    scratch.loaded();
    let first = std::fs::read(&file).unwrap();

    let again = stek_new(&file);
    assert_eq!(again.status.code(), Some(1));
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(said.contains("stek.key exists"), "{said}");
    assert_eq!(std::fs::read(&file).unwrap(), first);

    let nowhere = stek_new(&scratch.path("missing/stek.key"));
    let said = String::from_utf8(nowhere.stderr).unwrap();
    assert!(
        !nowhere.status.success() && said.contains("cannot be made"),
        "{said}"
    );
}
