//! A process that runs out of what it may have.

use std::fs;
use std::os::unix::fs::chown;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, getuid, prlimit};

use crate::gate::{Client, Gate, Stream, close, echoed};
use crate::plan::Plan;
use crate::process;
use crate::program::{find, skip};
use crate::starting::outcome;

/// Descriptors that are left.
const LEFT: u64 = 10;

/// Clients that come; each has a file descriptor in the server on a wildcard address.
const CLIENTS: usize = 30;

type Coming = JoinHandle<std::io::Result<Stream>>;

fn wildcard() -> Gate {
    Plan {
        address: "0.0.0.0:0",
        ..Plan::new()
    }
    .start()
}

/// Limits the server to [`LEFT`] descriptors more than it has; what it was limited to before.
fn exhaust(gate: &Gate) -> Option<Rlimit> {
    let files = process::descriptors(gate.id());
    let limit = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: (0..)
            .find(|number| !files.contains(number))
            .map(|it| it + LEFT),
        ..limit
    };
    let before = prlimit(Some(gate.id()), Resource::Nofile, limit).ok();
    if before.is_none() {
        skip("another process cannot be limited here");
    }
    before
}

/// Clients that connect; as many are served as there are descriptors for.
fn crowd(client: &Client) -> (Vec<Coming>, usize) {
    let clients = (0..CLIENTS).map(|_| {
        let client = client.clone();
        thread::spawn(move || client.connect())
    });
    let clients: Vec<_> = clients.collect();
    let is_served = || clients.iter().filter(|client| client.is_finished()).count();
    // Accepts in flight took what was left.
    crate::program::until("some who are served", || (is_served() > 0).then_some(()));
    thread::sleep(Duration::from_millis(200));
    let served = is_served();
    assert!(served < CLIENTS, "there was no lack");
    (clients, served)
}

#[track_caller]
fn are_served(clients: Vec<Coming>) {
    for client in clients {
        let mut stream = client.join().unwrap().expect("who waited is served");
        close(&mut stream).unwrap();
    }
}

#[test]
fn fd_exhaustion() {
    const EXHAUSTED: Duration = Duration::from_secs(1);
    let mut gate = wildcard();
    let client = gate.client(&gate.leaf());
    let mut first = client.connect().unwrap();
    let Some(before) = exhaust(&gate) else {
        return;
    };
    let (clients, served) = crowd(&client);
    let spent = process::cpu(gate.id());
    // Who is served is served on, and nothing spins meanwhile.
    let began = Instant::now();
    let mut answers = 0_u32;
    while began.elapsed() < EXHAUSTED {
        echoed(&mut first).unwrap();
        answers += 1;
        thread::sleep(Duration::from_millis(5));
    }
    let spent = process::cpu(gate.id()).saturating_sub(spent);
    println!("{served} served, {spent:?} of CPU time for {answers} answers in {EXHAUSTED:?}");
    assert!(spent * 4 < EXHAUSTED, "it spins: {spent:?}");
    let is_served = clients.iter().filter(|client| client.is_finished());
    assert_eq!(is_served.count(), served, "nobody more can be served");
    // A reload, which has files to read, fails or not, and nobody notices.
    gate.signal(Signal::HUP);
    gate.line("reload");
    echoed(&mut first).unwrap();
    prlimit(Some(gate.id()), Resource::Nofile, before).unwrap();
    are_served(clients);
    close(&mut first).unwrap();
    process::assert_idle(gate.id());
}

/// Who waits when a drain begins is taken all the same, once there are descriptors again.
#[test]
fn a_drain_without_descriptors_waits_for_some() {
    /// A listening socket that nobody waits at has closed by then.
    const CLOSED: Duration = Duration::from_secs(1);
    let mut gate = wildcard();
    let client = gate.client(&gate.leaf());
    let Some(before) = exhaust(&gate) else {
        return;
    };
    let (clients, _) = crowd(&client);
    gate.signal(Signal::TERM);
    gate.line("draining");
    thread::sleep(CLOSED);
    let spent = process::cpu(gate.id());
    thread::sleep(CLOSED);
    let spent = process::cpu(gate.id()).saturating_sub(spent);
    assert!(spent * 4 < CLOSED, "it spins: {spent:?}");
    prlimit(Some(gate.id()), Resource::Nofile, before).unwrap();
    are_served(clients);
    assert_eq!(gate.ended().code(), Some(0));
}

#[test]
fn small_memlock() {
    const NOBODY: u32 = 65_534;
    if !getuid().is_root() {
        return skip("only root can become somebody whom the limit binds");
    }
    let [Some(setpriv), Some(limiter)] = ["setpriv", "prlimit"].map(find) else {
        return;
    };
    let mut plan = Plan::new();
    // The folder of the build may be closed to others.
    let program = plan.scratch.path("ringgate-program");
    if fs::hard_link(&plan.program, &program).is_err() {
        fs::copy(&plan.program, &program).unwrap();
    }
    plan.program = program;
    for name in ["server.key", "server.pem", "clients-ca.pem"] {
        chown(plan.scratch.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let nobody = NOBODY.to_string();
    let words = [
        limiter.to_str().unwrap(),
        "--memlock=65536:65536",
        setpriv.to_str().unwrap(),
        "--reuid",
        &nobody,
        "--regid",
        &nobody,
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ];
    plan.through = words.map(str::to_owned).to_vec();
    let (code, said) = outcome(&mut plan.command());
    assert_eq!(code, Some(1), "{said}");
    for part in ["may lock 65536 bytes", "ulimit -l", "LimitMEMLOCK"] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
}
