//! What every client must be able to do, and what none may.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use aws_lc_rs::digest;
use rcgen::{CertificateParams, date_time_ymd};

use super::echo::Visit;
use super::gate::{Chains, Gate};
use super::pki::{self, Ca, Identity, Key};
use super::program::{self, Exchange, exchange, until};
use super::proxy_v2;

/// A program that relays its standard input and output over TLS.
pub trait Client {
    /// Its name in the search path.
    const PROGRAM: &str;

    /// Adds the arguments for a connection to `gate` with `identity`, or with no certificate, that
    /// offers the application protocol `echo`.
    fn arguments(command: &mut Command, gate: &Gate, identity: Option<&Identity>);

    /// How it shows that it got this fatal alert.
    fn shows(alert: Alert) -> String;
}

/// A fatal alert (RFC 8446 section 6).
#[derive(Clone, Copy, Debug)]
pub struct Alert {
    pub number: u8,
    /// As OpenSSL spells it.
    pub name: &'static str,
}

/// A client that must be refused.
#[derive(Clone, Copy, Debug)]
pub enum Refused {
    Expired,
    NoCertificate,
    NoClientAuth,
    OtherCa,
    Policy,
}

impl Refused {
    fn alert(self) -> Alert {
        let (number, name) = match self {
            Self::Expired => (45, "CERTIFICATE_EXPIRED"),
            Self::NoCertificate => (116, "CERTIFICATE_REQUIRED"),
            Self::NoClientAuth => (43, "UNSUPPORTED_CERTIFICATE"),
            Self::OtherCa => (48, "UNKNOWN_CA"),
            Self::Policy => (49, "ACCESS_DENIED"),
        };
        Alert { number, name }
    }

    /// The reason that the terminator's log gives.
    fn reason(self) -> &'static str {
        match self {
            Self::Expired => "certificate_expired",
            Self::NoCertificate => "certificate_missing",
            Self::NoClientAuth => "certificate_purpose",
            Self::OtherCa => "certificate_unknown_ca",
            Self::Policy => "policy_denied",
        }
    }

    pub fn identity(self, gate: &Gate) -> Option<Identity> {
        let issue = |change: fn(&mut CertificateParams)| {
            let mut params = pki::client();
            change(&mut params);
            Some(gate.client_ca.issue("refused", &params))
        };
        match self {
            Self::Expired => issue(|params| params.not_after = date_time_ymd(2021, 1, 1)),
            Self::NoCertificate => None,
            Self::NoClientAuth => {
                issue(|params| params.extended_key_usages = pki::server().extended_key_usages)
            }
            // The same name, so that only the key tells the two CAs apart.
            Self::OtherCa => {
                let folder = gate.folder().join("other");
                std::fs::create_dir(&folder).unwrap();
                let other = Ca::root(&folder, "client-root", Key::P256);
                Some(other.issue("refused", &pki::client()))
            }
            Self::Policy => issue(|params| {
                params
                    .distinguished_name
                    .push(rcgen::DnType::CommonName, "retired");
            }),
        }
    }
}

/// The client reaches the upstream and gets back what it sent; the upstream learns who it is.
pub fn reaches<C: Client>(chains: Chains, len: usize) {
    let Some(program) = program::find(C::PROGRAM) else {
        return;
    };
    let (gate, echo) = Gate::before_echo(chains);
    let payload = noise(len);
    let exchanged = connect::<C>(&program, &gate, Some(&gate.client), &payload);
    assert_echoed(&exchanged, &payload, &gate);
    let visits = echo.ended(1);
    assert_eq!(visits[0].end, Some(Ok(())));
    assert_eq!(visits[0].len, payload.len());
    assert_eq!(visits[0].sha256, sha256(&payload));
    assert_introduced(&visits[0], &gate);
}

/// The client is refused with the right alert, and the upstream hears nothing of it.
pub fn is_refused<C: Client>(refused: Refused) {
    let Some(program) = program::find(C::PROGRAM) else {
        return;
    };
    let (gate, echo) = Gate::before_echo(Chains::P256);
    let identity = refused.identity(&gate);
    let exchanged = connect::<C>(&program, &gate, identity.as_ref(), &noise(0));
    let shown = C::shows(refused.alert());
    assert!(
        exchanged.said.contains(&shown),
        "`{shown}` in {}\n{}",
        exchanged.said,
        gate.log()
    );
    let reason = refused.reason();
    until(reason, || gate.log().contains(reason).then_some(()));
    // One that may enter comes after it, and is the first that the upstream sees.
    let payload = noise(1);
    let exchanged = connect::<C>(&program, &gate, Some(&gate.client), &payload);
    assert_echoed(&exchanged, &payload, &gate);
    assert_introduced(&echo.ended(1)[0], &gate);
}

