//! A client that may leave at any moment, politely or not.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustls::ClientConnection;

/// Where a client leaves.
#[derive(Clone, Copy, Debug)]
pub enum Point {
    Connected,
    FirstByte,
    HalfHello,
    Hello,
    ServersFlight,
    HalfFinished,
    Finished,
    FirstData,
    HalfRecord,
    Echoed,
    KeyUpdated,
    Flooding,
    SaidGoodbye,
    EndHeard,
}

pub const POINTS: [Point; 14] = [
    Point::Connected,
    Point::FirstByte,
    Point::HalfHello,
    Point::Hello,
    Point::ServersFlight,
    Point::HalfFinished,
    Point::Finished,
    Point::FirstData,
    Point::HalfRecord,
    Point::Echoed,
    Point::KeyUpdated,
    Point::Flooding,
    Point::SaidGoodbye,
    Point::EndHeard,
];

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
pub enum Leaving {
    Fin,
    Reset,
    /// A FIN, and then a while of listening.
    HalfClosed,
}

/// A client of TLS 1.3 whose upstream echoes.
pub struct Client {
    tls: ClientConnection,
    socket: TcpStream,
}

impl Client {
    pub fn new(tls: ClientConnection, socket: TcpStream) -> Self {
        Self { tls, socket }
    }

    fn output(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut output).unwrap();
        }
        output
    }

    fn flush(&mut self) {
        let output = self.output();
        self.socket.write_all(&output).unwrap();
    }

    fn say(&mut self, words: &[u8]) {
        self.tls.writer().write_all(words).unwrap();
        self.flush();
    }

    /// Reads until `len` bytes of plaintext are there.
    fn hear(&mut self, len: usize) {
        let mut heard = 0;
        let mut buffer = [0; 100];
        while heard < len {
            assert_ne!(self.tls.read_tls(&mut self.socket).unwrap(), 0);
            self.tls.process_new_packets().unwrap();
            heard += self.tls.reader().read(&mut buffer).unwrap_or(0);
        }
    }

    /// Goes as far as `point`.
    pub fn go(&mut self, point: Point) {
        let hello = self.output();
        match point {
            Point::Connected => return,
            Point::FirstByte => return self.socket.write_all(&hello[..1]).unwrap(),
            Point::HalfHello => {
                return self.socket.write_all(&hello[..hello.len() / 2]).unwrap();
            }
            _ => self.socket.write_all(&hello).unwrap(),
        }
        if matches!(point, Point::Hello) {
            return;
        }
        while self.tls.is_handshaking() {
            assert_ne!(self.tls.read_tls(&mut self.socket).unwrap(), 0);
            self.tls.process_new_packets().unwrap();
        }
        let finished = self.output();
        match point {
            Point::ServersFlight => return,
            Point::HalfFinished => {
                let half = &finished[..finished.len() / 2];
                return self.socket.write_all(half).unwrap();
            }
            _ => self.socket.write_all(&finished).unwrap(),
        }
        self.go_on(point);
    }

    /// As far as `point`, once the handshake is done.
    fn go_on(&mut self, point: Point) {
        match point {
            Point::Finished => {}
            Point::FirstData => self.say(b"x"),
            Point::HalfRecord => {
                self.tls.writer().write_all(&[7; 5000]).unwrap();
                let record = self.output();
                self.socket.write_all(&record[..2500]).unwrap();
            }
            Point::Flooding => {
                // What does not fit is left unsaid: nobody reads the echo.
                self.tls.set_buffer_limit(None);
                self.tls.writer().write_all(&[7; 1 << 20]).unwrap();
                let flood = self.output();
                self.socket.set_nonblocking(true).unwrap();
                let _ = self.socket.write(&flood);
                self.socket.set_nonblocking(false).unwrap();
            }
            _ => {
                self.say(b"x");
                self.hear(1);
            }
        }
        match point {
            Point::KeyUpdated => {
                self.tls.refresh_traffic_keys().unwrap();
                self.flush();
            }
            Point::SaidGoodbye | Point::EndHeard => {
                self.tls.send_close_notify();
                self.flush();
            }
            _ => {}
        }
        if matches!(point, Point::EndHeard) {
            let mut rest = Vec::new();
            self.socket.read_to_end(&mut rest).unwrap();
        }
    }

    pub fn leave(mut self, leaving: Leaving) {
        match leaving {
            Leaving::Fin => {}
            Leaving::Reset => {
                let socket = socket2::SockRef::from(&self.socket);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
            }
            Leaving::HalfClosed => {
                // Fails where the terminator has closed already.
                let _ = self.socket.shutdown(Shutdown::Write);
                let _ = self.socket.read(&mut [0; 64]);
            }
        }
    }
}
