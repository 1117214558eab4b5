//! `ringgate explain` as a user runs it. Every time is given: what is issued here is valid around
//! 2026-01-01.

use std::process::Command;

use ringgate::close_reason::CloseReason;

use crate::pem::pem;
use crate::pki::{Ca, DAY, Leaf, NOW, at, client_with, dns, now, serial, uri};
use crate::scratch::Scratch;
use crate::{FRONT, front, front_with};

const ID: &str = "spiffe://prod.example/ns/billing/sa/api";

struct Explained {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Explained {
    /// The value of a field, in the paragraph of the first listener that has it.
    #[track_caller]
    fn field(&self, name: &str) -> &str {
        let start = format!("  {name:<12}");
        let mut lines = self.stdout.lines();
        let line = lines.find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {name} in:\n{}", self.stdout))
    }

    #[track_caller]
    fn is_let_in(&self) {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.field("verdict"), "let in");
        assert_eq!(self.stderr, "");
    }

    #[track_caller]
    fn is_refused(&self, reason: CloseReason, part: &str) {
        assert_eq!(self.code, Some(1), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.field("verdict"), "refused");
        assert_eq!(self.field("reason"), reason.label());
        assert!(self.field("detail").contains(part), "{}", self.stdout);
    }

    #[track_caller]
    fn is_not_judged(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(2), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "");
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "no `{part}` in:\n{}",
                self.stderr
            );
        }
    }
}

fn explain_at(scratch: &Scratch, time: &str, more: &[&str]) -> Explained {
    let output = Command::new(env!("CARGO_BIN_EXE_ringgate"))
        .args([
            "explain",
            "--cert",
            scratch.path("client.pem").to_str().unwrap(),
        ])
        .args(["-c", scratch.path("ringgate.toml").to_str().unwrap()])
        .args(["--at", time])
        .args(more)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Explained {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn explain(scratch: &Scratch, more: &[&str]) -> Explained {
    explain_at(scratch, "2026-01-01", more)
}

fn billing(ca: &Ca) -> Leaf {
    let mut params = client_with("api", vec![uri(ID), dns("api.example")]);
    params.serial_number = serial(0x0a1b);
    ca.issue(params)
}

/// A client that an intermediate of the clients' CA issued, and a rule that lets it in.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    let below = scratch.ca.intermediate_with("issuing CA", |params| {
        params.not_after = at(NOW + 5 * DAY);
    });
    let leaf = billing(&below);
    let chain = [&leaf.certificate, &below.certificate].map(|der| pem("CERTIFICATE", der));
    scratch.write("client.pem", chain.concat());
    scratch.write("ringgate.toml", with_rule(""));
    scratch
}

/// One listener named `front`, one rule that lets [`ID`] in.
fn with_rule(more: &str) -> String {
    front(&format!("name = \"front\"\n{more}")).replace(
        "{ name = \"everyone\", allow = { any = true } }",
        "{ name = \"billing\", allow = { spiffe = \"spiffe://prod.example/ns/billing/**\" } }",
    )
}

#[test]
fn a_client_that_is_let_in_is_told_by_whom_and_how_long() {
    let scratch = scratch();
    let told = explain(&scratch, &["--sni", "App.Example"]);
    told.is_let_in();
    assert!(
        told.stdout.starts_with("listener front:\n"),
        "{}",
        told.stdout
    );
    for (field, value) in [
        ("route", "front"),
        ("rule", "billing"),
        ("spiffe id", ID),
        ("subject", "CN=api"),
        ("sans", &format!("URI:{ID}, DNS:api.example")),
        ("issuer", "CN=issuing CA"),
        ("serial", "0a1b"),
        ("valid", "2025-12-22T00:00:00Z to 2026-01-11T00:00:00Z"),
        (
            "stands",
            "until 2026-01-06T00:00:00Z (5 days): a CA of the chain expires",
        ),
        ("revocation", "not checked: no CRL is configured"),
    ] {
        assert_eq!(told.field(field), value, "{field}");
    }
    assert_eq!(told.field("sha256").len(), 64);
    let anchor = told.field("anchor");
    assert!(anchor.starts_with("CN=clients' CA, sha256 "), "{anchor}");
}

