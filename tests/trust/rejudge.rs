//! Peers that were let in, judged again by what is trusted later.

use rcgen::CrlScope;
use ringgate::close_reason::CloseReason;
use ringgate::trust::domain::{RevocationPolicy, TrustDomain, TrustSources};
use ringgate::trust::policy::{Effect, Matcher, Policy, Rule};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::pki::{
    Ca, DAY, Leaf, NOW, at, client, distribution_point, issuing_distribution_point, now, serial,
};
use crate::{allow, domain, sources, verify};

struct World {
    root: Ca,
    intermediate: Ca,
    leaf: Leaf,
}

impl World {
    fn new() -> Self {
        Self::with_points(&[])
    }

    /// The leaf says that its CRL is at these distribution points.
    fn with_points(points: &[&str]) -> Self {
        let root = Ca::root("root");
        let intermediate = root.intermediate_with("intermediate", |params| {
            params.serial_number = serial(70);
        });
        let mut params = client("alice");
        params.serial_number = serial(7);
        params.crl_distribution_points = points.iter().map(|uri| distribution_point(uri)).collect();
        let leaf = intermediate.issue(params);
        Self {
            root,
            intermediate,
            leaf,
        }
    }

    fn chain(&self) -> [&CertificateDer<'static>; 2] {
        [&self.leaf.certificate, &self.intermediate.certificate]
    }

    /// Trusts the root; CRLs of both CAs, with these serials.
    fn with_crls(&self, of_root: &[u64], of_intermediate: &[u64]) -> TrustSources {
        TrustSources {
            crls: vec![
                self.root.crl(of_root),
                self.intermediate.crl(of_intermediate),
            ],
            ..sources(&self.root)
        }
    }

    /// Judges the peer that `before` lets in by `after`; the outcome must be what a full handshake
    /// would come to.
    #[track_caller]
    fn judged_again(&self, before: TrustSources, after: TrustSources) -> Option<CloseReason> {
        let peer = verify(&domain(before), &self.chain()).unwrap();
        let after = domain(after);
        let again = after
            .still_allows(&peer, now())
            .map_err(|refusal| refusal.reason);
        let anew = verify(&after, &self.chain())
            .and_then(|peer| after.authorize(peer))
            .map_err(|refusal| refusal.reason);
        assert_eq!(again.as_ref().err(), anew.as_ref().err());
        if let (Ok(rule), Ok(authorized)) = (&again, &anew) {
            assert_eq!(&**rule, authorized.rule());
        }
        again.err()
    }
}

#[test]
fn who_lost_nothing_stays() {
    let world = World::new();
    let before = || world.with_crls(&[], &[]);
    assert_eq!(world.judged_again(before(), before()), None);
    assert_eq!(
        world.judged_again(sources(&world.root), sources(&world.root)),
        None
    );
    // Other serials, the same serial of another issuer, an anchor more, another rule that allows.
    let mut after = world.with_crls(&[7, 71], &[70, 8]);
    after.anchors.push(Ca::root("another").certificate);
    after.policy = allow(Matcher::CommonName("alice".to_owned()));
    assert_eq!(world.judged_again(before(), after), None);
}

#[test]
fn the_revoked_are_found_at_every_depth() {
    let world = World::new();
    let before = || world.with_crls(&[], &[]);
    for after in [world.with_crls(&[], &[7]), world.with_crls(&[70], &[])] {
        let lost = world.judged_again(before(), after);
        assert_eq!(lost, Some(CloseReason::CertificateRevoked));
    }
    // CRLs for a domain that had none.
    let lost = world.judged_again(sources(&world.root), world.with_crls(&[], &[7]));
    assert_eq!(lost, Some(CloseReason::CertificateRevoked));
}

#[test]
fn the_newest_crl_counts() {
    let world = World::new();
    let older = |revoked: &[u64]| {
        world
            .intermediate
            .crl_with(revoked, |params| params.this_update = at(NOW - 2 * DAY))
    };
    let mut after = world.with_crls(&[], &[]);
    after.crls.push(older(&[7]));
    assert_eq!(world.judged_again(sources(&world.root), after), None);
    let mut after = world.with_crls(&[], &[7]);
    after.crls.insert(0, older(&[]));
    let lost = world.judged_again(sources(&world.root), after);
    assert_eq!(lost, Some(CloseReason::CertificateRevoked));
}

#[test]
fn an_anchor_that_is_gone_or_replaced_counts_no_more() {
    let world = World::new();
    let lost = world.judged_again(sources(&world.root), sources(&Ca::root("root")));
    assert_eq!(lost, Some(CloseReason::CertificateUnknownCa));
}

#[test]
fn what_policy_no_longer_allows_is_lost() {
    let world = World::new();
    let with = |policy| TrustSources {
        policy,
        ..sources(&world.root)
    };
    let lost = world.judged_again(
        sources(&world.root),
        with(allow(Matcher::CommonName("bob".to_owned()))),
    );
    assert_eq!(lost, Some(CloseReason::PolicyUnmatched));
    let mut denied = allow(Matcher::Any);
    denied.rules.push(Rule {
        name: "out".into(),
        effect: Effect::Deny,
        matchers: vec![Matcher::CommonName("alice".to_owned())],
    });
    let lost = world.judged_again(sources(&world.root), with(denied));
    assert_eq!(lost, Some(CloseReason::PolicyDenied));
    let lost = world.judged_again(sources(&world.root), with(Policy::default()));
    assert_eq!(lost, Some(CloseReason::PolicyUnmatched));
}

