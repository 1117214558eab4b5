//! The program, on the made-up host.

use std::fs;
use std::process::{Command, Stdio};

use crate::confirm::Waiting;
use crate::fixture::{EVERYTHING, EVERYTHING_WRITES, Tree, ended};

const NET: &str = "sys/class/net/eth0";

#[test]
fn every_knob_is_turned_and_turned_back() {
    let tree = Tree::new("every");
    let before = tree.values();
    let (code, script, said) = ended(&mut tree.command("apply", Some(EVERYTHING)));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains(&format!("applied: {EVERYTHING_WRITES} values")),
        "{said}"
    );
    for (entry, value) in [
        ("ethtool/channels", "2"),
        ("ethtool/rx-usecs", "8"),
        ("proc/irq/40/smp_affinity_list", "1"),
        ("proc/irq/41/smp_affinity_list", "2"),
        (&format!("{NET}/queues/rx-0/rps_cpus"), "6"),
        (&format!("{NET}/queues/tx-0/xps_cpus"), "2"),
        (&format!("{NET}/queues/tx-1/xps_cpus"), "4"),
        (&format!("{NET}/napi_defer_hard_irqs"), "2"),
        (&format!("{NET}/gro_flush_timeout"), "200000"),
        ("proc/sys/net/core/somaxconn", "4096"),
        ("proc/sys/net/ipv4/ip_local_port_range", "1024 65535"),
    ] {
        assert_eq!(tree.get(entry), value, "{entry}");
    }
    assert!(!tree.path(&format!("{NET}/queues/rx-2")).exists());
    assert_eq!(
        fs::read_to_string(tree.state().join("undo.sh"))
            .unwrap()
            .lines()
            .count(),
        script.lines().count(),
        "{script}"
    );
    let (code, lines, _) = ended(&mut tree.command("verify", Some(EVERYTHING)));
    assert_eq!(code, Some(0), "{lines}");
    assert_eq!(lines.lines().count(), 1 + EVERYTHING_WRITES, "{lines}");
    let (code, lines, said) = ended(&mut tree.command("revert", None));
    assert_eq!(code, Some(0), "{lines}{said}");
    assert_eq!(tree.values(), before, "{lines}");
    assert_eq!(tree.journal(), None);
    assert!(!tree.state().join("undo.sh").exists());
}

#[test]
fn interrupts_that_go_with_their_queues_are_not_missed() {
    let layout = r#"
[[nic]]
name = "eth0"
queues = 2
irqs = [
  { name = "eth0-TxRx-0", cpus = "1" }, { name = "eth0-TxRx-1", cpus = "2" },
  { name = "eth0-TxRx-2", cpus = "1" }, { name = "eth0-TxRx-3", cpus = "2" },
]
rps = [{ queue = 0, cpus = "" }, { queue = 3, cpus = "" }]
"#;
    let tree = Tree::new("frees");
    tree.set("ethtool/frees-interrupts", "");
    tree.set("proc/irq/42/smp_affinity_list", "1"); // As the layout wants it.
    tree.set("proc/irq/43/smp_affinity_list", "3");
    let before = tree.values();
    // Where the queues are as the layout says already, too.
    for _ in 0..2 {
        let (code, _, said) = ended(&mut tree.command("apply", Some(layout)));
        assert_eq!(code, Some(0), "{said}");
        assert!(!tree.path("proc/irq/43").exists());
        assert_eq!(tree.get("proc/irq/41/smp_affinity_list"), "2");
    }
    let (code, lines, _) = ended(&mut tree.command("verify", Some(layout)));
    assert_eq!(code, Some(0), "{lines}");
    assert!(
        lines.contains("ok     interrupt eth0-TxRx-3: gone with its queue"),
        "{lines}"
    );
    let (code, lines, _) = ended(tree.command("apply", Some(layout)).arg("--dry-run"));
    assert_eq!(code, Some(0), "{lines}");
    let (code, lines, said) = ended(&mut tree.command("revert", None));
    assert_eq!(code, Some(0), "{lines}{said}");
    assert_eq!(tree.values(), before, "{lines}");
    // One that should be there is missed all the same.
    let wrong = layout.replace("TxRx-1", "RxTx-1");
    let (code, _, said) = ended(&mut tree.command("apply", Some(&wrong)));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no interrupt `eth0-RxTx-1`"), "{said}");
    assert_eq!(tree.values(), before, "{said}");
}

