//! Why a client is not let in: webpki's errors as close reasons, and in words.

use std::sync::Arc;

use rustls_pki_types::UnixTime;
use time::OffsetDateTime;
use webpki::Error;

use super::Identity;
use super::chain::Chain;
use super::identity::Authority;
use crate::close_reason::CloseReason;

/// Why a client is not let in.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub reason: CloseReason,
    /// For people: what was wrong with which certificate.
    pub detail: String,
    /// Who the leaf claims to be, as far as it could be read. Unproven.
    pub claimed: Option<Arc<Identity>>,
}

impl Refusal {
    pub(super) fn new(reason: CloseReason, detail: String, claimed: Option<Arc<Identity>>) -> Self {
        Self {
            reason,
            detail,
            claimed,
        }
    }
}

/// The close reason of an error of webpki.
pub(super) fn reason(error: &Error) -> CloseReason {
    #[allow(
        deprecated,
        reason = "variants that an older minor version still returns"
    )]
    match error {
        Error::CertExpired { .. } => CloseReason::CertificateExpired,
        Error::CertNotValidYet { .. } => CloseReason::CertificateNotYetValid,

        // Distrusted: webpki knows the key as one that was given away.
        Error::CertDistrusted | Error::CertRevoked => CloseReason::CertificateRevoked,

        // There is a CRL, but it cannot tell.
        Error::CrlExpired { .. }
        | Error::InvalidCrlNumber
        | Error::InvalidCrlSignatureForPublicKey
        | Error::IssuerNotCrlSigner
        | Error::UnknownRevocationStatus
        | Error::UnsupportedCrlIssuingDistributionPoint
        | Error::UnsupportedCrlSignatureAlgorithm
        | Error::UnsupportedCrlSignatureAlgorithmContext(_)
        | Error::UnsupportedCrlSignatureAlgorithmForPublicKey
        | Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_)
        | Error::UnsupportedCrlVersion
        | Error::UnsupportedDeltaCrl
        | Error::UnsupportedIndirectCrl
        | Error::UnsupportedRevocationReason
        | Error::UnsupportedRevocationReasonsPartitioning => CloseReason::RevocationUnknown,

        Error::EmptyEkuExtension
        | Error::RequiredEkuNotFound
        | Error::RequiredEkuNotFoundContext(_) => CloseReason::CertificatePurpose,

        // A signature that does not verify: the issuer is not the one that we know by this name.
        Error::InvalidSignatureForPublicKey | Error::UnknownIssuer => {
            CloseReason::CertificateUnknownCa
        }

        Error::MaximumNameConstraintComparisonsExceeded
        | Error::MaximumPathBuildCallsExceeded
        | Error::MaximumPathDepthExceeded
        | Error::MaximumSignatureChecksExceeded => CloseReason::CertificateChainTooLong,

        Error::BadDer
        | Error::BadDerTime
        | Error::CaUsedAsEndEntity
        | Error::CertNotValidForName(_)
        | Error::EndEntityUsedAsCa
        | Error::ExtensionValueInvalid
        | Error::InvalidCertValidity
        | Error::InvalidNetworkMaskConstraint
        | Error::InvalidSerialNumber
        | Error::MalformedDnsIdentifier
        | Error::MalformedExtensions
        | Error::MalformedNameConstraint
        | Error::NameConstraintViolation
        | Error::PathLenConstraintViolated
        | Error::SignatureAlgorithmMismatch
        | Error::TrailingData(_)
        | Error::UnsupportedCertVersion
        | Error::UnsupportedCriticalExtension
        | Error::UnsupportedNameType
        | Error::UnsupportedSignatureAlgorithm
        | Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKey
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            CloseReason::CertificateInvalid
        }

        // The enum is open: what is new is a refusal too.
        _ => CloseReason::CertificateInvalid,
    }
}

