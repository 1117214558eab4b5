//! Socket addresses in the form that the kernel reads and writes.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, SockAddrStorage, socklen_t};

/// Where to connect to.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Target {
    pub(super) fn encode(&self) -> io::Result<SockAddr> {
        match self {
            Self::Tcp(address) => Ok(SockAddr::from(*address)),
            Self::Unix(path) => SockAddr::unix::<&Path>(path),
        }
    }

    pub(super) fn domain(&self) -> Domain {
        match self {
            Self::Tcp(address) => Domain::for_address(*address),
            Self::Unix(_) => Domain::UNIX,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where an accept writes its peer's address. Boxed while the kernel may write to it.
pub(super) struct PeerAddress {
    storage: SockAddrStorage,
    len: socklen_t,
}

impl PeerAddress {
    pub(super) fn new() -> Box<Self> {
        let storage = SockAddrStorage::zeroed();
        Box::new(Self {
            len: storage.size_of(),
            storage,
        })
    }

    /// Pointers for the kernel, valid while the box lives.
    pub(super) fn pointers(&mut self) -> (*mut libc::sockaddr, *mut socklen_t) {
        (
            std::ptr::from_mut(&mut self.storage).cast(),
            &raw mut self.len,
        )
    }

    /// What the kernel wrote; an unspecified address where it was no IP peer.
    pub(super) fn decode(self) -> SocketAddr {
        let len = self.len.min(self.storage.size_of());
        // SAFETY: the storage was zeroed and then written by accept, which fills in a valid
        // sockaddr of at most `len` bytes; `len` is clamped to the storage.
        let address = unsafe { SockAddr::new(self.storage, len) };
        address
            .as_socket()
            .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }
}
