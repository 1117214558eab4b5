//! CRL files.

use std::fs;
use std::os::unix::fs::symlink;

use ringgate::config::render;
use ringgate::limits::{CRL_DIRECTORY_BYTES_MAX, CRL_FILES_PER_DIRECTORY_MAX};
use ringgate::snapshot::{Expiry, ExpiryKind};

use crate::pem::pem;
use crate::pki::{Ca, DAY, NOW, at};
use crate::scratch::Scratch;
use crate::{front, front_with};

const CRL_LINE: usize = 9;

fn scratch() -> Scratch {
    let scratch = Scratch::new();
    scratch.write("revoked.pem", pem("X509 CRL", &scratch.ca.crl(&[7])));
    scratch.write("ringgate.toml", front("crl = \"revoked.pem\""));
    scratch
}

#[test]
fn a_crl_loads() {
    assert!(scratch().loaded().warnings.is_empty());
}

#[test]
fn crl_corrupt() {
    let scratch = scratch();
    let sound = fs::read_to_string(scratch.path("revoked.pem")).unwrap();
    let halved = sound[..sound.len() / 2].to_owned();
    let der = scratch.ca.crl(&[7]);
    for (content, part) in [
        (String::new(), "is empty"),
        (halved, "is damaged"),
        (pem("X509 CRL", &der[..der.len() - 9]), "CRL 1 in"),
        (pem("X509 CRL", b"\x30\x00"), "CRL 1 in"),
        (
            pem("CERTIFICATE", &scratch.ca.certificate),
            "holds no PEM block X509 CRL",
        ),
    ] {
        scratch.write("revoked.pem", content);
        scratch.assert_error(CRL_LINE, &[part, "revoked.pem"]);
    }
    // DER that is cut, longer than its CRL, or of something else.
    for content in [
        &der[..der.len() - 1],
        &[&*der, b"x"].concat(),
        &scratch.ca.certificate,
    ] {
        scratch.write("revoked.pem", content);
        scratch.assert_error(CRL_LINE, &["CRL 1 in", "revoked.pem"]);
    }
    fs::remove_file(scratch.path("revoked.pem")).unwrap();
    scratch.assert_error(CRL_LINE, &["cannot read"]);
}

#[test]
fn an_expired_crl_is_a_warning_that_names_its_issuer() {
    let scratch = scratch();
    let expired = scratch.ca.crl_with(&[7], |params| {
        params.this_update = at(NOW - 2 * DAY);
        params.next_update = at(NOW - DAY);
    });
    scratch.write("revoked.pem", pem("X509 CRL", &expired));
    let warnings = render(&scratch.loaded().warnings);
    assert!(
        warnings.contains("has expired") && warnings.contains("clients' CA"),
        "{warnings}"
    );
}

/// [`scratch`] with a directory `crls` in place of the file.
fn directory() -> Scratch {
    let scratch = scratch();
    fs::create_dir(scratch.path("crls")).unwrap();
    scratch.write("ringgate.toml", front("crl = \"crls\""));
    scratch
}

/// File name and issuer of every CRL that counts.
fn crls(scratch: &Scratch) -> Vec<(String, String)> {
    let expiries = scratch.loaded().expiries;
    let crls = expiries.iter().filter(|it| it.kind == ExpiryKind::Crl);
    let name = |crl: &Expiry| crl.file.file_name().unwrap().to_str().unwrap().to_owned();
    let mut crls: Vec<_> = crls.map(|crl| (name(crl), crl.name.clone())).collect();
    crls.sort();
    crls
}

fn named(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = pairs.iter();
    pairs
        .map(|(file, ca)| ((*file).to_owned(), format!("CN={ca}")))
        .collect()
}

#[test]
fn a_crl_in_der_form_loads() {
    let scratch = scratch();
    scratch.write("revoked.pem", &*scratch.ca.crl(&[7]));
    assert_eq!(crls(&scratch), named(&[("revoked.pem", "clients' CA")]));
}

#[test]
fn a_directory_gives_every_file_in_it() {
    let scratch = directory();
    let [a, b, c] = ["a", "b", "c"].map(Ca::root);
    let both = pem("X509 CRL", &a.crl(&[])) + &pem("X509 CRL", &b.crl(&[]));
    scratch.write("crls/1.pem", both);
    scratch.write("crls/2.crl", &*c.crl(&[1]));
    fs::create_dir(scratch.path("crls/below")).unwrap();
    scratch.write("crls/below/what.pem", "is no CRL");
    let expected = named(&[("1.pem", "a"), ("1.pem", "b"), ("2.crl", "c")]);
    assert_eq!(crls(&scratch), expected);
    // Beside files, in one list.
    let line = "crl = [\"revoked.pem\", \"crls\"]";
    scratch.write("ringgate.toml", front(line));
    assert_eq!(crls(&scratch).len(), 4);
}

