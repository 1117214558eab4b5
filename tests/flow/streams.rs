//! Large streams in both directions on many connections, whatever is configured of rings, buffers
//! and what is behind them.
//!
//! `RINGGATE_STREAMS=full cargo test --test flow streams` carries 32 MiB in each direction under all
//! 32 combinations of the choices; otherwise only the default does, and 8 of them carry less.

use std::sync::Arc;

use ringgate::close_reason::CloseReason;
use ringgate::limits::{BLOCK_LEN, BLOCKS_PER_DIRECTION, RECEIVE_BUFFERS};
use ringgate::ring::Finding;
use ringgate::shard::Counters;
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::flood::Flood;
use crate::world::{EVERYONE, FILES, Folder, LIMIT, SERVER_NAME, World};

const CONNECTIONS: usize = 16;

/// Bytes of each stream.
const FULL: usize = 32 << 20;
const SMALL: usize = 12 << 20;

/// What an operator chooses that changes how bytes go.
#[derive(Clone, Copy, Debug)]
struct Choice {
    shards: usize,
    /// Below `[limits]`.
    limits: &'static str,
    version: &'static SupportedProtocolVersion,
    is_unix: bool,
    has_header: bool,
}

const DEFAULT: Choice = Choice {
    shards: 1,
    limits: "",
    version: &TLS13,
    is_unix: false,
    has_header: true,
};

/// No more than what is needed, of everything.
const TIGHT: &str = "buffers = \"16MiB\"\nconnections = 16\nhandshakes = 16";

impl Choice {
    /// All of them, or so few that each value meets each of every other choice.
    fn all(is_full: bool) -> Vec<Self> {
        let choices = (0..32_u32).filter(|bits| {
            let is_odd = |some: u32| (bits & some).count_ones() % 2 == 1;
            is_full || !is_odd(0b01011) && !is_odd(0b10101)
        });
        let choices = choices.map(|bits| {
            let is_set = |bit: u32| bits & (1 << bit) != 0;
            Self {
                shards: if is_set(0) { 2 } else { 1 },
                limits: if is_set(1) { TIGHT } else { "" },
                version: if is_set(2) { &TLS12 } else { &TLS13 },
                is_unix: is_set(3),
                has_header: !is_set(4),
            }
        });
        choices.collect()
    }

    fn listen(self, folder: &Folder) -> (Socket, String) {
        if self.is_unix {
            let path = folder.0.join("app.sock");
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
            socket.listen(64).unwrap();
            return (socket, format!("unix:{}", path.display()));
        }
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        (socket.into(), address)
    }

    /// Carries `len` bytes in each direction of each connection.
    fn carry(self, len: usize) {
        let folder = Folder::new();
        let (listener, upstream) = self.listen(&folder);
        let header = if self.has_header { "v2" } else { "off" };
        let world = World::start(
            |_, _, _| {},
            &format!(
                "[[listener]]\naddress = \"127.0.0.1:0\"\n{FILES}upstream = \"{upstream}\"\n\
                 proxy_protocol = \"{header}\"\nmin_version = \"1.2\"\n{EVERYONE}\n\
                 [shards]\ncount = {}\n[limits]\n{}\n",
                self.shards, self.limits
            ),
        )
        .unwrap();
        let flood = Flood::new(CONNECTIONS, len);
        let (flood, client) = (&flood, world.client());
        let config = Arc::new(world.client_config(Some(&client), &[self.version]));
        std::thread::scope(|scope| {
            let clients = (0..CONNECTIONS).map(|connection| {
                let stream = world.connect_to(&config, SERVER_NAME);
                scope.spawn(move || flood.client(connection, stream.conn, stream.sock))
            });
            let clients: Vec<_> = clients.collect();
            let upstreams = (0..CONNECTIONS).map(|_| {
                let (socket, _) = listener.accept().unwrap();
                socket.set_read_timeout(Some(LIMIT)).unwrap();
                scope.spawn(move || flood.upstream(&socket, self.has_header))
            });
            let upstreams: Vec<_> = upstreams.collect();
            self.wait_until_stalled(&world, flood);
            flood.open();
            for end in clients.into_iter().chain(upstreams) {
                let end = end.join().unwrap();
                assert!(end.is_ok(), "{self:?}: {end:?}; {}", world.reasons());
            }
        });
        world.closed(CloseReason::Complete, CONNECTIONS as u64);
        world.reaches("blocks", 0, Counters::blocks_lent);
        world.quiet();
        self.check_most_held(&world);
    }

    /// Waits until every direction is at its watermark, but those of which the kernel's buffers took
    /// all.
    fn wait_until_stalled(self, world: &World, flood: &Flood) {
        world.eventually("every direction at its watermark", |terminator| {
            let stalled = 2 * CONNECTIONS - flood.ended();
            assert!(stalled > 0, "{self:?}: nobody is stalled");
            let mailboxes = terminator.mailboxes();
            let held: u64 = mailboxes.map(|m| m.counters().blocks_lent()).sum();
            held >= (stalled * BLOCKS_PER_DIRECTION) as u64
        });
    }

    fn check_most_held(self, world: &World) {
        if !limits_receives() {
            println!("skipped: this kernel's multishot receives know no limit");
            return;
        }
        let kept = self.shards * usize::from(RECEIVE_BUFFERS);
        let most = world.figure(Counters::blocks_lent_max);
        let bound = (HELD_MAX / BLOCK_LEN + kept) as u64;
        assert!(most <= bound, "{self:?}: {most} blocks, {bound} allowed");
    }
}

/// What all connections together may hold beside the blocks that a shard keeps.
pub const HELD_MAX: usize = 4 << 20;

/// Whether a peer that sends much is stopped before it has filled every receive buffer.
pub fn limits_receives() -> bool {
    let mut checks = ringgate::ring::checks().into_iter();
    let check = checks.find(|check| check.name == "limited receives");
    matches!(check.unwrap().finding, Finding::Fine(_))
}

#[test]
fn large_streams_under_the_default() {
    DEFAULT.carry(FULL);
}

#[test]
fn streams_under_every_choice() {
    let is_full = std::env::var_os("RINGGATE_STREAMS").is_some_and(|what| what == "full");
    for choice in Choice::all(is_full) {
        choice.carry(if is_full { FULL } else { SMALL });
    }
}
