//! The files of `tuning/profiles`, and the unit that they belong to: they fit each other, and say what
//! `apply` does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringgate_tune::cpu_set::CpuSet;
use ringgate_tune::inspection::Inspection;
use ringgate_tune::layout::Layout;

use crate::crash::find;
use crate::fixture::{PROGRAM, Tree, ended};

fn profile(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("profiles")
        .join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(profile(name)).unwrap()
}

fn operating(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("operating");
    fs::read_to_string(folder.join(name)).unwrap()
}

/// Lines of the form `name = value`, as sysctl.d(5) and systemd.syntax(7) have them; a name that is
/// there twice has both values.
fn settings(text: &str) -> BTreeMap<&str, String> {
    let mut settings: BTreeMap<&str, String> = BTreeMap::new();
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with(['#', '['])) {
        let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
        let values = settings.entry(name.trim()).or_default();
        *values = format!("{values} {}", value.trim()).trim().to_owned();
    }
    settings
}

#[test]
fn the_sysctl_file_says_what_the_layout_applies() {
    let layout = Layout::read(&profile("layout.toml")).unwrap();
    let file = text("90-ringgate.conf");
    let wanted = layout.sysctls.iter();
    let wanted: BTreeMap<&str, String> = wanted
        .map(|sysctl| (sysctl.name.as_str(), sysctl.value.clone()))
        .collect();
    assert_eq!(settings(&file), wanted);
    // And every one of them can be applied.
    let tree = Tree::new("profile");
    for name in wanted.keys() {
        tree.set(&format!("proc/sys/{}", name.replace('.', "/")), "1");
    }
    let text = text("layout.toml");
    let sysctls = &text[text.find("[sysctl]").unwrap()..];
    let (code, _, said) = ended(&mut tree.command("apply", Some(sysctls)));
    assert_eq!(code, Some(0), "{said}");
    for (name, value) in wanted {
        assert_eq!(
            tree.get(&format!("proc/sys/{}", name.replace('.', "/"))),
            value
        );
    }
}

#[test]
fn the_drop_in_is_what_is_printed_for_the_layout() {
    let mut command = Command::new(PROGRAM);
    let (code, printed, said) = ended(command.arg("dropin").arg(profile("layout.toml")));
    assert_eq!((code, &*said), (Some(0), ""));
    assert_eq!(printed, text("ringgate-layout.conf"));
    let settings = settings(&printed);
    assert_eq!(settings["AllowedCPUs"], "0-7");
    assert_eq!(settings["LimitMEMLOCK"], "infinity");
    assert_eq!(settings["LimitNOFILE"], "1048576");
}

#[test]
fn a_drop_in_confines_only_where_the_layout_names_every_cpu() {
    let tree = Tree::new("dropin");
    let file = tree.layout_file("");
    let whole = fs::read_to_string(&file).unwrap();
    for (layout, allowed) in [
        (whole.clone(), Some("0-2")),
        (whole.replace("housekeeping = \"0\"\n", ""), None),
        (
            whole.replace("list = [{ cpu = 1 }, { cpu = 2 }]", "count = 2"),
            None,
        ),
    ] {
        fs::write(&file, layout).unwrap();
        let (code, printed, _) = ended(Command::new(PROGRAM).arg("dropin").arg(&file));
        assert_eq!(code, Some(0));
        let settings = settings(&printed);
        assert_eq!(
            settings.get("AllowedCPUs").map(String::as_str),
            allowed,
            "{printed}"
        );
        assert!(settings.contains_key("LimitNOFILE"));
    }
}

#[test]
fn the_unit_takes_a_layout_and_reloads_by_sighup() {
    let text = operating("systemd/ringgate.service");
    let settings = settings(&text);
    assert_eq!(
        settings["ExecStart"],
        "/usr/bin/ringgate run -c /etc/ringgate/ringgate.toml $RINGGATE_TAKEOVER \
         $RINGGATE_OPTIONS"
    );
    // The service alone takes nothing over, its instances do.
    assert_eq!(
        settings["Environment"],
        "RINGGATE_OPTIONS= RINGGATE_TAKEOVER="
    );
    let takeover = operating("systemd/takeover.conf");
    assert!(takeover.ends_with("\n[Service]\nEnvironment=RINGGATE_TAKEOVER=--takeover\n"));
    // Else the socket unit would start the service anew beside an instance.
    assert!(takeover.contains("\n[Unit]\nConflicts=ringgate.socket\n"));
    // Where the layout is named: commented out, since a package cannot know the host's.
    assert_eq!(settings["EnvironmentFile"], "-/etc/default/ringgate");
    let layout = "#RINGGATE_OPTIONS=\"--layout /etc/ringgate/layout.toml\"";
    let options = operating("debian/ringgate.default");
    assert!(options.lines().any(|line| line == layout), "{options}");
    assert_eq!(settings["ExecReload"], "/bin/kill -HUP $MAINPID");
    assert_eq!(settings["KillSignal"], "SIGTERM");
    // Nothing is rolled back by a service that stops.
    assert!(!settings.keys().any(|name| name.starts_with("ExecStop")));
    assert!(!settings["ExecStart"].contains("ringgate-tune"));
}

