//! Where the admin interface listens.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use socket2::{Domain, SockAddr, Type};

use super::stream::Socket;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Why the admin interface cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(
        "the admin interface cannot listen on {address}: {source}; free it, or correct [admin]"
    )]
    Address {
        address: SocketAddr,
        source: io::Error,
    },
    #[error(
        "the admin socket {path} is another process's, which answers: stop that, start with \
         --takeover, or give [admin] another socket"
    )]
    Taken { path: PathBuf },
    #[error("the admin socket {path}: {step}: {source}; {remedy}")]
    Socket {
        path: PathBuf,
        step: &'static str,
        remedy: &'static str,
        source: io::Error,
    },
}

/// A listening socket of either family.
#[derive(Debug)]
pub(super) enum Listening {
    Tcp(Rc<TcpListener>),
    Unix(UnixListener),
}

impl Listening {
    /// The next connection, which does not block, if one waits.
    pub(super) fn accept(&self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nonblocking(true)?;
                Socket::Tcp(stream)
            }
            Self::Unix(listener) => {
                let stream = listener.accept()?.0;
                stream.set_nonblocking(true)?;
                Socket::Unix(stream)
            }
        })
    }
}

impl AsRawFd for Listening {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(listener) => listener.as_raw_fd(),
            Self::Unix(listener) => listener.as_raw_fd(),
        }
    }
}

/// Listens at `address`.
pub(super) fn tcp(address: SocketAddr) -> Result<TcpListener, AdminError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|source| AdminError::Address { address, source })
}

/// A Unix socket that listens under a name of its own until it is published.
#[derive(Debug)]
pub(super) struct Unpublished {
    listener: UnixListener,
    path: PathBuf,
    own: PathBuf,
}

/// A Unix socket under its name, which goes with it.
#[derive(Debug)]
pub(super) struct Published {
    path: PathBuf,
    inode: u64,
}

/// Listens for `path`, which only this user may connect to. Unless `takes_over`, nobody may be
/// answering there.
pub(super) fn unix(path: &Path, takes_over: bool) -> Result<Unpublished, AdminError> {
    let error = |step, remedy| {
        move |source| AdminError::Socket {
            path: path.to_owned(),
            step,
            remedy,
            source,
        }
    };
    match fs::symlink_metadata(path) {
        Ok(metadata) if !is_socket(&metadata) => {
            let source = io::Error::from(ErrorKind::AlreadyExists);
            return Err(error("it is no socket", "remove the file, or name another")(source));
        }
        Ok(_) if !takes_over && UnixStream::connect(path).is_ok() => {
            return Err(AdminError::Taken {
                path: path.to_owned(),
            });
        }
        // A socket that nobody listens at is a dead process's.
        Ok(_) | Err(_) => {}
    }
    let mut own = path.as_os_str().to_owned();
    own.push(format!(".{}", std::process::id()));
    let own = PathBuf::from(own);
    // Of an earlier process of this number.
    let _ = fs::remove_file(&own);
    let bind = || {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(&own)?)?;
        // Nobody can connect before it listens.
        fs::set_permissions(&own, Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket = bind().map_err(error(
        "binding it",
        "its directory must exist and be writable (RuntimeDirectory= in the unit)",
    ))?;
    Ok(Unpublished {
        listener: socket.into(),
        path: path.to_owned(),
        own,
    })
}

fn is_socket(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    metadata.file_type().is_socket()
}

impl Unpublished {
    /// Takes the place of whatever had the name before.
    pub(super) fn publish(self) -> Result<(UnixListener, Published), AdminError> {
        let publish = || {
            fs::rename(&self.own, &self.path)?;
            fs::symlink_metadata(&self.path).map(|metadata| metadata.ino())
        };
        let inode = publish().map_err(|source| AdminError::Socket {
            path: self.path.clone(),
            step: "giving it its name",
            remedy: "its directory must be writable",
            source,
        })?;
        let published = Published {
            path: self.path.clone(),
            inode,
        };
        let listener = self.listener.try_clone();
        let listener = listener.map_err(|source| AdminError::Socket {
            path: self.path.clone(),
            step: "listening",
            remedy: "raise the limit of open files (ulimit -n)",
            source,
        })?;
        Ok((listener, published))
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        // Gone already where it was published.
        let _ = fs::remove_file(&self.own);
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        // A process that took over has put its own in this place.
        let is_ours = |metadata: &fs::Metadata| metadata.ino() == self.inode;
        if fs::symlink_metadata(&self.path).as_ref().is_ok_and(is_ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