#[test]
fn a_dry_run_tells_each_knob_and_writes_nothing() {
    let tree = Tree::new("dry");
    tree.set("proc/sys/net/core/somaxconn", "4096");
    let before = tree.bytes();
    let mut command = tree.command("apply", Some(EVERYTHING));
    let (code, lines, said) = ended(command.arg("--dry-run"));
    assert_eq!((code, &*said), (Some(0), ""), "{lines}");
    assert_eq!(tree.bytes(), before);
    assert!(!tree.state().exists());
    for line in [
        "eth0: queues: combined 4 -> combined 2",
        "eth0: coalescing rx-usecs: 50 -> 8",
        "interrupt eth0-TxRx-0: 0-3 -> 1",
        "eth0: rps_cpus of rx-0: 00000000,00000000 -> 6",
        "net.core.somaxconn: 4096, as it is",
        "net.ipv4.ip_local_port_range: 32768\t60999 -> 1024 65535",
    ] {
        assert!(
            lines.lines().any(|shown| shown == line),
            "`{line}` in\n{lines}"
        );
    }
    let missing = "[sysctl]\n\"net.core.nothing\" = 1\n";
    let (code, lines, _) = ended(tree.command("apply", Some(missing)).arg("--dry-run"));
    assert_eq!(code, Some(1));
    assert!(lines.contains("net.core.nothing: ") && lines.contains("is missing; plan anew"));
    assert_eq!(tree.bytes(), before);
}

#[test]
fn the_undo_script_restores_the_tree() {
    let tree = Tree::new("script");
    let before = tree.values();
    // One queue more than there is: what belongs to it is only known once it is there.
    let rest = EVERYTHING
        .replace("queues = 2", "queues = 5")
        .replace("queue = 1", "queue = 4");
    let (code, script, said) = ended(&mut tree.command("apply", Some(&rest)));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(tree.get(&format!("{NET}/queues/tx-4/xps_cpus")), "4");
    assert_ne!(tree.values(), before);
    for (name, script) in [
        ("printed", script),
        (
            "kept",
            fs::read_to_string(tree.state().join("undo.sh")).unwrap(),
        ),
    ] {
        let mut sh = Command::new("sh");
        let (code, ..) = ended(sh.arg("-c").arg(&script).env("PATH", tree.search_path()));
        assert!(code.is_some());
        assert_eq!(tree.values(), before, "{name}: {script}");
        let (code, ..) = ended(&mut tree.command("apply", Some(&rest)));
        assert_eq!(code, Some(0));
    }
}

#[test]
fn a_second_apply_keeps_what_was_first() {
    let tree = Tree::new("second");
    let before = tree.values();
    let (code, ..) = ended(&mut tree.command("apply", Some(EVERYTHING)));
    assert_eq!(code, Some(0));
    // Somebody changes one of them in between.
    tree.set("proc/sys/net/core/somaxconn", "777");
    let second = EVERYTHING
        .replace("4096", "8192")
        .replace("rx-usecs = 8", "rx-usecs = 9")
        .replace("napi_defer_hard_irqs = 2\n", "");
    let (code, _, said) = ended(&mut tree.command("apply", Some(&second)));
    assert_eq!(code, Some(0), "{said}");
    // What the layout no longer has is back already.
    assert_eq!(tree.get(&format!("{NET}/napi_defer_hard_irqs")), "0");
    assert_eq!(tree.get("proc/sys/net/core/somaxconn"), "8192");
    assert_eq!(tree.get("ethtool/rx-usecs"), "9");
    let journal = tree.journal().unwrap();
    let (code, _, said) = ended(&mut tree.command("apply", Some(&second)));
    assert_eq!(code, Some(0));
    assert!(said.contains("as the layout says already"), "{said}");
    assert_eq!(tree.journal().unwrap(), journal);
    let (code, ..) = ended(&mut tree.command("revert", None));
    assert_eq!(code, Some(0));
    let mut expected = before;
    expected.insert(tree.path("proc/sys/net/core/somaxconn"), "777".into());
    assert_eq!(tree.values(), expected);
}

