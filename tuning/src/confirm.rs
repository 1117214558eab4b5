//! Waiting until a new session says that it works.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};

const SOCKET: &str = "confirm";
const KEPT: &[u8] = b"kept\n";

/// Longer than this nobody waits for an answer that is one write away.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Who waits to be confirmed. A session that ends (SIGHUP) does not end it.
#[derive(Debug)]
pub struct Waiter {
    signals: UnixStream,
}

/// Who can be confirmed now.
#[derive(Debug)]
pub struct Waiting<'a> {
    signals: &'a UnixStream,
    socket: Socket,
}

/// How the wait ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    Confirmed,
    TooLate,
    /// SIGINT or SIGTERM.
    Interrupted,
}

impl Waiter {
    /// Gets ready, for the whole process: from here on SIGHUP does nothing, and SIGINT and SIGTERM
    /// wait for [`Waiting::wait`].
    ///
    /// # Errors
    ///
    /// The kernel lets no signals be caught, or has no descriptor left.
    pub fn new() -> io::Result<Self> {
        flag::register(SIGHUP, Arc::new(AtomicBool::new(false)))?;
        let (signals, write) = UnixStream::pair()?;
        pipe::register(SIGINT, write.try_clone()?)?;
        pipe::register(SIGTERM, write)?;
        Ok(Self { signals })
    }

    /// Lets `ringgate-tune confirm` come. `folder` is the state directory, which is locked.
    ///
    /// # Errors
    ///
    /// No socket can be made there.
    pub fn listen(&self, folder: &Path) -> io::Result<Waiting<'_>> {
        Ok(Waiting {
            signals: &self.signals,
            socket: Socket::bind(folder)?,
        })
    }
}

impl Waiting<'_> {
    /// Waits for whatever comes first.
    ///
    /// # Errors
    ///
    /// The kernel does not let us wait.
    pub fn wait(self, within: Duration) -> io::Result<Answer> {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut polled = [
                PollFd::new(self.signals, PollFlags::IN),
                PollFd::new(&self.socket.listener, PollFlags::IN),
            ];
            match poll(&mut polled, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(0) if left.is_zero() => return Ok(Answer::TooLate),
                Ok(_) => {}
            }
            if !polled[0].revents().is_empty() {
                return Ok(Answer::Interrupted);
            }
            if polled[1].revents().is_empty() {
                continue;
            }
            // Whoever asks and does not stay for the answer has not confirmed.
            if let Ok((mut stream, _)) = self.socket.listener.accept()
                && stream.write_all(KEPT).is_ok()
            {
                return Ok(Answer::Confirmed);
            }
        }
    }
}

/// Where `confirm` knocks; gone when dropped.
#[derive(Debug)]
struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    fn bind(folder: &Path) -> io::Result<Self> {
        let path = folder.join(SOCKET);
        // Of a waiter that was killed; the directory is locked, so nobody waits there.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = at(folder, |socket| UnixListener::bind(socket))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Tells the `apply` that waits in `folder` to keep what it did.
///
/// # Errors
///
/// Nobody waits there, or not any more.
pub fn confirm(folder: &Path) -> Result<(), String> {
    let nobody = |error: io::Error| {
        format!(
            "nothing waits to be confirmed in {} ({error}); `ringgate-tune verify` tells what \
             holds",
            folder.display()
        )
    };
    let mut stream = at(folder, |socket| UnixStream::connect(socket)).map_err(nobody)?;
    stream
        .set_read_timeout(Some(ANSWER_WITHIN))
        .map_err(nobody)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(nobody)?;
    match answer == KEPT {
        true => Ok(()),
        false => Err(nobody(ErrorKind::UnexpectedEof.into())),
    }
}

/// The socket by way of its open folder: an address of a socket has room for 107 bytes only.
fn at<T>(folder: &Path, make: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let folder = File::open(folder)?;
    let number = folder.as_fd().as_raw_fd();
    make(
        &Path::new("/proc/self/fd")
            .join(number.to_string())
            .join(SOCKET),
    )
}
