//! Clients that must be refused.

use std::fmt;
use std::str::FromStr;

use crate::units;

/// Why a client must be refused.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum BadKind {
    Expired,
    /// It presents no certificate.
    None,
    Revoked,
    WrongCa,
}

impl BadKind {
    const ALL: [Self; 4] = [Self::Expired, Self::None, Self::Revoked, Self::WrongCa];

    /// As on the command line, in names of files and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::None => "none",
            Self::Revoked => "revoked",
            Self::WrongCa => "wrong-ca",
        }
    }
}

impl fmt::Display for BadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Shares of clients that must be refused, as in `expired:1%,none:1%`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BadShares(pub Vec<(BadKind, f64)>);

impl FromStr for BadShares {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!(
                "{text:?} has no shares of clients to be refused; write them as in \
                 expired:1%,revoked:1%,wrong-ca:1%,none:1%, each once and all together below 100%"
            )
        };
        let mut shares: Vec<(BadKind, f64)> = Vec::new();
        for part in text.split(',') {
            let (name, share) = part.trim().split_once(':').ok_or_else(wrong)?;
            let kind = BadKind::ALL.into_iter().find(|kind| kind.name() == name);
            let kind = kind.ok_or_else(wrong)?;
            let share = units::ratio(share).map_err(|_| wrong())?;
            if shares.iter().any(|(known, _)| *known == kind) {
                return Err(wrong());
            }
            shares.push((kind, share));
        }
        let sum: f64 = shares.iter().map(|(_, share)| share).sum();
        if sum < 1.0 {
            Ok(Self(shares))
        } else {
            Err(wrong())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read() {
        let shares: BadShares = "expired:1%,none:0.5".parse().unwrap();
        assert_eq!(shares.0, [(BadKind::Expired, 0.01), (BadKind::None, 0.5)]);
        for text in [
            "",
            "expired",
            "lost:1%",
            "none:1%,none:1%",
            "none:60%,expired:40%",
        ] {
            let error = text.parse::<BadShares>().unwrap_err();
            assert!(error.contains("wrong-ca:1%"), "{error}");
        }
    }
}
