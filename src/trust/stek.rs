//! Session ticket encryption keys (STEK): one secret, and a key for every period of time from it.
//!
//! key(epoch) = HKDF(secret, rotation period | epoch), with epoch = unix time / rotation period.
//! Whoever has the secret has the keys: shards, processes and hosts agree without talking, and
//! nothing has to happen when a period ends. The current key seals; it, the one before and the one
//! after open, the last for hosts whose clocks are ahead.

use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::limits::{STEK_BYTES_MAX, STEK_BYTES_MIN};

/// Bytes that tell which key sealed a ticket.
const NAME_LEN: usize = 16;
const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;

/// Bytes in front of what is sealed.
const PREFIX_LEN: usize = NAME_LEN + NONCE_LEN;

/// Bytes that sealing adds.
pub(super) const OVERHEAD: usize = PREFIX_LEN + TAG_LEN;

/// Bytes of a secret that [`new_secret`] makes, before they are written as text.
const NEW_SECRET_LEN: usize = 32;

/// What the keys of all times come from.
pub struct Secret {
    /// Tells secrets of this process apart.
    id: u64,
    bytes: Zeroizing<Vec<u8>>,
}

/// Why something cannot be a secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SecretError {
    #[error("holds {len} bytes; at most {STEK_BYTES_MAX} are used for a secret")]
    TooLong { len: usize },
    #[error("holds {len} bytes; a secret needs at least {STEK_BYTES_MIN}")]
    TooShort { len: usize },
}

impl Secret {
    /// A secret from a file's content, of which white space at the end does not count. All bytes are
    /// used as they stand.
    ///
    /// # Errors
    ///
    /// Fewer than [`STEK_BYTES_MIN`] bytes or more than [`STEK_BYTES_MAX`].
    pub fn new(content: &[u8]) -> Result<Self, SecretError> {
        let content = content.trim_ascii_end();
        match content.len() {
            len @ ..STEK_BYTES_MIN => Err(SecretError::TooShort { len }),
            len if len > STEK_BYTES_MAX => Err(SecretError::TooLong { len }),
            _ => Ok(Self::keep(Zeroizing::new(content.to_vec()))),
        }
    }

    /// A secret that nobody else has.
    ///
    /// # Panics
    ///
    /// When the operating system gives no random numbers; no TLS is possible then.
    pub fn random() -> Self {
        let mut bytes = Zeroizing::new(vec![0; NEW_SECRET_LEN]);
        rand::fill(&mut bytes).expect("the operating system gives random numbers");
        Self::keep(bytes)
    }

    /// The random secret of this process: the same for every configuration that it loads.
    pub fn of_process() -> Arc<Self> {
        static SECRET: OnceLock<Arc<Secret>> = OnceLock::new();
        Arc::clone(SECRET.get_or_init(|| Arc::new(Self::random())))
    }

    /// Where the secret stands in memory, for who can keep it from being written to disk.
    pub fn memory(&self) -> &[u8] {
        &self.bytes
    }

    fn keep(bytes: Zeroizing<Vec<u8>>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            bytes,
        }
    }
}

/// Compares what the secrets hold, in constant time.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.bytes, &other.bytes).is_ok()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

/// A new secret as the text of a file: one line of hexadecimal digits.
///
/// # Panics
///
/// As [`Secret::random`].
pub fn new_secret() -> Zeroizing<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let secret = Secret::random();
    // As long as it gets, so that no copy is left behind by growing.
    let mut text = Zeroizing::new(String::with_capacity(2 * NEW_SECRET_LEN + 1));
    for byte in secret.memory() {
        for digit in [byte >> 4, byte & 0x0f] {
            text.push(char::from(DIGITS[usize::from(digit)]));
        }
    }
    text.push('\n');
    text
}

/// A secret and how often its keys change.
#[derive(Clone, Debug)]
pub struct Stek {
    secret: Arc<Secret>,
    /// Seconds, at least one.
    rotation: u64,
}

impl Stek {
    /// Keys change every `rotation`, which counts in whole seconds.
    pub fn new(secret: Arc<Secret>, rotation: Duration) -> Self {
        Self {
            secret,
            rotation: rotation.as_secs().max(1),
        }
    }

    pub fn secret(&self) -> &Arc<Secret> {
        &self.secret
    }

