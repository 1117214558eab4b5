//! Until when what a snapshot was made of counts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::crls::LoadedCrl;
use crate::config::{ConfigError, FileSetting, Place};
use crate::trust::identity::Identity;
use crate::trust::span;

/// The part of a lifetime that is left when a renewal is late. What renews itself does so long
/// before: ACME clients and cert-manager with a third left, SPIRE with half.
const LATE_FRACTION: i64 = 5;

/// For what lives for years a part is too long a time, in seconds: 30 days.
const LATE_MAX: i64 = 30 * 24 * 3600;

/// What expires.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ExpiryKind {
    Crl,
    ServerCertificate,
    /// An anchor is trusted whatever its validity says (RFC 5280 section 6.2); it is time to
    /// replace it all the same.
    TrustAnchor,
}

impl ExpiryKind {
    /// The stable name used in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Crl => "crl",
            Self::ServerCertificate => "certificate",
            Self::TrustAnchor => "anchor",
        }
    }
}

/// Until when something counts.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Expiry {
    pub kind: ExpiryKind,
    /// The file that it stood in; of a directory the file there.
    pub file: PathBuf,
    /// The subject; the issuer of a CRL.
    pub name: String,
    /// notBefore, or a CRL's thisUpdate; seconds since the Unix epoch.
    pub from: i64,
    /// notAfter, or a CRL's nextUpdate; seconds since the Unix epoch.
    pub until: i64,
}

impl Expiry {
    /// Seconds that are left at `now`; negative once it has expired.
    pub fn left(&self, now: i64) -> i64 {
        self.until.saturating_sub(now)
    }

    /// Seconds from its beginning to its end.
    pub fn lifetime(&self) -> i64 {
        self.until.saturating_sub(self.from)
    }

    /// Whether so little is left that its renewal must have failed, or been forgotten.
    pub fn is_late(&self, now: i64) -> bool {
        self.left(now) < (self.lifetime() / LATE_FRACTION).min(LATE_MAX)
    }

    /// One line for people, such as `crl revoked.pem (issuer CN=clients): 6 days left`.
    pub fn told(&self, now: i64) -> String {
        let (kind, named) = match self.kind {
            ExpiryKind::Crl => ("crl", "issuer"),
            ExpiryKind::ServerCertificate => ("certificate", "subject"),
            ExpiryKind::TrustAnchor => ("trust anchor", "subject"),
        };
        let left = match self.left(now) {
            left @ 0.. => format!("{} left", span(left)),
            over => format!("expired {} ago", span(over.saturating_neg())),
        };
        format!(
            "{kind} {} ({named} {}): {left}",
            self.file.display(),
            self.name
        )
    }

    /// What is wrong with so little time left at `now`, and the remedy.
    pub fn problem(&self, now: i64) -> (String, &'static str) {
        let told = self.told(now);
        match (self.kind, self.left(now) < 0) {
            (ExpiryKind::Crl, true) => (
                format!("{told}: it has expired, and says nothing unless expired_crl is \"allow\""),
                "replace it by what its issuer publishes now",
            ),
            (ExpiryKind::Crl, false) => (
                told,
                "see to it that what fetches it works; unless expired_crl is \"allow\", clients \
                 of its issuer are refused once it has expired",
            ),
            (ExpiryKind::ServerCertificate, true) => (
                format!("{told}: it has expired, and clients will refuse it"),
                "replace it with a certificate that is valid",
            ),
            (ExpiryKind::ServerCertificate, false) => (
                told,
                "see to it that what renews it works; clients refuse it once it has expired",
            ),
            (ExpiryKind::TrustAnchor, true) => (
                format!("{told}: it has expired, and is trusted all the same"),
                "remove it, if that is not meant",
            ),
            (ExpiryKind::TrustAnchor, false) => {
                (told, "replace the CA, and the certificates of its clients")
            }
        }
    }
}

