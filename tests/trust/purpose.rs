use rcgen::ExtendedKeyUsagePurpose as Purpose;
use ringgate::close_reason::CloseReason;

use crate::pki::{Ca, DAY, NOW, at, client, client_with, email};
use crate::{domain, judge, refused, sources};

#[track_caller]
fn refused_with(purposes: Vec<Purpose>, named: &[&str]) {
    let root = Ca::root("Root");
    let mut params = client_with("leaf", vec![email("leaf@example.org")]);
    params.extended_key_usages = purposes;
    let leaf = root.issue(params);
    let outcome = judge(&domain(sources(&root)), &[&leaf.certificate]);
    refused(outcome, CloseReason::CertificatePurpose, named);
}

#[test]
fn email_leaf() {
    refused_with(
        vec![Purpose::EmailProtection],
        &["`CN=leaf`", "clientAuth", "1.3.6.1.5.5.7.3.4"],
    );
}

#[test]
fn server_auth_only_leaf() {
    refused_with(
        vec![Purpose::ServerAuth],
        &["`CN=leaf`", "clientAuth", "1.3.6.1.5.5.7.3.1"],
    );
}

#[test]
fn leaf_of_any_purpose_or_of_none() {
    refused_with(vec![Purpose::Any], &["`CN=leaf`", "clientAuth"]);
    refused_with(vec![], &["`CN=leaf`", "clientAuth"]);
}

#[test]
fn cas_need_no_purpose_but_may_not_lack_client_auth_among_theirs() {
    let root = Ca::root("Root");
    let domain = domain(sources(&root));
    for (purposes, is_allowed) in [
        (vec![], true),
        (vec![Purpose::ServerAuth, Purpose::ClientAuth], true),
        (vec![Purpose::ServerAuth], false),
    ] {
        let ca = root.intermediate_with("CA", |params| params.extended_key_usages = purposes);
        let leaf = ca.issue(client("leaf"));
        let outcome = judge(&domain, &[&leaf.certificate, &ca.certificate]);
        match is_allowed {
            true => assert!(outcome.is_ok(), "{outcome:?}"),
            false => drop(refused(
                outcome,
                CloseReason::CertificatePurpose,
                &["`CN=leaf`"],
            )),
        }
    }
}

#[test]
fn expired_and_not_yet_valid() {
    let root = Ca::root("Root");
    let domain = domain(sources(&root));
    let mut expired = client("leaf");
    expired.not_after = at(NOW - 3 * DAY);
    let leaf = root.issue(expired);
    refused(
        judge(&domain, &[&leaf.certificate]),
        CloseReason::CertificateExpired,
        &["`CN=leaf` expired at 2025-12-29T00:00:00Z, 3 days ago"],
    );

    let mut early = client("leaf");
    early.not_before = at(NOW + 7_200);
    let leaf = root.issue(early);
    refused(
        judge(&domain, &[&leaf.certificate]),
        CloseReason::CertificateNotYetValid,
        &["`CN=leaf` is valid from 2026-01-01T02:00:00Z, in 2 hours"],
    );

    let ca = root.intermediate_with("CA", |params| params.not_after = at(NOW - 60));
    let leaf = ca.issue(client("leaf"));
    refused(
        judge(&domain, &[&leaf.certificate, &ca.certificate]),
        CloseReason::CertificateExpired,
        &["the CA `CN=CA` above `CN=leaf`", "1 minute ago"],
    );

    // Both ends of the period belong to it.
    for params in [(NOW, NOW + DAY), (NOW - DAY, NOW)].map(|(from, until)| {
        let mut params = client("leaf");
        (params.not_before, params.not_after) = (at(from), at(until));
        params
    }) {
        assert!(judge(&domain, &[&root.issue(params).certificate]).is_ok());
    }
}

#[test]
fn ca_certificates_are_no_clients_and_clients_are_no_cas() {
    let root = Ca::root("Root");
    let domain = domain(sources(&root));
    let ca = root.intermediate_with("CA", |params| {
        params.extended_key_usages = vec![Purpose::ClientAuth];
    });
    refused(
        judge(&domain, &[&ca.certificate]),
        CloseReason::CertificateInvalid,
        &["`CN=CA`"],
    );

    let no_ca = root.intermediate_with("Client", |params| *params = client("Client"));
    let leaf = no_ca.issue(client("leaf"));
    let outcome = judge(&domain, &[&leaf.certificate, &no_ca.certificate]);
    refused(outcome, CloseReason::CertificateInvalid, &["`CN=leaf`"]);
}
