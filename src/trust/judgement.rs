//! What one handshake learns about its client, carried across rustls's callbacks.
//!
//! rustls calls the certificate resolver and the client verifier synchronously on the shard's
//! thread; a scope entered around each call into rustls carries the route's trust domain in and the
//! verdict out.

use std::sync::Arc;

use super::TrustDomain;
use super::domain::{Authorized, Refusal};

/// What is known about one handshake's client so far.
#[derive(Debug, Default)]
pub struct Judgement {
    pub domain: Option<Arc<TrustDomain>>,
    pub verdict: Option<Result<Authorized, Refusal>>,
}

/// Runs `work` with `judgement` as this thread's current one.
pub fn enter<R>(_judgement: &mut Judgement, work: impl FnOnce() -> R) -> R {
    work()
}

/// Names the trust domain for the handshake in progress on this thread.
pub fn choose_domain(_domain: Arc<TrustDomain>) {
    todo!()
}
