//! What is written, and what is made of it: search, plan, compare, merge.

use std::process::Command;

use crate::program::{World, told};
use crate::server::Behaviour;

fn program(line: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate-loadgen"));
    command.args(line.split_whitespace());
    told(command.output().unwrap())
}

#[test]
fn a_run_is_written_in_every_form_and_read_back() {
    let world = World::new("forms", Behaviour::Echo);
    let (json, csv, hlog) = (
        world.path("r.json"),
        world.path("r.csv"),
        world.path("r.hlog"),
    );
    // The server is this test: its CPU time is somebody's, and that is all that matters here.
    let pid = std::process::id();
    let (code, text) = world.run(&format!(
        "-c 2 -d 1s --resume 0.5 --server-pid {pid} --json {json} --csv {csv} --hlog {hlog}"
    ));
    // 3 where this host is short of CPU time; everything is written all the same.
    assert!(matches!(code, Some(0 | 3)), "{text}");

    let table = std::fs::read_to_string(&csv).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("second,begun,confirmed") && lines.len() > 5,
        "{table}"
    );

    let (code, text) = program(&format!("merge {hlog} {hlog} --hlog {hlog}.both"));
    assert_eq!(code, Some(0), "{text}");
    let count = |text: &str| -> u64 {
        let unit = text.lines().find(|line| line.starts_with("unit ")).unwrap();
        unit.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (code, once) = program(&format!("merge {hlog}"));
    assert_eq!((code, count(&text)), (Some(0), 2 * count(&once)));
    let (_, merged) = program(&format!("merge {hlog}.both"));
    assert_eq!(count(&merged), count(&text));

    let (code, text) = program(&format!("compare {json} {json}"));
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("1.000") && text.contains("no difference shown"),
        "{text}"
    );

    let plan = format!("plan --from {json} --rate 50k --cores-per-host 8");
    let (code, text) = program(&format!("{plan} --resume 0.5"));
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.starts_with("50000 connections a second, 50% of them resumed"),
        "{text}"
    );
    let (code, text) = program(&format!("{plan} --resume 1"));
    assert_eq!(
        code,
        Some(1),
        "a mix alone says nothing of its parts: {text}"
    );
    assert!(text.contains("--resume 1"), "{text}");
}

#[test]
fn files_that_are_no_results_are_named() {
    let world = World::new("bad-files", Behaviour::Echo);
    let json = world.path("r.json");
    world.run(&format!("-d 200ms --quiet --json {json}"));
    let whole = std::fs::read_to_string(&json).unwrap();
    std::fs::write(&json, &whole[..whole.len() / 2]).unwrap();
    let old = world.path("old.json");
    std::fs::write(
        &old,
        whole.replace("ringgate-loadgen/1", "ringgate-loadgen/0"),
    )
    .unwrap();
    for (line, named) in [
        (format!("compare {json} {json}"), "r.json"),
        (format!("compare {old} {old}"), "ringgate-loadgen/0"),
        (format!("plan --rate 1k --from {json}"), "r.json"),
        ("plan --rate 1k --from none.json".to_owned(), "none.json"),
        (format!("merge {json}"), "--hlog"),
        (format!("merge {json}.none"), "r.json.none"),
    ] {
        let (code, text) = program(&line);
        assert_eq!(code, Some(1), "{line}: {text}");
        assert!(
            text.contains(named) && text.lines().count() == 1,
            "{line}: {text}"
        );
    }
}

#[test]
fn a_search_ends_with_an_answer() {
    let behaviour = Behaviour::Echo;
    let world = World::new("search", behaviour);
    let json = world.path("s.json");
    let line = format!(
        "--slo p50<2s,err<1% --start 50 --arrival uniform --precision 50% -c 1 -d 200ms --timeout 3s --json {json}"
    );
    let (code, text) = told(world.command_of("search", &line).output().unwrap());
    // However fast this machine is, and whatever else it does: an answer, or why there is none.
    let said = match code {
        Some(0) => "confirmed 3 times",
        Some(2) => "no rate was found",
        Some(3) => "the generator was the limit",
        _ => panic!("{code:?}: {text}"),
    };
    assert!(text.contains(said), "{text}");
    let result: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert!(!result["search"]["trials"].as_array().unwrap().is_empty());
    if code == Some(0) {
        assert!(result["search"]["rate"].as_f64().unwrap() > 0.0);
        assert_eq!(result["settings"]["mode"], "handshake");
    }
}

#[test]
fn a_search_of_what_cannot_be_held_says_so() {
    let world = World::new("search-none", Behaviour::Silent);
    let line = "--slo p99<1ms --start 4 --timeout 100ms -c 1 -d 100ms";
    let (code, text) = told(world.command_of("search", line).output().unwrap());
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("no rate was found"), "{text}");
}
