//! A record that is judged again.

use std::fs;
use std::path::PathBuf;

use ringgate_tune::autotune::candidates::Candidate;
use ringgate_tune::autotune::record::{Record, Recorder, Replay};
use ringgate_tune::autotune::tournament::{Verdict, run};
use ringgate_tune::layout::Layout;

use crate::tournament::Fake;

fn candidates() -> Vec<Candidate> {
    let text = "version = 1\n[host]\nonline = \"0-1\"\ncores = 2\nnodes = 1\n[shards]\ncount = 1\n";
    let layout = Layout::parse(&PathBuf::from("layout.toml"), text).unwrap();
    let names = (0..13).map(|at| Candidate {
        name: format!("layout-{at}"),
        why: "a try".to_owned(),
        layout: layout.clone(),
    });
    names.collect()
}

fn file(name: &str, text: &str) -> PathBuf {
    let name = format!("{name}-{}.json", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_record_is_judged_as_it_was_when_it_was_measured() {
    let mut record = Record::new(1, &candidates());
    let mut host = Fake::equal(7);
    let mut recorder = Recorder {
        measure: &mut host,
        record: &mut record,
    };
    let outcome = run(&mut recorder, 12, 1, &mut |_| {});
    let path = file("replay", &record.to_json(&outcome));
    let read = Record::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(read == record, "what is read is not what was written");
    let again = run(&mut Replay::new(&read), 12, read.effort, &mut |_| {});
    assert!(
        again == outcome,
        "{:?}, not {:?}",
        again.verdict,
        outcome.verdict
    );

    let mut short = read.clone();
    short.blocks.truncate(40);
    let again = run(&mut Replay::new(&short), 12, 1, &mut |_| {});
    let expected = Verdict::Stopped("the record ends after 40 blocks".to_owned());
    assert_eq!(again.verdict, expected);

    let mut other = read;
    other.blocks[33].candidate = 11;
    let again = run(&mut Replay::new(&other), 12, 1, &mut |_| {});
    assert!(
        matches!(&again.verdict, Verdict::Stopped(reason) if reason.contains("block 34 of the record is of candidate 11")),
        "{:?}",
        again.verdict
    );
}

#[test]
fn what_is_no_record_is_named() {
    let record = serde_json::to_string(&Record::new(1, &candidates())).unwrap();
    for (name, text, named) in [
        ("no-json", "{".to_owned(), "EOF"),
        (
            "schema",
            record.replace("autotune/1", "autotune/9"),
            "ringgate-autotune/9",
        ),
        (
            "effort",
            record.replace("\"effort\":1", "\"effort\":0"),
            "effort of 0",
        ),
        (
            "fields",
            "{\"schema\":\"ringgate-autotune/1\"}".to_owned(),
            "missing field",
        ),
    ] {
        let path = file(name, &text);
        let error = Record::read(&path).unwrap_err();
        fs::remove_file(&path).unwrap();
        assert!(error.contains(named) && error.contains(name), "{error}");
    }
    let error = Record::read(&PathBuf::from("/nowhere/record.json")).unwrap_err();
    assert!(
        error.starts_with("/nowhere/record.json: cannot be read"),
        "{error}"
    );
}
