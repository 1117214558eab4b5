//! What is printed for each machine, word for word.
//!
//! `RINGGATE_SNAPSHOTS=write` writes the files anew; read them before they are committed.

use std::path::PathBuf;
use std::{env, fs};

use ringgate_tune::explain::Picture;
use ringgate_tune::layout::Layout;
use ringgate_tune::plan::{Plan, PlanOptions, plan};
use ringgate_tune::table::Table;

use crate::machines;

/// Compares, and returns what differs.
fn compare(name: &str, text: &str) -> Option<String> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/host/snapshots")
        .join(format!("{name}.txt"));
    if env::var_os("RINGGATE_SNAPSHOTS").is_some_and(|value| value == "write") {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        return None;
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    if expected == text {
        return None;
    }
    let mut lines = expected.lines().zip(text.lines()).enumerate();
    let differs = lines.find(|(_, (expected, found))| expected != found);
    Some(match differs {
        Some((at, (expected, found))) => {
            format!(
                "{name}, line {}:\n  expected {expected}\n  found    {found}",
                at + 1
            )
        }
        None => format!(
            "{name}: {} lines expected, {} found",
            expected.lines().count(),
            text.lines().count()
        ),
    })
}

#[test]
fn each_machine_is_shown_planned_and_explained_as_before() {
    let mut differences = Vec::new();
    for (name, _) in machines::ALL {
        let here = machines::inspection(name);
        let plan = Plan::new(here, &PlanOptions::default());
        let picture = Picture {
            layout: &plan.layout,
            here,
        };
        differences.extend(compare(
            &format!("{name}.inspect"),
            &Table(here).to_string(),
        ));
        differences.extend(compare(&format!("{name}.plan"), &plan.to_toml()));
        differences.extend(compare(&format!("{name}.explain"), &picture.to_string()));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn options_change_the_plan_as_before() {
    let smt = PlanOptions {
        smt: true,
        steering: ringgate_tune::layout::Steering::Cpu,
        ..PlanOptions::default()
    };
    let reserve = PlanOptions {
        reserve: 100,
        nics: vec!["bond0".to_owned()],
        ..PlanOptions::default()
    };
    let mut differences = Vec::new();
    for (name, machine, options) in [
        ("one_socket-smt-cpu.plan", "one_socket", &smt),
        ("small_smt-smt-cpu.plan", "small_smt", &smt),
        ("bond-reserve.plan", "bond", &reserve),
    ] {
        let here = machines::inspection(machine);
        differences.extend(compare(name, &Plan::new(here, options).to_toml()));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn a_layout_of_another_host_is_explained_with_what_does_not_fit() {
    let elsewhere = machines::inspection("one_socket");
    let here = machines::inspection("virtual_machine");
    let layout: Layout = plan(elsewhere, &PlanOptions::default());
    let picture = Picture {
        layout: &layout,
        here,
    };
    assert_eq!(compare("elsewhere.explain", &picture.to_string()), None);
}
