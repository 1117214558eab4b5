//! Slow readers, stalled upstreams and too many clients: what is held stays bounded, and nobody
//! else notices.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringgate::close_reason::CloseReason;
use ringgate::limits::{BLOCK_LEN, BLOCKS_PER_DIRECTION, RECEIVE_BUFFERS};
use ringgate::shard::Counters;
use socket2::{Domain, Socket, Type};

use crate::upstream::{Manner, Upstream};
use crate::world::{FILES, Folder, LIMIT, TlsStream, World, ends, finish, patterned};

/// More than the kernel's socket buffers on both sides take together.
const MUCH: usize = 32 << 20;

/// Blocks that `directions` stalled directions may hold at most: those below the watermark, and what
/// a single wake-up of the receive can deliver before it is stopped, which is every receive buffer.
fn bound(directions: usize) -> u64 {
    (directions * (BLOCKS_PER_DIRECTION + usize::from(RECEIVE_BUFFERS))) as u64
}

/// Two listeners, one for an upstream that stalls and one for an upstream that echoes.
fn beside_an_echo(stalling: &Upstream, echo: &Upstream) -> World {
    let listener = |upstream: &Upstream| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nname = \"{0}\"\n{FILES}upstream = {1}\n{2}\n",
            upstream.address,
            upstream.toml(),
            crate::world::EVERYONE
        )
    };
    let config = [listener(stalling), listener(echo)].concat();
    World::with(|_, _, _| {}, &config)
}

/// A client of the second listener is served as ever.
fn another_is_served(world: &World) {
    let mut stream = world.connect(&world.client());
    stream.sock = TcpStream::connect(world.addresses()[1]).unwrap();
    stream.sock.set_read_timeout(Some(LIMIT)).unwrap();
    let sent = patterned(200_000);
    for sent in sent.chunks(10_000) {
        stream.write_all(sent).unwrap();
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).unwrap();
        assert!(back == sent);
    }
    finish(stream);
}

#[test]
fn slow_upstream() {
    let (upstream, echo) = (Upstream::new(Manner::Stall), Upstream::new(Manner::Echo));
    let world = beside_an_echo(&upstream, &echo);
    let mut stream = world.connect(&world.client());
    let sent = patterned(MUCH);
    let clients_copy = sent.clone();
    let client = std::thread::spawn(move || {
        stream.write_all(&clients_copy).unwrap();
        assert_eq!(finish(stream), b"");
    });
    world.eventually("the watermark", |terminator| {
        let mut mailboxes = terminator.mailboxes();
        mailboxes.all(|mailbox| mailbox.counters().blocks_lent() >= BLOCKS_PER_DIRECTION as u64)
    });
    another_is_served(&world);
    assert!(!client.is_finished());
    upstream.open_gate();
    assert!(upstream.visit().bytes == sent, "bytes were lost");
    client.join().unwrap();
    world.closed(CloseReason::Complete, 2);
    let (most, bound) = (world.figure(Counters::blocks_lent_max), bound(3));
    assert!(most <= bound, "{most} blocks, {bound} allowed");
    world.reaches("blocks", 0, Counters::blocks_lent);
}

#[test]
fn slow_reader() {
    let (upstream, echo) = (
        Upstream::new(Manner::Flood(MUCH)),
        Upstream::new(Manner::Echo),
    );
    upstream.open_gate();
    let world = beside_an_echo(&upstream, &echo);
    let mut stream = world.connect(&world.client());
    stream.write_all(b"go").unwrap();
    world.eventually("the watermark", |terminator| {
        let mut mailboxes = terminator.mailboxes();
        mailboxes.all(|mailbox| mailbox.counters().blocks_lent() >= BLOCKS_PER_DIRECTION as u64)
    });
    another_is_served(&world);
    assert!(finish(stream) == patterned(MUCH), "bytes were lost");
    assert_eq!(upstream.visit().bytes, b"go");
    let (most, bound) = (world.figure(Counters::blocks_lent_max), bound(3));
    assert!(most <= bound, "{most} blocks, {bound} allowed");
    world.closed(CloseReason::Complete, 2);
    world.reaches("blocks", 0, Counters::blocks_lent);
}

