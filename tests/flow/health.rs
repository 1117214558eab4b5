//! Upstreams that come and go: who is left out, and who is asked again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ringgate::close_reason::CloseReason;
use ringgate::snapshot::State;
use ringgate::terminator::StartError;
use rustls::AlertDescription;

use crate::faults::{echo, nobody};
use crate::upstream::{Manner, Upstream};
use crate::world::{EVERYONE, FILES, World, alert, finish};

const SECOND: Duration = Duration::from_secs(1);

/// An upstream that echoes, and can be closed and opened again at the same address.
pub struct Fickle {
    pub address: SocketAddr,
    open: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
    accepted: Arc<AtomicUsize>,
}

impl Fickle {
    pub fn new() -> Self {
        // Nobody else's sockets are at this address, so that the port stays free.
        let listener = TcpListener::bind("127.77.0.1:0").unwrap();
        let mut fickle = Self {
            address: listener.local_addr().unwrap(),
            open: None,
            accepted: Arc::default(),
        };
        fickle.serve(listener);
        fickle
    }

    fn serve(&mut self, listener: TcpListener) {
        let ends = Arc::new(AtomicBool::new(false));
        let (is_over, accepted) = (Arc::clone(&ends), Arc::clone(&self.accepted));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                accepted.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || repeat(stream.unwrap()));
            }
        });
        self.open = Some((ends, thread));
    }

    pub fn close(&mut self) {
        if let Some((ends, thread)) = self.open.take() {
            ends.store(true, Ordering::SeqCst);
            drop(TcpStream::connect(self.address));
            thread.join().unwrap();
        }
    }

    pub fn reopen(&mut self) {
        self.serve(TcpListener::bind(self.address).unwrap());
    }
}

impl Drop for Fickle {
    fn drop(&mut self) {
        self.close();
    }
}

/// Sends back what it gets.
fn repeat(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

/// A terminator that says nothing to these upstreams before the client does.
pub fn world(upstreams: &[SocketAddr], more: &str) -> World {
    let upstreams: Vec<String> = upstreams.iter().map(|it| format!("\"{it}\"")).collect();
    let more = format!("proxy_protocol = \"off\"\n{more}");
    World::new(&format!("[{}]", upstreams.join(", ")), &more)
}

/// One client that is served.
pub fn serve_one(world: &World) {
    let mut stream = world.connect(&world.client());
    echo(&mut stream, b"served");
    finish(stream);
    let ended = world.figure(|counters| counters.closed(CloseReason::Complete));
    world.closed(CloseReason::Complete, ended.max(1));
}

pub fn states(world: &World) -> Vec<State> {
    world.terminator(|terminator| terminator.upstreams().states())
}

#[test]
fn an_upstream_that_takes_no_connections_is_left_out_and_asked_again() {
    let upstream = Upstream::with_header(Manner::Echo, false);
    let dead = nobody();
    let world = world(&[dead, upstream.address], "eject_for = \"5s\"");
    for _ in 0..10 {
        serve_one(&world);
    }
    assert_eq!(
        world.upstream_connects(),
        10 + 3,
        "three went to the dead one"
    );
    let state = &states(&world)[0];
    assert_eq!(
        (state.failures, state.ejections, state.ejected_by),
        (3, 1, 1)
    );
    assert_eq!(state.is_well, None, "there are no checks");
    world.clock.advance(5 * SECOND);
    for _ in 0..5 {
        serve_one(&world);
    }
    assert_eq!(world.upstream_connects(), 15 + 4, "one found out");
    assert_eq!(states(&world)[0].ejections, 2);
    world.quiet();
    assert_eq!(world.ends(), 15);
}

#[test]
fn connects_that_fail_leave_an_upstream_in_its_place_where_that_is_wanted() {
    let upstream = Upstream::with_header(Manner::Echo, false);
    let world = world(&[nobody(), upstream.address], "eject_after = 0");
    for _ in 0..6 {
        serve_one(&world);
    }
    assert_eq!(world.upstream_connects(), 12);
    assert_eq!(states(&world)[0].ejected_by, 0);
}

#[test]
fn upstream_flapping() {
    let (mut fickle, steady) = (Fickle::new(), Fickle::new());
    let world = world(&[fickle.address, steady.address], "");
    for _ in 0..3 {
        fickle.close();
        for _ in 0..4 {
            serve_one(&world);
        }
        assert_eq!(states(&world)[0].ejected_by, 1);
        fickle.reopen();
        world.clock.advance(40 * SECOND);
        let before = fickle.accepted.load(Ordering::SeqCst);
        for _ in 0..4 {
            serve_one(&world);
        }
        assert!(fickle.accepted.load(Ordering::SeqCst) > before);
        assert_eq!(states(&world)[0].ejected_by, 0);
    }
    world.quiet();
    assert_eq!(world.ends(), 24, "{}", world.reasons());
    world.closed(CloseReason::Complete, 24);
}

#[test]
fn upstreams_that_are_full_take_nobody_more() {
    let upstreams = [(); 2].map(|()| Upstream::with_header(Manner::Echo, false));
    let addresses = upstreams.each_ref().map(|upstream| upstream.address);
    let world = world(&addresses, "upstream_max_connections = 1");
    let client = world.client();
    let mut streams = [(); 2].map(|()| world.connect(&client));
    for stream in &mut streams {
        echo(stream, b"x");
    }
    assert_eq!(
        alert(world.connect(&client)),
        AlertDescription::InternalError
    );
    world.closed(CloseReason::UpstreamFull, 1);
    assert_eq!(world.upstream_connects(), 2);
    let states = states(&world);
    assert!(
        states
            .iter()
            .all(|it| (it.open, it.connections_max) == (1, Some(1)))
    );
    assert!(states.iter().all(|it| it.failures == 0), "{states:?}");
    let [first, _second] = streams;
    finish(first);
    world.closed(CloseReason::Complete, 1);
    let mut next = world.connect(&client);
    echo(&mut next, b"next");
}

#[test]
fn a_limit_that_leaves_shards_without_a_connection() {
    let config = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n{FILES}upstream = \"127.0.0.1:1\"\n{EVERYONE}\n\
         upstream_max_connections = 1\n[shards]\ncount = 2\n"
    );
    let error = match World::start(|_, _, _| {}, &config) {
        Ok(_) => panic!("started"),
        Err(error) => error,
    };
    let text = error.to_string();
    assert!(matches!(error, StartError::Config(_)), "{text}");
    assert!(text.contains("raise it to 2"), "{text}");
}
