//! Where the admin interface listens.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use socket2::{Domain, SockAddr, Type};

use super::stream::Socket;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// How long one may wait until it may wait.
const CONNECT_MAX: Duration = Duration::from_secs(5);

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
        remedy: String,
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
    is_published: bool,
}

/// A Unix socket under its name, which goes with it. A socket that had the name before gets it back,
/// unless this one is [`settled`](Published::settle).
#[derive(Debug)]
pub(super) struct Published {
    path: PathBuf,
    inode: u64,
    /// Where the one before is meanwhile.
    before: Option<PathBuf>,
}

/// Listens for `path`, which only this user may connect to. Unless `takes_over`, nobody may be
/// answering there.
pub(super) fn unix(path: &Path, takes_over: bool) -> Result<Unpublished, AdminError> {
    let error = |step, source: io::Error, remedy: &str| AdminError::Socket {
        path: path.to_owned(),
        step,
        remedy: remedy.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(metadata) if !is_socket(&metadata) => {
            let source = io::Error::from(ErrorKind::AlreadyExists);
            let remedy = "remove the file, or name another";
            return Err(error("it is no socket", source, remedy));
        }
        Ok(_) if !takes_over && is_answered(path) => {
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
    let socket = bind().map_err(|source: io::Error| {
        let remedy = directory_remedy(path, source.kind());
        error("binding it", source, &remedy)
    })?;
    Ok(Unpublished {
        listener: socket.into(),
        path: path.to_owned(),
        own,
        is_published: false,
    })
}

/// Whether somebody listens at `path`, be it that it answers nobody.
fn is_answered(path: &Path) -> bool {
    match connect(path) {
        Ok(_) => true,
        Err(error) => is_late(&error),
    }
}

/// Connects to a process's admin socket. Where so many wait there already that this one cannot, it
/// fails after a while.
pub(in crate::control) fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // It holds for connecting, too.
    socket.set_write_timeout(Some(CONNECT_MAX))?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_write_timeout(None)?;
    Ok(UnixStream::from(OwnedFd::from(socket)))
}

/// Whether something was given up because it took too long.
pub(in crate::control) fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// What to do where nothing can be made beside `path`. By then root has given up the right to write
/// where others may, and is refused like anybody.
fn directory_remedy(path: &Path, kind: ErrorKind) -> String {
    let own = rustix::process::geteuid().as_raw();
    let owner = path
        .parent()
        .and_then(|directory| fs::metadata(directory).ok());
    match owner.map(|owner| owner.uid()) {
        Some(owner) if kind == ErrorKind::PermissionDenied && owner != own => format!(
            "its directory belongs to {} and this process is {}: start it as that user, set \
             [process] user and group to it, or name a socket elsewhere",
            user(owner),
            user(own)
        ),
        _ => "its directory must exist and be writable (RuntimeDirectory= in the unit)".to_owned(),
    }
}

/// A user for people, by name where it has one.
fn user(id: u32) -> String {
    let number = id.to_string();
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut lines = users.lines().map(|line| line.split(':'));
    let name = lines.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)? == number).then_some(name)
    });
    name.map_or_else(
        || format!("user {number}"),
        |name| format!("{name} ({number})"),
    )
}

fn is_socket(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    metadata.file_type().is_socket()
}

impl Unpublished {
    /// Takes the place of whatever had the name before.
    pub(super) fn publish(mut self) -> Result<(UnixListener, Published), AdminError> {
        // Before the name is taken from whoever has it: what can fail fails here.
        let listener = self.listener.try_clone();
        let listener = listener.map_err(|source| AdminError::Socket {
            path: self.path.clone(),
            step: "listening",
            remedy: "raise the limit of open files (ulimit -n)".to_owned(),
            source,
        })?;
        let publish = || {
            let inode = fs::symlink_metadata(&self.own)?.ino();
            let before = match exchange(&self.own, &self.path) {
                Ok(()) => Some(self.own.clone()),
                // Nothing has the name, or the file system exchanges none.
                Err(_) => {
                    fs::rename(&self.own, &self.path)?;
                    None
                }
            };
            Ok((inode, before))
        };
        let (inode, before) = publish().map_err(|source| AdminError::Socket {
            path: self.path.clone(),
            step: "giving it its name",
            remedy: "its directory must be writable".to_owned(),
            source,
        })?;
        let published = Published {
            path: self.path.clone(),
            inode,
            before,
        };
        self.is_published = true;
        Ok((listener, published))
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        // Where it was published, this is the one before, or nothing.
        if !self.is_published {
            let _ = fs::remove_file(&self.own);
        }
    }
}

impl Published {
    /// This process serves: the socket before it is a predecessor's that drains, or a dead process's.
    pub(super) fn settle(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = fs::remove_file(before);
        }
    }
}

/// Has two files change their names.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?;
    Ok(())
}

impl Drop for Published {
    fn drop(&mut self) {
        // A process that took over has put its own in this place.
        let is_ours = |metadata: &fs::Metadata| metadata.ino() == self.inode;
        if fs::symlink_metadata(&self.path).as_ref().is_ok_and(is_ours) {
            let _ = match &self.before {
                Some(before) => fs::rename(before, &self.path),
                None => fs::remove_file(&self.path),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_somebody_else_is_named_with_its_owner() {
        let own = rustix::process::geteuid().as_raw();
        let scratch = std::env::temp_dir().join(format!("ringgate-socket-{}", std::process::id()));
        fs::create_dir(&scratch).unwrap();
        // Root can give a directory away; to others the root directory is somebody else's.
        let (path, owner) = match std::os::unix::fs::chown(&scratch, Some(65_534), None) {
            Ok(()) => (scratch.join("admin.sock"), 65_534),
            Err(_) => (PathBuf::from("/admin.sock"), 0),
        };
        let denied = directory_remedy(&path, ErrorKind::PermissionDenied);
        let missing = directory_remedy(&path, ErrorKind::NotFound);
        fs::remove_dir(&scratch).unwrap();
        assert!(denied.contains(&format!("({owner})")), "{denied}");
        assert!(denied.contains(&format!("({own})")), "{denied}");
        assert!(denied.contains("[process] user"), "{denied}");
        assert!(missing.contains("must exist"), "{missing}");
    }

    #[test]
    fn who_had_the_name_has_it_again_unless_the_next_one_settles() {
        let scratch = std::env::temp_dir().join(format!("ringgate-names-{}", std::process::id()));
        fs::create_dir(&scratch).unwrap();
        let path = scratch.join("admin.sock");
        let inode = || fs::symlink_metadata(&path).unwrap().ino();
        let names = || fs::read_dir(&scratch).unwrap().count();
        let (_listener, mut first) = unix(&path, false).unwrap().publish().unwrap();
        first.settle();
        let before = inode();
        for settles in [false, true] {
            let (_listener, mut next) = unix(&path, true).unwrap().publish().unwrap();
            assert_ne!(inode(), before);
            if settles {
                next.settle();
                assert_eq!(names(), 1);
            }
            drop(next);
            assert_eq!(names(), usize::from(!settles));
            if !settles {
                assert_eq!(inode(), before);
            }
        }
        fs::remove_dir_all(&scratch).unwrap();
    }
}