#[test]
fn a_revert_leaves_what_somebody_else_changed() {
    let tree = Tree::new("three-way");
    let mut before = tree.values();
    let (code, ..) = ended(&mut tree.command("apply", Some(EVERYTHING)));
    assert_eq!(code, Some(0));
    tree.set("proc/sys/net/core/somaxconn", "777");
    tree.set(&format!("{NET}/gro_flush_timeout"), "0");
    let (code, lines, said) = ended(&mut tree.command("revert", None));
    assert_eq!(code, Some(2), "{lines}{said}");
    for line in [
        "net.core.somaxconn: changed by someone else to 777, left alone; we had set 4096, before \
         it was 128",
        "eth0: gro_flush_timeout: 0 already",
        "eth0: napi_defer_hard_irqs: 0 again",
    ] {
        assert!(
            lines.lines().any(|shown| shown == line),
            "`{line}` in\n{lines}"
        );
    }
    before.insert(tree.path("proc/sys/net/core/somaxconn"), "777".into());
    assert_eq!(tree.values(), before);
    let (code, lines, _) = ended(&mut tree.command("revert", None));
    assert_eq!(code, Some(0));
    assert!(lines.starts_with("nothing to revert"), "{lines}");
}

#[test]
fn verify_names_what_drifted() {
    let tree = Tree::new("verify");
    let (code, lines, _) = ended(&mut tree.command("verify", Some(EVERYTHING)));
    assert_eq!(code, Some(2), "{lines}");
    assert!(!tree.state().exists());
    ended(&mut tree.command("apply", Some(EVERYTHING)));
    tree.set("proc/irq/40/smp_affinity_list", "0");
    let (code, lines, _) = ended(&mut tree.command("verify", Some(EVERYTHING)));
    assert_eq!(code, Some(2), "{lines}");
    let drift: Vec<&str> = lines
        .lines()
        .filter(|line| !line.starts_with("ok "))
        .collect();
    assert_eq!(drift, ["drift  interrupt eth0-TxRx-0: 0, wanted 1"]);
    tree.set("proc/irq/40/smp_affinity_list", "1");
    tree.remove("proc/sys/net/core/somaxconn");
    let (code, lines, _) = ended(&mut tree.command("verify", Some(EVERYTHING)));
    assert_eq!(code, Some(1), "{lines}");
    assert!(lines.contains("?      net.core.somaxconn: "), "{lines}");
    // A shard's CPU that may not be used any more.
    tree.set("proc/sys/net/core/somaxconn", "4096");
    tree.set("proc/self/status", "Cpus_allowed_list:\t0-1");
    let (code, lines, _) = ended(&mut tree.command("verify", Some(EVERYTHING)));
    assert_eq!(code, Some(2), "{lines}");
    assert!(
        lines.contains("drift  shards: CPUs 2 are not among"),
        "{lines}"
    );
}

#[test]
fn a_layout_of_another_host_touches_nothing() {
    let tree = Tree::new("misfit");
    let file = tree.layout_file(EVERYTHING);
    let mut commands = [
        tree.command("apply", Some(EVERYTHING)),
        tree.command("apply", Some(EVERYTHING)),
    ];
    commands[1].arg("--dry-run");
    let text = fs::read_to_string(&file)
        .unwrap()
        .replace("cores = 4", "cores = 5");
    fs::write(file, text).unwrap();
    let before = tree.bytes();
    for command in &mut commands {
        let (code, out, said) = ended(command);
        assert_eq!(code, Some(1));
        assert!((out + &said).contains("make one for this host with `ringgate-tune plan`"));
        assert_eq!(tree.bytes(), before);
    }
}

