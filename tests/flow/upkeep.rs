//! Upstreams that the control plane looks after: health checks, and names that are looked up again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ringgate::clock::Clock;
use ringgate::close_reason::CloseReason;
use ringgate::config::HostPort;
use ringgate::control::Upkeep;
use ringgate::shard::mailbox::Command;
use ringgate::snapshot::State;
use ringgate::terminator::StartError;

use crate::faults::echo;
use crate::health::{Fickle, serve_one, states, world};
use crate::reload::install;
use crate::upstream::{Manner, Upstream};
use crate::world::{EVERYONE, FILES, LIMIT, World, alert, finish};

/// What the names of these tests stand for.
const LOCALHOST: &str = "localhost";

/// Ends what waits for it, whatever happens.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn send(world: &World, shard: usize, command: Command) -> Result<(), Command> {
    world.terminator(|terminator| {
        let mailbox = terminator.mailboxes().nth(shard);
        mailbox.expect("a shard").send(command)
    })
}

/// Has the upstreams looked after, by this clock, while `work` is done.
fn looked_after(world: &World, clock: &Clock, work: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let upstreams = world.terminator(|terminator| terminator.upstreams().clone());
            let upkeep = Upkeep::new(upstreams, clock.clone());
            let sends = |shard, command| send(world, shard, command);
            let ends = || is_over.load(Ordering::SeqCst);
            upkeep.run(sends, ends).expect("an executor");
        });
        let _over = Over(&is_over);
        work();
    });
}

#[track_caller]
fn until(world: &World, what: &str, is_so: impl Fn(&[State]) -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so(&states(world)) {
        assert!(Instant::now() < end, "never {what}: {:?}", states(world));
        std::thread::yield_now();
    }
}

#[track_caller]
fn until_well(world: &World, is_well: bool) {
    until(world, if is_well { "well" } else { "unwell" }, |states| {
        states[0].is_well == Some(is_well)
    });
}

#[test]
fn a_health_check_takes_an_upstream_out_and_brings_it_back() {
    let (mut fickle, steady) = (Fickle::new(), Fickle::new());
    let more = "eject_after = 0\n[listener.health_check]\ninterval = \"100ms\"\n\
                unhealthy_after = 2\nhealthy_after = 2\n";
    let world = world(&[fickle.address, steady.address], more);
    looked_after(&world, &Clock::system(), || {
        let connects = || states(&world)[0].connects;
        for _ in 0..2 {
            serve_one(&world);
            serve_one(&world);
            let before = connects();
            assert!(before > 0);
            fickle.close();
            until_well(&world, false);
            for _ in 0..4 {
                serve_one(&world);
            }
            assert_eq!(connects(), before, "nobody is sent there");
            fickle.reopen();
            until_well(&world, true);
            for _ in 0..2 {
                serve_one(&world);
            }
            assert_eq!(connects(), before + 1);
        }
        assert!(states(&world).iter().all(|state| state.failures == 0));
    });
}

/// Answers every request with this status, and passes on what it was sent.
fn answers(path: &Path, status: &Arc<AtomicU16>) -> Receiver<(Vec<u8>, String)> {
    let listener = UnixListener::bind(path).unwrap();
    let (sender, requests) = channel();
    let status = Arc::clone(status);
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut header = vec![0; 16];
            if reader.read_exact(&mut header).is_err() {
                continue;
            }
            let mut request = String::new();
            while !request.ends_with("\r\n\r\n") && reader.read_line(&mut request).unwrap() > 0 {}
            let status = status.load(Ordering::SeqCst);
            let answer = format!("HTTP/1.1 {status} so it is\r\nContent-Length: 0\r\n\r\n");
            let _ = reader.get_mut().write_all(answer.as_bytes());
            let _ = sender.send((header, request));
        }
    });
    requests
}

#[test]
fn a_health_check_asks_over_http_behind_a_local_header() {
    let status = Arc::new(AtomicU16::new(200));
    let lines = format!(
        "{FILES}upstream = \"unix:app.sock\"\n{EVERYONE}\n[listener.health_check]\n\
         interval = \"100ms\"\nhttp = \"/healthz\"\nunhealthy_after = 1\nhealthy_after = 1\n"
    );
    let world = World::with_listener(&lines);
    let requests = answers(&world.folder.0.join("app.sock"), &status);
    looked_after(&world, &Clock::system(), || {
        let (header, request) = requests.recv_timeout(LIMIT).unwrap();
        assert_eq!(
            header, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
            "the command LOCAL"
        );
        assert!(
            request.starts_with("GET /healthz HTTP/1.1\r\nHost: localhost\r\n"),
            "{request}"
        );
        for (code, is_well) in [(503, false), (204, true), (404, false), (399, true)] {
            status.store(code, Ordering::SeqCst);
            until_well(&world, is_well);
        }
        std::fs::remove_file(world.folder.0.join("app.sock")).unwrap();
        until_well(&world, false);
    });
}

#[test]
fn an_upstream_that_says_nothing_is_unwell() {
    // The kernel takes connections for it; nobody ever answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let more = "[listener.health_check]\ninterval = \"100ms\"\ntimeout = \"50ms\"\nhttp = \"/\"\n\
                unhealthy_after = 2\n";
    let world = world(&[listener.local_addr().unwrap()], more);
    looked_after(&world, &Clock::system(), || until_well(&world, false));
}

