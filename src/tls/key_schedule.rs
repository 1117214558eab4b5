//! HKDF (RFC 5869) of the TLS 1.3 key schedule, over HMAC keys that are hashed once.
//!
//! A handshake expands some fifty values from a dozen secrets. aws-lc-rs's own HKDF hashes the
//! secret's HMAC key anew for each of them, and extracts the secret again where it was extracted;
//! with its HMAC the hashed key is kept beside the secret, which leaves a third of the blocks.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use rustls::crypto::hmac::{Hmac, Key, Tag};
use rustls::crypto::tls13::HkdfUsingHmac;
use rustls::crypto::{CipherSuiteCommon, CryptoProvider, aws_lc_rs as stock};
use rustls::{CipherSuite, SupportedCipherSuite, Tls13CipherSuite};

/// rustls's provider over aws-lc-rs, with this key schedule.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = stock::default_provider();
    for suite in &mut provider.cipher_suites {
        if let Some(ours) = SUITES
            .iter()
            .find(|ours| ours.common.suite == suite.suite())
        {
            *suite = SupportedCipherSuite::Tls13(ours);
        }
    }
    provider
}

static SUITES: LazyLock<Vec<Tls13CipherSuite>> = LazyLock::new(|| {
    let suites = stock::ALL_CIPHER_SUITES.iter();
    suites
        .filter_map(SupportedCipherSuite::tls13)
        .map(|suite| Tls13CipherSuite {
            common: CipherSuiteCommon {
                suite: suite.common.suite,
                hash_provider: suite.common.hash_provider,
                confidentiality_limit: suite.common.confidentiality_limit,
            },
            hkdf_provider: match suite.common.suite {
                CipherSuite::TLS13_AES_256_GCM_SHA384 => &HKDF_SHA384,
                _ => &HKDF_SHA256,
            },
            aead_alg: suite.aead_alg,
            quic: None,
        })
        .collect()
});

static HKDF_SHA256: HkdfUsingHmac<'static> = HkdfUsingHmac(&Hash(hmac::HMAC_SHA256));
static HKDF_SHA384: HkdfUsingHmac<'static> = HkdfUsingHmac(&Hash(hmac::HMAC_SHA384));

struct Hash(hmac::Algorithm);

impl Hmac for Hash {
    fn with_key(&self, key: &[u8]) -> Box<dyn Key> {
        Box::new(HashedKey(hmac::Key::new(self.0, key)))
    }

    fn hash_output_len(&self) -> usize {
        self.0.tag_len()
    }
}

/// The key with the states of both hashes after it.
struct HashedKey(hmac::Key);

impl Key for HashedKey {
    fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(first);
        for part in middle {
            context.update(part);
        }
        context.update(last);
        Tag::new(context.sign().as_ref())
    }

    fn tag_len(&self) -> usize {
        self.0.algorithm().tag_len()
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::tls13::{Hkdf, OkmBlock};

    use super::*;

    fn stock_suite(suite: CipherSuite) -> &'static Tls13CipherSuite {
        let mut suites = stock::ALL_CIPHER_SUITES.iter();
        let found = suites.find(|stock| stock.suite() == suite);
        found.and_then(SupportedCipherSuite::tls13).unwrap()
    }

    /// Of RFC 5869, appendix A.1.
    #[test]
    fn an_expansion_is_what_the_rfc_says() {
        let salt: Vec<u8> = (0..13).collect();
        let info: Vec<u8> = (0xf0..0xfa).collect();
        let prk = HKDF_SHA256.extract_from_secret(Some(&salt), &[0x0b; 22]);
        let mut expanded = [0; 42];
        prk.expand_slice(&[&info[..3], &info[3..]], &mut expanded)
            .unwrap();
        let expected =
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        let written: String = expanded.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(written, expected);
    }

    #[test]
    fn every_suite_derives_what_it_did() {
        let provider = provider();
        let mut suites = 0;
        for ours in provider
            .cipher_suites
            .iter()
            .filter_map(|suite| suite.tls13())
        {
            suites += 1;
            let stock = stock_suite(ours.common.suite);
            assert!(ours.quic.is_none(), "it is one of ours");
            assert_eq!(
                ours.common.confidentiality_limit,
                stock.common.confidentiality_limit
            );
            let [ours, stock] = [ours, stock].map(|suite| {
                let hkdf: &dyn Hkdf = suite.hkdf_provider;
                let len = hkdf.extract_from_zero_ikm(None).hash_len();
                let okm = OkmBlock::new(&vec![7; len]);
                let mut long = vec![0; 3 * len + 1];
                let expander = hkdf.expander_for_okm(&okm);
                expander.expand_slice(&[b"one", b"two"], &mut long).unwrap();
                let too_long = expander.expand_slice(&[], &mut vec![0; 255 * len + 1]);
                [
                    vec![u8::from(too_long.is_err())],
                    long,
                    hkdf.extract_from_zero_ikm(None)
                        .expand_block(&[b"info"])
                        .as_ref()
                        .to_vec(),
                    hkdf.extract_from_secret(Some(b"salt"), b"secret")
                        .expand_block(&[])
                        .as_ref()
                        .to_vec(),
                    hkdf.extract_from_secret(None, b"secret")
                        .expand_block(&[])
                        .as_ref()
                        .to_vec(),
                    hkdf.hmac_sign(&okm, b"message").as_ref().to_vec(),
                ]
            });
            assert_eq!(ours, stock);
        }
        assert_eq!(suites, 3);
    }
}