#[test]
fn sixteen_that_stall_both_ways() {
    const LEN: usize = 12 << 20;
    let (upstream, echo) = (
        Upstream::new(Manner::Flood(LEN)),
        Upstream::new(Manner::Echo),
    );
    let world = beside_an_echo(&upstream, &echo);
    let sent = patterned(LEN);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            let mut stream = world.connect(&world.client());
            let sent = &sent;
            scope.spawn(move || {
                stream.write_all(sent).unwrap();
                assert!(finish(stream) == *sent, "bytes to the client were lost");
            });
        }
        world.eventually("every direction at its watermark", |terminator| {
            let held = 16 * 2 * BLOCKS_PER_DIRECTION as u64;
            let mut mailboxes = terminator.mailboxes();
            mailboxes.all(|mailbox| mailbox.counters().blocks_lent() >= held)
        });
        another_is_served(&world);
        upstream.open_gate();
        for _ in 0..16 {
            assert!(upstream.visit().bytes == sent, "{}", world.reasons());
        }
    });
    let (most, bound) = (world.figure(Counters::blocks_lent_max), bound(34));
    assert!(most <= bound, "{most} blocks, {bound} allowed");
    world.closed(CloseReason::Complete, 17);
    world.reaches("blocks", 0, Counters::blocks_lent);
}

/// Clients that send much to an upstream which takes it only when told, so many that the blocks of
/// the smallest pool are not enough for them.
const HOARDERS: usize = 130;
const HOARD: usize = 1 << 20;

/// Serves as an upstream, on a Unix socket because those hold little; counts what it read, once the
/// gate can be passed.
fn small_upstream(folder: &Folder, gate: &Arc<RwLock<()>>) -> (String, Arc<AtomicUsize>) {
    let path = folder.write("unused", "").with_file_name("small.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (gate, read) = (Arc::clone(gate), Arc::new(AtomicUsize::new(0)));
    let total = Arc::clone(&read);
    // The threads end with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (gate, total) = (Arc::clone(&gate), Arc::clone(&total));
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                drop(gate.read());
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    total.fetch_add(len, Ordering::Relaxed);
                }
            });
        }
    });
    (format!("unix:{}", path.display()), read)
}

/// A world in which hoarders hold every block, those, and how much their upstream has read.
fn without_blocks(
    folder: &Folder,
    echo: &Upstream,
    gate: &Arc<RwLock<()>>,
) -> (World, Vec<JoinHandle<bool>>, Arc<AtomicUsize>) {
    let (small, read) = small_upstream(folder, gate);
    let listener = |name: &str, upstream: &str, more: &str| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nname = \"{name}\"\n{FILES}\
             upstream = \"{upstream}\"\n{more}\n{}\n",
            crate::world::EVERYONE
        )
    };
    let config = [
        listener(
            "small",
            &small,
            "proxy_protocol = \"off\"\nhandshake_timeout = \"5m\"\nidle_timeout = \"1h\"",
        ),
        listener(
            "echo",
            &echo.address.to_string(),
            "handshake_timeout = \"5m\"",
        ),
        "[limits]\nbuffers = \"16MiB\"\n".to_owned(),
    ]
    .concat();
    let world = World::with(|_, _, _| {}, &config);
    let client = world.client();
    let hoarders = (0..HOARDERS).map(|_| {
        let mut stream = world.connect(&client);
        std::thread::spawn(move || {
            let sent = patterned(HOARD);
            let all = stream.write_all(&sent).is_ok();
            all && finish(stream) == b""
        })
    });
    let hoarders = hoarders.collect();
    // Nothing moves any more, and it is blocks that are missing.
    let mut sent = 0;
    world.eventually("something that waits for blocks", |terminator| {
        std::thread::sleep(Duration::from_millis(200));
        let mut mailboxes = terminator.mailboxes();
        let counters = mailboxes.next().unwrap().counters();
        let before = std::mem::replace(&mut sent, counters.submissions());
        counters.parked() > 0 && before == sent
    });
    (world, hoarders, read)
}

#[test]
fn what_finds_no_block_waits_and_is_not_lost() {
    let (gate, echo) = (Arc::new(RwLock::new(())), Upstream::new(Manner::Echo));
    let (folder, shut) = (Folder::new(), gate.write().unwrap());
    let (world, hoarders, read) = without_blocks(&folder, &echo, &gate);
    assert_eq!(world.ends(), 0, "{}", world.reasons());
    drop(shut);
    for hoarder in hoarders {
        assert!(
            hoarder.join().is_ok_and(|whole| whole),
            "{}",
            world.reasons()
        );
    }
    world.closed(CloseReason::Complete, HOARDERS as u64);
    assert_eq!(read.load(Ordering::Relaxed), HOARDERS * HOARD);
    another_is_served(&world);
    world.reaches("blocks", 0, Counters::blocks_lent);
    world.quiet();
}

