//! Both ends of connections that carry a pattern in each direction, read by fits and starts.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use socket2::Socket;

use crate::proxy_v2::Header;
use crate::world::LIMIT;

/// What is written at once, in turn: several records, less than one, exactly one.
const PIECES: [usize; 5] = [100_000, 7, 16_384, 65_536, 50_001];

/// How long a writer has made no progress when it counts as stuck.
const STUCK: Duration = Duration::from_millis(20);

/// Connections, two streams each, and how far they are.
pub struct Flood {
    /// Bytes of each stream.
    len: usize,
    /// Bytes written of each stream, those to upstreams first.
    written: [Vec<AtomicUsize>; 2],
    may_read: Mutex<bool>,
    changed: Condvar,
}

/// One direction of one connection.
#[derive(Clone, Copy)]
struct Stream {
    connection: usize,
    direction: usize,
}

const UP: usize = 0;
const DOWN: usize = 1;

impl Flood {
    pub fn new(connections: usize, len: usize) -> Self {
        let none = || (0..connections).map(|_| AtomicUsize::new(0)).collect();
        Self {
            len,
            written: [none(), none()],
            may_read: Mutex::new(false),
            changed: Condvar::new(),
        }
    }

    /// Lets the readers begin.
    pub fn open(&self) {
        *self.may_read.lock().unwrap() = true;
        self.changed.notify_all();
    }

    /// Bytes written of all streams.
    pub fn written(&self) -> usize {
        let all = self.written.iter().flatten();
        all.map(|written| written.load(Ordering::Relaxed)).sum()
    }

    /// Streams whose writer has written everything.
    pub fn ended(&self) -> usize {
        let all = self.written.iter().flatten();
        all.filter(|written| written.load(Ordering::Relaxed) == self.len)
            .count()
    }

    /// The `len` bytes from `position` on. Every eight differ from all others of every stream.
    fn fill(stream: Stream, position: usize, len: usize, bytes: &mut Vec<u8>) {
        let Stream {
            connection,
            direction,
        } = stream;
        let stream = (2 * connection + direction) << 32;
        let first = position / 8;
        let words = first..(position + len).div_ceil(8);
        bytes.clear();
        bytes.extend(words.flat_map(|word| {
            let word = (stream | word) as u64;
            word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
        }));
        bytes.drain(..position % 8);
        bytes.truncate(len);
    }

    fn write(
        &self,
        stream: Stream,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let (mut position, mut bytes) = (0, Vec::new());
        let mut pieces = PIECES.into_iter().cycle();
        while position < self.len {
            let len = pieces.next().unwrap_or(1).min(self.len - position);
            Self::fill(stream, position, len, &mut bytes);
            write(&bytes)?;
            position += len;
            self.progress(stream).store(position, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads to the end and checks every byte. It begins when it may, and stalls at each quarter
    /// until the writer is stuck.
    fn read(
        &self,
        stream: Stream,
        mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.wait();
        let (mut buffer, mut expected) = (vec![0; 64 * 1024], Vec::new());
        let (mut position, quarter) = (0, self.len / 4);
        let mut stalls_at = quarter;
        loop {
            let len = read(&mut buffer)?;
            if len == 0 {
                break;
            }
            Self::fill(stream, position, len, &mut expected);
            if expected != buffer[..len] {
                let pairs = expected.iter().zip(&buffer);
                let at = position + pairs.take_while(|(one, other)| one == other).count();
                return Err(io::Error::other(format!("byte {at} is another")));
            }
            position += len;
            if position >= stalls_at {
                stalls_at += quarter;
                self.stall(stream);
            }
        }
        match position == self.len {
            true => Ok(()),
            false => Err(io::Error::other(format!("it ended after {position} bytes"))),
        }
    }

    fn wait(&self) {
        let shut = self.may_read.lock().unwrap();
        let waited = self.changed.wait_timeout_while(shut, LIMIT, |open| !*open);
        assert!(!waited.unwrap().1.timed_out(), "reading never began");
    }

    fn stall(&self, stream: Stream) {
        let (until, mut before) = (Instant::now() + LIMIT, None);
        loop {
            let written = self.progress(stream).load(Ordering::Relaxed);
            if before == Some(written) || written == self.len {
                return;
            }
            assert!(Instant::now() < until, "the writer is never stuck");
            before = Some(written);
            std::thread::sleep(STUCK);
        }
    }

    fn progress(&self, stream: Stream) -> &AtomicUsize {
        &self.written[stream.direction][stream.connection]
    }

    /// The client's end of a connection, and how it went.
    pub fn client(
        &self,
        connection: usize,
        mut tls: ClientConnection,
        mut socket: TcpStream,
    ) -> io::Result<()> {
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        tls.set_buffer_limit(None);
        let tls = Mutex::new(tls);
        let (mut writer, mut reader) = (&socket, &socket);
        let up = Stream {
            connection,
            direction: UP,
        };
        let down = Stream {
            connection,
            direction: DOWN,
        };
        std::thread::scope(|scope| {
            let written = scope.spawn(|| {
                let mut say = |say: &dyn Fn(&mut ClientConnection)| {
                    let (mut tls, mut wire) = (tls.lock().unwrap(), Vec::new());
                    say(&mut tls);
                    while tls.wants_write() {
                        tls.write_tls(&mut wire)?;
                    }
                    drop(tls);
                    writer.write_all(&wire)
                };
                let send = |tls: &mut ClientConnection, bytes: &[u8]| {
                    tls.writer().write_all(bytes).expect("there is no limit");
                };
                say(&|tls| send(tls, &connection.to_le_bytes()))?;
                self.write(up, |bytes| say(&|tls| send(tls, bytes)))?;
                say(&|tls| tls.send_close_notify())
            });
            let (mut wire, mut held) = (vec![0; 64 * 1024], 0..0);
            let read = self.read(down, |bytes| {
                loop {
                    let mut tls = tls.lock().unwrap();
                    match tls.reader().read(bytes) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        result => return result,
                    }
                    if held.is_empty() {
                        drop(tls);
                        held = 0..reader.read(&mut wire)?;
                        if held.is_empty() {
                            return Err(ErrorKind::UnexpectedEof.into());
                        }
                    } else {
                        held.start += tls.read_tls(&mut &wire[held.clone()])?;
                        tls.process_new_packets().map_err(io::Error::other)?;
                    }
                }
            });
            written.join().unwrap().and(read)
        })
    }

    /// The upstream's end of a connection, and how it went.
    pub fn upstream(&self, socket: &Socket, has_header: bool) -> io::Result<()> {
        let (mut writer, mut reader) = (socket, socket);
        if has_header {
            Header::read(&mut reader)?;
        }
        let mut number = [0; size_of::<usize>()];
        reader.read_exact(&mut number)?;
        let connection = usize::from_le_bytes(number);
        let up = Stream {
            connection,
            direction: UP,
        };
        let down = Stream {
            connection,
            direction: DOWN,
        };
        std::thread::scope(|scope| {
            let written = scope.spawn(|| {
                self.write(down, |bytes| writer.write_all(bytes))?;
                socket.shutdown(Shutdown::Write)
            });
            let read = self.read(up, |bytes| reader.read(bytes));
            written.join().unwrap().and(read)
        })
    }
}
