//! Drives rustls's unbuffered handshake until our own record layer takes over.

mod failure;

use std::fmt;
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{AlertDescription, HandshakeKind, ServerConfig};

use self::failure::{Ending, Refused};
use super::resolver::{self, Selection};
use super::{Acceptor, Records};
use crate::block::{Block, Pool};
use crate::close_reason::CloseReason;
use crate::limits::{
    BLOCK_LEN, HANDSHAKE_BYTES_MAX, HANDSHAKE_INPUT_MAX, RECORD_BODY_MAX_TLS12, RECORD_HEADER_LEN,
};
use crate::trust::judgement::{self, Judgement};
use crate::trust::{Authorized, Identity, Refusal};

// Content types (RFC 8446 section 5.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// A handshake in progress.
///
/// A client that has sent nothing, or no TLS, costs no more than this value.
pub struct Handshake {
    config: Arc<ServerConfig>,
    /// Made when the first bytes look like TLS.
    connection: Option<Box<UnbufferedServerConnection>>,
    judgement: Judgement,
    selection: Selection,
    /// Input that rustls is not done with.
    kept: Vec<u8>,
    /// Bytes at the front of that input which rustls has read and needs again, with what follows.
    seen: usize,
    /// Bytes of input so far, and how many of them rustls was given.
    received: usize,
    processed: usize,
    over: bool,
}

/// What [`Handshake::receive`] led to.
#[derive(Debug)]
pub enum Progress {
    /// More bytes are needed.
    Continue,
    Established(Box<Established>),
}

/// A handshake that is done: the client proved who it is and policy lets it in.
#[derive(Debug)]
pub struct Established {
    pub records: Records,
    pub client: Authorized,
    /// Index of the route in the acceptor.
    pub route: usize,
    /// As the client sent it, in lower case.
    pub server_name: Option<Arc<str>>,
    pub alpn: Option<Vec<u8>>,
    pub version: rustls::ProtocolVersion,
    pub suite: rustls::CipherSuite,
    pub resumed: bool,
    /// The first hello offered no key exchange group that both know (HelloRetryRequest).
    pub retried: bool,
}

/// A handshake that ended.
#[derive(Debug)]
pub struct HandshakeFailure {
    pub reason: CloseReason,
    /// For people.
    pub detail: String,
    /// Who the client's leaf claims to be, as far as it could be read. Unproven.
    pub claimed: Option<Arc<Identity>>,
    pub server_name: Option<Arc<str>>,
}

/// What became of the bytes at hand.
enum Step {
    /// The first record is not whole; at least so many more bytes are needed.
    Incomplete(usize),
    Processed {
        /// Bytes at the front that are done with.
        discard: usize,
        /// Where the record ends.
        end: usize,
        /// Whether the handshake is done.
        done: bool,
    },
}

impl Handshake {
    /// # Errors
    ///
    /// None today: what a handshake needs is made when the first bytes have come.
    pub fn new(acceptor: &Acceptor) -> Result<Self, HandshakeFailure> {
        Ok(Self {
            config: acceptor.config.clone(),
            connection: None,
            judgement: Judgement::default(),
            selection: Selection::default(),
            kept: Vec::new(),
            seen: 0,
            received: 0,
            processed: 0,
            over: false,
        })
    }

    /// Takes all of `input`. What must be sent is appended to `out`, in failure too (the alert).
    ///
    /// After [`Progress::Established`] bytes that came behind the client's Finished wait in
    /// [`Records`]: call [`Records::open`] once with no input.
    ///
    /// # Errors
    ///
    /// Why the handshake ended. No block of `pool` is held after it.
    pub fn receive(
        &mut self,
        input: &mut [u8],
        pool: &mut Pool,
        out: &mut Block,
    ) -> Result<Progress, HandshakeFailure> {
        let progress = if self.over {
            Err(Ending::new(
                CloseReason::Internal,
                "input for a handshake that is over",
            ))
        } else {
            self.advance(input, pool, out)
        };
        if !matches!(progress, Ok(Progress::Continue)) {
            self.over = true;
            self.kept = Vec::new();
        }
        progress.map_err(|ending| ending.explain(&mut self.judgement, &self.selection))
    }

