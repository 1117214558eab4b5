//! The whole demo, short: terminator, echo upstream and load in one process.

use std::time::Duration;

use ringgate_loadgen::args::DemoArgs;
use ringgate_loadgen::cli::Status;
use ringgate_loadgen::demo;
use ringgate_loadgen::pki::KeyKind;

#[test]
fn every_identity_is_delivered_and_strangers_are_refused() {
    let file = format!("ringgate-demo-test-{}.json", std::process::id());
    let json = std::env::temp_dir().join(file);
    let args = DemoArgs {
        duration: Duration::from_secs(1),
        json: Some(json.clone()),
        keep: false,
        key: KeyKind::P256,
        intermediate: true,
    };
    let status = demo::run(&args);
    let text = std::fs::read_to_string(&json).unwrap();
    std::fs::remove_file(&json).unwrap();
    assert_eq!(status, Status::Held, "{text}");

    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(report["identity"]["checked"].as_u64().unwrap() > 0);
    assert!(report["identity"]["resumed_checked"].as_u64().unwrap() > 0);
    assert_eq!(report["identity"]["mismatched"], 0);
    let phases = report["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 4);
    for phase in phases {
        assert!(phase["confirmed_per_s"].as_f64().unwrap() > 0.0, "{phase}");
        assert!(
            phase["server_cpu_us_per_unit"].as_f64().unwrap() > 0.0,
            "{phase}"
        );
        assert_eq!(phase["errors"].as_object().unwrap().len(), 0, "{phase}");
    }
}