    /// How long what is sealed now can be opened at least.
    pub fn rotation(&self) -> Duration {
        Duration::from_secs(self.rotation)
    }

    /// Seals what `buffer` holds behind its first [`PREFIX_LEN`] bytes; `now` is time since the Unix
    /// epoch. It opens only with the same `bound_to`.
    fn seal_in(&self, buffer: &mut Vec<u8>, bound_to: &[u8], now: Duration) -> Option<()> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let tag = self.with_keys(now, |keys| {
            let (prefix, content) = buffer.split_at_mut_checked(PREFIX_LEN)?;
            prefix[..NAME_LEN].copy_from_slice(&keys.current.name);
            prefix[NAME_LEN..].copy_from_slice(&nonce);
            keys.current
                .aead
                .seal_in_place_separate_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(bound_to),
                    content,
                )
                .ok()
        })?;
        buffer.extend_from_slice(tag?.as_ref());
        Some(())
    }

    /// Seals `parts`, one after the other.
    pub(super) fn seal(&self, parts: &[&[u8]], bound_to: &[u8], now: Duration) -> Option<Vec<u8>> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut buffer = Vec::with_capacity(OVERHEAD + len);
        buffer.resize(PREFIX_LEN, 0);
        parts.iter().for_each(|part| buffer.extend_from_slice(part));
        self.seal_in(&mut buffer, bound_to, now)?;
        Some(buffer)
    }

    /// What was sealed with the same secret, not too long ago, and bound to the same.
    pub(super) fn open(&self, sealed: &[u8], bound_to: &[u8], now: Duration) -> Option<Vec<u8>> {
        let (name, rest) = sealed.split_first_chunk::<NAME_LEN>()?;
        let (&nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        self.with_keys(now, |keys| {
            let key = keys.named(name)?;
            let mut content = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(nonce);
            let opened = key
                .aead
                .open_in_place(nonce, Aad::from(bound_to), &mut content);
            let len = opened.ok()?.len();
            content.truncate(len);
            Some(content)
        })?
    }

    /// Runs `work` with the keys of the time `now`, which this thread derives once an epoch.
    fn with_keys<R>(&self, now: Duration, work: impl FnOnce(&Keys) -> R) -> Option<R> {
        thread_local! {
            static KEYS: RefCell<Option<Keys>> = const { RefCell::new(None) };
        }
        let of = (self.secret.id, self.rotation, now.as_secs() / self.rotation);
        KEYS.with_borrow_mut(|kept| {
            if kept.as_ref().is_none_or(|keys| keys.of != of) {
                *kept = self.derive(of);
            }
            kept.as_ref().map(work)
        })
    }

    fn derive(&self, of: (u64, u64, u64)) -> Option<Keys> {
        let (.., epoch) = of;
        Some(Keys {
            of,
            current: self.key(epoch)?,
            // At the beginning of time, and at its end, a key no clock ever had stands in.
            previous: self.key(epoch.wrapping_sub(1))?,
            next: self.key(epoch.wrapping_add(1))?,
        })
    }

    fn key(&self, epoch: u64) -> Option<Key> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        let mut name = [0; NAME_LEN];
        self.expand(b"key", epoch, key.as_mut())?;
        self.expand(b"name", epoch, &mut name)?;
        // With random nonces AES-GCM would wear out after 2^32 tickets of all hosts together, and
        // fail badly then; GCM-SIV does not (RFC 8452 section 9).
        let key = UnboundKey::new(&AES_256_GCM_SIV, key.as_ref()).ok()?;
        Some(Key {
            name,
            aead: LessSafeKey::new(key),
        })
    }

    fn expand(&self, purpose: &[u8], epoch: u64, out: &mut [u8]) -> Option<()> {
        struct Len(usize);
        impl KeyType for Len {
            fn len(&self) -> usize {
                self.0
            }
        }
        let salt = Salt::new(HKDF_SHA256, b"ringgate session tickets");
        let (rotation, epoch) = (self.rotation.to_be_bytes(), epoch.to_be_bytes());
        let info = [purpose, &rotation, &epoch];
        let keys = salt.extract(&self.secret.bytes);
        keys.expand(&info, Len(out.len())).ok()?.fill(out).ok()
    }
}