#[test]
fn systemd_finds_nothing_wrong_with_units_and_drop_ins() {
    let Some(analyze) = find("systemd-analyze") else {
        return;
    };
    let tree = Tree::new("systemd");
    // It looks for the program, which is not installed here.
    let unit = operating("systemd/ringgate.service").replace("/usr/bin/ringgate", "/bin/true");
    tree.set("unit/ringgate.service", &unit);
    tree.set(
        "unit/ringgate.socket",
        &operating("systemd/ringgate.socket"),
    );
    tree.set(
        "unit/ringgate.service.d/layout.conf",
        &text("ringgate-layout.conf"),
    );
    tree.set("unit/ringgate@.service", &unit);
    tree.set(
        "unit/ringgate@.service.d/takeover.conf",
        &operating("systemd/takeover.conf"),
    );
    let analyze = |arguments: &[&str], unit: &str| {
        let mut command = Command::new(&analyze);
        ended(command.args(arguments).arg(tree.path(unit)))
    };
    let verify = |unit| analyze(&["verify"], unit);
    for unit in [
        "unit/ringgate.service",
        "unit/ringgate@.service",
        "unit/ringgate.socket",
    ] {
        let (code, _, said) = verify(unit);
        assert_eq!(code, Some(0), "{said}");
        // It also speaks of units that these want.
        assert!(!said.contains("ringgate"), "{said}");
    }
    // In tenths: what the unit's comment says, with room for what other releases look at besides.
    let security = ["security", "--offline=true", "--threshold=25"];
    let (code, rated, said) = analyze(&security, "unit/ringgate.service");
    assert_eq!(code, Some(0), "{rated}{said}");
    let (code, ..) = analyze(
        &["security", "--offline=true", "--threshold=5"],
        "unit/ringgate.service",
    );
    assert_ne!(code, Some(0), "the threshold counts");
    tree.set(
        "unit/ringgate.service.d/layout.conf",
        "[Service]\nAllowedCPU=1",
    );
    let (_, _, said) = verify("unit/ringgate.service");
    assert!(said.contains("Unknown key 'AllowedCPU'"), "{said}");
}

#[test]
fn the_kubernetes_note_shows_what_is_read_in_such_a_pod() {
    let note = text("kubernetes-cpu-manager.md");
    let tree = Tree::new("kubernetes");
    for cpu in 0..16 {
        let folder = format!("sys/devices/system/cpu/cpu{cpu}/topology");
        tree.set(&format!("{folder}/physical_package_id"), "0");
        let core = cpu % 8;
        tree.set(
            &format!("{folder}/core_cpus_list"),
            &format!("{core},{}", core + 8),
        );
    }
    tree.set("sys/devices/system/cpu/possible", "0-15");
    tree.set("sys/devices/system/cpu/online", "0-15");
    let mut shown = 0;
    for line in note.lines() {
        let Some((entry, text)) = line.split_once(": ") else {
            continue;
        };
        if entry.starts_with("sys/") || entry.starts_with("proc/") {
            tree.set(entry, text);
            shown += 1;
            let here = Inspection::read(&tree.host(), None);
            let quota = here.cgroup.quota.map(|quota| quota.cpus);
            match shown {
                3 => {
                    assert_eq!(here.usable, CpuSet::parse("2-3,10-11").unwrap());
                    assert_eq!(here.cgroup.cpuset, Some(here.usable));
                    assert_eq!(quota, None);
                }
                4 => assert_eq!(quota, Some(4.0)),
                _ => {}
            }
        }
    }
    assert_eq!(shown, 4);
    for sysctl in settings(&text("90-ringgate.conf")).keys() {
        assert!(note.contains(sysctl), "{sysctl}");
    }
}
