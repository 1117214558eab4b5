//! Records to plaintext, and what else a peer may say after the handshake.

use rustls::AlertDescription;

use super::seal::{KEY_UPDATE, KEY_UPDATE_LEN};
use super::{ALERT, APPLICATION_DATA, HANDSHAKE, KeyUpdateDue, Opened, RecordFailure, State};
use crate::block::{Block, Pool};
use crate::close_reason::CloseReason;
use crate::limits::{
    EMPTY_RECORDS_MAX, KEY_UPDATE_WINDOW_RECORDS, KEY_UPDATES_PER_WINDOW_MAX,
    RECORD_BODY_MAX_TLS12, RECORD_BODY_MAX_TLS13, RECORD_HEADER_LEN, RECORD_PLAINTEXT_MAX,
};

/// What the bytes at hand begin with.
enum Frame {
    /// A whole record of so many bytes.
    Complete(usize),
    /// Part of a record; at least so many more bytes are needed.
    Incomplete(usize),
}

impl State {
    pub(super) fn open(
        &mut self,
        input: &[u8],
        pool: &mut Pool,
        out: &mut Block,
    ) -> Result<Opened, RecordFailure> {
        let mut consumed = 0;
        if let Some(mut block) = self.kept.take() {
            let taken = self.open_kept(&mut block, input, out);
            if taken.is_err() || block.is_empty() || self.closed {
                pool.give(block);
            } else {
                self.kept = Some(block);
            }
            consumed = taken?;
        }
        if self.kept.is_none() && !self.closed {
            consumed += self.open_in_place(&input[consumed..], pool, out)?;
        }
        if self.closed {
            // RFC 8446 section 6.1: data after close_notify is ignored.
            consumed = input.len();
        }
        Ok(Opened {
            consumed,
            closed: self.closed,
        })
    }

    pub(super) fn waits_for_room(&self) -> bool {
        let kept = self.kept.as_ref().filter(|_| !self.closed);
        kept.is_some_and(|block| matches!(self.frame(block.filled()), Ok(Frame::Complete(_))))
    }

    /// Completes and opens what is kept, with as much of `input` as that takes.
    fn open_kept(
        &mut self,
        block: &mut Block,
        input: &[u8],
        out: &mut Block,
    ) -> Result<usize, RecordFailure> {
        let mut consumed = 0;
        while !block.is_empty() && !self.closed {
            match self.frame(block.filled())? {
                Frame::Complete(len) => {
                    if !self.fits(len, out) {
                        break;
                    }
                    self.open_record(&block.filled()[..len], out)?;
                    block.consume(len);
                }
                Frame::Incomplete(missing) => {
                    let rest = &input[consumed..];
                    if rest.is_empty() {
                        break;
                    }
                    if block.room() < missing {
                        block.compact();
                    }
                    consumed += block.append(&rest[..rest.len().min(missing)]);
                }
            }
        }
        Ok(consumed)
    }

    /// Opens the records that are complete in `input`, and keeps the start of one that is not.
    fn open_in_place(
        &mut self,
        input: &[u8],
        pool: &mut Pool,
        out: &mut Block,
    ) -> Result<usize, RecordFailure> {
        let mut consumed = 0;
        while consumed < input.len() && !self.closed {
            let rest = &input[consumed..];
            match self.frame(rest)? {
                Frame::Complete(len) => {
                    if !self.fits(len, out) {
                        break;
                    }
                    self.open_record(&rest[..len], out)?;
                    consumed += len;
                }
                Frame::Incomplete(_) => {
                    self.kept = Some(keep(rest, pool)?);
                    consumed = input.len();
                }
            }
        }
        Ok(consumed)
    }

    /// Finds the end of the first record. The header is judged before the body is waited for.
    fn frame(&self, bytes: &[u8]) -> Result<Frame, RecordFailure> {
        let Some(header) = bytes.get(..RECORD_HEADER_LEN) else {
            return Ok(Frame::Incomplete(RECORD_HEADER_LEN - bytes.len()));
        };
        let is_tls13 = self.is_tls13();
        let known = match header[0] {
            APPLICATION_DATA => true,
            ALERT | HANDSHAKE => !is_tls13,
            _ => false,
        };
        if !known {
            return Err(RecordFailure::violation(
                AlertDescription::UnexpectedMessage,
                format!("a record of type {} after the handshake", header[0]),
            ));
        }
        let body_len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let body_max = if is_tls13 {
            RECORD_BODY_MAX_TLS13
        } else {
            RECORD_BODY_MAX_TLS12
        };
        if body_len > body_max {
            return Err(too_long(body_len, body_max));
        }
        let len = RECORD_HEADER_LEN + body_len;
        Ok(match len.checked_sub(bytes.len()) {
            None | Some(0) => Frame::Complete(len),
            Some(missing) => Frame::Incomplete(missing),
        })
    }