#[test]
fn the_first_that_ends_says_how_long_a_verdict_stands() {
    let scratch = scratch();
    let leaf = billing(&scratch.ca);
    scratch.write("client.pem", pem("CERTIFICATE", &leaf.certificate));
    let told = explain(&scratch, &[]);
    assert_eq!(
        told.field("stands"),
        "until 2026-01-11T00:00:00Z (10 days): the certificate expires"
    );
    scratch.write("revoked.crl", &*scratch.ca.crl(&[]));
    scratch.write("ringgate.toml", with_rule("crl = \"revoked.crl\""));
    let told = explain(&scratch, &[]);
    told.is_let_in();
    assert_eq!(
        told.field("stands"),
        "until 2026-01-02T00:00:00Z (1 day): a CRL must have been replaced by then"
    );
    assert!(!told.stdout.contains("not checked"));
}

/// With the same words as the log.
#[test]
fn a_client_that_is_refused_is_told_why() {
    let scratch = scratch();
    let loaded = scratch.loaded();
    let domain = &loaded.listeners[0].acceptor.routes()[0].domain;

    let foreign = billing(&Ca::root("foreign"));
    scratch.write("client.pem", pem("CERTIFICATE", &foreign.certificate));
    let told = explain(&scratch, &[]);
    told.is_refused(CloseReason::CertificateUnknownCa, "`CN=foreign`");
    let refusal = domain.verify(&foreign.certificate, &[], now()).unwrap_err();
    assert_eq!(told.field("detail"), refusal.detail);
    assert_eq!(told.field("subject"), "CN=api");

    let other = scratch.ca.issue(client_with("other", vec![]));
    scratch.write("client.pem", pem("CERTIFICATE", &other.certificate));
    let told = explain(&scratch, &[]);
    told.is_refused(
        CloseReason::PolicyUnmatched,
        "no rule of `front` allows `CN=other`",
    );

    let leaf = billing(&scratch.ca);
    scratch.write("client.pem", pem("CERTIFICATE", &leaf.certificate));
    explain(&scratch, &[]).is_let_in();
    for (time, reason, part) in [
        (
            "2026-01-12T00:00:00Z",
            CloseReason::CertificateExpired,
            "1 day ago",
        ),
        (
            "2025-12-21",
            CloseReason::CertificateNotYetValid,
            "in 1 day",
        ),
    ] {
        explain_at(&scratch, time, &[]).is_refused(reason, part);
    }
    scratch.write("revoked.crl", &*scratch.ca.crl(&[0x0a1b]));
    scratch.write("ringgate.toml", with_rule("crl = \"revoked.crl\""));
    let told = explain(&scratch, &[]);
    told.is_refused(CloseReason::CertificateRevoked, "serial 0a1b");
}

#[test]
fn garbage_in_a_certificate_is_a_refusal_as_in_a_handshake() {
    let scratch = scratch();
    scratch.write("client.pem", pem("CERTIFICATE", b"\x30\x03\x02\x01\x01"));
    let told = explain(&scratch, &[]);
    told.is_refused(
        CloseReason::CertificateInvalid,
        "certificate 1 of the chain",
    );
    assert!(!told.stdout.contains("subject"));
}

