//! Connecting: socket, option and connect in one linked submission.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{opcode, squeue, types};
use socket2::{Domain, Socket, Type};

use super::accept::destination;
use super::{io_result, user_data};
use crate::ring::Ring;
use crate::ring::address::Target;
use crate::ring::descriptor::{Descriptor, DescriptorKind, Inner, plain};
use crate::ring::inflight::{Holds, LEADER, Operation, Token};

/// The value of options; the kernel reads it from here while one is set.
static ENABLED: libc::c_int = 1;

impl Ring {
    /// Opens a socket and connects it. Completes with
    /// [`crate::ring::Outcome::Connected`]; the descriptor is
    /// valid from now on, whatever becomes of the connect.
    ///
    /// # Errors
    ///
    /// When the target is no address, or no descriptor could be had; then nothing completes.
    pub fn connect(
        &mut self,
        target: &Target,
        kind: DescriptorKind,
        token: Token,
    ) -> io::Result<(Descriptor, Operation)> {
        let direct = kind == DescriptorKind::Direct && self.uses_direct;
        let descriptor = if direct {
            Descriptor(Inner::Direct(self.take_slot()?))
        } else {
            open_plain(target.domain(), None)?
        };
        self.connect_descriptor(descriptor, target, token)
    }

    /// As [`Ring::connect`] with a plain descriptor, from this address of the host. Its kernel
    /// chooses the port, of which each address has its own.
    pub fn connect_from(
        &mut self,
        source: IpAddr,
        target: &Target,
        token: Token,
    ) -> io::Result<(Descriptor, Operation)> {
        let descriptor = open_plain(target.domain(), Some(source))?;
        self.connect_descriptor(descriptor, target, token)
    }

    fn connect_descriptor(
        &mut self,
        descriptor: Descriptor,
        target: &Target,
        token: Token,
    ) -> io::Result<(Descriptor, Operation)> {
        let address = match target.encode() {
            Ok(address) => Box::new(address),
            Err(error) => {
                self.close(descriptor);
                return Err(error);
            }
        };
        let (pointer, len) = (address.as_ptr().cast(), address.len());
        let slot = match &descriptor.0 {
            Inner::Direct(slot) => Some(*slot),
            Inner::Plain(_) => None,
        };
        let holds = Holds::Connect {
            _address: address,
            slot,
        };
        let operation = self.in_flight.insert(token, holds);
        match &descriptor.0 {
            Inner::Direct(slot) => {
                let connect = opcode::Connect::new(types::Fixed(*slot), pointer, len)
                    .build()
                    .user_data(user_data(operation));
                self.slots.connect_begins(*slot);
                self.push_linked_connect(target.domain(), *slot, connect, operation);
            }
            Inner::Plain(fd) => {
                let connect = opcode::Connect::new(plain(fd), pointer, len)
                    .build()
                    .user_data(user_data(operation));
                // SAFETY: the address is boxed in the in-flight table until the completion.
                unsafe { self.queues.push(&[connect], &mut self.counters) };
            }
        }
        Ok((descriptor, operation))
    }

    fn push_linked_connect(
        &mut self,
        domain: Domain,
        slot: u32,
        connect: squeue::Entry,
        operation: Operation,
    ) {
        let leader = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
        let leader_data = user_data(operation) | LEADER;
        let socket = opcode::Socket::new(i32::from(domain), libc::SOCK_STREAM, 0)
            .file_index(Some(destination(slot)))
            .build()
            .user_data(leader_data)
            .flags(leader);
        if domain == Domain::UNIX {
            // SAFETY: as below; there is no option.
            unsafe { self.queues.push(&[socket, connect], &mut self.counters) };
            return;
        }
        let nodelay = opcode::SetSockOpt::new(
            types::Fixed(slot),
            libc::IPPROTO_TCP.unsigned_abs(),
            libc::TCP_NODELAY.unsigned_abs(),
            (&raw const ENABLED).cast(),
            u32::try_from(size_of_val(&ENABLED)).expect("an int is small"),
        )
        .build()
        .user_data(leader_data)
        .flags(leader);
        // SAFETY: the address is boxed in the in-flight table until the completion, and the
        // option's value is static.
        unsafe {
            self.queues
                .push(&[socket, nodelay, connect], &mut self.counters)
        };
    }

    /// A free direct descriptor, or EMFILE.
    pub(super) fn take_slot(&mut self) -> io::Result<u32> {
        self.slots
            .take()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))
    }
}

fn open_plain(domain: Domain, source: Option<IpAddr>) -> io::Result<Descriptor> {
    let socket = Socket::new(domain, Type::STREAM.cloexec(), None)?;
    if domain != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
    }
    if let Some(source) = source {
        choose_port_at_connect(&socket)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(Descriptor(Inner::Plain(OwnedFd::from(socket))))
}

/// Has connect choose the port and not bind (ip(7), IP_BIND_ADDRESS_NO_PORT, Linux 4.2): one that bind
/// takes is lost to every other connection of the host, and one that connect takes only to those from
/// the same address to the same target.
fn choose_port_at_connect(socket: &Socket) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the value is a static int of the length that is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const ENABLED).cast(),
            u32::try_from(size_of_val(&ENABLED)).expect("an int is small"),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub(super) fn complete(ring: &mut Ring, slot: Option<u32>, result: i32) -> io::Result<()> {
    if let Some(slot) = slot {
        ring.slots.connect_ended(slot);
    }
    io_result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_source_takes_no_port_before_it_connects() {
        for source in ["127.0.0.2", "::1"] {
            let source: IpAddr = source.parse().unwrap();
            let domain = Domain::for_address(SocketAddr::new(source, 0));
            let opened = match open_plain(domain, Some(source)) {
                Err(error) if source.is_ipv6() => {
                    println!("skipped: {source}: {error}");
                    continue;
                }
                opened => opened.unwrap(),
            };
            let local = opened.local_address().unwrap();
            assert_eq!((local.ip(), local.port()), (source, 0));
        }
    }
}
