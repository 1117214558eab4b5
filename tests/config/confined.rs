//! What the process gives up once it is set up. Users are switched where the tests run as root.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::running::{Running, client, outcome, scratch};
use crate::scratch::Scratch;
use crate::{accepted, assert_error, front, front_with};

/// A user who is everywhere and owns nothing.
const NOBODY: u32 = 65_534;

/// Bit 10, CAP_NET_BIND_SERVICE (include/uapi/linux/capability.h).
const BIND_LOW_PORTS: u64 = 1 << 10;

/// [`crate::FRONT`] on a free port, one shard, and `more`.
fn configure(scratch: &Scratch, upstream: &str, more: &str) {
    let text = front_with("address", "address = \"127.0.0.1:0\"")
        .replace("127.0.0.1:8080", upstream)
        + "proxy_protocol = \"off\"\n[shards]\ncount = 1\n[limits]\nconnections = 64\n\
           [log]\nformat = \"json\"\n[reload]\nwatch = false\n\
           [admin]\nsocket = \"admin.sock\"\n"
        + more;
    scratch.write("ringgate.toml", text);
}

fn command(scratch: &Scratch) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate"));
    command.args(["run", "-c", scratch.path("ringgate.toml").to_str().unwrap()]);
    command
}

fn is_root() -> bool {
    let is_root = effective_user() == 0;
    if !is_root {
        println!("skipped: only root may become another user");
    }
    is_root
}

/// The effective user of this test.
fn effective_user() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    field(&status, "Uid:")[1].parse().unwrap()
}

fn give_to_nobody(scratch: &Scratch) {
    for file in fs::read_dir(scratch.path("")).unwrap() {
        chown(file.unwrap().path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    chown(scratch.path(""), Some(NOBODY), Some(NOBODY)).unwrap();
}

fn field<'s>(status: &'s str, name: &str) -> Vec<&'s str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().split_whitespace().collect()
}

/// What the kernel says of each thread, by its name; the kernel's own are left out.
fn threads(running: &Running) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", running.child.id())).unwrap();
    let statuses = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")));
    let statuses = statuses.map(|status| status.unwrap());
    let named = statuses.map(|status| (field(&status, "Name:").join(" "), status));
    named
        .filter(|(name, _)| !name.starts_with("iou-"))
        .collect()
}

/// A client is served, before and after a reload, by threads all of which satisfy `holds`.
#[track_caller]
fn serves(
    scratch: &Scratch,
    running: &mut Running,
    upstream: &TcpListener,
    holds: fn(&str) -> bool,
) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while UnixStream::connect(scratch.path("admin.sock")).is_err() {
        assert!(Instant::now() < deadline, "the admin socket is not there");
        std::thread::yield_now();
    }
    for _ in 0..2 {
        let stream = running.connect(scratch, Some(&client(scratch, "spiffe://x/in")));
        drop((upstream.accept().unwrap(), stream));
        let threads = threads(running);
        assert!(threads.iter().any(|(name, _)| name == "shard-0"));
        for (name, status) in threads {
            assert!(holds(&status), "{name}:\n{status}");
        }
        running.signal("HUP");
        running.line_with("reloaded, nothing changed");
    }
    running.signal("TERM");
    assert_eq!(running.ended().code(), Some(0));
    assert!(!scratch.path("admin.sock").exists(), "it may remove it");
}

fn mask(status: &str, name: &str) -> u64 {
    u64::from_str_radix(field(status, name)[0], 16).unwrap()
}

/// No thread has, or can get, a right but that of low ports.
fn has_no_rights(status: &str) -> bool {
    let sets = ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"];
    field(status, "NoNewPrivs:") == ["1"]
        && sets
            .iter()
            .all(|set| mask(status, set) & !BIND_LOW_PORTS == 0)
}

#[test]
fn every_thread_gives_up_its_rights() {
    let (scratch, upstream) = (scratch(), TcpListener::bind("127.0.0.1:0").unwrap());
    configure(&scratch, &upstream.local_addr().unwrap().to_string(), "");
    let mut running = Running::of(command(&scratch));
    assert!(
        running
            .confinement
            .contains("user off, capabilities active, no_new_privs active, landlock"),
        "{}",
        running.confinement
    );
    serves(&scratch, &mut running, &upstream, has_no_rights);
}

