//! `ringgate-tune simulate`, the program itself.

use std::process::{Command, Output};

use serde_json::Value;

fn simulate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate-tune"));
    command.arg("simulate").args(arguments).output().unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = simulate(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_cost_a_rate_and_two_shards_give_a_prediction() {
    let json = json(&[
        "--shards",
        "2",
        "--rate-per-shard",
        "1500",
        "--cost",
        "full:367us",
    ]);
    let point = &json["points"][0];
    assert_eq!(point["placement"], "hash");
    assert_eq!(point["shards"], 2);
    let number = |name: &str| point[name].as_f64().unwrap();
    assert!((number("rate_per_s") - 3000.0).abs() < 1e-6);
    assert!((number("utilisation") - 0.5505).abs() < 0.01);
    assert!(number("p50_us") >= 367.0 && number("p99_us") > number("p50_us"));
    assert_eq!(json["points"].as_array().unwrap().len(), 3);
    assert_eq!(json["skews"].as_array().unwrap().len(), 3);
    assert!(number("arrivals") >= 1e5);
}

#[test]
fn tables_have_a_line_for_each_point() {
    let output = simulate(&[
        "--shards",
        "2,48",
        "--utilisation",
        "0.9",
        "--resume",
        "0.5",
    ]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("A new connection costs its shard 308 µs:"),
        "{text}"
    );
    assert_eq!(text.lines().filter(|line| line.contains("hash")).count(), 4);
    let overloaded = text.lines().find(|line| line.contains("48  steering"));
    assert!(
        overloaded.is_some_and(|line| line.contains("grows")),
        "{text}"
    );
}

#[test]
fn the_same_seed_gives_the_same_table() {
    let with = |seed| simulate(&["--shards", "4", "--utilisation", "0.6", "--seed", seed]).stdout;
    assert_eq!(with("3"), with("3"));
    assert_ne!(with("3"), with("4"));
}

#[test]
fn bad_arguments_are_named() {
    for (arguments, named) in [
        (&["--shards", "2,0"][..], "`0`"),
        (&["--shards", "9999"], "`9999`"),
        (&["--utilisation", "1.0"], "`1.0`"),
        (&["--utilisation", "NaN"], "`NaN`"),
        (&["--rate-per-shard", "-5"], "-5"),
        (
            &["--rate-per-shard", "5", "--utilisation", "0.5"],
            "--utilisation",
        ),
        (&["--cost", "full"], "`full`"),
        (&["--cost", "full:3"], "`3`"),
        (
            &["--cost", "full:3us", "--resume", "0.5"],
            "full:TIME,resumed:TIME",
        ),
        (&["--cost", "a:3us,b:4us"], "a, b"),
        (&["--resume", "1.5"], "`1.5`"),
        (&["--connections", "0"], "`0`"),
        (&["--seed", "x"], "x"),
    ] {
        let output = simulate(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains(named), "{arguments:?}: {stderr}");
    }
}
