//! The embedded upstream: sends back what arrives, and writes down what PROXY v2 told it about each
//! client.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use core_affinity::CoreId;
use ringgate::block::{Block, Pool};
use ringgate::limits::ACCEPTS_IN_FLIGHT;
use ringgate::ring::{
    Accepted, Completion, Descriptor, Listener, Operation, Outcome, ReceiveEnd, Received, Ring,
    RingError, RingOptions, Token, Waker,
};

use crate::identity_check::{Delivered, Report};
use crate::proxy_header::{Parsed, ProxyHeader};

/// Blocks that one connection may have waiting to be sent back; past it the connection is closed.
const BLOCKS_PER_CONNECTION: usize = 64;

/// How often accepts that failed are tried again.
const RETRY: Duration = Duration::from_millis(10);

const ACCEPT: Token = Token(u64::MAX);
const WAKE: Token = Token(u64::MAX - 1);

/// How to run an echo upstream.
#[derive(Clone, Debug)]
pub struct EchoOptions {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where to write down whom PROXY v2 told of. `None`: no PROXY header is expected.
    pub delivered: Option<Arc<Delivered>>,
    pub cpu: Option<CoreId>,
    /// Connections at a time.
    pub connections: u32,
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    #[error("listening on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("starting the thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("the thread ended before it was ready")]
    Ended,
}

/// What an echo upstream has seen.
#[derive(Debug, Default)]
pub struct EchoCounters {
    accepted: AtomicU64,
    malformed: AtomicU64,
}

impl EchoCounters {
    /// Connections that were accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections that did not start with a PROXY v2 header.
    pub fn malformed(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }
}

