//! A connection driven by hand, for what no client that keeps the rules does.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringgate::block::Pool;
use ringgate::close_reason::CloseReason;
use ringgate::connection::{
    Action, Addresses, Connection, Context, Event, Greeting, Settings, Side,
};
use ringgate::tls::Acceptor;
use rustls::ClientConnection;

use crate::cast::{Cast, Who};
use crate::support::{give_input, take_output};
use crate::world::{SOURCE, UNIQUE_ID, index};

pub struct Hand {
    connection: Connection,
    pool: Pool,
    now: Instant,
    /// What it sent to the client and to the upstream.
    pub sent: [Vec<u8>; 2],
    /// In how many sends.
    pub sends: [usize; 2],
    /// Whether it read the client and the upstream.
    pub reads: [bool; 2],
    pub closed: Option<CloseReason>,
}

/// How a connection begins.
type Begin = fn(&Acceptor, Arc<Settings>, Addresses, u128, &mut Context<'_>) -> Connection;

impl Hand {
    pub fn new(greeting: Greeting) -> Self {
        Self::begin(greeting, Connection::new)
    }

    /// One that a load balancer introduces.
    pub fn introduced(greeting: Greeting) -> Self {
        Self::begin(greeting, Connection::introduced)
    }

    fn begin(greeting: Greeting, begin: Begin) -> Self {
        let settings = Settings {
            greeting,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(5),
            half_close_timeout: Duration::from_secs(30),
        };
        let addresses = Addresses {
            client: SOURCE,
            local: SocketAddr::from((Ipv4Addr::LOCALHOST, 443)),
        };
        let (now, mut pool, mut actions) = (Instant::now(), Pool::new(64, 64), Vec::new());
        let mut context = Context {
            now,
            pool: &mut pool,
            actions: &mut actions,
        };
        let acceptor = &Cast::get().acceptor;
        let settings = Arc::new(settings);
        Self {
            connection: begin(acceptor, settings, addresses, UNIQUE_ID, &mut context),
            pool,
            now,
            sent: [Vec::new(), Vec::new()],
            sends: [0; 2],
            reads: [false; 2],
            closed: None,
        }
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// One receive from the client.
    pub fn receive(&mut self, mut bytes: Vec<u8>) {
        self.on(Event::Received(Side::Client, &mut bytes));
    }

    /// Hands over an event; every send that follows from it goes out whole.
    pub fn on(&mut self, event: Event<'_>) {
        let mut waiting = self.actions(event);
        while let Some(action) = waiting.pop() {
            match action {
                Action::Close(reason) => self.closed = Some(reason),
                Action::Receive(side) => self.reads[index(side)] = true,
                Action::Send(side, block) => {
                    let len = block.filled().len();
                    self.sends[index(side)] += 1;
                    self.sent[index(side)].extend_from_slice(block.filled());
                    waiting.extend(self.actions(Event::Sent(side, block, Ok(len))));
                }
                _ => {}
            }
        }
    }

    /// What of `bytes` is taken as a header.
    pub fn introduce(&mut self, bytes: &[u8]) -> usize {
        let mut actions = Vec::new();
        let mut context = Context {
            now: self.now,
            pool: &mut self.pool,
            actions: &mut actions,
        };
        let taken = self.connection.introduce(bytes, &mut context);
        for action in actions {
            if let Action::Close(reason) = action {
                self.closed = Some(reason);
            }
        }
        taken
    }

    /// Lets the time pass until the connection wants to be told of it.
    pub fn reach_deadline(&mut self) -> Duration {
        let wait = self.connection.deadline() - self.now;
        self.now += wait;
        self.on(Event::Deadline);
        wait
    }

    /// What follows from an event, which nobody carries out.
    pub fn actions(&mut self, event: Event<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut context = Context {
            now: self.now,
            pool: &mut self.pool,
            actions: &mut actions,
        };
        self.connection.on(event, &mut context);
        actions
    }

    /// A client that has the server's flight, and what it answers: its Finished is at the end.
    pub fn client(&mut self) -> (ClientConnection, Vec<u8>) {
        let mut client = Cast::get().client(Who::LetIn, false);
        self.receive(take_output(&mut client));
        give_input(&mut client, &std::mem::take(&mut self.sent[0])).unwrap();
        let flight = take_output(&mut client);
        (client, flight)
    }
}

/// `data` as the client sends it.
pub fn say(client: &mut ClientConnection, data: &[u8]) -> Vec<u8> {
    client.writer().write_all(data).unwrap();
    take_output(client)
}
