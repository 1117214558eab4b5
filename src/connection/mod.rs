//! One client connection as a state machine: events and `now` go in, actions and a deadline come
//! out. It knows no socket and no ring.
//!
//! ```text
//! [Introducing ->] Handshaking -> Connecting -> Relaying -> Closing -> Closed
//! ```
//!
//! A driver feeds [`Event`]s to [`Connection::on`], carries out the [`Action`]s in the order given,
//! and sends [`Event::Deadline`] once [`Connection::deadline`] has passed. The last action is
//! always one [`Action::Close`]. After it the driver gives blocks of sends that still return back
//! to the pool itself.

mod closing;
pub mod greeting;
mod handshaking;
mod introducing;
pub mod proxy_header;
mod relay;
mod relaying;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::block::{Block, Pool};
use crate::close_reason::CloseReason;
use crate::limits::{BLOCK_LEN, RECORD_PLAINTEXT_MAX, RECORDS_PER_BLOCK};
use crate::tls::{Acceptor, Established, Handshake};
use crate::trust::domain::Refusal;
use crate::trust::{Authorized, Identity};

use closing::Closing;
use introducing::Introducing;
use relay::Direction;

/// The two sockets of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    Client,
    Upstream,
}

/// What a driver tells a connection.
#[derive(Debug)]
pub enum Event<'a> {
    Command(Command),
    /// The connect that [`Action::Connect`] asked for ended.
    Connected(io::Result<()>),
    /// The deadline has passed.
    Deadline,
    /// A side's stream of bytes ended: `Ok` with a FIN. No more is received from it.
    Ended(Side, io::Result<()>),
    Received(Side, &'a mut [u8]),
    /// A send ended: how many bytes of the block went out.
    Sent(Side, Block, io::Result<usize>),
    /// The upstreams left to try have as many connections as they may have.
    UpstreamsFull,
}

/// What the operator wants of a connection.
#[derive(Debug)]
pub enum Command {
    /// Close now without a word, for this reason: a peer takes nothing.
    Cut(CloseReason),
    /// End now, politely, for this reason.
    End(CloseReason),
    /// End a session whose client is no longer let in, for this reason; the refusal says why.
    Withdraw(CloseReason, Refusal),
}

/// What a connection wants its driver to do.
#[derive(Debug)]
pub enum Action {
    /// Give up the connect in progress; [`Event::Connected`] still comes.
    AbandonConnect,
    /// Close both sockets; the connection is over.
    Close(CloseReason),
    /// Close the upstream's socket; nothing more comes from it.
    CloseUpstream,
    /// Connect to an upstream of the client's route, another one than those tried before.
    Connect(ConnectPermit),
    /// Receive until told to stop.
    Receive(Side),
    /// Send all of the block.
    Send(Side, Block),
    /// Send a FIN behind what was sent.
    ShutdownSend(Side),
    /// Stop receiving; what arrives in the meantime is still delivered.
    StopReceiving(Side),
}

/// Leave to connect upstream; made only for a client that policy lets in.
#[derive(Debug)]
pub struct ConnectPermit {
    route: usize,
    attempt: usize,
}

impl ConnectPermit {
    fn new(_client: &Authorized, route: usize, attempt: usize) -> Self {
        Self { route, attempt }
    }

    /// Index of the listener's route whose upstream is wanted.
    pub fn route(&self) -> usize {
        self.route
    }

    /// How many upstreams were tried before.
    pub fn attempt(&self) -> usize {
        self.attempt
    }
}

/// What the upstream is told before the client's bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Greeting {
    #[default]
    Off,
    /// A PROXY v2 header, on request with the client's certificate in DER.
    ProxyV2 { client_certificate: bool },
}

/// A listener's settings for its connections.
#[derive(Clone, Debug)]
pub struct Settings {
    pub greeting: Greeting,
    /// From accept to the last handshake message, however busy the client is.
    pub handshake_timeout: Duration,
    pub idle_timeout: Duration,
    /// For one upstream.
    pub connect_timeout: Duration,
    /// Without traffic once one side has ended.
    pub half_close_timeout: Duration,
}

/// Where a connection came from and where to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Addresses {
    pub client: SocketAddr,
    pub local: SocketAddr,
}

/// What a connection may use while it handles an event.
pub struct Context<'a> {
    pub now: Instant,
    pub pool: &'a mut Pool,
    pub actions: &'a mut Vec<Action>,
}