#[test]
fn every_thread_goes_on_as_the_user() {
    if !is_root() {
        return;
    }
    let (scratch, upstream) = (scratch(), TcpListener::bind("127.0.0.1:0").unwrap());
    let more = "[process]\nuser = \"nobody\"\ngroup = \"65534\"\n";
    configure(&scratch, &upstream.local_addr().unwrap().to_string(), more);
    give_to_nobody(&scratch);
    let mut running = Running::of(command(&scratch));
    serves(&scratch, &mut running, &upstream, |status| {
        let is_nobody = |name| field(status, name).iter().all(|id| *id == "65534");
        has_no_rights(status)
            && is_nobody("Uid:")
            && is_nobody("Gid:")
            && is_nobody("Groups:")
            && mask(status, "CapEff:") == BIND_LOW_PORTS
            && mask(status, "CapBnd:") == BIND_LOW_PORTS
    });
}

#[test]
fn an_ordinary_user_serves_a_high_port() {
    if !is_root() {
        return;
    }
    let (scratch, upstream) = (scratch(), TcpListener::bind("127.0.0.1:0").unwrap());
    configure(&scratch, &upstream.local_addr().unwrap().to_string(), "");
    give_to_nobody(&scratch);
    let mut command = command(&scratch);
    command.uid(NOBODY).gid(NOBODY);
    let mut running = Running::of(command);
    serves(&scratch, &mut running, &upstream, |status| {
        has_no_rights(status) && mask(status, "CapPrm:") == 0
    });
}

/// Landlock sets it too: here it is the process.
#[test]
fn no_new_privileges_do_not_hang_on_landlock() {
    let (scratch, upstream) = (scratch(), TcpListener::bind("127.0.0.1:0").unwrap());
    let more = "[confinement]\nlandlock = false\n";
    configure(&scratch, &upstream.local_addr().unwrap().to_string(), more);
    let mut running = Running::of(command(&scratch));
    let said = "no_new_privs active, landlock off";
    assert!(
        running.confinement.contains(said),
        "{}",
        running.confinement
    );
    serves(&scratch, &mut running, &upstream, has_no_rights);
}