    fn fits(&self, record_len: usize, out: &Block) -> bool {
        out.room() >= self.opening.layout().opened_len(record_len)
    }

    /// Opens one whole record for which `out` has room.
    fn open_record(&mut self, record: &[u8], out: &mut Block) -> Result<(), RecordFailure> {
        let len = self.opening.open(record, out.unfilled())?;
        self.key_updates.count_record();
        let (content_type, len) = if self.is_tls13() {
            inner_content(&out.unfilled()[..len])?
        } else if len > RECORD_PLAINTEXT_MAX {
            return Err(too_long(len, RECORD_PLAINTEXT_MAX));
        } else {
            (record[0], len)
        };
        if content_type != HANDSHAKE && !self.fragment.is_empty() {
            return Err(RecordFailure::violation(
                AlertDescription::UnexpectedMessage,
                "another record between the parts of a handshake message",
            ));
        }
        match content_type {
            APPLICATION_DATA => self.data_received(len, out)?,
            ALERT => self.alert_received(&out.unfilled()[..len])?,
            HANDSHAKE if self.is_tls13() => self.handshake_received(&out.unfilled()[..len])?,
            HANDSHAKE => {
                return Err(RecordFailure::violation(
                    AlertDescription::NoRenegotiation,
                    "renegotiation is refused",
                ));
            }
            _ => {
                return Err(RecordFailure::violation(
                    AlertDescription::UnexpectedMessage,
                    format!("content of type {content_type} after the handshake"),
                ));
            }
        }
        self.request_key_in_time();
        Ok(())
    }

    fn data_received(&mut self, len: usize, out: &mut Block) -> Result<(), RecordFailure> {
        if len == 0 {
            return self.count_empty_record();
        }
        out.commit(len);
        self.empty_records = 0;
        self.key_updates.data_received();
        Ok(())
    }

    fn count_empty_record(&mut self) -> Result<(), RecordFailure> {
        self.empty_records += 1;
        if self.empty_records > EMPTY_RECORDS_MAX {
            return Err(RecordFailure::violation(
                AlertDescription::UnexpectedMessage,
                format!("more than {EMPTY_RECORDS_MAX} records in a row that carry nothing"),
            ));
        }
        Ok(())
    }

    fn alert_received(&mut self, content: &[u8]) -> Result<(), RecordFailure> {
        let &[level, description] = content else {
            let alert = if content.is_empty() {
                AlertDescription::UnexpectedMessage
            } else {
                AlertDescription::DecodeError
            };
            return Err(RecordFailure::violation(
                alert,
                format!("an alert of {} bytes", content.len()),
            ));
        };
        // RFC 8446 section 6: the level no longer says anything; in TLS 1.2 a warning does.
        let is_warning = !self.is_tls13() && level == 1;
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => {
                self.closed = true;
                Ok(())
            }
            AlertDescription::UserCanceled => self.count_empty_record(),
            _ if is_warning => self.count_empty_record(),
            description => Err(RecordFailure {
                reason: CloseReason::ClientAlert,
                detail: format!("the client sent the alert {description:?}"),
                alert: None,
            }),
        }
    }

    /// Takes post-handshake messages, of which a TLS 1.3 client may send KeyUpdate only: it has
    /// nothing to resume, and was not asked for another certificate.
    fn handshake_received(&mut self, content: &[u8]) -> Result<(), RecordFailure> {
        if content.is_empty() {
            // RFC 8446 section 5.1.
            return Err(RecordFailure::violation(
                AlertDescription::UnexpectedMessage,
                "an empty handshake record",
            ));
        }
        let rest = self.fragment.append(content);
        let message = self.fragment.bytes();
        if message[0] != KEY_UPDATE {
            return Err(RecordFailure::violation(
                AlertDescription::UnexpectedMessage,
                format!(
                    "a handshake message of type {} after the handshake",
                    message[0]
                ),
            ));
        }
        if message.get(1..4).is_some_and(|len| len != [0, 0, 1]) {
            return Err(RecordFailure::violation(
                AlertDescription::DecodeError,
                "a KeyUpdate of the wrong length",
            ));
        }
        let Some(&request) = message.get(4) else {
            return Ok(());
        };
        if !rest.is_empty() {
            return Err(RecordFailure::violation(
                AlertDescription::UnexpectedMessage,
                "a record goes on after a KeyUpdate",
            ));
        }
        self.fragment.clear();
        self.key_update_received(request)
    }

    fn key_update_received(&mut self, request: u8) -> Result<(), RecordFailure> {
        if request > 1 {
            return Err(RecordFailure::violation(
                AlertDescription::IllegalParameter,
                format!("a KeyUpdate with request_update {request}"),
            ));
        }
        if !self.key_updates.allows_one_more() {
            return Err(RecordFailure::new(
                CloseReason::KeyUpdateFlood,
                AlertDescription::UnexpectedMessage,
                format!(
                    "more than {KEY_UPDATES_PER_WINDOW_MAX} KeyUpdate messages within \
                     {KEY_UPDATE_WINDOW_RECORDS} records or without data between them"
                ),
            ));
        }
        self.opening = self.opening.renewed(&mut self.secrets.client)?;
        self.requested = false;
        if request == 1 {
            self.due = KeyUpdateDue::Answer;
        } else if self.due == KeyUpdateDue::Request {
            // It has just done what it was going to be asked for.
            self.due = KeyUpdateDue::No;
        }
        Ok(())
    }

    /// Asks a peer that does not renew its key by itself to do so before its limit.
    fn request_key_in_time(&mut self) {
        if self.opening.sequence() >= self.records_per_key_max
            && self.secrets.client.is_some()
            && self.opening.is_bounded()
            && !self.requested
            && self.due == KeyUpdateDue::No
        {
            self.due = KeyUpdateDue::Request;
            self.requested = true;
        }
    }
}

