//! Bytes that go in come out, whatever the sizes of writes and buffers.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use ringgate::block::{Block, Pool};
use ringgate::ring::{
    Descriptor, DescriptorKind, Listener, Outcome, ReceiveEnd, Ring, RingOptions, Target, Token,
};

const LIMIT: Duration = Duration::from_secs(20);
const ACCEPT: Token = Token(1);
const CONNECT: Token = Token(2);
const RECEIVE: Token = Token(3);
const SEND: Token = Token(4);

fn small_ring(receive_buffers: u16, receive_buffer_len: usize) -> Ring {
    Ring::new(&RingOptions {
        entries: 8,
        receive_buffers,
        receive_buffer_len,
        descriptors: 8,
        ..RingOptions::default()
    })
    .unwrap()
}

/// Echoes one connection until its end, then closes it.
struct Echo {
    ring: Ring,
    pool: Pool,
    descriptor: Option<Descriptor>,
    queued: VecDeque<Block>,
    sending: bool,
    ended: bool,
}

impl Echo {
    fn run(mut self, descriptor: Descriptor) -> Ring {
        self.ring.receive(&descriptor, RECEIVE);
        self.descriptor = Some(descriptor);
        let started = Instant::now();
        while !(self.ended && self.queued.is_empty() && !self.sending) {
            assert!(started.elapsed() < LIMIT, "the echo did not end");
            self.ring.wait(Some(Duration::from_millis(100))).unwrap();
            while let Some(completion) = self.ring.next_completion() {
                self.on(completion.outcome);
            }
        }
        self.ring.close(self.descriptor.take().unwrap());
        self.ring.wait(Some(Duration::ZERO)).unwrap();
        self.ring
    }

    fn on(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Received { buffer, more } => {
                let mut block = self.pool.take().unwrap();
                block.append(self.ring.received(&buffer));
                self.ring.give_back(buffer);
                self.queued.push_back(block);
                if !more {
                    self.receive();
                }
            }
            Outcome::ReceiveEnded(ReceiveEnd::EndOfStream) => self.ended = true,
            Outcome::ReceiveEnded(ReceiveEnd::BuffersExhausted) => self.receive(),
            Outcome::Sent { mut block, result } => {
                block.consume(result.unwrap());
                self.sending = false;
                if block.is_empty() {
                    self.pool.give(block);
                } else {
                    self.queued.push_front(block);
                }
            }
            other => panic!("unexpected {other:?}"),
        }
        if !self.sending
            && let Some(block) = self.queued.pop_front()
        {
            self.sending = true;
            self.ring
                .send(self.descriptor.as_ref().unwrap(), block, SEND);
        }
    }

    fn receive(&mut self) {
        self.ring
            .receive(self.descriptor.as_ref().unwrap(), RECEIVE);
    }
}

/// A plain client that writes `chunks`, closes its sending side and returns what came back.
fn client(mut stream: TcpStream, chunks: Vec<Vec<u8>>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut reader = stream.try_clone().unwrap();
        let reading = std::thread::spawn(move || {
            let mut back = Vec::new();
            reader.read_to_end(&mut back).unwrap();
            back
        });
        for chunk in chunks {
            stream.write_all(&chunk).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        reading.join().unwrap()
    })
}

fn accept_one(ring: &mut Ring, listener: &Listener) -> ringgate::ring::Accepted {
    ring.accept(listener, ACCEPT).unwrap();
    loop {
        ring.wait(Some(LIMIT)).unwrap();
        if let Some(completion) = ring.next_completion() {
            assert_eq!(completion.token, ACCEPT);
            let Outcome::Accepted(accepted) = completion.outcome else {
                panic!("no accept")
            };
            return accepted.unwrap();
        }
    }
}

fn echo(ring: Ring) -> Echo {
    Echo {
        ring,
        pool: Pool::new(4096, 4),
        descriptor: None,
        queued: VecDeque::new(),
        sending: false,
        ended: false,
    }
}

fn chunks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 1..5_000), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn accepted_connections_echo(
        chunks in chunks(),
        buffers in prop::sample::select(vec![1_u16, 2, 8]),
        buffer_len in 1_usize..4096,
        wildcard in any::<bool>(),
    ) {
        let mut ring = small_ring(buffers, buffer_len.max(256));
        let ip = if wildcard { [0, 0, 0, 0] } else { [127, 0, 0, 1] };
        let listener = Listener::bind(SocketAddr::from((ip, 0))).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], listener.address().port()));
        let stream = TcpStream::connect(address).unwrap();
        let accepted = accept_one(&mut ring, &listener);
        prop_assert_eq!(accepted.peer, stream.local_addr().unwrap());
        prop_assert_eq!(accepted.local, address);
        let expected = chunks.concat();
        let client = client(stream, chunks);
        let ring = echo(ring).run(accepted.descriptor);
        prop_assert_eq!(client.join().unwrap(), expected);
        prop_assert_eq!(ring.operations_in_flight(), 0);
        prop_assert_eq!(ring.slots_in_use(), 0);
        prop_assert_eq!(ring.free_buffers(), usize::from(buffers));
    }

    #[test]
    fn connected_sockets_echo(chunks in chunks(), direct in any::<bool>()) {
        let mut ring = small_ring(4, 1024);
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::Tcp(server.local_addr().unwrap());
        let kind = if direct { DescriptorKind::Direct } else { DescriptorKind::Plain };
        let (descriptor, _) = ring.connect(&target, kind, CONNECT).unwrap();
        prop_assert_eq!(descriptor.kind(), kind);
        ring.wait(Some(LIMIT)).unwrap();
        let completion = ring.next_completion().unwrap();
        let Outcome::Connected(connected) = completion.outcome else { panic!("no connect") };
        connected.unwrap();
        let (stream, peer) = server.accept().unwrap();
        if !direct {
            prop_assert_eq!(descriptor.local_address().unwrap(), peer);
        }
        let expected = chunks.concat();
        let client = client(stream, chunks);
        let ring = echo(ring).run(descriptor);
        prop_assert_eq!(client.join().unwrap(), expected);
        prop_assert_eq!(ring.slots_in_use(), 0);
    }
}
