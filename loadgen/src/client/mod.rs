//! Client connections of the load: TLS session, the life of one connection, the loop that drives
//! many of them on a ring.

mod bad;
mod choice;
mod connection;
mod cpu_window;
mod credentials;
mod driver;
mod offer;
mod plan;
mod random;
mod recorder;
mod resumption;
mod schedule;
mod session;
mod slot;
mod slow;
mod verifier;

pub use bad::{BadKind, BadShares};
pub use choice::{Distribution, Presents};
pub use connection::{Close, Confirm, Connection, Progress, Work, Workload};
pub use credentials::{Credentials, CredentialsError, Identity};
pub use driver::Driver;
pub use offer::{Agreed, Ciphers, Groups, Offer, Versions, cipher_name, group_name};
pub use plan::{DriverError, LoadPlan, Outcomes, Reporting, Sources};
pub use random::Random;
pub use recorder::{Recorder, Served};
pub use schedule::{Arrival, Pace, Schedule, Step};
pub use session::Session;
pub use slow::{SlowOutcome, SlowPlan, run as run_slow};
pub use verifier::ServerTrust;
