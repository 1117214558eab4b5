//! Identity -> Decision. Deny wins; nothing matching means refused.

use std::sync::Arc;

use super::Identity;
use super::name::NamePattern;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    Allow,
    Deny,
}

/// A URI pattern: `*` stands for one path segment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UriPattern(String);

impl UriPattern {
    pub fn parse(_pattern: &str) -> Result<Self, PatternError> {
        todo!()
    }
    pub fn matches(&self, _uri: &str) -> bool {
        todo!()
    }
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{value}` is no valid pattern: {problem}")]
pub struct PatternError {
    pub value: String,
    pub problem: &'static str,
}

/// What a rule asks of an identity.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Matcher {
    /// Matches every identity.
    Any,
    CommonName(String),
    Dns(NamePattern),
    Fingerprint([u8; 32]),
    OrganizationalUnit(String),
    SpkiPin([u8; 32]),
    Uri(UriPattern),
}

/// A named rule; it matches when every kind of matcher that it has finds one match (alternatives
/// within a kind, conjunction across kinds).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    pub name: Arc<str>,
    pub effect: Effect,
    pub matchers: Vec<Matcher>,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Policy {
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    Allowed { rule: Arc<str> },
    Denied { rule: Arc<str> },
    Unmatched,
}

impl Policy {
    pub fn decide(&self, _identity: &Identity) -> Decision {
        todo!()
    }
}
