//! SPIFFE IDs: trust domains, X.509-SVIDs, and patterns of IDs in rules.
//!
//! Sources: the SPIFFE standards SPIFFE-ID (section 2) and X509-SVID (sections 2, 3 and 5.2).

use super::Identity;
use super::policy::PatternError;

/// What every SPIFFE ID begins with, in lower case.
const SCHEME: &str = "spiffe://";

/// Bytes of a SPIFFE ID, and of the name of a trust domain in it (SPIFFE-ID section 2.3).
const ID_LEN_MAX: usize = 2048;
const TRUST_DOMAIN_LEN_MAX: usize = 255;

/// The name of a trust domain, such as `prod.example`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomainName(String);

impl TrustDomainName {
    /// Reads a name.
    ///
    /// # Errors
    ///
    /// What no SPIFFE ID could hold: other characters than lower-case letters, digits, `.`, `-` and
    /// `_` (SPIFFE-ID section 2.1), nothing, or more than 255 bytes.
    pub fn parse(name: &str) -> Result<Self, PatternError> {
        match trust_domain_problem(name) {
            None => Ok(Self(name.to_owned())),
            Some(problem) => Err(PatternError {
                value: name.to_owned(),
                problem,
            }),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for TrustDomainName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for TrustDomainName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A pattern of SPIFFE IDs: `spiffe://trust-domain/path`, in which a segment `*` stands for exactly
/// one segment, and `**` as the last segment for one or more. The trust domain is always named.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SpiffePattern(String);

impl SpiffePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// What no SPIFFE ID could match.
    pub fn parse(pattern: &str) -> Result<Self, PatternError> {
        let refuse = |problem| PatternError {
            value: pattern.to_owned(),
            problem,
        };
        let Some(rest) = pattern.strip_prefix(SCHEME) else {
            return Err(refuse("it does not begin with `spiffe://`"));
        };
        let (domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        if let Some(problem) = trust_domain_problem(domain) {
            return Err(refuse(problem));
        }
        if pattern.len() > ID_LEN_MAX {
            return Err(refuse("it is longer than 2048 bytes"));
        }
        if path.is_empty() {
            return Err(refuse(
                "it has no path, and every client has one; write `/**` for the whole trust domain",
            ));
        }
        let segments: Vec<&str> = path.split('/').collect();
        for (at, segment) in segments.iter().enumerate() {
            match *segment {
                "*" => {}
                "**" if at + 1 == segments.len() => {}
                "**" => return Err(refuse("`**` must be the last segment")),
                _ if segment.contains('*') => {
                    return Err(refuse("`*` must be a whole segment; write `/*/`"));
                }
                _ if is_segment(segment) => {}
                _ => {
                    return Err(refuse(
                        "segments hold letters, digits, `.`, `-` and `_`, and are not empty, `.` \
                         or `..`",
                    ));
                }
            }
        }
        Ok(Self(pattern.to_owned()))
    }

    /// Whether a SPIFFE ID, which must be valid, matches. Byte for byte: IDs have one spelling.
    pub fn matches(&self, id: &str) -> bool {
        let (mut patterns, mut segments) = (self.0.split('/'), id.split('/'));
        loop {
            match (patterns.next(), segments.next()) {
                (None, None) | (Some("**"), Some(_)) => return true,
                (Some("*"), Some(_)) => {}
                (Some(pattern), Some(segment)) if pattern == segment => {}
                _ => return false,
            }
        }
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The SPIFFE ID of a leaf that meets the rules for X.509-SVIDs (X509-SVID section 5.2); or what is
/// wrong with it.
pub(super) fn svid(leaf: &Identity) -> Result<&str, String> {
    if leaf.may_sign {
        return Err(
            "it may sign certificates or CRLs (cA, keyCertSign or cRLSign), and only a leaf \
             stands for a client"
                .to_owned(),
        );
    }
    match (leaf.spiffe_id(), leaf.uri_count()) {
        (Some(id), _) => Ok(id),
        (None, 1) => Err(match leaf.uris.first() {
            Some(uri) => format!("`{uri}` is no SPIFFE ID of a client"),
            None => "its URI SAN is not printable".to_owned(),
        }),
        (None, count) => Err(format!("it has {count} URI SANs, and must have one")),
    }
}

/// The trust domain that a URI claims to be of, if it is a SPIFFE ID's; a CA's ID has no path.
pub(super) fn trust_domain_of(uri: &str) -> Option<&str> {
    let rest = uri.strip_prefix(SCHEME)?;
    Some(rest.split_once('/').map_or(rest, |(domain, _)| domain))
}

/// Whether `uri` is the SPIFFE ID of a client: one with a path.
pub(super) fn is_client_id(uri: &str) -> bool {
    let id = uri
        .strip_prefix(SCHEME)
        .and_then(|rest| rest.split_once('/'));
    uri.len() <= ID_LEN_MAX
        && id.is_some_and(|(domain, path)| {
            trust_domain_problem(domain).is_none() && path.split('/').all(is_segment)
        })
}

fn trust_domain_problem(name: &str) -> Option<&'static str> {
    let is_allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if name.is_empty() {
        Some("it names no trust domain")
    } else if name.len() > TRUST_DOMAIN_LEN_MAX {
        Some("the trust domain is longer than 255 bytes")
    } else if !name.bytes().all(is_allowed) {
        Some("a trust domain holds lower-case letters, digits, `.`, `-` and `_`")
    } else {
        None
    }
}

fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> SpiffePattern {
        SpiffePattern::parse(text).unwrap()
    }

    #[test]
    fn patterns_match_by_whole_segments() {
        for (written, yes, no) in [
            (
                "spiffe://a.b/ns/x",
                &["spiffe://a.b/ns/x"][..],
                &[
                    "spiffe://a.b/ns/xy",
                    "spiffe://a.b/ns",
                    "spiffe://a.b/ns/x/y",
                ][..],
            ),
            (
                "spiffe://a.b/ns/*/sa/web",
                &["spiffe://a.b/ns/x/sa/web", "spiffe://a.b/ns/y/sa/web"],
                &[
                    "spiffe://a.b/ns/x/y/sa/web",
                    "spiffe://a.b/ns/sa/web",
                    "spiffe://a.b/ns/x/sa/Web",
                    "spiffe://a.bc/ns/x/sa/web",
                    "spiffe://a/ns/x/sa/web",
                ],
            ),
            (
                "spiffe://a.b/ns/x/**",
                &["spiffe://a.b/ns/x/y", "spiffe://a.b/ns/x/y/z"],
                &[
                    "spiffe://a.b/ns/x",
                    "spiffe://a.b/ns/xy/z",
                    "spiffe://a.c/ns/x/y",
                ],
            ),
            (
                "spiffe://a.b/**",
                &["spiffe://a.b/x"],
                &["spiffe://a.b.c/x", "spiffe://a/b/x", "spiffe://a.b"],
            ),
        ] {
            for id in yes {
                assert!(pattern(written).matches(id), "{written} {id}");
            }
            for id in no {
                assert!(!pattern(written).matches(id), "{written} {id}");
            }
        }
    }

    #[test]
    fn what_no_id_could_match_is_no_pattern() {
        let long = format!("spiffe://a/{}", "b".repeat(2048));
        for bad in [
            "",
            "a.b/ns",
            "spiffe:/a/b",
            "SPIFFE://a/b",
            "https://a/b",
            "spiffe://",
            "spiffe:///b",
            "spiffe://a",
            "spiffe://a/",
            "spiffe://A/b",
            "spiffe://*/b",
            "spiffe://*.a/b",
            "spiffe://a:1/b",
            "spiffe://u@a/b",
            "spiffe://a/b/",
            "spiffe://a//b",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a/b*",
            "spiffe://a/**/b",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/b%20c",
            &long,
        ] {
            assert!(SpiffePattern::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_of_trust_domains() {
        for good in ["a", "prod.example", "a-b_c.9"] {
            assert_eq!(TrustDomainName::parse(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(256);
        for bad in ["", "A", "a/b", "spiffe://a", "a:1", "a b", "\u{e4}", &long] {
            assert!(TrustDomainName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(TrustDomainName::parse(&long[1..]).is_ok());
    }

    #[test]
    fn ids_of_clients_have_a_path() {
        for (id, valid) in [
            ("spiffe://a/b", true),
            ("spiffe://a/b/c.d-e_F", true),
            ("spiffe://a", false),
            ("spiffe://a/", false),
            ("spiffe://a/b/", false),
            ("spiffe://A/b", false),
            ("Spiffe://a/b", false),
            ("spiffe://a/b?c", false),
        ] {
            assert_eq!(is_client_id(id), valid, "{id}");
        }
        assert_eq!(trust_domain_of("spiffe://a.b"), Some("a.b"));
        assert_eq!(trust_domain_of("spiffe://a.b/c"), Some("a.b"));
        assert_eq!(trust_domain_of("https://a.b/c"), None);
    }
}