/// As the kubelet mounts a ConfigMap or Secret, and swaps it.
#[test]
fn a_mounted_volume_is_read_through_its_links() {
    let scratch = directory();
    let [old, new] = ["old", "new"].map(Ca::root);
    for (name, ca) in [("..1", &old), ("..2", &new)] {
        fs::create_dir(scratch.path(&format!("crls/{name}"))).unwrap();
        scratch.write(&format!("crls/{name}/ca.crl"), &*ca.crl(&[]));
    }
    symlink("..1", scratch.path("crls/..data")).unwrap();
    symlink("..data/ca.crl", scratch.path("crls/ca.crl")).unwrap();
    assert_eq!(crls(&scratch), named(&[("ca.crl", "old")]));
    symlink("..2", scratch.path("crls/..new")).unwrap();
    fs::rename(scratch.path("crls/..new"), scratch.path("crls/..data")).unwrap();
    assert_eq!(crls(&scratch), named(&[("ca.crl", "new")]));
}

#[test]
fn a_directory_with_something_wrong_in_it_names_the_file() {
    let scratch = directory();
    // Revocation that looks switched on and is not.
    scratch.assert_error(
        CRL_LINE,
        &["crls holds no file", "put the CRLs of your CAs"],
    );
    scratch.write("crls/.hidden", &*scratch.ca.crl(&[]));
    scratch.assert_error(CRL_LINE, &["crls holds no file"]);
    scratch.write("crls/a.crl", &*scratch.ca.crl(&[]));
    scratch.loaded();
    for (content, part) in [
        (&b"notes"[..], "crls/b.txt holds no PEM block X509 CRL"),
        (b"", "crls/b.txt is empty"),
        (&scratch.ca.crl(&[])[..80], "CRL 1 in"),
    ] {
        scratch.write("crls/b.txt", content);
        scratch.assert_error(CRL_LINE, &[part, "crls/b.txt"]);
    }
    fs::remove_file(scratch.path("crls/b.txt")).unwrap();
    symlink("nowhere", scratch.path("crls/b.txt")).unwrap();
    scratch.assert_error(CRL_LINE, &["cannot read", "crls/b.txt", "lead nowhere"]);
}

#[test]
fn a_directory_of_too_many_files_is_refused() {
    let scratch = directory();
    let crl = scratch.ca.crl(&[]);
    for number in 0..CRL_FILES_PER_DIRECTORY_MAX {
        scratch.write(&format!("crls/{number}.crl"), &*crl);
    }
    scratch.loaded();
    scratch.write("crls/more.crl", &*crl);
    scratch.assert_error(CRL_LINE, &["crls has more than 1024 files"]);
}

/// Told by their lengths: what is too much is not read first.
#[test]
fn a_directory_of_too_many_bytes_is_refused() {
    let scratch = directory();
    let file = |name: &str, len: u64| {
        let file = fs::File::create(scratch.path(name)).unwrap();
        file.set_len(len).unwrap();
    };
    let each = CRL_DIRECTORY_BYTES_MAX / 4;
    (0..4).for_each(|number| file(&format!("crls/{number}.crl"), each));
    // Files without a CRL: those are read, so the bytes are not too many.
    scratch.assert_error(CRL_LINE, &["0.crl"]);
    file("crls/4.crl", 1);
    scratch.assert_error(CRL_LINE, &["crls have more than 256 MiB"]);
}

#[test]
fn what_expires_is_listed_with_its_file_and_name() {
    let scratch = scratch();
    // One that a newer one has replaced does not count; in a file of its own it would.
    let old = scratch.ca.crl_with(&[7], |params| {
        params.this_update = at(NOW - 3 * DAY);
        params.next_update = at(NOW - 2 * DAY);
    });
    scratch.write("old.crl", &*old);
    let text = front("crl = [\"old.crl\", \"revoked.pem\"]");
    scratch.write("ringgate.toml", text);
    let snapshot = scratch.loaded();
    let told: Vec<_> = snapshot
        .expiries
        .iter()
        .map(|expiry| {
            let told = expiry.told(NOW);
            assert!(told.contains(scratch.path("").to_str().unwrap()), "{told}");
            let file = expiry.file.file_name().unwrap().to_str().unwrap();
            (
                file.to_owned(),
                expiry.kind,
                expiry.name.clone(),
                expiry.left(NOW) / DAY,
            )
        })
        .collect();
    let ca = "CN=clients' CA".to_owned();
    let server = "CN=server".to_owned();
    assert_eq!(
        told,
        [
            ("revoked.pem".to_owned(), ExpiryKind::Crl, ca.clone(), 1),
            (
                "server.pem".to_owned(),
                ExpiryKind::ServerCertificate,
                server,
                10
            ),
            (
                "clients-ca.pem".to_owned(),
                ExpiryKind::TrustAnchor,
                ca,
                1000
            ),
        ]
    );
    assert!(snapshot.warnings.is_empty());
}

#[test]
fn what_should_have_been_renewed_is_a_warning() {
    let scratch = scratch();
    // Of ten days two hours.
    let late = scratch.ca.crl_with(&[7], |params| {
        params.this_update = at(NOW - 10 * DAY);
        params.next_update = at(NOW + 7200);
    });
    scratch.write("revoked.pem", &*late);
    let warnings = render(&scratch.loaded().warnings);
    let parts = [
        "revoked.pem (issuer CN=clients' CA): 2 hours left",
        "see to it",
    ];
    assert!(
        parts.iter().all(|part| warnings.contains(part)),
        "{warnings}"
    );
    // What no route uses any more is nobody's worry.
    scratch.write("ringgate.toml", front_with("colour", ""));
    assert!(scratch.loaded().warnings.is_empty());
}
