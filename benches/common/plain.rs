//! A relay of plaintext, and an echo, with the operations and buffers that a shard uses for its
//! relays: what a connection and a byte cost where there is no TLS, no policy and no deadline.
#![allow(dead_code, reason = "each bench uses its part")]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use core_affinity::CoreId;
use ringgate::block::{Block, Pool};
use ringgate::limits::{ACCEPTS_IN_FLIGHT, BLOCK_LEN, BLOCKS_PER_DIRECTION, RECEIVE_BUFFERS};
use ringgate::ring::{
    Accepted, Descriptor, DescriptorKind, Listener, Operation, Outcome, ReceiveEnd, Received, Ring,
    RingOptions, Target, Token, Waker,
};
use slab::Slab;

use crate::flights::{Called, Flights, Turn};

/// The sides of a connection, as indices. An echo has only a client.
const CLIENT: usize = 0;
const UPSTREAM: usize = 1;

/// As long as a shard waits at most.
const TURN_MAX: Duration = Duration::from_secs(1);

/// Blocks of all connections together; far more than the benches have in flight.
const BLOCKS: usize = 4096;

#[derive(Clone, Copy)]
enum Kind {
    Accept,
    Connect,
    Receive,
    Send,
    Wake,
}

impl Kind {
    fn token(self, key: usize, side: usize) -> Token {
        Token((self as u64) << 40 | (side as u64) << 32 | key as u64)
    }

    fn parse(token: Token) -> (u64, usize, usize) {
        let key = usize::try_from(token.0 & u64::from(u32::MAX)).expect("a slab's key");
        let side = usize::from(token.0 >> 32 & 1 == 1);
        (token.0 >> 40, key, side)
    }
}

/// What a server does with what a client sends.
#[derive(Clone, Debug)]
pub enum Manner {
    /// Sends it back; a PROXY v2 header in front is left out.
    Echo,
    /// Passes it to this address, and back what comes from there.
    Relay(SocketAddr),
    /// The same after a handshake's flights, and with what TLS adds to the byte.
    Flights(SocketAddr, Flights),
}

/// A server on a thread of its own; ends when dropped.
pub struct Server {
    pub address: SocketAddr,
    /// Of its thread (gettid).
    pub thread_id: i32,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Server {
    /// Starts one on `cpu`.
    pub fn start(manner: Manner, cpu: CoreId) -> Self {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = listener.address();
        let (stop, waker) = (
            Arc::new(AtomicBool::new(false)),
            Waker::new().expect("a waker"),
        );
        let (ready, is_ready) = sync_channel(1);
        let thread = std::thread::spawn({
            let (stop, waker) = (Arc::clone(&stop), waker.clone());
            move || {
                core_affinity::set_for_current(cpu);
                let server = Loop::new(manner, listener);
                let thread_id = rustix::thread::gettid().as_raw_nonzero().get();
                ready.send(thread_id).expect("the starter waits");
                server.run(&stop, &waker)
            }
        });
        Self {
            address,
            thread_id: is_ready.recv().expect("a server that starts"),
            stop,
            waker,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            thread
                .join()
                .expect("a server that ends")
                .expect("a ring that works");
        }
    }
}

#[derive(Default)]
struct Socket {
    descriptor: Option<Descriptor>,
    receive: Option<Operation>,
    send: Option<Operation>,
    wanted: bool,
    /// As in a shard: one buffer at a time until a receive took all that there was.
    drained: bool,
    /// What waits to be sent here.
    queue: VecDeque<Block>,
    /// Its peer sends no more.
    ended: bool,
}

struct Connection {
    sockets: [Socket; 2],
    connect: Option<Operation>,
    /// An echo's PROXY header is still to come.
    greeting_due: bool,
    /// Where only flights are relayed, those to come.
    called: Option<Called>,
}

impl Connection {
    fn is_quiet(&self) -> bool {
        let idle = |socket: &Socket| {
            socket.descriptor.is_none() && socket.receive.is_none() && socket.send.is_none()
        };
        self.sockets.iter().all(idle) && self.connect.is_none()
    }
}

struct Loop {
    manner: Manner,
    listener: Listener,
    ring: Ring,
    pool: Pool,
    connections: Slab<Connection>,
    starving: Vec<(usize, usize)>,
}

impl Loop {
    fn new(manner: Manner, listener: Listener) -> Self {
        Self {
            manner,
            listener,
            ring: Ring::new(&RingOptions::default()).expect("a ring"),
            pool: Pool::new(BLOCKS, usize::from(RECEIVE_BUFFERS)),
            connections: Slab::new(),
            starving: Vec::new(),
        }
    }