/// A running echo upstream; dropping it stops it.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    counters: Arc<EchoCounters>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts it on a thread of its own and returns when it accepts.
    pub fn start(options: EchoOptions) -> Result<Self, EchoError> {
        let listener = Listener::bind(options.listen).map_err(|source| EchoError::Listen {
            address: options.listen,
            source,
        })?;
        let address = listener.address();
        let (counters, stop, waker) = (Arc::default(), Arc::default(), Waker::new()?);
        let (ready, started) = mpsc::channel();
        let thread = {
            let (counters, stop) = (Arc::clone(&counters), Arc::clone(&stop));
            let waker = waker.clone();
            std::thread::Builder::new()
                .name("echo".to_owned())
                .spawn(move || {
                    if let Some(cpu) = options.cpu {
                        core_affinity::set_for_current(cpu);
                    }
                    match EchoLoop::new(&options, listener, counters, stop, &waker) {
                        Ok(echo) => {
                            let _ = ready.send(Ok(()));
                            echo.run();
                        }
                        Err(error) => drop(ready.send(Err(error))),
                    }
                })?
        };
        started.recv().map_err(|_| EchoError::Ended)??;
        Ok(Self {
            address,
            counters,
            stop,
            waker,
            thread: Some(thread),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn counters(&self) -> &EchoCounters {
        &self.counters
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct EchoLoop {
    ring: Ring,
    pool: Pool,
    listener: Listener,
    delivered: Option<Arc<Delivered>>,
    counters: Arc<EchoCounters>,
    stop: Arc<AtomicBool>,
    slots: Vec<Slot>,
    vacant: Vec<usize>,
    /// Accepts to be armed again after a failure.
    accepts_owed: usize,
}

#[derive(Default)]
struct Slot {
    live: Option<Live>,
    generation: u32,
}

struct Live {
    descriptor: Descriptor,
    peer: SocketAddr,
    receiving: Option<Operation>,
    sending: Option<Operation>,
    queued: VecDeque<Block>,
    /// Bytes of a PROXY header that is incomplete; `None` once it was read.
    header: Option<Vec<u8>>,
    ended: bool,
}

impl EchoLoop {
    fn new(
        options: &EchoOptions,
        listener: Listener,
        counters: Arc<EchoCounters>,
        stop: Arc<AtomicBool>,
        waker: &Waker,
    ) -> Result<Self, EchoError> {
        // As many as there are accepts in flight come on top.
        let descriptors = options.connections.saturating_add(64);
        let mut ring = Ring::new(&RingOptions {
            descriptors,
            ..RingOptions::default()
        })?;
        ring.watch(waker, WAKE);
        Ok(Self {
            ring,
            pool: Pool::new(options.connections as usize * 4, 64),
            listener,
            delivered: options.delivered.clone(),
            counters,
            stop,
            slots: Vec::new(),
            vacant: Vec::new(),
            accepts_owed: ACCEPTS_IN_FLIGHT,
        })
    }

    fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            for _ in 0..std::mem::take(&mut self.accepts_owed) {
                let armed = self.ring.accept(&self.listener, ACCEPT).is_ok();
                self.accepts_owed += usize::from(!armed);
            }
            let retry = (self.accepts_owed > 0).then_some(RETRY);
            if self.ring.wait(retry).is_err() {
                return;
            }
            while let Some(Completion { token, outcome }) = self.ring.next_completion() {
                match outcome {
                    Outcome::Accepted(result) => self.accepted(result),
                    Outcome::Woken => {}
                    outcome => self.complete(token, outcome),
                }
            }
        }
    }

    fn accepted(&mut self, result: std::io::Result<Accepted>) {
        self.accepts_owed += 1;
        let Ok(Accepted {
            descriptor, peer, ..
        }) = result
        else {
            // Out of descriptors: not at once again, that would spin.
            return std::thread::sleep(RETRY);
        };
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[index];
        slot.generation = slot.generation.wrapping_add(1) & (u32::MAX >> 1);
        let receiving = self
            .ring
            .receive(&descriptor, token(index, slot.generation));
        slot.live = Some(Live {
            descriptor,
            peer,
            receiving: Some(receiving),
            sending: None,
            queued: VecDeque::new(),
            header: self.delivered.is_some().then(Vec::new),
            ended: false,
        });
    }

    fn complete(&mut self, token: Token, outcome: Outcome) {
        let index = usize::try_from(token.0 & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        let known = self
            .slots
            .get(index)
            .is_some_and(|slot| u64::from(slot.generation) == token.0 >> 32 && slot.live.is_some());
        match outcome {
            Outcome::Received { buffer, .. } if !known => self.ring.give_back(buffer),
            Outcome::Sent { block, .. } if !known => self.pool.give(block),
            _ if !known => {}
            Outcome::Received { buffer, more } => self.received(index, buffer, more),
            Outcome::ReceiveEnded(end) => self.receive_ended(index, end),
            Outcome::Sent { block, result } => self.sent(index, block, result.ok()),
            Outcome::Accepted(_) | Outcome::Connected(_) | Outcome::Woken => {}
        }
    }

    fn received(&mut self, index: usize, buffer: Received, more: bool) {
        let slot = &mut self.slots[index];
        let Some(live) = &mut slot.live else { return };
        if !more {
            live.receiving = Some(
                self.ring
                    .receive(&live.descriptor, token(index, slot.generation)),
            );
        }
        let bytes = self.ring.received(&buffer);
        let fine = match &mut live.header {
            None => queue(&mut live.queued, &mut self.pool, bytes),
            Some(header) => {
                header.extend_from_slice(bytes);
                match ProxyHeader::parse(header) {
                    Ok(Parsed::Incomplete) => true,
                    Ok(Parsed::Complete { header: told, len }) => {
                        if let Some(delivered) = &self.delivered {
                            let client = told
                                .addresses
                                .map_or(live.peer, |addresses| addresses.source);
                            delivered.report(client, Report::from(&*told));
                        }
                        let payload = header.split_off(len);
                        live.header = None;
                        queue(&mut live.queued, &mut self.pool, &payload)
                    }
                    Err(_) => {
                        self.counters.malformed.fetch_add(1, Ordering::Relaxed);
                        false
                    }
                }
            }
        };
        self.ring.give_back(buffer);
        if fine {
            self.flush(index)
        } else {
            self.close(index)
        }
    }

    fn receive_ended(&mut self, index: usize, end: ReceiveEnd) {
        let slot = &mut self.slots[index];
        let Some(live) = &mut slot.live else { return };
        live.receiving = None;
        match end {
            ReceiveEnd::BuffersExhausted | ReceiveEnd::Cancelled => {
                let token = token(index, slot.generation);
                live.receiving = Some(self.ring.receive(&live.descriptor, token));
            }
            ReceiveEnd::EndOfStream => {
                live.ended = true;
                self.flush(index);
            }
            ReceiveEnd::Failed(_) => self.close(index),
        }
    }

    fn sent(&mut self, index: usize, mut block: Block, len: Option<usize>) {
        let Some(live) = &mut self.slots[index].live else {
            return;
        };
        live.sending = None;
        let Some(len) = len else {
            self.pool.give(block);
            return self.close(index);
        };
        block.consume(len);
        if block.is_empty() {
            self.pool.give(block);
        } else {
            live.queued.push_front(block);
        }
        self.flush(index);
    }

    fn flush(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some(live) = &mut slot.live else { return };
        if live.sending.is_some() {
            return;
        }
        if let Some(block) = live.queued.pop_front() {
            let token = token(index, slot.generation);
            live.sending = Some(self.ring.send(&live.descriptor, block, token));
        } else if live.ended {
            self.close(index);
        }
    }

    fn close(&mut self, index: usize) {
        let Some(live) = self.slots[index].live.take() else {
            return;
        };
        for operation in [live.receiving, live.sending].into_iter().flatten() {
            self.ring.cancel(operation);
        }
        for block in live.queued {
            self.pool.give(block);
        }
        self.ring.close(live.descriptor);
        self.vacant.push(index);
    }
}

/// Queues a copy of `bytes`; false when that is more than a connection may hold.
fn queue(queued: &mut VecDeque<Block>, pool: &mut Pool, mut bytes: &[u8]) -> bool {
    if let Some(last) = queued.back_mut() {
        bytes = &bytes[last.append(bytes)..];
    }
    while !bytes.is_empty() {
        if queued.len() == BLOCKS_PER_CONNECTION {
            return false;
        }
        let Some(mut block) = pool.take() else {
            return false;
        };
        bytes = &bytes[block.append(bytes)..];
        queued.push_back(block);
    }
    true
}

fn token(index: usize, generation: u32) -> Token {
    Token(u64::from(generation) << 32 | index as u64)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};

    use super::*;
    use crate::proxy_header::SIGNATURE;

    fn start(delivered: Option<Arc<Delivered>>) -> Echo {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Echo::start(EchoOptions {
            listen,
            delivered,
            cpu: None,
            connections: 64,
        })
        .unwrap()
    }

    fn connect(echo: &Echo) -> TcpStream {
        let stream = TcpStream::connect(echo.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    #[test]
    fn everything_comes_back_and_the_end_too() {
        let echo = start(None);
        let mut stream = connect(&echo);
        let sent: Vec<u8> = (0..300_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let mut writer = stream.try_clone().unwrap();
        let bytes = sent.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        writing.join().unwrap();
        assert!(back == sent);
        assert_eq!(echo.counters().accepted(), 1);
    }

    #[test]
    fn what_the_header_says_is_written_down() {
        let delivered = Arc::new(Delivered::default());
        let echo = start(Some(delivered.clone()));
        let mut stream = connect(&echo);
        let mut header = SIGNATURE.to_vec();
        header.extend_from_slice(&[0x21, 0x11, 0, 12 + 35]);
        header.extend_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2, 0x10, 0x00, 0x01, 0xBB]);
        header.extend_from_slice(&[0xE2, 0, 32]);
        header.extend_from_slice(&[5; 32]);
        for byte in header {
            stream.write_all(&[byte]).unwrap();
        }
        stream.write_all(b"ping").unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"ping");
        let client = SocketAddr::from(([192, 0, 2, 1], 0x1000));
        assert!(delivered.matches(&client, Some(&[5; 32]), None, false));
    }

    #[test]
    fn without_a_header_it_is_closed_and_counted() {
        let echo = start(Some(Arc::default()));
        let mut stream = connect(&echo);
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut back = Vec::new();
        let _ = stream.read_to_end(&mut back);
        assert!(back.is_empty());
        assert_eq!(echo.counters().malformed(), 1);
    }
}
