//! The flights of a TLS connection with nothing in them: as many bytes at the same turns, zeros all.
//! A relay that plays them back takes what the kernel takes for a TLS connection.
#![allow(dead_code, reason = "each bench uses its part")]

use ringgate::block::Block;

/// A record that holds only an alert, in TLS 1.3.
const GOODBYE: usize = 24;

/// A PROXY v2 header's beginning, for an IPv4 connection with 128 bytes of addresses and names: about
/// what a terminator says of a client.
const PROXY: &[u8; 16] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x80";
const PROXY_LEN: usize = PROXY.len() + 128;

/// Lengths in bytes, in the order in which they are sent. TLS 1.3, and one byte of payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flights {
    /// ClientHello.
    pub hello: usize,
    /// ServerHello to the server's Finished.
    pub reply: usize,
    /// The client's Finished and what comes before it, and the record with its payload.
    pub finish: usize,
    /// The record with the answer, and a ticket where one comes with it.
    pub answer: usize,
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
