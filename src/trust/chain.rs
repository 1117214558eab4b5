//! A client's chain as presented: its bounds, looked at before any signature is verified.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::Identity;
use super::refusal::Refusal;
use crate::close_reason::CloseReason;
use crate::limits;

/// A presented certificate and what it says.
#[derive(Debug)]
pub(super) struct Presented<'a> {
    pub der: &'a CertificateDer<'a>,
    pub identity: Arc<Identity>,
    /// Whether its key usage lets it sign CRLs; `None` for the leaf, and where that cannot be read.
    pub signs_crls: Option<bool>,
}

/// The certificates that a client presented: the leaf first, within the bounds of
/// [`crate::limits`], each of them read.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    pub certificates: Vec<Presented<'a>>,
}

impl<'a> Chain<'a> {
    /// Reads the chain. No signature has been verified when this returns: every name in it is a
    /// claim.
    ///
    /// # Errors
    ///
    /// Too many certificates or bytes, certificates that are malformed, keys that cost too much.
    pub fn read(
        leaf: &'a CertificateDer<'a>,
        intermediates: &'a [CertificateDer<'a>],
    ) -> Result<Self, Refusal> {
        let count = 1 + intermediates.len();
        let bytes = leaf.len() + intermediates.iter().map(|der| der.len()).sum::<usize>();
        if bytes > limits::CHAIN_BYTES_MAX {
            let max = limits::CHAIN_BYTES_MAX;
            let detail = format!("the chain has {bytes} bytes in all; at most {max} are accepted");
            return Err(Refusal::new(
                CloseReason::CertificateChainTooLong,
                detail,
                None,
            ));
        }
        let malformed = |position: usize, error, claimed| {
            let detail = format!("certificate {position} of the chain: {error}");
            Refusal::new(CloseReason::CertificateInvalid, detail, claimed)
        };
        let claimed = match Identity::from_der(leaf) {
            Ok(identity) => Arc::new(identity),
            Err(error) => return Err(malformed(1, error, None)),
        };
        let refuse = |reason, detail| Refusal::new(reason, detail, Some(Arc::clone(&claimed)));
        if count > limits::CHAIN_LEN_MAX {
            let (subject, max) = (&claimed.subject, limits::CHAIN_LEN_MAX);
            let detail = format!(
                "the chain of `{subject}` has {count} certificates; at most {max} are accepted"
            );
            return Err(refuse(CloseReason::CertificateChainTooLong, detail));
        }
        let mut certificates = Vec::with_capacity(count);
        certificates.push(Presented {
            der: leaf,
            identity: Arc::clone(&claimed),
            signs_crls: None,
        });
        for (at, der) in intermediates.iter().enumerate() {
            let (identity, signs_crls) = Identity::of_issuer(der)
                .map_err(|error| malformed(at + 2, error, Some(Arc::clone(&claimed))))?;
            certificates.push(Presented {
                der,
                identity: Arc::new(identity),
                signs_crls,
            });
        }
        for Presented { identity, .. } in &certificates {
            let bits = identity.rsa_modulus_bits.unwrap_or(0);
            if bits > limits::RSA_MODULUS_BITS_MAX {
                let (subject, max) = (&identity.subject, limits::RSA_MODULUS_BITS_MAX);
                let detail = format!(
                    "`{subject}` has an RSA modulus of {bits} bits; at most {max} are accepted"
                );
                return Err(refuse(CloseReason::CertificateKeyTooLarge, detail));
            }
        }
        Ok(Self { certificates })
    }

    pub fn leaf(&self) -> &Arc<Identity> {
        // `read` puts the leaf first.
        &self.certificates[0].identity
    }

    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.certificates
            .iter()
            .map(|presented| &*presented.identity)
    }

    pub fn presented(&self, der: &CertificateDer<'_>) -> Option<&Presented<'a>> {
        let mut certificates = self.certificates.iter();
        certificates.find(|presented| presented.der.as_ref() == der.as_ref())
    }
}
