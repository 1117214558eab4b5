//! Signals as bytes in sockets: a handler may do little more than write one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use glommio::io::PollableFd;
use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::{pipe, unregister};

/// Signals that may wait before further ones are dropped.
const WAITING_MAX: usize = 16;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Signal {
    /// SIGTERM or SIGINT.
    End,
    /// SIGHUP.
    Reload,
}

/// Where signals come in.
#[derive(Debug)]
pub(super) struct Signals {
    streams: Vec<(Signal, UnixStream)>,
    registered: Vec<SigId>,
}

impl Signals {
    /// Takes SIGTERM, SIGINT and SIGHUP over for the whole process until dropped.
    pub(super) fn register() -> io::Result<Self> {
        let mut signals = Self {
            streams: Vec::new(),
            registered: Vec::new(),
        };
        for (number, signal) in [
            (SIGTERM, Signal::End),
            (SIGINT, Signal::End),
            (SIGHUP, Signal::Reload),
        ] {
            let (read, write) = UnixStream::pair()?;
            signals.registered.push(pipe::register(number, write)?);
            signals.add(signal, read)?;
        }
        Ok(signals)
    }

    fn add(&mut self, signal: Signal, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        self.streams.push((signal, stream));
        Ok(())
    }

    /// Starts to collect on the current executor.
    pub(super) fn collect(&mut self) -> Result<Collected, glommio::GlommioError<()>> {
        let collected = Collected::default();
        for (signal, stream) in self.streams.drain(..) {
            let stream = PollableFd::new(stream)?;
            let waiting = Rc::clone(&collected.waiting);
            glommio::spawn_local(async move {
                while stream.readable().await.is_ok() {
                    let count = match stream.get_ref().read(&mut [0; WAITING_MAX]) {
                        Ok(0) => return,
                        Ok(count) => count,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                        Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                        Err(_) => return,
                    };
                    let mut waiting = waiting.borrow_mut();
                    let room = WAITING_MAX.saturating_sub(waiting.len());
                    waiting.extend(std::iter::repeat_n(signal, count.min(room)));
                }
            })
            .detach();
        }
        Ok(collected)
    }

    /// Signals that `writers` stand for instead of the process's: one byte, one signal.
    #[cfg(test)]
    pub(super) fn stand_in() -> (Self, [UnixStream; 2]) {
        let mut signals = Self {
            streams: Vec::new(),
            registered: Vec::new(),
        };
        let writers = [Signal::End, Signal::Reload].map(|signal| {
            let (read, write) = UnixStream::pair().unwrap();
            signals.add(signal, read).unwrap();
            write
        });
        (signals, writers)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            unregister(id);
        }
    }
}

/// Signals that came in.
#[derive(Debug, Default)]
pub(super) struct Collected {
    waiting: Rc<RefCell<VecDeque<Signal>>>,
}

impl Collected {
    pub(super) fn next(&self) -> Option<Signal> {
        self.waiting.borrow_mut().pop_front()
    }
}

#[cfg(test)]
mod tests {
    use glommio::LocalExecutorBuilder;
    use signal_hook::low_level::raise;

    use super::*;

    // The only test that takes signals over: they are the whole process's.
    #[test]
    fn signals_arrive_in_the_executor() {
        let mut signals = Signals::register().unwrap();
        let executor = LocalExecutorBuilder::default()
            .ring_depth(16)
            .make()
            .unwrap();
        let mut arrived = executor.run(async {
            let collected = signals.collect().unwrap();
            for number in [SIGHUP, SIGTERM, SIGINT] {
                raise(number).unwrap();
            }
            let mut arrived = Vec::new();
            while arrived.len() < 3 {
                glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
                arrived.extend(collected.next());
            }
            arrived
        });
        arrived.sort_by_key(|signal| *signal == Signal::Reload);
        assert_eq!(arrived, [Signal::End, Signal::End, Signal::Reload]);
    }
}