pub fn connect<C: Client>(
    program: &Path,
    gate: &Gate,
    identity: Option<&Identity>,
    payload: &Arc<[u8]>,
) -> Exchange {
    let mut command = Command::new(program);
    C::arguments(&mut command, gate, identity);
    exchange(&mut command, Arc::clone(payload))
}

pub fn assert_echoed(exchanged: &Exchange, payload: &[u8], gate: &Gate) {
    let (said, log) = (&exchanged.said, gate.log());
    assert_eq!(exchanged.received.len(), payload.len(), "{said}\n{log}");
    assert_eq!(
        sha256(&exchanged.received),
        sha256(payload),
        "{said}\n{log}"
    );
}

/// What PROXY v2 told is true of the client whom the policy knows.
pub fn assert_introduced(visit: &Visit, gate: &Gate) {
    let header = visit.header.as_ref().unwrap();
    let source = header.source.unwrap();
    assert!(
        source.ip().is_loopback() && source.port() != 0,
        "{header:?}"
    );
    assert_eq!(header.destination, Some(gate.address));
    // PP2_CLIENT_SSL, PP2_CLIENT_CERT_CONN and PP2_CLIENT_CERT_SESS; zero for "verified".
    assert_eq!(header.ssl, Some((0b111, 0)));
    for (tag, expected) in [
        (proxy_v2::ALPN, "echo"),
        (proxy_v2::AUTHORITY, pki::SERVER_NAME),
        (proxy_v2::SSL_VERSION, "TLSv1.3"),
        (proxy_v2::SSL_CN, pki::CLIENT_NAME),
        (proxy_v2::SPIFFE_ID, pki::CLIENT_URI),
        (proxy_v2::SANS, &format!("uri:{}", pki::CLIENT_URI)),
        (proxy_v2::RULE, "billing"),
        (proxy_v2::RESUMED, "\0"),
    ] {
        assert_eq!(header.text(tag), Some(expected), "TLV {tag:#04x}");
    }
    assert_eq!(
        header.tlvs.get(&proxy_v2::FINGERPRINT),
        Some(&gate.client.sha256)
    );
    let cipher = header.text(proxy_v2::SSL_CIPHER).unwrap();
    let known = [
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    ];
    assert!(known.contains(&cipher), "{cipher}");
}

/// Bytes without a pattern, the same at every run.
pub fn noise(len: usize) -> Arc<[u8]> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

pub fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

/// The tests of one client, each under its own name.
macro_rules! scenarios {
    ($client:ty) => {
        use crate::gate::Chains;
        use crate::pki::Key;
        use crate::scenario::{Refused, is_refused, reaches};

        const GREETING_LEN: usize = 1000;

        #[test]
        fn p256_reaches_the_upstream() {
            reaches::<$client>(Chains::P256, GREETING_LEN);
        }

        #[test]
        fn rsa2048_reaches_the_upstream() {
            reaches::<$client>(
                Chains {
                    key: Key::Rsa2048,
                    ..Chains::P256
                },
                GREETING_LEN,
            );
        }

        #[test]
        fn ed25519_reaches_the_upstream() {
            reaches::<$client>(
                Chains {
                    key: Key::Ed25519,
                    ..Chains::P256
                },
                GREETING_LEN,
            );
        }

        #[test]
        fn one_intermediate_reaches_the_upstream() {
            reaches::<$client>(
                Chains {
                    intermediate: true,
                    ..Chains::P256
                },
                GREETING_LEN,
            );
        }

        #[test]
        fn ten_megabytes_come_back_unchanged() {
            reaches::<$client>(Chains::P256, 10_000_000);
        }

        #[test]
        fn without_a_certificate_is_refused() {
            is_refused::<$client>(Refused::NoCertificate);
        }

        #[test]
        fn from_another_ca_is_refused() {
            is_refused::<$client>(Refused::OtherCa);
        }

        #[test]
        fn expired_is_refused() {
            is_refused::<$client>(Refused::Expired);
        }

        #[test]
        fn without_client_auth_is_refused() {
            is_refused::<$client>(Refused::NoClientAuth);
        }

        #[test]
        fn denied_by_policy_is_refused() {
            is_refused::<$client>(Refused::Policy);
        }
    };
}
pub(crate) use scenarios;
