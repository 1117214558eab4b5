//! What utilisation and what latency follow on hosts that are bigger than one can measure.
//!
//! # The model
//!
//! A shard is one server with one queue, first come first served, in virtual time. A new connection
//! is one piece of work of a measured cost; connections come as a Poisson process of rate λ for the
//! whole host. Latency is the time in the shard: the wait and the connection's own cost. With n
//! shards and a mean cost of s, the mean utilisation is ρ = λ s / n.
//!
//! Connections are placed in one of three ways ([`Placement`]):
//!
//! - by hash (SO_REUSEPORT): each to a shard that is drawn uniformly. The splitting of a Poisson
//!   process makes each shard an M/G/1 queue of its own with rate λ / n, whatever n is: the mean
//!   wait is λ E\[S²\] / (2 n (1 − ρ)) (Pollaczek and Khinchine), so ρ s / (2 (1 − ρ)) where every
//!   cost is the same (M/D/1). More shards do not help a connection that waits.
//! - by the CPU that took the interrupt: the card draws one of [`TABLE_LEN`] entries of its
//!   indirection table by a hash of the flow (RSS), entry e names queue e mod n, and queue i belongs
//!   to shard i. Where n does not divide the table, some shards have one entry more than others:
//!   their share is ⌈128/n⌉/128, and so is their load, for good.
//! - in turn, the ideal that no kernel offers: a shard sees every n-th arrival, whose gaps are
//!   Erlang distributed and thus more even.
//!
//! Connections that stay are another matter ([`stay`]): they are placed once, and a shard that got
//! more of them has more to do as long as they live. With N connections on n shards the fullest has
//! N/n + √(2 (N/n) ln n) about (balls in bins, for N well above n ln n; Raab and Steger). `skew` is
//! the busiest shard's part over the mean; at a mean utilisation of ρ the busiest has ρ times it.
//!
//! # What is left out
//!
//! The shard's budget for a turn and the order in which it serves what is ready; that a handshake is
//! several pieces of work with flights of the network between them; caches, memory bandwidth, SMT
//! siblings that slow each other down, frequency; the kernel's share on other CPUs; packets that are
//! lost; a listener's backlog that overflows. So latencies here are what queueing alone adds to the
//! measured cost: a lower bound.

pub mod queue;
pub mod report;
pub mod stay;

use serde::Serialize;

/// Entries of a network card's indirection table: 128 is what common drivers set up
/// (`ethtool -x`).
pub const TABLE_LEN: usize = 128;

/// How a new connection finds its shard.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    Hash,
    Steering,
    InTurn,
}

impl Placement {
    pub const ALL: [Self; 3] = [Self::Hash, Self::Steering, Self::InTurn];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Steering => "steering",
            Self::InTurn => "in turn",
        }
    }

    /// The busiest shard's share of connections over the mean share, in the long run.
    #[expect(clippy::cast_precision_loss, reason = "shards and entries are few")]
    pub fn skew_in_the_long_run(self, shards: usize) -> f64 {
        match self {
            Self::Hash | Self::InTurn => 1.0,
            Self::Steering => TABLE_LEN.div_ceil(shards) as f64 * shards as f64 / TABLE_LEN as f64,
        }
    }
}

/// What connections cost their shard.
#[derive(Clone, Debug, PartialEq)]
pub enum Cost {
    /// Kinds with a fixed cost each.
    Kinds(Vec<Kind>),
    /// Exponentially distributed; what the textbooks' M/M/1 has.
    Exponential { mean_us: f64 },
}

/// One kind of connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kind {
    pub name: String,
    pub us: f64,
    /// Of all connections, 0 to 1.
    pub share: f64,
}

impl Cost {
    pub fn mean_us(&self) -> f64 {
        match self {
            Self::Kinds(kinds) => kinds.iter().map(|kind| kind.us * kind.share).sum(),
            Self::Exponential { mean_us } => *mean_us,
        }
    }
}