#[test]
fn interrupts_that_are_missing_or_there_twice_are_named_before_a_write() {
    let tree = Tree::new("missing");
    let before = tree.values();
    for (entry, text, said_of) in [
        (
            "sys/kernel/irq/40/actions",
            "else",
            "there is no interrupt `eth0-TxRx-0`",
        ),
        (
            "sys/kernel/irq/43/actions",
            "eth0-TxRx-1",
            "interrupts 41, 43 are all called `eth0-TxRx-1`",
        ),
    ] {
        let whole = tree.get(entry);
        tree.set(entry, text);
        let rest = EVERYTHING.replace("queues = 2\n", "");
        let (code, out, said) = ended(&mut tree.command("apply", Some(&rest)));
        assert_eq!((code, &*out), (Some(1), ""), "{said}");
        assert!(
            said.contains(said_of) && said.contains("nothing is changed"),
            "{said}"
        );
        tree.set(entry, &whole);
        assert_eq!(tree.values(), before);
    }
    // Where counts of queues change first, it shows only afterwards.
    tree.set("sys/kernel/irq/40/actions", "else");
    let before = tree.values();
    let (code, _, said) = ended(&mut tree.command("apply", Some(EVERYTHING)));
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(tree.values(), before);
    assert_eq!(tree.journal(), None);
}

#[test]
fn names_are_no_way_into_commands_and_scripts() {
    let tree = Tree::new("names");
    let before = tree.values();
    for nic in [
        "name = \"-L\"\nqueues = 2",
        "name = \"eth0\"\ncoalesce = { -x = 2 }",
    ] {
        let rest = format!("[[nic]]\n{nic}\n");
        let (code, out, said) = ended(&mut tree.command("apply", Some(&rest)));
        assert_eq!((code, &*out), (Some(1), ""), "{said}");
        assert!(said.contains("this is no name of a knob"), "{said}");
    }
    let name = "eth0 'x'\n rm -r sys; #";
    tree.set("proc/interrupts", "");
    fs::write(tree.path("sys/kernel/irq/40/actions"), name).unwrap();
    let rest = format!("[[nic]]\nname = \"eth0\"\nirqs = [{{ name = {name:?}, cpus = \"1\" }}]");
    let (code, script, said) = ended(&mut tree.command("apply", Some(&rest)));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(script.lines().count(), 3, "{script}");
    let (code, lines, _) = ended(&mut tree.command("revert", None));
    assert_eq!(code, Some(0), "{lines}");
    fs::write(tree.path("sys/kernel/irq/40/actions"), "eth0-TxRx-0\n").unwrap();
    tree.remove("proc/interrupts");
    assert_eq!(tree.values(), before);
}

#[test]
fn without_sparse_interrupts_their_numbers_come_from_proc() {
    let tree = Tree::new("interrupts");
    fs::remove_dir_all(tree.path("sys/kernel")).unwrap();
    tree.set(
        "proc/interrupts",
        "           CPU0       CPU1\n 41:   1   0   PCI-MSI 2-edge   eth0-TxRx-0\n\
         \x20 7:   1   0   IO-APIC 7-edge   parport0, eth0-TxRx-1\nNMI:  2  1  Non-maskable interrupts",
    );
    tree.set("proc/irq/7/smp_affinity_list", "0-3");
    let (code, _, said) = ended(&mut tree.command("apply", Some(EVERYTHING)));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(tree.get("proc/irq/41/smp_affinity_list"), "1");
    assert_eq!(tree.get("proc/irq/7/smp_affinity_list"), "2");
}

#[test]
fn without_ethtool_its_knobs_are_left_out_and_the_rest_goes_on() {
    let tree = Tree::new("no-ethtool");
    let before = tree.values();
    let mut command = tree.command("apply", Some(EVERYTHING));
    let (code, _, said) = ended(command.env("RINGGATE_TUNE_ETHTOOL", tree.path("none")));
    assert_eq!(code, Some(0), "{said}");
    for knob in ["eth0: queues", "eth0: coalescing rx-usecs"] {
        let line = format!("{knob} is left out: the program `ethtool` is not here; install it");
        assert!(said.contains(&line), "{said}");
    }
    assert!(
        said.contains(&format!("applied: {} values", EVERYTHING_WRITES - 2)),
        "{said}"
    );
    let (code, ..) = ended(&mut tree.command("revert", None));
    assert_eq!(code, Some(0));
    assert_eq!(tree.values(), before);
}

