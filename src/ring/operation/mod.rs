//! One file per operation: how it is submitted, and what its completion means.

pub(super) mod accept;
pub(super) mod cancel;
pub(super) mod close;
pub(super) mod connect;
pub(super) mod receive;
pub(super) mod send;
pub(super) mod shutdown;
pub(super) mod wake;

use io_uring::cqueue;

use super::inflight::{Holds, IGNORED, InFlight, LEADER, Operation};
use super::{Completion, Outcome, Ring};

/// Turns the kernel's completion into ours; `None` where nobody waits for it.
pub(super) fn complete(ring: &mut Ring, entry: &cqueue::Entry) -> Option<Completion> {
    let user_data = entry.user_data();
    if user_data == IGNORED {
        return None;
    }
    let operation = Operation(u32::try_from(user_data & !LEADER).ok()?);
    if user_data & LEADER != 0 {
        // It failed. The kernel posts nothing for what is linked behind an entry that skips
        // success and fails (IOSQE_CQE_SKIP_SUCCESS in io_uring_enter(2)), so this is the end of
        // the whole chain.
        let InFlight { token, holds } = ring.in_flight.remove(operation)?;
        let outcome = complete_single(ring, holds, entry.result())?;
        return Some(Completion { token, outcome });
    }
    let in_flight = ring.in_flight.entry(operation)?;
    let token = in_flight.token;
    let outcome = match in_flight.holds {
        Holds::Receive => receive::complete(ring, operation, entry),
        Holds::Wake { .. } => wake::complete(ring, operation, entry)?,
        Holds::Accept { .. } | Holds::Connect { .. } | Holds::Send { .. } | Holds::Shutdown => {
            let InFlight { holds, .. } = ring.in_flight.remove(operation)?;
            complete_single(ring, holds, entry.result())?
        }
    };
    Some(Completion { token, outcome })
}

fn complete_single(ring: &mut Ring, holds: Holds, result: i32) -> Option<Outcome> {
    match holds {
        Holds::Accept { peer, slot, local } => Some(Outcome::Accepted(accept::complete(
            ring, *peer, slot, local, result,
        ))),
        Holds::Connect { slot, .. } => {
            Some(Outcome::Connected(connect::complete(ring, slot, result)))
        }
        Holds::Send { block } => Some(Outcome::Sent {
            block,
            result: io_result(result),
        }),
        Holds::Shutdown => {
            shutdown::complete(result);
            None
        }
        Holds::Receive | Holds::Wake { .. } => None,
    }
}

/// The kernel's convention: a negative errno, or a count.
fn io_result(result: i32) -> std::io::Result<usize> {
    usize::try_from(result).map_err(|_| std::io::Error::from_raw_os_error(-result))
}

fn user_data(operation: Operation) -> u64 {
    u64::from(operation.0)
}
