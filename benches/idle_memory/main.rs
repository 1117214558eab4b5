//! What an idle connection costs in memory: the growth of the server's anonymous resident memory
//! over connections that were made and then rest, first one after another, then all at the same
//! moment. What the kernel holds for their sockets is not in it.
//!
//! The server is a process of its own. `--connections N` is how many (4,000 unless given). No process
//! needs more descriptors than its hard limit for that (`ulimit -Hn`, to which each raises its soft
//! one), and so 100,000 connections need no higher limit than 20,000:
//! - Sockets of the server are in the tables of its shards' rings. The kernel bounds each table by
//!   the limit, and counts no descriptor of the process for what is in it; so there are as many
//!   shards as it takes, also more than CPUs.
//! - Clients and upstreams are held by as many processes as it takes ([`holder`]), each with a
//!   listener of the server for itself, at addresses of 127.0.0.0/8 by the number, so that ports do.

#[path = "../common/arguments.rs"]
mod arguments;
#[path = "../../tests/interop/echo.rs"]
#[allow(dead_code, reason = "the tests need all of it")]
mod echo;
#[path = "../../tests/interop/gate.rs"]
#[allow(dead_code, reason = "the tests need all of it")]
mod gate;
#[path = "../../tests/interop/pki.rs"]
#[allow(dead_code, reason = "the tests need all of it")]
mod pki;
#[path = "../../tests/interop/program.rs"]
#[allow(dead_code, reason = "the tests need all of it")]
mod program;
#[path = "../../tests/common/proxy_v2.rs"]
mod proxy_v2;

mod holder;

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use ringgate::limits::{CONNECTIONS_PER_SHARD_MAX, SHARDS_MAX};
use ringgate::ring::raise_descriptor_limit;

use gate::{Chains, Gate};
use holder::Holder;

const CONNECTIONS: u32 = 4_000;

/// Connections to each shard before the first reading, so that what is made once is not counted.
const FIRST: usize = 50;

/// Connections at the same moment: as many as wait to be accepted (`net.core.somaxconn`), and no
/// handshake times out because of the others.
const AT_ONCE: usize = 4_000;

/// Descriptors of a process, and slots of a ring's table, beside those of connections.
const BESIDE: usize = 500;

/// Of the connections that a shard has room for, the part that it is meant to get, in percent: the
/// kernel deals them out by a hash, so that some shards get more than others.
const SHARE: usize = 90;

/// Memory that was freed has gone back to the system by then: a shard lets go of it after a second of
/// quiet, and looks once a second.
const REST: Duration = Duration::from_secs(4);

fn main() {
    if let Some(number) = arguments::argument(holder::ROLE) {
        return holder::hold(number.parse().expect("the number of a holder"));
    }
    let count = arguments::number("--connections", CONNECTIONS) as usize;
    match Layout::of(count) {
        Ok(layout) => {
            println!("{layout}");
            measure("one after another", &layout, 1);
            measure("at the same moment", &layout, AT_ONCE);
        }
        Err(problem) => println!("{problem}; nothing is measured"),
    }
}

/// How the connections are spread.
struct Layout {
    /// Those that are measured.
    connections: usize,
    /// Those before.
    first: usize,
    shards: usize,
    /// Connections that a shard has room for.
    by_shard: usize,
    holders: usize,
    /// The limit of each process.
    descriptors: u64,
}

