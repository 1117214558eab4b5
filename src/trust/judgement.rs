//! What one handshake learns about its client, carried across rustls's callbacks.
//!
//! rustls calls the certificate resolver and the client verifier synchronously on the shard's
//! thread; a scope entered around each call into rustls carries the route's trust domain in and the
//! verdict out.

use std::cell::RefCell;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::TrustDomain;
use super::domain::{Authorized, Refusal};

/// What is known about one handshake's client so far.
#[derive(Debug, Default)]
pub struct Judgement {
    pub domain: Option<Arc<TrustDomain>>,
    /// `Ok` only after the client has proved that it holds the leaf's key.
    pub verdict: Option<Result<Authorized, Refusal>>,
    /// Who may come in as soon as the client proves that it holds the leaf's key.
    unproven: Option<Authorized>,
}

thread_local! {
    static CURRENT: RefCell<Option<Judgement>> = const { RefCell::new(None) };
}

/// Runs `work` with `judgement` as this thread's current one. Scopes do not nest.
pub fn enter<R>(judgement: &mut Judgement, work: impl FnOnce() -> R) -> R {
    let outer = CURRENT.replace(Some(std::mem::take(judgement)));
    debug_assert!(
        outer.is_none(),
        "a judgement's scope was entered inside another"
    );
    let _scope = Scope { judgement, outer };
    work()
}

/// Gives the judgement back on the way out, by a panic too.
struct Scope<'a> {
    judgement: &'a mut Judgement,
    outer: Option<Judgement>,
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        *self.judgement = CURRENT.replace(self.outer.take()).unwrap_or_default();
    }
}

/// Names the trust domain for the handshake in progress on this thread. What was found by another
/// domain no longer counts. Does nothing outside of a scope: the verifier then refuses.
pub fn choose_domain(domain: Arc<TrustDomain>) {
    with_current(|judgement| {
        *judgement = Judgement {
            domain: Some(domain),
            ..Judgement::default()
        };
    });
}

/// The trust domain of the handshake in progress on this thread.
pub(super) fn domain() -> Option<Arc<TrustDomain>> {
    with_current(|judgement| judgement.domain.clone()).flatten()
}

/// Keeps who may come in until the proof of possession is there.
pub(super) fn expect_proof(authorized: Authorized) {
    with_current(|judgement| {
        judgement.verdict = None;
        judgement.unproven = Some(authorized);
    });
}

/// The holder of `leaf`'s key is at the other end: the verdict stands. False if that is not who was
/// judged.
pub(super) fn possession_proven(leaf: &CertificateDer<'_>) -> bool {
    with_current(|judgement| {
        let authorized = judgement
            .unproven
            .take()
            .filter(|peer| peer.peer().leaf() == leaf);
        let was_judged = authorized.is_some();
        if let Some(authorized) = authorized {
            judgement.verdict = Some(Ok(authorized));
        }
        was_judged
    })
    .unwrap_or(false)
}

/// The client is not let in.
pub(super) fn refuse(refusal: Refusal) {
    with_current(|judgement| {
        judgement.unproven = None;
        judgement.verdict = Some(Err(refusal));
    });
}

fn with_current<R>(work: impl FnOnce(&mut Judgement) -> R) -> Option<R> {
    CURRENT.with_borrow_mut(|current| current.as_mut().map(work))
}
