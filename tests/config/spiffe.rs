//! SPIFFE bundles in the configuration.

use ringgate::config::render;
use ringgate::trust::TrustDomain;

use crate::pem::pem;
use crate::pki::{self, Ca, client_with, now, uri};
use crate::scratch::Scratch;
use crate::{accepted, assert_error, front_with};

const SPIFFE_LINE: usize = 6;

const BUNDLE: &str = "{ trust_domain = \"a.example\", bundle = \"svid_bundle.pem\" }";

/// A listener with `spiffe` in place of `client_ca`.
fn with(value: &str) -> String {
    front_with("client_ca", &format!("spiffe = {value}"))
}

/// As spiffe-helper leaves its files: the SVID with its intermediate, its key, and the bundle.
struct Delivered {
    scratch: Scratch,
    root: Ca,
}

impl Delivered {
    fn new() -> Self {
        let scratch = Scratch::new();
        let root = Ca::root_with("SPIRE", |params| {
            params.subject_alt_names = vec![uri("spiffe://a.example")];
        });
        let below = root.intermediate("SPIRE agent's CA");
        let server = below.issue(client_with("", vec![uri("spiffe://a.example/gate")]));
        let chain = [&server.certificate, &below.certificate].map(|der| pem("CERTIFICATE", der));
        scratch.write("svid.pem", chain.concat());
        scratch.write("svid_key.pem", server.key.serialize_pem());
        scratch.set_mode("svid_key.pem", 0o600);
        let next = Ca::root("SPIRE, next");
        let bundle = [&root.certificate, &next.certificate].map(|der| pem("CERTIFICATE", der));
        scratch.write("svid_bundle.pem", bundle.concat());
        let text = with(BUNDLE)
            .replace("server.pem", "svid.pem")
            .replace("server.key", "svid_key.pem");
        scratch.write("ringgate.toml", text);
        Self { scratch, root }
    }

    /// Whether the domain of a route lets in whoever this CA issues an SVID of this ID.
    fn lets_in(&self, route: usize, ca: &Ca, id: &str) -> bool {
        let snapshot = self.scratch.loaded();
        let domain: &TrustDomain = &snapshot.listeners[0].acceptor.routes()[route].domain;
        let leaf = ca.issue(client_with("client", vec![uri(id)]));
        let verified = domain.verify(&leaf.certificate, &[], now());
        verified.is_ok_and(|peer| domain.authorize(peer).is_ok())
    }
}

#[test]
fn files_as_spiffe_helper_writes_them() {
    let delivered = Delivered::new();
    assert!(delivered.lets_in(0, &delivered.root, "spiffe://a.example/x"));
    assert!(!delivered.lets_in(0, &delivered.root, "spiffe://b.example/x"));
    let expiries = delivered.scratch.loaded().expiries;
    assert_eq!(expiries.len(), 4, "{expiries:?}");
    // key_file_mode = 0644 is what it can be told, too.
    delivered.scratch.set_mode("svid_key.pem", 0o644);
    delivered
        .scratch
        .assert_error(5, &["svid_key.pem", "mode 0644"]);
}

#[test]
fn a_merged_bundle_names_its_file() {
    let delivered = Delivered::new();
    let text = with("[{ trust_domain = \"b.example\", bundle = \"svid_bundle.pem\" }]");
    delivered.scratch.write("ringgate.toml", text);
    let parts = [
        "svid_bundle.pem",
        "`CN=SPIRE` is an authority of the trust domain `a.example`",
        "include_federated_domains = false",
    ];
    delivered.scratch.assert_error(SPIFFE_LINE, &parts);
}

#[test]
fn a_route_can_have_the_other_kind() {
    let delivered = Delivered::new();
    let route = "[[listener.route]]\nserver_names = \"s.example\"\nspiffe = ";
    let text = format!("{}{route}{BUNDLE}", crate::FRONT);
    delivered.scratch.write("ringgate.toml", text);
    let (root, ca) = (&delivered.root, &delivered.scratch.ca);
    assert!(delivered.lets_in(0, root, "spiffe://a.example/x"));
    assert!(!delivered.lets_in(0, ca, "spiffe://a.example/x"));
    assert!(delivered.lets_in(1, ca, "spiffe://a.example/x"));
    assert!(!delivered.lets_in(1, root, "spiffe://a.example/x"));
}

