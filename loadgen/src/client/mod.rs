//! Client connections of the load: TLS session, the life of one connection, the loop that drives
//! many of them on a ring.

mod connection;
mod credentials;
mod driver;
mod offer;
mod random;
mod resumption;
mod schedule;
mod session;
mod verifier;

pub use connection::{Confirm, Connection, Progress, Recorder, Workload};
pub use credentials::{Credentials, CredentialsError, Identity};
pub use driver::{Driver, DriverError, LoadPlan, Outcomes};
pub use offer::{Agreed, Ciphers, Groups, Offer, Versions, cipher_name, group_name};
pub use random::Random;
pub use schedule::Schedule;
pub use session::Session;
pub use verifier::ServerTrust;
