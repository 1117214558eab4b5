//! One normalised matcher for host names: in SNI, in certificates and in policy rules.

/// A host name pattern: an exact name, or `*.` followed by a name, which stands for one label.
/// Stored in lower case without a trailing dot.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct NamePattern(String);

/// Why a pattern was not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{value}` is no host name pattern: {problem}")]
pub struct NameError {
    pub value: String,
    pub problem: &'static str,
}

impl NamePattern {
    pub fn parse(_pattern: &str) -> Result<Self, NameError> {
        todo!()
    }
    /// Whether `name` (any case, with or without a trailing dot) matches.
    pub fn matches(&self, _name: &str) -> bool {
        todo!()
    }
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
