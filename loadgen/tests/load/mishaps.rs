//! What goes wrong around a run, as the program meets it: one clear line, the right exit code, and
//! what was measured so far.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::program::{World, told};
use crate::server::Behaviour;

/// A port that answers whatever comes with `answer`, or with the same where that is empty.
fn plaintext(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    let answer = if answer.is_empty() {
                        &buffer[..len]
                    } else {
                        answer
                    };
                    if stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn program(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringgate-loadgen"));
    command.args(arguments.split_whitespace());
    command.output().unwrap()
}

#[test]
fn a_port_that_speaks_no_tls_is_told_from_one_that_fails() {
    for answer in [
        &b""[..],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-x\r\n",
    ] {
        let address = plaintext(answer);
        let (code, text) = told(program(&format!(
            "run {address} --insecure -c 2 -d 200ms --warmup 0ms"
        )));
        assert_eq!(code, Some(2), "{text}");
        assert!(
            text.contains("nothing was served, not_tls (it speaks no TLS"),
            "{text}"
        );
    }
}

#[test]
fn a_closed_port_has_its_name_and_code() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let (code, text) = told(program(&format!(
        "run {address} --insecure -c 2 -d 200ms --warmup 0ms"
    )));
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("nothing was served, tcp_refused (nothing listens there)"),
        "{text}"
    );
}

/// A network namespace of its own has not even a loopback that is up.
#[test]
fn a_host_to_which_no_route_leads_has_its_name_and_code() {
    let mut command = Command::new("unshare");
    command.args(["--net", env!("CARGO_BIN_EXE_ringgate-loadgen")]);
    command.args(["run", "127.0.0.1:9", "--insecure", "-c", "2"]);
    command.args(["-d", "200ms", "--warmup", "0ms"]);
    let (code, text) = match command.output() {
        Ok(output) => told(output),
        Err(error) => return println!("skipped: unshare: {error}"),
    };
    if text.contains("unshare") {
        return println!("skipped: {text}");
    }
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("nothing was served, tcp_unreachable (no route leads there)"),
        "{text}"
    );
}

