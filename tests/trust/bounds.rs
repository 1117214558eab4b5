use rcgen::CustomExtension;
use ringgate::close_reason::CloseReason;
use ringgate::limits;
use ringgate::trust::Identity;
use rustls_pki_types::CertificateDer;

use crate::pki::{Ca, RsaKey, client, client_with, dns};
use crate::{domain, judge, refused, sources, verify};

#[test]
fn huge_rsa() {
    let root = Ca::root("Root");
    let domain = domain(sources(&root));
    let with_bits = |ca: &Ca, bits| ca.certify(&client("leaf"), &RsaKey::with_modulus_bits(bits));
    let reason = CloseReason::CertificateKeyTooLarge;
    refused(
        judge(&domain, &[&with_bits(&root, 16_384)]),
        reason,
        &["`CN=leaf`", "16384 bits", "8192"],
    );
    refused(
        judge(&domain, &[&with_bits(&root, 8_193)]),
        reason,
        &["8193 bits"],
    );
    let peer = judge(&domain, &[&with_bits(&root, 8_192)]).unwrap();
    assert_eq!(peer.identity().rsa_modulus_bits, Some(8_192));

    // Wherever it stands in the chain, and before a signature says that nobody issued it.
    let stranger = Ca::root("Stranger");
    refused(
        judge(&domain, &[&with_bits(&stranger, 16_384)]),
        reason,
        &["`CN=leaf`"],
    );
    let mut ca = client("Huge");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = root.certify(&ca, &RsaKey::with_modulus_bits(16_384));
    let leaf = Ca::root("Huge").issue(client("leaf"));
    refused(
        judge(&domain, &[&leaf.certificate, &ca]),
        reason,
        &["`CN=Huge`"],
    );
    let unrelated = root.issue(client("leaf"));
    refused(
        judge(&domain, &[&unrelated.certificate, &ca]),
        reason,
        &["`CN=Huge`"],
    );
}

/// A leaf and `count` CAs between it and `root`, the leaf first.
fn chain(root: &Ca, count: usize) -> Vec<CertificateDer<'static>> {
    let mut cas: Vec<Ca> = Vec::new();
    for number in 0..count {
        let issuer = cas.last().unwrap_or(root);
        cas.push(issuer.intermediate(&format!("CA {number}")));
    }
    let leaf = cas.last().unwrap_or(root).issue(client("leaf"));
    let cas = cas.iter().rev().map(|ca| ca.certificate.clone());
    std::iter::once(leaf.certificate).chain(cas).collect()
}

#[test]
fn long_chain() {
    let root = Ca::root("Root");
    let domain = domain(sources(&root));
    let verify = |count| {
        let chain = chain(&root, count);
        verify(&domain, &chain.iter().collect::<Vec<_>>())
    };
    assert!(verify(6).is_ok());
    let reason = CloseReason::CertificateChainTooLong;
    refused(verify(7), reason, &["`CN=leaf`", "6 intermediate"]);
    let count = limits::CHAIN_LEN_MAX;
    let refusal = refused(
        verify(count),
        reason,
        &["`CN=leaf`", &format!("at most {count}")],
    );
    assert!(refusal.claimed.is_some());

    // The bound holds for what is presented, of use or not.
    let leaf = root.issue(client("leaf")).certificate;
    let padded = vec![&leaf; limits::CHAIN_LEN_MAX + 1];
    refused(judge(&domain, &padded), reason, &["at most 8"]);
    assert!(judge(&domain, &padded[1..]).is_ok());
}

#[test]
fn chain_of_too_many_bytes() {
    let root = Ca::root("Root");
    let domain = domain(sources(&root));
    let with_padding = |len| {
        let mut params = client("leaf");
        let padding = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![0; len]);
        params.custom_extensions.push(padding);
        root.issue(params).certificate
    };
    let small = with_padding(limits::CHAIN_BYTES_MAX - 1_000);
    assert!(judge(&domain, &[&small]).is_ok());
    let reason = CloseReason::CertificateChainTooLong;
    let large = with_padding(limits::CHAIN_BYTES_MAX);
    refused(judge(&domain, &[&large]), reason, &["49152"]);
    refused(judge(&domain, &[&small, &small]), reason, &["49152"]);
}

#[test]
fn too_many_names() {
    let root = Ca::root("Root");
    let with_names = |count: usize| {
        let names = (0..count)
            .map(|number| dns(&format!("{number}.example.org")))
            .collect();
        root.issue(client_with("leaf", names)).certificate
    };
    let max = limits::NAMES_PER_CERTIFICATE_MAX;
    assert!(Identity::from_der(&with_names(max)).is_ok());
    let outcome = judge(&domain(sources(&root)), &[&with_names(max + 1)]);
    let refusal = refused(outcome, CloseReason::CertificateInvalid, &["256 names"]);
    assert!(refusal.claimed.is_none());
}

#[test]
fn same_subject_anchors() {
    let anchors: Vec<_> = (0..100).map(|_| Ca::root("Root")).collect();
    let trusting = |count: usize| {
        let mut sources = sources(&anchors[0]);
        sources.anchors = anchors[..count]
            .iter()
            .map(|ca| ca.certificate.clone())
            .collect();
        domain(sources)
    };
    let hundred = trusting(100);

    // All of them are tried.
    let leaf = anchors[99].issue(client("leaf"));
    assert!(judge(&hundred, &[&leaf.certificate]).is_ok());
    let stranger = Ca::root("Root").issue(client("leaf"));
    let outcome = judge(&hundred, &[&stranger.certificate]);
    refused(outcome, CloseReason::CertificateUnknownCa, &["`CN=leaf`"]);

    // Intermediates that could each stand above the others multiply the paths; the number of
    // signatures tried stays bounded.
    let lookalikes: Vec<_> = (0..7).map(|_| Ca::root("Root").certificate).collect();
    for count in [100, 1] {
        let mut chain = vec![&stranger.certificate];
        chain.extend(&lookalikes);
        let outcome = judge(&trusting(count), &chain);
        refused(
            outcome,
            CloseReason::CertificateChainTooLong,
            &["too much work", "Signature"],
        );
    }
}

/// Whatever byte of the chain is damaged: a refusal, never a panic.
#[test]
fn certificate_damaged_in_any_byte() {
    let root = Ca::root("Root");
    let domain = domain(sources(&root));
    let names = vec![
        dns("web.example.org"),
        crate::pki::uri("spiffe://example.org/web"),
    ];
    let whole = root.issue(client_with("leaf", names)).certificate;
    assert!(judge(&domain, &[&whole]).is_ok());
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.to_vec();
            bytes[at] ^= flip;
            let refusal = judge(&domain, &[&bytes.into()]).unwrap_err();
            assert_ne!(
                refusal.reason,
                CloseReason::Internal,
                "byte {at} ^ {flip:#x}"
            );
        }
    }
    for len in 0..whole.len() {
        let cut = CertificateDer::from(whole[..len].to_vec());
        refused(
            judge(&domain, &[&cut]),
            CloseReason::CertificateInvalid,
            &["certificate 1"],
        );
        refused(
            judge(&domain, &[&whole, &cut]),
            CloseReason::CertificateInvalid,
            &["certificate 2"],
        );
    }
}
