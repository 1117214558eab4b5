//! The record layer after the handshake: RFC 8446 sections 4.6.3, 5 and 6 for TLS 1.3, RFC 5246
//! sections 6 and 7.2 for the AEAD suites of TLS 1.2.
//!
//! [`Records::open`] reads ciphertext where it was received and writes plaintext where it will be
//! sent from; [`Records::seal`] the other way round. Nothing else is copied or allocated.

mod keys;
mod open;
mod seal;

use std::fmt;

use rustls::{AlertDescription, ExtractedSecrets, ProtocolVersion};

use self::keys::{KeyError, RecordKey};
use self::open::{HandshakeFragment, KeyUpdateRate};
use crate::block::{Block, Pool};
use crate::close_reason::CloseReason;
use crate::limits::RECORDS_PER_KEY_MAX;
use crate::tls::traffic_secrets::Captured;

// Content types (RFC 8446 section 5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// Both directions of a connection's record protection. A handle: the state is on the heap.
pub struct Records(Box<State>);

/// What [`Records::open`] did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Opened {
    /// Bytes of the input that were taken; less than all only when `out` is full. Even of those, a
    /// record may wait: see [`Records::waits_for_room`].
    pub consumed: usize,
    /// The peer said close_notify; nothing after it was or will be opened.
    pub closed: bool,
}

/// Why a connection cannot go on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecordFailure {
    pub reason: CloseReason,
    /// For people.
    pub detail: String,
    /// The alert to send with [`Records::alert`]; `None` when the peer sent a fatal one.
    pub alert: Option<AlertDescription>,
}

impl RecordFailure {
    fn new(reason: CloseReason, alert: AlertDescription, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            alert: Some(alert),
        }
    }

    fn violation(alert: AlertDescription, detail: impl Into<String>) -> Self {
        Self::new(CloseReason::ProtocolViolation, alert, detail)
    }

    fn internal(detail: impl Into<String>) -> Self {
        Self::new(
            CloseReason::Internal,
            AlertDescription::InternalError,
            detail,
        )
    }
}

/// Our KeyUpdate that waits to be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum KeyUpdateDue {
    No,
    /// The peer asked for it.
    Answer,
    /// The peer's key has protected so many records that it should be asked for a new one.
    Request,
}

struct State {
    opening: RecordKey,
    sealing: RecordKey,
    /// Where new keys come from; empty on TLS 1.2 and for keys made from parts.
    secrets: Captured,
    /// The start of a record whose rest has not come, or records that came behind the handshake.
    kept: Option<Block>,
    fragment: HandshakeFragment,
    key_updates: KeyUpdateRate,
    due: KeyUpdateDue,
    /// Whether the peer was asked for a new key since its last one.
    requested: bool,
    /// Records in a row that carried nothing.
    empty_records: u32,
    /// The peer said close_notify.
    closed: bool,
    /// We said close_notify, or sent a fatal alert.
    sent_close: bool,
    /// Why opening ended, so that it stays ended.
    failed: Option<Box<RecordFailure>>,
    records_per_key_max: u64,
}

impl Records {
    /// Bytes that a connection's state takes, besides what aws-lc-rs and rustls allocate for keys
    /// and secrets.
    #[doc(hidden)]
    pub const STATE_LEN: usize = size_of::<State>();

    /// Takes over where rustls's handshake ended. `behind` is what came after the client's
    /// Finished: [`Records::open`] opens it before its input.
    pub(super) fn new(
        version: ProtocolVersion,
        keys: &ExtractedSecrets,
        secrets: Captured,
        behind: &[u8],
        pool: &mut Pool,
    ) -> Result<Self, RecordFailure> {
        let key = |(sequence, secrets)| {
            RecordKey::new(version, sequence, secrets)
                .map_err(|_| RecordFailure::internal("the negotiated suite is not supported"))
        };
        let opening = key((keys.rx.0, &keys.rx.1))?;
        let sealing = key((keys.tx.0, &keys.tx.1))?;
        let mut records = Self::from_keys(opening, sealing, secrets);
        if !behind.is_empty() {
            records.0.kept = Some(open::keep(behind, pool)?);
        }
        Ok(records)
    }

    fn from_keys(opening: RecordKey, sealing: RecordKey, secrets: Captured) -> Self {
        Self(Box::new(State {
            opening,
            sealing,
            secrets,
            kept: None,
            fragment: HandshakeFragment::default(),
            key_updates: KeyUpdateRate::default(),
            due: KeyUpdateDue::No,
            requested: false,
            empty_records: 0,
            closed: false,
            sent_close: false,
            failed: None,
            records_per_key_max: RECORDS_PER_KEY_MAX,
        }))
    }

