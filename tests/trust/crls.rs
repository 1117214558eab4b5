use rcgen::CrlScope;
use ringgate::close_reason::CloseReason;
use ringgate::trust::domain::{RevocationPolicy, TrustDomain, TrustSources};
use rustls_pki_types::CertificateRevocationListDer;

use crate::pki::{
    Ca, DAY, Leaf, NOW, at, client, distribution_point, issuing_distribution_point, now, serial,
};
use crate::{domain, judge, refused, sources, verify};

const GOOD: u64 = 7;
const REVOKED: u64 = 8;

fn leaf(ca: &Ca, number: u64) -> Leaf {
    let mut params = client("leaf");
    params.serial_number = serial(number);
    ca.issue(params)
}

fn domain_with(
    root: &Ca,
    crls: &[&CertificateRevocationListDer<'static>],
    unknown: RevocationPolicy,
    expired: RevocationPolicy,
) -> TrustDomain {
    let mut sources = sources(root);
    sources.crls = crls.iter().map(|crl| (*crl).clone()).collect();
    sources.unknown_revocation = unknown;
    sources.expired_crl = expired;
    domain(sources)
}

fn strict(root: &Ca, crls: &[&CertificateRevocationListDer<'static>]) -> TrustDomain {
    domain_with(
        root,
        crls,
        RevocationPolicy::default(),
        RevocationPolicy::default(),
    )
}

#[test]
fn revoked_leaf() {
    let root = Ca::root("Root");
    let (good, revoked) = (leaf(&root, GOOD), leaf(&root, REVOKED));
    let domain = strict(&root, &[&root.crl(&[REVOKED])]);
    assert!(judge(&domain, &[&good.certificate]).is_ok());
    refused(
        judge(&domain, &[&revoked.certificate]),
        CloseReason::CertificateRevoked,
        &["`CN=leaf`, serial 08", "CRL of `CN=Root`"],
    );
    // Without CRLs nothing is revoked.
    assert!(judge(&strict(&root, &[]), &[&revoked.certificate]).is_ok());
}

#[test]
fn crl_missing_for_issuer() {
    let root = Ca::root("Root");
    let ca = root.intermediate("CA");
    let leaf = leaf(&ca, GOOD);
    let chain = [&leaf.certificate, &ca.certificate];
    let (of_root, of_ca) = (root.crl(&[]), ca.crl(&[]));

    let domain = strict(&root, &[&of_root]);
    let named = ["no CRL of `CN=CA`", "`CN=leaf`", "`clients`"];
    refused(
        judge(&domain, &chain),
        CloseReason::RevocationUnknown,
        &named,
    );
    let domain = strict(&root, &[&of_ca]);
    let named = ["no CRL of `CN=Root`", "`CN=CA`"];
    refused(
        judge(&domain, &chain),
        CloseReason::RevocationUnknown,
        &named,
    );

    assert!(judge(&strict(&root, &[&of_root, &of_ca]), &chain).is_ok());
    let lenient = |crl| {
        domain_with(
            &root,
            &[crl],
            RevocationPolicy::Allow,
            RevocationPolicy::Deny,
        )
    };
    assert!(judge(&lenient(&of_root), &chain).is_ok());
    assert!(judge(&lenient(&of_ca), &chain).is_ok());
}

#[test]
fn crl_expired() {
    let root = Ca::root("Root");
    let (good, revoked) = (leaf(&root, GOOD), leaf(&root, REVOKED));
    let old = root.crl_with(&[REVOKED], |params| {
        params.this_update = at(NOW - 4 * DAY);
        params.next_update = at(NOW - 2 * DAY);
    });
    let domain = strict(&root, &[&old]);
    refused(
        judge(&domain, &[&good.certificate]),
        CloseReason::RevocationUnknown,
        &[
            "CRL of `CN=Root`",
            "2025-12-30T00:00:00Z, 2 days ago",
            "`CN=leaf`",
        ],
    );

    let lenient = domain_with(
        &root,
        &[&old],
        RevocationPolicy::Deny,
        RevocationPolicy::Allow,
    );
    assert!(judge(&lenient, &[&good.certificate]).is_ok());
    let outcome = judge(&lenient, &[&revoked.certificate]);
    refused(outcome, CloseReason::CertificateRevoked, &["serial 08"]);
}

#[test]
fn the_newest_crl_of_an_issuer_counts() {
    let root = Ca::root("Root");
    let revoked = leaf(&root, REVOKED);
    let old = root.crl_with(&[], |params| params.this_update = at(NOW - 4 * DAY));
    let new = root.crl(&[REVOKED]);
    for crls in [[&old, &new], [&new, &old]] {
        let outcome = judge(&strict(&root, &crls), &[&revoked.certificate]);
        refused(outcome, CloseReason::CertificateRevoked, &["serial 08"]);
    }
}

/// Dates count in seconds. A CRL that revokes more is longer, and has nothing else ahead of the other.
#[test]
fn of_crls_from_the_same_second_the_one_with_the_higher_number_counts() {
    let root = Ca::root("Root");
    let revoked = leaf(&root, REVOKED);
    for (revoking, other, is_in) in [(2_u64, 1_u64, false), (256, 255, false), (1, 2, true)] {
        let revoking = root.crl_with(&[REVOKED], |params| params.crl_number = revoking.into());
        let other = root.crl_with(&[], |params| params.crl_number = other.into());
        for crls in [[&revoking, &other], [&other, &revoking]] {
            let outcome = judge(&strict(&root, &crls), &[&revoked.certificate]);
            assert_eq!(outcome.is_ok(), is_in, "{outcome:?}");
        }
    }
}

#[test]
fn crl_corrupt() {
    let root = Ca::root("Root");
    let good = root.crl(&[REVOKED]);
    let cut = good[..good.len() - 1].to_vec();
    let tail = [good.as_ref(), &[0]].concat();
    for bytes in [
        Vec::new(),
        cut,
        tail,
        root.certificate.to_vec(),
        b"-----BEGIN".to_vec(),
    ] {
        let mut sources = sources(&root);
        sources.crls = vec![good.clone(), bytes.into()];
        let error = TrustDomain::new(sources).unwrap_err().to_string();
        assert!(
            error.contains("`clients`") && error.contains("CRL 2"),
            "{error}"
        );
    }
}

/// Whatever byte is damaged: the domain is not made, or a certificate that the CRL would revoke
/// stays out. Never a panic.
#[test]
fn crl_damaged_in_any_byte() {
    let root = Ca::root("Root");
    let revoked = leaf(&root, REVOKED);
    let whole = root.crl(&[REVOKED]);
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.to_vec();
            bytes[at] ^= flip;
            let mut sources = sources(&root);
            sources.crls = vec![bytes.into()];
            if let Ok(domain) = TrustDomain::new(sources) {
                let refusal = judge(&domain, &[&revoked.certificate]).unwrap_err();
                assert!(
                    matches!(
                        refusal.reason,
                        CloseReason::CertificateRevoked | CloseReason::RevocationUnknown
                    ),
                    "byte {at} ^ {flip:#x}: {refusal:?}"
                );
            }
        }
    }
}