/// More upstreams than are checked at once.
#[test]
fn many_upstreams_are_checked_a_few_at_a_time() {
    let upstreams: Vec<_> = (0..100)
        .map(|_| std::net::TcpListener::bind("127.77.0.2:0").unwrap())
        .collect();
    let addresses: Vec<_> = upstreams
        .iter()
        .map(|it| it.local_addr().unwrap())
        .collect();
    let more = "[listener.health_check]\ninterval = \"100ms\"\nunhealthy_after = 1\n";
    let world = world(&addresses, more);
    looked_after(&world, &Clock::system(), || {
        for upstream in &upstreams {
            upstream.accept().unwrap();
        }
        drop(upstreams);
        until(&world, "unwell, all", |states| {
            states.iter().all(|state| state.is_well == Some(false))
        });
    });
}

fn named(port: u16) -> HostPort {
    HostPort {
        host: LOCALHOST.to_owned(),
        port,
    }
}

fn addresses(world: &World) -> Vec<String> {
    let states = states(world);
    states
        .iter()
        .map(|state| state.address.to_string())
        .collect()
}

#[test]
fn a_name_leads_to_upstreams_and_later_to_others() {
    let (first, second) = (
        Upstream::with_header(Manner::Echo, false),
        Upstream::with_header(Manner::Echo, false),
    );
    let port = first.address.port();
    let more = "proxy_protocol = \"off\"\nresolve_every = \"30s\"";
    let world = World::new(&format!("\"{LOCALHOST}:{port}\""), more);
    let own = first.address.to_string();
    assert!(addresses(&world).contains(&own));
    let mut stays = world.connect(&world.client());
    echo(&mut stays, b"first");

    let upstreams = world.terminator(|terminator| terminator.upstreams().clone());
    let elsewhere: SocketAddr = second.address;
    let renewals = upstreams.set_addresses(&named(port), vec![elsewhere]);
    for (shard, renewals) in renewals.expect("news").into_iter().enumerate() {
        send(&world, shard, Command::Renew(renewals)).expect("a shard that takes commands");
    }
    assert!(
        upstreams
            .set_addresses(&named(port), vec![elsewhere])
            .is_none()
    );
    assert_eq!(addresses(&world), [elsewhere.to_string()]);
    let before = first.connections();
    serve_one(&world);
    assert_eq!((first.connections(), second.connections()), (before, 1));
    echo(&mut stays, b"goes on");

    // It is looked up again.
    let clock = Clock::manual(Duration::from_secs(1));
    looked_after(&world, &clock, || {
        let end = Instant::now() + LIMIT;
        while !addresses(&world).contains(&own) {
            assert!(Instant::now() < end, "never looked up again");
            clock.advance(Duration::from_secs(30));
            std::thread::yield_now();
        }
    });
    finish(stays);
    world.closed(CloseReason::Complete, 2);
}

/// Has a name lead there, and every shard told.
fn lead(world: &World, name: &HostPort, address: SocketAddr) {
    let upstreams = world.terminator(|terminator| terminator.upstreams().clone());
    let renewals = upstreams.set_addresses(name, vec![address]).expect("news");
    for (shard, renewals) in renewals.into_iter().enumerate() {
        send(world, shard, Command::Renew(renewals)).expect("a shard that takes commands");
    }
}

#[test]
fn an_address_that_returns_has_the_connections_that_it_had() {
    let [own, other] = [(); 2].map(|()| Upstream::with_header(Manner::Echo, false));
    let name = named(own.address.port());
    let more = "proxy_protocol = \"off\"\nresolve_every = \"1h\"\nupstream_max_connections = 1";
    let lines = |called: &str| {
        format!(
            "[[listener]]\nname = \"{called}\"\naddress = \"127.0.0.1:0\"\n{FILES}\
             upstream = \"{LOCALHOST}:{}\"\n{EVERYONE}\n{more}\n",
            name.port
        )
    };
    let world = World::with(|_, _, _| {}, &lines("first"));
    // Its localhost may have two addresses.
    lead(&world, &name, other.address);
    lead(&world, &name, own.address);
    let client = world.client();
    let mut stays = world.connect(&client);
    echo(&mut stays, b"first");
    for round in 1..4 {
        lead(&world, &name, other.address);
        serve_one(&world);
        lead(&world, &name, own.address);
        assert_eq!(states(&world)[0].open, 1);
        alert(world.connect(&client));
        world.closed(CloseReason::UpstreamFull, round);
    }
    // Nor has it another count where its listener has another name.
    assert!(install(&world, &lines("second")).is_empty());
    let state = &states(&world)[0];
    assert_eq!((&*state.listener, state.open), ("second", 1));
    alert(world.connect(&client));
    world.closed(CloseReason::UpstreamFull, 4);
    assert_eq!((own.connections(), other.connections()), (1, 3));
    finish(stays);
    world.eventually("released", |terminator| {
        terminator.upstreams().states()[0].open == 0
    });
    serve_one(&world);
    assert_eq!(own.connections(), 2);
}

#[test]
fn a_name_that_leads_nowhere_keeps_it_from_starting() {
    let config = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n{FILES}upstream = \"nothing.invalid:80\"\n\
         {EVERYONE}\n[shards]\ncount = 1\n"
    );
    let error = match World::start(|_, _, _| {}, &config) {
        Ok(_) => panic!("started"),
        Err(error) => error,
    };
    let text = error.to_string();
    assert!(matches!(error, StartError::Config(_)), "{text}");
    let parts = [
        "nothing.invalid:80",
        "cannot be looked up",
        "correct the name",
    ];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}
