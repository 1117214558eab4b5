//! What a ring does when something is refused, used up, cancelled or dropped.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use ringgate::block::Pool;
use ringgate::ring::{
    Completion, DescriptorKind, Finding, Listener, Outcome, ReceiveEnd, Ring, RingOptions, Target,
    Token, Waker,
};

fn ring(descriptors: u32) -> Ring {
    let options = RingOptions {
        entries: 8,
        receive_buffers: 2,
        receive_buffer_len: 512,
        descriptors,
        ..RingOptions::default()
    };
    Ring::new(&options).unwrap()
}

fn next(ring: &mut Ring) -> Completion {
    for _ in 0..100 {
        if let Some(completion) = ring.next_completion() {
            return completion;
        }
        ring.wait(Some(Duration::from_millis(100))).unwrap();
    }
    panic!("no completion within 10 s");
}

/// A connected pair: one end in the ring, one plain.
fn pair(ring: &mut Ring) -> (ringgate::ring::Descriptor, TcpStream) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::Tcp(server.local_addr().unwrap());
    let (descriptor, _) = ring
        .connect(&target, DescriptorKind::Direct, Token(0))
        .unwrap();
    assert!(matches!(next(ring).outcome, Outcome::Connected(Ok(()))));
    (descriptor, server.accept().unwrap().0)
}

