//! One direction's key: nonces, additional data and the shape of a protected record.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce,
    UnboundKey,
};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};
use zeroize::Zeroizing;

use crate::limits::{RECORD_HEADER_LEN, RECORDS_PER_KEY_MAX};
use crate::tls::traffic_secrets::TrafficSecret;

/// Bytes of the tag of every AEAD that TLS uses here.
const TAG_LEN: usize = 16;

/// Bytes of the longest key, AES-256-GCM's and ChaCha20-Poly1305's.
const KEY_LEN_MAX: usize = 32;

/// Bytes of a TLS 1.2 AES-GCM record's explicit nonce (RFC 5288 section 3).
const EXPLICIT_NONCE_LEN: usize = 8;

/// Bytes of TLS 1.2's additional data (RFC 5246 section 6.2.3.3), the longer of the two kinds.
const AAD_LEN_MAX: usize = 13;

/// How a record is laid out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Layout {
    /// ChaCha20-Poly1305 with an implicit nonce (RFC 7905 section 2).
    Tls12Chacha,
    /// AES-GCM with half of the nonce in the record (RFC 5288 section 3).
    Tls12Gcm,
    /// The content type inside, the nonce implicit (RFC 8446 section 5.2).
    Tls13,
}

impl Layout {
    /// Bytes between header and ciphertext.
    const fn prefix_len(self) -> usize {
        match self {
            Self::Tls12Gcm => EXPLICIT_NONCE_LEN,
            Self::Tls12Chacha | Self::Tls13 => 0,
        }
    }

    /// Bytes by which a record on the wire is longer than its content.
    pub(super) const fn overhead(self) -> usize {
        let content_type_len = if matches!(self, Self::Tls13) { 1 } else { 0 };
        RECORD_HEADER_LEN + self.prefix_len() + content_type_len + TAG_LEN
    }

    /// Bytes of output that opening a record of `record_len` bytes needs; the inner content type
    /// is among them.
    pub(super) const fn opened_len(self, record_len: usize) -> usize {
        record_len.saturating_sub(RECORD_HEADER_LEN + self.prefix_len() + TAG_LEN)
    }
}

/// Why a key could not be made or used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum KeyError {
    /// The record was not made with this key and sequence number, or was changed on the way.
    Forged,
    /// The sequence number or the length is beyond what the protocol allows.
    Exhausted,
    /// The suite is none of those that TLS 1.3 and 1.2 use here.
    Unsupported,
}

/// A key, its IV and the sequence number of the next record.
pub(super) struct RecordKey {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    layout: Layout,
    sequence: u64,
}

