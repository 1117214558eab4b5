//! rustls's ClientCertVerifier: the trust domain's chain check, then its policy.

/// Judges the presented chain by the domain that the current [`super::judgement::Judgement`] names.
#[derive(Debug)]
pub struct Verifier {}

impl Verifier {
    pub fn new(_provider: &rustls::crypto::CryptoProvider) -> Self {
        todo!()
    }
}