/// Why a client was not let in or cut off, for the log.
#[derive(Clone, Debug)]
pub struct Refused {
    pub detail: String,
    /// Who the client claims to be; unproven.
    pub claimed: Option<Arc<Identity>>,
    pub server_name: Option<Arc<str>>,
}

/// One client connection. See the module.
pub struct Connection {
    stage: Stage,
    /// Client to upstream: plaintext.
    inbound: Direction,
    /// Upstream to client: TLS records.
    outbound: Direction,
    settings: Arc<Settings>,
    addresses: Addresses,
    /// The load balancer that introduces the client.
    via: Option<Box<SocketAddr>>,
    unique_id: u128,
    deadline: Instant,
    refused: Option<Box<Refused>>,
    /// The client was gone while its upstream was being connected to: what that will be told as.
    gone: Option<CloseReason>,
    /// A ticket waits to leave together with the answer, until then at the latest.
    ticket_leaves: Option<Instant>,
    /// Plaintext bytes relayed from the client and to it.
    bytes: [u64; 2],
}

enum Stage {
    /// The session that ended, if there was one, stays for the report.
    Closed(Option<Box<Established>>),
    Closing(Closing),
    Connecting {
        session: Box<Established>,
        attempt: usize,
        /// This attempt was given up; its end is waited for.
        timed_out: bool,
        /// An attempt before did not answer in time.
        unanswered: bool,
    },
    Handshaking(Box<Handshake>),
    /// The header comes that says who the client is.
    Introducing(Box<Introducing>),
    Relaying {
        session: Box<Established>,
    },
}

impl Connection {
    /// A connection that was just accepted. `unique_id` names it to the upstream and in logs.
    pub fn new(
        acceptor: &Acceptor,
        settings: Arc<Settings>,
        addresses: Addresses,
        unique_id: u128,
        context: &mut Context<'_>,
    ) -> Self {
        let deadline = context.now + settings.handshake_timeout;
        let mut connection = Self {
            stage: Stage::Closed(None),
            inbound: Direction::new(Side::Client),
            outbound: Direction::new(Side::Upstream),
            settings,
            addresses,
            via: None,
            unique_id,
            deadline,
            refused: None,
            gone: None,
            ticket_leaves: None,
            bytes: [0; 2],
        };
        match Handshake::new(acceptor) {
            Ok(handshake) => {
                connection.stage = Stage::Handshaking(Box::new(handshake));
                connection.inbound.receive(context);
            }
            Err(failure) => connection.refuse(failure, context),
        }
        connection
    }

    /// Handles one event.
    pub fn on(&mut self, event: Event<'_>, context: &mut Context<'_>) {
        match event {
            Event::Sent(side, block, result) => self.on_sent(side, block, result, context),
            Event::Command(Command::Cut(reason)) => self.close(reason, context),
            Event::Command(Command::End(reason)) => self.end(reason, context),
            Event::Command(Command::Withdraw(reason, refusal)) => {
                self.withdraw(reason, refusal, context);
            }
            event => match self.stage {
                Stage::Closed(_) => {}
                Stage::Closing(_) => self.on_closing(event, context),
                Stage::Connecting { .. } | Stage::Relaying { .. } => self.on_open(event, context),
                Stage::Handshaking(_) => self.on_handshaking(event, context),
                Stage::Introducing(_) => self.on_introducing(event, context),
            },
        }
    }

    /// When to send [`Event::Deadline`].
    pub fn deadline(&self) -> Instant {
        match self.ticket_leaves {
            Some(leaves) if self.is_open() => leaves.min(self.deadline),
            _ => self.deadline,
        }
    }

    /// Whether the handshake is still going on, or still to begin.
    pub fn is_handshaking(&self) -> bool {
        matches!(self.stage, Stage::Handshaking(_) | Stage::Introducing(_))
    }

    /// Whether a client that was let in is being served.
    pub fn is_open(&self) -> bool {
        matches!(
            self.stage,
            Stage::Connecting { .. } | Stage::Relaying { .. }
        )
    }

    /// Goes on under other settings, for a client that was judged again; `route` is its route now.
    pub fn adopt(&mut self, settings: Arc<Settings>, client: Authorized, route: usize) {
        if let Stage::Connecting { session, .. } | Stage::Relaying { session } = &mut self.stage {
            self.settings = settings;
            session.client = client;
            session.route = route;
        }
    }

