//! SPIFFE bundles: an authority vouches for the IDs of its own trust domain and for no other, in
//! full handshakes, through the cache, by tickets and on live connections.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};
use ringgate::close_reason::CloseReason;
use ringgate::trust::cache::{self, CacheBounds, VerdictCache};
use ringgate::trust::domain::{Bundle, TrustDomain, TrustSources};
use ringgate::trust::policy::Matcher;
use ringgate::trust::spiffe::{SpiffePattern, TrustDomainName};
use ringgate::trust::stek::{Secret, Stek};
use ringgate::trust::ticket::{TicketScope, Tickets};
use rustls_pki_types::CertificateDer;

use crate::pki::{self, Ca, Leaf, NOW, client_with, dns, uri};
use crate::{allow, domain, judge, refused, sources};

const A: &str = "a.example";
const B: &str = "b.example";

fn bundle(trust_domain: &str, cas: &[&Ca]) -> Bundle {
    Bundle {
        trust_domain: TrustDomainName::parse(trust_domain).unwrap(),
        anchors: cas.iter().map(|ca| ca.certificate.clone()).collect(),
    }
}

/// Trusts these bundles and lets everybody below them in.
fn federated(bundles: Vec<Bundle>) -> TrustSources {
    TrustSources {
        name: "front".to_owned(),
        bundles,
        policy: allow(Matcher::Any),
        ..TrustSources::default()
    }
}

fn svid(ca: &Ca, id: &str) -> Leaf {
    ca.issue(client_with("workload", vec![uri(id)]))
}

struct World {
    a: Ca,
    b: Ca,
}

impl World {
    fn new() -> Self {
        Self {
            a: Ca::root("CA of a"),
            b: Ca::root("CA of b"),
        }
    }

    fn sources(&self) -> TrustSources {
        federated(vec![bundle(A, &[&self.a]), bundle(B, &[&self.b])])
    }

    fn swapped(&self) -> TrustSources {
        federated(vec![bundle(A, &[&self.b]), bundle(B, &[&self.a])])
    }
}

#[test]
fn no_authority_vouches_for_another_trust_domain() {
    let world = World::new();
    let domain = domain(world.sources());
    for (ca, own, other) in [(&world.a, A, B), (&world.b, B, A)] {
        let below = ca.intermediate("Issuing CA");
        let [mine, foreign] = [own, other].map(|name| format!("spiffe://{name}/ns/x/sa/web"));
        let direct = svid(ca, &mine).certificate;
        assert!(judge(&domain, &[&direct]).is_ok());
        let leaf = svid(&below, &mine).certificate;
        let authorized = judge(&domain, &[&leaf, &below.certificate]).unwrap();
        assert_eq!(authorized.identity().spiffe_id(), Some(&*mine));

        let named = [
            "leads to no trust anchor",
            &format!("of the trust domain `{own}`, which may not vouch for `{other}`"),
        ];
        let impostor = svid(ca, &foreign).certificate;
        let outcome = judge(&domain, &[&impostor]);
        refused(outcome, CloseReason::CertificateUnknownCa, &named);
        let impostor = svid(&below, &foreign).certificate;
        // Sending its CA along does not make it one of the bundle.
        let chain = [&impostor, &below.certificate, &ca.certificate];
        let outcome = judge(&domain, &chain);
        refused(outcome, CloseReason::CertificateUnknownCa, &named[1..]);
    }
}

#[test]
fn a_trust_domain_without_a_bundle_is_refused() {
    let world = World::new();
    let domain = domain(world.sources());
    for (id, trust_domain) in [
        ("spiffe://c.example/x", "c.example"),
        ("spiffe://a.example.c/x", "a.example.c"),
        ("spiffe://a/x", "a"),
    ] {
        let outcome = judge(&domain, &[&svid(&world.a, id).certificate]);
        let named = [
            &*format!("`{trust_domain}`, which has no bundle here"),
            "those of `a.example`, `b.example`",
        ];
        refused(outcome, CloseReason::CertificateUnknownCa, &named);
    }
}

#[test]
fn one_authority_of_two_trust_domains_vouches_for_both() {
    let shared = Ca::root("shared");
    let domain = domain(federated(vec![
        bundle(A, &[&shared]),
        bundle(B, &[&shared]),
    ]));
    for id in ["spiffe://a.example/x", "spiffe://b.example/x"] {
        assert!(judge(&domain, &[&svid(&shared, id).certificate]).is_ok());
    }
}