#[test]
fn crl_of_an_impostor() {
    let root = Ca::root("Root");
    let leaf = leaf(&root, GOOD);
    let impostor = Ca::root("Root");
    let domain = strict(&root, &[&impostor.crl(&[])]);
    refused(
        judge(&domain, &[&leaf.certificate]),
        CloseReason::RevocationUnknown,
        &["`CN=Root`", "signed by another key"],
    );
}

#[test]
fn crl_for_intermediate() {
    let root = Ca::root("Root");
    let ca = root.intermediate_with("CA", |params| params.serial_number = serial(REVOKED));
    let leaf = leaf(&ca, GOOD);
    let domain = strict(&root, &[&root.crl(&[REVOKED]), &ca.crl(&[])]);
    refused(
        judge(&domain, &[&leaf.certificate, &ca.certificate]),
        CloseReason::CertificateRevoked,
        &["`CN=CA`, serial 08", "CRL of `CN=Root`"],
    );
    // One below another CA, by a CRL whose signer is not known before a client comes.
    let upper = root.intermediate("Upper");
    for (number, is_revoked) in [(GOOD, false), (REVOKED, true)] {
        let lower = upper.intermediate_with("Lower", |params| {
            params.serial_number = serial(number);
        });
        let crls = [root.crl(&[]), upper.crl(&[REVOKED]), lower.crl(&[])];
        let domain = strict(&root, &[&crls[0], &crls[1], &crls[2]]);
        let leaf = self::leaf(&lower, GOOD).certificate;
        let chain = [&leaf, &lower.certificate, &upper.certificate];
        // The second time it is known.
        for _ in 0..2 {
            let outcome = judge(&domain, &chain);
            if is_revoked {
                let parts = ["`CN=Lower`, serial 08", "CRL of `CN=Upper`"];
                refused(outcome, CloseReason::CertificateRevoked, &parts);
            } else {
                assert!(outcome.is_ok(), "{outcome:?}");
            }
        }
    }
}

