//! What one load thread does, and whom it tells.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use ringgate::ring::RingError;
use rustls_pki_types::ServerName;

use super::{Credentials, Distribution, Pace, Workload};
use crate::identity_check::{Delivered, IdentityCounts};
use crate::series::Interval;
use crate::statistics::Statistics;

/// What one load thread does.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    pub target: SocketAddr,
    pub server_name: ServerName<'static>,
    pub credentials: Arc<Credentials>,
    pub workload: Workload,
    /// Connections of this thread.
    pub connections: usize,
    /// Units a second of this thread; `None` is a closed loop.
    pub pace: Option<Pace>,
    /// This thread's place among all, 0 up to 1.
    pub share: f64,
    /// When the warm-up begins, and measuring begins and ends.
    pub start: Instant,
    pub from: Instant,
    pub until: Instant,
    /// Units in all; `None` is no bound.
    pub units_max: Option<u64>,
    /// Number of this thread's first connection: which identity it presents, and the seed of its
    /// chances.
    pub first_connection: u64,
    pub distribution: Distribution,
    /// The share of connections that shall resume a session, 0 to 1.
    pub resume: f64,
    /// Which addresses of this host the connections come from.
    pub sources: Sources,
    /// Where the echo upstream writes down whom it was told of.
    pub delivered: Option<Arc<Delivered>>,
}

/// Which addresses of this host connections come from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Sources {
    /// What the kernel chooses.
    #[default]
    Any,
    /// So many addresses of 127.0.0.0/8 in turn, each with ephemeral ports of its own.
    Loopback(u32),
}

impl Sources {
    /// Addresses at most: a 64th of what 127.0.0.0/8 has.
    pub const MAX: u32 = 1 << 18;

    /// Where the connection with this number comes from.
    pub fn of_connection(&self, number: u64) -> Option<IpAddr> {
        let Self::Loopback(count @ 1..) = *self else {
            return None;
        };
        let turn = number % u64::from(count.min(Self::MAX));
        let first = u32::from(Ipv4Addr::LOCALHOST);
        let turn = u32::try_from(turn).unwrap_or_default();
        Some(Ipv4Addr::from(first + turn).into())
    }
}

/// Why a load thread could not run.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error("waiting on the ring: {0}")]
    Wait(#[from] std::io::Error),
}

/// What a load thread has to tell.
#[derive(Debug, Default)]
pub struct Outcomes {
    pub statistics: Statistics,
    pub identity: IdentityCounts,
}

/// Whom a load thread tells how it goes, and who may stop it.
#[derive(Clone, Debug)]
pub struct Reporting {
    pub intervals: Sender<Interval>,
    pub interval_len: Duration,
    /// Ends the run early; what was measured until then counts.
    pub stop: Arc<AtomicBool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_come_from_loopback_addresses_in_turn() {
        let sources = Sources::Loopback(3);
        let of = |number| sources.of_connection(number).unwrap().to_string();
        assert_eq!(
            [of(0), of(1), of(2), of(3)],
            ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.1"]
        );
        assert_eq!(Sources::Any.of_connection(5), None);
        assert_eq!(Sources::Loopback(0).of_connection(5), None);
        let last = Sources::Loopback(u32::MAX).of_connection(u64::from(Sources::MAX) - 1);
        assert!(last.unwrap().is_loopback());
    }
}