#[test]
fn those_that_hold_most_give_way_to_those_that_waited_long() {
    let (gate, echo) = (Arc::new(RwLock::new(())), Upstream::new(Manner::Echo));
    let (folder, shut) = (Folder::new(), gate.write().unwrap());
    let (world, hoarders, _) = without_blocks(&folder, &echo, &gate);
    std::thread::scope(|scope| {
        let served = scope.spawn(|| another_is_served(&world));
        // A connection that it gives up again, and its own.
        world.reaches("accepted", 2 + HOARDERS as u64, Counters::accepted);
        // However long nothing else moves: it is the clock that ends somebody.
        let cut = |counters: &Counters| counters.closed(CloseReason::BufferLimit);
        assert_eq!(world.figure(cut), 0, "{}", world.reasons());
        // What is freed first goes to those that waited longest, who hoard as well.
        world.eventually("room for another", |_| {
            world.clock.advance(Duration::from_secs(1));
            std::thread::sleep(Duration::from_millis(100));
            served.is_finished()
        });
        served.join().unwrap();
    });
    let ended = world.figure(|counters| counters.closed(CloseReason::BufferLimit));
    assert!(ended > 0 && ended < HOARDERS as u64, "{}", world.reasons());
    drop(shut);
    let whole = hoarders.into_iter().map(|hoarder| hoarder.join().is_ok());
    let whole = whole.filter(|whole| *whole).count() as u64;
    assert_eq!(whole, HOARDERS as u64 - ended, "{}", world.reasons());
    world.reaches("blocks", 0, Counters::blocks_lent);
}

/// A socket whose queue is full, and what it is full of.
type Queue = (Socket, Vec<TcpStream>);

/// What lasts as long as blocks are to be held.
type Holders = (Queue, Vec<TlsStream>);

/// An upstream that never answers.
fn silent_upstream() -> (String, Queue) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(1).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let answer = Duration::from_millis(300);
    let queued = std::iter::from_fn(|| TcpStream::connect_timeout(&address, answer).ok());
    let queued = queued.collect();
    (address.to_string(), (socket, queued))
}

/// A world in which clients hold so many blocks that nobody gets another, and those clients. Their
/// upstream does not answer, each holds one block, its greeting, and sends nothing: so nothing that was
/// received waits. `first` meets the world before, whose second listener leads to `echo`.
fn held_in_silence<T>(echo: &Upstream, first: impl FnOnce(&World) -> T) -> (World, T, Holders) {
    held_in_silence_with(echo, "", first)
}

/// The same, with more lines in `[limits]`.
fn held_in_silence_with<T>(
    echo: &Upstream,
    more: &str,
    first: impl FnOnce(&World) -> T,
) -> (World, T, Holders) {
    const SMALLEST: usize = 16 << 20;
    /// What is not gone on with without.
    const ROOM: usize = 8;
    let (silent, queue) = silent_upstream();
    let [silent, served] = [format!("\"{silent}\""), echo.toml()].map(|upstream| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nname = {upstream}\n{FILES}\
             upstream = {upstream}\nhandshake_timeout = \"5m\"\nconnect_timeout = \"5m\"\n{}\n",
            crate::world::EVERYONE
        )
    });
    let limits = format!("[limits]\nbuffers = \"16MiB\"\n{more}\n[resumption]\ntickets = 0\n");
    let world = World::with(|_, _, _| {}, &[silent, served, limits].concat());
    let first = first(&world);
    let leaf = world.client();
    let holders = (1..=SMALLEST / BLOCK_LEN - ROOM + 1).map(|holders| {
        let mut stream = world.connect(&leaf);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        world.reaches("blocks", holders as u64, Counters::blocks_lent);
        stream
    });
    let holders = holders.collect();
    (world, first, (queue, holders))
}

/// A client of the second listener.
fn connect_second(world: &World) -> TlsStream {
    connect_second_behind(world, 1)
}

