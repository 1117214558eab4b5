//! Who resumes, and who must come in by a full handshake again.

use std::sync::Arc;
use std::time::Duration;

use ringgate::clock::Clock;
use ringgate::close_reason::CloseReason;
use ringgate::limits::TICKET_BYTES_MAX;
use ringgate::trust::cache::{self, CacheBounds, CacheFigures, VerdictCache};
use ringgate::trust::policy::{Effect, Matcher};
use ringgate::trust::stek::{Secret, Stek};

use crate::pki::{self, Ca, NOW};
use crate::returning::*;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn resume_valid() {
    for version in VERSIONS {
        let place = Place::new();
        let acceptor = place.acceptor();
        let mut client = place.client(version);
        let first = client.visit(&acceptor).unwrap();
        assert!(!first.resumed);
        // Each resumption brings the ticket for the next.
        for _ in 0..3 {
            let again = client.visit(&acceptor).unwrap();
            assert!(again.resumed && again.offered);
            assert_eq!(again.client.identity(), first.client.identity());
            assert_eq!(again.client.peer().leaf(), &place.leaf.certificate);
            assert_eq!(
                again.client.peer().intermediates(),
                std::slice::from_ref(&place.intermediate.certificate)
            );
            assert_eq!(
                again.client.peer().anchor_spki(),
                first.client.peer().anchor_spki()
            );
            assert_eq!(again.client.rule(), "in");
        }
    }
}

/// Its chain makes the ticket larger than one may be, and it comes in as ever.
#[test]
fn a_client_with_a_large_chain_gets_no_ticket() {
    let leaf = |len: usize| {
        move |params: &mut rcgen::CertificateParams| {
            let padding =
                rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 9], vec![4; len]);
            params.custom_extensions.push(padding);
        }
    };
    for version in VERSIONS {
        for (len, gets_one) in [(TICKET_BYTES_MAX - 3000, true), (TICKET_BYTES_MAX, false)] {
            let place = Place::with(|_| {}, leaf(len));
            let acceptor = place.acceptor();
            let mut client = place.client(version);
            for resumed in [false, gets_one] {
                let visit = client.visit(&acceptor).unwrap();
                assert_eq!((visit.resumed, visit.offered), (resumed, resumed));
            }
        }
    }
}

#[test]
fn one_ticket_a_handshake_and_none_where_resumption_is_off() {
    let place = Place::new();
    for (tickets, resumed) in [(Some(1), [false, true, true]), (None, [false; 3])] {
        let acceptor = place.acceptor_with(place.domain(), |options| match tickets {
            Some(tickets) => options.resumption.as_mut().unwrap().tickets = tickets,
            None => options.resumption = None,
        });
        for version in VERSIONS {
            let mut client = place.client(version);
            for resumed in resumed {
                let visit = client.visit(&acceptor).unwrap();
                assert_eq!((visit.resumed, visit.offered), (resumed, resumed));
                assert!(visit.tickets <= tickets.unwrap_or(0), "{}", visit.tickets);
            }
        }
    }
}

/// The first visit is let in; after `later` the ticket is offered again to `then`, which declines it
/// and refuses the full handshake for `reason`.
#[track_caller]
fn declined_then_refused(
    place: &Place,
    later: Duration,
    then: impl FnOnce(&Place) -> Domain,
    reason: CloseReason,
) {
    let (before, clock) = (place.acceptor(), place.clock.clone());
    let mut clients = VERSIONS.map(|version| place.client(version));
    for client in &mut clients {
        assert!(!client.visit(&before).unwrap().resumed);
        assert!(client.visit(&before).unwrap().resumed);
    }
    clock.advance(later);
    let after = place.acceptor_with(then(place), |_| {});
    for client in &mut clients {
        let refused = client.visit(&after).unwrap_err();
        assert_eq!(refused.failure.reason, reason, "{}", refused.failure.detail);
        assert!(refused.offered, "no ticket was offered");
    }
}

#[test]
fn resume_after_expiry() {
    // Sooner than a verdict's time to live: only the certificate's end is a reason to look again.
    let soon = pki::at(NOW + 1800);
    let leaf = Place::with(|_| {}, |leaf| leaf.not_after = soon);
    let intermediate = Place::with(|intermediate| intermediate.not_after = soon, |_| {});
    for place in [leaf, intermediate] {
        let later = HOUR / 2 + Duration::from_secs(1);
        let reason = CloseReason::CertificateExpired;
        declined_then_refused(&place, later, Place::domain, reason);
    }
}