    fn advance(
        &mut self,
        input: &mut [u8],
        pool: &mut Pool,
        out: &mut Block,
    ) -> Result<Progress, Ending> {
        self.check_is_tls(input)?;
        let mut taken = 0;
        let mut done = false;
        if !self.kept.is_empty() {
            let mut kept = std::mem::take(&mut self.kept);
            (taken, done) = self.process_kept(&mut kept, input, out)?;
            if !kept.is_empty() {
                self.kept = kept;
            }
        }
        if self.kept.is_empty() && !done {
            let rest = &mut input[taken..];
            let (processed, done_here) = self.process_in_place(rest, out)?;
            done = done_here;
            taken += processed;
            if !done && taken < input.len() {
                self.keep(&input[taken..])?;
            }
        }
        if done {
            let behind = &input[taken..];
            return self.establish(behind, pool, out).map(Progress::Established);
        }
        Ok(Progress::Continue)
    }

    /// Tells TLS from anything else by its first two bytes (record type and major version), before
    /// anything is allocated for it.
    fn check_is_tls(&mut self, input: &[u8]) -> Result<(), Ending> {
        const START: [u8; 2] = [HANDSHAKE, 3];
        let expected = &START[self.received.min(START.len())..];
        if let Some((&got, &wanted)) = input
            .iter()
            .zip(expected)
            .find(|(got, wanted)| got != wanted)
        {
            let what = if failure::looks_like_http(input) {
                "plain HTTP where TLS is spoken: use https".to_owned()
            } else {
                format!("the first bytes are no TLS handshake: {got:#04x} instead of {wanted:#04x}")
            };
            return Err(Ending::new(CloseReason::NotTls, what));
        }
        self.received = self.received.saturating_add(input.len());
        Ok(())
    }

    /// Hands rustls the records that are complete in `input`, one by one, so that it never opens
    /// what comes behind the client's Finished. Returns how many bytes are done with, and whether
    /// the handshake is.
    fn process_in_place(
        &mut self,
        input: &mut [u8],
        out: &mut Block,
    ) -> Result<(usize, bool), Ending> {
        let mut start = 0;
        loop {
            match self.process_record(&mut input[start..], out)? {
                Step::Incomplete(_) => return Ok((start, false)),
                Step::Processed {
                    end, done: true, ..
                } => return Ok((start + end, true)),
                Step::Processed { discard, .. } => start += discard,
            }
        }
    }

    /// Completes the kept record from `input`, and as many more as rustls needs together with it.
    /// Returns how many bytes of `input` were taken, and whether the handshake is done.
    fn process_kept(
        &mut self,
        kept: &mut Vec<u8>,
        input: &[u8],
        out: &mut Block,
    ) -> Result<(usize, bool), Ending> {
        let mut taken = 0;
        loop {
            match self.process_record(kept, out)? {
                Step::Incomplete(missing) => {
                    let rest = &input[taken..];
                    if rest.is_empty() {
                        return Ok((taken, false));
                    }
                    check_kept_len(kept.len() + missing)?;
                    let next = &rest[..rest.len().min(missing)];
                    kept.extend_from_slice(next);
                    taken += next.len();
                }
                Step::Processed { done: true, .. } => {
                    // Only whole records are appended: nothing can follow this one.
                    kept.clear();
                    return Ok((taken, true));
                }
                Step::Processed { discard, .. } => {
                    kept.drain(..discard);
                    if kept.is_empty() {
                        return Ok((taken, false));
                    }
                }
            }
        }
    }

    /// Not in a block of the pool: a few bytes of a hello would hold 64 KiB for as long as a client
    /// that nobody knows yet likes.
    fn keep(&mut self, rest: &[u8]) -> Result<(), Ending> {
        check_kept_len(rest.len())?;
        self.kept = rest.to_vec();
        Ok(())
    }

