//! Who the clients say they are, and whom they trust.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, version::TLS13};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::pki::Credential;

/// Which servers are believed.
#[derive(Debug)]
pub enum ServerTrust {
    /// Any: for trials only, and said in the report.
    Insecure,
    Roots(RootCertStore),
}

/// Why a configuration for clients could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("the CA certificates of --ca cannot be used: {0}")]
    Anchors(#[from] rustls::client::VerifierBuilderError),
    #[error("client certificate {name}: {reason}; does its key belong to it?")]
    Credential { name: String, reason: rustls::Error },
    #[error("TLS 1.3 with X25519 and AES-128-GCM is not to be had: {0}")]
    Protocol(rustls::Error),
}

/// One TLS configuration per identity, in turn.
#[derive(Debug)]
pub struct Credentials {
    identities: Vec<Identity>,
    pub insecure: bool,
}

/// What one client presents.
#[derive(Debug)]
pub struct Identity {
    pub config: Arc<ClientConfig>,
    /// `None` where no certificate is presented.
    pub fingerprint: Option<[u8; 32]>,
    pub spiffe_id: Option<String>,
}

impl Credentials {
    /// Configurations for `pool`; with an empty pool one client without a certificate.
    pub fn new(pool: &[Credential], trust: ServerTrust) -> Result<Self, CredentialsError> {
        let insecure = matches!(trust, ServerTrust::Insecure);
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        });
        let webpki = match trust {
            ServerTrust::Insecure => None,
            ServerTrust::Roots(roots) => Some(
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                    .build()?,
            ),
        };
        let verifier = Arc::new(OnceVerifier {
            webpki,
            provider: provider.clone(),
            last: Mutex::default(),
        });
        let presented: Vec<Option<&Credential>> = match pool {
            [] => vec![None],
            pool => pool.iter().map(Some).collect(),
        };
        let identities = presented
            .into_iter()
            .map(|credential| Identity::new(credential, &provider, &verifier))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            identities,
            insecure,
        })
    }

    /// The identity of the connection with this number: round-robin.
    pub fn of_connection(&self, number: u64) -> &Identity {
        let len = self.identities.len() as u64;
        // Less than the length of a vector.
        #[allow(clippy::cast_possible_truncation)]
        &self.identities[(number % len) as usize]
    }

    pub fn count(&self) -> usize {
        self.identities.len()
    }
}

impl Identity {
    fn new(
        credential: Option<&Credential>,
        provider: &Arc<CryptoProvider>,
        verifier: &Arc<OnceVerifier>,
    ) -> Result<Self, CredentialsError> {
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(CredentialsError::Protocol)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let mut config = match credential {
            None => builder.with_no_client_auth(),
            Some(credential) => builder
                .with_client_auth_cert(credential.chain.clone(), credential.key.clone_key())
                .map_err(|reason| CredentialsError::Credential {
                    name: credential.name.clone(),
                    reason,
                })?,
        };
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            fingerprint: credential.map(Credential::fingerprint),
            spiffe_id: credential.and_then(|credential| credential.spiffe_id.clone()),
        })
    }
}

/// Verifies a server's chain when it is first seen and not again while it stays the same: the load
/// meets one server thousands of times a second. CertificateVerify is checked each time.
#[derive(Debug)]
struct OnceVerifier {
    /// `None`: any chain will do.
    webpki: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    last: Mutex<Option<(ServerName<'static>, Vec<CertificateDer<'static>>)>>,
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
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
