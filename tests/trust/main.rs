//! Who comes in, without a server: chains, names, CRLs and rules against a trust domain, and the
//! verifier inside rustls handshakes in memory.

#[path = "../common/pki.rs"]
mod pki;

mod anchors;
mod bounds;
mod crls;
mod names;
mod purpose;
mod rejudge;
mod spiffe;
mod tickets;
mod verifier;

use ringgate::close_reason::CloseReason;
use ringgate::trust::domain::{TrustDomain, TrustSources};
use ringgate::trust::policy::{Effect, Matcher, Policy, Rule};
use ringgate::trust::{Authorized, Refusal, VerifiedPeer};
use rustls_pki_types::CertificateDer;

/// Sources that trust `anchor` and let everybody below it in.
fn sources(anchor: &pki::Ca) -> TrustSources {
    TrustSources {
        name: "clients".to_owned(),
        anchors: vec![anchor.certificate.clone()],
        policy: allow(Matcher::Any),
        ..TrustSources::default()
    }
}

fn domain(sources: TrustSources) -> TrustDomain {
    TrustDomain::new(sources).unwrap()
}

fn allow(matcher: Matcher) -> Policy {
    let rule = Rule {
        name: "in".into(),
        effect: Effect::Allow,
        matchers: vec![matcher],
    };
    Policy { rules: vec![rule] }
}

/// Verifies `chain`, the leaf first, at [`pki::NOW`].
fn verify(
    domain: &TrustDomain,
    chain: &[&CertificateDer<'static>],
) -> Result<VerifiedPeer, Refusal> {
    let intermediates: Vec<_> = chain[1..].iter().map(|der| (*der).clone()).collect();
    domain.verify(chain[0], &intermediates, pki::now())
}

/// Verifies `chain` and asks the policy.
fn judge(domain: &TrustDomain, chain: &[&CertificateDer<'static>]) -> Result<Authorized, Refusal> {
    domain.authorize(verify(domain, chain)?)
}

/// The refusal of what must be refused for `reason`, with a detail that names `named`.
#[track_caller]
fn refused<T: std::fmt::Debug>(
    outcome: Result<T, Refusal>,
    reason: CloseReason,
    named: &[&str],
) -> Refusal {
    let refusal = outcome.unwrap_err();
    assert_eq!(refusal.reason, reason, "{}", refusal.detail);
    for part in named {
        assert!(
            refusal.detail.contains(part),
            "no `{part}` in: {}",
            refusal.detail
        );
    }
    refusal
}
