//! The client: rustls, what it says, and what it was told.

use std::io::{Read, Write};

use rustls::{AlertDescription, ClientConnection};

use crate::cast::Cast;
use crate::rng::Rng;
use crate::scenario::{Finish, Opening, Scenario};
use crate::wire::{End, Wire};

/// More KeyUpdates than any peer may send.
const FLOOD: usize = 40;

pub struct Client {
    tls: Option<ClientConnection>,
    garbage: Option<Vec<u8>>,
    /// All that it means to say.
    pub data: Vec<u8>,
    said: usize,
    /// What was sent to it and not looked at yet.
    inbox: Vec<u8>,
    inbox_ended: bool,
    hung_up: bool,
    /// Bytes of ciphertext that were sent to it.
    pub reached: usize,
    /// Bytes of the upstream's data that it was given, each compared.
    pub got: usize,
    /// Bytes that it put on the wire.
    wire_len: usize,
    flushes: usize,
    /// Where on the wire its Finished ends.
    pub finished_at: Option<usize>,
    /// Where each of its records of data ends, on the wire and in its data.
    records: Vec<(usize, usize)>,
    pub close_notify_at: Option<usize>,
    pub saw_close_notify: bool,
    pub error: Option<rustls::Error>,
    flooded: bool,
    over: bool,
}

impl Client {
    pub fn new(scenario: &Scenario, cast: &Cast, rng: &mut Rng) -> Self {
        let (tls, garbage) = match &scenario.opening {
            Opening::Bytes(bytes) => (None, Some(bytes.clone())),
            Opening::Tls => (Some(cast.client(scenario.who, scenario.tls12)), None),
        };
        Self {
            tls,
            garbage,
            data: rng.bytes(scenario.client_volume),
            said: 0,
            inbox: Vec::new(),
            inbox_ended: false,
            hung_up: false,
            reached: 0,
            got: 0,
            // Who introduces it speaks first.
            wire_len: scenario.header.len(),
            flushes: 0,
            finished_at: None,
            records: Vec::new(),
            close_notify_at: None,
            saw_close_notify: false,
            error: None,
            flooded: false,
            over: false,
        }
    }

    /// Bytes reach it.
    pub fn reach(&mut self, bytes: &[u8]) {
        self.reached += bytes.len();
        self.inbox.extend_from_slice(bytes);
    }

    /// The terminator's FIN reaches it. It may go on speaking.
    pub fn reach_end(&mut self) {
        self.inbox_ended = true;
    }

    /// The terminator has closed.
    pub fn hang_up(&mut self) {
        (self.inbox_ended, self.hung_up) = (true, true);
    }

    /// Bytes of data in the records that end within the first `len` bytes on the wire.
    pub fn data_within(&self, len: usize) -> usize {
        let whole = self.records.iter().take_while(|(wire, _)| *wire <= len);
        whole.last().map_or(0, |(_, data)| *data)
    }

    pub fn was_told(&self, alert: AlertDescription) -> bool {
        self.error == Some(rustls::Error::AlertReceived(alert))
    }

    /// Whether it was told, by close_notify or an alert, that this is the end.
    pub fn was_told_the_end(&self) -> bool {
        let alerted = matches!(self.error, Some(rustls::Error::AlertReceived(_)));
        self.saw_close_notify || alerted
    }

    /// Whether [`Client::work`] has something to do. `reply` is what the upstream means to say.
    pub fn has_work(&self, scenario: &Scenario, reply: &[u8]) -> bool {
        !self.inbox.is_empty() || self.next(scenario, reply).is_some()
    }

    pub fn work(&mut self, scenario: &Scenario, rng: &mut Rng, wire: &mut Wire, reply: &[u8]) {
        if !self.inbox.is_empty() {
            return self.read(wire, reply);
        }
        match self.next(scenario, reply) {
            None => {}
            Some(Next::Garbage) => {
                let bytes = self.garbage.take().unwrap_or_default();
                self.wire_len += bytes.len();
                wire.send(&bytes);
            }
            Some(Next::Flush) => self.flush(wire),
            Some(Next::Flood) => {
                self.flooded = true;
                for _ in 0..FLOOD {
                    self.tls.as_mut().unwrap().refresh_traffic_keys().unwrap();
                }
                self.flush(wire);
            }
            Some(Next::Say) => self.say(scenario, rng, wire),
            Some(Next::CloseNotify) => {
                self.tls.as_mut().unwrap().send_close_notify();
                self.flush(wire);
                self.close_notify_at = Some(self.wire_len);
            }
            Some(Next::End(end)) => {
                self.over = true;
                wire.finish(end);
            }
        }
    }