#[test]
fn missing_and_expired_crls_follow_their_policies() {
    let world = World::new();
    let before = || world.with_crls(&[], &[]);
    let mut missing = before();
    missing.crls.pop();
    let mut expired = before();
    expired.crls[1] = world.intermediate.crl_with(&[], |params| {
        params.this_update = at(NOW - 2 * DAY);
        params.next_update = at(NOW);
    });
    for after in [&mut missing, &mut expired] {
        let mut allowed = copy(after);
        allowed.unknown_revocation = RevocationPolicy::Allow;
        allowed.expired_crl = RevocationPolicy::Allow;
        assert_eq!(world.judged_again(before(), allowed), None);
        let lost = world.judged_again(before(), copy(after));
        assert_eq!(lost, Some(CloseReason::RevocationUnknown));
    }
    // What an expired CRL revokes stays revoked.
    let mut after = before();
    after.crls[1] = world.intermediate.crl_with(&[7], |params| {
        params.this_update = at(NOW - 2 * DAY);
        params.next_update = at(NOW - DAY);
    });
    after.expired_crl = RevocationPolicy::Allow;
    let lost = world.judged_again(before(), after);
    assert_eq!(lost, Some(CloseReason::CertificateRevoked));
}

/// A CRL for other certificates does not say that this one is good.
#[test]
fn a_crl_counts_for_the_certificates_that_it_is_for() {
    const HERE: &str = "http://crl.example.org/1.crl";
    const ELSEWHERE: &str = "http://crl.example.org/2.crl";
    let (users, cas) = (Some(CrlScope::UserCertsOnly), Some(CrlScope::CaCertsOnly));
    for (points, scope, is_leaf_covered) in [
        (&[][..], None, true),
        (&[], users, true),
        (&[], cas, false),
        (&[HERE], None, true),
        (&[ELSEWHERE, HERE], users, true),
        (&[HERE], cas, false),
        (&[ELSEWHERE], None, false),
    ] {
        let world = World::with_points(points);
        let before = || world.with_crls(&[], &[]);
        let scoped = |from: i64, until: i64| {
            world.intermediate.crl_with(&[], |params| {
                params.this_update = at(NOW - from * DAY);
                params.next_update = at(NOW + until * DAY);
                params.issuing_distribution_point = issuing_distribution_point(HERE, scope);
            })
        };
        let lost = (!is_leaf_covered).then_some(CloseReason::RevocationUnknown);
        let mut after = before();
        after.crls[1] = scoped(1, 1);
        assert_eq!(world.judged_again(before(), copy(&after)), lost);
        after.unknown_revocation = RevocationPolicy::Allow;
        assert_eq!(world.judged_again(before(), after), None);
        // One that has expired counts where it is for the certificate and none is newer.
        let mut after = before();
        after.crls.push(scoped(4, -1));
        assert_eq!(world.judged_again(before(), copy(&after)), None);
        after.crls.remove(1);
        let lost = Some(CloseReason::RevocationUnknown);
        assert_eq!(world.judged_again(before(), after), lost);
    }
    // The same for the CA above.
    let world = World::new();
    for (scope, lost) in [(users, Some(CloseReason::RevocationUnknown)), (cas, None)] {
        let mut after = world.with_crls(&[], &[]);
        after.crls[0] = world.root.crl_with(&[], |params| {
            params.issuing_distribution_point = issuing_distribution_point(HERE, scope);
        });
        assert_eq!(world.judged_again(sources(&world.root), after), lost);
    }
}

/// The CRL of the key that it has now says nothing of what the one before signed.
#[test]
fn an_issuer_that_changed_its_key_has_no_crl_for_the_one_before() {
    let world = World::new();
    // One below an intermediate, and one below the anchor.
    for position in [1, 0] {
        let before = || world.with_crls(&[], &[]);
        for unknown in [RevocationPolicy::Deny, RevocationPolicy::Allow] {
            let mut after = before();
            after.unknown_revocation = unknown;
            after.crls[position] = match position {
                1 => world.root.intermediate("intermediate").crl(&[]),
                _ => Ca::root("root").crl(&[]),
            };
            let lost = world.judged_again(before(), copy(&after));
            assert_eq!(lost, Some(CloseReason::RevocationUnknown));
            // With its own beside it, it is asked; what the other key revokes is none of its.
            after.crls.push(before().crls.remove(position));
            assert_eq!(world.judged_again(before(), copy(&after)), None);
            after.crls[position] = match position {
                1 => world.root.intermediate("intermediate").crl(&[7]),
                _ => Ca::root("root").crl(&[70]),
            };
            assert_eq!(world.judged_again(before(), after), None);
        }
        let without_crls = sources(&world.root);
        assert_eq!(world.judged_again(before(), without_crls), None);
    }
}

fn copy(sources: &TrustSources) -> TrustSources {
    TrustSources {
        name: sources.name.clone(),
        anchors: sources.anchors.clone(),
        crls: sources.crls.clone(),
        policy: sources.policy.clone(),
        bundles: Vec::new(),
        ..*sources
    }
}

#[test]
fn the_validity_of_the_path_is_asked_apart() {
    let world = World::new();
    let domain: TrustDomain = domain(sources(&world.root));
    let peer = verify(&domain, &world.chain()).unwrap();
    let time = |seconds: i64| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.unsigned_abs()))
    };
    for (seconds, valid) in [
        (NOW - 10 * DAY - 1, false),
        (NOW - 10 * DAY, true),
        (NOW + 10 * DAY, true),
        (NOW + 10 * DAY + 1, false),
    ] {
        assert_eq!(peer.chain().is_valid_at(time(seconds)), valid, "{seconds}");
    }
    assert!(domain.still_allows(&peer, time(NOW + 11 * DAY)).is_ok());
}
