//! The admin interface: where it listens, and what a running process answers there.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::running::{LIMIT, Running, outcome, scratch};
use crate::scratch::Scratch;
use crate::{accepted, assert_error, front};

#[test]
fn it_listens_nowhere_unless_configured() {
    let admin = accepted(&front("")).admin;
    assert_eq!((admin.socket, admin.address), (None, None));
    assert!(!admin.writes_over_tcp);
}

#[test]
fn a_socket_and_an_address_are_read() {
    let admin = accepted(&front(
        "[admin]\nsocket = \"/run/x.sock\"\naddress = \"[::1]:9180\"\nwrites_over_tcp = true\n",
    ))
    .admin;
    assert_eq!(admin.socket.unwrap().to_str(), Some("/run/x.sock"));
    assert_eq!(admin.address, Some("[::1]:9180".parse().unwrap()));
    assert!(admin.writes_over_tcp);
}

#[test]
fn what_cannot_be_is_refused_with_its_line() {
    // Of 107, `.PID` takes 8.
    let [longest, long] = [98, 99].map(|len| format!("socket = \"/{}\"", "x".repeat(len)));
    accepted(&front(&format!("[admin]\n{longest}\n")));
    for (section, line, parts) in [
        ("", 9, ["listens nowhere", "admin.sock"]),
        (
            "address = \"localhost\"",
            10,
            ["no IP address", "127.0.0.1:9180"],
        ),
        (&long, 10, ["100 bytes", "shorter"]),
        (
            "socket = \"/run/x\"\nwrites_over_tcp = true",
            11,
            ["no `address`", "remove this line"],
        ),
        (
            "address = \"0.0.0.0:9180\"\nwrites_over_tcp = true",
            11,
            ["could drain", "loopback"],
        ),
    ] {
        let text = front(&format!("[admin]\n{section}\n"));
        assert_error(&text, &format!("ringgate.toml:{line}: "), &parts);
    }
}

/// An address on which nothing listens: each has a loopback address of its own, so neither other
/// tests nor the ports of outgoing connections get in the way.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    // Other processes of these tests at the same time get other bytes, most likely.
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, high | 0x80, low, last], 9180))
}

/// The admin interface of a running process.
struct Interface {
    running: Running,
    scratch: Scratch,
    address: SocketAddr,
}

impl Interface {
    fn start(more: &str) -> Self {
        let scratch = scratch();
        let address = free_address();
        Self::start_in(scratch, address, more)
    }

    fn start_in(scratch: Scratch, address: SocketAddr, more: &str) -> Self {
        let more = format!("[admin]\nsocket = \"admin.sock\"\naddress = \"{address}\"\n{more}");
        let running = Running::start(&scratch, "127.0.0.1:9", &more);
        // Its clients are served before its operator is.
        let until = Instant::now() + LIMIT;
        while UnixStream::connect(scratch.path("admin.sock")).is_err() {
            assert!(Instant::now() < until, "no admin socket within {LIMIT:?}");
            thread::yield_now();
        }
        Self {
            running,
            scratch,
            address,
        }
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        let config = self.scratch.path("ringgate.toml");
        outcome(
            Command::new(env!("CARGO_BIN_EXE_ringgate"))
                .args(["ctl", "-c", config.to_str().unwrap()])
                .args(arguments),
        )
    }

