//! The traffic secrets of a TLS 1.3 session, from which later keys are made.
//!
//! rustls would keep them in a connection object of its own, together with the client's chain and
//! more, for the life of the connection; taken out through its key log they are all that is kept.

use aws_lc_rs::hkdf::{HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use rustls::KeyLog;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{disclosure, resolver};

/// Bytes of the longest secret: SHA-384's.
const SECRET_LEN_MAX: usize = 48;

const CLIENT_LABEL: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER_LABEL: &str = "SERVER_TRAFFIC_SECRET_0";

/// One direction's current secret.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct TrafficSecret {
    bytes: [u8; SECRET_LEN_MAX],
    len: usize,
}

impl TrafficSecret {
    fn new(secret: &[u8]) -> Option<Self> {
        let mut new = Self {
            bytes: [0; SECRET_LEN_MAX],
            len: secret.len(),
        };
        new.bytes.get_mut(..secret.len())?.copy_from_slice(secret);
        Some(new)
    }

    /// The next secret (RFC 8446 section 7.2).
    pub(super) fn next(&self) -> Option<Self> {
        let mut next = Self {
            bytes: [0; SECRET_LEN_MAX],
            len: self.len,
        };
        self.expand(b"traffic upd", next.bytes.get_mut(..self.len)?)?;
        Some(next)
    }

    /// HKDF-Expand-Label with an empty context (RFC 8446 section 7.1).
    pub(super) fn expand(&self, label: &[u8], out: &mut [u8]) -> Option<()> {
        let algorithm = if self.len == SECRET_LEN_MAX {
            HKDF_SHA384
        } else {
            HKDF_SHA256
        };
        let out_len = u16::try_from(out.len()).ok()?.to_be_bytes();
        let label_len = [u8::try_from(b"tls13 ".len() + label.len()).ok()?];
        let info = [&out_len[..], &label_len, b"tls13 ", label, &[0]];
        let secret = Prk::new_less_safe(algorithm, self.bytes.get(..self.len)?);
        secret
            .expand(&info, Len(out.len()))
            .and_then(|okm| okm.fill(out))
            .ok()
    }
}

impl std::fmt::Debug for TrafficSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the secret.
        f.debug_struct("TrafficSecret").finish_non_exhaustive()
    }
}

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// What one handshake's key log said.
#[derive(Debug, Default)]
pub(super) struct Captured {
    pub(super) client: Option<TrafficSecret>,
    pub(super) server: Option<TrafficSecret>,
}

/// A key log that nobody reads unless secrets are disclosed: it hands the secrets to the handshake that is going on.
#[derive(Debug)]
pub(super) struct Capture;

impl KeyLog for Capture {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        disclosure::line(label, client_random, secret);
        resolver::with_current(|selection| match label {
            CLIENT_LABEL => selection.secrets.client = TrafficSecret::new(secret),
            SERVER_LABEL => selection.secrets.server = TrafficSecret::new(secret),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        label == CLIENT_LABEL || label == SERVER_LABEL || disclosure::is_on()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    /// The server's application traffic secret of RFC 8448 section 3 and the key and IV from it.
    #[test]
    fn keys_come_out_as_in_rfc_8448() {
        let secret = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
        let secret = TrafficSecret::new(&bytes(secret)).unwrap();
        let (mut key, mut iv) = ([0; 16], [0; 12]);
        secret.expand(b"key", &mut key).unwrap();
        secret.expand(b"iv", &mut iv).unwrap();
        assert_eq!(key.as_slice(), bytes("9f02283b6c9c07efc26bb9f2ac92e356"));
        assert_eq!(iv.as_slice(), bytes("cf782b88dd83549aadf1e984"));
    }

    #[test]
    fn a_secret_that_no_hash_makes_is_none() {
        assert!(TrafficSecret::new(&[0; SECRET_LEN_MAX + 1]).is_none());
    }
}