    fn run(mut self, stop: &AtomicBool, waker: &Waker) -> io::Result<()> {
        self.ring.watch(waker, Kind::Wake.token(0, 0));
        for _ in 0..ACCEPTS_IN_FLIGHT {
            self.accept();
        }
        while !stop.load(Ordering::Acquire) {
            self.ring.wait(Some(TURN_MAX))?;
            while let Some(completion) = self.ring.next_completion() {
                let (kind, key, side) = Kind::parse(completion.token);
                match completion.outcome {
                    Outcome::Accepted(result) => self.accepted(result),
                    Outcome::Connected(result) => self.connected(key, result),
                    Outcome::Received { buffer, more } => self.received(key, side, buffer, more),
                    Outcome::ReceiveEnded(end) => self.receive_ended(key, side, end),
                    Outcome::Sent { block, result } => self.sent(key, side, block, result),
                    Outcome::Woken => debug_assert_eq!(kind, Kind::Wake as u64),
                }
            }
            for (key, side) in std::mem::take(&mut self.starving) {
                self.receive_if_wanted(key, side);
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        self.ring
            .accept(&self.listener, Kind::Accept.token(0, 0))
            .expect("a descriptor for a connection");
    }

    fn accepted(&mut self, result: io::Result<Accepted>) {
        self.accept();
        let Ok(accepted) = result else { return };
        let client = Socket {
            descriptor: Some(accepted.descriptor),
            wanted: true,
            drained: true,
            ..Socket::default()
        };
        let key = self.connections.insert(Connection {
            sockets: [client, Socket::default()],
            connect: None,
            greeting_due: matches!(self.manner, Manner::Echo),
            called: match self.manner {
                Manner::Flights(_, flights) => Some(Called::new(flights)),
                Manner::Echo | Manner::Relay(_) => None,
            },
        });
        self.receive_if_wanted(key, CLIENT);
        if let Manner::Relay(upstream) = self.manner {
            self.connect(key, upstream);
        }
    }

    fn connect(&mut self, key: usize, upstream: SocketAddr) {
        let connected = self.ring.connect(
            &Target::Tcp(upstream),
            DescriptorKind::Direct,
            Kind::Connect.token(key, UPSTREAM),
        );
        let (descriptor, operation) = connected.expect("a descriptor for an upstream");
        let connection = &mut self.connections[key];
        connection.sockets[UPSTREAM].descriptor = Some(descriptor);
        connection.connect = Some(operation);
    }

    fn connected(&mut self, key: usize, result: io::Result<()>) {
        self.connections[key].connect = None;
        if result.is_err() {
            return self.close(key);
        }
        let upstream = &mut self.connections[key].sockets[UPSTREAM];
        (upstream.wanted, upstream.drained) = (upstream.descriptor.is_some(), true);
        self.receive_if_wanted(key, UPSTREAM);
        self.pump(key, UPSTREAM);
    }

    /// Where what comes from `side` goes.
    fn sink(&self, side: usize) -> usize {
        match self.manner {
            Manner::Echo => CLIENT,
            Manner::Relay(_) | Manner::Flights(..) => 1 - side,
        }
    }

    fn received(&mut self, key: usize, side: usize, buffer: Received, more: bool) {
        let sink = self.sink(side);
        let connection = &mut self.connections[key];
        let mut bytes = &*self.ring.received(&buffer);
        let socket = &mut connection.sockets[side];
        if !more {
            (socket.receive, socket.drained) = (None, bytes.len() < BLOCK_LEN);
        }
        if socket.descriptor.is_none() {
            self.ring.give_back(buffer);
            return self.retire(key);
        }
        if std::mem::take(&mut connection.greeting_due) && bytes.starts_with(b"\r\n\r\n\0\r\n") {
            // It comes in one piece: Ringgate sends it so, and nothing on loopback takes it apart.
            bytes = &bytes[16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]))..];
        }
        match &mut connection.called {
            Some(called) if side == CLIENT => {
                called.receive(bytes.len());
                self.ring.give_back(buffer);
                self.take_turns(key);
                return self.receive_if_wanted(key, side);
            }
            Some(called) => {
                let answer = called.answer();
                self.queue(key, CLIENT, &answer);
            }
            None => append(&mut connection.sockets[sink].queue, bytes, &mut self.pool),
        }
        self.ring.give_back(buffer);
        self.pump(key, sink);
        self.balance(key, side);
        self.receive_if_wanted(key, side);
    }

    /// Does what is due after the flights that came.
    fn take_turns(&mut self, key: usize) {
        while let Some(turn) = self.connections[key].called.as_mut().and_then(Called::next) {
            match (turn, &self.manner) {
                (Turn::Reply(len), _) => {
                    self.queue(key, CLIENT, &vec![0; len]);
                    self.pump(key, CLIENT);
                }
                (Turn::Connect, &Manner::Flights(upstream, _)) => {
                    self.queue(key, UPSTREAM, &Called::request());
                    self.connect(key, upstream);
                }
                (Turn::Connect, _) => {}
                (Turn::Goodbye, _) => {
                    self.connections[key].sockets[CLIENT].ended = true;
                    self.finish(key, UPSTREAM);
                }
            }
        }
    }

