//! Why a handshake ended: rustls's errors in our own terms.

use rustls::{
    AlertDescription, CertificateError, Error, HandshakeType, InvalidMessage, PeerMisbehaved,
};

use super::HandshakeFailure;
use crate::close_reason::CloseReason;
use crate::tls::resolver::Selection;
use crate::trust::judgement::Judgement;

/// Why rustls's work on a record ended the handshake.
#[derive(Debug)]
pub(super) enum Refused {
    ByRustls(Error),
    EarlyPlaintext,
    Gone,
    NoRoom,
}

/// Reason and explanation of an end, before it is known who the client claimed to be.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) reason: CloseReason,
    pub(super) detail: String,
}

impl Ending {
    pub(super) fn new(reason: CloseReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }

    /// What the trust layer or the resolver refused wins over what rustls made of it.
    pub(super) fn from_refused(
        refused: Refused,
        judgement: &Judgement,
        selection: &Selection,
    ) -> Self {
        let error = match refused {
            Refused::ByRustls(error) => error,
            Refused::EarlyPlaintext => {
                return Self::new(
                    CloseReason::Internal,
                    "plaintext before the handshake was done",
                );
            }
            Refused::Gone => {
                return Self::new(
                    CloseReason::ClientGoneInHandshake,
                    "the client sent close_notify during the handshake",
                );
            }
            Refused::NoRoom => {
                return Self::new(
                    CloseReason::BufferLimit,
                    "no room for our part of the handshake",
                );
            }
        };
        if let Some(Err(refusal)) = &judgement.verdict {
            return Self::new(refusal.reason, refusal.detail.clone());
        }
        if let Some(refused) = selection.refused {
            return Self::new(
                refused.reason(),
                refused.detail(selection.server_name.as_deref()),
            );
        }
        Self::new(reason_of(&error), detail_of(&error))
    }

    /// Adds what is known about the client.
    pub(super) fn explain(
        self,
        judgement: &mut Judgement,
        selection: &Selection,
    ) -> HandshakeFailure {
        let claimed = match judgement.verdict.take() {
            Some(Ok(authorized)) => Some(authorized.peer().identity().clone()),
            Some(Err(refusal)) => refusal.claimed,
            None => None,
        };
        HandshakeFailure {
            reason: self.reason,
            detail: self.detail,
            claimed,
            server_name: selection.server_name.clone(),
        }
    }
}

/// The alert that the standards ask for where rustls sends another.
pub(super) fn alert_instead(refused: &Refused, selection: &Selection) -> Option<AlertDescription> {
    match refused {
        Refused::ByRustls(Error::InvalidMessage(InvalidMessage::MessageTooLarge)) => {
            Some(AlertDescription::RecordOverflow)
        }
        Refused::ByRustls(_) => selection.refused.map(|refused| refused.alert()),
        _ => None,
    }
}

fn reason_of(error: &Error) -> CloseReason {
    match error {
        Error::AlertReceived(AlertDescription::CloseNotify) => CloseReason::ClientGoneInHandshake,
        Error::AlertReceived(_) => CloseReason::ClientAlert,
        Error::DecryptError => CloseReason::BadRecord,
        Error::InvalidMessage(InvalidMessage::MessageTooLarge) | Error::PeerSentOversizedRecord => {
            CloseReason::RecordTooLong
        }
        Error::NoCertificatesPresented => CloseReason::CertificateMissing,
        Error::NoApplicationProtocol | Error::PeerIncompatible(_) => CloseReason::NothingInCommon,
        Error::InvalidCertificate(error) => match error {
            #[allow(deprecated, reason = "rustls still makes both kinds")]
            CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithm
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                CloseReason::CertificatePossessionUnproven
            }
            _ => CloseReason::CertificateInvalid,
        },
        Error::InappropriateHandshakeMessage { expect_types, .. }
            if expect_types == &[HandshakeType::CertificateVerify] =>
        {
            CloseReason::CertificatePossessionUnproven
        }
        Error::PeerMisbehaved(
            PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme
            | PeerMisbehaved::SignedKxWithWrongAlgorithm,
        ) => CloseReason::CertificatePossessionUnproven,
        Error::InappropriateHandshakeMessage { .. }
        | Error::InappropriateMessage { .. }
        | Error::InvalidEncryptedClientHello(_)
        | Error::InvalidMessage(_)
        | Error::PeerMisbehaved(_)
        | Error::UnsupportedNameType => CloseReason::ProtocolViolation,
        _ => CloseReason::Internal,
    }
}

fn detail_of(error: &Error) -> String {
    match error {
        Error::AlertReceived(AlertDescription::CloseNotify) => {
            "the client sent close_notify during the handshake".to_owned()
        }
        Error::AlertReceived(alert) => format!("the client sent the alert {alert:?}"),
        Error::NoCertificatesPresented => "the client presented no certificate".to_owned(),
        error if reason_of(error) == CloseReason::CertificatePossessionUnproven => {
            format!("the client did not prove that it holds its certificate's key: {error}")
        }
        error => error.to_string(),
    }
}

/// Whether the first bytes are an HTTP request, or HTTP/2's preface.
pub(super) fn looks_like_http(input: &[u8]) -> bool {
    const METHODS: [&[u8]; 10] = [
        b"CONNECT ",
        b"DELETE ",
        b"GET ",
        b"HEAD ",
        b"OPTIONS ",
        b"PATCH ",
        b"POST ",
        b"PRI ",
        b"PUT ",
        b"TRACE ",
    ];
    METHODS.iter().any(|method| input.starts_with(method))
}

pub(super) fn looks_like_proxy(input: &[u8]) -> bool {
    input.starts_with(b"PROXY ") || input.starts_with(b"\r\n\r\n\0\r\nQUIT\n")
}
