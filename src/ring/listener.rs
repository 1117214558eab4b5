//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Socket, Type};

/// Connections that the kernel queues before they are accepted; it caps this at
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A TCP socket that listens, one of several on the same address (SO_REUSEPORT).
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    address: SocketAddr,
}

impl Listener {
    /// Binds and listens. `address` with port 0 gets a free port, see [`Listener::address`].
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit it.
        socket.set_tcp_nodelay(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let bound = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Self {
            fd: socket.into(),
            address: bound,
        })
    }

    /// Whether anybody listens on `address` already. Sockets with SO_REUSEPORT of the same user
    /// share an address silently, so a start-up that must own it asks here first.
    pub fn is_in_use(address: SocketAddr) -> io::Result<bool> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        match socket.bind(&address.into()).and_then(|()| socket.listen(1)) {
            Ok(()) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The address that it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it listens on every local address, so that only the accepted socket knows its own.
    pub fn is_wildcard(&self) -> bool {
        self.address.ip().is_unspecified()
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}