    /// Hands rustls the first record that it has not seen, together with what it has.
    fn process_record(&mut self, bytes: &mut [u8], out: &mut Block) -> Result<Step, Ending> {
        let rest = &bytes[self.seen..];
        let end = match first_record(rest) {
            FirstRecord::Incomplete(missing) => return Ok(Step::Incomplete(missing)),
            FirstRecord::Complete(len) => self.seen + len,
            FirstRecord::Malformed => {
                // rustls refuses it by its header, and knows which alert to send.
                self.drive(bytes, out)?;
                return Err(Ending::new(
                    CloseReason::ProtocolViolation,
                    "a malformed record header",
                ));
            }
        };
        self.processed += end - self.seen;
        if self.processed > HANDSHAKE_BYTES_MAX {
            return Err(Ending::new(
                CloseReason::ProtocolViolation,
                format!("more than {HANDSHAKE_BYTES_MAX} bytes in one handshake"),
            ));
        }
        if is_plain_close_notify(&bytes[self.seen..end]) {
            return Err(Ending::new(
                CloseReason::ClientGoneInHandshake,
                "the client sent close_notify during the handshake",
            ));
        }
        let discard = self.drive(&mut bytes[..end], out)?;
        self.seen = end.saturating_sub(discard);
        let done = self
            .connection
            .as_ref()
            .is_some_and(|each| !each.is_handshaking());
        Ok(Step::Processed { discard, end, done })
    }

    /// Lets rustls work on `bytes` until it needs more. Returns how many are done with.
    fn drive(&mut self, bytes: &mut [u8], out: &mut Block) -> Result<usize, Ending> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let new = UnbufferedServerConnection::new(self.config.clone())
                    .map_err(|error| Ending::new(CloseReason::Internal, error.to_string()))?;
                none.insert(Box::new(new))
            }
        };
        let selection = &mut self.selection;
        let driven = judgement::enter(&mut self.judgement, || {
            resolver::enter(selection, || drive(connection, bytes, out))
        });
        driven.map_err(|refused| {
            if matches!(refused, Refused::ByRustls(_)) {
                let alert = failure::alert_instead(&refused, &self.selection);
                collect_alert(connection, out, alert);
            }
            Ending::from_refused(refused, &self.judgement, &self.selection)
        })
    }

    /// Changes from rustls to our own record layer.
    fn establish(
        &mut self,
        behind: &[u8],
        pool: &mut Pool,
        out: &mut Block,
    ) -> Result<Box<Established>, Ending> {
        let internal = |detail: &str| Ending::new(CloseReason::Internal, detail);
        let connection = self
            .connection
            .take()
            .ok_or_else(|| internal("no handshake"))?;
        let alpn = connection.alpn_protocol().map(<[u8]>::to_vec);
        let kind = connection.handshake_kind();
        let resumed = kind == Some(HandshakeKind::Resumed);
        let retried = kind == Some(HandshakeKind::FullWithHelloRetryRequest);
        let verdict = self.conclude(&connection, resumed);
        let (secrets, connection) = connection
            .dangerous_into_kernel_connection()
            .map_err(|error| internal(&format!("taking over from rustls: {error}")))?;
        let version = connection.protocol_version();
        let suite = connection.negotiated_cipher_suite().suite();
        let renewal = std::mem::take(&mut self.selection.secrets);
        let mut records = Records::new(version, &secrets, renewal, behind, pool)
            .map_err(|failure| Ending::new(failure.reason, failure.detail))?;

        // Whatever let this handshake end well without a verdict is a fault, and no way in.
        let (refused, alert) = match (verdict, self.selection.route) {
            (Some(Ok(client)), Some(route)) => {
                return Ok(Box::new(Established {
                    records,
                    client,
                    route,
                    server_name: self.selection.server_name.take(),
                    alpn,
                    version,
                    suite,
                    resumed,
                    retried,
                }));
            }
            (Some(Err(refusal)), _) => {
                let ending = Ending::new(refusal.reason, refusal.detail.clone());
                self.judgement.verdict = Some(Err(refusal));
                (ending, AlertDescription::AccessDenied)
            }
            _ => (
                internal("the handshake is done, but nobody judged the client"),
                AlertDescription::InternalError,
            ),
        };
        records.release(pool);
        // The connection ends either way; the alert is a courtesy.
        let _ = records.alert(alert, out);
        Err(refused)
    }

    /// The verdict, if it is about the client that rustls speaks with.
    fn conclude(
        &mut self,
        connection: &UnbufferedServerConnection,
        resumed: bool,
    ) -> Option<Result<Authorized, Refusal>> {
        let verdict = self.judgement.conclude(resumed)?;
        if let Ok(client) = &verdict {
            let leaf = connection.peer_certificates()?.first()?;
            if leaf != client.peer().leaf() {
                return None;
            }
        }
        Some(verdict)
    }
}

