//! Upstreams that remember what they were told.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::proxy_v2::Header;
use crate::world::{LIMIT, patterned};

/// What an upstream saw of one connection.
#[derive(Debug)]
pub struct Visit {
    pub header: Option<Header>,
    /// Everything up to the end.
    pub bytes: Vec<u8>,
    /// Whether the end was a FIN.
    pub clean: bool,
}

/// What an upstream does with a connection.
#[derive(Clone, Copy)]
pub enum Manner {
    /// Reads to the end, then sends all of it back and ends.
    Answer,
    /// Sends back what it gets; ends when the client has.
    Echo,
    /// Sends this many bytes of the pattern and ends, but reads nothing until told through the
    /// gate.
    Flood(usize),
    /// Reads to the end; keeps the connection open until told through the gate.
    Hold,
    /// Resets the connection after the first byte.
    Reset,
    /// Says this and ends, then reads until the end.
    Say(&'static [u8]),
    /// Reads nothing until told through the gate, then to the end.
    Stall,
}

/// Shut until it is opened.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn wait(&self) {
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
    }
}

/// An upstream on loopback.
pub struct Upstream {
    pub address: SocketAddr,
    visits: Receiver<Visit>,
    accepted: Arc<AtomicUsize>,
    gate: Arc<Gate>,
}

impl Upstream {
    /// Expects a PROXY header in front of every connection.
    pub fn new(manner: Manner) -> Self {
        Self::with_header(manner, true)
    }

    pub fn with_header(manner: Manner, header: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (visit, visits) = channel();
        let accepted = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Gate::default());
        let (counter, opened) = (Arc::clone(&accepted), Arc::clone(&gate));
        // The threads end with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counter.fetch_add(1, Ordering::SeqCst);
                let (visit, opened) = (visit.clone(), Arc::clone(&opened));
                std::thread::spawn(move || {
                    serve(stream.unwrap(), manner, header, &opened, &visit);
                });
            }
        });
        Self {
            address,
            visits,
            accepted,
            gate,
        }
    }

    /// As a value of `upstream =`.
    pub fn toml(&self) -> String {
        format!("\"{}\"", self.address)
    }

    /// The next connection that ended.
    pub fn visit(&self) -> Visit {
        self.visits
            .recv_timeout(LIMIT)
            .expect("an upstream connection ends")
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Lets connections that wait go on.
    pub fn open_gate(&self) {
        *self.gate.open.lock().unwrap() = true;
        self.gate.opened.notify_all();
    }
}

fn serve(mut stream: TcpStream, manner: Manner, header: bool, gate: &Gate, visits: &Sender<Visit>) {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let header = header.then(|| Header::read(&mut stream).ok()).flatten();
    let visit = |(bytes, clean)| {
        // The test may have ended already.
        let _ = visits.send(Visit {
            header,
            bytes,
            clean,
        });
    };
    match manner {
        Manner::Answer => {
            let (bytes, clean) = read(&mut stream, false);
            let _ = stream.write_all(&bytes);
            visit((bytes, clean));
        }
        Manner::Echo => visit(read(&mut stream, true)),
        Manner::Flood(len) => {
            let mut writer = stream.try_clone().unwrap();
            let writer = std::thread::spawn(move || {
                let _ = writer.write_all(&patterned(len));
                let _ = writer.shutdown(Shutdown::Write);
            });
            gate.wait();
            visit(read(&mut stream, false));
            writer.join().unwrap();
        }
        Manner::Hold => {
            visit(read(&mut stream, false));
            gate.wait();
        }
        Manner::Reset => {
            let _ = stream.read(&mut [0; 1]);
            let socket = socket2::SockRef::from(&stream);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            visit((Vec::new(), false));
        }
        Manner::Say(words) => {
            let _ = stream.write_all(words);
            let _ = stream.shutdown(Shutdown::Write);
            visit(read(&mut stream, false));
        }
        Manner::Stall => {
            gate.wait();
            visit(read(&mut stream, false));
        }
    }
}

/// Everything up to the end, and whether that was a FIN.
fn read(stream: &mut TcpStream, echo: bool) -> (Vec<u8>, bool) {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (bytes, true),
            Ok(len) => {
                bytes.extend_from_slice(&buffer[..len]);
                if echo && stream.write_all(&buffer[..len]).is_err() {
                    return (bytes, false);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return (bytes, false),
        }
    }
}
