//! The program itself.

use std::process::{Command, Output};

use serde_json::Value;

use crate::fixture::Machine;

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
