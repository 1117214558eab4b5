//! A trust domain's work: the verdict on a chain of P-256 with one intermediate, and tickets.
#![allow(dead_code, reason = "each bench uses its part")]

use std::hint::black_box;
use std::sync::Arc;

use ringgate::clock::Clock;
use ringgate::limits::{BYTES_PER_VERDICT, RESUMPTION_CAP, STEK_ROTATION, VERDICT_TTL};
use ringgate::trust::Authorized;
use ringgate::trust::cache::{self, CacheBounds, VerdictCache};
use ringgate::trust::domain::{TrustDomain, TrustSources};
use ringgate::trust::judgement::{Judgement, choose_domain, enter};
use ringgate::trust::policy::{Effect, Matcher, Policy, Rule};
use ringgate::trust::stek::{Secret, Stek};
use ringgate::trust::ticket::{TicketScope, Tickets};
use ringgate::trust::verifier::Verifier;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;

use crate::pki::{self, Ca, NOW};

pub struct Judging {
    pub today: Arc<TrustDomain>,
    /// The same anchors, another policy that lets the client in, too.
    pub reloaded: Arc<TrustDomain>,
    /// As [`Judging::today`] sealed it.
    pub ticket: Vec<u8>,
    verifier: Verifier,
    leaf: CertificateDer<'static>,
    intermediates: [CertificateDer<'static>; 1],
    tickets: Tickets,
    scope: TicketScope,
    client: Authorized,
    state: Vec<u8>,
}

impl Judging {
    pub fn new() -> Self {
        let root = Ca::root("Root");
        let intermediate = root.intermediate("Intermediate");
        let leaf = intermediate.issue(pki::client("client")).certificate;
        let intermediates = [intermediate.certificate];
        let today = domain(&root, "in");
        let peer = today.verify(&leaf, &intermediates, pki::now());
        let client = today.authorize(peer.expect("a trusted client"));
        let stek = Stek::new(Arc::new(Secret::random()), STEK_ROTATION);
        let mut judging = Self {
            reloaded: domain(&root, "still in"),
            ticket: Vec::new(),
            verifier: Verifier::new(&aws_lc_rs::default_provider(), Clock::system()),
            tickets: Tickets::new(stek, RESUMPTION_CAP, VERDICT_TTL),
            scope: TicketScope::new("front", "only"),
            client: client.expect("an allowed client"),
            state: state(&[&leaf, &intermediates[0]]),
            today,
            leaf,
            intermediates,
        };
        judging.ticket = judging.seal();
        judging
    }

    /// What the verifier does with the client's chain in a full handshake.
    pub fn verify(&self) {
        let mut judgement = Judgement::default();
        enter(&mut judgement, || {
            choose_domain(Arc::clone(&self.today), None);
            let verified =
                self.verifier
                    .verify_client_cert(&self.leaf, &self.intermediates, pki::now());
            black_box(verified.expect("a trusted client"));
        });
    }

    pub fn seal(&self) -> Vec<u8> {
        let sealed = self
            .tickets
            .seal(&self.scope, &self.client, NOW, &self.state, pki::now());
        sealed.expect("a ticket")
    }

    /// What a ticket that is offered goes through, where trust is as `domain` says.
    pub fn judge(&self, domain: &TrustDomain) {
        let judged = self
            .tickets
            .judge(&self.scope, domain, &self.ticket, pki::now());
        black_box(judged.expect("a good ticket"));
    }
}

/// Gives the calling thread a cache without verdicts, for `entries` of them.
pub fn install_cache(entries: usize) {
    let bounds = CacheBounds {
        entries,
        bytes: entries * BYTES_PER_VERDICT,
    };
    cache::install(Some(VerdictCache::new(bounds, VERDICT_TTL)));
}

fn domain(root: &Ca, rule: &str) -> Arc<TrustDomain> {
    let rule = Rule {
        name: rule.into(),
        effect: Effect::Allow,
        matchers: vec![Matcher::Any],
    };
    let sources = TrustSources {
        anchors: vec![root.certificate.clone()],
        policy: Policy { rules: vec![rule] },
        ..TrustSources::default()
    };
    Arc::new(TrustDomain::new(sources).expect("good sources"))
}

/// As rustls's: names, a secret, and the chain.
fn state(chain: &[&CertificateDer<'_>]) -> Vec<u8> {
    let mut state = vec![7; 80];
    chain.iter().for_each(|der| state.extend_from_slice(der));
    state.extend_from_slice(&[7; 20]);
    state
}