#[test]
fn who_is_the_user_with_one_more_group_is_not_taken_for_it() {
    let has_setpriv = || Command::new("setpriv").arg("--version").output().is_ok();
    if !is_root() || !has_setpriv() {
        println!("skipped: it takes root and setpriv (util-linux)");
        return;
    }
    let scratch = scratch();
    let more = "[process]\nuser = \"nobody\"\ngroup = \"65534\"\n";
    configure(&scratch, "127.0.0.1:1", more);
    give_to_nobody(&scratch);
    let with = |groups| {
        let own = command(&scratch);
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", groups])
            .arg(own.get_program())
            .args(own.get_args());
        command
    };
    let output = outcome(&mut with("--groups=0,65534"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("start as root"), "{text}");
    for groups in ["--groups=65534", "--clear-groups"] {
        let mut running = Running::of(with(groups));
        assert!(running.confinement.contains("user active"));
        running.signal("TERM");
        assert_eq!(running.ended().code(), Some(0));
    }
}

#[test]
fn the_doctor_tells_whom_it_would_run_as_and_with_what() {
    const RINGGATE: &str = env!("CARGO_BIN_EXE_ringgate");
    let told = |command: &mut Command| {
        let output = outcome(command.arg("doctor"));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = told(&mut Command::new(RINGGATE));
    for name in [
        "user",
        "low ports",
        "no_new_privs",
        "landlock",
        "ring restrictions",
    ] {
        assert!(text.contains(&format!("  {name}: ")), "{name}: {text}");
    }
    let own = fs::read_to_string("/proc/self/status").unwrap();
    if mask(&own, "CapEff:") & BIND_LOW_PORTS != 0 {
        assert!(text.contains("ok       low ports: "), "{text}");
    }
    if !is_root() {
        return;
    }
    assert!(text.contains("user: root"), "{text}");
    let text = told(Command::new(RINGGATE).uid(NOBODY).gid(NOBODY));
    assert!(
        text.contains("user: user 65534: it goes on as nobody else"),
        "{text}"
    );
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first: u16 = first.map_or(1024, |text| text.trim().parse().unwrap());
    let lacking = format!("lacking  low ports: ports below {first} cannot be had");
    let remedy = "AmbientCapabilities=CAP_NET_BIND_SERVICE";
    let is_said = text.contains(&lacking) && text.contains(remedy);
    assert_eq!(is_said, first > 1, "{text}");
}

#[test]
fn each_part_can_be_left_out() {
    let (scratch, upstream) = (scratch(), TcpListener::bind("127.0.0.1:0").unwrap());
    let more = "[confinement]\nlandlock = false\nprivileges = false\nrings = false\n";
    configure(&scratch, &upstream.local_addr().unwrap().to_string(), more);
    let mut running = Running::of(command(&scratch));
    let said = "user off, capabilities off, no_new_privs off, landlock off, ring restrictions off";
    assert!(
        running.confinement.contains(said),
        "{}",
        running.confinement
    );
    serves(&scratch, &mut running, &upstream, |status| {
        field(status, "NoNewPrivs:") == ["0"]
    });
}

#[test]
fn a_user_who_is_not_there_keeps_it_from_starting() {
    let scratch = scratch();
    for (more, said) in [
        (
            "user = \"no-such-user\"",
            "process.user = `no-such-user`: there is no such user in /etc/passwd",
        ),
        (
            "user = \"root\"\ngroup = \"no-such-group\"",
            "process.group = `no-such-group`: there is no such group in /etc/group",
        ),
        (
            "user = \"4000000000\"",
            "process.user = `4000000000`: /etc/passwd does not say its group",
        ),
    ] {
        configure(&scratch, "127.0.0.1:1", &format!("[process]\n{more}\n"));
        let output = outcome(&mut command(&scratch));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn files_are_replaced_where_they_lie_and_nowhere_else() {
    let (scratch, elsewhere) = (scratch(), Scratch::new());
    configure(&scratch, "127.0.0.1:1", "");
    let mut running = Running::of(command(&scratch));
    if !running.confinement.contains("landlock active") {
        println!("skipped: {}", running.confinement);
        return;
    }
    // By renaming, as programs do.
    fs::copy(scratch.path("server.pem"), scratch.path("new.pem")).unwrap();
    fs::rename(scratch.path("new.pem"), scratch.path("server.pem")).unwrap();
    running.signal("HUP");
    running.line_with("reloaded, nothing changed");

    let other = elsewhere.path("clients-ca.pem");
    let before = fs::read_to_string(scratch.path("ringgate.toml")).unwrap();
    let text = before.replace("\"clients-ca.pem\"", &format!("{other:?}"));
    scratch.write("ringgate.toml", text);
    running.signal("HUP");
    let line = running.line_with("needs a restart: it lies outside the directories");
    assert!(line.contains(other.to_str().unwrap()), "{line}");
    assert!(line.contains("confinement.landlock = false"), "{line}");
    running.line_with("reload failed: nothing has changed");
    scratch.write("ringgate.toml", before);
    running.signal("HUP");
    running.line_with("reloaded, nothing changed");
    // Each is sound where it is in reach.
    drop(running);
}

#[test]
fn settings_are_read_and_refused() {
    let config = accepted(&front(
        "[process]\nuser = \"ringgate\"\ngroup = \"web\"\n[confinement]\nlandlock = false\n",
    ));
    assert_eq!(config.process.user.as_deref(), Some("ringgate"));
    assert_eq!(config.process.group.as_deref(), Some("web"));
    assert!(!config.confinement.landlock && config.confinement.privileges);
    assert!(config.confinement.rings);
    let scratch = scratch();
    for rings in [true, false] {
        let more = format!("[confinement]\nrings = {rings}\n");
        scratch.write("ringgate.toml", front(&more));
        assert_eq!(scratch.loaded().restricts_rings, rings);
    }
    assert_error(
        &front("[process]\ngroup = \"web\"\n"),
        "ringgate.toml:10: process.group",
        &["there is no user to go with it", "add user = \"ringgate\""],
    );
    assert_error(
        &front("[process]\nuser = \"\"\n"),
        "ringgate.toml:10: process.user",
        &["is no name and no number", "user = \"ringgate\""],
    );
    assert_error(
        &front("[confinement]\nlandlock = \"no\"\n"),
        "ringgate.toml:10: confinement.landlock",
        &[],
    );
}
