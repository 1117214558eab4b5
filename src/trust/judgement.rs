//! What one handshake learns about its client, carried across rustls's callbacks.
//!
//! rustls calls the certificate resolver, the ticketer and the client verifier synchronously on the
//! shard's thread; a scope entered around each call into rustls carries the route's trust domain in
//! and the verdict out.

use std::cell::RefCell;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, UnixTime};

use super::TrustDomain;
use super::domain::{Authorized, Refusal};
use super::refusal::seconds;
use super::ticket::TicketScope;
use crate::limits::TICKETS_JUDGED_MAX;

/// What is known about one handshake's client so far.
#[derive(Debug, Default)]
pub struct Judgement {
    pub domain: Option<Arc<TrustDomain>>,
    /// Where tickets of this handshake count; `None` where there are none.
    scope: Option<TicketScope>,
    /// `Ok` only after the client has proved that it holds the leaf's key.
    pub verdict: Option<Result<Authorized, Refusal>>,
    /// Who may come in as soon as the client proves that it holds the leaf's key.
    unproven: Option<Authorized>,
    /// Who may come in if rustls resumes from the ticket that was judged last, and when that client
    /// last proved that it holds the leaf's key.
    resumable: Option<(Authorized, i64)>,
    tickets_judged: u8,
}

impl Judgement {
    /// The verdict of a handshake that is done. Whoever was let in on the way is put before the
    /// domain's policy once more. `None` if nobody was judged.
    pub fn conclude(&mut self, resumed: bool) -> Option<Result<Authorized, Refusal>> {
        let verdict = self.verdict.take();
        let resumable = self.resumable.take();
        let verdict = match resumed {
            true => Ok(resumable?.0),
            false => verdict?,
        };
        let domain = self.domain.as_ref()?;
        Some(verdict.and_then(|client| domain.authorize(client.peer().clone())))
    }
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

/// Names the trust domain for the handshake in progress on this thread, and where its tickets count.
/// What was found by another domain no longer counts. Does nothing outside of a scope: the verifier
/// then refuses.
pub fn choose_domain(domain: Arc<TrustDomain>, scope: Option<TicketScope>) {
    with_current(|judgement| {
        *judgement = Judgement {
            domain: Some(domain),
            scope,
            // The second hello of a client that was asked to retry goes on counting.
            tickets_judged: judgement.tickets_judged,
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
        judgement.resumable = None;
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

/// By whom and within which scope a ticket that the client offers is to be judged. `None` where
/// tickets do not count, or too many were offered.
pub(super) fn ticket_offered() -> Option<(TicketScope, Arc<TrustDomain>)> {
    with_current(|judgement| {
        // rustls resumes from the ticket that it asked about last, or from none.
        judgement.resumable = None;
        if judgement.tickets_judged >= TICKETS_JUDGED_MAX {
            return None;
        }
        judgement.tickets_judged += 1;
        Some((judgement.scope?, judgement.domain.clone()?))
    })
    .flatten()
}

/// Keeps who may come in if rustls resumes from the ticket that was just judged.
pub(super) fn may_resume(client: Authorized, authenticated_at: i64) {
    with_current(|judgement| judgement.resumable = Some((client, authenticated_at)));
}

/// Whom a ticket is made for, where it counts, and when the client last proved that it holds its
/// key: now, after a full handshake.
pub(super) fn for_ticket(now: UnixTime) -> Option<(TicketScope, Authorized, i64)> {
    with_current(|judgement| {
        let scope = judgement.scope?;
        match (&judgement.verdict, &judgement.resumable) {
            (Some(Ok(client)), None) => Some((scope, client.clone(), seconds(now))),
            (None, Some((client, authenticated_at))) => {
                Some((scope, client.clone(), *authenticated_at))
            }
            _ => None,
        }
    })
    .flatten()
}

/// The client is not let in.
pub(super) fn refuse(refusal: Refusal) {
    with_current(|judgement| {
        judgement.unproven = None;
        judgement.resumable = None;
        judgement.verdict = Some(Err(refusal));
    });
}

fn with_current<R>(work: impl FnOnce(&mut Judgement) -> R) -> Option<R> {
    CURRENT.with_borrow_mut(|current| current.as_mut().map(work))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };
    use rustls_pki_types::UnixTime;

    use super::*;
    use crate::trust::Policy;
    use crate::trust::domain::TrustSources;
    use crate::trust::policy::{Effect, Matcher, Rule};

    fn authority() -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let anchor = params.self_signed(&key).unwrap().der().clone();
        (anchor, Issuer::new(params, key))
    }

    fn domain_of(anchor: CertificateDer<'static>, policy: Policy) -> TrustDomain {
        TrustDomain::new(TrustSources {
            anchors: vec![anchor],
            policy,
            ..TrustSources::default()
        })
        .unwrap()
    }

    /// A domain, and two clients that it lets in.
    fn clients() -> (Arc<TrustDomain>, [Authorized; 2]) {
        let (anchor, issuer) = authority();
        let rule = Rule {
            name: "in".into(),
            effect: Effect::Allow,
            matchers: vec![Matcher::Any],
        };
        let domain = domain_of(anchor, Policy { rules: vec![rule] });
        let clients = [(); 2].map(|()| {
            let mut params = CertificateParams::default();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().unwrap();
            let leaf = params.signed_by(&key, &issuer).unwrap();
            let now = UnixTime::since_unix_epoch(Duration::from_secs(1_767_225_600));
            domain
                .authorize(domain.verify(leaf.der(), &[], now).unwrap())
                .unwrap()
        });
        (Arc::new(domain), clients)
    }

    #[test]
    fn only_the_holder_of_the_judged_leafs_key_is_let_in() {
        let (_, [judged, other]) = clients();
        let mut judgement = Judgement::default();
        enter(&mut judgement, || {
            assert!(!possession_proven(judged.peer().leaf()));
            expect_proof(judged.clone());
            assert!(!possession_proven(other.peer().leaf()));
            // The judgement does not outlive a proof that was of another key.
            assert!(!possession_proven(judged.peer().leaf()));
        });
        assert!(judgement.verdict.is_none());
        enter(&mut judgement, || {
            expect_proof(judged.clone());
            assert!(possession_proven(judged.peer().leaf()));
        });
        assert_eq!(
            judgement.verdict.unwrap().unwrap().peer().leaf(),
            judged.peer().leaf()
        );
    }

    #[test]
    fn a_proof_after_another_domain_was_chosen_counts_for_nothing() {
        let (domain, [judged, _]) = clients();
        let mut judgement = Judgement::default();
        enter(&mut judgement, || {
            expect_proof(judged.clone());
            choose_domain(domain, None);
            assert!(!possession_proven(judged.peer().leaf()));
        });
        assert!(judgement.verdict.is_none());
    }

    fn scope() -> TicketScope {
        TicketScope::new("front", "only")
    }

    fn judgement(domain: &Arc<TrustDomain>) -> Judgement {
        Judgement {
            domain: Some(Arc::clone(domain)),
            scope: Some(scope()),
            ..Judgement::default()
        }
    }

    fn leaf(verdict: Option<Result<Authorized, Refusal>>) -> Option<CertificateDer<'static>> {
        Some(verdict?.ok()?.peer().leaf().clone())
    }

    #[test]
    fn a_ticket_lets_in_only_who_resumes() {
        let (domain, [judged, other]) = clients();
        let mut judgement = judgement(&domain);
        enter(&mut judgement, || may_resume(judged.clone(), 1));
        assert_eq!(leaf(judgement.conclude(false)), None);
        enter(&mut judgement, || may_resume(judged.clone(), 1));
        assert_eq!(
            leaf(judgement.conclude(true)).as_ref(),
            Some(judged.peer().leaf())
        );

        // rustls did not take the ticket; another client's chain follows.
        enter(&mut judgement, || {
            may_resume(judged.clone(), 1);
            expect_proof(other.clone());
        });
        assert_eq!(leaf(judgement.conclude(true)), None);
        enter(&mut judgement, || {
            expect_proof(other.clone());
            assert!(possession_proven(other.peer().leaf()));
        });
        assert_eq!(
            leaf(judgement.conclude(false)).as_ref(),
            Some(other.peer().leaf())
        );
        // What was proved does not stand for a ticket.
        enter(&mut judgement, || {
            expect_proof(other.clone());
            assert!(possession_proven(other.peer().leaf()));
        });
        assert_eq!(leaf(judgement.conclude(true)), None);
    }

    #[test]
    fn of_several_tickets_the_last_counts_and_not_all_are_judged() {
        let (domain, [judged, _]) = clients();
        let mut judgement = judgement(&domain);
        enter(&mut judgement, || {
            assert!(ticket_offered().is_some());
            may_resume(judged.clone(), 1);
            // The next is declined.
            assert!(ticket_offered().is_some());
        });
        assert_eq!(leaf(judgement.conclude(true)), None);
        enter(&mut judgement, || {
            choose_domain(Arc::clone(&domain), Some(scope()));
            for _ in 2..TICKETS_JUDGED_MAX {
                assert!(ticket_offered().is_some());
            }
            may_resume(judged, 1);
            assert!(ticket_offered().is_none());
        });
        assert_eq!(leaf(judgement.conclude(true)), None);
    }

    #[test]
    fn policy_is_asked_once_more_at_the_end() {
        let (domain, [judged, _]) = clients();
        let nobody = Arc::new(domain_of(authority().0, Policy::default()));
        for resumed in [true, false] {
            for (domain, is_let_in) in [(&domain, true), (&nobody, false)] {
                let mut judgement = judgement(domain);
                enter(&mut judgement, || {
                    if resumed {
                        may_resume(judged.clone(), 1);
                    } else {
                        expect_proof(judged.clone());
                        assert!(possession_proven(judged.peer().leaf()));
                    }
                });
                let verdict = judgement.conclude(resumed).unwrap();
                assert_eq!(verdict.is_ok(), is_let_in);
            }
        }
    }

    #[test]
    fn a_ticket_is_made_for_who_is_let_in_and_tells_when_it_last_proved_its_key() {
        let (domain, [judged, _]) = clients();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1000));
        let made = |work: &dyn Fn()| {
            let mut judgement = judgement(&domain);
            enter(&mut judgement, || {
                work();
                for_ticket(now).map(|(_, _, authenticated_at)| authenticated_at)
            })
        };
        assert_eq!(made(&|| ()), None);
        assert_eq!(made(&|| expect_proof(judged.clone())), None);
        assert_eq!(made(&|| may_resume(judged.clone(), 7)), Some(7));
        let full = || {
            may_resume(judged.clone(), 7);
            expect_proof(judged.clone());
            assert!(possession_proven(judged.peer().leaf()));
        };
        assert_eq!(made(&full), Some(1000));
        let elsewhere = || {
            choose_domain(Arc::clone(&domain), None);
            may_resume(judged.clone(), 7);
        };
        assert_eq!(made(&elsewhere), None);
    }
}