    fn next(&self, scenario: &Scenario, reply: &[u8]) -> Option<Next> {
        if self.over {
            return None;
        }
        let Some(tls) = &self.tls else {
            return match self.garbage {
                Some(_) => Some(Next::Garbage),
                None => self.inbox_ended.then_some(Next::End(End::Fin)),
            };
        };
        if tls.wants_write() {
            return Some(Next::Flush);
        }
        if self.error.is_some() || self.close_notify_at.is_some() {
            let follows = self.error.is_some() || scenario.fin_follows || self.inbox_ended;
            return follows.then_some(Next::End(End::Fin));
        }
        if tls.is_handshaking() {
            return self.inbox_ended.then_some(Next::End(End::Fin));
        }
        if scenario.key_update_flood && !self.flooded {
            return Some(Next::Flood);
        }
        if self.said < self.data.len() && !self.hung_up {
            return Some(Next::Say);
        }
        let told = self.saw_close_notify || self.inbox_ended;
        match scenario.finish {
            Finish::Clean => Some(Next::CloseNotify),
            Finish::CleanAfterReply => {
                let len = if scenario.echo {
                    self.data.len()
                } else {
                    reply.len()
                };
                (self.got >= len || told).then_some(Next::CloseNotify)
            }
            Finish::Cut(end) => Some(Next::End(end)),
            Finish::Stay => told.then_some(Next::CloseNotify),
        }
    }

    fn say(&mut self, scenario: &Scenario, rng: &mut Rng, wire: &mut Wire) {
        let tls = self.tls.as_mut().unwrap();
        if !scenario.tls12 && scenario.key_updates.is_some_and(|times| rng.once_in(times)) {
            // The terminator allows 32 of them in a window.
            if self.records.len() < 30 {
                tls.refresh_traffic_keys().unwrap();
            }
        }
        let rest = &self.data[self.said..];
        let len = rng.within(1, scenario.chunk_max).min(rest.len());
        tls.writer().write_all(&rest[..len]).unwrap();
        self.said += len;
        self.flush(wire);
        self.records.push((self.wire_len, self.said));
    }

    fn flush(&mut self, wire: &mut Wire) {
        let tls = self.tls.as_mut().unwrap();
        let mut bytes = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut bytes).unwrap();
        }
        if bytes.is_empty() {
            return;
        }
        self.wire_len += bytes.len();
        self.flushes += 1;
        // A client of TLS 1.2 sends its Finished in its second flight, before it is done itself.
        let tls12 = tls.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_2);
        let finished = !tls.is_handshaking() || tls12 && self.flushes == 2;
        if finished && self.finished_at.is_none() && self.error.is_none() {
            self.finished_at = Some(self.wire_len);
        }
        wire.send(&bytes);
    }

    fn read(&mut self, wire: &mut Wire, reply: &[u8]) {
        let bytes = std::mem::take(&mut self.inbox);
        let Some(tls) = &mut self.tls else { return };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() && self.error.is_none() && !self.saw_close_notify {
            tls.read_tls(&mut rest).unwrap();
            match tls.process_new_packets() {
                Ok(state) => self.saw_close_notify = state.peer_has_closed(),
                Err(error) => self.error = Some(error),
            }
            let mut plaintext = Vec::new();
            // The error says that there is no more just now, or no more at all.
            let _ = tls.reader().read_to_end(&mut plaintext);
            let expected = reply.get(self.got..self.got + plaintext.len());
            assert_eq!(expected, Some(&*plaintext), "the client got other bytes");
            self.got += plaintext.len();
        }
        if tls.wants_write() {
            self.flush(wire);
        }
    }
}

enum Next {
    CloseNotify,
    End(End),
    Flood,
    Flush,
    Garbage,
    Say,
}
