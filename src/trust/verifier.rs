//! rustls's ClientCertVerifier: the trust domain's chain check, then its policy.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::domain::Refusal;
use super::{Identity, cache, judgement};
use crate::close_reason::CloseReason;

/// Judges the presented chain by the domain that the current [`super::judgement::Judgement`] names.
///
/// A client without a certificate is refused by rustls, with the alert certificate_required. No
/// names of CAs go on the wire. Proof of possession is checked on every full handshake.
#[derive(Debug)]
pub struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Verifies handshake signatures with the algorithms of `provider`.
    pub fn new(provider: &CryptoProvider) -> Self {
        Self {
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let Some(domain) = judgement::domain() else {
            let detail = "no trust domain was chosen for this handshake".to_owned();
            return Err(refuse(Refusal::new(CloseReason::Internal, detail, None)));
        };
        match cache::judge(&domain, end_entity, intermediates, now, None) {
            Ok(authorized) => {
                judgement::expect_proof(authorized);
                Ok(ClientCertVerified::assertion())
            }
            Err(refusal) => Err(refuse(refusal)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        conclude(
            cert,
            verify_tls12_signature(message, cert, dss, &self.algorithms),
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        conclude(
            cert,
            verify_tls13_signature(message, cert, dss, &self.algorithms),
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Turns the result of the proof of possession into the verdict.
fn conclude(
    leaf: &CertificateDer<'_>,
    proof: Result<HandshakeSignatureValid, Error>,
) -> Result<HandshakeSignatureValid, Error> {
    match proof {
        Ok(_) if !judgement::possession_proven(leaf) => {
            let detail = "the key that was proved is not that of the chain that was judged";
            Err(refuse(Refusal::new(
                CloseReason::Internal,
                detail.to_owned(),
                None,
            )))
        }
        Err(error) => {
            let claimed = Identity::from_der(leaf).ok().map(Into::into);
            let detail =
                format!("the client did not prove that it holds its certificate's key: {error}");
            let reason = CloseReason::CertificatePossessionUnproven;
            judgement::refuse(Refusal::new(reason, detail, claimed));
            Err(error)
        }
        proven => proven,
    }
}

/// Keeps the refusal as the verdict; returns the error that has rustls send its alert.
fn refuse(refusal: Refusal) -> Error {
    let error = error_of(refusal.reason);
    judgement::refuse(refusal);
    error
}

/// RFC 8446 section 6.2 says which alert fits.
fn error_of(reason: CloseReason) -> Error {
    Error::InvalidCertificate(match reason {
        // certificate_expired stands for "has expired or is not currently valid".
        CloseReason::CertificateExpired => CertificateError::Expired,
        CloseReason::CertificateNotYetValid => CertificateError::NotValidYet,
        CloseReason::CertificateUnknownCa => CertificateError::UnknownIssuer,
        CloseReason::CertificateRevoked => CertificateError::Revoked,
        // access_denied: valid, but refused by access control.
        CloseReason::PolicyDenied | CloseReason::PolicyUnmatched => {
            CertificateError::ApplicationVerificationFailure
        }
        // unsupported_certificate: of an unsupported type.
        CloseReason::CertificateKeyTooLarge | CloseReason::CertificatePurpose => {
            CertificateError::InvalidPurpose
        }
        // bad_certificate: corrupt and the like.
        CloseReason::CertificateChainTooLong | CloseReason::CertificateInvalid => {
            CertificateError::BadEncoding
        }
        // certificate_unknown: some other issue made it unacceptable. The client can do nothing
        // about a CRL that is missing here, and unknown_ca would send it looking for a CA.
        CloseReason::RevocationUnknown => CertificateError::Other(OtherError(std::sync::Arc::new(
            std::io::Error::other("revocation status unknown"),
        ))),
        _ => return Error::General("the client cannot be judged".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use rustls::AlertDescription;

    use super::*;

    fn alert(reason: CloseReason) -> Option<AlertDescription> {
        match error_of(reason) {
            Error::InvalidCertificate(error) => Some(error.into()),
            _ => None,
        }
    }

    #[test]
    fn each_refusal_has_the_alert_of_rfc_8446_section_6_2() {
        for (reason, expected) in [
            (
                CloseReason::CertificateChainTooLong,
                AlertDescription::BadCertificate,
            ),
            (
                CloseReason::CertificateExpired,
                AlertDescription::CertificateExpired,
            ),
            (
                CloseReason::CertificateInvalid,
                AlertDescription::BadCertificate,
            ),
            (
                CloseReason::CertificateKeyTooLarge,
                AlertDescription::UnsupportedCertificate,
            ),
            (
                CloseReason::CertificateNotYetValid,
                AlertDescription::CertificateExpired,
            ),
            (
                CloseReason::CertificatePurpose,
                AlertDescription::UnsupportedCertificate,
            ),
            (
                CloseReason::CertificateRevoked,
                AlertDescription::CertificateRevoked,
            ),
            (
                CloseReason::CertificateUnknownCa,
                AlertDescription::UnknownCA,
            ),
            (CloseReason::PolicyDenied, AlertDescription::AccessDenied),
            (CloseReason::PolicyUnmatched, AlertDescription::AccessDenied),
            (
                CloseReason::RevocationUnknown,
                AlertDescription::CertificateUnknown,
            ),
        ] {
            assert_eq!(alert(reason), Some(expected), "{reason}");
        }
        assert_eq!(alert(CloseReason::Internal), None);
    }
}
