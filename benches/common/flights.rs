//! The flights of a TLS connection with nothing in them: as many bytes at the same turns, zeros all.
//! A relay that plays them back takes what the kernel takes for a TLS connection.
#![allow(dead_code, reason = "each bench uses its part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ringgate::block::{Block, Pool};

use crate::session::{Client, Session};

/// A record that holds only an alert, in TLS 1.3.
const GOODBYE: usize = 24;

/// How long each read of the connection that is measured waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// A PROXY v2 header's beginning, for an IPv4 connection with 128 bytes of addresses and names: about
/// what a terminator says of a client.
const PROXY: &[u8; 16] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x80";
const PROXY_LEN: usize = PROXY.len() + 128;

/// Lengths in bytes, in the order in which they are sent. TLS 1.3, and one byte of payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flights {
    /// ClientHello.
    hello: usize,
    /// ServerHello to the server's Finished.
    reply: usize,
    /// The client's Finished and what comes before it, and the record with its payload.
    finish: usize,
    /// The record with the answer, and a ticket where one comes with it.
    answer: usize,
}

impl Flights {
    /// Those of one connection of `client` to a terminator at `target` whose upstream is an echo.
    pub fn of(target: SocketAddr, client: &Client) -> Self {
        let mut stream = TcpStream::connect(target).expect("a server that listens");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a time that is not zero");
        let mut session = client.session();
        let hello = send(&mut session, &mut stream);
        let (reply, _) = receive(&mut session, &mut stream, |session, _| session.is_ready());
        session.write(&[0]);
        let finish = send(&mut session, &mut stream);
        let (answer, _) = receive(&mut session, &mut stream, |_, payload| payload == 1);
        session.says_goodbye();
        send(&mut session, &mut stream);
        Self {
            hello,
            reply,
            finish,
            answer,
        }
    }
}

fn send(session: &mut Session, stream: &mut TcpStream) -> usize {
    let mut block = Pool::new(1, 0).take().expect("a block");
    session.take_output(&mut block);
    let bytes = block.filled();
    stream.write_all(bytes).expect("a server that reads");
    bytes.len()
}

/// Bytes received until it is `enough`, and those of payload among them.
fn receive(
    session: &mut Session,
    stream: &mut TcpStream,
    enough: impl Fn(&Session, usize) -> bool,
) -> (usize, usize) {
    let (mut len, mut payload, mut bytes) = (0, 0, [0; 1 << 14]);
    while !enough(session, payload) {
        let read = stream.read(&mut bytes).expect("a server that answers");
        assert!(read > 0, "the server left");
        len += read;
        payload += session.receive(&bytes[..read]);
    }
    (len, payload)
}

/// The client's part.
pub struct Caller {
    flights: Flights,
    heard: usize,
    /// Bytes that wait to be sent.
    output: usize,
}

impl Caller {
    pub fn new(flights: Flights) -> Self {
        Self {
            flights,
            heard: 0,
            output: flights.hello,
        }
    }

    /// Takes what arrived; how many bytes of payload came to their end with it.
    pub fn receive(&mut self, len: usize) -> usize {
        self.heard += len;
        usize::from(self.heard == self.flights.reply + self.flights.answer)
    }

    pub fn is_ready(&self) -> bool {
        self.heard >= self.flights.reply
    }

    /// The byte of payload, and what comes before it.
    pub fn write(&mut self) {
        self.output += self.flights.finish;
    }

    pub fn says_goodbye(&mut self) {
        self.output += GOODBYE;
    }

    pub fn take_output(&mut self, block: &mut Block) {
        let len = self.output.min(block.room());
        block.unfilled()[..len].fill(0);
        block.commit(len);
        self.output -= len;
    }
}

/// What a server does next with its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Turn {
    /// It answers with so many bytes.
    Reply(usize),
    /// It connects to the upstream, for the byte that came too.
    Connect,
    /// The client has said goodbye.
    Goodbye,
}

/// The server's part.
#[derive(Clone, Copy, Debug)]
pub struct Called {
    flights: Flights,
    heard: usize,
    turns: usize,
}

impl Called {
    pub fn new(flights: Flights) -> Self {
        Self {
            flights,
            heard: 0,
            turns: 0,
        }
    }

    pub fn receive(&mut self, len: usize) {
        self.heard += len;
    }

    /// What is due after what was received.
    pub fn next(&mut self) -> Option<Turn> {
        let Flights { hello, finish, .. } = self.flights;
        let (at, turn) = match self.turns {
            0 => (hello, Turn::Reply(self.flights.reply)),
            1 => (hello + finish, Turn::Connect),
            2 => (hello + finish + GOODBYE, Turn::Goodbye),
            _ => return None,
        };
        (self.heard >= at).then(|| {
            self.turns += 1;
            turn
        })
    }

    /// What the upstream is sent in front: a header, and the byte.
    pub fn request() -> Vec<u8> {
        let mut bytes = PROXY.to_vec();
        bytes.resize(PROXY_LEN + 1, 0);
        bytes
    }

    /// What the client is sent for the byte that came back.
    pub fn answer(&self) -> Vec<u8> {
        vec![0; self.flights.answer]
    }

    pub fn goodbye() -> Vec<u8> {
        vec![0; GOODBYE]
    }
}
