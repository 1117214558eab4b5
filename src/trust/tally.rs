//! What this thread's handshakes cost and were offered, since it was last asked: rustls's callbacks
//! have nobody else to tell.

use std::cell::Cell;
use std::time::Duration;

/// Of one step of a handshake, unless it was not asked for longer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// How long the last verdict on a presented chain took.
    pub verdict_took: Option<Duration>,
    /// Whether that verdict was remembered.
    pub verdict_remembered: bool,
    pub tickets_issued: u64,
    /// Tickets that the client may resume with.
    pub tickets_accepted: u64,
    /// Tickets that were not, or no longer, good for that.
    pub tickets_declined: u64,
}

thread_local! {
    static TALLY: Cell<Tally> = const {
        Cell::new(Tally {
            verdict_took: None,
            verdict_remembered: false,
            tickets_issued: 0,
            tickets_accepted: 0,
            tickets_declined: 0,
        })
    };
}

/// The tally so far.
pub fn get() -> Tally {
    TALLY.get()
}

/// The tally so far; it begins anew.
pub fn take() -> Tally {
    TALLY.take()
}

pub(super) fn note(change: impl FnOnce(&mut Tally)) {
    let mut tally = TALLY.get();
    change(&mut tally);
    TALLY.set(tally);
}