/// The same, where so many connections will have ended before.
fn connect_second_behind(world: &World, ended: u64) -> TlsStream {
    let mut stream = world.connect(&world.client());
    stream.sock = TcpStream::connect(world.addresses()[1]).unwrap();
    stream.sock.set_read_timeout(Some(LIMIT)).unwrap();
    // The connection to the first one that it gave up.
    world.reaches("ended", ended, ends);
    stream
}

/// Time goes on until somebody has given way.
fn relieved(world: &World, is_served: impl Fn() -> bool) {
    let until = Instant::now() + LIMIT;
    while !is_served() {
        assert!(Instant::now() < until, "no room: {}", world.reasons());
        world.clock.advance(Duration::from_secs(1));
        std::thread::sleep(Duration::from_millis(50));
    }
    let ended = world.figure(|counters| counters.closed(CloseReason::BufferLimit));
    assert!(ended > 0, "{}", world.reasons());
}

#[test]
fn handshakes_that_wait_for_blocks_have_others_give_way() {
    let echo = Upstream::new(Manner::Echo);
    let (world, (), _holders) = held_in_silence(&echo, |_| ());
    std::thread::scope(|scope| {
        let mut stream = connect_second(&world);
        let served = scope.spawn(move || {
            stream.write_all(b"x").unwrap();
            assert_eq!(finish(stream), b"x");
        });
        world.reaches("handshakes", 1, Counters::handshaking);
        relieved(&world, || served.is_finished());
        served.join().unwrap();
    });
    assert_eq!(world.figure(Counters::parked), 0);
}

