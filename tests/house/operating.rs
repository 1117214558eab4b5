//! What operates the product: dashboards and alerts ask for figures that there are, and packages name
//! files that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use toml::de::{DeTable, DeValue};

use crate::source::{ROOT, expect_none};

/// The list of what `/metrics` says.
const METRICS: &str = "tuning/operating/metrics.txt";

/// Who asks for it.
const ASKING: [&str; 3] = [
    "tuning/operating/grafana/ringgate.json",
    "tuning/operating/prometheus/alerts.yaml",
    "tuning/operating/prometheus/alerts_test.yaml",
];

/// Labels that name a reason of `src/close_reason.rs`, in the list and in what asks.
const REASONS: [&str; 2] = ["reason", "result"];

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A line of the list.
#[derive(Debug, Eq, PartialEq)]
struct Metric<'t> {
    kind: &'t str,
    labels: Vec<&'t str>,
}

/// The list by name, and the lines of it that say no metric.
fn metrics(list: &str) -> (BTreeMap<&str, Metric<'_>>, Vec<String>) {
    let (mut metrics, mut wrong) = (BTreeMap::new(), Vec::new());
    for (at, line) in (1..).zip(list.lines()) {
        let words: Vec<&str> = line.split(' ').collect();
        let (name, kind, labels) = match words[..] {
            ["#", ..] => continue,
            [name, kind] => (name, kind, Vec::new()),
            [name, kind, labels] => (name, kind, labels.split(',').collect()),
            _ => {
                wrong.push(format!("{METRICS}:{at}: not `name type labels`: {line}"));
                continue;
            }
        };
        let fits = match kind {
            "counter" => name.ends_with("_total"),
            "info" => name.ends_with("_info"),
            "gauge" | "histogram" => !name.ends_with("_total"),
            _ => false,
        };
        if !fits || metrics.insert(name, Metric { kind, labels }).is_some() {
            wrong.push(format!(
                "{METRICS}:{at}: {name} is no {kind}, or is there twice"
            ));
        }
    }
    (metrics, wrong)
}

/// Names of metrics in an expression, a dashboard or rules, with the line of each.
fn asked(text: &str) -> Vec<(usize, &str)> {
    let words = |line| {
        str::split(line, |c: char| {
            !(c.is_ascii_alphanumeric() || "_-".contains(c))
        })
    };
    let named = |word: &&str| word.starts_with("ringgate_") || word.starts_with("process_");
    let lines = (1..).zip(text.lines());
    lines
        .flat_map(|(at, line)| words(line).filter(named).map(move |word| (at, word)))
        .collect()
}

/// What is asked for, and is not in the list.
fn unknown(path: &str, text: &str, metrics: &BTreeMap<&str, Metric<'_>>) -> Vec<String> {
    let known = |name: &str| {
        let series = ["_bucket", "_sum", "_count"];
        let histogram = series.iter().find_map(|end| name.strip_suffix(end));
        match metrics.get(name) {
            // By its own name a histogram is no series.
            Some(metric) => metric.kind != "histogram",
            None => histogram
                .and_then(|name| metrics.get(name))
                .is_some_and(|metric| metric.kind == "histogram"),
        }
    };
    let asked = asked(text).into_iter().filter(|(_, name)| !known(name));
    asked
        .map(|(at, name)| format!("{path}:{at}: `{name}` is no series of {METRICS}"))
        .collect()
}

/// Values of labels that name a reason, in `label="value"`, `!=` too and with escaped quotes, and are none.
fn unknown_reasons(path: &str, text: &str, reasons: &BTreeSet<&str>) -> Vec<String> {
    let mut unknown = Vec::new();
    for (at, line) in (1..).zip(text.lines()) {
        for label in REASONS {
            for (start, _) in line.match_indices(label) {
                let rest = line[start + label.len()..].trim_start_matches('!');
                let Some(value) = rest
                    .strip_prefix("=\\\"")
                    .or_else(|| rest.strip_prefix("=\""))
                else {
                    continue;
                };
                let value = value.split(['"', '\\']).next().unwrap_or_default();
                if !reasons.contains(value) {
                    unknown.push(format!("{path}:{at}: no connection ends by `{value}`"));
                }
            }
        }
    }
    unknown
}

/// The labels in the text of `src/close_reason.rs`, and that of a handshake which ended well.
fn reasons(source: &str) -> BTreeSet<&str> {
    let lines = source.lines().filter_map(|line| line.split_once(" = \""));
    let labels = lines.filter_map(|(_, rest)| rest.split('"').next());
    labels.chain(["established"]).collect()
}

