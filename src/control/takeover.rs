//! Handing the listening sockets of a running process to the one that comes after it, so that not
//! one connection that waits at them is lost.
//!
//! The successor connects to the admin socket of the process and says so instead of an HTTP request.
//! It is given every socket, starts to accept from them, and says when it does; only then does the
//! predecessor drain. Whatever ends the exchange before that, the predecessor serves on, and the
//! sockets of the one that failed go with it. It may take as long as it takes: the exchange ends with
//! one of the two.
//!
//! | who | what |
//! |---|---|
//! | successor | [`GREETING`], whose number both must have |
//! | predecessor | `SOCKETS n` and a line feed, or `REFUSED why` |
//! | predecessor | for each socket: a byte, 1 where a third process keeps it; its place among those at its address, 4 bytes, the highest first; a byte of length, so many of its listener's name; SCM_RIGHTS |
//! | successor | [`STARTED`] |
//! | predecessor | [`DRAINING`] |

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, sockopt::socket_peercred,
};
use rustix::process::Pid;

use super::admin::{connect, is_late};
use super::loader::Source;
use super::report::escaped;
use crate::limits::INHERITED_SOCKETS_MAX;

/// What a successor begins with; the number changes with the exchange.
pub(super) const GREETING: &str = "TAKEOVER ringgate 2\n";

/// The successor accepts connections.
pub(super) const STARTED: &[u8] = b"STARTED\n";

/// The predecessor accepts no more.
pub(super) const DRAINING: &[u8] = b"DRAINING\n";

/// How long the predecessor may take for its part before the successor gives up, or tells that both
/// serve.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often that is told again.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// Bytes of a line.
const LINE_MAX: usize = 512;

/// Why nothing was taken over. Whoever ran before goes on.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    #[error("taking over at {path}: {source}; {}", remedy(.source))]
    Broken { path: PathBuf, source: io::Error },
    #[error("--takeover needs [admin] socket, by which the process that runs now is found")]
    NoSocket,
    #[error("taking over at {path}: the process there refuses: {why}")]
    Refused { path: PathBuf, why: String },
}

/// A listening socket on its way from one process to another.
#[derive(Debug)]
pub struct Passed {
    pub socket: OwnedFd,
    /// The listener that it served.
    pub listener: String,
    /// Whether yet another process keeps it, such as a service manager.
    pub is_shared: bool,
    /// Its place among the sockets at its address.
    pub number: u32,
}

/// A predecessor that has given its sockets and serves on until it is told.
#[derive(Debug)]
struct Predecessor {
    stream: UnixStream,
    path: PathBuf,
    /// `None` where the kernel does not tell.
    id: Option<Pid>,
}

impl Predecessor {
    /// Asks the process that answers at `path` for its listening sockets. `None` where nobody does.
    ///
    /// # Errors
    ///
    /// When it refuses or fails; it serves on then.
    fn ask(path: &Path) -> Result<Option<(Self, Vec<Passed>)>, TakeoverError> {
        let broken = |source| TakeoverError::Broken {
            path: path.to_owned(),
            source,
        };
        let stream = match connect(path) {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(broken(error)),
        };
        let mut predecessor = Self {
            id: socket_peercred(&stream).ok().map(|peer| peer.pid),
            stream,
            path: path.to_owned(),
        };
        match predecessor.receive() {
            Ok(Ok(passed)) => Ok(Some((predecessor, passed))),
            Ok(Err(why)) => Err(TakeoverError::Refused {
                path: predecessor.path,
                why,
            }),
            Err(error) => Err(broken(error)),
        }
    }

    /// The sockets; or why it gives none.
    fn receive(&mut self) -> io::Result<Result<Vec<Passed>, String>> {
        let stream = &mut self.stream;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(GREETING.as_bytes())?;
        let line = read_line(stream)?;
        if let Some(why) = line.strip_prefix("REFUSED ") {
            return Ok(Err(why.to_owned()));
        }
        let count = line.strip_prefix("SOCKETS ");
        let count = count.and_then(|count| count.parse::<usize>().ok());
        let Some(count) = count.filter(|&count| count <= INHERITED_SOCKETS_MAX) else {
            // An earlier version takes it for HTTP.
            return Ok(Err(format!(
                "it does not know how to hand over (it says {line:?}): it is another version"
            )));
        };
        let passed = (0..count).map(|_| receive_socket(stream));
        passed.collect::<io::Result<_>>().map(Ok)
    }