    /// Opens records of `input` and appends their plaintext to `out` until the input ends or `out`
    /// has no room for the next record. A record that is not complete waits inside, in a block of
    /// `pool`, which goes back as soon as the record is opened.
    ///
    /// Room for the next record means room for its padding and content type too; an empty block
    /// holds [`crate::limits::RECORDS_PER_BLOCK`] full records.
    ///
    /// # Errors
    ///
    /// What the peer did wrong. Plaintext of the records before it stands in `out`; a caller that
    /// relays it must do so before closing. Opening again fails the same way.
    pub fn open(
        &mut self,
        input: &[u8],
        pool: &mut Pool,
        out: &mut Block,
    ) -> Result<Opened, RecordFailure> {
        if let Some(failure) = &self.0.failed {
            return Err((**failure).clone());
        }
        let opened = self.0.open(input, pool, out);
        if let Err(failure) = &opened {
            self.0.failed = Some(Box::new(failure.clone()));
        }
        opened
    }

    /// Seals as much of `plaintext` as `out` has room for; returns how many bytes were taken. A
    /// KeyUpdate that is due goes first.
    ///
    /// # Errors
    ///
    /// After [`Records::close_notify`], and when a TLS 1.2 key has protected as many records as it
    /// safely can: TLS 1.2 has no way to renew it.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Block) -> Result<usize, RecordFailure> {
        self.0.seal(plaintext, out)
    }

    /// Bytes of a block that sealing `len` bytes of plaintext takes, a KeyUpdate that is due
    /// included.
    pub fn sealed_len(&self, len: usize) -> usize {
        self.0.sealed_len(len)
    }

    /// Whether a KeyUpdate of ours is due (the peer asked, or the key's limit is near);
    /// [`Records::flush`] or the next [`Records::seal`] writes it.
    pub fn wants_flush(&self) -> bool {
        self.0.due != KeyUpdateDue::No && !self.0.sent_close
    }

    /// Writes a KeyUpdate that is due. It stays due when `out` has no room for it (27 bytes).
    pub fn flush(&mut self, out: &mut Block) -> Result<(), RecordFailure> {
        self.0.flush(out)
    }

    /// Says close_notify: nothing can be sealed after it.
    pub fn close_notify(&mut self, out: &mut Block) -> Result<(), RecordFailure> {
        self.alert(AlertDescription::CloseNotify, out)
    }

    /// Sends an alert, and ends the sealing direction unless it is a mere warning.
    pub fn alert(
        &mut self,
        description: AlertDescription,
        out: &mut Block,
    ) -> Result<(), RecordFailure> {
        self.0.alert(description, out)
    }

    /// Gives blocks back to the pool; call before dropping.
    pub fn release(&mut self, pool: &mut Pool) {
        if let Some(block) = self.0.kept.take() {
            pool.give(block);
        }
    }

    /// Whether a record is half received (a FIN now cuts it short).
    pub fn is_mid_record(&self) -> bool {
        self.0.kept.is_some() || !self.0.fragment.is_empty()
    }

    /// Bytes of a record that is half received; they have a block of their own.
    pub fn kept_len(&self) -> usize {
        self.0.kept.as_ref().map_or(0, |block| block.filled().len())
    }

    /// Whether a whole record waits inside because the block given last had no room for it: open
    /// again, with an empty block.
    pub fn waits_for_room(&self) -> bool {
        self.0.waits_for_room()
    }

    /// Lowers the number of records after which a key is renewed, so that a test reaches it.
    #[doc(hidden)]
    pub fn set_records_per_key_max(&mut self, records: u64) {
        self.0.records_per_key_max = records.clamp(1, RECORDS_PER_KEY_MAX);
    }

    /// Both directions from keys that both sides know, for benchmarks; keys are never renewed.
    #[doc(hidden)]
    pub fn from_shared_key(
        version: ProtocolVersion,
        algorithm: &'static aws_lc_rs::aead::Algorithm,
        key: &[u8],
    ) -> Option<Self> {
        let one = || RecordKey::from_parts(version, algorithm, key, [7; 12], 0).ok();
        let mut records = Self::from_keys(one()?, one()?, Captured::default());
        records.0.records_per_key_max = u64::MAX;
        Some(records)
    }
}

impl State {
    fn is_tls13(&self) -> bool {
        self.opening.layout() == keys::Layout::Tls13
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the keys.
        f.debug_struct("Records")
            .field("opened", &self.0.opening.sequence())
            .field("sealed", &self.0.sealing.sequence())
            .field("closed", &self.0.closed)
            .finish_non_exhaustive()
    }
}

impl From<KeyError> for RecordFailure {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Exhausted => Self::internal("a key's sequence numbers are used up"),
            KeyError::Forged => Self::new(
                CloseReason::BadRecord,
                AlertDescription::BadRecordMac,
                "a record failed authentication",
            ),
            KeyError::Unsupported => Self::internal("the negotiated suite is not supported"),
        }
    }
}

#[cfg(test)]
mod tests;
