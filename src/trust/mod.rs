//! Who may come in. Pure: no I/O, no ring, no clock of its own.

pub mod domain;
pub mod identity;
pub mod judgement;
pub mod name;
pub mod policy;
pub mod verifier;

pub use domain::{Authorized, TrustDomain, VerifiedPeer};
pub use identity::Identity;
pub use policy::{Decision, Policy};
