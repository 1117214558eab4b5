//! Sockets as the ring knows them: a slot of its descriptor table, or a plain file descriptor.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use io_uring::types;

/// Which kind of descriptor an operation makes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DescriptorKind {
    /// A slot of the ring's table: cheapest, but it has no number for other system calls.
    Direct,
    /// A file descriptor of the process, for sockets whose local address must be asked for.
    Plain,
}

/// An open socket. Give it back with [`super::Ring::close`]; dropping a direct one leaks its slot
/// until the ring ends.
#[derive(Debug)]
pub struct Descriptor(pub(super) Inner);

#[derive(Debug)]
pub(super) enum Inner {
    Direct(u32),
    Plain(OwnedFd),
}

impl Descriptor {
    pub fn kind(&self) -> DescriptorKind {
        match self.0 {
            Inner::Direct(_) => DescriptorKind::Direct,
            Inner::Plain(_) => DescriptorKind::Plain,
        }
    }

    /// The socket's own address; only a plain descriptor can be asked.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Inner::Direct(_) => Err(io::ErrorKind::Unsupported.into()),
            Inner::Plain(fd) => local_address(fd),
        }
    }
}

pub(super) fn local_address(fd: &impl AsFd) -> io::Result<SocketAddr> {
    socket2::SockRef::from(fd)
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Builds an entry for either kind of descriptor.
macro_rules! with_descriptor {
    ($descriptor:expr, $fd:ident => $entry:expr) => {
        match &$descriptor.0 {
            $crate::ring::descriptor::Inner::Direct(slot) => {
                let $fd = ::io_uring::types::Fixed(*slot);
                $entry
            }
            $crate::ring::descriptor::Inner::Plain(fd) => {
                let $fd = ::io_uring::types::Fd(::std::os::fd::AsRawFd::as_raw_fd(fd));
                $entry
            }
        }
    };
}
pub(super) use with_descriptor;

pub(super) fn plain(fd: &OwnedFd) -> types::Fd {
    types::Fd(fd.as_raw_fd())
}

/// Which slots of the registered table are taken. Every slot is chosen here, never by the kernel,
/// so that accepted sockets and linked socket operations cannot meet in one slot.
pub(super) struct SlotTable {
    free: Vec<u32>,
    states: Vec<SlotState>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum SlotState {
    /// Free, or taken with nothing under way that names it.
    Settled,
    /// Entries that are linked to each other still name it.
    Connecting,
    /// As `Connecting`, and given back already.
    Left,
}

impl SlotTable {
    pub(super) fn new(len: u32) -> Self {
        Self {
            free: (0..len).rev().collect(),
            states: vec![SlotState::Settled; len as usize],
        }
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// A linked connect begins in `slot`: until [`SlotTable::connect_ended`] nobody else gets it.
    pub(super) fn connect_begins(&mut self, slot: u32) {
        self.states[slot as usize] = SlotState::Connecting;
    }

    pub(super) fn connect_ended(&mut self, slot: u32) {
        let state = std::mem::replace(&mut self.states[slot as usize], SlotState::Settled);
        if state == SlotState::Left {
            self.free.push(slot);
        }
    }

    /// Takes `slot` back, for the next taker as soon as no connect is under way in it.
    pub(super) fn give(&mut self, slot: u32) {
        match &mut self.states[slot as usize] {
            SlotState::Settled => self.free.push(slot),
            state => *state = SlotState::Left,
        }
    }

    pub(super) fn in_use(&self) -> usize {
        self.states.len() - self.free.len()
    }
}
