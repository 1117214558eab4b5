//! A connection to the admin interface, in the form that hyper reads and writes.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use glommio::GlommioError;
use glommio::io::{PollState, PollableFd};
use hyper::rt::{Read as HyperRead, ReadBufCursor, Write as HyperWrite};

/// Bytes read at a time; requests are small.
const READ_LEN: usize = 4096;

/// A socket of either family.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&mut &*stream).read(buffer),
            Self::Unix(stream) => (&mut &*stream).read(buffer),
        }
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&mut &*stream).write(bytes),
            Self::Unix(stream) => (&mut &*stream).write(bytes),
        }
    }

    fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

/// A connection that others can still write to when hyper has given it up.
pub(super) struct Stream {
    socket: Rc<PollableFd<Socket>>,
    reading: PollState,
    writing: PollState,
    /// Whether anything was written.
    answered: Rc<Cell<bool>>,
}

impl Stream {
    /// `socket` does not block.
    pub(super) fn new(socket: Rc<PollableFd<Socket>>, answered: Rc<Cell<bool>>) -> Self {
        Self {
            socket,
            reading: PollState::new(),
            writing: PollState::new(),
            answered,
        }
    }
}

impl HyperRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut bytes = [0; READ_LEN];
        let len = buffer.remaining().min(READ_LEN);
        loop {
            match this.socket.get_ref().read(&mut bytes[..len]) {
                Ok(count) => {
                    buffer.put_slice(&bytes[..count]);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let poll = this.socket.poll_readable(context, &mut this.reading);
                    ready!(poll).map_err(into_io)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl HyperWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            match this.socket.get_ref().write(bytes) {
                Ok(count) => {
                    this.answered.set(true);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let poll = this.socket.poll_writable(context, &mut this.writing);
                    ready!(poll).map_err(into_io)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.get_ref().shutdown())
    }
}

pub(super) fn into_io(error: GlommioError<()>) -> io::Error {
    io::Error::other(error.to_string())
}
