//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

use super::steering::Steering;

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
    /// process keeps it, and may go on with it when this one has ended.
    ///
    /// # Errors
    ///
    /// When it is not what [`Listener::bind`] would have made, as far as that matters.
    pub fn adopt(fd: OwnedFd, is_shared: bool) -> Result<Self, UnfitSocket> {
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
        })
    }

    /// One more socket at the same address, for connections that do not wait yet: the kernel spreads
    /// them over all.
    ///
    /// # Errors
    ///
    /// Unless this one has SO_REUSEPORT and was made by the same user.
    pub fn bind_beside(&self) -> io::Result<Self> {
        Self::listen(self.address, None)
    }

    /// The same socket once more: whoever accepts first gets the connection.
    pub fn duplicate(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            address: self.address,
            is_shared: self.is_shared,
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

    /// Binds and listens. `address` with port 0 gets a free port, see [`Listener::address`].
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Self::listen(address, None)
    }

    /// So many sockets at one address, which nobody else has. The kernel chooses among them by
    /// `steering`, without it by a hash of addresses and ports.
    pub fn bind_group(
        address: SocketAddr,
        sockets: usize,
        steering: Option<&Steering>,
    ) -> io::Result<Vec<Self>> {
        let mut group: Vec<Self> = Vec::with_capacity(sockets);
        for _ in 0..sockets {
            let socket = match group.first() {
                // A group has one program. One more socket that brings its own would not be let in.
                None => Self::listen(address, steering)?,
                // Port 0 was asked for: the others share what the first one got.
                Some(first) => Self::listen(first.address(), None)?,
            };
            group.push(socket);
        }
        Ok(group)
    }

    fn listen(address: SocketAddr, steering: Option<&Steering>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit it.
        socket.set_tcp_nodelay(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        if let Some(steering) = steering {
            // Before it listens: no connection goes elsewhere.
            steering.attach(&socket)?;
        }
        socket.listen(BACKLOG)?;
        let bound = socket.local_addr()?.as_socket().unwrap_or(address);
        Ok(Self {
            fd: socket.into(),
            address: bound,
            is_shared: false,
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

    /// Leaves clients unanswered from here on, but for those whose handshake of TCP has begun. Once the
    /// socket is closed, they are told that nobody listens, as soon as they ask again.
    ///
    /// # Errors
    ///
    /// When another process may have the socket as well, and go on with it: whoever waits at it is not
    /// lost then. When this process may not filter, for which kernels such as 6.18 ask CAP_NET_ADMIN, or
    /// there is no memory for it.
    pub fn refuse_newcomers(&self) -> io::Result<()> {
        if self.is_shared {
            return Err(io::ErrorKind::Unsupported.into());
        }
        const FLAGS_AT: u32 = 13;
        const SYN: u32 = 0x02;
        const ACK: u32 = 0x10;
        // What the filter sees begins with TCP's header. Accepted sockets inherit it, to which
        // nobody sends a SYN any more.
        let filter = [
            statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, FLAGS_AT),
            statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, SYN | ACK),
            SockFilter::new(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), 0, 1, SYN),
            statement(libc::BPF_RET | libc::BPF_K, 0),
            statement(libc::BPF_RET | libc::BPF_K, u32::MAX),
        ];
        SockRef::from(&self.fd).attach_filter(&filter)
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

fn statement(operation: u32, value: u32) -> SockFilter {
    SockFilter::new(code(operation), 0, 0, value)
}

/// The kernel's codes of instructions have 16 bits.
fn code(operation: u32) -> u16 {
    u16::try_from(operation).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_another_process_may_go_on_with_is_left_as_it_is() {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let shared = Listener::adopt(listener.fd.try_clone().unwrap(), true).unwrap();
        for shared in [shared.duplicate().unwrap(), shared] {
            assert!(shared.refuse_newcomers().is_err());
            let _newcomer = TcpStream::connect(listener.address()).unwrap();
            assert_eq!(listener.accept_all(), 1);
        }
    }

    #[test]
    fn who_was_there_is_taken_and_newcomers_are_not_answered() {
        const PATIENCE: Duration = Duration::from_millis(100);
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.address();
        let _waits = TcpStream::connect(address).unwrap();
        if let Err(error) = listener.refuse_newcomers() {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            return eprintln!("skipped: it takes CAP_NET_ADMIN");
        }
        let newcomer = TcpStream::connect_timeout(&address, PATIENCE);
        assert_eq!(newcomer.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(listener.accept_all(), 1);
        drop(listener);
        let newcomer = TcpStream::connect(address);
        assert_eq!(
            newcomer.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }
}
