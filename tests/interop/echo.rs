//! An upstream that sends back what it gets, and remembers who came.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use aws_lc_rs::digest;

use crate::program::PATIENCE;
use crate::proxy_v2::Header;

/// A connection that came.
#[derive(Clone, Debug, Default)]
pub struct Visit {
    /// What the greeting said; `None` for an upstream that expects none.
    pub header: Option<Header>,
    /// How many bytes followed the greeting, and their SHA-256.
    pub len: usize,
    pub sha256: Vec<u8>,
    /// How it ended; `None` while it is open.
    pub end: Option<Result<(), String>>,
}

/// The upstream; ends with its last connection when dropped.
pub struct Echo {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    visits: Vec<Visit>,
    stopping: bool,
}

impl Echo {
    /// One that wants a PROXY v2 header first.
    pub fn with_greeting(address: SocketAddr) -> Self {
        Self::start(address, true)
    }

    pub fn plain(address: SocketAddr) -> Self {
        Self::start(address, false)
    }

    fn start(address: SocketAddr, greeted: bool) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let shared = Arc::new(Shared::default());
        Self {
            address: listener.local_addr().unwrap(),
            acceptor: Some(thread::spawn({
                let shared = Arc::clone(&shared);
                move || accept(&listener, &shared, greeted)
            })),
            shared,
        }
    }

    /// The connections that came, in the order of their coming, once `count` have ended; fails when
    /// there are more.
    #[track_caller]
    pub fn ended(&self, count: usize) -> Vec<Visit> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.state.lock().unwrap();
        while state
            .visits
            .iter()
            .filter(|visit| visit.end.is_some())
            .count()
            < count
        {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{count} visits did not end: {:#?}",
                state.visits
            );
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
        assert_eq!(state.visits.len(), count, "{:#?}", state.visits);
        state.visits.clone()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap().stopping = true;
        // Wakes the acceptor, which then sees that it should stop.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, greeted: bool) {
    for stream in listener.incoming() {
        let mut state = shared.state.lock().unwrap();
        if state.stopping {
            return;
        }
        let index = state.visits.len();
        state.visits.push(Visit::default());
        drop(state);
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let serve = || stream.and_then(|stream| shared.serve(index, stream, greeted));
            // The reader of headers panics at what is none.
            let end = match catch_unwind(AssertUnwindSafe(serve)) {
                Ok(end) => end.map_err(|error| error.to_string()),
                Err(_) => Err("panicked".to_owned()),
            };
            shared.change(index, |visit| visit.end = Some(end));
        });
    }
}

impl Shared {
    fn change(&self, index: usize, change: impl FnOnce(&mut Visit)) {
        change(&mut self.state.lock().unwrap().visits[index]);
        self.changed.notify_all();
    }

    fn serve(&self, index: usize, mut stream: TcpStream, greeted: bool) -> io::Result<()> {
        if greeted {
            let header = Header::read(&mut stream)?;
            self.change(index, |visit| visit.header = Some(header));
        }
        let mut context = digest::Context::new(&digest::SHA256);
        let (mut buffer, mut total) = (vec![0; 64 * 1024], 0);
        loop {
            let len = stream.read(&mut buffer)?;
            if len == 0 {
                let sha256 = context.finish().as_ref().to_vec();
                self.change(index, |visit| (visit.len, visit.sha256) = (total, sha256));
                return Ok(());
            }
            context.update(&buffer[..len]);
            total += len;
            stream.write_all(&buffer[..len])?;
        }
    }
}