/// The words for an error that needs nothing but the chain to be told.
pub(super) fn detail(error: &Error, chain: &Chain<'_>, domain: &str) -> String {
    let leaf = chain.leaf();
    let subject = &leaf.subject;
    match error {
        Error::CertExpired { time, not_after } => {
            let not_after = seconds(*not_after);
            let whose = whose(chain, |identity| identity.not_after == not_after);
            let ago = span(seconds(*time) - not_after);
            format!("{whose} expired at {}, {ago} ago", utc(not_after))
        }
        Error::CertNotValidYet { time, not_before } => {
            let not_before = seconds(*not_before);
            let whose = whose(chain, |identity| identity.not_before == not_before);
            let left = span(not_before - seconds(*time));
            format!("{whose} is valid from {}, in {left}", utc(not_before))
        }
        Error::UnknownIssuer => format!(
            "`{subject}` leads to no trust anchor of `{domain}`: its issuer is `{}`, and the \
             client sent {} intermediate certificates",
            leaf.issuer,
            chain.certificates.len() - 1
        ),
        Error::InvalidSignatureForPublicKey => format!(
            "`{subject}` leads to no trust anchor of `{domain}`: there is an issuer with the \
             right name (`{}`), but the signature is not by its key",
            leaf.issuer
        ),
        Error::NameConstraintViolation => {
            let constrains = |presented: &super::chain::Presented<'_>| {
                Authority::from_der(presented.der).is_ok_and(|authority| authority.constrains_uris)
            };
            match chain
                .certificates
                .iter()
                .skip(1)
                .find(|presented| constrains(presented))
            {
                Some(ca) if !leaf.uris.is_empty() => uri_constraints(subject, &ca.identity.subject),
                _ => format!("`{subject}` has a name that a CA of its chain may not issue"),
            }
        }
        Error::RequiredEkuNotFoundContext(context) => {
            let present: Vec<_> = context.present.iter().map(|oid| dotted(oid)).collect();
            format!(
                "the chain of `{subject}` is not for client authentication: an extended key \
                 usage lacks clientAuth and has {}",
                if present.is_empty() {
                    "none".to_owned()
                } else {
                    present.join(", ")
                }
            )
        }
        Error::MaximumPathDepthExceeded => {
            format!("the path of `{subject}` to a trust anchor has more than 6 intermediate CAs")
        }
        error if reason(error) == CloseReason::CertificateChainTooLong => {
            format!("the chain of `{subject}` takes too much work to check ({error})")
        }
        error => format!(
            "the chain of `{subject}` (issuer `{}`): {error}",
            leaf.issuer
        ),
    }
}

/// webpki refuses every URI under a CA that constrains URIs, be it inside the constraint or not.
pub(super) fn uri_constraints(subject: &str, ca: &str) -> String {
    format!(
        "`{subject}` has a URI SAN and its CA `{ca}` has name constraints on URIs, which cannot be \
         checked; issue it from a CA without URI name constraints"
    )
}

fn whose(chain: &Chain<'_>, is_meant: impl Fn(&Identity) -> bool) -> String {
    let meant = chain.identities().position(is_meant);
    let identity = meant.and_then(|at| chain.identities().nth(at));
    match (meant, identity) {
        (Some(1..), Some(ca)) => {
            format!("the CA `{}` above `{}`", ca.subject, chain.leaf().subject)
        }
        _ => format!("`{}`", chain.leaf().subject),
    }
}

fn dotted(oid: &[usize]) -> String {
    oid.iter()
        .map(usize::to_string)
        .collect::<Vec<_>>()
        .join(".")
}

pub(super) fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// A time in seconds since the Unix epoch in the form of RFC 3339.
pub fn utc(seconds: i64) -> String {
    let Ok(time) = OffsetDateTime::from_unix_timestamp(seconds) else {
        return format!("{seconds} s after the Unix epoch");
    };
    let (date, clock) = (time.date(), time.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    )
}

/// A span of time, in seconds, in its largest whole unit.
pub fn span(seconds: i64) -> String {
    let (count, unit) = match seconds {
        ..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        86_400.. => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_utc_and_spans_in_their_largest_unit() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(1_709_210_096), "2024-02-29T12:34:56Z");
        assert_eq!(
            utc(i64::MAX),
            format!("{} s after the Unix epoch", i64::MAX)
        );
        let told: Vec<_> = [0, 1, 59, 60, 3_599, 3_600, 86_399, 86_400, 172_800]
            .map(span)
            .into();
        assert_eq!(
            told,
            [
                "0 seconds",
                "1 second",
                "59 seconds",
                "1 minute",
                "59 minutes",
                "1 hour",
                "23 hours",
                "1 day",
                "2 days"
            ]
        );
    }
}
