//! Which route a ClientHello takes, and which certificate it is shown.

use std::cell::RefCell;
use std::mem;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, SignatureScheme};

use super::acceptor::Route;
use super::certificate::ServerCertificate;
use super::traffic_secrets::Captured;
use crate::close_reason::CloseReason;
use crate::trust::judgement;
use crate::trust::ticket::TicketScope;

/// What the resolver decided for one handshake, carried out of rustls's callback.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) route: Option<usize>,
    /// In lower case.
    pub(super) server_name: Option<Arc<str>>,
    pub(super) refused: Option<NoSelection>,
    pub(super) secrets: Captured,
}

/// Why a ClientHello is shown no certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NoSelection {
    NoVerifiableCertificate,
    ServerNameMissing,
    ServerNameUnknown,
}

impl NoSelection {
    pub(super) fn reason(self) -> CloseReason {
        match self {
            Self::NoVerifiableCertificate => CloseReason::NothingInCommon,
            Self::ServerNameMissing | Self::ServerNameUnknown => CloseReason::UnknownServerName,
        }
    }

    /// The alert that the standards ask for; rustls sends access_denied for all three.
    pub(super) fn alert(self) -> AlertDescription {
        match self {
            Self::NoVerifiableCertificate => AlertDescription::HandshakeFailure,
            // RFC 8446 section 9.2.
            Self::ServerNameMissing => AlertDescription::MissingExtension,
            // RFC 6066 section 3.
            Self::ServerNameUnknown => AlertDescription::UnrecognisedName,
        }
    }

    pub(super) fn detail(self, server_name: Option<&str>) -> String {
        match self {
            Self::NoVerifiableCertificate => {
                "the client can verify none of the route's certificates".to_owned()
            }
            Self::ServerNameMissing => {
                "the client sent no server name, and there is no default route".to_owned()
            }
            Self::ServerNameUnknown => {
                format!(
                    "no route serves the name `{}`",
                    server_name.unwrap_or_default()
                )
            }
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Selection> = RefCell::default();
}

/// Runs `work` with `selection` as this thread's current one.
pub(super) fn enter<R>(selection: &mut Selection, work: impl FnOnce() -> R) -> R {
    /// Swaps back even when `work` panics.
    struct Scope<'a>(&'a mut Selection);
    impl Drop for Scope<'_> {
        fn drop(&mut self) {
            CURRENT.with_borrow_mut(|current| mem::swap(current, self.0));
        }
    }
    CURRENT.with_borrow_mut(|current| mem::swap(current, selection));
    let _scope = Scope(selection);
    work()
}

/// Lets `change` work on this thread's current selection.
pub(super) fn with_current(change: impl FnOnce(&mut Selection)) {
    CURRENT.with_borrow_mut(change);
}

/// Picks route and certificate from a listener's routes.
#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) routes: Arc<[Route]>,
    /// Where each route's tickets count, with the same indices.
    pub(super) scopes: Box<[Option<TicketScope>]>,
    pub(super) default_route: Option<usize>,
    pub(super) tls13_only: bool,
}

impl Resolver {
    fn select(&self, hello: &ClientHello<'_>) -> Result<(usize, Arc<CertifiedKey>), NoSelection> {
        let index = self.route_for(hello.server_name())?;
        let key = self
            .certificate_of(&self.routes[index], hello.signature_schemes())
            .ok_or(NoSelection::NoVerifiableCertificate)?;
        Ok((index, key))
    }

    /// The route of clients that ask for `server_name`, or for none.
    pub(super) fn route_for(&self, server_name: Option<&str>) -> Result<usize, NoSelection> {
        match server_name {
            Some(name) => self
                .route_of(name)
                .or(self.default_route)
                .ok_or(NoSelection::ServerNameUnknown),
            None => self.default_route.ok_or(NoSelection::ServerNameMissing),
        }
    }

    /// The route that has `name`, an exact pattern before a wildcard.
    fn route_of(&self, name: &str) -> Option<usize> {
        let having = |wildcard: bool| {
            self.routes.iter().position(|route| {
                route
                    .server_names
                    .iter()
                    .any(|pattern| pattern.is_wildcard() == wildcard && pattern.matches(name))
            })
        };
        having(false).or_else(|| having(true))
    }

    /// The first certificate that the client can verify. TLS 1.3 has no PKCS #1 v1.5 signatures in
    /// the handshake, though clients offer them for certificates (RFC 8446 section 4.2.3); a
    /// certificate that needs them is for TLS 1.2 alone.
    fn certificate_of(
        &self,
        route: &Route,
        offered: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let first = |may_be_used: fn(SignatureScheme) -> bool| {
            let found = route.certificates.iter().find(|each| {
                let mut usable = offered.iter().filter(|&&scheme| may_be_used(scheme));
                usable.any(|&scheme| each.key.choose_scheme(&[scheme]).is_some())
            });
            found.map(ServerCertificate::certified)
        };
        let found = first(|scheme| !is_pkcs1(scheme));
        if self.tls13_only {
            found
        } else {
            found.or_else(|| first(|_| true))
        }
        .cloned()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let selected = self.select(&hello);
        CURRENT.with_borrow_mut(|current| {
            current.server_name = hello.server_name().map(Arc::from);
            current.route = selected.as_ref().ok().map(|(index, _)| *index);
            current.refused = selected.as_ref().err().copied();
        });
        let (index, key) = selected.ok()?;
        let scope = self.scopes.get(index).copied().flatten();
        judgement::choose_domain(self.routes[index].domain.clone(), scope);
        Some(key)
    }
}

fn is_pkcs1(scheme: SignatureScheme) -> bool {
    matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    )
}