#[test]
fn files_that_do_not_load_are_named_before_any_load() {
    let world = World::new("loads", Behaviour::Echo);
    let address = world.server.address();
    let path = |name: &str| world.path(name);
    let whole = std::fs::read_to_string(path("client-1.pem")).unwrap();
    std::fs::write(path("cut.pem"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(path("empty.pem"), "").unwrap();
    std::fs::write(
        path("garbage.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let (ca, cert, key) = (path("ca.pem"), path("client-1.pem"), path("client-1.key"));
    let other_key = path("client-2.key");
    for (arguments, named) in [
        (format!("--ca {}", path("none.pem")), "none.pem"),
        (format!("--ca {}", path("empty.pem")), "empty.pem"),
        (format!("--ca {}", path("cut.pem")), "cut.pem"),
        (format!("--ca {}", path("garbage.pem")), "garbage.pem"),
        (
            format!("--ca {ca} --cert {} --key {key}", path("cut.pem")),
            "cut.pem",
        ),
        (
            format!("--ca {ca} --cert {} --key {key}", path("garbage.pem")),
            "garbage",
        ),
        (
            format!("--ca {ca} --cert {cert} --key {cert}"),
            "client-1.pem",
        ),
        (
            format!("--ca {ca} --cert {cert} --key {other_key}"),
            "does its key belong to it?",
        ),
        (
            format!("--ca {ca} --identities {}", path("none")),
            "pki DIR",
        ),
        (format!("--ca {ca} --identities 3"), "--issuer-cert"),
        (
            format!("--ca {ca} --identities 3 --issuer-cert {cert} --issuer-key {other_key}"),
            "client-1.pem",
        ),
        (format!("--ca {ca} --server-pid 4294967295"), "--server-pid"),
        (format!("--ca {ca} --cpus 4095"), "--cpus 4095"),
        (format!("--ca {ca} --json {}", path("no/r.json")), "r.json"),
        (format!("--ca {ca} --csv {}", path("no/r.csv")), "r.csv"),
        (format!("--ca {ca} --hlog {}", path("no/r.hlog")), "r.hlog"),
        (format!("--ca {ca} --html {}", path("no/r.html")), "r.html"),
    ] {
        let (code, text) = told(program(&format!("run {address} -d 200ms {arguments}")));
        assert_eq!(code, Some(1), "{arguments}: {text}");
        assert!(
            text.contains(named) && text.lines().count() == 1,
            "{arguments}: {text}"
        );
    }
    assert!(world.server.peers().is_empty(), "nothing was connected");
}

#[test]
fn conditions_that_do_not_parse_are_named_before_any_load() {
    let world = World::new("conditions", Behaviour::Echo);
    for (verb, option) in [("run", "--threshold"), ("search", "--slo")] {
        for condition in ["p99<fast", "p98<1ms", "p99", "err<2", ""] {
            let output = world
                .command_of(verb, "")
                .args([option, condition])
                .output();
            let (code, text) = told(output.unwrap());
            assert_eq!(code, Some(1), "{verb} {condition}: {text}");
            assert!(text.contains(option), "{text}");
        }
    }
    assert!(world.server.peers().is_empty(), "nothing was connected");
}

#[test]
fn logs_that_are_cut_short_are_named() {
    let world = World::new("cut-logs", Behaviour::Echo);
    let hlog = world.path("r.hlog");
    world.run(&format!("-c 1 -d 200ms --quiet --hlog {hlog}"));
    let whole = std::fs::read(&hlog).unwrap();
    std::fs::write(&hlog, &whole[..whole.len() - 30]).unwrap();
    let (code, text) = told(program(&format!("merge {hlog}")));
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("r.hlog") && text.lines().count() == 1,
        "{text}"
    );
}

/// Waits until the load has connected.
fn await_load(world: &World) {
    let begun = Instant::now();
    while world.server.peers().is_empty() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "it never connected"
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_server_that_goes_costs_only_its_own_figures() {
    let world = World::new("goes", Behaviour::Echo);
    let json = world.path("r.json");
    // A process whose CPU time is taken for the server's, so that the load goes on without it.
    let mut watched = Command::new("sleep").arg("600").spawn().unwrap();
    let run = world
        .command(&format!(
            "-c 1 -d 1s --server-pid {} --json {json}",
            watched.id()
        ))
        .spawn()
        .unwrap();
    await_load(&world);
    watched.kill().unwrap();
    watched.wait().unwrap();
    let (code, text) = told(run.wait_with_output().unwrap());
    assert!(matches!(code, Some(0 | 3)), "{code:?}: {text}");
    assert!(
        text.contains("CPU time of the server is not known: /proc/"),
        "{text}"
    );
    let result: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert!(result["phases"][0]["confirmed"].as_u64().unwrap() > 0);
    assert!(result["phases"][0]["server_cpu_us_per_unit"].is_null());
}

#[test]
fn a_search_that_is_interrupted_reports_what_there_was() {
    let world = World::new("search-interrupt", Behaviour::Echo);
    let (json, html) = (world.path("s.json"), world.path("s.html"));
    let line = format!("--slo p50<2s,err<1% -c 1 -d 1h --json {json} --html {html}");
    let search = world
        .command_of("search", &line)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    await_load(&world);
    let interrupt = Command::new("kill")
        .args(["-INT", &search.id().to_string()])
        .status();
    assert!(interrupt.unwrap().success());
    let (code, text) = told(search.wait_with_output().unwrap());
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("stopped by hand before an answer; no rate had held"),
        "{text}"
    );
    let result: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert!(result["search"]["rate"].is_null());
    assert!(std::fs::metadata(&html).unwrap().len() > 0);
}