#[test]
fn a_refused_connect_says_so() {
    let mut ring = ring(4);
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    for kind in [DescriptorKind::Direct, DescriptorKind::Plain] {
        let (descriptor, _) = ring.connect(&Target::Tcp(address), kind, Token(9)).unwrap();
        let completion = next(&mut ring);
        assert_eq!(completion.token, Token(9));
        let Outcome::Connected(Err(error)) = completion.outcome else {
            panic!("{completion:?}")
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        ring.close(descriptor);
    }
    assert_eq!(ring.slots_in_use(), 0);
}

#[test]
fn a_unix_socket_is_reached_and_a_missing_one_named() {
    let mut ring = ring(4);
    let path = std::env::temp_dir().join(format!("ringgate-ring-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let target = Target::Unix(path.clone());
    let (first, _) = ring
        .connect(&target, DescriptorKind::Direct, Token(0))
        .unwrap();
    assert!(matches!(
        next(&mut ring).outcome,
        Outcome::Connected(Ok(()))
    ));
    drop(listener);
    std::fs::remove_file(&path).unwrap();
    let (second, _) = ring
        .connect(&target, DescriptorKind::Direct, Token(0))
        .unwrap();
    let Outcome::Connected(Err(error)) = next(&mut ring).outcome else {
        panic!("connected")
    };
    assert_eq!(error.kind(), ErrorKind::NotFound);
    ring.close(first);
    ring.close(second);
}

#[test]
fn without_a_free_slot_accept_and_connect_fail_with_emfile() {
    let mut ring = ring(1);
    let (_descriptor, peer) = pair(&mut ring);
    let target = Target::Tcp(peer.local_addr().unwrap());
    let refused = ring.connect(&target, DescriptorKind::Direct, Token(5));
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(24));
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let refused = ring.accept(&listener, Token(6));
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(24));
}

/// Every buffer with a caller: the receive ends and says why, and goes on once they came back.
#[test]
fn buffer_exhaustion_ends_a_receive_and_is_counted() {
    let mut ring = ring(4);
    let (descriptor, mut peer) = pair(&mut ring);
    ring.receive(&descriptor, Token(1));
    let sent: Vec<u8> = (0..2_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    peer.write_all(&sent).unwrap();
    let (mut held, mut got) = (Vec::new(), Vec::new());
    loop {
        match next(&mut ring).outcome {
            Outcome::Received { buffer, more } => {
                got.extend_from_slice(ring.received(&buffer));
                held.push(buffer);
                if !more {
                    ring.receive(&descriptor, Token(1));
                }
            }
            Outcome::ReceiveEnded(ReceiveEnd::BuffersExhausted) => break,
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!((held.len(), ring.counters().buffers_exhausted), (2, 1));
    held.into_iter().for_each(|buffer| ring.give_back(buffer));
    ring.receive(&descriptor, Token(1));
    while got.len() < sent.len() {
        match next(&mut ring).outcome {
            Outcome::Received { buffer, more } => {
                got.extend_from_slice(ring.received(&buffer));
                ring.give_back(buffer);
                if !more {
                    ring.receive(&descriptor, Token(1));
                }
            }
            Outcome::ReceiveEnded(ReceiveEnd::BuffersExhausted) => {
                ring.receive(&descriptor, Token(1));
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(got, sent);
}

#[test]
fn a_cancelled_receive_is_no_failure() {
    let mut ring = ring(4);
    let (descriptor, _peer) = pair(&mut ring);
    let operation = ring.receive(&descriptor, Token(1));
    ring.cancel(operation);
    let outcome = next(&mut ring).outcome;
    assert!(
        matches!(outcome, Outcome::ReceiveEnded(ReceiveEnd::Cancelled)),
        "{outcome:?}"
    );
    assert_eq!(ring.operations_in_flight(), 0);
}

#[test]
fn a_receive_ends_after_a_buffers_length() {
    // By the kernel's own word: a probe that never finds the limit must not pass for an old kernel.
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let version = [(); 2].map(|()| numbers.next().unwrap().parse::<u32>().unwrap());
    if version < [6, 17] {
        println!("skipped: multishot receives know no limit before Linux 6.17");
        return;
    }
    let mut checks = ringgate::ring::checks().into_iter();
    let check = checks.find(|check| check.name == "limited receives");
    let finding = check.unwrap().finding;
    assert!(matches!(finding, Finding::Fine(_)), "{finding:?}");
    let mut ring = ring(4);
    let (descriptor, mut peer) = pair(&mut ring);
    let received = |ring: &mut Ring| {
        let Outcome::Received { buffer, more } = next(ring).outcome else {
            panic!("nothing received")
        };
        let len = ring.received(&buffer).len();
        ring.give_back(buffer);
        (len, more)
    };
    ring.receive(&descriptor, Token(1));
    peer.write_all(&[7; 100]).unwrap();
    assert_eq!(received(&mut ring), (100, true));
    peer.write_all(&[7; 2000]).unwrap();
    assert_eq!(received(&mut ring), (512, false));
    ring.receive(&descriptor, Token(1));
    assert_eq!(received(&mut ring), (512, false));
    assert_eq!(ring.operations_in_flight(), 0);
}

/// The kernel tells of a reset that came before the receive only when the receive begins with
/// nothing left to take.
#[test]
fn a_reset_behind_bytes_is_told_when_receiving_one_buffer_at_a_time() {
    let mut ring = ring(4);
    let (descriptor, mut peer) = pair(&mut ring);
    peer.write_all(&[7; 700]).unwrap();
    let socket = socket2::SockRef::from(&peer);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    for expected in [512, 188] {
        ring.receive_once(&descriptor, Token(1), usize::MAX);
        let Outcome::Received { buffer, more } = next(&mut ring).outcome else {
            panic!("nothing received")
        };
        assert_eq!((ring.received(&buffer).len(), more), (expected, false));
        ring.give_back(buffer);
    }
    ring.receive(&descriptor, Token(1));
    let outcome = next(&mut ring).outcome;
    let Outcome::ReceiveEnded(ReceiveEnd::Failed(error)) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn shutting_down_ends_the_peers_stream() {
    let mut ring = ring(4);
    let (descriptor, mut peer) = pair(&mut ring);
    ring.shutdown_send(&descriptor);
    ring.wait(Some(Duration::ZERO)).unwrap();
    assert!(
        ring.next_completion().is_none(),
        "a shutdown has no completion"
    );
    // `read_to_end` goes on after EINTR, which the kernel's clearing up of the ring may cause.
    assert_eq!(peer.read_to_end(&mut Vec::new()).unwrap(), 0);
}

/// A slot or number that is closed behind a shutdown may be taken at once: the socket that takes it
/// must not be the one that is shut down.
#[test]
fn a_shutdown_never_reaches_the_next_socket_in_its_place() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::Tcp(server.local_addr().unwrap());
    for kind in [DescriptorKind::Direct, DescriptorKind::Plain] {
        let mut ring = ring(2);
        for _ in 0..300 {
            let (first, _) = ring.connect(&target, kind, Token(1)).unwrap();
            assert!(matches!(
                next(&mut ring).outcome,
                Outcome::Connected(Ok(()))
            ));
            let mut first_peer = server.accept().unwrap().0;
            ring.shutdown_send(&first);
            ring.close(first);
            let (second, _) = ring.connect(&target, kind, Token(2)).unwrap();
            assert!(matches!(
                next(&mut ring).outcome,
                Outcome::Connected(Ok(()))
            ));
            let mut second_peer = server.accept().unwrap().0;
            assert_eq!(first_peer.read_to_end(&mut Vec::new()).unwrap(), 0);
            // Still open in this direction: a byte arrives, where a shut socket would end.
            let mut block = Pool::new(1, 1).take().unwrap();
            block.append(b"x");
            ring.send(&second, block, Token(3));
            let Outcome::Sent { result, .. } = next(&mut ring).outcome else {
                panic!("no send")
            };
            assert_eq!(result.unwrap(), 1);
            let mut byte = [0];
            second_peer.read_exact(&mut byte).unwrap();
            ring.close(second);
        }
    }
}

/// A connect that is closed in the same breath ends all the same, or its connection would wait for
/// it for ever.
#[test]
fn a_connect_that_is_closed_at_once_still_completes() {
    let mut ring = ring(2);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::Tcp(server.local_addr().unwrap());
    for kind in [DescriptorKind::Direct, DescriptorKind::Plain] {
        for _ in 0..100 {
            let (descriptor, operation) = ring.connect(&target, kind, Token(4)).unwrap();
            ring.cancel(operation);
            ring.close(descriptor);
            let completion = next(&mut ring);
            assert_eq!(completion.token, Token(4));
            assert!(matches!(completion.outcome, Outcome::Connected(_)));
            assert_eq!((ring.operations_in_flight(), ring.slots_in_use()), (0, 0));
        }
    }
}

/// The entries of a connect are executed one after the other, later ones than those that follow
/// them: whoever takes a slot that was closed meanwhile must not be connected in their name.
#[test]
fn a_connect_never_reaches_the_next_socket_in_its_place() {
    let servers = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [first, second] = servers
        .each_ref()
        .map(|server| Target::Tcp(server.local_addr().unwrap()));
    for server in &servers {
        server.set_nonblocking(true).unwrap();
    }
    let mut ring = ring(2);
    for _ in 0..100 {
        let (descriptor, operation) = ring
            .connect(&first, DescriptorKind::Direct, Token(1))
            .unwrap();
        ring.cancel(operation);
        ring.close(descriptor);
        let (descriptor, _) = ring
            .connect(&second, DescriptorKind::Direct, Token(2))
            .unwrap();
        let mut results = [false; 3];
        for _ in 0..2 {
            let completion = next(&mut ring);
            let Outcome::Connected(result) = completion.outcome else {
                panic!("{completion:?}")
            };
            results[usize::try_from(completion.token.0).unwrap()] = result.is_ok();
        }
        assert!(results[2], "the second connect failed");
        let mut peer = servers[1].accept().expect("the second is reached").0;
        peer.set_nonblocking(false).unwrap();
        let mut block = Pool::new(1, 1).take().unwrap();
        block.append(b"for the second");
        ring.send(&descriptor, block, Token(3));
        assert!(matches!(next(&mut ring).outcome, Outcome::Sent { .. }));
        ring.close(descriptor);
        ring.wait(Some(Duration::ZERO)).unwrap();
        let mut words = String::new();
        peer.read_to_string(&mut words).unwrap();
        assert_eq!(words, "for the second");
        while let Ok((mut stranger, _)) = servers[0].accept() {
            let mut words = Vec::new();
            let _ = stranger.read_to_end(&mut words);
            assert_eq!(words, b"", "sent to the first");
        }
    }
}

#[test]
fn another_thread_wakes_a_ring_again_and_again() {
    let mut ring = ring(4);
    let waker = Waker::new().unwrap();
    ring.watch(&waker, Token(7));
    for _ in 0..3 {
        let other = waker.clone();
        let thread = std::thread::spawn(move || other.wake());
        let completion = next(&mut ring);
        assert_eq!(completion.token, Token(7));
        assert!(matches!(completion.outcome, Outcome::Woken));
        waker.reset();
        thread.join().unwrap();
    }
}

/// More submissions than the queue has room for are kept and done in order.
#[test]
fn a_full_submission_queue_loses_nothing() {
    let mut ring = ring(64);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::Tcp(server.local_addr().unwrap());
    let descriptors: Vec<_> = (0..60)
        .map(|n| {
            ring.connect(&target, DescriptorKind::Direct, Token(n))
                .unwrap()
                .0
        })
        .collect();
    let mut seen: Vec<u64> = (0..60)
        .map(|_| {
            let completion = next(&mut ring);
            assert!(matches!(completion.outcome, Outcome::Connected(Ok(()))));
            completion.token.0
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..60).collect::<Vec<_>>());
    descriptors
        .into_iter()
        .for_each(|descriptor| ring.close(descriptor));
    assert_eq!(ring.slots_in_use(), 0);
}

/// A ring that is dropped with receives in flight lets the peer see the end of the connection,
/// which it does only when nothing holds the socket any more.
#[test]
fn dropping_a_ring_cancels_what_is_in_flight() {
    let mut ring = ring(4);
    let (descriptor, mut peer) = pair(&mut ring);
    ring.receive(&descriptor, Token(1));
    ring.wait(Some(Duration::ZERO)).unwrap();
    drop(ring);
    peer.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    // `read_to_end` goes on after EINTR, which the kernel's clearing up of the ring may cause.
    assert_eq!(peer.read_to_end(&mut Vec::new()).unwrap(), 0);
}
