//! What is decided here against what webpki says of the same chain.

#[path = "../../../tests/common/pki.rs"]
mod pki;

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;
use rcgen::{
    CertificateParams, CrlScope, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SignatureAlgorithm, SigningKey,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use self::pki::{Ca, DAY, NOW, at};
use super::*;
use crate::trust::domain::TrustSources;
use crate::trust::identity::signs_crls;
use crate::trust::{ChainSummary, Refusal, VerifiedPeer};

const GOOD: u64 = 7;
const REVOKED: u64 = 8;

/// What a CA has published.
#[derive(Clone, Copy, Debug)]
enum Lists {
    Nothing,
    Clean,
    Revoking,
    Expired,
    ExpiredRevoking,
    ByAnotherKey,
    Damaged,
    /// Signed with another algorithm than it names.
    Mislabelled,
    /// For CAs or clients only.
    Scoped(bool),
    /// The newest one revokes, or the one that it replaced did.
    Replaced(bool),
    /// Beside one of another key with the same name that revokes, which is newer or older.
    Namesake(bool),
    /// The newer one is scoped to CAs, the older one revokes.
    Both,
}

const LISTS: [Lists; 15] = [
    Lists::Nothing,
    Lists::Clean,
    Lists::Revoking,
    Lists::Expired,
    Lists::ExpiredRevoking,
    Lists::ByAnotherKey,
    Lists::Damaged,
    Lists::Mislabelled,
    Lists::Scoped(true),
    Lists::Scoped(false),
    Lists::Replaced(true),
    Lists::Replaced(false),
    Lists::Namesake(true),
    Lists::Namesake(false),
    Lists::Both,
];

#[derive(Clone, Copy, Debug)]
enum Usage {
    Full,
    WithoutCrlSign,
    Absent,
}

/// A CA, what it has published, and the serial number of its own certificate.
#[derive(Clone, Copy, Debug)]
struct Level {
    lists: Lists,
    usage: Usage,
    serial: u64,
}

fn level() -> impl Strategy<Value = Level> {
    let lists = prop_oneof![2 => Just(Lists::Clean), 3 => select(&LISTS[..])];
    let usage = prop_oneof![
        5 => Just(Usage::Full),
        1 => Just(Usage::WithoutCrlSign),
        1 => Just(Usage::Absent),
    ];
    (lists, usage, number()).prop_map(|(lists, usage, serial)| Level {
        lists,
        usage,
        serial,
    })
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(GOOD), 1 => Just(REVOKED)]
}

fn policy() -> impl Strategy<Value = RevocationPolicy> {
    select(&[RevocationPolicy::Allow, RevocationPolicy::Deny][..])
}

#[derive(Clone, Debug)]
struct World {
    root: Level,
    intermediates: Vec<Level>,
    leaf: u64,
    /// Another root that certifies the first intermediate, too, and with which serial number.
    other_root: Option<(Level, u64)>,
    unknown: RevocationPolicy,
    expired: RevocationPolicy,
    /// Whether the signature on the leaf is not good.
    is_forged: bool,
}

prop_compose! {
    fn world()(
        root in level(),
        intermediates in prop::collection::vec(level(), 0..3),
        leaf in number(),
        other_root in prop::option::of((level(), number())),
        (unknown, expired) in (policy(), policy()),
        is_forged in prop::bool::weighted(0.05),
    ) -> World {
        World { root, intermediates, leaf, other_root, unknown, expired, is_forged }
    }
}

fn with(level: Level) -> impl FnOnce(&mut CertificateParams) {
    move |params| {
        params.serial_number = pki::serial(level.serial);
        match level.usage {
            Usage::Full => {}
            Usage::WithoutCrlSign => params.key_usages = vec![KeyUsagePurpose::KeyCertSign],
            Usage::Absent => params.key_usages.clear(),
        }
    }
}

/// From so many days ago until in so many.
fn crl(ca: &Ca, revoked: &[u64], from: i64, until: i64) -> CertificateRevocationListDer<'static> {
    ca.crl_with(revoked, |params| {
        params.this_update = at(NOW - from * DAY);
        params.next_update = at(NOW + until * DAY);
    })
}

fn scoped(ca: &Ca, scope: CrlScope) -> CertificateRevocationListDer<'static> {
    ca.crl_with(&[], |params| {
        params.issuing_distribution_point =
            pki::issuing_distribution_point("http://crl.example/1", Some(scope));
    })
}

/// Signs with a P-256 key by SHA-256, and says that it is P-384 with SHA-384.
struct Mislabelling(KeyPair);

impl PublicKeyData for Mislabelling {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P384_SHA384
    }
}

