//! What rules ask for, as written; [`super::rules`] decides by them. Deny wins; nothing matching means
//! refused.

use std::borrow::Cow;
use std::sync::Arc;

use super::name::{NamePattern, lower_case};
use super::spiffe::SpiffePattern;

/// What a rule that matches does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    Allow,
    Deny,
}

/// A URI pattern `scheme://authority/path`, in which `*` stands for exactly one path segment that
/// is not empty, and only as a whole segment.
///
/// Scheme and authority are compared without regard to case (RFC 3986 section 6.2.2.1), the path
/// byte for byte. Percent-encodings are not decoded: `%2F` is not `/`, `%61` is not `a`. A URI
/// with a query, a fragment, or a `.` or `..` segment matches nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UriPattern(String);

impl UriPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// What no URI could match, and a `*` anywhere but as a whole path segment.
    pub fn parse(pattern: &str) -> Result<Self, PatternError> {
        let refuse = |problem| PatternError {
            value: pattern.to_owned(),
            problem,
        };
        if !pattern.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refuse(
                "only printable ASCII without spaces may stand in a URI",
            ));
        }
        if pattern.contains(['?', '#']) {
            return Err(refuse("a query or fragment never matches; leave it out"));
        }
        let parts = Parts::of(pattern).ok_or_else(|| {
            refuse("it has no scheme and authority; write `scheme://authority/path`")
        })?;
        if parts.scheme.contains('*') || parts.authority.contains('*') {
            return Err(refuse(
                "`*` may stand only in the path; name the scheme and authority",
            ));
        }
        if !is_scheme(parts.scheme) {
            return Err(refuse(
                "the scheme must be a letter, then letters, digits, `+`, `-`, `.`",
            ));
        }
        if parts.authority.is_empty() || parts.authority.contains('@') {
            return Err(refuse(
                "the authority must be a host, without user information",
            ));
        }
        for segment in parts.path.split('/') {
            match segment {
                "**" => return Err(refuse("`**` is not supported; write one `*` per segment")),
                "." | ".." => return Err(refuse("`.` and `..` segments never match")),
                "*" => {}
                _ if segment.contains('*') => {
                    return Err(refuse("`*` must be a whole path segment; write `/*/`"));
                }
                _ => {}
            }
        }
        Ok(Self(pattern.to_owned()))
    }

    /// Whether `uri`, as written in a certificate, matches.
    pub fn matches(&self, uri: &str) -> bool {
        if uri.contains(['?', '#']) || !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
            return false;
        }
        let (Some(pattern), Some(uri)) = (Parts::of(&self.0), Parts::of(uri)) else {
            return false;
        };
        pattern.scheme.eq_ignore_ascii_case(uri.scheme)
            && pattern.authority.eq_ignore_ascii_case(uri.authority)
            && segments_match(pattern.path, uri.path)
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A URI taken apart; `path` begins with its slash, if there is one.
struct Parts<'a> {
    scheme: &'a str,
    authority: &'a str,
    path: &'a str,
}

impl<'a> Parts<'a> {
    fn of(uri: &'a str) -> Option<Self> {
        let (scheme, rest) = uri.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Some(Self {
            scheme,
            authority,
            path,
        })
    }
}

/// Of a URI or pattern: the scheme and authority in lower case, then the segments of the path.
pub(super) fn uri_segments(uri: &str) -> Option<impl Iterator<Item = Cow<'_, str>>> {
    let parts = Parts::of(uri)?;
    let begin = [parts.scheme, parts.authority].map(lower_case);
    Some(
        begin
            .into_iter()
            .chain(parts.path.split('/').map(Cow::Borrowed)),
    )
}

/// RFC 3986 section 3.1.
fn is_scheme(scheme: &str) -> bool {
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn segments_match(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut segments) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), segments.next()) {
            (None, None) => return true,
            (Some(_), Some("." | "..")) => return false,
            (Some("*"), Some(segment)) if !segment.is_empty() => {}
            (Some(pattern), Some(segment)) if pattern == segment && pattern != "*" => {}
            _ => return false,
        }
    }
}

/// Why a pattern was not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{}` is no valid pattern: {problem}", .value.escape_default())]
pub struct PatternError {
    pub value: String,
    pub problem: &'static str,
}

