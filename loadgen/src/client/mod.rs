//! Client connections of the load: TLS session, the life of one connection, the loop that drives
//! many of them on a ring.

mod connection;
mod credentials;
mod driver;
mod schedule;
mod session;

pub use connection::{Connection, Progress, Recorder, Workload};
pub use credentials::{Credentials, CredentialsError, ServerTrust};
pub use driver::{Driver, DriverError, LoadPlan, Outcomes};
pub use schedule::Schedule;
pub use session::Session;