#[test]
fn crl_distribution_point() {
    const HERE: &str = "http://crl.example.org/1.crl";
    const ELSEWHERE: &str = "http://crl.example.org/2.crl";
    let root = Ca::root("Root");
    let crl = |scope| {
        root.crl_with(&[REVOKED], |params| {
            params.issuing_distribution_point = issuing_distribution_point(HERE, scope);
        })
    };
    let of = |number, points: &[&str]| {
        let mut params = client("leaf");
        params.serial_number = serial(number);
        params.crl_distribution_points = points.iter().map(|uri| distribution_point(uri)).collect();
        root.issue(params).certificate
    };
    let (whole, of_clients, of_cas) = (
        crl(None),
        crl(Some(CrlScope::UserCertsOnly)),
        crl(Some(CrlScope::CaCertsOnly)),
    );

    for crl in [&whole, &of_clients] {
        let domain = strict(&root, &[crl]);
        assert!(judge(&domain, &[&of(GOOD, &[HERE])]).is_ok());
        // The point that fits need not be the first.
        for points in [&[HERE][..], &[ELSEWHERE, HERE], &[HERE, ELSEWHERE], &[]] {
            let outcome = judge(&domain, &[&of(REVOKED, points)]);
            refused(outcome, CloseReason::CertificateRevoked, &["serial 08"]);
        }
        for number in [GOOD, REVOKED] {
            let outcome = judge(&domain, &[&of(number, &[ELSEWHERE])]);
            refused(
                outcome,
                CloseReason::RevocationUnknown,
                &["other distribution points"],
            );
        }
    }
    for points in [&[HERE][..], &[]] {
        let outcome = judge(&strict(&root, &[&of_cas]), &[&of(GOOD, points)]);
        refused(
            outcome,
            CloseReason::RevocationUnknown,
            &["other kinds of certificates"],
        );
    }

    // One CRL for each point: each certificate is looked up in its own.
    let second = root.crl_with(&[GOOD], |params| {
        params.issuing_distribution_point = issuing_distribution_point(ELSEWHERE, None);
    });
    for crls in [[&whole, &second], [&second, &whole]] {
        let domain = strict(&root, &crls);
        assert!(judge(&domain, &[&of(GOOD, &[HERE])]).is_ok());
        assert!(judge(&domain, &[&of(REVOKED, &[ELSEWHERE])]).is_ok());
        let outcome = judge(&domain, &[&of(REVOKED, &[HERE])]);
        refused(outcome, CloseReason::CertificateRevoked, &[]);
        let outcome = judge(&domain, &[&of(GOOD, &[ELSEWHERE])]);
        refused(outcome, CloseReason::CertificateRevoked, &[]);
    }
}

/// A CA that has changed its key, and each of its keys has a CRL: whose it is tells the signature.
struct Rekeyed {
    old: Ca,
    new: Ca,
}

impl Rekeyed {
    fn new() -> Self {
        Self {
            old: Ca::root("Root"),
            new: Ca::root("Root"),
        }
    }

    fn trusting_both(&self, crls: Vec<CertificateRevocationListDer<'static>>) -> TrustSources {
        let mut sources = sources(&self.old);
        sources.anchors.push(self.new.certificate.clone());
        sources.crls = crls;
        sources
    }
}

/// From so many days ago until so many days from now.
fn crl(ca: &Ca, revoked: &[u64], from: i64, until: i64) -> CertificateRevocationListDer<'static> {
    ca.crl_with(revoked, |params| {
        params.this_update = at(NOW - from * DAY);
        params.next_update = at(NOW + until * DAY);
    })
}

