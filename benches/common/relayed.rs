//! A connection that relays, driven without a kernel.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringgate::block::{Block, Pool};
use ringgate::connection::{
    Action, Addresses, Connection, Context, Event, Greeting, Settings, Side,
};
use rustls::ClientConnection;

use crate::meter::Meter;
use crate::site::{Site, give_input, take_output};

/// Far away.
const HOUR: Duration = Duration::from_secs(3600);

/// Where connections come from, and where to.
pub fn addresses() -> Addresses {
    Addresses {
        client: ([192, 0, 2, 1], 40000).into(),
        local: ([192, 0, 2, 2], 8443).into(),
    }
}

/// An open connection and its client.
pub struct Relayed {
    connection: Connection,
    client: ClientConnection,
    pool: Pool,
    actions: Vec<Action>,
    now: Instant,
}

impl Relayed {
    pub fn new(site: &Site) -> Self {
        let settings = Settings {
            greeting: Greeting::ProxyV2 {
                client_certificate: false,
            },
            handshake_timeout: HOUR,
            idle_timeout: HOUR,
            connect_timeout: HOUR,
            half_close_timeout: HOUR,
        };
        let (mut pool, mut actions, now) = (Pool::new(16, 16), Vec::new(), Instant::now());
        let mut context = Context {
            now,
            pool: &mut pool,
            actions: &mut actions,
        };
        let connection = Connection::new(
            &site.acceptor,
            Arc::new(settings),
            addresses(),
            1,
            &mut context,
        );
        let mut relayed = Self {
            connection,
            client: site.client(),
            pool,
            actions,
            now,
        };
        relayed.open();
        relayed
    }

    /// The handshake, the connect and the greeting.
    fn open(&mut self) {
        let mut hello = take_output(&mut self.client);
        self.on(Event::Received(Side::Client, &mut hello));
        let flight = self.deliver(Side::Client);
        give_input(&mut self.client, &flight);
        let mut flight = take_output(&mut self.client);
        self.on(Event::Received(Side::Client, &mut flight));
        let tickets = self.deliver(Side::Client);
        give_input(&mut self.client, &tickets);
        self.on(Event::Connected(Ok(())));
        let greeting = self.deliver(Side::Upstream);
        assert!(greeting.starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
    }

    /// The client's records, `count` of them with `len` bytes each, and what comes back for one.
    pub fn prepare(&mut self, count: usize, len: usize) -> (Vec<Vec<u8>>, Vec<u8>) {
        let plain: Vec<u8> = vec![5; len];
        let records = (0..count).map(|_| {
            self.client.writer().write_all(&plain).expect("room for it");
            take_output(&mut self.client)
        });
        (records.collect(), plain)
    }

    /// Takes each of `records` to the upstream, and `reply` to the client for each.
    pub fn round_trips(
        &mut self,
        records: &mut [Vec<u8>],
        reply: &mut [u8],
        meter: &mut impl Meter,
    ) {
        meter.run(|| {
            for record in records {
                self.on(Event::Received(Side::Client, record));
                self.pass_on(Side::Upstream, reply.len());
                self.on(Event::Received(Side::Upstream, reply));
                self.pass_on(Side::Client, reply.len());
            }
        });
    }

    fn on(&mut self, event: Event<'_>) {
        let mut context = Context {
            now: self.now,
            pool: &mut self.pool,
            actions: &mut self.actions,
        };
        self.connection.on(event, &mut context);
    }

    /// The block that is to be sent to `side`.
    fn sends(&mut self, side: Side) -> Block {
        let sends = self.actions.drain(..).find_map(|action| match action {
            Action::Send(to, block) if to == side => Some(block),
            _ => None,
        });
        sends.unwrap_or_else(|| panic!("nothing is sent to {side:?}"))
    }

    /// As if the kernel had sent what there is for `side`, which is at least `len` bytes.
    fn pass_on(&mut self, side: Side, len: usize) {
        let block = self.sends(side);
        let sent = block.filled().len();
        assert!(sent >= len);
        self.on(Event::Sent(side, block, Ok(sent)));
    }

    /// As [`Relayed::pass_on`]; what was sent.
    fn deliver(&mut self, side: Side) -> Vec<u8> {
        let block = self.sends(side);
        let bytes = block.filled().to_vec();
        self.on(Event::Sent(side, block, Ok(bytes.len())));
        bytes
    }
}