#[test]
fn a_bundle_may_hold_several_authorities() {
    let (old, new) = (Ca::root("CA"), Ca::root("CA"));
    let domain = domain(federated(vec![bundle(A, &[&old, &new])]));
    for ca in [&old, &new] {
        assert!(judge(&domain, &[&svid(ca, "spiffe://a.example/x").certificate]).is_ok());
    }
}

#[test]
fn what_is_no_svid_is_refused() {
    const ID: &str = "spiffe://a.example/x";
    let world = World::new();
    let domain = domain(world.sources());
    for (sans, part) in [
        (vec![], "it has 0 URI SANs"),
        (vec![dns("web.a.example")], "it has 0 URI SANs"),
        (
            vec![uri(ID), uri("spiffe://a.example/y")],
            "it has 2 URI SANs",
        ),
        (
            vec![uri(ID), uri("https://a.example/y")],
            "it has 2 URI SANs",
        ),
        (
            vec![uri("https://a.example/x")],
            "is no SPIFFE ID of a client",
        ),
        (
            vec![uri("spiffe://a.example")],
            "is no SPIFFE ID of a client",
        ),
        (
            vec![uri("spiffe://a.example/")],
            "is no SPIFFE ID of a client",
        ),
        (
            vec![uri("SPIFFE://a.example/x")],
            "is no SPIFFE ID of a client",
        ),
        (
            vec![uri("spiffe://A.example/x")],
            "is no SPIFFE ID of a client",
        ),
        (
            vec![uri("spiffe://u@a.example/x")],
            "is no SPIFFE ID of a client",
        ),
        (
            vec![uri("spiffe://a.example:1/x")],
            "is no SPIFFE ID of a client",
        ),
        (
            vec![uri("spiffe://a.example/x?y")],
            "is no SPIFFE ID of a client",
        ),
    ] {
        let leaf = world.a.issue(client_with("workload", sans)).certificate;
        let outcome = judge(&domain, &[&leaf]);
        let named = ["`CN=workload` is no X.509-SVID", part];
        refused(outcome, CloseReason::CertificateInvalid, &named);
        // Plain anchors vouch for all of them.
        assert!(judge(&crate::domain(sources(&world.a)), &[&leaf]).is_ok());
    }
    // Names of other kinds may stand beside the ID.
    let more = client_with("workload", vec![dns("web.a.example"), uri(ID)]);
    assert!(judge(&domain, &[&world.a.issue(more).certificate]).is_ok());
}

#[test]
fn what_may_sign_is_no_client() {
    let world = World::new();
    let domain = domain(world.sources());
    let changes: [fn(&mut rcgen::CertificateParams); 3] = [
        |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        },
        |params| params.key_usages.push(KeyUsagePurpose::KeyCertSign),
        |params| params.key_usages.push(KeyUsagePurpose::CrlSign),
    ];
    for change in changes {
        let mut params = client_with("workload", vec![uri("spiffe://a.example/x")]);
        change(&mut params);
        let outcome = judge(&domain, &[&world.a.issue(params).certificate]);
        let named = ["is no X.509-SVID", "it may sign certificates or CRLs"];
        refused(outcome, CloseReason::CertificateInvalid, &named);
    }
}

#[test]
fn bundles_that_cannot_be_used() {
    let world = World::new();
    let of_b = Ca::root_with("SPIRE", |params| {
        params.subject_alt_names = vec![uri("spiffe://b.example")];
    });
    let both = TrustSources {
        bundles: world.sources().bundles,
        ..sources(&world.a)
    };
    let merged = bundle(A, &[&world.a, &of_b]);
    let twice = vec![bundle(A, &[&world.a]), bundle(A, &[&world.b])];
    for (sources, part) in [
        (both, "keep one of the two"),
        (
            federated(vec![bundle(A, &[])]),
            "bundle of `a.example`: it has no",
        ),
        (federated(twice), "there are two"),
        (
            federated(vec![merged]),
            "`CN=SPIRE` is an authority of the trust domain `b.example`",
        ),
    ] {
        let error = TrustDomain::new(sources).unwrap_err().to_string();
        assert!(
            error.contains(part) && error.contains("trust domain `"),
            "{error}"
        );
    }
    assert!(TrustDomain::new(federated(vec![bundle(B, &[&of_b])])).is_ok());
}

