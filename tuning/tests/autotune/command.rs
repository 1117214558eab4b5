//! The program itself, with other programs behind it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::fake::{SERVES, Stage, confirms, until};

const TUNE: &str = env!("CARGO_BIN_EXE_ringgate-tune");

/// One shard of one, so that there are few candidates.
const LAYOUT: &str = "version = 1\n[host]\nonline = \"ONLINE\"\ncores = CORES\nnodes = NODES\n\
                      [shards]\ncount = 1\n";

/// A layout of this host with a single shard.
fn layout(stage: &Stage) -> String {
    let output = Command::new(TUNE)
        .args(["inspect", "--json"])
        .output()
        .unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ids = json["online"].as_array().unwrap().iter();
    let ids: Vec<String> = ids.map(ToString::to_string).collect();
    let nodes = json["topology"]["nodes"].as_array().unwrap().iter();
    let nodes = nodes
        .filter(|node| !node["cpus"].as_array().unwrap().is_empty())
        .count();
    let cores = json["topology"]["cores"].as_array().unwrap().len();
    let text = LAYOUT.replace("ONLINE", &ids.join(","));
    let text = text
        .replace("CORES", &cores.to_string())
        .replace("NODES", &nodes.to_string());
    let path = stage.root.join("present.toml");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn tune(stage: &Stage, options: &[&str]) -> Command {
    let mut command = Command::new(TUNE);
    command
        .arg("autotune")
        .env("TMPDIR", stage.root.join("tmp"));
    command.args(["--config", "ringgate.toml", "--block", "1ms"]);
    command
        .arg("--ringgate")
        .arg(stage.server())
        .arg("--loadgen")
        .arg(stage.load());
    command.args(options);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

fn expect_no_file_left(stage: &Stage) {
    let left: Vec<_> = fs::read_dir(stage.root.join("tmp"))
        .unwrap()
        .flatten()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A server that shows its layout to the load, which confirms more where it has small rings.
fn with_a_winner(name: &str) -> Stage {
    let server = format!("cp \"$LAYOUT\" \"$ROOT/layout\"\n{SERVES}");
    let load = format!(
        "rate=5000.0\ngrep -q 'entries = 1024' \"$ROOT/layout\" && rate=6000.0\n{}",
        confirms("$rate")
    );
    Stage::new(name, &server, &load)
}

#[test]
fn a_winner_is_adopted_written_and_judged_the_same_again() {
    let stage = with_a_winner("winner");
    let (result, winner) = (stage.root.join("all.json"), stage.root.join("winner.toml"));
    let (layout, files) = (
        layout(&stage),
        [&result, &winner].map(|it| it.display().to_string()),
    );
    let options = [
        "--layout", &layout, "--json", &files[0], "--out", &files[1], "--", "host:1",
    ];
    let output = tune(&stage, &options).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    stage.expect_nothing_left();
    expect_no_file_left(&stage);
    let verdict = "adopt entries-few: confirmed a second +20.0 % (+20.0 % to +20.0 %)";
    assert!(
        text(&output.stdout).contains(verdict),
        "{}",
        text(&output.stdout)
    );
    let written = fs::read_to_string(&winner).unwrap();
    assert!(written.starts_with("# entries-few: ") && written.contains("entries = 1024"));
    let json = json(&result);
    assert_eq!(json["outcome"]["verdict"]["adopt"]["gain"], "rate");
    assert_eq!(json["candidates"][0]["name"], "present");

    let replay: Output = Command::new(TUNE)
        .args(["autotune", "--replay", &files[0]])
        .output()
        .unwrap();
    assert!(replay.status.success());
    let first = text(&output.stdout);
    let first = first
        .strip_suffix(&format!("{}: its layout\n", files[1]))
        .unwrap();
    assert_eq!(text(&replay.stdout), first);
}

#[test]
fn ctrl_c_leaves_no_process_and_no_file() {
    for signal in [Signal::INT, Signal::TERM] {
        let name = format!("signal-{}", signal.as_raw());
        let stage = Stage::new(&name, SERVES, "exec sleep 600");
        let result = stage.root.join("all.json").display().to_string();
        let layout = layout(&stage);
        let mut command = tune(
            &stage,
            &["--layout", &layout, "--json", &result, "--", "host:1"],
        );
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until("the load", || stage.read("pids").lines().count() == 2);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("no verdict: interrupted"));
        stage.expect_nothing_left();
        expect_no_file_left(&stage);
        assert_eq!(
            json(Path::new(&result))["blocks"].as_array().unwrap().len(),
            1
        );
    }
}

#[test]
fn a_present_layout_that_does_not_start_is_an_error_that_says_why() {
    let stage = Stage::new(
        "broken",
        "echo 'ringgate.toml: no such file' >&2; exit 1",
        "exit 0",
    );
    let output = tune(&stage, &["--", "host:1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(
        said.contains("the present layout: the server did not start: ringgate.toml: no such file"),
        "{said}"
    );
    expect_no_file_left(&stage);
}

#[test]
fn bad_arguments_are_named() {
    let stage = Stage::new("arguments", SERVES, "exit 0");
    for (options, named) in [
        (
            &["--", "host:1", "--duration", "5s"][..],
            "leave out --duration",
        ),
        (&["--", "host:1", "-d5s"], "--block says"),
        (&["--", "host:1", "--json=x"], "leave out --json"),
        (
            &["--", "host:1", "--server-pid", "1"],
            "leave out --server-pid",
        ),
        (&["--", "run", "host:1"], "leave out `run`"),
        (&["--effort", "0", "--", "host:1"], "`0`"),
        (&["--block", "2", "--", "host:1"], "`2`"),
        (
            &["--layout", "/nowhere.toml", "--", "host:1"],
            "/nowhere.toml: cannot be read",
        ),
        (&[], "<LOAD>"),
    ] {
        let mut command = tune(&stage, &[]);
        // The last one counts nowhere: clap refuses a second.
        if options.first() == Some(&"--block") {
            command = Command::new(TUNE);
            command.args(["autotune", "--config", "x"]);
        }
        let output = command.args(options).output().unwrap();
        assert!(!output.status.success(), "{options:?}");
        assert!(
            text(&output.stderr).contains(named),
            "{options:?}: {}",
            text(&output.stderr)
        );
    }
    assert_eq!(stage.read("calls"), "", "nothing was started");
}

#[test]
fn a_layout_of_another_host_is_refused_before_anything_starts() {
    let stage = Stage::new("other-host", SERVES, "exit 0");
    let path = stage.root.join("other.toml");
    let other = LAYOUT.replace("ONLINE", "0-4095").replace("CORES", "4096");
    fs::write(&path, other.replace("NODES", "8")).unwrap();
    let path = path.display().to_string();
    let output = tune(&stage, &["--layout", &path, "--", "host:1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("this layout is of a host with CPUs 0-4095"),
        "{said}"
    );
    assert_eq!(stage.read("calls"), "");
}