/// Copies `bytes` into a block of `pool`.
pub(super) fn keep(bytes: &[u8], pool: &mut Pool) -> Result<Block, RecordFailure> {
    let limit = |detail| {
        RecordFailure::new(
            CloseReason::BufferLimit,
            AlertDescription::InternalError,
            detail,
        )
    };
    let mut block = pool
        .take()
        .ok_or_else(|| limit("no block is free for a record that is not complete"))?;
    if block.append(bytes) < bytes.len() {
        pool.give(block);
        return Err(limit("more bytes behind the handshake than a block holds"));
    }
    Ok(block)
}

/// Content type and length of the content of a TLSInnerPlaintext (RFC 8446 section 5.4).
fn inner_content(inner: &[u8]) -> Result<(u8, usize), RecordFailure> {
    // The bound holds for content, type and padding together.
    if inner.len() > RECORD_PLAINTEXT_MAX + 1 {
        return Err(too_long(inner.len(), RECORD_PLAINTEXT_MAX + 1));
    }
    match inner.iter().rposition(|&byte| byte != 0) {
        Some(len) => Ok((inner[len], len)),
        None => Err(RecordFailure::violation(
            AlertDescription::UnexpectedMessage,
            "a record of nothing but padding",
        )),
    }
}

fn too_long(len: usize, max: usize) -> RecordFailure {
    RecordFailure::new(
        CloseReason::RecordTooLong,
        AlertDescription::RecordOverflow,
        format!("a record of {len} bytes where {max} are allowed"),
    )
}

/// The part of a KeyUpdate that has come so far: it may be spread over records.
#[derive(Default)]
pub(super) struct HandshakeFragment {
    bytes: [u8; KEY_UPDATE_LEN],
    len: usize,
}

impl HandshakeFragment {
    /// Takes what fits and returns the rest.
    fn append<'a>(&mut self, content: &'a [u8]) -> &'a [u8] {
        let (taken, rest) = content.split_at(content.len().min(KEY_UPDATE_LEN - self.len));
        self.bytes[self.len..self.len + taken.len()].copy_from_slice(taken);
        self.len += taken.len();
        rest
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn clear(&mut self) {
        self.len = 0;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Counts a peer's KeyUpdate messages (CVE-2026-32283).
#[derive(Default)]
pub(super) struct KeyUpdateRate {
    records: u64,
    in_window: u32,
    /// Without data between them; they count on in the next window.
    in_row: u32,
}

impl KeyUpdateRate {
    fn count_record(&mut self) {
        self.records += 1;
        if self.records >= KEY_UPDATE_WINDOW_RECORDS {
            self.records = 0;
            self.in_window = self.in_row;
        }
    }

    fn data_received(&mut self) {
        self.in_row = 0;
    }

    fn allows_one_more(&mut self) -> bool {
        self.in_window += 1;
        self.in_row += 1;
        self.in_window <= KEY_UPDATES_PER_WINDOW_MAX
    }
}
