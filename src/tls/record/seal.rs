//! Plaintext to records.

use rustls::AlertDescription;

use super::keys::Layout;
use super::{ALERT, APPLICATION_DATA, HANDSHAKE, KeyUpdateDue, RecordFailure, State};
use crate::block::Block;
use crate::close_reason::CloseReason;
use crate::limits::RECORD_PLAINTEXT_MAX;

/// Handshake type of KeyUpdate (RFC 8446 section 4).
pub(super) const KEY_UPDATE: u8 = 24;

/// Bytes of a KeyUpdate message: type, length, request.
pub(super) const KEY_UPDATE_LEN: usize = 5;

/// Bytes of the record that carries a KeyUpdate.
const KEY_UPDATE_RECORD_LEN: usize = KEY_UPDATE_LEN + Layout::Tls13.overhead();

// Alert levels (RFC 8446 section 6).
const WARNING: u8 = 1;
const FATAL: u8 = 2;

impl State {
    pub(super) fn seal(
        &mut self,
        plaintext: &[u8],
        out: &mut Block,
    ) -> Result<usize, RecordFailure> {
        if self.sent_close {
            return Err(RecordFailure::internal("data to send after close_notify"));
        }
        let overhead = self.sealing.layout().overhead();
        let mut taken = 0;
        while taken < plaintext.len() {
            if !self.renew_sealing_key(out)? {
                break;
            }
            let Some(room) = out.room().checked_sub(overhead).filter(|&room| room > 0) else {
                break;
            };
            let rest = &plaintext[taken..];
            let content = &rest[..rest.len().min(RECORD_PLAINTEXT_MAX).min(room)];
            let written = self
                .sealing
                .seal(APPLICATION_DATA, content, out.unfilled())?;
            out.commit(written);
            taken += content.len();
        }
        Ok(taken)
    }

    pub(super) fn sealed_len(&self, len: usize) -> usize {
        let pending = self.due != KeyUpdateDue::No;
        let records = len.div_ceil(RECORD_PLAINTEXT_MAX);
        let mut updates = usize::from(pending);
        if self.secrets.server.is_some() && records > 0 {
            let used = if pending { 0 } else { self.sealing.sequence() };
            let left = self.records_per_key_max.saturating_sub(used);
            let beyond = u64::try_from(records)
                .unwrap_or(u64::MAX)
                .saturating_sub(left);
            let renewals = beyond.div_ceil(self.records_per_key_max);
            updates += usize::try_from(renewals).unwrap_or(usize::MAX);
        }
        len + records * self.sealing.layout().overhead() + updates * KEY_UPDATE_RECORD_LEN
    }

    pub(super) fn flush(&mut self, out: &mut Block) -> Result<(), RecordFailure> {
        if self.due != KeyUpdateDue::No && !self.sent_close {
            self.write_key_update(out)?;
        }
        Ok(())
    }

    pub(super) fn alert(
        &mut self,
        description: AlertDescription,
        out: &mut Block,
    ) -> Result<(), RecordFailure> {
        if self.sent_close {
            return Ok(());
        }
        if out.room() < 2 + self.sealing.layout().overhead() {
            return Err(RecordFailure::new(
                CloseReason::BufferLimit,
                AlertDescription::InternalError,
                "no room for an alert",
            ));
        }
        let level = match description {
            AlertDescription::CloseNotify
            | AlertDescription::NoRenegotiation
            | AlertDescription::UserCanceled => WARNING,
            _ => FATAL,
        };
        let content = [level, u8::from(description)];
        let written = self.sealing.seal(ALERT, &content, out.unfilled())?;
        out.commit(written);
        self.sent_close = level == FATAL || description == AlertDescription::CloseNotify;
        Ok(())
    }

    /// Makes sure that the sealing key may protect one more record of data and that an answer the
    /// peer waits for goes before it. Returns `false` when `out` has no room for the KeyUpdate.
    fn renew_sealing_key(&mut self, out: &mut Block) -> Result<bool, RecordFailure> {
        let used_up = self.sealing.sequence() >= self.records_per_key_max;
        if self.due == KeyUpdateDue::No && !used_up {
            return Ok(true);
        }
        if self.is_tls13() {
            return self.write_key_update(out);
        }
        if self.sealing.is_bounded() {
            return Err(RecordFailure::internal(format!(
                "{} records are sealed with one key, and TLS 1.2 cannot renew it",
                self.sealing.sequence()
            )));
        }
        Ok(true)
    }

    /// Writes a KeyUpdate and changes to the next sealing key.
    fn write_key_update(&mut self, out: &mut Block) -> Result<bool, RecordFailure> {
        if out.room() < KEY_UPDATE_RECORD_LEN {
            return Ok(false);
        }
        let next = self.sealing.renewed(&mut self.secrets.server)?;
        let request = u8::from(self.due == KeyUpdateDue::Request);
        let message = [KEY_UPDATE, 0, 0, 1, request];
        let written = self.sealing.seal(HANDSHAKE, &message, out.unfilled())?;
        out.commit(written);
        self.sealing = next;
        self.due = KeyUpdateDue::No;
        Ok(true)
    }
}
