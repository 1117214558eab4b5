//! Why a connection ended. Every connection ends with exactly one of these; it is the metric
//! label, the log field and what tests expect.

/// By whose doing a connection ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Blame {
    /// Nobody's: both sides said goodbye.
    Nobody,
    /// The client's.
    Client,
    /// The upstream's.
    Upstream,
    /// Ours: a limit, a drain, a fault.
    Ringgate,
}

macro_rules! close_reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal, $blame:ident;)*) => {
        /// Why a connection ended.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum CloseReason {
            $($(#[$doc])* $name,)*
        }

        impl CloseReason {
            /// Every reason, in the order of the enum.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The stable name used in metrics and logs.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// By whose doing.
            pub const fn blame(self) -> Blame {
                match self {
                    $(Self::$name => Blame::$blame,)*
                }
            }
        }
    };
}

close_reasons! {
    /// A reload took the right away that the client had been let in by.
    AccessWithdrawn = "access_withdrawn", Client;
    /// A record failed authentication.
    BadRecord = "bad_record", Client;
    /// No block was free for what a peer sent.
    BufferLimit = "buffer_limit", Ringgate;
    /// The client's chain holds more certificates or bytes than allowed.
    CertificateChainTooLong = "certificate_chain_too_long", Client;
    /// The client's certificate is past its notAfter.
    CertificateExpired = "certificate_expired", Client;
    /// A certificate of the client's chain is malformed, or breaks a constraint.
    CertificateInvalid = "certificate_invalid", Client;
    /// A key in the client's chain is larger than allowed.
    CertificateKeyTooLarge = "certificate_key_too_large", Client;
    /// The client presented no certificate.
    CertificateMissing = "certificate_missing", Client;
    /// The client's certificate is before its notBefore.
    CertificateNotYetValid = "certificate_not_yet_valid", Client;
    /// The client did not prove that it holds its certificate's key.
    CertificatePossessionUnproven = "certificate_possession_unproven", Client;
    /// The client's certificate lacks the clientAuth extended key usage.
    CertificatePurpose = "certificate_purpose", Client;
    /// A certificate of the client's chain is revoked.
    CertificateRevoked = "certificate_revoked", Client;
    /// The client's chain leads to no trusted anchor.
    CertificateUnknownCa = "certificate_unknown_ca", Client;
    /// The client sent a fatal alert.
    ClientAlert = "client_alert", Client;
    /// The client left before its handshake was done.
    ClientGoneInHandshake = "client_gone_in_handshake", Client;
    /// The client reset the connection.
    ClientReset = "client_reset", Client;
    /// The client closed TCP without close_notify: what came before may be cut short.
    ClientTruncated = "client_truncated", Client;
    /// Both sides ended cleanly.
    Complete = "complete", Nobody;
    /// The drain's deadline passed.
    Drained = "drained", Ringgate;
    /// A certificate of the client's chain expired while the connection was open.
    ExpiredWhileOpen = "expired_while_open", Client;
    /// Too many handshakes or connections: a client that let us wait gave way to a newer one.
    GaveWay = "gave_way", Ringgate;
    /// The connection was refused at once: its source has too many handshakes going on.
    HandshakesPerSource = "handshakes_per_source", Client;
    /// The handshake was not done by its deadline.
    HandshakeTimeout = "handshake_timeout", Client;
    /// The client, which was let in, connects faster than its identity may.
    IdentityRateLimited = "identity_rate_limited", Client;
    /// Neither side sent anything for the idle timeout.
    IdleTimeout = "idle_timeout", Nobody;
    /// A fault of ours.
    Internal = "internal", Ringgate;
    /// The peer sends KeyUpdate messages faster than allowed.
    KeyUpdateFlood = "key_update_flood", Client;
    /// The connection reached the listener's maximum age.
    MaxAge = "max_age", Nobody;
    /// No protocol version, suite, group, signature scheme or application protocol in common.
    NothingInCommon = "nothing_in_common", Client;
    /// The first bytes are not TLS.
    NotTls = "not_tls", Client;
    /// The client's first message waited too long for its answer.
    Overloaded = "overloaded", Ringgate;
    /// A policy rule denies this identity.
    PolicyDenied = "policy_denied", Client;
    /// No policy rule allows this identity.
    PolicyUnmatched = "policy_unmatched", Client;
    /// The peer broke the protocol.
    ProtocolViolation = "protocol_violation", Client;
    /// A load balancer sent no PROXY header, or none that can be accepted.
    ProxyHeaderInvalid = "proxy_header_invalid", Client;
    /// The connection was refused at once: connections come faster than the listener may take them.
    RateLimited = "rate_limited", Ringgate;
    /// A record is longer than the protocol allows.
    RecordTooLong = "record_too_long", Client;
    /// No CRL says whether the client's certificate is revoked, or the one that would has expired.
    RevocationUnknown = "revocation_unknown", Client;
    /// The process is stopping.
    Shutdown = "shutdown", Ringgate;
    /// The connection was refused at once: too many connections or handshakes.
    TooManyConnections = "too_many_connections", Ringgate;
    /// The client asked for a name that no route serves.
    UnknownServerName = "unknown_server_name", Client;
    /// No upstream answered within the connect timeout.
    UpstreamConnectTimeout = "upstream_connect_timeout", Upstream;
    /// Every upstream had as many connections as it may have.
    UpstreamFull = "upstream_full", Ringgate;
    /// The upstream reset the connection.
    UpstreamReset = "upstream_reset", Upstream;
    /// No upstream accepted the connection.
    UpstreamUnreachable = "upstream_unreachable", Upstream;
}

impl CloseReason {
    /// Whether the client is reset before its handshake is done, without a word, so that it costs
    /// nothing more.
    pub const fn is_shed(self) -> bool {
        matches!(
            self,
            Self::GaveWay
                | Self::HandshakesPerSource
                | Self::Overloaded
                | Self::RateLimited
                | Self::TooManyConnections
        )
    }
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_metric_labels() {
        let mut seen = std::collections::BTreeSet::new();
        for reason in CloseReason::ALL {
            assert!(seen.insert(reason.label()), "{reason} twice");
            assert!(
                reason
                    .label()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_')
            );
        }
    }
}
