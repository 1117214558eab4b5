//! The program itself.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use ringgate_tune::layout::Layout;

use crate::fixture::Machine;
use crate::machines;

fn inspect(machine: Option<&Machine>, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate-tune"));
    command.arg("inspect").args(arguments);
    if let Some(machine) = machine {
        let host = machine.host();
        command
            .arg("--sysfs")
            .arg(host.sysfs)
            .arg("--proc")
            .arg(host.proc);
    }
    command.output().unwrap()
}

#[test]
fn json_holds_what_was_read() {
    let machine = Machine::regular("json", 1, 2, 2);
    machine
        .allowed("1-3")
        .group_v2("/", &[("cpu.max", "150000 100000")]);
    let output = inspect(Some(&machine), &["--json"]);
    assert!(output.status.success());
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["usable"], serde_json::json!([1, 2, 3]));
    assert_eq!(json["cgroup"]["quota"]["cpus"], 1.5);
    assert_eq!(
        json["topology"]["cores"],
        serde_json::json!([[0, 2], [1, 3]])
    );
    assert_eq!(json["topology"]["llcs"][0]["level"], 3);
    assert_eq!(json["notes"], serde_json::json!([]));
}

#[test]
fn the_table_shows_sets_groups_and_notes() {
    let machine = Machine::regular("table", 1, 2, 2);
    machine.without("devices/system/node");
    let output = inspect(Some(&machine), &[]);
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout).unwrap();
    for line in [
        "  usable    0-3  (4)",
        "  quota     not limited",
        "  cores     2, with SMT siblings",
        "  LLC       0-3  L3 32768K",
        "   3        0  1,3          L3 0-3            -         -       -  yes",
        "  sys/devices/system/node: missing",
    ] {
        assert!(
            table.lines().any(|shown| shown == line),
            "`{line}` in\n{table}"
        );
    }
}

#[test]
fn this_host_has_a_usable_cpu() {
    let output = inspect(None, &["--json"]);
    assert!(output.status.success());
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!json["usable"].as_array().unwrap().is_empty(), "{json:#}");
}

#[test]
fn one_root_without_the_other_is_refused() {
    let output = inspect(None, &["--sysfs", "/nowhere"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("--proc"));
}

/// The program with the machine's roots.
fn tune(machine: &Machine, arguments: &[&str]) -> Output {
    let host = machine.host();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate-tune"));
    command.args(arguments);
    command.arg("--sysfs").arg(host.sysfs);
    command.arg("--proc").arg(host.proc).output().unwrap()
}

/// A file beside the machine's trees, gone with them.
fn file_of(machine: &Machine, text: &[u8]) -> String {
    let file = machine.host().sysfs.with_file_name("layout.toml");
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn json_holds_cards_abilities_and_remedies() {
    let machine = machines::make("virtual_machine", "json_all");
    machine.resources(("65536", "65536"), ("1024", "524288"));
    let output = inspect(Some(&machine), &["--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["nics"][0]["name"], "eth0");
    assert_eq!(json["nics"][0]["irqs"][0]["name"], "virtio40-input.0");
    assert_eq!(json["nics"][0]["irqs"][0]["queue"], 0);
    assert_eq!(json["abilities"]["kernel"], "6.12.0");
    assert_eq!(json["hindrances"][0]["docker"], "--ulimit memlock=-1");
}

#[test]
fn what_plan_prints_is_a_layout_that_explain_shows() {
    let machine = machines::make("small_smt", "plan_explain");
    let plan = tune(
        &machine,
        &["plan", "--nic", "eth0", "--reserve", "1", "--smt", "on"],
    );
    assert!(plan.status.success());
    assert!(plan.stderr.is_empty(), "{:?}", plan.stderr);
    let layout = file_of(&machine, &plan.stdout);
    let picture = tune(&machine, &["explain", &layout]);
    assert!(picture.status.success(), "{picture:?}");
    let text = String::from_utf8(picture.stdout).unwrap();
    assert!(
        text.starts_with("3 shards, each pinned to its CPU\n"),
        "{text}"
    );
    assert!(text.contains("core 0,2    0 shard 0 "), "{text}");
}

#[test]
fn what_was_asked_for_and_cannot_be_is_on_standard_error_too() {
    let machine = machines::make("virtual_machine", "cannot_be");
    machine.without("devices/system/node");
    let plan = tune(&machine, &["plan", "--reserve", "9"]);
    assert!(plan.status.success());
    let errors = String::from_utf8(plan.stderr).unwrap();
    let named = "--reserve 9: of 2 usable cores none can be given away";
    assert!(errors.contains(named), "{errors}");
    assert!(
        errors.contains("sys/devices/system/node: missing"),
        "{errors}"
    );
    assert!(String::from_utf8(plan.stdout).unwrap().contains(named));
}

#[test]
fn a_card_that_is_not_there_is_a_failure_and_prints_no_layout() {
    let machine = machines::make("virtual_machine", "no_card");
    for command in ["plan", "inspect"] {
        let output = tune(&machine, &[command, "--nic", "eth9"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.contains("no network interface is called `eth9`; there are eth0"),
            "{error}"
        );
    }
}

#[test]
fn a_layout_that_cannot_be_read_is_a_failure_with_every_error() {
    let machine = machines::make("virtual_machine", "bad_layout");
    let text =
        b"version = 9\n[host]\nonline = \"0-x\"\ncores = 2\nnodes = 1\n[shards]\ncount = 0\n";
    let layout = file_of(&machine, text);
    for (layout, lines) in [(layout.as_str(), 3), ("/nonexistent/layout.toml", 1)] {
        let output = tune(&machine, &["explain", layout]);
        assert_eq!(output.status.code(), Some(1));
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(errors.lines().count(), lines, "{errors}");
        assert!(
            errors.lines().all(|line| line.contains("layout.toml")),
            "{errors}"
        );
    }
}

#[test]
fn wrong_use_is_status_two() {
    let machine = machines::make("virtual_machine", "wrong_use");
    for arguments in [
        &["plan", "--smt", "maybe"][..],
        &["plan", "--reserve", "-1"],
        &["plan", "--steering", "luck"],
        &["explain"],
        &["guess"],
    ] {
        assert_eq!(
            tune(&machine, arguments).status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
}

#[test]
fn this_host_gets_a_plan_that_fits_it() {
    let plan = Command::new(env!("CARGO_BIN_EXE_ringgate-tune"))
        .arg("plan")
        .output()
        .unwrap();
    assert!(plan.status.success());
    let text = String::from_utf8(plan.stdout).unwrap();
    let layout = Layout::parse(Path::new("layout.toml"), &text).unwrap();
    assert!(layout.shard_count() >= 1);
}
