//! One normalised matcher for host names: in SNI, in certificates and in policy rules.

use std::borrow::Cow;

/// Bytes of a label (RFC 1035 section 2.3.4).
const LABEL_LEN_MAX: usize = 63;

/// Bytes of a name without its trailing dot: 255 on the wire (RFC 1035 section 2.3.4), less the
/// first length byte and the root's.
const NAME_LEN_MAX: usize = 253;

/// A host name pattern: an exact name, or `*.` followed by a name, which stands for one label.
/// Stored in lower case without a trailing dot.
///
/// Internationalised names are written in their A-label form (RFC 5890 section 2.3.2.1:
/// `xn--...`), as they are in certificates and in SNI.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct NamePattern(String);

/// Why a pattern was not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{}` is no host name pattern: {problem}", .value.escape_default())]
pub struct NameError {
    pub value: String,
    pub problem: &'static str,
}

impl NamePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// Everything that no name could match: other characters than letters, digits, `-` and `_`,
    /// labels that are empty or too long, addresses, and a `*` that is not the whole first label.
    pub fn parse(pattern: &str) -> Result<Self, NameError> {
        let refuse = |problem| NameError {
            value: pattern.to_owned(),
            problem,
        };
        let name = match pattern.strip_prefix("*.") {
            Some(rest) => rest,
            None if pattern == "*" => {
                return Err(refuse("`*` alone is not accepted; write `*.` and a name"));
            }
            None => pattern,
        };
        check(name).map_err(refuse)?;
        let kept = pattern.strip_suffix('.').unwrap_or(pattern);
        if kept.len() > NAME_LEN_MAX {
            return Err(refuse(TOO_LONG));
        }
        Ok(Self(kept.to_ascii_lowercase()))
    }

    /// Whether `name` (any case, with or without a trailing dot) matches. What is no host name
    /// matches nothing.
    pub fn matches(&self, name: &str) -> bool {
        if check(name).is_err() {
            return false;
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        match self.0.strip_prefix("*.") {
            // A name that passed the check has no empty label, so the first one stands for `*`.
            Some(suffix) => name
                .split_once('.')
                .is_some_and(|(_, parent)| parent.eq_ignore_ascii_case(suffix)),
            None => name.eq_ignore_ascii_case(&self.0),
        }
    }

    /// Whether the pattern stands for more than one name.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// The pattern in lower case without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for NamePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host name in lower case without a trailing dot; `None` if `name` is none.
pub(super) fn normalized(name: &str) -> Option<Cow<'_, str>> {
    check(name).ok()?;
    Some(lower_case(name.strip_suffix('.').unwrap_or(name)))
}

pub(super) fn lower_case(text: &str) -> Cow<'_, str> {
    match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => text.to_ascii_lowercase().into(),
        false => text.into(),
    }
}

const TOO_LONG: &str = "it is longer than 253 bytes";

/// Whether `name` is a host name: RFC 1123 section 2.1, and `_`, which internal names use.
fn check(name: &str) -> Result<(), &'static str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > NAME_LEN_MAX {
        return Err(TOO_LONG);
    }
    if !name.is_ascii() {
        return Err("it has characters outside ASCII; write the A-label form (`xn--...`)");
    }
    for label in name.split('.') {
        check_label(label)?;
    }
    // The last label of a name is never a number, so that names and addresses cannot be mistaken
    // for each other (RFC 1123 section 2.1).
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    if name.rsplit('.').next().is_some_and(is_number) {
        return Err("an address is not a host name");
    }
    Ok(())
}

