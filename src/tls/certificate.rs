//! A server certificate with its private key.

use std::ops::Deref;
use std::sync::Arc;

use rustls::InconsistentKeys;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroize;

use super::acceptor::AcceptorError;

/// A chain, leaf first, and its private key.
#[derive(Clone, Debug)]
pub struct ServerCertificate {
    certified: Arc<CertifiedKey>,
    /// What the key was read from: every shard makes one of its own.
    der: Arc<KeyDer>,
}

/// Wiped when nobody needs it any more.
#[derive(Debug)]
struct KeyDer(PrivateKeyDer<'static>);

impl Drop for KeyDer {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ServerCertificate {
    /// # Errors
    ///
    /// When the key is not the leaf's, or either is malformed.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, AcceptorError> {
        let certified = certified(chain, key.clone_key())?;
        Ok(Self {
            certified: Arc::new(certified),
            der: Arc::new(KeyDer(key)),
        })
    }

    /// The same with a key that no other thread uses: each signature counts references to the key
    /// up and down, and so writes to where it lies.
    pub(super) fn for_shard(&self) -> Result<Self, AcceptorError> {
        let certified = certified(self.certified.cert.clone(), self.der.0.clone_key())?;
        Ok(Self {
            certified: Arc::new(certified),
            der: Arc::clone(&self.der),
        })
    }

    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl Deref for ServerCertificate {
    type Target = CertifiedKey;

    fn deref(&self) -> &CertifiedKey {
        &self.certified
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, AcceptorError> {
    let provider: CryptoProvider = aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
        AcceptorError(match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                "the private key does not belong to the first certificate of the chain; give the \
                 leaf certificate first, and its own key"
                    .to_owned()
            }
            rustls::Error::InvalidCertificate(error) => {
                format!("the first certificate of the chain is malformed: {error:?}")
            }
            error => format!("the private key cannot be used: {error}"),
        })
    })
}

/// Reads a certificate chain, leaf first, and its private key from PEM.
///
/// # Errors
///
/// When either is missing, malformed or encrypted, or when the key is not the leaf's. The caller
/// knows the files' names and puts them in front.
pub fn load_certified_key(
    chain_pem: &[u8],
    key_pem: &[u8],
) -> Result<ServerCertificate, AcceptorError> {
    ServerCertificate::new(load_chain(chain_pem)?, load_key(key_pem)?)
}

fn load_chain(chain_pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, AcceptorError> {
    let chain = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| AcceptorError(format!("the certificate chain is no PEM: {error}")))?;
    if chain.is_empty() {
        return Err(AcceptorError(
            "there is no certificate: a chain is one or more PEM blocks `BEGIN CERTIFICATE`, the \
             leaf first"
                .to_owned(),
        ));
    }
    Ok(chain)
}

fn load_key(key_pem: &[u8]) -> Result<PrivateKeyDer<'static>, AcceptorError> {
    const ENCRYPTED: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];
    let contains = |part: &[u8]| key_pem.windows(part.len()).any(|window| window == part);
    if ENCRYPTED.into_iter().any(contains) {
        return Err(AcceptorError(
            "the private key is encrypted; write it without a passphrase (`openssl pkey`) into a \
             file that only Ringgate can read"
                .to_owned(),
        ));
    }
    PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| {
        AcceptorError(match error {
            pem::Error::NoItemsFound => "there is no private key: one PEM block `BEGIN PRIVATE \
                                         KEY`, `BEGIN RSA PRIVATE KEY` or `BEGIN EC PRIVATE KEY` \
                                         is needed"
                .to_owned(),
            error => format!("the private key is no PEM: {error}"),
        })
    })
}