/// What was noted while files were read.
#[derive(Default)]
pub(super) struct Expiries {
    /// And where the configuration names it first.
    noted: HashMap<Expiry, Place>,
}

impl Expiries {
    pub(super) fn note_certificates(
        &mut self,
        kind: ExpiryKind,
        file: &FileSetting,
        certificates: &[CertificateDer<'_>],
    ) {
        for der in certificates {
            // What cannot be read has been reported.
            if let Ok(identity) = Identity::from_der(der) {
                self.note(
                    &file.place,
                    Expiry {
                        kind,
                        file: file.path.clone(),
                        name: identity.subject,
                        from: identity.not_before,
                        until: identity.not_after,
                    },
                );
            }
        }
    }

    /// Notes those of a route's CRLs that no newer one has replaced.
    pub(super) fn note_crls(&mut self, sources: &[(&FileSetting, Arc<[LoadedCrl]>)]) {
        let mut newest: HashMap<_, (&Place, &LoadedCrl)> = HashMap::new();
        for (source, crls) in sources {
            for crl in crls.iter() {
                let series = (&crl.about.issuer, &crl.about.series);
                let known = newest.entry(series).or_insert((&source.place, crl));
                if crl.about.version() > known.1.about.version() {
                    *known = (&source.place, crl);
                }
            }
        }
        for (place, crl) in newest.into_values() {
            if let Some(until) = crl.about.next_update {
                let expiry = Expiry {
                    kind: ExpiryKind::Crl,
                    file: Path::to_owned(&crl.file),
                    name: crl.about.issuer.clone(),
                    from: crl.about.this_update,
                    until,
                };
                self.note(place, expiry);
            }
        }
    }

    /// Several routes may name the same.
    fn note(&mut self, place: &Place, expiry: Expiry) {
        self.noted.entry(expiry).or_insert_with(|| place.clone());
    }

    /// The first to expire first.
    pub(super) fn sorted(&self) -> Vec<Expiry> {
        let mut sorted: Vec<_> = self.noted.keys().cloned().collect();
        sorted.sort_by(|a, b| {
            (a.until, a.kind, &a.file, &a.name).cmp(&(b.until, b.kind, &b.file, &b.name))
        });
        sorted
    }

    /// What an operator should look after at `now`.
    pub(super) fn warnings(&self, now: i64) -> Vec<ConfigError> {
        let mut late = self.sorted();
        late.retain(|expiry| expiry.is_late(now));
        let warning = |expiry: &Expiry| {
            let (problem, remedy) = expiry.problem(now);
            self.noted[expiry].error(problem, remedy)
        };
        late.iter().map(warning).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600;

    fn expiry(from: i64, until: i64) -> Expiry {
        Expiry {
            kind: ExpiryKind::Crl,
            file: "revoked.pem".into(),
            name: "CN=clients".to_owned(),
            from,
            until,
        }
    }

    #[test]
    fn late_is_a_fifth_of_a_lifetime_and_at_most_a_month() {
        for (days, late) in [(10, 2), (90, 18), (3650, 30)] {
            let expiry = expiry(0, days * DAY);
            assert!(!expiry.is_late((days - late) * DAY), "{days}");
            assert!(expiry.is_late((days - late) * DAY + 1), "{days}");
        }
        assert!(expiry(0, 0).is_late(1));
        assert!(expiry(7, -7).is_late(0) && expiry(i64::MIN, i64::MAX).left(-1) > 0);
    }

    #[test]
    fn what_is_left_is_told() {
        let expiry = expiry(0, 7 * DAY);
        let told = "crl revoked.pem (issuer CN=clients): ";
        assert_eq!(expiry.told(DAY), format!("{told}6 days left"));
        assert_eq!(expiry.told(7 * DAY), format!("{told}0 seconds left"));
        assert_eq!(expiry.told(9 * DAY), format!("{told}expired 2 days ago"));
    }
}
