//! Where the connections of a load thread live.

use std::time::Instant;

use ringgate::ring::{Descriptor, Operation, Token};

use super::{BadKind, Connection, Presents};

/// Place of one connection after the other.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) live: Option<Live>,
    /// Tells completions of this connection from those of earlier ones in the slot.
    pub(super) generation: u32,
    /// After a failure: when to connect again.
    pub(super) rests_until: Option<Instant>,
}

pub(super) struct Live {
    pub(super) connection: Connection,
    pub(super) descriptor: Descriptor,
    pub(super) connecting: Option<Operation>,
    pub(super) receiving: Option<Operation>,
    pub(super) sending: Option<Operation>,
    pub(super) presents: Presents,
    /// Why it must be refused, if it must.
    pub(super) bad: Option<BadKind>,
    pub(super) identity_checked: bool,
    /// Offers a session and is not answered yet.
    pub(super) offers: bool,
    /// Everything is sent, close_notify too: only the server's end is awaited.
    pub(super) lingers: bool,
}

/// What the completions of a slot's connection are known by.
pub(super) fn token(index: usize, generation: u32) -> Token {
    Token(u64::from(generation) << 32 | index as u64)
}
