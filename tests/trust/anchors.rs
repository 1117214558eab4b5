use ringgate::close_reason::CloseReason;
use ringgate::trust::domain::{RevocationPolicy, TrustDomain, TrustSources};
use ringgate::trust::policy::{Matcher, Policy};
use rustls_pki_types::CertificateDer;

use crate::pki::{Ca, DAY, NOW, RsaKey, at, client};
use crate::{allow, domain, judge, refused, sources, verify};

#[track_caller]
fn not_made(sources: TrustSources, named: &[&str]) {
    let error = TrustDomain::new(sources).unwrap_err().to_string();
    for part in named {
        assert!(error.contains(part), "no `{part}` in: {error}");
    }
}

#[test]
fn ca_missing() {
    let nobody = TrustSources {
        name: "clients".to_owned(),
        ..TrustSources::default()
    };
    not_made(nobody, &["`clients`", "no trust anchors", "name a file"]);
}

#[test]
fn ca_empty() {
    let root = Ca::root("Root");
    let mut sources = sources(&root);
    sources.anchors.push(CertificateDer::from(Vec::new()));
    not_made(sources, &["`clients`", "trust anchor 2"]);
}

#[test]
fn ca_corrupt() {
    let root = Ca::root("Root");
    let whole = root.certificate.to_vec();
    let with_tail = [whole.as_slice(), &[0]].concat();
    let mut version = whole.clone();
    version[4] ^= 0xff;
    let cut = whole[..whole.len() - 1].to_vec();
    for bytes in [
        with_tail,
        version,
        cut,
        b"-----BEGIN CERTIFICATE-----".to_vec(),
    ] {
        let mut sources = sources(&root);
        sources.anchors = vec![bytes.into()];
        not_made(sources, &["`clients`", "trust anchor 1", "malformed"]);
    }
}

#[test]
fn anchors_that_cannot_be_cas() {
    let root = Ca::root("Root");
    let leaf = root.issue(client("leaf"));
    let mut with_leaf = sources(&root);
    with_leaf.anchors = vec![leaf.certificate];
    not_made(
        with_leaf,
        &["`CN=leaf` is no CA certificate", "fingerprint"],
    );

    for bits in [1024, 2047, 8193, 16_384] {
        let mut params = client("Big");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let mut with_key = sources(&root);
        with_key.anchors = vec![root.certify(&params, &RsaKey::with_modulus_bits(bits))];
        not_made(
            with_key,
            &["`CN=Big`", &format!("{bits} bits"), "2048 to 8192"],
        );
    }
}

#[test]
fn a_stranger_has_an_unknown_ca() {
    let (root, other) = (Ca::root("Root"), Ca::root("Other"));
    let domain = domain(sources(&root));
    let leaf = other.issue(client("stranger"));
    let refusal = refused(
        judge(&domain, &[&leaf.certificate, &other.certificate]),
        CloseReason::CertificateUnknownCa,
        &["`CN=stranger`", "`CN=Other`", "`clients`", "1 intermediate"],
    );
    assert_eq!(
        refusal.claimed.unwrap().common_name.as_deref(),
        Some("stranger")
    );

    // The same name, another key.
    let impostor = Ca::root("Root").issue(client("impostor"));
    refused(
        judge(&domain, &[&impostor.certificate]),
        CloseReason::CertificateUnknownCa,
        &["`CN=impostor`", "not by its key"],
    );

    // Self-signed.
    let own = Ca::root_with("own", |params| *params = client("own"));
    refused(
        judge(&domain, &[&own.certificate]),
        CloseReason::CertificateUnknownCa,
        &["`CN=own`"],
    );
}

#[test]
fn the_anchor_and_the_window_of_the_path_are_kept() {
    let (first, root) = (Ca::root("First"), Ca::root("Root"));
    let until = NOW + 5 * DAY;
    let intermediate = root.intermediate_with("Intermediate", |params| {
        params.not_before = at(NOW - DAY);
        params.not_after = at(until);
    });
    let unused = root.intermediate_with("Unused", |params| params.not_after = at(NOW + DAY));
    let leaf = intermediate.issue(client("leaf"));
    let mut sources = sources(&first);
    sources.anchors.push(root.certificate.clone());
    let domain = domain(sources);

    let chain = [
        &leaf.certificate,
        &unused.certificate,
        &intermediate.certificate,
    ];
    let peer = verify(&domain, &chain).unwrap();
    assert_eq!(peer.not_after(), until);
    assert_eq!(peer.not_before(), NOW - DAY);
    let root = ringgate::trust::Identity::from_der(&root.certificate).unwrap();
    assert_eq!(peer.anchor_spki(), root.spki_pin);
    assert_eq!(peer.leaf(), &leaf.certificate);
    assert_eq!(peer.identity().common_name.as_deref(), Some("leaf"));
    assert_eq!(domain.authorize(peer).unwrap().rule(), "in");
}

#[test]
fn the_digest_covers_what_decides_and_nothing_else() {
    let (one, two) = (Ca::root("One"), Ca::root("Two"));
    let crls = [one.crl(&[]), two.crl(&[])];
    let made = |change: &dyn Fn(&mut TrustSources)| {
        let mut sources = sources(&one);
        sources.anchors.push(two.certificate.clone());
        sources.crls = crls.to_vec();
        change(&mut sources);
        domain(sources).digest()
    };
    let digest = made(&|_| {});
    assert_eq!(digest, made(&|sources| sources.anchors.reverse()));
    assert_eq!(digest, made(&|sources| sources.crls.reverse()));
    assert_eq!(digest, made(&|sources| sources.name = "other".to_owned()));

    let mut seen = vec![
        digest,
        made(&|sources| drop(sources.anchors.pop())),
        made(&|sources| drop(sources.crls.pop())),
        made(&|sources| sources.unknown_revocation = RevocationPolicy::Allow),
        made(&|sources| sources.expired_crl = RevocationPolicy::Allow),
        made(&|sources| sources.policy = Policy::default()),
        made(&|sources| sources.policy = allow(Matcher::CommonName("a".to_owned()))),
        made(&|sources| sources.policy = allow(Matcher::OrganizationalUnit("a".to_owned()))),
        made(&|sources| sources.policy = allow(Matcher::CommonName("b".to_owned()))),
        made(&|sources| sources.policy = allow(Matcher::Fingerprint([1; 32]))),
        made(&|sources| sources.policy = allow(Matcher::SpkiPin([1; 32]))),
    ];
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), count);
}