#[test]
fn resume_until_expiry() {
    let place = Place::with(|_| {}, |leaf| leaf.not_after = pki::at(NOW + 3600));
    let acceptor = place.acceptor();
    let mut client = place.client(TLS13);
    client.visit(&acceptor).unwrap();
    place.clock.advance(HOUR);
    assert!(client.visit(&acceptor).unwrap().resumed);
}

#[test]
fn resume_after_revocation() {
    let crls = |place: &Place, leaf: &[u64], intermediate: &[u64]| {
        let crls = vec![place.intermediate.crl(leaf), place.root.crl(intermediate)];
        place.domain_with(|sources| sources.crls = crls)
    };
    for (leaf, intermediate) in [(&[LEAF_SERIAL][..], &[][..]), (&[], &[INTERMEDIATE_SERIAL])] {
        let place = Place::new();
        let reason = CloseReason::CertificateRevoked;
        declined_then_refused(
            &place,
            Duration::ZERO,
            |place| crls(place, leaf, intermediate),
            reason,
        );
    }
}

/// A CRL set that says less than before is as much a reason as one that says "revoked".
#[test]
fn resume_after_a_crl_went_missing_or_expired() {
    let both = |place: &Place| vec![place.intermediate.crl(&[]), place.root.crl(&[])];
    let mut place = Place::new();
    place.crls = both(&place);
    let one = |place: &Place| {
        let crls = vec![place.intermediate.crl(&[])];
        place.domain_with(|sources| sources.crls = crls)
    };
    declined_then_refused(&place, Duration::ZERO, one, CloseReason::RevocationUnknown);

    // Nobody reloads; the CRLs' time passes.
    let mut place = Place::new();
    place.crls = vec![
        place.intermediate.crl(&[]),
        place.root.crl_with(&[], |crl| {
            crl.next_update = pki::at(NOW + 1800);
        }),
    ];
    let reason = CloseReason::RevocationUnknown;
    declined_then_refused(&place, HOUR / 2, Place::domain, reason);
}

#[test]
fn resume_after_ca_removed() {
    let other = |place: &Place| {
        let other = Ca::root("Other root").certificate;
        place.domain_with(|sources| sources.anchors = vec![other])
    };
    let place = Place::new();
    declined_then_refused(
        &place,
        Duration::ZERO,
        other,
        CloseReason::CertificateUnknownCa,
    );
}

#[test]
fn resume_after_policy_change() {
    let rule_gone = |place: &Place| {
        place.domain_with(|sources| {
            sources.policy.rules[0].matchers = vec![Matcher::CommonName("somebody else".into())];
        })
    };
    let denied =
        |place: &Place| place.domain_with(|sources| sources.policy.rules[0].effect = Effect::Deny);
    let place = Place::new();
    declined_then_refused(
        &place,
        Duration::ZERO,
        rule_gone,
        CloseReason::PolicyUnmatched,
    );
    let place = Place::new();
    declined_then_refused(&place, Duration::ZERO, denied, CloseReason::PolicyDenied);
}

#[test]
fn resume_other_name() {
    for version in VERSIONS {
        let place = Place::new();
        let acceptor = place.acceptor_for_names(&["a.test", "b.test"]);
        let mut client = place.client(version);
        client.visit_as(&acceptor, "a.test").unwrap();
        let other = client.visit_as(&acceptor, "b.test").unwrap();
        assert!(other.offered && !other.resumed);
        assert_eq!((other.route, &*other.server_name.unwrap()), (1, "b.test"));

        // The same name and the same trust domain, but another listener.
        let elsewhere = place.acceptor_with(place.domain(), |options| {
            options.resumption.as_mut().unwrap().listener = "back".into();
        });
        let mut client = place.client(version);
        client.visit(&place.acceptor()).unwrap();
        let other = client.visit(&elsewhere).unwrap();
        assert!(other.offered && !other.resumed);

        // The same listener, but the name leads to another route now.
        let renamed = place.acceptor_with(place.domain(), |options| {
            options.routes[0].name = "other".into();
        });
        let mut client = place.client(version);
        client.visit(&place.acceptor()).unwrap();
        let other = client.visit(&renamed).unwrap();
        assert!(other.offered && !other.resumed);
    }
}