impl RecordKey {
    /// The key of one direction as rustls hands it over.
    pub(super) fn new(
        version: ProtocolVersion,
        sequence: u64,
        secrets: &ConnectionTrafficSecrets,
    ) -> Result<Self, KeyError> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(KeyError::Unsupported),
        };
        let iv = iv.as_ref().try_into().map_err(|_| KeyError::Unsupported)?;
        Self::from_parts(version, algorithm, key.as_ref(), iv, sequence)
    }

    /// The key of one direction from its parts.
    pub(super) fn from_parts(
        version: ProtocolVersion,
        algorithm: &'static Algorithm,
        key: &[u8],
        iv: [u8; NONCE_LEN],
        sequence: u64,
    ) -> Result<Self, KeyError> {
        let layout = match version {
            ProtocolVersion::TLSv1_3 => Layout::Tls13,
            ProtocolVersion::TLSv1_2 if *algorithm == CHACHA20_POLY1305 => Layout::Tls12Chacha,
            ProtocolVersion::TLSv1_2 => Layout::Tls12Gcm,
            _ => return Err(KeyError::Unsupported),
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| KeyError::Unsupported)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv,
            layout,
            sequence,
        })
    }

    /// The key that follows this one, and its secret in place of the old (RFC 8446 section 7.2).
    pub(super) fn renewed(&self, secret: &mut Option<TrafficSecret>) -> Result<Self, KeyError> {
        let next = secret
            .as_ref()
            .and_then(TrafficSecret::next)
            .ok_or(KeyError::Unsupported)?;
        let algorithm = self.key.algorithm();
        let (mut key, mut iv) = (Zeroizing::new([0; KEY_LEN_MAX]), [0; NONCE_LEN]);
        let key = key
            .get_mut(..algorithm.key_len())
            .ok_or(KeyError::Unsupported)?;
        next.expand(b"key", key).ok_or(KeyError::Unsupported)?;
        next.expand(b"iv", &mut iv).ok_or(KeyError::Unsupported)?;
        let renewed = Self::from_parts(ProtocolVersion::TLSv1_3, algorithm, key, iv, 0)?;
        *secret = Some(next);
        Ok(renewed)
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// Sequence number of the next record, which is also how many this key has protected.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether the algorithm keeps its promise only for a bounded number of records
    /// ([`RECORDS_PER_KEY_MAX`]); ChaCha20-Poly1305 outlasts the sequence number.
    pub(super) fn is_bounded(&self) -> bool {
        const { assert!(RECORDS_PER_KEY_MAX < u64::MAX) };
        *self.key.algorithm() != CHACHA20_POLY1305
    }

    /// Opens one whole record, header included, into the front of `out`, which has at least
    /// [`Layout::opened_len`] bytes. Returns how many it wrote.
    pub(super) fn open(&mut self, record: &[u8], out: &mut [u8]) -> Result<usize, KeyError> {
        let next = self.sequence.checked_add(1).ok_or(KeyError::Exhausted)?;
        let (header, body) = record
            .split_at_checked(RECORD_HEADER_LEN)
            .ok_or(KeyError::Forged)?;
        let (prefix, body) = body
            .split_at_checked(self.layout.prefix_len())
            .ok_or(KeyError::Forged)?;
        let len = body.len().checked_sub(TAG_LEN).ok_or(KeyError::Forged)?;
        let (ciphertext, tag) = body.split_at(len);

        let mut nonce = self.implicit_nonce();
        if !prefix.is_empty() {
            // What the peer chose stands beside our half of the key block, nothing is combined.
            nonce = self.iv;
            nonce[NONCE_LEN - prefix.len()..].copy_from_slice(prefix);
        }
        let mut aad = [0; AAD_LEN_MAX];
        let aad = self.aad(header, len, &mut aad);
        let out = out.get_mut(..len).ok_or(KeyError::Exhausted)?;
        self.key
            .open_separate_gather(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                ciphertext,
                tag,
                out,
            )
            .map_err(|_| KeyError::Forged)?;
        self.sequence = next;
        Ok(len)
    }

    /// Seals `content` as one record into the front of `out`, which has room for it and
    /// [`Layout::overhead`]. Returns how many bytes it wrote.
    pub(super) fn seal(
        &mut self,
        content_type: u8,
        content: &[u8],
        out: &mut [u8],
    ) -> Result<usize, KeyError> {
        let next = self.sequence.checked_add(1).ok_or(KeyError::Exhausted)?;
        let record_len = content.len() + self.layout.overhead();
        let (outer_type, inner_type) = match self.layout {
            Layout::Tls13 => (super::APPLICATION_DATA, &[content_type][..]),
            Layout::Tls12Chacha | Layout::Tls12Gcm => (content_type, &[][..]),
        };
        let body_len =
            u16::try_from(record_len - RECORD_HEADER_LEN).map_err(|_| KeyError::Exhausted)?;
        let [high, low] = body_len.to_be_bytes();
        let nonce = self.implicit_nonce();

        let record = out.get_mut(..record_len).ok_or(KeyError::Exhausted)?;
        let (header, body) = record.split_at_mut(RECORD_HEADER_LEN);
        header.copy_from_slice(&[outer_type, 3, 3, high, low]);
        let (prefix, body) = body.split_at_mut(self.layout.prefix_len());
        prefix.copy_from_slice(&nonce[NONCE_LEN - prefix.len()..]);
        let (ciphertext, type_and_tag) = body.split_at_mut(content.len());

        let mut aad = [0; AAD_LEN_MAX];
        let aad = self.aad(header, content.len(), &mut aad);
        self.key
            .seal_out_of_place_scatter(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                content,
                ciphertext,
                inner_type,
                type_and_tag,
            )
            .map_err(|_| KeyError::Exhausted)?;
        self.sequence = next;
        Ok(record_len)
    }

    /// The IV combined with the sequence number (RFC 8446 section 5.3). For TLS 1.2 AES-GCM its
    /// last eight bytes go into the record.
    fn implicit_nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, part) in nonce[NONCE_LEN - 8..]
            .iter_mut()
            .zip(self.sequence.to_be_bytes())
        {
            *byte ^= part;
        }
        nonce
    }

    fn aad<'a>(
        &self,
        header: &[u8],
        plaintext_len: usize,
        aad: &'a mut [u8; AAD_LEN_MAX],
    ) -> &'a [u8] {
        match self.layout {
            Layout::Tls13 => {
                aad[..RECORD_HEADER_LEN].copy_from_slice(header);
                &aad[..RECORD_HEADER_LEN]
            }
            Layout::Tls12Chacha | Layout::Tls12Gcm => {
                let [.., high, low] = plaintext_len.to_be_bytes();
                aad[..8].copy_from_slice(&self.sequence.to_be_bytes());
                aad[8..11].copy_from_slice(&header[..3]);
                aad[11..].copy_from_slice(&[high, low]);
                &aad[..]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_number_never_wraps() {
        for version in [ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3] {
            let mut key =
                RecordKey::from_parts(version, &AES_128_GCM, &[1; 16], [2; 12], u64::MAX - 1)
                    .unwrap();
            let mut out = [0; 64];
            assert!(key.seal(23, b"last", &mut out).is_ok());
            assert_eq!(
                key.seal(23, b"one more", &mut out),
                Err(KeyError::Exhausted)
            );
            assert_eq!(key.open(&out, &mut [0; 64]), Err(KeyError::Exhausted));
        }
    }

    #[test]
    fn each_layout_opens_what_it_sealed_and_nothing_else() {
        for (version, algorithm, key) in [
            (ProtocolVersion::TLSv1_2, &AES_128_GCM, &[1; 32][..16]),
            (ProtocolVersion::TLSv1_2, &AES_256_GCM, &[1; 32]),
            (ProtocolVersion::TLSv1_2, &CHACHA20_POLY1305, &[1; 32]),
            (ProtocolVersion::TLSv1_3, &AES_128_GCM, &[1; 32][..16]),
            (ProtocolVersion::TLSv1_3, &AES_256_GCM, &[1; 32]),
            (ProtocolVersion::TLSv1_3, &CHACHA20_POLY1305, &[1; 32]),
        ] {
            let new = || RecordKey::from_parts(version, algorithm, key, [3; 12], 5).unwrap();
            let mut record = [0; 128];
            let len = new().seal(23, b"hello", &mut record).unwrap();
            assert_eq!(len, 5 + new().layout().overhead());

            let mut out = [0; 128];
            let opened = new().open(&record[..len], &mut out).unwrap();
            assert_eq!(opened, new().layout().opened_len(len));
            assert_eq!(&out[..5], b"hello");
            // TLS 1.2 authenticates the plaintext's length, not the header's: framing decides it.
            let unbound = if version == ProtocolVersion::TLSv1_2 {
                3..5
            } else {
                0..0
            };
            for byte in (0..len).filter(|byte| !unbound.contains(byte)) {
                let mut changed = record;
                changed[byte] ^= 1;
                let mut key = new();
                assert_eq!(
                    key.open(&changed[..len], &mut out),
                    Err(KeyError::Forged),
                    "{byte}"
                );
                assert_eq!(key.sequence(), 5);
            }
            for short in 0..len {
                assert_eq!(
                    new().open(&record[..short], &mut out),
                    Err(KeyError::Forged)
                );
            }
        }
    }
}