    fn queue(&mut self, key: usize, side: usize, bytes: &[u8]) {
        let queue = &mut self.connections[key].sockets[side].queue;
        append(queue, bytes, &mut self.pool);
    }

    fn receive_ended(&mut self, key: usize, side: usize, end: ReceiveEnd) {
        let socket = &mut self.connections[key].sockets[side];
        (socket.receive, socket.drained) = (None, false);
        match end {
            ReceiveEnd::Cancelled => self.receive_if_wanted(key, side),
            ReceiveEnd::BuffersExhausted => self.starving.push((key, side)),
            ReceiveEnd::EndOfStream => {
                (socket.wanted, socket.ended) = (false, true);
                if side == UPSTREAM && self.connections[key].called.is_some() {
                    self.queue(key, CLIENT, &Called::goodbye());
                    self.pump(key, CLIENT);
                }
                self.finish(key, self.sink(side));
            }
            ReceiveEnd::Failed(_) => self.close(key),
        }
        self.retire(key);
    }

    fn receive_if_wanted(&mut self, key: usize, side: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let socket = &mut connection.sockets[side];
        if let (true, None, Some(descriptor)) = (socket.wanted, socket.receive, &socket.descriptor)
        {
            let token = Kind::Receive.token(key, side);
            socket.receive = Some(if socket.drained {
                self.ring.receive(descriptor, token)
            } else {
                self.ring.receive_once(descriptor, token, BLOCK_LEN)
            });
        }
    }

    /// Stops reading above the watermark and goes on below it.
    fn balance(&mut self, key: usize, side: usize) {
        let sink = self.sink(side);
        let connection = &mut self.connections[key];
        let to = &connection.sockets[sink];
        let held = to.queue.len() + usize::from(to.send.is_some());
        let socket = &mut connection.sockets[side];
        if socket.ended || socket.descriptor.is_none() {
            return;
        }
        if held < BLOCKS_PER_DIRECTION {
            socket.wanted = true;
            self.receive_if_wanted(key, side);
        } else if std::mem::take(&mut socket.wanted)
            && let Some(operation) = socket.receive
        {
            self.ring.cancel(operation);
        }
    }

    fn pump(&mut self, key: usize, side: usize) {
        let connection = &mut self.connections[key];
        if side == UPSTREAM && connection.connect.is_some() {
            return;
        }
        let socket = &mut connection.sockets[side];
        if let (None, Some(descriptor)) = (socket.send, &socket.descriptor)
            && let Some(block) = socket.queue.pop_front()
        {
            let token = Kind::Send.token(key, side);
            socket.send = Some(self.ring.send(descriptor, block, token));
        }
    }

    fn sent(&mut self, key: usize, side: usize, mut block: Block, result: io::Result<usize>) {
        let socket = &mut self.connections[key].sockets[side];
        socket.send = None;
        match result {
            Ok(sent) => {
                block.consume(sent);
                if block.is_empty() || socket.descriptor.is_none() {
                    self.pool.give(block);
                } else {
                    socket.queue.push_front(block);
                }
                self.pump(key, side);
                // The sink of the sink is the source.
                self.balance(key, self.sink(side));
                self.finish(key, side);
            }
            Err(_) => {
                self.pool.give(block);
                self.close(key);
            }
        }
        self.retire(key);
    }

    /// Once all has left for `side`, tells it of its source's end; closes when both have ended.
    fn finish(&mut self, key: usize, side: usize) {
        let source = self.sink(side);
        let connection = &self.connections[key];
        let to = &connection.sockets[side];
        if !connection.sockets[source].ended || to.send.is_some() || !to.queue.is_empty() {
            return;
        }
        if to.ended {
            return self.close(key);
        }
        if let Some(descriptor) = &to.descriptor {
            self.ring.shutdown_send(descriptor);
        }
    }

    fn close(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        if let Some(operation) = connection.connect {
            self.ring.cancel(operation);
        }
        for socket in &mut connection.sockets {
            socket.wanted = false;
            for block in socket.queue.drain(..) {
                self.pool.give(block);
            }
            if let Some(descriptor) = socket.descriptor.take() {
                for operation in [socket.receive, socket.send].into_iter().flatten() {
                    self.ring.cancel(operation);
                }
                self.ring.close(descriptor);
            }
        }
        self.retire(key);
    }

    fn retire(&mut self, key: usize) {
        if self.connections.get(key).is_some_and(Connection::is_quiet) {
            self.connections.remove(key);
        }
    }
}

fn append(queue: &mut VecDeque<Block>, mut bytes: &[u8], pool: &mut Pool) {
    if let Some(last) = queue.back_mut() {
        bytes = &bytes[last.append(bytes)..];
    }
    while !bytes.is_empty() {
        let mut block = pool.take().expect("blocks for all connections");
        bytes = &bytes[block.append(bytes)..];
        queue.push_back(block);
    }
}