impl SigningKey for Mislabelling {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

/// The parameters and key of `ca`, whose certificate may say that it signs no CRLs.
fn publisher(ca: &Ca, name: &str) -> (CertificateParams, KeyPair) {
    let key = KeyPair::try_from(ca.issuer.key().serialize_der()).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = pki::common_name(name);
    (params, key)
}

fn mislabelled(ca: &Ca, name: &str) -> CertificateRevocationListDer<'static> {
    let (params, key) = publisher(ca, name);
    let issuer = Issuer::new(params, Mislabelling(key));
    let params = rcgen::CertificateRevocationListParams {
        this_update: at(NOW - DAY),
        next_update: at(NOW + DAY),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    params.signed_by(&issuer).unwrap().der().clone()
}

fn published(ca: &Ca, name: &str, lists: Lists) -> Vec<CertificateRevocationListDer<'static>> {
    let (params, key) = publisher(ca, name);
    let ca = &Ca {
        certificate: ca.certificate.clone(),
        issuer: Issuer::new(params, key),
    };
    let namesake = |from| crl(&Ca::root(name), &[GOOD, REVOKED], from, 9);
    match lists {
        Lists::Nothing => Vec::new(),
        Lists::Clean => vec![crl(ca, &[], 2, 2)],
        Lists::Revoking => vec![crl(ca, &[REVOKED], 2, 3)],
        Lists::Expired => vec![crl(ca, &[], 2, 0)],
        Lists::ExpiredRevoking => vec![crl(ca, &[REVOKED], 2, -1)],
        Lists::ByAnotherKey => vec![crl(&Ca::root(name), &[], 2, 2)],
        Lists::Damaged => {
            let mut der = crl(ca, &[], 2, 2).to_vec();
            *der.last_mut().unwrap() ^= 1;
            vec![der.into()]
        }
        Lists::Mislabelled => vec![mislabelled(ca, name)],
        Lists::Scoped(true) => vec![scoped(ca, CrlScope::CaCertsOnly)],
        Lists::Scoped(false) => vec![scoped(ca, CrlScope::UserCertsOnly)],
        Lists::Replaced(true) => vec![crl(ca, &[], 3, 4), crl(ca, &[REVOKED], 2, 5)],
        Lists::Replaced(false) => vec![crl(ca, &[REVOKED], 3, 4), crl(ca, &[], 2, 5)],
        Lists::Namesake(true) => vec![crl(ca, &[], 2, 4), namesake(1)],
        Lists::Namesake(false) => vec![crl(ca, &[], 2, 4), namesake(3)],
        Lists::Both => vec![scoped(ca, CrlScope::CaCertsOnly), crl(ca, &[REVOKED], 2, 4)],
    }
}

/// What a world's client presents, and what is configured.
struct Made {
    sources: TrustSources,
    leaf: CertificateDer<'static>,
    intermediates: Vec<CertificateDer<'static>>,
}

fn make(world: &World) -> Made {
    let root = Ca::root_with("Root", with(world.root));
    let mut sources = TrustSources {
        anchors: vec![root.certificate.clone()],
        crls: published(&root, "Root", world.root.lists),
        unknown_revocation: world.unknown,
        expired_crl: world.expired,
        ..TrustSources::default()
    };
    let mut intermediates = Vec::new();
    let mut last = root;
    for (position, level) in world.intermediates.iter().enumerate() {
        let name = format!("CA {position}");
        let ca = last.intermediate_with(&name, with(*level));
        if let (0, Some((root, serial))) = (position, world.other_root) {
            let other = Ca::root_with("Other root", with(root));
            let mut params = CertificateParams::default();
            params.distinguished_name = pki::common_name(&name);
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            (params.not_before, params.not_after) = (at(NOW - DAY), at(NOW + DAY));
            params.serial_number = pki::serial(serial);
            intermediates.push(other.certify(&params, ca.issuer.key()));
            sources
                .crls
                .extend(published(&other, "Other root", root.lists));
            sources.anchors.push(other.certificate);
        }
        intermediates.push(ca.certificate.clone());
        sources.crls.extend(published(&ca, &name, level.lists));
        last = ca;
    }
    let mut params = pki::client("leaf");
    params.serial_number = pki::serial(world.leaf);
    let mut leaf = last.issue(params).certificate.to_vec();
    if world.is_forged {
        *leaf.last_mut().unwrap() ^= 1;
    }
    Made {
        sources,
        leaf: leaf.into(),
        intermediates,
    }
}

/// What a check says, in a form that can be compared.
fn outcome(
    result: Result<VerifiedPeer, Refusal>,
) -> Result<(ChainSummary, Option<i64>), (String, String)> {
    result
        .map(|peer| (peer.chain().clone(), peer.revocation_until()))
        .map_err(|refusal| (format!("{:?}", refusal.reason), refusal.detail))
}