#[test]
fn dashboards_and_alerts_ask_for_what_there_is() {
    let list = text(METRICS);
    let (metrics, mut problems) = metrics(&list);
    let source = text("src/close_reason.rs");
    let reasons = reasons(&source);
    assert!(reasons.contains("certificate_expired"), "{reasons:?}");
    for path in ASKING {
        let text = text(path);
        assert!(asked(&text).len() > 20, "{path}");
        problems.extend(unknown(path, &text, &metrics));
        problems.extend(unknown_reasons(path, &text, &reasons));
    }
    // A figure that nobody sees answers nobody's question.
    let dashboard = text(ASKING[0]);
    let shown: BTreeSet<&str> = asked(&dashboard)
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    for (name, metric) in &metrics {
        let series = match metric.kind {
            "histogram" => format!("{name}_bucket"),
            _ => (*name).to_owned(),
        };
        if !shown.contains(series.as_str()) {
            problems.push(format!("{}: no panel shows {name}", ASKING[0]));
        }
    }
    expect_none(&problems);
}

#[test]
fn dashboards_and_alerts_ask_for_what_there_is_finds_what_breaks_it() {
    let list = "# name type labels\nringgate_a_total counter x\nringgate_b_seconds histogram\n\
                ringgate_c counter\nringgate_a_total counter\nringgate_d gauge x y\nringgate_e gauge";
    let (metrics, wrong) = metrics(list);
    assert_eq!(wrong.len(), 3, "{wrong:?}");
    assert_eq!(metrics["ringgate_e"].labels, [""; 0]);
    let fine = "rate(ringgate_a_total{x=~\"1\"}[5m]) / ringgate_b_seconds_bucket > ringgate_e\n\
                ringgate-node prefix_ringgate";
    assert_eq!(unknown("x", fine, &metrics), [""; 0]);
    let broken = "ringgate_a\nringgate_a_total_count + ringgate_b_seconds\nprocess_threads";
    let found = unknown("x", broken, &metrics);
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found[0].starts_with("x:1: `ringgate_a` "), "{found:?}");

    let reasons = reasons("    /// Doc.\n    Complete = \"complete\", Nobody;\n");
    let fine = "{reason!=\\\"complete\\\"} {result=\"established\"} by (reason) reason=~\"$x\"";
    assert_eq!(unknown_reasons("x", fine, &reasons), [""; 0]);
    for broken in [
        "a{reason=\"completed\"}",
        "a{result!=\\\"comp\\\"}",
        "reason=\"\"",
    ] {
        assert_eq!(unknown_reasons("x", broken, &reasons).len(), 1, "{broken}");
    }
}

/// What is wrong with the Debian package in a manifest: files that are not there, and settings of an
/// administrator that an upgrade would overwrite.
fn package_problems(manifest: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let manifest = DeTable::parse(manifest).unwrap();
    let package = ["package", "metadata", "deb"]
        .iter()
        .try_fold(manifest.get_ref(), |table, key| {
            table.get(*key)?.get_ref().as_table()
        })
        .expect("package.metadata.deb");
    let strings = |value: &DeValue<'_>| -> Vec<String> {
        let values = value.as_array().into_iter().flatten();
        let strings = values.filter_map(|value| value.get_ref().as_str().map(str::to_owned));
        strings.collect()
    };
    let list = |key| package.get(key).map(|value| value.get_ref());
    let kept: BTreeSet<String> = list("conf-files")
        .map(strings)
        .into_iter()
        .flatten()
        .collect();
    let (mut problems, mut settings) = (Vec::new(), BTreeSet::new());
    for asset in list("assets")
        .and_then(DeValue::as_array)
        .into_iter()
        .flatten()
    {
        let asset = strings(asset.get_ref());
        let [source, target, _mode] = &asset[..] else {
            problems.push(format!("an asset is not [source, target, mode]: {asset:?}"));
            continue;
        };
        if !source.starts_with("target/release/") && !exists(source.trim_end_matches("/*")) {
            problems.push(format!("`{source}` is not there"));
        }
        if target.starts_with("etc/") {
            settings.insert(format!("/{target}"));
        }
    }
    let lost = settings.difference(&kept);
    problems.extend(lost.map(|path| format!("an upgrade overwrites `{path}`")));
    let stray = kept.difference(&settings);
    problems.extend(stray.map(|path| format!("`{path}` is in no asset")));
    problems
}

#[test]
fn the_debian_package_names_files_that_exist() {
    let exists = |path: &str| Path::new(ROOT).join(path).exists();
    expect_none(&package_problems(&text("Cargo.toml"), exists));
}