/// What a rule asks of an identity. Each looks only at its own kind of name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Matcher {
    /// Every identity that was verified.
    Any,
    /// The most specific common name of the subject, byte for byte.
    CommonName(String),
    /// A DNS SAN.
    Dns(NamePattern),
    /// SHA-256 of the certificate's DER.
    Fingerprint([u8; 32]),
    /// An organizational unit of the subject, byte for byte.
    OrganizationalUnit(String),
    /// The SPIFFE ID: that of a certificate with several URI SANs is none.
    Spiffe(SpiffePattern),
    /// SHA-256 of the SubjectPublicKeyInfo's DER.
    SpkiPin([u8; 32]),
    /// A URI SAN.
    Uri(UriPattern),
}

/// A named rule; it matches when every kind of matcher that it has finds one match (alternatives
/// within a kind, conjunction across kinds). A rule without matchers matches nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    pub name: Arc<str>,
    pub effect: Effect,
    pub matchers: Vec<Matcher>,
}

impl Rule {
    /// Whether nothing but names decides here that several authorities may give out: neither which
    /// trust domain the client is of, nor which certificate or key it has.
    pub fn goes_by_unscoped_names(&self) -> bool {
        self.matchers.iter().all(|matcher| {
            matches!(
                matcher,
                Matcher::CommonName(_) | Matcher::Dns(_) | Matcher::OrganizationalUnit(_)
            )
        })
    }
}

/// The rules of a trust domain. Their order decides only which of several rules is named.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Policy {
    pub rules: Vec<Rule>,
}