fn check_label(label: &str) -> Result<(), &'static str> {
    if label.is_empty() {
        return Err("a label is empty");
    }
    if label.len() > LABEL_LEN_MAX {
        return Err("a label is longer than 63 bytes");
    }
    if label.contains('*') {
        return Err("`*` must be the whole first label, once");
    }
    if !label
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    {
        return Err("only letters, digits, `-` and `_` may stand in a label");
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err("a label begins or ends with `-`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> NamePattern {
        NamePattern::parse(text).unwrap()
    }

    #[test]
    fn patterns_are_kept_in_lower_case_without_the_trailing_dot() {
        assert_eq!(pattern("API.Example.COM.").as_str(), "api.example.com");
        assert_eq!(pattern("*.Example.com.").as_str(), "*.example.com");
        assert!(pattern("*.a").is_wildcard() && !pattern("a").is_wildcard());
    }

    #[test]
    fn a_wildcard_stands_for_exactly_one_label() {
        let wildcard = pattern("*.example.com");
        for yes in [
            "a.example.com",
            "A.EXAMPLE.COM",
            "a.example.com.",
            "xn--bcher-kva.example.com",
        ] {
            assert!(wildcard.matches(yes), "{yes}");
        }
        for no in [
            "example.com",
            ".example.com",
            "a.b.example.com",
            "a.example.com..",
            "*.example.com",
            "a.example.org",
            "aexample.com",
            "",
            ".",
        ] {
            assert!(!wildcard.matches(no), "{no}");
        }
    }

    #[test]
    fn what_is_no_host_name_is_no_pattern_and_matches_nothing() {
        let long_label = "a".repeat(64);
        let long_name = vec!["abcdefg"; 32].join(".");
        for bad in [
            "",
            ".",
            "*",
            "*.",
            "**",
            "*.*.a",
            "a.*.b",
            "a*.b",
            "a..b",
            ".a",
            "a b",
            "a\0b",
            "a\nb",
            "b\u{fc}cher.example",
            "-a.b",
            "a-.b",
            "10.0.0.1",
            "[::1]",
            "a:443",
            &long_label,
            &long_name,
        ] {
            assert!(NamePattern::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(long_name.len(), 255);
        assert!(NamePattern::parse(&long_name[..253]).is_ok());
        assert!(NamePattern::parse(&format!("*.{}", &long_name[..253])).is_err());
        assert!(!pattern("a.b").matches("a\0.b"));
        assert!(!pattern("*.b").matches("a\0.b"));
    }

    #[test]
    fn errors_escape_what_they_quote() {
        let error = NamePattern::parse("a\nb").unwrap_err().to_string();
        assert!(error.contains("a\\nb") && !error.contains('\n'), "{error}");
    }

    /// Label by label, with nothing shared with the matcher.
    fn oracle(pattern: &str, name: &str) -> bool {
        fn labels(text: &str) -> Option<Vec<String>> {
            let mut labels: Vec<_> = text.split('.').map(str::to_lowercase).collect();
            if labels.len() > 1 && labels.last().is_some_and(String::is_empty) {
                labels.pop();
            }
            let total = labels.iter().map(|label| label.len() + 1).sum::<usize>() - 1;
            (total <= 253).then_some(labels)
        }
        fn is_label(label: &str) -> bool {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .chars()
                    .all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        }
        let (Some(pattern), Some(name)) = (labels(pattern), labels(name)) else {
            return false;
        };
        if name.len() != pattern.len() || !name.iter().all(|label| is_label(label)) {
            return false;
        }
        if name[name.len() - 1].chars().all(|c| c.is_ascii_digit()) {
            return false;
        }
        name.iter()
            .zip(&pattern)
            .enumerate()
            .all(|(at, (name, pattern))| name == pattern || (at == 0 && pattern == "*"))
    }

    fn label() -> impl Strategy<Value = String> {
        prop_oneof![
            8 => "[abAB]{1,2}",
            1 => "[a1_-]{1,3}",
            1 => Just("*".to_owned()),
            1 => Just(String::new()),
            1 => "[a\u{0}\n\u{e4} ]{1,2}",
            1 => "a{60,66}",
        ]
    }

    fn name() -> impl Strategy<Value = String> {
        (prop::collection::vec(label(), 1..5), any::<bool>())
            .prop_map(|(labels, dot)| labels.join(".") + if dot { "." } else { "" })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4096) })]

        #[test]
        fn sni_case_and_wildcard(text in name(), other in name(), flips in any::<u64>(), replaced in label()) {
            if let Ok(pattern) = NamePattern::parse(&text) {
                prop_assert_eq!(pattern.matches(&other), oracle(&text, &other));

                // Names that are near the pattern: its own text in another case, and with another
                // first label.
                let flipped: String = text
                    .chars()
                    .enumerate()
                    .map(|(at, c)| match flips >> (at % 64) & 1 {
                        0 => c.to_ascii_lowercase(),
                        _ => c.to_ascii_uppercase(),
                    })
                    .collect();
                prop_assert_eq!(pattern.matches(&flipped), oracle(&text, &flipped));
                let rest = flipped.split_once('.').map_or("", |(_, rest)| rest);
                let near = format!("{replaced}.{rest}");
                prop_assert_eq!(pattern.matches(&near), oracle(&text, &near));

                let again = NamePattern::parse(pattern.as_str());
                prop_assert_eq!(again.as_ref(), Ok(&pattern));
            }
        }
    }
}