    /// What the process answers to `request`, and nothing more is sent.
    fn over_tcp(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        // It may answer before it has read everything.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn get(&self, path: &str) -> String {
        self.over_tcp(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// The whole life of a process as its operator sees it.
#[test]
fn a_running_process_is_seen_changed_and_ended_through_its_socket() {
    // Files are put right again below, which is not to be taken up.
    let mut interface = Interface::start("[reload]\nwatch = false\n");
    let socket = interface.scratch.path("admin.sock");
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others could drain it");

    let refused = interface.running.connect(&interface.scratch, None);
    drop(refused);
    interface.running.line_with("client refused");
    let status = text(&interface.ctl(&["status"]));
    for part in [
        "serving",
        "generation 0",
        "refused: 1 certificate_missing",
        "last refusals",
        "no certificate",
        "first to expire",
    ] {
        assert!(status.contains(part), "{part} in:\n{status}");
    }
    let status = interface.ctl(&["--json", "status"]).stdout;
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["listeners"][0]["accepted"], 1);
    assert_eq!(status["refusals"][0]["reason"], "certificate_missing");
    assert_eq!(status["skew"], 1.0);

    let reloaded = interface.ctl(&["reload"]);
    assert!(reloaded.status.success(), "{}", text(&reloaded));
    assert!(text(&reloaded).contains("generation 1"));
    let sound = fs::read_to_string(interface.scratch.path("ringgate.toml")).unwrap();
    interface
        .scratch
        .write("ringgate.toml", sound.clone() + "nonsense = 1\n");
    let socket_argument = ["--socket", socket.to_str().unwrap()];
    let broken = outcome(
        Command::new(env!("CARGO_BIN_EXE_ringgate"))
            .arg("ctl")
            .args(socket_argument)
            .arg("reload"),
    );
    assert!(!broken.status.success());
    for part in ["nonsense", "remedy", "nothing has changed, generation 1"] {
        assert!(text(&broken).contains(part), "{part}: {}", text(&broken));
    }
    interface.scratch.write("ringgate.toml", sound);
    let answer = interface.get("/metrics");
    assert!(
        answer.contains("ringgate_config_last_reload_successful 0"),
        "{answer}"
    );

    assert!(text(&interface.ctl(&["log-level", "debug"])).contains("log level debug"));
    assert!(!interface.ctl(&["log-level", "loud"]).status.success());
    assert!(interface.ctl(&["ready"]).status.success());
    assert!(text(&interface.ctl(&["drain"])).contains("draining"));
    assert!(interface.running.ended().success());
    assert!(!socket.exists(), "the socket outlives its process");
    let gone = interface.ctl(&["status"]);
    assert!(!gone.status.success());
    assert!(text(&gone).contains("must be running"), "{}", text(&gone));
}

/// Dashboards and alerts are held to that list.
#[test]
fn what_is_measured_is_what_the_list_says() {
    let interface = Interface::start("[listener.health_check]\ninterval = \"1h\"\n");
    let answer = interface.get("/metrics");
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    let served: BTreeSet<String> = answer
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|family| {
            let (name, kind) = family.split_once(' ').unwrap();
            let end = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            format!("{name}{end} {kind}")
        })
        .collect();
    let list = include_str!("../../tuning/operating/metrics.txt");
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    let listed: BTreeSet<String> = lines
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    let differs: Vec<_> = served.symmetric_difference(&listed).collect();
    assert!(differs.is_empty(), "{differs:?}");
    // Each sample has the labels that the list says.
    for line in answer.lines().filter(|line| line.starts_with("ringgate_")) {
        let (name, rest) = line.split_once(['{', ' ']).unwrap();
        let is_of = |listed: &&str| {
            let known = listed.split(' ').next().unwrap();
            let ends = ["", "_bucket", "_sum", "_count"];
            ends.iter().any(|end| name == format!("{known}{end}"))
        };
        let of = list.lines().find(is_of).unwrap_or_else(|| panic!("{line}"));
        let mut expected: BTreeSet<&str> = of.split(' ').nth(2).unwrap_or("").split(',').collect();
        expected.remove("");
        let labels = rest.split_once("} ").map_or("", |(labels, _)| labels);
        let labels: BTreeSet<&str> = labels
            .split(',')
            .filter_map(|label| label.split_once('=').map(|(name, _)| name))
            .filter(|name| *name != "le")
            .collect();
        assert_eq!(labels, expected, "{line}");
    }
    let sample = |name: &str, labels: &str| -> f64 {
        let line = answer
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{")) && line.contains(labels));
        let value = line.and_then(|line| line.rsplit_once(' '));
        value
            .unwrap_or_else(|| panic!("{name} {labels}"))
            .1
            .parse()
            .unwrap()
    };
    // There before the first: an increase is asked for.
    let internal = "reason=\"internal\"";
    assert_eq!(sample("ringgate_connections_closed_total", internal), 0.0);
    // Alerts are on the part of a lifetime that is left.
    let certificate = "kind=\"certificate\"";
    let left = sample("ringgate_expiry_days", certificate);
    let lifetime = sample("ringgate_expiry_lifetime_days", certificate);
    assert!(0.0 < left && left < lifetime, "{left} of {lifetime}");
}

/// A reload cannot make a ring larger, and an alert has to know.
#[test]
fn the_limit_that_is_told_is_the_one_that_holds() {
    let interface = Interface::start("[reload]\nwatch = false\n");
    let limit = || -> u64 {
        let answer = interface.get("/metrics");
        let (_, rest) = answer
            .split_once("\nringgate_connections_limit{shard=\"0\"} ")
            .unwrap();
        rest.lines().next().unwrap().parse().unwrap()
    };
    assert_eq!(limit(), 64);
    for (connections, holds) in [(32, 32..33), (100_000, 64..1000)] {
        let old = fs::read_to_string(interface.scratch.path("ringgate.toml")).unwrap();
        let (before, after) = old.split_once("\nconnections = ").unwrap();
        let (_, after) = after.split_once('\n').unwrap();
        let new = format!("{before}\nconnections = {connections}\n{after}");
        interface.scratch.write("ringgate.toml", new);
        let reloaded = interface.ctl(&["reload"]);
        assert!(reloaded.status.success(), "{}", text(&reloaded));
        assert!(holds.contains(&limit()), "{connections}: {}", limit());
    }
}

/// Just when a reload has failed, somebody asks what is served.
#[test]
fn the_socket_is_found_in_a_file_with_errors() {
    let interface = Interface::start("[reload]\nwatch = false\n");
    let sound = fs::read_to_string(interface.scratch.path("ringgate.toml")).unwrap();
    for broken in ["nonsense = 1\n", "a line that is none\n", "x = [\n"] {
        interface
            .scratch
            .write("ringgate.toml", sound.clone() + broken);
        let ready = interface.ctl(&["ready"]);
        assert!(ready.status.success(), "{broken}: {}", text(&ready));
    }
    for (socket, broken) in [
        ("socket = \"admin.sock\"", "socket = 7"),
        ("[admin]", "[admins]"),
    ] {
        let broken = sound.replace(socket, broken);
        interface.scratch.write("ringgate.toml", broken);
        let lost = interface.ctl(&["ready"]);
        assert!(!lost.status.success());
        assert!(text(&lost).contains("--socket PATH"), "{}", text(&lost));
    }
}

#[test]
fn bad_requests_get_the_status_that_says_why() {
    let interface = Interface::start("");
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(16 << 10));
    let large = format!(
        "POST /status HTTP/1.1\r\nhost: x\r\n\r\nGET {}",
        "x".repeat(64 << 10)
    );
    let body = format!(
        "GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 65536\r\n\r\n{}",
        "x".repeat(65536)
    );
    for (request, code) in [
        ("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", 200),
        ("GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        ("DELETE /status HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        ("POST /drain HTTP/1.1\r\nhost: x\r\n\r\n", 403),
        (
            "POST /log/level?level=debug HTTP/1.1\r\nhost: x\r\n\r\n",
            403,
        ),
        ("nonsense\r\n\r\n", 400),
        (&long, 431),
        (&large, 405),
        (&body, 413),
    ] {
        let answer = interface.over_tcp(request.as_bytes());
        let expected = format!("HTTP/1.1 {code} ");
        let shown = &request[..request.len().min(40)];
        assert!(answer.starts_with(&expected), "{shown}: {answer}");
    }
    // None of them has ended it.
    assert!(interface.get("/readyz").contains("200 OK"));
    let drained = interface.over_tcp(b"POST /drain HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(drained.contains("writes_over_tcp"), "{drained}");
}

/// A client that never ends its request keeps nobody from an answer, however many of them there are.
#[test]
fn silent_clients_of_the_admin_interface_give_way() {
    let interface = Interface::start("");
    let connect = |_| {
        let mut stream = TcpStream::connect(interface.address).unwrap();
        stream.write_all(b"GET /livez HT").unwrap();
        stream
    };
    let mut silent: Vec<TcpStream> = (0..100).map(connect).collect();
    assert!(interface.get("/livez").contains("200 OK"));
    // The oldest had to go.
    let mut first = silent.remove(0);
    first
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    assert_eq!(first.read(&mut [0; 1]).ok(), Some(0));
}

/// However many there are over TCP, the operator's connection is not among them.
#[test]
fn clients_over_tcp_do_not_cut_the_operator_off() {
    let interface = Interface::start("");
    let mut operator = UnixStream::connect(interface.scratch.path("admin.sock")).unwrap();
    operator.write_all(b"GET /livez HTTP/1.1\r\n").unwrap();
    let connect = |_| {
        let mut stream = TcpStream::connect(interface.address).unwrap();
        stream.write_all(b"GET /livez HT").unwrap();
        stream
    };
    let _silent: Vec<TcpStream> = (0..100).map(connect).collect();
    assert!(interface.get("/livez").contains("200 OK"));
    operator.write_all(b"host: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    operator.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("200 OK"), "{answer}");
}

/// Whether it takes over is a part of what it has 10 seconds to say.
#[test]
fn who_says_nothing_over_the_socket_has_no_longer_than_others() {
    let interface = Interface::start("");
    let since = Instant::now();
    let mut silent = UnixStream::connect(interface.scratch.path("admin.sock")).unwrap();
    silent.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = String::new();
    silent.read_to_string(&mut answer).unwrap();
    let waited = since.elapsed().as_secs();
    assert!((9..18).contains(&waited), "{waited} s");
    assert!(answer.contains("408 Request Timeout"), "{answer}");
}

/// The value of a metric without labels, or with those.
fn figure(interface: &Interface, name: &str) -> u64 {
    let answer = interface.get("/metrics");
    let value = answer.lines().find_map(|line| line.strip_prefix(name));
    let value = value.unwrap_or_else(|| panic!("{name}: {answer}"));
    value.trim().parse().unwrap()
}

/// Whoever reaches the port fills no disk.
#[test]
fn refusals_beyond_the_rate_are_counted_instead_of_logged() {
    const CLIENTS: u64 = 8;
    let mut interface = Interface::start("[reload]\nwatch = false\n");
    let config = fs::read_to_string(interface.scratch.path("ringgate.toml")).unwrap();
    // [log] is its last table.
    let config = config + "refusal_rate = 1\n";
    interface.scratch.write("ringgate.toml", config);
    assert!(interface.ctl(&["reload"]).status.success());
    for _ in 0..CLIENTS {
        let mut refused = interface.running.connect(&interface.scratch, None);
        assert!(refused.read(&mut [0]).is_err());
    }
    interface.running.line_with("client refused");
    let reason = "ringgate_connections_closed_total{listener=\"127.0.0.1:0\",\
                  reason=\"certificate_missing\"} ";
    // Each is counted once the server has seen it leave.
    let until = Instant::now() + LIMIT;
    while figure(&interface, reason) < CLIENTS {
        assert!(
            Instant::now() < until,
            "not all were counted within {LIMIT:?}"
        );
    }
    let dropped = figure(&interface, "ringgate_refusal_lines_dropped_total ");
    assert!((1..CLIENTS).contains(&dropped), "{dropped}");
}

/// A counter that falls looks like a restart.
#[test]
fn who_was_shed_by_a_listener_that_is_gone_stays_counted() {
    let interface = Interface::start("[reload]\nwatch = false\n");
    let path = interface.scratch.path("ringgate.toml");
    let config = fs::read_to_string(path).unwrap();
    let named = |more: &str| {
        let upstream = "upstream = \"127.0.0.1:9\"";
        assert!(config.contains(upstream), "{config}");
        let config = config.replace(upstream, &format!("{upstream}\n{more}"));
        interface.scratch.write("ringgate.toml", config);
        let reloaded = interface.ctl(&["reload"]);
        assert!(reloaded.status.success(), "{}", text(&reloaded));
    };
    named("rate = 1");
    let connect = |_| TcpStream::connect(interface.running.address).unwrap();
    let clients: Vec<TcpStream> = (0..5).map(connect).collect();
    let shed = || figure(&interface, "ringgate_shed_total{reason=\"rate_limited\"} ");
    let until = Instant::now() + LIMIT;
    while shed() == 0 {
        assert!(Instant::now() < until, "nobody was shed within {LIMIT:?}");
        thread::yield_now();
    }
    drop(clients);
    let before = shed();
    named("name = \"another\"");
    assert!(shed() >= before);
    let of_another = "ringgate_connections_accepted_total{listener=\"another\"} ";
    assert_eq!(figure(&interface, of_another), 0);
}

#[test]
fn a_socket_of_a_living_process_is_not_taken_and_a_dead_ones_is() {
    let interface = Interface::start("");
    let socket = interface.scratch.path("admin.sock");
    let other = outcome(
        Command::new(env!("CARGO_BIN_EXE_ringgate"))
            .args(["run", "-c"])
            .arg(interface.scratch.path("ringgate.toml")),
    );
    assert!(!other.status.success());
    assert!(
        text(&other).contains("is another process's, which answers"),
        "{}",
        text(&other)
    );
    assert!(interface.ctl(&["ready"]).status.success());
    interface.running.signal("KILL");
    let Interface {
        mut running,
        scratch,
        address,
    } = interface;
    running.ended();
    assert!(socket.exists());
    let interface = Interface::start_in(scratch, address, "");
    assert!(interface.ctl(&["ready"]).status.success());
}
