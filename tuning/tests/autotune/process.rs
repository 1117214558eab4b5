//! Blocks by programs that do, and that do not do, what they should.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringgate_tune::autotune::process::{Bench, Deadlines, Programs};
use ringgate_tune::autotune::{Block, Failure, Measure};

use crate::fake::{PATIENCE, SERVES, Stage, confirms, until};

/// Deadlines of programs that do nothing for long.
const SHORT: Deadlines = Deadlines {
    listen: Duration::from_millis(400),
    load: Duration::from_millis(400),
    end: Duration::from_millis(400),
};

/// Deadlines that no program should meet.
const LONG: Deadlines = Deadlines {
    listen: PATIENCE,
    load: PATIENCE,
    end: PATIENCE,
};

fn bench(stage: &Stage, deadlines: Deadlines) -> (Bench, Arc<AtomicBool>) {
    let programs = Programs {
        ringgate: stage.server(),
        loadgen: stage.load(),
        config: "ringgate.toml".into(),
        load: vec!["host:1".to_owned(), "--rate".to_owned(), "5".to_owned()],
        block: Duration::from_millis(50),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let layouts = vec!["present = 1\n".to_owned(), "other = 1\n".to_owned()];
    (
        Bench::new(programs, deadlines, layouts, stop.clone()).unwrap(),
        stop,
    )
}

/// One block of candidate 1; everything it started has ended by then.
fn block(stage: &Stage, deadlines: Deadlines) -> Result<Block, Failure> {
    let (mut bench, _) = bench(stage, deadlines);
    let begun = Instant::now();
    let block = bench.block(1);
    assert!(begun.elapsed() < PATIENCE);
    stage.expect_nothing_left();
    block
}

fn reason(block: Result<Block, Failure>) -> String {
    match block {
        Err(Failure::Candidate(reason)) => reason,
        other => panic!("{other:?} is no failure of the candidate"),
    }
}

#[test]
fn a_block_is_what_the_load_generator_says() {
    let server = format!("cp \"$LAYOUT\" \"$ROOT/layout\"\n{SERVES}");
    let stage = Stage::new("block", &server, &confirms("5000.25"));
    let expected = Block {
        confirmed_per_s: 5000.25,
        p99_us: Some(2500.5),
        server_cpu_us_per_unit: Some(360.5),
        held: true,
        limited: false,
    };
    assert_eq!(block(&stage, LONG), Ok(expected));
    assert_eq!(stage.read("layout"), "other = 1\n");
    let (calls, pids) = (stage.read("calls"), stage.read("pids"));
    let calls: Vec<&str> = calls.lines().collect();
    assert!(
        calls[0].contains("ringgate run -c ringgate.toml --layout /"),
        "{calls:?}"
    );
    let load = "ringgate-loadgen run host:1 --rate 5 --quiet --duration 50ms --server-pid ";
    let load = format!("{load}{} --json /", pids.lines().next().unwrap());
    assert!(calls[1].contains(&load), "{calls:?}, {load}");
}

#[test]
fn a_server_that_logs_json_is_heard_too() {
    let server = "echo '{\"level\":\"INFO\",\"message\":\"listening\"}' >&2\nexec sleep 600";
    let stage = Stage::new("json", server, &confirms("1.0"));
    assert!(block(&stage, LONG).is_ok());
}

#[test]
fn exit_codes_of_the_load_tell_what_its_result_is_worth() {
    let stage = Stage::new("99", SERVES, &(confirms("5000.0") + "exit 99"));
    let missed = block(&stage, LONG).unwrap();
    assert!(!missed.held && !missed.limited && missed.confirmed_per_s > 0.0);
    let stage = Stage::new("3", SERVES, "exit 3");
    assert!(block(&stage, LONG).unwrap().limited);
    let stage = Stage::new("2", SERVES, "echo refused >&2\nexit 2");
    assert_eq!(reason(block(&stage, LONG)), "the load failed: refused");
    let stage = Stage::new("1", SERVES, "echo 'no such option' >&2\nexit 1");
    let expected = Failure::Stop("the load cannot be run: no such option".to_owned());
    assert_eq!(block(&stage, LONG), Err(expected));
    let stage = Stage::new("0", SERVES, "exit 0");
    let without = block(&stage, LONG);
    assert!(
        matches!(&without, Err(Failure::Stop(it)) if it.contains("result")),
        "{without:?}"
    );
    let stage = Stage::new(
        "odd",
        SERVES,
        "echo '{\"schema\":\"x/9\",\"phases\":[]}' >\"$RESULT\"",
    );
    let other = block(&stage, LONG);
    assert!(
        matches!(&other, Err(Failure::Stop(it)) if it.contains("`x/9`")),
        "{other:?}"
    );
}

#[test]
fn a_result_of_the_block_before_is_not_taken_for_this_ones() {
    let load = format!(
        "[ -e \"$ROOT/once\" ] && exit 0\ntouch \"$ROOT/once\"\n{}",
        confirms("1.0")
    );
    let stage = Stage::new("stale", SERVES, &load);
    let (mut bench, _) = bench(&stage, LONG);
    assert!(bench.block(0).is_ok());
    assert!(matches!(bench.block(0), Err(Failure::Stop(_))));
}

#[test]
fn a_server_that_does_not_start_is_named_by_its_last_words() {
    let stage = Stage::new("dies", "echo 'CPU 9 is not here' >&2\nexit 1", "exit 0");
    assert_eq!(
        reason(block(&stage, LONG)),
        "the server did not start: CPU 9 is not here"
    );
    assert_eq!(
        stage.read("calls").lines().count(),
        1,
        "no load on a server that is not there"
    );
}

#[test]
fn a_server_that_never_listens_is_given_up() {
    let stage = Stage::new(
        "mute",
        "sleep 600 &\necho $! >>\"$ROOT/pids\"\nwait",
        "exit 0",
    );
    assert!(reason(block(&stage, SHORT)).contains("did not say within 400ms that it listens"));
}

#[test]
fn a_server_that_ends_under_load_ends_the_block() {
    let server = "echo ' listening address=1' >&2\nuntil [ -e \"$ROOT/load\" ]; do sleep 0.01; done\n\
                  echo overrun >&2\nexit 4";
    let stage = Stage::new("under-load", server, "touch \"$ROOT/load\"\nexec sleep 600");
    let reason = reason(block(&stage, LONG));
    assert!(
        reason.starts_with("the server ended under load: "),
        "{reason}"
    );
    assert!(reason.ends_with("overrun"), "{reason}");
}

#[test]
fn a_load_that_hangs_is_bounded() {
    let stage = Stage::new(
        "hangs",
        SERVES,
        "sleep 600 &\necho $! >>\"$ROOT/pids\"\nwait",
    );
    assert_eq!(
        reason(block(&stage, SHORT)),
        "the load did not end within 450ms"
    );
}

#[test]
fn a_server_that_does_not_heed_sigterm_is_killed_and_noted() {
    let server = "trap '' TERM\necho ' listening address=1' >&2\nwhile :; do sleep 0.05; done";
    let stage = Stage::new("deaf", server, &confirms("7.0"));
    let (mut bench, _) = bench(&stage, SHORT);
    assert_eq!(bench.block(1).unwrap().confirmed_per_s, 7.0);
    stage.expect_nothing_left();
    assert_eq!(bench.notes.len(), 1);
    assert!(
        bench.notes[0].contains("after SIGTERM, and was killed"),
        "{:?}",
        bench.notes
    );
}

#[test]
fn a_server_that_says_much_is_not_stopped_by_it() {
    let server = format!(
        "i=0\nwhile [ $i -lt 3000 ]; do echo 'a line of the access log, as long as they are, and \
         longer than one would think' >&2; i=$((i+1)); done\n{SERVES}"
    );
    let stage = Stage::new("talks", &server, &confirms("1.0"));
    assert!(block(&stage, LONG).is_ok());
}

#[test]
fn a_program_that_is_missing_is_named_with_its_option() {
    let stage = Stage::new("missing", SERVES, "exit 0");
    std::fs::remove_file(stage.load()).unwrap();
    let error = block(&stage, LONG);
    assert!(
        matches!(&error, Err(Failure::Stop(it)) if it.contains("ringgate-loadgen: ") && it.contains("--loadgen")),
        "{error:?}"
    );
}

#[test]
fn what_is_stopped_ends_at_once() {
    let stage = Stage::new("stopped", SERVES, "exec sleep 600");
    let (mut bench, stop) = bench(&stage, LONG);
    let begun = Instant::now();
    let block = std::thread::scope(|scope| {
        let block = scope.spawn(|| bench.block(0));
        until("the load", || stage.read("pids").lines().count() == 2);
        stop.store(true, Ordering::Relaxed);
        block.join().unwrap()
    });
    assert_eq!(block, Err(Failure::Stop("interrupted".to_owned())));
    assert!(begun.elapsed() < PATIENCE);
    stage.expect_nothing_left();
    assert_eq!(bench.block(0), block, "and nothing more is started");
    assert_eq!(stage.read("pids").lines().count(), 2);
}