/// Somewhere else: its own thread with its own verdicts, its own acceptor, the same secret.
fn resumes_elsewhere(secret: impl Fn() -> Arc<Secret> + Sync) -> bool {
    let place = Place::new();
    let acceptor_here = || {
        place.acceptor_with(place.domain(), |options| {
            options.resumption.as_mut().unwrap().stek = Stek::new(secret(), ROTATION);
        })
    };
    let resumed = VERSIONS.map(|version| {
        let mut client = place.client(version);
        client.visit(&acceptor_here()).unwrap();
        std::thread::scope(|scope| {
            let elsewhere = scope.spawn(|| client.visit(&acceptor_here()).unwrap().resumed);
            elsewhere.join().unwrap()
        })
    });
    assert_eq!(resumed[0], resumed[1]);
    resumed[0]
}

#[test]
fn resume_other_shard() {
    let secret = Arc::new(Secret::random());
    assert!(resumes_elsewhere(|| Arc::clone(&secret)));
}

#[test]
fn resume_other_process() {
    assert!(resumes_elsewhere(|| Arc::new(
        Secret::new(&[7; 32]).unwrap()
    )));
}

#[test]
fn resume_after_restart() {
    let from_file =
        || Arc::new(Secret::new(b"5bd1e995 a text of some length in a file\n").unwrap());
    assert!(resumes_elsewhere(from_file));
    assert!(!resumes_elsewhere(|| Arc::new(Secret::random())));
}

#[test]
fn resume_lineage_cap() {
    for version in VERSIONS {
        let place = Place::new();
        let acceptor = place.acceptor();
        let mut client = place.client(version);
        // The cap is eight hours; the full handshake starts it again.
        for hour in 0..17 {
            let visit = client.visit(&acceptor).unwrap();
            assert_eq!(visit.resumed, hour % 8 != 0, "hour {hour}");
            place.clock.advance(HOUR);
        }
    }
}

#[test]
fn resume_unaffected_reload() {
    for version in VERSIONS {
        let mut place = Place::new();
        place.crls = vec![place.intermediate.crl(&[]), place.root.crl(&[])];
        let mut client = place.client(version);
        client.visit(&place.acceptor()).unwrap();
        // Somebody else is revoked, another CA comes, a rule for others comes.
        place.crls = vec![
            place.intermediate.crl(&[LEAF_SERIAL + 1]),
            place.root.crl(&[]),
        ];
        for _ in 0..2 {
            let reloaded = place.domain_with(|sources| {
                sources.anchors.push(Ca::root("New").certificate);
                let mut rule = sources.policy.rules[0].clone();
                rule.name = "others".into();
                rule.matchers = vec![Matcher::CommonName("another".into())];
                rule.effect = Effect::Deny;
                sources.policy.rules.insert(0, rule);
            });
            let visit = client
                .visit(&place.acceptor_with(reloaded, |_| {}))
                .unwrap();
            assert!(visit.resumed);
        }
    }
}

#[test]
fn resume_old_key() {
    for version in VERSIONS {
        let place = Place::new();
        // A cap that is no reason to decline.
        let acceptor = place.acceptor_with(place.domain(), |options| {
            options.resumption.as_mut().unwrap().cap = 100 * HOUR;
        });
        let mut client = place.client(version);
        for (rotations, resumed) in [(0, false), (1, true), (2, false), (1, true)] {
            place.clock.advance(ROTATION * rotations);
            let visit = client.visit(&acceptor).unwrap();
            assert_eq!((visit.resumed, visit.offered), (resumed, rotations > 0));
        }
    }
}

#[test]
fn resume_after_the_clock_was_set_back() {
    let place = Place::new();
    let mut client = place.client(TLS13);
    client.visit(&place.acceptor()).unwrap();
    let behind = |seconds: u64| {
        let past = Duration::from_secs(NOW.unsigned_abs() - seconds);
        place.acceptor_with(place.domain(), |options| {
            options.clock = Clock::manual(past)
        })
    };
    assert!(
        client.visit(&behind(30)).unwrap().resumed,
        "clocks of hosts differ a little"
    );
    // The key of the hour before is the next one there: the age alone is the reason.
    let visit = client.visit(&behind(90)).unwrap();
    assert!(visit.offered && !visit.resumed);
}

#[test]
fn ticket_garbage() {
    // On the wire: from a stranger's secret. Cut and changed ones are put to the judge directly, in
    // tests/trust: here they would break the client's transcript, too.
    for version in VERSIONS {
        let place = Place::new();
        let stranger = place.acceptor_with(place.domain(), |options| {
            options.resumption.as_mut().unwrap().stek =
                Stek::new(Arc::new(Secret::random()), ROTATION);
        });
        let mut client = place.client(version);
        client.visit(&stranger).unwrap();
        let visit = client.visit(&place.acceptor()).unwrap();
        assert!(visit.offered && !visit.resumed);
    }
}

