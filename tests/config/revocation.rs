//! CRL files.

use std::fs;

use ringgate::config::render;

use crate::front;
use crate::pki::{DAY, NOW, at};
use crate::scratch::{Scratch, pem};

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
    scratch.write("revoked.pem", &*der);
    scratch.assert_error(CRL_LINE, &["is in DER form", "openssl crl -inform der"]);
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
