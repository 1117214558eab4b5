//! Client connections of the load: TLS session, the life of one connection, the loop that drives
//! many of them on a ring.

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
mod verifier;

pub use connection::{Confirm, Connection, Progress, Work, Workload};
pub use credentials::{Credentials, CredentialsError, Identity};
pub use driver::{Driver, DriverError, Outcomes};
pub use offer::{Agreed, Ciphers, Groups, Offer, Versions, cipher_name, group_name};
pub use plan::{LoadPlan, Reporting, Sources};
pub use random::Random;
pub use recorder::{Recorder, Served};
pub use schedule::{Arrival, Pace, Schedule, Step};
pub use session::Session;
pub use verifier::ServerTrust;