/// Lets rustls work on `bytes` until it needs more. Returns how many are done with.
fn drive(
    connection: &mut UnbufferedServerConnection,
    bytes: &mut [u8],
    out: &mut Block,
) -> Result<usize, Refused> {
    let mut done_with = 0;
    loop {
        let UnbufferedStatus { discard, state } =
            connection.process_tls_records(&mut bytes[done_with..]);
        done_with += discard;
        match state.map_err(Refused::ByRustls)? {
            ConnectionState::EncodeTlsData(mut data) => {
                let written = data.encode(out.unfilled()).map_err(|_| Refused::NoRoom)?;
                out.commit(written);
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => {
                return Ok(done_with);
            }
            ConnectionState::PeerClosed | ConnectionState::Closed => return Err(Refused::Gone),
            // Early data is off, and nothing behind the Finished is handed over.
            _ => return Err(Refused::EarlyPlaintext),
        }
    }
}

/// Appends the alert that rustls queued when it refused; a plaintext one becomes `instead`.
///
/// rustls gives what it has queued before it looks at input. It must not look at input again: it
/// may hold places in a message that it is not given any more, and panic.
fn collect_alert(
    connection: &mut UnbufferedServerConnection,
    out: &mut Block,
    instead: Option<AlertDescription>,
) {
    while connection.wants_write() {
        let status = connection.process_tls_records(&mut []);
        let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else {
            return;
        };
        let Ok(written) = data.encode(out.unfilled()) else {
            return;
        };
        let record = &mut out.unfilled()[..written];
        if let (&mut [ALERT, _, _, 0, 2, _, ref mut description], Some(instead)) = (record, instead)
        {
            *description = instead.into();
        }
        out.commit(written);
    }
}

// What passes the bound has room in one block.
const _: () = assert!(HANDSHAKE_INPUT_MAX <= BLOCK_LEN);

fn check_kept_len(len: usize) -> Result<(), Ending> {
    if len > HANDSHAKE_INPUT_MAX {
        return Err(Ending::new(
            CloseReason::ProtocolViolation,
            format!("a handshake message that takes more than {HANDSHAKE_INPUT_MAX} bytes"),
        ));
    }
    Ok(())
}

/// What the bytes that rustls has not seen begin with.
enum FirstRecord {
    Complete(usize),
    Incomplete(usize),
    Malformed,
}

fn first_record(bytes: &[u8]) -> FirstRecord {
    let Some(&[content_type, major, _, high, low]) = bytes.first_chunk::<RECORD_HEADER_LEN>()
    else {
        return FirstRecord::Incomplete(RECORD_HEADER_LEN - bytes.len());
    };
    let body_len = usize::from(u16::from_be_bytes([high, low]));
    let is_known = (CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&content_type) && major == 3;
    if !is_known || body_len > RECORD_BODY_MAX_TLS12 {
        return FirstRecord::Malformed;
    }
    match (RECORD_HEADER_LEN + body_len).checked_sub(bytes.len()) {
        None | Some(0) => FirstRecord::Complete(RECORD_HEADER_LEN + body_len),
        Some(missing) => FirstRecord::Incomplete(missing),
    }
}

/// Whether `record` is an unprotected close_notify. Depending on the version rustls would go on
/// waiting after it.
fn is_plain_close_notify(record: &[u8]) -> bool {
    matches!(record, [ALERT, _, _, 0, 2, _, 0])
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake")
            .field("received", &self.received)
            .field("selection", &self.selection)
            .field("judgement", &self.judgement)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