#[test]
fn bundles_are_checked_though_the_configuration_is_wrong() {
    let delivered = Delivered::new();
    let text = with(BUNDLE) + "colour = 2\n";
    delivered.scratch.write("ringgate.toml", text);
    delivered.scratch.write("svid_bundle.pem", "");
    let said = delivered.scratch.said();
    assert!(
        said.contains("colour") && said.contains("svid_bundle.pem is empty"),
        "{said}"
    );
}

#[test]
fn several_trust_domains() {
    let other = "{ trust_domain = \"b.example\", bundle = [\"b.pem\", \"c.pem\"] }";
    let config = accepted(&with(&format!("[{BUNDLE}, {other}]")));
    let route = &config.listeners[0].routes[0];
    let named: Vec<_> = route
        .bundles
        .iter()
        .map(|bundle| (bundle.trust_domain.as_str(), bundle.files.len()))
        .collect();
    assert_eq!(named, [("a.example", 1), ("b.example", 2)]);
    assert!(route.client_ca.is_empty());
}

#[test]
fn bundles_that_are_none() {
    for (value, part) in [
        ("[]", "is an empty list"),
        ("\"svid_bundle.pem\"", "is a string, not a table"),
        ("{ bundle = \"a.pem\" }", "`trust_domain` is missing"),
        ("{ trust_domain = \"a.example\" }", "`bundle` is missing"),
        (
            "{ trust_domain = \"a.example\", bundle = \"a\", file = 1 }",
            "unknown key",
        ),
        (
            "{ trust_domain = \"spiffe://a.example\", bundle = \"a.pem\" }",
            "is no trust domain",
        ),
        (
            "{ trust_domain = \"A.example\", bundle = \"a.pem\" }",
            "is no trust domain",
        ),
        (&format!("[{BUNDLE}, {BUNDLE}]"), "has a bundle already"),
    ] {
        let start = "ringgate.toml:6: listener[0].spiffe";
        assert_error(&with(value), start, &[part]);
    }
    let both = with(BUNDLE) + "client_ca = \"clients-ca.pem\"\n";
    let parts = ["stands beside `client_ca`", "keep one of the two"];
    assert_error(&both, "ringgate.toml:6: listener[0].spiffe", &parts);
}

/// Each of several authorities can put any DNS name, CN or OU into a certificate.
#[test]
fn names_of_several_trust_domains_are_told_apart() {
    let several = format!("[{BUNDLE}, {{ trust_domain = \"b.example\", bundle = \"b.pem\" }}]");
    let text = |bundles: &str, rules: &str| {
        with(bundles).replace("{ name = \"everyone\", allow = { any = true } }", rules)
    };
    for condition in [
        "dns = \"x.example\"",
        "cn = \"x\"",
        "cn = \"x\", ou = \"y\"",
    ] {
        let rule = format!("{{ name = \"r\", allow = {{ {condition} }} }}");
        let parts = ["the rule \"r\" goes by dns, cn or ou alone", "spiffe://"];
        assert_error(
            &text(&several, &rule),
            "ringgate.toml:2: listener[0]",
            &parts,
        );
        accepted(&text(BUNDLE, &rule));
        let scoped = format!(
            "{{ name = \"r\", allow = {{ {condition}, spiffe = \"spiffe://a.example/**\" }} }}"
        );
        accepted(&text(&several, &scoped));
        let denied = rule.replace("allow", "deny")
            + ", { name = \"s\", allow = { spiffe = \"spiffe://a.example/**\" } }";
        accepted(&text(&several, &denied));
    }
}

#[test]
fn a_bundle_without_a_ca_is_refused() {
    let delivered = Delivered::new();
    let leaf = delivered.root.issue(pki::client("leaf")).certificate;
    delivered
        .scratch
        .write("svid_bundle.pem", pem("CERTIFICATE", &leaf));
    let parts = ["svid_bundle.pem", "is no CA certificate"];
    delivered.scratch.assert_error(SPIFFE_LINE, &parts);
    let warnings = render(&Delivered::new().scratch.loaded().warnings);
    assert_eq!(warnings, "");
}