#[test]
fn the_server_name_picks_the_route() {
    let scratch = scratch();
    let open = "rule = [{ name = \"open\", allow = { any = true } }]\n";
    let routes = format!(
        "[[listener.route]]\nserver_names = \"a.example\"\nname = \"exact\"\n{open}\
         [[listener.route]]\nserver_names = \"*.example\"\nname = \"wild\"\n{open}"
    );
    scratch.write("ringgate.toml", with_rule(&routes));
    for (arguments, route, rule) in [
        (&["--sni", "A.example"][..], "exact", "open"),
        (&["--sni", "b.example"], "wild", "open"),
        (&["--sni", "a.b.example"], "front", "billing"),
        (&[], "front", "billing"),
    ] {
        let told = explain(&scratch, arguments);
        told.is_let_in();
        assert_eq!((told.field("route"), told.field("rule")), (route, rule));
    }
    // Without a default route.
    let named = with_rule("server_names = \"a.example\"");
    scratch.write("ringgate.toml", named);
    explain(&scratch, &["--sni", "a.example"]).is_let_in();
    let told = explain(&scratch, &["--sni", "b.example"]);
    let reason = CloseReason::UnknownServerName;
    told.is_refused(reason, "no route serves the name `b.example`");
    assert!(!told.stdout.contains("  route"), "{}", told.stdout);
    let told = explain(&scratch, &[]);
    told.is_refused(reason, "the client sent no server name");
    let told = explain(&scratch, &["--sni", "10.0.0.1"]);
    told.is_not_judged(&["\"10.0.0.1\" is no server name", "leave --sni out"]);
}

#[test]
fn each_listener_is_asked_unless_one_is_named() {
    let scratch = scratch();
    let back = front_with("address", "address = \"127.0.0.1:8444\"").replace(
        "{ name = \"everyone\", allow = { any = true } }",
        "{ name = \"nobody-else\", allow = { cn = \"nobody\" } }",
    ) + "name = \"back\"\n";
    scratch.write("ringgate.toml", back.clone() + &with_rule(""));
    let told = explain(&scratch, &[]);
    assert_eq!(told.code, Some(0));
    let paragraphs: Vec<_> = told.stdout.split("\n\n").collect();
    let [first, second] = paragraphs[..] else {
        panic!("two paragraphs in {}", told.stdout)
    };
    assert!(first.starts_with("listener back:") && first.contains("policy_unmatched"));
    assert!(second.starts_with("listener front:") && second.contains("let in"));

    explain(&scratch, &["--listener", "front"]).is_let_in();
    let told = explain(&scratch, &["--listener", "back"]);
    told.is_refused(CloseReason::PolicyUnmatched, "`CN=api`");
    let told = explain(&scratch, &["--listener", "side"]);
    told.is_not_judged(&[
        "no listener has the name \"side\"",
        "name one of: back, front",
    ]);
    scratch.write("ringgate.toml", back);
    assert_eq!(explain(&scratch, &[]).code, Some(1));
}

#[test]
fn what_cannot_be_judged_says_what_to_do() {
    let scratch = scratch();
    let leaf = billing(&scratch.ca);
    let sound = pem("CERTIFICATE", &leaf.certificate);
    for (content, part) in [
        (Vec::new(), "client.pem is empty"),
        (leaf.certificate.to_vec(), "client.pem is in DER form"),
        (
            leaf.key.serialize_pem().into_bytes(),
            "holds a private key and no certificate",
        ),
        (b"hello".to_vec(), "holds no PEM block CERTIFICATE"),
        (sound.as_bytes()[..99].to_vec(), "client.pem is damaged"),
    ] {
        scratch.write("client.pem", content);
        explain(&scratch, &[]).is_not_judged(&[part, "remedy: "]);
    }
    std::fs::remove_file(scratch.path("client.pem")).unwrap();
    explain(&scratch, &[]).is_not_judged(&["cannot read", "client.pem", "remedy: "]);
    // A key beside the certificate, as some tools write them, does no harm.
    scratch.write("client.pem", leaf.key.serialize_pem() + &sound);
    explain(&scratch, &[]).is_let_in();

    let told = explain_at(&scratch, "tomorrow", &[]);
    told.is_not_judged(&["tomorrow", "2026-11-21T12:00:00Z"]);
    scratch.write("ringgate.toml", front("colour = 2\n"));
    explain(&scratch, &[]).is_not_judged(&["unknown key", "1 error in "]);
    scratch.write("ringgate.toml", FRONT);
    explain(&scratch, &[]).is_let_in();
}
