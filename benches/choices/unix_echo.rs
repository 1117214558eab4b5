//! An echo on a Unix socket; a PROXY v2 header in front is left out.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use core_affinity::CoreId;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use slab::Slab;

/// What tells the listener from connections.
const LISTENER: u64 = u64::MAX;

/// How long the thread may take to notice that it is to end.
const TURN_MAX: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// A thread that echoes; ends when dropped.
pub struct UnixEcho {
    pub path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl UnixEcho {
    /// Starts one on `cpu`.
    pub fn start(path: &Path, cpu: CoreId) -> Self {
        let listener = UnixListener::bind(path).expect("a path for a socket");
        listener.set_nonblocking(true).expect("a socket");
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                core_affinity::set_for_current(cpu);
                Loop::new(listener)?.run(&stop)
            }
        });
        Self {
            path: path.to_owned(),
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for UnixEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join().expect("an echo that ends");
            ended.expect("an epoll that works");
        }
        let _ = fs::remove_file(&self.path);
    }
}

struct Loop {
    listener: UnixListener,
    epoll: std::os::fd::OwnedFd,
    connections: Slab<Connection>,
    bytes: Vec<u8>,
}

struct Connection {
    stream: UnixStream,
    greeting_due: bool,
}

impl Loop {
    fn new(listener: UnixListener) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, data, epoll::EventFlags::IN)?;
        Ok(Self {
            listener,
            epoll,
            connections: Slab::new(),
            bytes: vec![0; 64 << 10],
        })
    }

    fn run(mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(64);
        while !stop.load(Ordering::Acquire) {
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&TURN_MAX))?;
            for event in events.drain(..) {
                let data = event.data;
                match data.u64() {
                    LISTENER => self.accept()?,
                    key => self.answer(usize::try_from(key).expect("a slab's key")),
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let entry = self.connections.vacant_entry();
            let data = epoll::EventData::new_u64(entry.key() as u64);
            epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)?;
            entry.insert(Connection {
                stream,
                greeting_due: true,
            });
        }
    }

    /// Takes what there is and sends it back. It waits until all is taken: whoever relays for a
    /// client that reads never makes it wait for good.
    fn answer(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        let Ok(len @ 1..) = connection.stream.read(&mut self.bytes) else {
            // Closing takes it out of the epoll, too.
            self.connections.remove(key);
            return;
        };
        let mut bytes = &self.bytes[..len];
        if std::mem::take(&mut connection.greeting_due) && bytes.starts_with(b"\r\n\r\n\0\r\n") {
            // It comes in one piece, which Ringgate sends it in.
            bytes = &bytes[16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]))..];
        }
        if connection.stream.write_all(bytes).is_err() {
            self.connections.remove(key);
        }
    }
}