impl Layout {
    /// Why there is none, where it is so.
    fn of(connections: usize) -> Result<Self, String> {
        let descriptors = raise_descriptor_limit().unwrap_or(u64::MAX);
        let room = usize::try_from(descriptors).unwrap_or(usize::MAX);
        // Each connection has two sockets, at the server as at its holder.
        let room = (room.saturating_sub(BESIDE) / 2).min(CONNECTIONS_PER_SHARD_MAX);
        let meant = (room * SHARE / 100).saturating_sub(FIRST);
        let shards = match connections + FIRST < room {
            true => 1,
            false => connections.div_ceil(meant.max(1)),
        };
        let first = shards * FIRST;
        let holders = (connections + first).div_ceil(room.max(1));
        let most = usize::from(u8::MAX) - 1;
        if meant == 0 || shards > SHARDS_MAX || holders > most {
            return Err(format!(
                "{connections} connections cannot be spread over processes of {descriptors} \
                 descriptors (ulimit -Hn): raise the limit first, with CAP_SYS_RESOURCE: \
                 prlimit --nofile=20000:20000 --pid $$"
            ));
        }
        Ok(Self {
            connections,
            first,
            shards,
            // One to spare for whoever looks whether the server listens.
            by_shard: if shards == 1 {
                connections + first + 1
            } else {
                room
            },
            holders,
            descriptors,
        })
    }

    /// Of so many connections, those of each holder.
    fn by_holder(&self, connections: usize) -> impl Iterator<Item = usize> {
        let (each, more) = (connections / self.holders, connections % self.holders);
        (0..self.holders).map(move |holder| each + usize::from(holder < more))
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} connections: shards of one server: {}, each with its sockets in its own ring's \
             table; processes with clients and upstreams: {}; descriptors that a process, and a \
             table, may have: {}",
            self.connections, self.shards, self.holders, self.descriptors
        )
    }
}

/// Prints what each connection costs, so many of which are opened at once.
fn measure(manner: &str, layout: &Layout, at_once: usize) {
    let mut holders: Vec<Holder> = (1..=layout.holders).map(Holder::start).collect();
    let mut addresses = Vec::new();
    let gate = Gate::configured(Chains::P256, |address| {
        addresses.push(address);
        addresses.extend((1..layout.holders).map(|_| program::free_address()));
        configuration(layout, &addresses, &holders)
    });
    for (holder, &address) in holders.iter_mut().zip(&addresses) {
        holder.meet(&gate, address);
    }
    let mut open = |connections, at_once| {
        for (holder, count) in holders.iter_mut().zip(layout.by_holder(connections)) {
            holder.open(count, at_once);
        }
    };
    open(layout.first, 1);
    sleep(REST);
    let before = anonymous_kib(gate.process_id());
    open(layout.connections, at_once);
    sleep(REST);
    let after = anonymous_kib(gate.process_id());
    let count = layout.connections;
    let each = f64::from(after.saturating_sub(before)) / f64::from(u32::try_from(count).unwrap());
    let batches = match count > at_once && at_once > 1 {
        true => format!(", up to {at_once} at a time"),
        false => String::new(),
    };
    println!(
        "idle memory: {each:.2} KiB for each of {count} connections opened {manner}{batches} \
         ({before} -> {after} KiB)"
    );
}

fn configuration(layout: &Layout, addresses: &[SocketAddr], holders: &[Holder]) -> String {
    let listener = |(address, holder): (&SocketAddr, &Holder)| {
        let upstreams =
            holder.upstreams((layout.connections + layout.first).div_ceil(holders.len()));
        format!(
            r#"
            [[listener]]
            address = "{address}"
            certificate = "server.pem"
            key = "server.key"
            client_ca = "client-root.pem"
            upstream = {upstreams:?}
            handshake_timeout = "60s"
            idle_timeout = "24h"
            rule = [{{ name = "everyone", allow = {{ any = true }} }}]
            "#
        )
    };
    let listeners: String = addresses.iter().zip(holders).map(listener).collect();
    let Layout {
        shards, by_shard, ..
    } = layout;
    format!(
        r#"
        [shards]
        count = {shards}

        [limits]
        connections = {by_shard}
        handshakes = {by_shard}
        handshakes_per_source = {by_shard}
        handshake_queue = "5m"
        {listeners}
        "#
    )
}

/// RssAnon of /proc/PID/status, in KiB.
fn anonymous_kib(process_id: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
