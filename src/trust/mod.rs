//! Who may come in. Pure: no I/O, no ring, no clock of its own.
//!
//! A presented chain is read and bounded, verified by webpki against the anchors and CRLs of a
//! [`TrustDomain`], and its leaf's [`Identity`] put before the domain's [`Policy`]. The [`verifier`]
//! does this inside rustls's handshake; a [`judgement`] carries the outcome out of it.

mod anchors;
pub mod cache;
mod chain;
mod crl;
pub mod domain;
pub mod identity;
pub mod judgement;
pub mod name;
mod peer;
pub mod policy;
mod refusal;
mod rejudge;
mod revocation;
mod rules;
pub mod spiffe;
pub mod stek;
pub mod summary;
pub mod tally;
pub mod ticket;
pub mod ticketer;
pub mod verifier;

pub use domain::{Authorized, Refusal, TrustDomain, VerifiedPeer};
pub use identity::Identity;
pub use policy::{Decision, Policy};
pub use refusal::{span, utc};
pub use summary::{ChainEntry, ChainSummary};
