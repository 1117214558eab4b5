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
use super::{Identity, cache, judgement, tally};
use crate::clock::Clock;
use crate::close_reason::CloseReason;

/// Judges the presented chain by the domain that the current [`super::judgement::Judgement`] names.
///
/// A client without a certificate is refused by rustls, with the alert certificate_required. No
/// names of CAs go on the wire. Proof of possession is checked on every full handshake.
#[derive(Debug)]
pub struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    /// For how long a verdict takes; the time that certificates are judged at comes from rustls.
    clock: Clock,
}

impl Verifier {
    /// Verifies handshake signatures with the algorithms of `provider`.
    pub fn new(provider: &CryptoProvider, clock: Clock) -> Self {
        Self {
            algorithms: provider.signature_verification_algorithms,
            clock,
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
        let began = self.clock.now();
        tally::note(|tally| tally.verdict_remembered = false);
        let verdict = cache::judge(&domain, end_entity, intermediates, now, None);
        let took = self.clock.now() - began;
        tally::note(|tally| tally.verdict_took = Some(took));
        match verdict {
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
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::AlertDescription;

    use super::*;
    use crate::trust::TrustDomain;
    use crate::trust::domain::TrustSources;
    use crate::trust::judgement::{Judgement, choose_domain, enter};
    use crate::trust::policy::{Effect, Matcher, Policy, Rule};

    /// A domain that lets everybody below its anchor in, and two clients of it.
    fn clients() -> (Arc<TrustDomain>, [CertificateDer<'static>; 2]) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let anchor = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        let rule = Rule {
            name: "in".into(),
            effect: Effect::Allow,
            matchers: vec![Matcher::Any],
        };
        let domain = TrustDomain::new(TrustSources {
            anchors: vec![anchor],
            policy: Policy { rules: vec![rule] },
            ..TrustSources::default()
        });
        let leaves = [(); 2].map(|()| {
            let mut params = CertificateParams::default();
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().unwrap();
            params.signed_by(&key, &issuer).unwrap().der().clone()
        });
        (Arc::new(domain.unwrap()), leaves)
    }

    /// What rustls is told, and the verdict, when a chain was judged and the holder of the key of
    /// `proven` signed.
    fn concluded(judged: bool, is_same: bool) -> (bool, Option<CloseReason>) {
        let (domain, [leaf, other]) = clients();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_767_225_600));
        let mut judgement = Judgement::default();
        let told = enter(&mut judgement, || {
            choose_domain(domain, None);
            if judged {
                let verifier = Verifier::new(&provider, Clock::system());
                verifier.verify_client_cert(&leaf, &[], now).unwrap();
            }
            let proven = if is_same { &leaf } else { &other };
            conclude(proven, Ok(HandshakeSignatureValid::assertion()))
        });
        let refused = judgement.verdict.and_then(Result::err);
        (told.is_ok(), refused.map(|refusal| refusal.reason))
    }

    #[test]
    fn a_good_signature_counts_only_for_the_leaf_that_was_judged() {
        assert_eq!(concluded(true, true), (true, None));
        let refused = (false, Some(CloseReason::Internal));
        assert_eq!(concluded(true, false), refused);
        assert_eq!(concluded(false, true), refused);
    }

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