fn sources(of: &TrustSources) -> TrustSources {
    TrustSources {
        anchors: of.anchors.clone(),
        crls: of.crls.clone(),
        unknown_revocation: of.unknown_revocation,
        expired_crl: of.expired_crl,
        ..TrustSources::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    #[test]
    fn whatever_is_known_of_crls_webpki_would_have_said_the_same(world in world()) {
        let made = make(&world);
        let judge = |domain: &TrustDomain, find: FindPath| {
            outcome(domain.verify_by(find, &made.leaf, &made.intermediates, pki::now()))
        };
        let domain = |sources| TrustDomain::new(sources).unwrap();
        let expected = judge(&domain(sources(&made.sources)), TrustDomain::path_by_webpki);
        let domain = domain(sources(&made.sources));
        // The second time it knows what it learned.
        for _ in 0..2 {
            let found = judge(&domain, TrustDomain::unrevoked_path);
            if world.is_forged {
                // Nothing is said of the revocation of a chain that is not good.
                prop_assert!(found.is_err() && expected.is_err());
            } else {
                prop_assert_eq!(&found, &expected);
            }
        }
    }
}

/// A chain by one intermediate, and what configures both CRLs.
fn with_intermediate() -> (Made, Arc<TrustDomain>) {
    let level = Level {
        lists: Lists::Revoking,
        usage: Usage::Full,
        serial: GOOD,
    };
    let made = make(&World {
        root: level,
        intermediates: vec![level],
        leaf: GOOD,
        other_root: None,
        unknown: RevocationPolicy::Deny,
        expired: RevocationPolicy::Deny,
        is_forged: false,
    });
    let domain = TrustDomain::new(sources(&made.sources)).unwrap();
    (made, Arc::new(domain))
}

/// A path without a CRL's signature being verified; panics where one has to be.
const WITHOUT_CRL_SIGNATURES: FindPath = |domain, claim| {
    let path = claim.find_path(&claim.group.anchors, None, None)?;
    let status = domain.path_status(claim, &path);
    status.expect("all that webpki would say is known")?;
    Ok(path)
};

#[test]
fn each_signature_on_a_crl_is_verified_once() {
    let (made, domain) = with_intermediate();
    let verify = |find| domain.verify_by(find, &made.leaf, &made.intermediates, pki::now());
    // The anchor's before any client comes; an intermediate's with the first client.
    assert_eq!(domain.unknown_signers(), 1);
    verify(TrustDomain::unrevoked_path).unwrap();
    assert_eq!(domain.unknown_signers(), 0);
    verify(WITHOUT_CRL_SIGNATURES).unwrap();
}

/// So a reload costs a shard no hash of a large CRL that it had before.
#[test]
fn a_signature_that_was_verified_is_known_after_a_reload() {
    let (made, before) = with_intermediate();
    let verify = |domain: &TrustDomain, find| {
        domain.verify_by(find, &made.leaf, &made.intermediates, pki::now())
    };
    verify(&before, TrustDomain::unrevoked_path).unwrap();
    let reloaded = |more: Option<CertificateRevocationListDer<'static>>| {
        let mut sources = sources(&made.sources);
        sources.name = "after".to_owned();
        sources.crls.extend(more);
        let domain = TrustDomain::new(sources).unwrap();
        assert_eq!(domain.unknown_signers(), 1 + domain.crls.all.len() - 2);
        TrustDomain::carry_signers([&*before].into_iter(), [&domain].into_iter());
        domain
    };
    let after = reloaded(None);
    assert_eq!(after.unknown_signers(), 0);
    verify(&after, WITHOUT_CRL_SIGNATURES).unwrap();
    // Nothing is known of one that is new.
    let another = Ca::root("Another").crl(&[]);
    assert_eq!(reloaded(Some(another)).unknown_signers(), 1);
}

/// Whose signature was made by another key is no less known to be.
#[test]
fn keys_that_did_not_sign_are_known_after_a_reload() {
    let [signer, other] = [(); 2].map(|()| Ca::root("Of one name"));
    let crl = signer.crl(&[]);
    let domain = || {
        let sources = TrustSources {
            anchors: vec![Ca::root("Anchor").certificate],
            crls: vec![crl.clone()],
            ..TrustSources::default()
        };
        TrustDomain::new(sources).unwrap()
    };
    let (before, after) = (domain(), domain());
    let key = EndEntityCert::try_from(&other.certificate).unwrap();
    assert!(!before.crls.all[0].is_signed_by(&key));
    let key = name_digest(&key.subject_public_key_info());
    assert_eq!(after.crls.all[0].is_known_by(&key), None);
    TrustDomain::carry_signers([&before].into_iter(), [&after].into_iter());
    assert_eq!(after.crls.all[0].is_known_by(&key), Some(false));
}

#[test]
fn key_usage_is_read_as_strictly_as_webpki_does() {
    for (value, expected) in [
        (None, Some(true)),
        (Some(&[3, 2, 1, 0x02][..]), Some(true)),
        (Some(&[3, 2, 1, 0xfe]), Some(true)),
        (Some(&[3, 3, 7, 0x02, 0x80]), Some(true)),
        (Some(&[3, 2, 2, 0x04]), Some(false)),
        (Some(&[3, 3, 7, 0x00, 0x80]), Some(false)),
        // Bits in the padding, more padding than a byte, no bits, and what is no BIT STRING.
        (Some(&[3, 2, 1, 0x03]), None),
        (Some(&[3, 2, 2, 0x02]), None),
        (Some(&[3, 2, 8, 0x02]), None),
        (Some(&[3, 1, 0]), None),
        (Some(&[3, 2, 1, 0x02, 0]), None),
        (Some(&[3, 3, 1, 0x02]), None),
        (Some(&[4, 2, 1, 0x02]), None),
        (Some(&[]), None),
    ] {
        assert_eq!(signs_crls(value), expected, "{value:x?}");
    }
}