#[test]
fn crls_of_a_ca_that_changed_its_key() {
    let ca = Rekeyed::new();
    for (old_from, new_from) in [(2, 1), (1, 2), (1, 1)] {
        let crls = vec![
            crl(&ca.old, &[REVOKED], old_from, 1),
            crl(&ca.new, &[REVOKED + 1], new_from, 1),
        ];
        let domain = domain(ca.trusting_both(crls));
        for (issuer, revoked) in [(&ca.old, REVOKED), (&ca.new, REVOKED + 1)] {
            let good = leaf(issuer, GOOD).certificate;
            let peer = judge(&domain, &[&good]).unwrap();
            assert!(domain.still_allows(peer.peer(), now()).is_ok());
            // Asked again, when it is known whose CRL is whose.
            assert!(judge(&domain, &[&good]).is_ok());
            let outcome = judge(&domain, &[&leaf(issuer, revoked).certificate]);
            refused(
                outcome,
                CloseReason::CertificateRevoked,
                &["CRL of `CN=Root`"],
            );
        }
    }
}

#[test]
fn crls_of_an_intermediate_that_changed_its_key() {
    let root = Ca::root("Root");
    let (old, new) = (root.intermediate("CA"), root.intermediate("CA"));
    let mut sources = sources(&root);
    sources.crls = vec![
        root.crl(&[]),
        crl(&old, &[REVOKED], 2, 1),
        crl(&new, &[REVOKED + 1], 1, 1),
    ];
    let domain = domain(sources);
    for (ca, revoked) in [(&old, REVOKED), (&new, REVOKED + 1)] {
        let chain = |number| [leaf(ca, number).certificate, ca.certificate.clone()];
        let [leaf, below] = &chain(GOOD);
        assert!(judge(&domain, &[leaf, below]).is_ok());
        // Its namesake's certificate beside it changes nothing.
        let [leaf, below] = &chain(revoked);
        for others in [&[below][..], &[&old.certificate, &new.certificate]] {
            let outcome = judge(&domain, &[&[leaf], others].concat());
            refused(outcome, CloseReason::CertificateRevoked, &[]);
        }
    }
}

#[test]
fn what_a_namesake_says_does_not_stand_in_for_ones_own() {
    let ca = Rekeyed::new();
    let leaf_of_old = leaf(&ca.old, GOOD).certificate;
    let outcome = |crls| judge(&domain(ca.trusting_both(crls)), &[&leaf_of_old]);
    // None of its own, one of its own that has expired, one whose signature is not good.
    let mut damaged = crl(&ca.old, &[], 1, 1).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let older = || crl(&ca.old, &[], 3, 1);
    for crls in [
        vec![crl(&ca.new, &[], 1, 1), crl(&Ca::root("Root"), &[], 2, 1)],
        vec![crl(&ca.new, &[], 1, 1), crl(&ca.old, &[], 2, -1)],
        vec![crl(&ca.new, &[], 2, 1), damaged.into(), older()],
    ] {
        refused(outcome(crls), CloseReason::RevocationUnknown, &[]);
    }
    // The newest of its own counts, whatever the namesake's age.
    let newer = crl(&ca.old, &[GOOD], 1, 1);
    for crls in [
        vec![older(), newer.clone(), crl(&ca.new, &[], 0, 1)],
        vec![older(), newer.clone(), crl(&ca.new, &[], 2, 1)],
        vec![older(), newer.clone(), crl(&ca.new, &[], 4, 1)],
    ] {
        let peer = verify(&domain(sources(&ca.old)), &[&leaf_of_old]).unwrap();
        let still = domain(ca.trusting_both(crls.clone())).still_allows(&peer, now());
        refused(still, CloseReason::CertificateRevoked, &[]);
        refused(outcome(crls), CloseReason::CertificateRevoked, &[]);
    }
}

/// A key that is out of use leaves a CRL behind that nobody renews.
#[test]
fn the_last_crl_of_an_old_key_expires() {
    let ca = Rekeyed::new();
    let crls = vec![crl(&ca.old, &[], 9, -1), crl(&ca.new, &[], 1, 1)];
    let domain = domain(ca.trusting_both(crls));
    let leaf = leaf(&ca.new, GOOD).certificate;
    let peer = judge(&domain, &[&leaf]).unwrap();
    assert!(domain.still_allows(peer.peer(), now()).is_ok());
}
