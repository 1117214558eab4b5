use rcgen::{CertificateParams, DnType, DnValue, GeneralSubtree, NameConstraints, SanType};
use ringgate::close_reason::CloseReason;
use ringgate::trust::Identity;
use ringgate::trust::name::NamePattern;
use ringgate::trust::policy::{Matcher, UriPattern};

use crate::pki::{Ca, client, client_with, dns, email, permitted_uri_host, uri};
use crate::{allow, domain, judge, refused, sources};

fn dns_rule(pattern: &str) -> Matcher {
    Matcher::Dns(NamePattern::parse(pattern).unwrap())
}

fn uri_rule(pattern: &str) -> Matcher {
    Matcher::Uri(UriPattern::parse(pattern).unwrap())
}

/// Whether a policy of one allow rule lets in a client with these parameters.
fn is_let_in(params: CertificateParams, rule: Matcher) -> bool {
    let root = Ca::root("Root");
    let mut sources = sources(&root);
    sources.policy = allow(rule);
    let leaf = root.issue(params);
    match judge(&domain(sources), &[&leaf.certificate]) {
        Ok(_) => true,
        Err(refusal) => {
            assert_eq!(
                refusal.reason,
                CloseReason::PolicyUnmatched,
                "{}",
                refusal.detail
            );
            false
        }
    }
}

#[test]
fn san_type_confusion() {
    const HOST: &str = "web.example.org";
    const ID: &str = "spiffe://example.org/web";
    let dns_as = |params| is_let_in(params, dns_rule(HOST));
    assert!(dns_as(client_with("c", vec![dns(HOST)])));
    assert!(!dns_as(client_with("c", vec![email(HOST)])));
    assert!(!dns_as(client_with("c", vec![uri(HOST)])));
    assert!(!dns_as(client(HOST)));

    let uri_as = |params| is_let_in(params, uri_rule(ID));
    assert!(uri_as(client_with("c", vec![uri(ID)])));
    assert!(!uri_as(client_with("c", vec![email(ID)])));
    assert!(!uri_as(client_with("c", vec![dns(ID)])));
    assert!(!uri_as(client(ID)));

    let common_name_as = |params| is_let_in(params, Matcher::CommonName(HOST.to_owned()));
    assert!(common_name_as(client(HOST)));
    assert!(!common_name_as(client_with(
        "c",
        vec![dns(HOST), email(HOST)]
    )));
    let mut unit = client("c");
    unit.distinguished_name
        .push(DnType::OrganizationalUnitName, HOST);
    assert!(!common_name_as(unit));

    let other_name = SanType::OtherName((
        vec![1, 2, 3],
        rcgen::OtherNameValue::Utf8String(HOST.to_owned()),
    ));
    assert!(!dns_as(client_with("c", vec![other_name])));
}

/// Every kind of name, `text` in it, and what then may not match.
fn assert_never_matches(forged: &str, wanted: &str) {
    let id = |host: &str| format!("spiffe://{host}/web");
    let sans = vec![dns(forged), email(forged), uri(&id(forged))];
    let mut params = client_with(forged, sans);
    let unit = DnValue::Utf8String(forged.to_owned());
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, unit);

    for rule in [
        dns_rule(wanted),
        dns_rule(&format!("*.{}", wanted.split_once('.').unwrap().1)),
        uri_rule(&id(wanted)),
        uri_rule(&format!("spiffe://{wanted}/*")),
        Matcher::CommonName(wanted.to_owned()),
        Matcher::CommonName(forged.to_owned()),
        Matcher::OrganizationalUnit(wanted.to_owned()),
        Matcher::OrganizationalUnit(forged.to_owned()),
    ] {
        assert!(
            !is_let_in(params.clone(), rule.clone()),
            "{forged:?} by {rule:?}"
        );
    }

    let leaf = Ca::root("Root").issue(params);
    let identity = Identity::from_der(&leaf.certificate).unwrap();
    assert_eq!(identity.dns_names, [""; 0]);
    assert_eq!(identity.emails, [""; 0]);
    assert_eq!(identity.uris, [""; 0]);
    assert_eq!(identity.common_name, None);
    assert_eq!(identity.organizational_units, [""; 0]);
    assert_eq!(identity.spiffe_id(), None);
    let mut kinds: Vec<_> = identity
        .rejected_names
        .iter()
        .filter_map(|name| name.split(':').next())
        .collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["CN", "DNS", "OU", "URI", "email"]);
    for text in identity
        .rejected_names
        .iter()
        .chain([&identity.subject, &identity.issuer])
    {
        assert!(
            text.bytes().all(|byte| matches!(byte, b' '..=b'~')),
            "{text:?}"
        );
    }
}

