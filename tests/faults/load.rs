//! Clients that do no wrong, while something happens to the server.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustls::AlertDescription;

use crate::gate::{Client, close, echoed};

/// Failures of which the words are kept.
const SHOWN_MAX: usize = 8;

/// Clients that connect one time after the other, and clients that stay.
#[derive(Clone, Copy)]
pub struct Load {
    pub coming: usize,
    pub staying: usize,
}

/// What became of all clients.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections that began and ended as they should.
    pub served: usize,
    /// Nobody listened any more: the connect itself was refused.
    pub refused: usize,
    pub failed: usize,
    /// What the first of those that failed met.
    pub failures: Vec<String>,
}

impl Tally {
    fn count(&mut self, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => self.served += 1,
            Err(error) => {
                self.failed += 1;
                self.failures.push(error.to_string());
                self.failures.truncate(SHOWN_MAX);
            }
        }
    }

    fn join(mut self, other: Self) -> Self {
        self.served += other.served;
        self.refused += other.refused;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.failures.truncate(SHOWN_MAX);
        self
    }

    /// Asserts that clients came, and that every one of them was served.
    #[track_caller]
    pub fn assert_all_served(&self) {
        assert!(
            self.served > 0 && self.refused == 0 && self.failed == 0,
            "{self:?}"
        );
    }
}

/// Sets the flag when dropped, so that nobody is waited for who waits for it.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Load {
    pub const LIGHT: Self = Self {
        coming: 2,
        staying: 1,
    };

    /// Goes on while `work` does: what became of the clients, and what `work` says.
    #[track_caller]
    pub fn during<T>(self, client: &Client, work: impl FnOnce() -> T) -> (Tally, T) {
        let is_done = &AtomicBool::new(false);
        // Those who stay are there before anything happens.
        let staying: Vec<_> = (0..self.staying)
            .map(|_| client.connect().unwrap())
            .collect();
        thread::scope(|scope| {
            let staying = staying.into_iter().map(|mut stream| {
                scope.spawn(move || {
                    let mut tally = Tally::default();
                    let mut outcome = Ok(());
                    while outcome.is_ok() && !is_done.load(Ordering::Relaxed) {
                        outcome = echoed(&mut stream);
                    }
                    tally.count(outcome.and_then(|()| close(&mut stream)));
                    tally
                })
            });
            let coming = (0..self.coming).map(|_| {
                let client = client.clone();
                scope.spawn(move || come_and_go(&client, is_done))
            });
            let clients: Vec<_> = staying.chain(coming).collect();
            let raise = Raise(is_done);
            let said = work();
            drop(raise);
            let tallies = clients.into_iter().map(|client| client.join().unwrap());
            (tallies.fold(Tally::default(), Tally::join), said)
        })
    }
}

/// Comes and goes until it is done or nobody listens any more.
fn come_and_go(client: &Client, is_done: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    while !is_done.load(Ordering::Relaxed) {
        match client.dial() {
            Ok(mut stream) => tally.count(echoed(&mut stream).and_then(|()| close(&mut stream))),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                tally.refused += 1;
                break;
            }
            Err(error) => tally.count(Err(error)),
        }
    }
    tally
}

/// The alert that ended a connection, if it was one.
pub fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}