/// What a policy says of an identity.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    Allowed { rule: Arc<str> },
    Denied { rule: Arc<str> },
    Unmatched,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::Identity;
    use crate::trust::rules::Rules;

    fn decide(policy: &Policy, identity: &Identity) -> Decision {
        Rules::new(policy).decide(identity)
    }

    fn identity() -> Identity {
        Identity {
            uris: vec!["spiffe://example.org/ns/prod/sa/web".to_owned()],
            dns_names: vec!["web.example.org".to_owned()],
            emails: vec!["mail.example.org".to_owned()],
            addresses: Vec::new(),
            common_name: Some("Web".to_owned()),
            organizational_units: vec!["Payments".to_owned(), "Shop".to_owned()],
            rejected_names: Vec::new(),
            subject: "CN=Web".to_owned(),
            issuer: "CN=CA".to_owned(),
            serial: vec![1],
            not_before: 0,
            not_after: 1,
            fingerprint: [1; 32],
            spki_pin: [2; 32],
            rsa_modulus_bits: None,
            client_auth: true,
            may_sign: false,
        }
    }

    fn rule(name: &str, effect: Effect, matchers: Vec<Matcher>) -> Rule {
        Rule {
            name: name.into(),
            effect,
            matchers,
        }
    }

    fn allows(matchers: Vec<Matcher>) -> bool {
        let policy = Policy {
            rules: vec![rule("r", Effect::Allow, matchers)],
        };
        decide(&policy, &identity()) == Decision::Allowed { rule: "r".into() }
    }

    fn uri(text: &str) -> Matcher {
        Matcher::Uri(UriPattern::parse(text).unwrap())
    }

    fn dns(text: &str) -> Matcher {
        Matcher::Dns(NamePattern::parse(text).unwrap())
    }

    #[test]
    fn each_kind_matches_its_own_names() {
        assert!(allows(vec![Matcher::Any]));
        assert!(allows(vec![Matcher::CommonName("Web".to_owned())]));
        assert!(!allows(vec![Matcher::CommonName("web".to_owned())]));
        assert!(allows(vec![dns("*.example.org")]));
        assert!(allows(vec![Matcher::Fingerprint([1; 32])]));
        assert!(!allows(vec![Matcher::Fingerprint([2; 32])]));
        assert!(allows(vec![Matcher::OrganizationalUnit("Shop".to_owned())]));
        assert!(allows(vec![Matcher::SpkiPin([2; 32])]));
        assert!(!allows(vec![Matcher::SpkiPin([1; 32])]));
        assert!(allows(vec![uri("spiffe://example.org/ns/*/sa/web")]));
    }

    #[test]
    fn emails_and_common_names_never_match_dns_rules() {
        assert!(!allows(vec![dns("mail.example.org")]));
        let mut identity = identity();
        identity.common_name = Some("cn.example.org".to_owned());
        let policy = Policy {
            rules: vec![rule("r", Effect::Allow, vec![dns("cn.example.org")])],
        };
        assert_eq!(decide(&policy, &identity), Decision::Unmatched);
    }

    #[test]
    fn alternatives_within_a_kind_and_conjunction_across_kinds() {
        let (right, wrong) = (dns("web.example.org"), dns("other.example.org"));
        assert!(allows(vec![wrong.clone(), right.clone()]));
        assert!(allows(vec![
            right.clone(),
            Matcher::CommonName("Web".to_owned())
        ]));
        assert!(!allows(vec![
            right.clone(),
            Matcher::CommonName("Mail".to_owned())
        ]));
        assert!(!allows(vec![wrong, Matcher::Any]));
        assert!(!allows(vec![]));
    }

    #[test]
    fn deny_wins_whatever_the_order() {
        let allow = rule("in", Effect::Allow, vec![Matcher::Any]);
        let deny = rule(
            "out",
            Effect::Deny,
            vec![Matcher::CommonName("Web".to_owned())],
        );
        for rules in [
            vec![allow.clone(), deny.clone()],
            vec![deny.clone(), allow.clone()],
        ] {
            let decision = decide(&Policy { rules }, &identity());
            assert_eq!(decision, Decision::Denied { rule: "out".into() });
        }
        let other = rule(
            "other",
            Effect::Deny,
            vec![Matcher::CommonName("Mail".to_owned())],
        );
        let rules = vec![other, allow];
        let decision = decide(&Policy { rules }, &identity());
        assert_eq!(decision, Decision::Allowed { rule: "in".into() });
        assert_eq!(decide(&Policy::default(), &identity()), Decision::Unmatched);
    }

    #[test]
    fn a_star_stands_for_one_segment_that_is_not_empty() {
        let pattern = UriPattern::parse("spiffe://Example.org/ns/*/sa/web").unwrap();
        for yes in [
            "spiffe://example.org/ns/prod/sa/web",
            "SPIFFE://EXAMPLE.ORG/ns/a%2Fb/sa/web",
        ] {
            assert!(pattern.matches(yes), "{yes}");
        }
        for no in [
            "spiffe://example.org/ns//sa/web",
            "spiffe://example.org/ns/a/b/sa/web",
            "spiffe://example.org/ns/a/sa/web/",
            "spiffe://example.org/ns/a/sa/Web",
            "spiffe://example.org/ns/a/sa/w%65b",
            "spiffe://example.org/ns/../sa/web",
            "spiffe://example.org/ns/a/sa/web?x",
            "spiffe://example.org/ns/a/sa/web#x",
            "spiffe://example.org.evil/ns/a/sa/web",
            "spiffe://u@example.org/ns/a/sa/web",
            "https://example.org/ns/a/sa/web",
            "example.org/ns/a/sa/web",
            "",
        ] {
            assert!(!pattern.matches(no), "{no}");
        }
        assert!(
            UriPattern::parse("spiffe://a")
                .unwrap()
                .matches("spiffe://A")
        );
        assert!(
            !UriPattern::parse("spiffe://a")
                .unwrap()
                .matches("spiffe://a/")
        );
        assert!(
            !UriPattern::parse("spiffe://a/*")
                .unwrap()
                .matches("spiffe://a/")
        );
        for no in [
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/b c",
            "spiffe://a/..",
        ] {
            assert!(
                !UriPattern::parse("spiffe://a/*").unwrap().matches(no),
                "{no}"
            );
        }
        // A literal star in a certificate is one segment like any other.
        assert!(
            UriPattern::parse("spiffe://a/*")
                .unwrap()
                .matches("spiffe://a/*")
        );
        assert!(
            !UriPattern::parse("spiffe://a/b")
                .unwrap()
                .matches("spiffe://a/*")
        );
    }

    #[test]
    fn patterns_that_no_uri_can_match_are_errors() {
        for bad in [
            "",
            "example.org/a",
            "urn:uuid:1",
            "spiffe:///a",
            "://a/b",
            "1a://a/b",
            "*://a/b",
            "spiffe://*/a",
            "spiffe://*.example.org/a",
            "spiffe://u@a/b",
            "spiffe://a/**",
            "spiffe://a/b*",
            "spiffe://a/*b/c",
            "spiffe://a/../b",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/b c",
            "spiffe://a/\0",
            "spiffe://b\u{fc}cher/a",
        ] {
            assert!(UriPattern::parse(bad).is_err(), "{bad:?}");
        }
    }
}