#[test]
fn handshakes_that_wait_too_long_are_reset() {
    let queue = "handshake_queue = \"500ms\"";
    let echo = Upstream::new(Manner::Echo);
    let (world, (), _holders) = held_in_silence_with(&echo, queue, |_| ());
    let mut stream = connect_second(&world);
    stream.conn.write_tls(&mut stream.sock).unwrap();
    world.reaches("that wait", 1, Counters::handshakes_waiting);
    world.clock.advance(Duration::from_millis(499));
    let mut another = connect_second_behind(&world, 2);
    another.conn.write_tls(&mut another.sock).unwrap();
    world.reaches("that wait", 2, Counters::handshakes_waiting);
    world.clock.advance(Duration::from_millis(1));
    world.closed(CloseReason::Overloaded, 1);
    world.reaches("that wait", 1, Counters::handshakes_waiting);
    let heard = stream.sock.read(&mut [0; 1]);
    assert_eq!(heard.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(world.report_if_any().is_none(), "who is shed is counted");
}

/// It has not begun what was never answered: it waits like everybody's first message.
#[test]
fn a_first_message_in_parts_waits_no_shorter_than_a_whole_one() {
    let queue = "handshake_queue = \"500ms\"";
    let echo = Upstream::new(Manner::Echo);
    let (world, (mut socket, rest), _holders) = held_in_silence_with(&echo, queue, |world| {
        let mut stream = connect_second(world);
        let mut hello = Vec::new();
        stream.conn.write_tls(&mut hello).unwrap();
        let rest = hello.split_off(1);
        sent_alone(world, &mut stream.sock, &hello);
        world.reaches("that wait", 0, Counters::handshakes_waiting);
        (stream.sock, rest)
    });
    socket.write_all(&rest).unwrap();
    world.reaches("that wait", 1, Counters::handshakes_waiting);
    world.clock.advance(Duration::from_millis(500));
    world.closed(CloseReason::Overloaded, 1);
    let heard = socket.read(&mut [0; 1]);
    assert_eq!(heard.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// Sends `bytes` and waits until the terminator has received them.
fn sent_alone(world: &World, socket: &mut TcpStream, bytes: &[u8]) {
    let before = world.figure(Counters::completions);
    socket.write_all(bytes).unwrap();
    world.eventually("received", |terminator| {
        let mut mailboxes = terminator.mailboxes();
        mailboxes.any(|mailbox| mailbox.counters().completions() > before)
    });
}

#[test]
fn nothing_is_spent_on_a_first_message_whose_client_has_left() {
    let echo = Upstream::new(Manner::Echo);
    let (world, (), _holders) = held_in_silence(&echo, |_| ());
    let mut stream = connect_second(&world);
    stream.conn.write_tls(&mut stream.sock).unwrap();
    world.reaches("that wait", 1, Counters::handshakes_waiting);
    stream.sock.shutdown(Shutdown::Write).unwrap();
    world.closed(CloseReason::ClientGoneInHandshake, 2);
    world.reaches("that wait", 0, Counters::handshakes_waiting);
    // It is not answered. A reset is as good an end as any.
    assert_eq!(stream.sock.read(&mut [0; 1]).unwrap_or(0), 0);
}

/// It would be served before all that wait.
#[test]
fn nothing_is_spent_on_who_says_too_much_before_its_answer() {
    let echo = Upstream::new(Manner::Echo);
    let (world, (), _holders) = held_in_silence(&echo, |_| ());
    let mut stream = connect_second(&world);
    stream.conn.write_tls(&mut stream.sock).unwrap();
    world.reaches("that wait", 1, Counters::handshakes_waiting);
    let mut record = vec![23, 3, 3, 0x40, 0];
    record.resize(5 + 0x4000, 0);
    stream.sock.write_all(&record.repeat(5)).unwrap();
    world.reaches("parked", 1, Counters::parked);
    relieved(&world, || {
        world.figure(|counters| counters.closed(CloseReason::ProtocolViolation)) == 1
    });
    // It is not answered.
    assert_eq!(stream.sock.read(&mut [0; 1]).unwrap_or(0), 0);
}

#[test]
fn what_a_client_said_last_in_its_handshake_waits_with_its_end() {
    let echo = Upstream::new(Manner::Echo);
    let (world, mut stream, _holders) = held_in_silence(&echo, |world| {
        let mut stream = connect_second(world);
        stream.conn.write_tls(&mut stream.sock).unwrap();
        while stream.conn.wants_read() && stream.conn.is_handshaking() {
            stream.conn.read_tls(&mut stream.sock).unwrap();
            stream.conn.process_new_packets().unwrap();
        }
        world.reaches("blocks", 0, Counters::blocks_lent);
        stream
    });
    let before = world.figure(Counters::completions);
    stream.write_all(b"x").unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    stream.sock.shutdown(Shutdown::Write).unwrap();
    // What it said and its end, which may be told in one.
    world.reaches("that wait", 1, Counters::handshakes_waiting);
    world.eventually("what was said", |terminator| {
        let mut mailboxes = terminator.mailboxes();
        mailboxes.any(|mailbox| mailbox.counters().completions() >= before + 2)
    });
    assert_eq!(world.figure(Counters::handshakes_waiting), 1);
    assert_eq!(world.ends(), 1, "{}", world.reasons());
    relieved(&world, || {
        world.figure(|counters| counters.closed(CloseReason::Complete)) == 1
    });
    assert_eq!(echo.visit().bytes, b"x");
}

/// A client that said all it had and closes with something unread resets the connection.
fn say_and_reset(mut stream: TlsStream, words: &[u8]) {
    stream.write_all(words).unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    // All of it is with the other side: a reset takes back what still waits here.
    let address = stream.sock.local_addr().unwrap();
    let local = format!(":{:04X}", address.port());
    let until = Instant::now() + LIMIT;
    loop {
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let own = sockets.lines().find(|line| {
            let address = line.split_whitespace().nth(1);
            address.is_some_and(|address| address.ends_with(&local))
        });
        let queues = own.unwrap().split_whitespace().nth(4).unwrap();
        if queues.starts_with("00000000:") {
            break;
        }
        assert!(Instant::now() < until, "what was said never arrives");
        std::thread::yield_now();
    }
    let socket = socket2::SockRef::from(&stream.sock);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn what_waits_for_blocks_is_delivered_before_the_reset_behind_it() {
    let upstream = Upstream::new(Manner::Echo);
    let (world, stream, _holders) = held_in_silence(&upstream, |world| {
        let mut stream = connect_second(world);
        stream.write_all(b"first ").unwrap();
        stream.read_exact(&mut [0; 6]).unwrap();
        world.reaches("blocks", 0, Counters::blocks_lent);
        stream
    });
    say_and_reset(stream, b"and last");
    // The words, and the end behind them.
    world.eventually("what waits", |terminator| {
        let mut mailboxes = terminator.mailboxes();
        mailboxes.all(|mailbox| mailbox.counters().parked() >= 2)
    });
    assert_eq!(upstream.connections(), 1);
    let is_reset = || world.figure(|counters| counters.closed(CloseReason::ClientReset)) == 1;
    relieved(&world, is_reset);
    assert_eq!(upstream.visit().bytes, b"first and last");
}