#[test]
fn nul_in_name() {
    for forged in [
        "web.example.org\0",
        "web.example.org\0.evil.test",
        "\0web.example.org",
        "w\0eb.example.org",
    ] {
        assert_never_matches(forged, "web.example.org");
    }
}

#[test]
fn control_bytes() {
    for forged in [
        "web.example.org\n",
        "web.example.org\r\nreason=complete",
        "\u{1b}[2Kweb.example.org",
        "web.example.org\u{7f}",
        "\tweb.example.org",
    ] {
        assert_never_matches(forged, "web.example.org");
    }
}

#[test]
fn names_that_change_how_text_is_shown_are_escaped() {
    let leaf = Ca::root("Root").issue(client("gro\u{202e}\u{2028}x, y\u{85}"));
    let identity = Identity::from_der(&leaf.certificate).unwrap();
    assert_eq!(
        identity.subject,
        "CN=gro\\e2\\80\\ae\\e2\\80\\a8x\\, y\\c2\\85"
    );
    assert_eq!(identity.common_name, None);

    let leaf = Ca::root("Root").issue(client("J\u{fc}rgen"));
    let identity = Identity::from_der(&leaf.certificate).unwrap();
    assert_eq!(identity.common_name.as_deref(), Some("J\u{fc}rgen"));
    assert_eq!(identity.subject, "CN=J\u{fc}rgen");
}

#[test]
fn a_wildcard_san_is_no_name_of_a_client() {
    let params = client_with("c", vec![dns("*.example.org")]);
    assert!(!is_let_in(params.clone(), dns_rule("web.example.org")));
    assert!(!is_let_in(params, dns_rule("*.example.org")));
}

#[test]
fn identity_holds_every_kind_of_name() {
    let mut params = client_with(
        "Web",
        vec![
            dns("Web.Example.ORG"),
            email("web@example.org"),
            uri("spiffe://example.org/Web"),
            SanType::IpAddress("192.0.2.1".parse().unwrap()),
            SanType::IpAddress("2001:db8::1".parse().unwrap()),
        ],
    );
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, "Shop");
    params.serial_number = Some(vec![0, 0x80, 1].into());
    let root = Ca::root("Root");
    let leaf = root.issue(params);
    let identity = Identity::from_der(&leaf.certificate).unwrap();
    assert_eq!(identity.dns_names, ["web.example.org"]);
    assert_eq!(identity.emails, ["web@example.org"]);
    assert_eq!(identity.uris, ["spiffe://example.org/Web"]);
    assert_eq!(identity.spiffe_id(), Some("spiffe://example.org/Web"));
    let addresses: Vec<_> = identity.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(identity.common_name.as_deref(), Some("Web"));
    assert_eq!(identity.organizational_units, ["Shop"]);
    assert_eq!(identity.subject, "OU=Shop,CN=Web");
    assert_eq!(identity.issuer, "CN=Root");
    assert_eq!(
        (identity.serial.as_slice(), identity.serial_hex().as_str()),
        (&[0x80, 1][..], "8001")
    );
    assert_eq!(identity.rejected_names, [""; 0]);
    assert!(identity.client_auth);

    let sha256 = |bytes: &[u8]| {
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes)
            .as_ref()
            .to_vec()
    };
    use rcgen::PublicKeyData;
    assert_eq!(identity.fingerprint.to_vec(), sha256(&leaf.certificate));
    assert_eq!(
        identity.spki_pin.to_vec(),
        sha256(&leaf.key.subject_public_key_info())
    );
    assert_eq!(identity.fingerprint_hex().len(), 64);
}