/// The keys of one epoch and its neighbours.
struct Keys {
    /// Secret, rotation and epoch.
    of: (u64, u64, u64),
    previous: Key,
    current: Key,
    next: Key,
}

impl Keys {
    /// Names are public: how long a comparison takes tells nothing.
    fn named(&self, name: &[u8; NAME_LEN]) -> Option<&Key> {
        [&self.current, &self.previous, &self.next]
            .into_iter()
            .find(|key| key.name == *name)
    }
}

struct Key {
    name: [u8; NAME_LEN],
    aead: LessSafeKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// In the middle of an epoch.
    const NOW: Duration = Duration::from_secs(1_767_225_600 + 1800);

    fn stek(secret: &[u8]) -> Stek {
        Stek::new(Arc::new(Secret::new(secret).unwrap()), HOUR)
    }

    fn seal(stek: &Stek, now: Duration) -> Vec<u8> {
        stek.seal(&[b"sta", b"te"], b"scope", now).unwrap()
    }

    #[test]
    fn who_has_the_secret_opens_what_was_sealed() {
        let [here, there] = [stek(&[7; 32]), stek(&[7; 32])];
        let sealed = seal(&here, NOW);
        assert_eq!(sealed.len(), OVERHEAD + 5);
        assert_eq!(there.open(&sealed, b"scope", NOW).unwrap(), b"state");
        assert_eq!(there.open(&sealed, b"other", NOW), None);
        assert_eq!(stek(&[8; 32]).open(&sealed, b"scope", NOW), None);
        let slower = Stek::new(Arc::clone(here.secret()), 2 * HOUR);
        assert_eq!(slower.open(&sealed, b"scope", NOW), None);
        assert_ne!(seal(&here, NOW), sealed, "nonces differ");
    }

    #[test]
    fn a_key_opens_in_its_epoch_and_the_two_beside() {
        let stek = stek(&[7; 32]);
        let sealed = seal(&stek, NOW);
        let opens = |now| stek.open(&sealed, b"scope", now).is_some();
        assert!(opens(NOW - HOUR), "a host whose clock is behind");
        assert!(opens(NOW + HOUR));
        assert!(!opens(NOW - 2 * HOUR));
        assert!(!opens(NOW + 2 * HOUR));
        // Whatever its moment, it opens for as long as a rotation.
        for minute in 0..60 {
            let now = NOW + Duration::from_secs(60 * minute);
            let sealed = seal(&stek, now);
            assert!(stek.open(&sealed, b"scope", now + HOUR).is_some());
        }
        assert!(
            stek.open(&seal(&stek, Duration::ZERO), b"scope", HOUR)
                .is_some()
        );
    }

    #[test]
    fn whatever_is_changed_or_cut_does_not_open() {
        let stek = stek(&[7; 32]);
        let sealed = seal(&stek, NOW);
        for at in 0..sealed.len() {
            assert_eq!(stek.open(&sealed[..at], b"scope", NOW), None);
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(stek.open(&changed, b"scope", NOW), None);
        }
    }

    #[test]
    fn a_secret_has_a_least_length_and_ends_before_white_space() {
        for (content, error) in [
            (vec![7; 31], SecretError::TooShort { len: 31 }),
            (
                [&[7; 31][..], b" \r\n"].concat(),
                SecretError::TooShort { len: 31 },
            ),
            (
                vec![7; STEK_BYTES_MAX + 1],
                SecretError::TooLong {
                    len: STEK_BYTES_MAX + 1,
                },
            ),
        ] {
            assert_eq!(Secret::new(&content).unwrap_err(), error);
        }
        let sealed = seal(&stek(&[7; 32]), NOW);
        let with_newline = stek(&[&[7; 32][..], b"\n"].concat());
        assert!(with_newline.open(&sealed, b"scope", NOW).is_some());
    }

    #[test]
    fn a_new_secret_is_a_line_of_text_and_never_the_same() {
        let [one, other] = [new_secret(), new_secret()];
        assert_eq!((one.len(), one.ends_with('\n')), (65, true));
        assert_ne!(*one, *other);
        assert!(Secret::new(one.as_bytes()).is_ok());
        assert!(!format!("{:?}", Secret::random()).contains("bytes"));
        assert_eq!(Secret::of_process().id, Secret::of_process().id);
    }
}