    /// The sockets are being accepted from: it may drain. Returns when it does, or has ended; until then
    /// both serve, which harms no client.
    fn release(mut self) {
        let mut told = self.stream.write_all(STARTED);
        loop {
            let answer = told.and_then(|()| read_line(&mut self.stream));
            match answer {
                Ok(line) if line.as_bytes() == DRAINING.trim_ascii_end() => return,
                Ok(line) => {
                    let path = escaped(&self.path.to_string_lossy());
                    tracing::info!(path, "the process before says: {}", escaped(&line));
                    return;
                }
                Err(error) if is_late(&error) => {}
                Err(_) => {
                    tracing::info!("the process before has ended by itself");
                    return;
                }
            }
            let who = self.id.map_or_else(String::new, |id| format!(" {id}"));
            tracing::error!(
                "the process before{who} was told that this one accepts its connections, and does not \
                 answer: both serve; end it: kill -TERM{who}"
            );
            told = self.stream.set_read_timeout(Some(TOLD_AGAIN));
        }
    }
}

/// What a process takes over from the one before it, if there was one.
#[derive(Debug, Default)]
pub struct Succession {
    predecessor: Option<Predecessor>,
    sockets: Vec<Passed>,
    admin: Option<OwnedFd>,
}

impl Succession {
    /// Asks the process at the admin socket of `source` for all that it has.
    ///
    /// # Errors
    ///
    /// When it refuses or fails, or no admin socket is configured. Whoever ran before serves on.
    pub fn begin(source: &Source) -> Result<Self, TakeoverError> {
        let path = source.loaded.config.admin.socket.as_deref();
        let path = path.ok_or(TakeoverError::NoSocket)?;
        let Some((predecessor, mut passed)) = Predecessor::ask(path)? else {
            tracing::info!(path = %path.display(), "nobody to take over from: starting as ever");
            return Ok(Self::default());
        };
        let admin = passed.pop_if(|last| last.listener.is_empty());
        Ok(Self {
            predecessor: Some(predecessor),
            sockets: passed,
            admin: admin.map(|passed| passed.socket),
        })
    }

    /// The listening sockets; none are left then.
    pub fn sockets(&mut self) -> Vec<Passed> {
        std::mem::take(&mut self.sockets)
    }

    pub(super) fn has_predecessor(&self) -> bool {
        self.predecessor.is_some()
    }

    pub(super) fn take_admin_socket(&mut self) -> Option<OwnedFd> {
        self.admin.take()
    }

    /// Every socket is being accepted from: the predecessor may drain. It is told on a thread of its own,
    /// since it may take its time.
    pub fn complete(self) {
        let Some(predecessor) = self.predecessor else {
            return;
        };
        let thread = std::thread::Builder::new().name("ringgate-release".to_owned());
        if let Err(error) = thread.spawn(move || predecessor.release()) {
            // Its stream is closed, so it serves on.
            tracing::error!(
                %error,
                "the process before cannot be told that this one accepts its connections: both serve; \
                 end it by its process id (ps)"
            );
        }
    }
}

/// What to do about an exchange that broke off.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "start as the user of the process there, or as root",
        _ if is_late(error) => {
            "the process there serves on but does not answer: see its log, or end it and start without \
             --takeover"
        }
        _ => {
            "where the process there has ended, start again; else it serves on, and its log says more"
        }
    }
}

/// A line without its end.
fn read_line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    // Byte by byte: what follows may come with descriptors.
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        if line.len() == LINE_MAX {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "its answer has no end",
            ));
        }
        line.push(byte[0]);
    }
}

fn receive_socket(stream: &mut UnixStream) -> io::Result<Passed> {
    let mut head = [0; 6];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = rustix::net::recvmsg(
        &*stream,
        &mut [IoSliceMut::new(&mut head)],
        &mut control,
        flags,
    )?;
    let mut sockets = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let socket = sockets
        .next()
        .and_then(|mut descriptors| descriptors.next());
    let (6, Some(socket)) = (message.bytes, socket) else {
        let cause = match message.flags.contains(ReturnFlags::CTRUNC) {
            true => "no descriptor is free for a socket: raise LimitNOFILE= or `ulimit -n`",
            false => "it ended before every socket had come",
        };
        return Err(io::Error::new(ErrorKind::UnexpectedEof, cause));
    };
    let [is_shared, number @ .., len] = head;
    let mut name = vec![0; usize::from(len)];
    stream.read_exact(&mut name)?;
    Ok(Passed {
        socket,
        listener: String::from_utf8_lossy(&name).into_owned(),
        is_shared: is_shared == 1,
        number: u32::from_be_bytes(number),
    })
}

/// Sends `passed` over `stream`, which may not be ready; how many bytes were taken is all or none.
pub(super) fn send_socket(stream: BorrowedFd<'_>, passed: &Passed) -> io::Result<()> {
    let name = passed.listener.as_bytes();
    let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
    let name = &name[..usize::from(len)];
    let descriptors = [passed.socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let number = passed.number.to_be_bytes();
    let bytes = [&[u8::from(passed.is_shared)], &number[..], &[len], name].concat();
    let sent = rustix::net::sendmsg(
        stream,
        &[IoSlice::new(&bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    match sent == bytes.len() {
        true => Ok(()),
        false => Err(ErrorKind::WriteZero.into()),
    }
}