#[test]
fn spiffe_ids_stand_alone_and_are_well_formed() {
    let id_of = |sans| {
        let leaf = Ca::root("Root").issue(client_with("c", sans));
        let identity = Identity::from_der(&leaf.certificate).unwrap();
        identity.spiffe_id().map(str::to_owned)
    };
    assert!(id_of(vec![uri("spiffe://a/b")]).is_some());
    assert!(id_of(vec![uri("spiffe://a/b"), dns("c.d")]).is_some());
    assert!(id_of(vec![uri("spiffe://a/b"), uri("https://a/b")]).is_none());
    assert!(id_of(vec![uri("spiffe://a/b"), uri("https://a/\0")]).is_none());
    for bad in [
        "https://a/b",
        "spiffe://a",
        "spiffe://a/",
        "spiffe:///b",
        "spiffe://A/b",
        "spiffe://a//b",
        "spiffe://a/../b",
        "spiffe://a:1/b",
        "spiffe://u@a/b",
        "spiffe://a/b?c",
        "spiffe://a/%62",
    ] {
        assert_eq!(id_of(vec![uri(bad)]), None, "{bad}");
    }
}

#[test]
fn name_constraints() {
    let permitted = |subtree| {
        Some(NameConstraints {
            permitted_subtrees: vec![subtree],
            excluded_subtrees: vec![],
        })
    };
    let excluded = |subtree| {
        Some(NameConstraints {
            permitted_subtrees: vec![],
            excluded_subtrees: vec![subtree],
        })
    };
    let host = || GeneralSubtree::DnsName("web.example.org".to_owned());
    let inside = client_with("in", vec![dns("web.example.org")]);
    let outside = client_with("out", vec![dns("web.example.net")]);
    let both = client_with("both", vec![dns("web.example.org"), dns("web.example.net")]);
    let wildcard = client_with("wild", vec![dns("*.example.org")]);

    for (constraints, let_in, refusals) in [
        (
            permitted(host()),
            vec![&inside],
            vec![&outside, &both, &wildcard],
        ),
        (
            excluded(host()),
            vec![&outside],
            vec![&inside, &both, &wildcard],
        ),
    ] {
        // On the anchor, and on an intermediate.
        let anchor = Ca::root_with("Anchor", |params| {
            params.name_constraints = constraints.clone()
        });
        let root = Ca::root("Root");
        let ca = root.intermediate_with("CA", |params| params.name_constraints = constraints);
        let (by_anchor, by_ca) = (domain(sources(&anchor)), domain(sources(&root)));
        for params in let_in {
            let leaf = anchor.issue(params.clone());
            assert!(judge(&by_anchor, &[&leaf.certificate]).is_ok());
            let leaf = ca.issue(params.clone());
            assert!(judge(&by_ca, &[&leaf.certificate, &ca.certificate]).is_ok());
        }
        for params in refusals {
            let leaf = anchor.issue(params.clone());
            let outcome = judge(&by_anchor, &[&leaf.certificate]);
            refused(outcome, CloseReason::CertificateInvalid, &["may not issue"]);
            let leaf = ca.issue(params.clone());
            let outcome = judge(&by_ca, &[&leaf.certificate, &ca.certificate]);
            refused(outcome, CloseReason::CertificateInvalid, &["may not issue"]);
        }
    }
}

#[test]
fn name_constraints_on_uris_refuse_and_say_why() {
    let constrain = |params: &mut CertificateParams| {
        params
            .custom_extensions
            .push(permitted_uri_host("example.org"));
    };
    let with_uri = || client_with("c", vec![uri("spiffe://example.org/web")]);
    let words = [
        "`CN=c` has a URI SAN",
        "`CN=Constrained`",
        "without URI name constraints",
    ];

    let anchor = Ca::root_with("Constrained", constrain);
    let by_anchor = domain(sources(&anchor));
    let warnings = by_anchor.warnings();
    assert!(
        warnings[0].contains("`CN=Constrained`") && warnings[0].contains("URI"),
        "{warnings:?}"
    );
    let leaf = anchor.issue(with_uri());
    refused(
        judge(&by_anchor, &[&leaf.certificate]),
        CloseReason::CertificateInvalid,
        &words,
    );
    let leaf = anchor.issue(client_with("c", vec![dns("web.example.org")]));
    assert!(judge(&by_anchor, &[&leaf.certificate]).is_ok());

    let root = Ca::root("Root");
    let ca = root.intermediate_with("Constrained", constrain);
    let by_root = domain(sources(&root));
    assert_eq!(by_root.warnings(), [""; 0]);
    let leaf = ca.issue(with_uri());
    let outcome = judge(&by_root, &[&leaf.certificate, &ca.certificate]);
    refused(outcome, CloseReason::CertificateInvalid, &words);
}
