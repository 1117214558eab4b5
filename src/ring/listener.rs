//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::steering::{self, Steering};

/// Connections that the kernel queues before they are accepted; it caps this at
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A TCP socket that listens, one of several on the same address (SO_REUSEPORT).
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    address: SocketAddr,
    /// Another process may have it as well, so that it outlives this one.
    is_shared: bool,
    /// Its place among the sockets at its address, in the order in which those began to listen.
    number: u32,
}

/// Why a socket that was there before is no [`Listener`].
#[derive(Debug, thiserror::Error)]
pub enum UnfitSocket {
    #[error(
        "it takes IPv4 connections as well as IPv6 ones, which a listener of Ringgate does not: \
         BindIPv6Only=ipv6-only in the socket unit, and a ListenStream= for IPv4"
    )]
    BothFamilies,
    #[error("it is no TCP socket: ListenStream= with an IP address and a port in the socket unit")]
    NotTcp,
    #[error("it does not listen: ListenStream= and Accept=no in the socket unit")]
    NotListening,
    #[error("what it is cannot be found out: {0}; pass a socket that listens")]
    Unknown(#[from] io::Error),
}

impl Listener {
    /// A socket that listens already, with the connections that wait at it. `is_shared` where another
    /// process keeps it, and may go on with it when this one has ended; `number` is its place among the
    /// sockets at its address.
    ///
    /// # Errors
    ///
    /// When it is not what [`Listener::bind`] would have made, as far as that matters.
    pub fn adopt(fd: OwnedFd, is_shared: bool, number: u32) -> Result<Self, UnfitSocket> {
        let socket = Socket::from(fd);
        let is_tcp = match socket.domain() {
            Ok(domain) if domain == Domain::IPV4 || domain == Domain::IPV6 => {
                socket.r#type()? == Type::STREAM && socket.protocol()? == Some(Protocol::TCP)
            }
            // It may be no socket at all.
            _ => false,
        };
        let Some(address) = socket.local_addr().ok().and_then(|it| it.as_socket()) else {
            return Err(UnfitSocket::NotTcp);
        };
        if !is_tcp {
            return Err(UnfitSocket::NotTcp);
        }
        if !socket.is_listener()? {
            return Err(UnfitSocket::NotListening);
        }
        if address.is_ipv6() && address.ip().is_unspecified() && !socket.only_v6()? {
            return Err(UnfitSocket::BothFamilies);
        }
        // The ring waits where a socket does not fail at once.
        socket.set_nonblocking(false)?;
        socket.set_cloexec(true)?;
        socket.set_tcp_nodelay(true)?;
        Ok(Self {
            fd: socket.into(),
            address,
            is_shared,
            number,
        })
    }

    /// One more socket at the same address, which gets no connections before it listens. Then the
    /// kernel spreads them over all.
    ///
    /// # Errors
    ///
    /// Unless this one has SO_REUSEPORT and was made by the same user.
    pub fn bind_beside(&self, number: u32) -> io::Result<Self> {
        Ok(Self {
            number,
            ..Self::bound(self.address)?
        })
    }

    /// Listens, where it was only bound.
    pub fn listen(&self) -> io::Result<()> {
        rustix::net::listen(&self.fd, BACKLOG)?;
        Ok(())
    }

    /// The same socket once more: whoever accepts first gets the connection.
    pub fn duplicate(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            address: self.address,
            is_shared: self.is_shared,
            number: self.number,
        })
    }

    /// Whether others may listen at its address (SO_REUSEPORT).
    pub fn shares_port(&self) -> bool {
        SockRef::from(&self.fd).reuse_port().unwrap_or(false)
    }

    /// Has the kernel choose by `steering` among the sockets at its address from now on.
    ///
    /// # Errors
    ///
    /// Unless it has SO_REUSEPORT.
    pub fn steer(&self, steering: &Steering) -> io::Result<()> {
        steering.attach(&self.fd)
    }

    /// Has the kernel choose by a hash again, where it chose by a [`Steering`].
    pub fn unsteer(&self) -> io::Result<()> {
        steering::detach(&self.fd)
    }

    /// Binds and listens. `address` with port 0 gets a free port, see [`Listener::address`].
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Self::bound(address)?;
        socket.listen()?;
        Ok(socket)
    }

    /// So many sockets at one address, which nobody else has. The kernel chooses among them by
    /// `steering`, without it by a hash of addresses and ports.
    pub fn bind_group(
        address: SocketAddr,
        sockets: usize,
        steering: Option<&Steering>,
    ) -> io::Result<Vec<Self>> {
        let mut group: Vec<Self> = Vec::with_capacity(sockets);
        for number in 0..u32::try_from(sockets).unwrap_or(u32::MAX) {
            // Port 0 was asked for: the others share what the first one got.
            let address = group.first().map_or(address, Self::address);
            let socket = Self::bound(address)?;
            // Before it listens, so that no connection goes elsewhere. A group has one program: one
            // more socket that brings its own would not be let in.
            if let (Some(steering), 0) = (steering, number) {
                steering.attach(&socket.fd)?;
            }
            socket.listen()?;
            group.push(Self { number, ..socket });
        }
        Ok(group)
    }

    fn bound(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit it.
        socket.set_tcp_nodelay(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        let bound = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Self {
            fd: socket.into(),
            address: bound,
            is_shared: false,
            number: 0,
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

    /// Whether a connection waits at it now.
    pub fn has_waiting(&self) -> bool {
        let mut socket = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut socket, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Whether another process keeps it.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Its place among the sockets at its address, by which [`Steering`] names it.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Takes this place, which is its own where some sockets are known no more.
    pub fn renumber(&mut self, number: u32) {
        self.number = number;
    }

    /// What it is to the kernel.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Takes every connection that waits, and tells how many there were.
    #[cfg(test)]
    pub(super) fn accept_all(&self) -> usize {
        let listener = std::net::TcpListener::from(self.fd.try_clone().unwrap());
        listener.set_nonblocking(true).unwrap();
        std::iter::from_fn(|| listener.accept().ok()).count()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_socket_beside_another_gets_nobody_before_it_listens() {
        const CONNECTIONS: usize = 64;
        let first = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let beside = first.bind_beside(1).unwrap();
        let connect = || -> Vec<TcpStream> {
            let streams = (0..CONNECTIONS).map(|_| TcpStream::connect(first.address()).unwrap());
            streams.collect()
        };
        let streams = connect();
        assert_eq!(first.accept_all(), streams.len());
        beside.listen().unwrap();
        let streams = connect();
        let counts = [&first, &beside].map(Listener::accept_all);
        assert_eq!(counts.iter().sum::<usize>(), streams.len());
        assert!(counts[1] > 0, "of {CONNECTIONS} by a hash: {counts:?}");
    }
}