/// The six situations without resumption, through a cache that has just said yes.
#[test]
fn cache_same_six() {
    let bounds = CacheBounds {
        entries: 8,
        bytes: 8 * 4096,
    };
    let figures = |hits, misses, expired| CacheFigures {
        hits,
        misses,
        evicted: 0,
        expired,
    };
    let place = Place::with(|_| {}, |leaf| leaf.not_after = pki::at(NOW + 4 * 3600));
    let without = |domain| place.acceptor_with(domain, |options| options.resumption = None);
    let before = without(place.domain());
    for version in VERSIONS {
        assert!(cache::install(Some(VerdictCache::new(bounds, HOUR))).is_none());
        let mut client = place.client(version);
        let visits = [(); 3].map(|()| client.visit(&before).unwrap());
        assert!(visits.iter().all(|visit| !visit.resumed));
        assert_eq!(cache::figures(), figures(2, 1, 0));
        let [first, second, _] = visits.map(|visit| visit.client);
        assert!(first.peer().is_shared_with(second.peer()));

        let crl = vec![place.intermediate.crl(&[LEAF_SERIAL]), place.root.crl(&[])];
        let revoked = place.domain_with(|sources| sources.crls = crl);
        let crl = vec![
            place.intermediate.crl(&[]),
            place.root.crl(&[INTERMEDIATE_SERIAL]),
        ];
        let intermediate_revoked = place.domain_with(|sources| sources.crls = crl);
        let anchor = Ca::root("Other").certificate;
        let ca_removed = place.domain_with(|sources| sources.anchors = vec![anchor]);
        let denied = place.domain_with(|sources| sources.policy.rules[0].effect = Effect::Deny);
        for (domain, reason) in [
            (revoked, CloseReason::CertificateRevoked),
            (intermediate_revoked, CloseReason::CertificateRevoked),
            (ca_removed, CloseReason::CertificateUnknownCa),
            (denied.clone(), CloseReason::PolicyDenied),
        ] {
            // Refusals are not remembered either.
            for _ in 0..2 {
                let refused = client.visit(&without(domain.clone())).unwrap_err();
                assert_eq!(refused.failure.reason, reason);
            }
        }
        // Another name at the same listener, for which other rules hold.
        let names = place.acceptor_for_domains(&[("a.test", place.domain()), ("b.test", denied)]);
        client.visit_as(&names, "a.test").unwrap();
        let refused = client.visit_as(&names, "b.test").unwrap_err();
        assert_eq!(refused.failure.reason, CloseReason::PolicyDenied);
        // Unaffected: the verdict of the first domain is still there.
        assert_eq!(cache::figures(), figures(3, 10, 0));

        place.clock.advance(HOUR);
        client.visit(&before).unwrap();
        assert_eq!(cache::figures(), figures(3, 11, 1), "past its time to live");
        cache::install(None);
    }
    // The clock stands two hours on; a verdict outlives neither its leaf nor what it was told.
    cache::install(Some(VerdictCache::new(bounds, 100 * HOUR)));
    let mut client = place.client(TLS13);
    client.visit(&before).unwrap();
    place.clock.advance(2 * HOUR);
    client.visit(&before).unwrap();
    place.clock.advance(Duration::from_secs(1));
    let refused = client.visit(&before).unwrap_err();
    assert_eq!(refused.failure.reason, CloseReason::CertificateExpired);
    assert_eq!(cache::figures(), figures(1, 2, 1));
    cache::install(None);
}

#[test]
fn a_wrong_key_gains_nothing_from_a_remembered_verdict() {
    let place = Place::new();
    let bounds = CacheBounds {
        entries: 8,
        bytes: 8 * 4096,
    };
    cache::install(Some(VerdictCache::new(bounds, HOUR)));
    let acceptor = place.acceptor();
    for version in VERSIONS {
        place.client(version).visit(&acceptor).unwrap();
        let refused = place
            .client_with_wrong_key(version)
            .visit(&acceptor)
            .unwrap_err();
        assert_eq!(
            refused.failure.reason,
            CloseReason::CertificatePossessionUnproven
        );
    }
    assert!(cache::figures().hits >= 3);
    cache::install(None);
}