#[test]
fn the_debian_package_names_files_that_exist_finds_what_breaks_it() {
    let manifest = "[package.metadata.deb]\nconf-files = [\"/etc/a\", \"/etc/b\"]\nassets = [\n\
                    [\"target/release/a\", \"usr/bin/\", \"755\"], [\"a\", \"etc/a\", \"644\"],\n\
                    [\"gone/*\", \"usr/\", \"644\"], [\"a\", \"etc/c\", \"644\"], [\"a\", \"usr/\"]]";
    assert_eq!(
        package_problems(manifest, |path| path == "a"),
        [
            "`gone/*` is not there",
            "an asset is not [source, target, mode]: [\"a\", \"usr/\"]",
            "an upgrade overwrites `/etc/c`",
            "`/etc/b` is in no asset",
        ]
    );
}

/// Files below `folder` that hold a private key.
fn keys(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(keys(&path));
        } else if fs::read_to_string(&path).is_ok_and(|text| text.contains("PRIVATE KEY-----")) {
            found.push(format!("{} holds a private key", path.display()));
        }
    }
    found
}

#[test]
fn manifests_hold_no_private_key() {
    let folder = Path::new(ROOT).join("tuning/operating");
    expect_none(&keys(&folder));
    // And one that did would be found.
    let scratch = std::env::temp_dir().join(format!("ringgate-house-{}", std::process::id()));
    fs::create_dir_all(scratch.join("a")).unwrap();
    fs::write(scratch.join("a/b"), "-----BEGIN PRIVATE KEY-----\n").unwrap();
    let found = keys(&scratch);
    fs::remove_dir_all(&scratch).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn the_socket_unit_asks_for_nothing_that_fails() {
    // systemd binds as root, and the kernel lets no other user's socket into the group.
    let unit = text("tuning/operating/systemd/ringgate.socket");
    assert!(!unit.lines().any(|line| line.starts_with("ReusePort=")));
}

/// Lines that install a file under another name without making its directory.
fn installs_into_the_void(text: &str) -> Vec<&str> {
    let installs = text.lines().filter(|line| line.starts_with("install -m"));
    let target = |line: &&str| {
        let command = line.split(" && ").next().unwrap_or_default();
        command.ends_with('/')
    };
    installs.filter(|line| !target(line)).collect()
}

#[test]
fn what_is_installed_by_hand_finds_its_directory() {
    let readme = text("tuning/operating/README.md");
    assert!(readme.contains("\ninstall -D"));
    assert_eq!(installs_into_the_void(&readme), [""; 0]);
    let broken = "install -m644 a /etc/\ninstall -m644 a /etc/a/b && x\ninstall -Dm644 a /a/b";
    assert_eq!(installs_into_the_void(broken).len(), 1);
}

#[test]
fn configurations_here_check_their_upstreams() {
    // Without it nothing but failed connects tells of an upstream that is gone.
    for path in ["debian", "kubernetes", "kubernetes/sidecar"] {
        let text = text(&format!("tuning/operating/{path}/ringgate.toml"));
        assert!(text.contains("\n[listener.health_check]\n"), "{path}");
    }
}

/// What `secrets.sh` prints for a cluster whose `kubectl get` does as `get` says.
fn secrets(get: &str, arguments: &[&str]) -> (bool, String) {
    use std::os::unix::fs::PermissionsExt;
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let scratch = std::env::temp_dir().join(format!(
        "ringgate-secrets-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    ));
    fs::create_dir(&scratch).unwrap();
    let kubectl = format!("#!/bin/sh\nif [ $1 = get ]; then {get}; else echo \"$@\"; fi\n");
    for (name, script) in [
        ("kubectl", kubectl.as_str()),
        ("ringgate", "#!/bin/sh\n: >$3\n"),
    ] {
        let path = scratch.join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", scratch.display(), std::env::var("PATH").unwrap());
    let script = Path::new(ROOT).join("tuning/operating/kubernetes/secrets.sh");
    let mut command = Command::new("sh");
    command.arg(script).args(arguments).env("PATH", path);
    let output = command.output().unwrap();
    fs::remove_dir_all(&scratch).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.success(), text)
}

#[test]
fn a_renewed_certificate_leaves_the_secret_of_tickets_alone() {
    const THERE: &str = "echo secret/ringgate-stek";
    for (get, arguments, is_made) in [
        (":", &["dir"][..], true),
        (THERE, &["dir"], false),
        (THERE, &["--new-stek", "dir"], true),
    ] {
        let (success, text) = secrets(get, arguments);
        assert!(
            success && text.contains("generic ringgate-server"),
            "{text}"
        );
        assert_eq!(
            text.contains("ringgate-stek"),
            is_made,
            "{arguments:?}: {text}"
        );
    }
    // Whether there is one is not known then.
    assert!(!secrets("exit 1", &["dir"]).0);
    assert!(!secrets(":", &["--new-stek"]).0);
}