#[test]
fn the_ethtool_of_this_machine_is_not_asked_about_a_folder() {
    let tree = Tree::new("other-ethtool");
    let before = tree.bytes();
    let mut command = tree.command("apply", Some(EVERYTHING));
    // The tree's own is the first in PATH, and stands for this machine's.
    command.env_remove("RINGGATE_TUNE_ETHTOOL");
    let (code, _, said) = ended(&mut command);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("eth0: queues is left out: `ethtool` turns the cards of this machine"),
        "{said}"
    );
    for entry in ["ethtool/channels", "ethtool/rx-usecs"] {
        let path = tree.path(entry);
        assert_eq!(tree.bytes().get(&path), before.get(&path), "{entry}");
    }
}

#[test]
fn a_second_run_at_once_is_refused() {
    let tree = Tree::new("lock");
    let waiting = Waiting::apply(&tree, "60s");
    let applied = tree.values();
    for (command, layout) in [("apply", Some(EVERYTHING)), ("revert", None)] {
        let (code, _, said) = ended(&mut tree.command(command, layout));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("another ringgate-tune works in"), "{said}");
    }
    assert_eq!(tree.values(), applied);
    let (code, ..) = ended(&mut tree.command("confirm", None));
    assert_eq!(code, Some(0));
    assert_eq!(waiting.end().0, Some(0));
}

#[test]
fn a_journal_that_is_torn_or_of_another_boot_is_named() {
    let tree = Tree::new("journal");
    ended(&mut tree.command("apply", Some(EVERYTHING)));
    let journal = tree.journal().unwrap();
    let applied = tree.values();
    let file = tree.state().join("journal.json");
    for torn in [
        String::new(),
        journal[..journal.len() / 2].to_owned(),
        "\0".repeat(100),
        journal.replace("\"version\": 1", "\"version\": 9"),
        journal.replace("net.core.somaxconn", "../../etc/passwd"),
    ] {
        fs::write(&file, &torn).unwrap();
        for (command, layout) in [("revert", None), ("apply", Some(EVERYTHING))] {
            let (code, _, said) = ended(&mut tree.command(command, layout));
            assert_eq!(code, Some(1), "{command}: {torn}");
            assert!(
                said.contains("journal.json: not a journal of this program"),
                "{said}"
            );
        }
        assert_eq!(tree.values(), applied);
    }
    fs::write(&file, &journal).unwrap();
    tree.set("proc/sys/kernel/random/boot_id", "two");
    let applied = tree.values();
    let (code, lines, _) = ended(&mut tree.command("revert", None));
    assert_eq!(code, Some(0), "{lines}");
    assert!(lines.contains("of another boot"), "{lines}");
    assert_eq!(tree.values(), applied);
    assert_eq!(tree.journal(), None);
}

#[test]
fn a_state_directory_that_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let tree = Tree::new("state");
    fs::create_dir(tree.state()).unwrap();
    fs::set_permissions(tree.state(), fs::Permissions::from_mode(0o777)).unwrap();
    let before = tree.bytes();
    for (command, layout) in [("apply", Some(EVERYTHING)), ("revert", None)] {
        let (code, _, said) = ended(&mut tree.command(command, layout));
        assert_eq!(code, Some(1));
        assert!(
            said.contains("not a directory of this user alone"),
            "{said}"
        );
    }
    assert_eq!(tree.bytes(), before);
}

#[test]
fn what_is_kept_is_for_this_user_alone() {
    use std::os::unix::fs::MetadataExt;
    let tree = Tree::new("modes");
    ended(&mut tree.command("apply", Some(EVERYTHING)));
    let mode = |path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(tree.state()), 0o700);
    for file in ["journal.json", "undo.sh", "lock"] {
        assert_eq!(mode(tree.state().join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_script_that_cannot_be_printed_stops_before_the_first_write() {
    let tree = Tree::new("unprinted");
    let before = tree.values();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = tree.command("apply", Some(EVERYTHING));
    let status = command.stdout(full).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(1));
    assert_eq!(tree.values(), before);
    assert_eq!(tree.journal(), None);
}