/// Everything that is remembered of a client is found by the domain's digest.
#[test]
fn the_digest_tells_whose_bundle_an_anchor_is_in() {
    let world = World::new();
    let plain = || TrustSources {
        anchors: vec![world.a.certificate.clone(), world.b.certificate.clone()],
        ..sources(&world.a)
    };
    let both_in = |name| federated(vec![bundle(name, &[&world.a, &world.b])]);
    let all = [
        world.sources(),
        world.swapped(),
        plain(),
        both_in(A),
        both_in(B),
        federated(vec![bundle(A, &[&world.a])]),
    ];
    let digests: std::collections::HashSet<_> = all
        .map(|sources| domain(sources).digest())
        .into_iter()
        .collect();
    assert_eq!(digests.len(), 6);
    let mut reordered = world.sources();
    reordered.bundles.reverse();
    assert_eq!(domain(reordered).digest(), domain(world.sources()).digest());
}

/// A client that was let in by `before`, as it comes back when `after` is in force.
#[track_caller]
fn comes_back(leaf: &CertificateDer<'static>, before: TrustSources, after: TrustSources) -> bool {
    const HOUR: Duration = Duration::from_secs(3600);
    let (before, after) = (domain(before), domain(after));
    let scope = TicketScope::new("front", "only");
    let secret = Arc::new(Secret::new(&[7; 32]).unwrap());
    let tickets = Tickets::new(Stek::new(secret, 6 * HOUR), 8 * HOUR, HOUR);
    let authorized = judge(&before, &[leaf]).unwrap();
    let ticket = tickets
        .seal(&scope, &authorized, NOW, leaf, pki::now())
        .unwrap();
    let resumes = |domain: &TrustDomain| {
        let judged = tickets.judge(&scope, domain, &ticket, pki::now());
        judged.is_some()
    };
    // With the cache, which then knows the chain by the domain before, and without.
    let bounds = CacheBounds {
        entries: 16,
        bytes: 1 << 16,
    };
    let without = resumes(&after);
    cache::install(Some(VerdictCache::new(bounds, HOUR)));
    assert!(resumes(&before) && resumes(&before));
    assert_eq!(cache::figures().hits, 1);
    let with = resumes(&after);
    cache::install(None);

    // The live connection, and a full handshake.
    let stays = after.still_allows(authorized.peer(), pki::now());
    let anew = judge(&after, &[leaf]);
    let reason = |refusal: &ringgate::trust::Refusal| refusal.reason;
    assert_eq!(
        stays.as_ref().err().map(reason),
        anew.as_ref().err().map(reason)
    );
    assert_eq!([without, with], [anew.is_ok(); 2]);
    anew.is_ok()
}

#[test]
fn who_comes_back_is_vouched_for_by_its_own_trust_domain_today() {
    let world = World::new();
    let leaf = svid(&world.a, "spiffe://a.example/x").certificate;
    assert!(comes_back(&leaf, world.sources(), world.sources()));
    // The same anchors, in each other's place.
    assert!(!comes_back(&leaf, world.sources(), world.swapped()));
    // The anchor is only in the other bundle now, or its bundle is gone.
    let moved = federated(vec![
        bundle(A, &[&Ca::root("new")]),
        bundle(B, &[&world.a, &world.b]),
    ]);
    assert!(!comes_back(&leaf, world.sources(), moved));
    let gone = federated(vec![bundle(B, &[&world.b])]);
    assert!(!comes_back(&leaf, world.sources(), gone));
    // A bundle more, or an anchor more in its own.
    let more = federated(vec![bundle(A, &[&Ca::root("new"), &world.a])]);
    assert!(comes_back(&leaf, world.sources(), more));
    // To plain anchors and from them.
    assert!(comes_back(&leaf, world.sources(), sources(&world.a)));
    assert!(comes_back(&leaf, sources(&world.a), world.sources()));
    assert!(!comes_back(&leaf, sources(&world.a), world.swapped()));
    for sans in [vec![], vec![uri("https://a.example/x")]] {
        let plain = world.a.issue(client_with("plain", sans)).certificate;
        assert!(!comes_back(&plain, sources(&world.a), world.sources()));
    }
}

#[test]
fn spiffe_rules_look_at_the_one_id_alone() {
    let ca = Ca::root("CA");
    let pattern = SpiffePattern::parse("spiffe://a.example/ns/*/sa/web").unwrap();
    let mut sources = sources(&ca);
    sources.policy = allow(Matcher::Spiffe(pattern));
    let domain = domain(sources);
    const ID: &str = "spiffe://a.example/ns/x/sa/web";
    let judged = |sans| judge(&domain, &[&ca.issue(client_with("c", sans)).certificate]);
    assert!(judged(vec![uri(ID)]).is_ok());
    for sans in [
        vec![uri(ID), uri("spiffe://a.example/y")],
        vec![uri("spiffe://a.example/ns/x/sa/db")],
        vec![dns("a.example")],
        vec![],
    ] {
        refused(judged(sans), CloseReason::PolicyUnmatched, &[]);
    }
}
