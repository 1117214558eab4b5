//! Why a connection of the load failed, by name.

use std::fmt;

use rustls::{AlertDescription, HandshakeType, InvalidMessage};

/// What happened to a connection that was not served. The names are stable: they are the keys of
/// `errors` in the JSON.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Failure {
    /// The server sent this TLS alert.
    Alert(AlertName),
    /// Shaken hands, but no session ticket came in time.
    ConfirmTimeout,
    /// The answer was not what was sent.
    EchoMismatch,
    /// The upstream was told of another client than the one that connected.
    IdentityMismatch,
    /// No descriptor was left here.
    LocalDescriptors,
    /// No ephemeral port was left here.
    LocalPorts,
    /// What came in answer to the ClientHello is no TLS.
    NotTls,
    /// Connected and shaken hands, but no answer came in time.
    RequestTimeout,
    /// A client that must be refused, of this kind, was served.
    ServedWrongly(&'static str),
    /// Another error of the operating system.
    System(i32),
    TcpRefused,
    TcpReset,
    TcpTimeout,
    /// No route leads to the host or its network, or a router said so.
    TcpUnreachable,
    /// The server broke the protocol, or its certificate did not verify.
    Tls(String),
    /// The handshake was not done in time.
    TlsTimeout,
    /// TCP ended without close_notify.
    UnexpectedEof,
}

/// An alert's name as RFC 8446 section 6 writes it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct AlertName(String);

impl From<AlertDescription> for AlertName {
    fn from(description: AlertDescription) -> Self {
        let name = match description {
            AlertDescription::UnknownCA => "UnknownCa".to_owned(),
            AlertDescription::UnknownPSKIdentity => "UnknownPskIdentity".to_owned(),
            AlertDescription::Unknown(code) => return Self(format!("unknown_{code}")),
            other => format!("{other:?}"),
        };
        let mut snake = String::with_capacity(name.len() + 4);
        for letter in name.chars() {
            if letter.is_ascii_uppercase() && !snake.is_empty() {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
        }
        Self(snake)
    }
}

impl Failure {
    /// What an errno means for a connection.
    pub fn from_errno(errno: i32) -> Self {
        use std::io::ErrorKind;
        const EMFILE: i32 = 24;
        const ENFILE: i32 = 23;
        if matches!(errno, EMFILE | ENFILE) {
            return Self::LocalDescriptors;
        }
        match std::io::Error::from_raw_os_error(errno).kind() {
            ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable => Self::LocalPorts,
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Self::TcpReset,
            ErrorKind::ConnectionRefused => Self::TcpRefused,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Self::TcpUnreachable,
            ErrorKind::TimedOut => Self::TcpTimeout,
            _ => Self::System(errno),
        }
    }

    /// Whether this machine, not the server, was at its limit.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::LocalDescriptors | Self::LocalPorts)
    }

    /// Whether a client was served that must be refused.
    pub fn is_wrong_service(&self) -> bool {
        matches!(self, Self::ServedWrongly(_))
    }

    /// What a person may look for who meets nothing else, where the name alone does not say it.
    pub fn meaning(&self) -> Option<&'static str> {
        Some(match self {
            Self::Alert(AlertName(name)) => match name.as_str() {
                "certificate_required" => {
                    "it wants a client certificate: --cert and --key, or --identities"
                }
                "protocol_version" => "it has none of the offered TLS versions: --tls",
                "unknown_ca" => "it does not know the CA of these clients",
                _ => return None,
            },
            Self::ConfirmTimeout => "it gave no session ticket: --confirm echo",
            Self::EchoMismatch => {
                "another answer than what was sent: does the upstream echo, and take the PROXY \
                 header if one is sent (`echo --proxy`)?"
            }
            Self::NotTls => "it speaks no TLS at this port",
            Self::RequestTimeout => {
                "shaken hands, and nothing came back: is there an echo behind it?"
            }
            Self::TcpRefused => "nothing listens there",
            Self::TcpTimeout => "no answer to SYN: is the host up, and no firewall between?",
            Self::TcpUnreachable => "no route leads there",
            Self::TlsTimeout => "connected, and no handshake came back",
            Self::UnexpectedEof => "it hung up: is its upstream there?",
            _ => return None,
        })
    }

    /// Whether the server said no: an alert, a refused connection, or an end.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Alert(_) | Self::TcpReset | Self::UnexpectedEof)
    }
}

impl From<&std::io::Error> for Failure {
    fn from(error: &std::io::Error) -> Self {
        Self::from_errno(error.raw_os_error().unwrap_or_default())
    }
}

impl From<rustls::Error> for Failure {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::AlertReceived(description) => Self::Alert(description.into()),
            rustls::Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            )
            // An echo of plaintext.
            | rustls::Error::InappropriateHandshakeMessage {
                got_type: HandshakeType::ClientHello,
                ..
            } => Self::NotTls,
            other => Self::Tls(other.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Alert(AlertName(name)) => return write!(f, "alert:{name}"),
            Self::ConfirmTimeout => "confirm_timeout",
            Self::EchoMismatch => "echo_mismatch",
            Self::IdentityMismatch => "identity_mismatch",
            Self::LocalDescriptors => "local:descriptors",
            Self::LocalPorts => "local:ports",
            Self::NotTls => "not_tls",
            Self::RequestTimeout => "request_timeout",
            Self::ServedWrongly(kind) => return write!(f, "served:{kind}"),
            Self::System(errno) => return write!(f, "errno:{errno}"),
            Self::TcpRefused => "tcp_refused",
            Self::TcpReset => "tcp_reset",
            Self::TcpTimeout => "tcp_timeout",
            Self::TcpUnreachable => "tcp_unreachable",
            Self::Tls(what) => return write!(f, "tls:{what}"),
            Self::TlsTimeout => "tls_timeout",
            Self::UnexpectedEof => "unexpected_eof",
        };
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_have_their_names_of_the_rfc() {
        for (description, name) in [
            (AlertDescription::UnknownCA, "alert:unknown_ca"),
            (
                AlertDescription::CertificateRequired,
                "alert:certificate_required",
            ),
            (
                AlertDescription::CertificateExpired,
                "alert:certificate_expired",
            ),
            (AlertDescription::AccessDenied, "alert:access_denied"),
            (AlertDescription::Unknown(200), "alert:unknown_200"),
        ] {
            let failure = Failure::from(rustls::Error::AlertReceived(description));
            assert_eq!(failure.to_string(), name);
            assert!(failure.is_refusal());
        }
    }

    #[test]
    fn errnos_have_their_names() {
        for (errno, name) in [
            (111, "tcp_refused"),
            (104, "tcp_reset"),
            (32, "tcp_reset"),
            (110, "tcp_timeout"),
            (99, "local:ports"),
            (24, "local:descriptors"),
            (101, "tcp_unreachable"),
            (113, "tcp_unreachable"),
            (71, "errno:71"),
        ] {
            assert_eq!(Failure::from_errno(errno).to_string(), name);
        }
    }
}
