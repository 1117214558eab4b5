//! Whom the clients believe.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::CredentialsError;

/// Which servers are believed.
#[derive(Debug)]
pub enum ServerTrust {
    /// Any, and its signature is not checked either: what a trial may do, and what leaves a load
    /// thread the most time. Said in the report.
    Insecure,
    Roots(RootCertStore),
}

/// Verifies a server's chain when it is first seen and not again while it stays the same: the load
/// meets one server thousands of times a second. Its signature is checked each time.
#[derive(Debug)]
pub(super) struct OnceVerifier {
    /// `None`: nothing is checked.
    webpki: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    last: Mutex<Option<(ServerName<'static>, Vec<CertificateDer<'static>>)>>,
}

impl OnceVerifier {
    pub(super) fn new(
        trust: ServerTrust,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, CredentialsError> {
        let webpki = match trust {
            ServerTrust::Insecure => None,
            ServerTrust::Roots(roots) => Some(
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                    .build()?,
            ),
        };
        Ok(Self {
            webpki,
            provider: provider.clone(),
            last: Mutex::default(),
        })
    }
}

impl ServerCertVerifier for OnceVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(webpki) = &self.webpki else {
            return Ok(ServerCertVerified::assertion());
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, chain)) = &*last
            && name == server_name
            && let Some((leaf, rest)) = chain.split_first()
            && leaf == end_entity
            && rest == intermediates
        {
            return Ok(ServerCertVerified::assertion());
        }
        let verified = webpki.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        let chain = std::iter::once(end_entity).chain(intermediates);
        *last = Some((
            server_name.to_owned(),
            chain.map(|der| der.clone().into_owned()).collect(),
        ));
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.webpki.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.webpki.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