    /// Whether [`Action::Close`] was given.
    pub fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed(_))
    }

    /// Those of its socket, or what the load balancer says they are.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub fn unique_id(&self) -> u128 {
        self.unique_id
    }

    /// Why the client was refused, if it was.
    pub fn refused(&self) -> Option<&Refused> {
        self.refused.as_deref()
    }

    /// The session, from the end of the handshake on.
    pub fn session(&self) -> Option<&Established> {
        match &self.stage {
            Stage::Connecting { session, .. } | Stage::Relaying { session } => Some(session),
            Stage::Closed(session) => session.as_deref(),
            Stage::Closing(closing) => closing.session.as_deref(),
            Stage::Handshaking(_) | Stage::Introducing(_) => None,
        }
    }

    /// Plaintext bytes relayed from the client and to it.
    pub fn bytes(&self) -> [u64; 2] {
        self.bytes
    }

    /// Blocks that the connection holds, those being sent included.
    pub fn blocks(&self) -> usize {
        self.inbound.blocks() + self.outbound.blocks() + usize::from(self.holds_part_of_record())
    }

    /// Whether one of its blocks holds a record that the client has sent a part of.
    pub fn holds_part_of_record(&self) -> bool {
        self.kept_len() > 0
    }

    /// How many bytes of a side are best received at a time: what fills one block once it was opened
    /// or sealed. With the part of a record that is there already it ends where a full record does.
    pub fn receive_len(&self, side: Side) -> usize {
        match side {
            Side::Client => BLOCK_LEN - self.kept_len(),
            Side::Upstream => RECORDS_PER_BLOCK * RECORD_PLAINTEXT_MAX,
        }
    }

    /// Bytes of a record that the client has sent a part of, which are in a block of their own.
    fn kept_len(&self) -> usize {
        match &self.stage {
            Stage::Connecting { session, .. } | Stage::Relaying { session } => {
                session.records.kept_len()
            }
            Stage::Closed(_)
            | Stage::Closing(_)
            | Stage::Handshaking(_)
            | Stage::Introducing(_) => 0,
        }
    }

    fn direction_to(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Client => &mut self.outbound,
            Side::Upstream => &mut self.inbound,
        }
    }

    /// Whether what is left of a send to `side` is still wanted.
    fn sends_to(&self, side: Side) -> bool {
        match &self.stage {
            Stage::Closed(_) => false,
            Stage::Closing(closing) => closing.waits_for == side,
            Stage::Connecting { .. }
            | Stage::Handshaking(_)
            | Stage::Introducing(_)
            | Stage::Relaying { .. } => true,
        }
    }

    fn on_sent(
        &mut self,
        side: Side,
        mut block: Block,
        result: io::Result<usize>,
        context: &mut Context<'_>,
    ) {
        self.direction_to(side).sending = false;
        match result {
            Ok(sent) if sent < block.filled().len() && self.sends_to(side) => {
                block.consume(sent);
                self.direction_to(side).send(block, context);
            }
            Ok(_) => {
                context.pool.give(block);
                self.after_sent(side, context);
            }
            Err(error) => {
                context.pool.give(block);
                self.send_failed(side, &error, context);
            }
        }
    }

    fn after_sent(&mut self, side: Side, context: &mut Context<'_>) {
        match self.stage {
            Stage::Closed(_) => {}
            Stage::Closing(_) => self.closing_sent(side, context),
            Stage::Connecting { .. } | Stage::Relaying { .. } => self.relay_sent(side, context),
            Stage::Handshaking(_) => self.outbound.pump(Side::Client, context),
            // Nothing was sent yet.
            Stage::Introducing(_) => {}
        }
    }

    fn send_failed(&mut self, side: Side, error: &io::Error, context: &mut Context<'_>) {
        match (&self.stage, side) {
            (Stage::Closed(_), _) => {}
            (Stage::Closing(closing), side) => {
                if closing.waits_for == side {
                    self.close_now(context);
                }
            }
            (Stage::Handshaking(_) | Stage::Introducing(_), _) => {
                self.close(CloseReason::ClientGoneInHandshake, context);
            }
            (_, Side::Client) => self.client_reset(context),
            (_, Side::Upstream) => self.upstream_failed(error, context),
        }
    }
}
