//! What a listener needs to start handshakes: routes by SNI, certificates, protocol options.

use std::sync::Arc;

use rustls::sign::CertifiedKey;

use crate::clock::Clock;
use crate::trust::TrustDomain;
use crate::trust::name::NamePattern;

/// Where clients that ask for certain names go.
#[derive(Debug)]
pub struct Route {
    /// For logs and metrics.
    pub name: Arc<str>,
    /// SNI patterns; empty for a default route.
    pub server_names: Vec<NamePattern>,
    /// In order of preference; the first that the client can verify is used.
    pub certificates: Vec<Arc<CertifiedKey>>,
    pub domain: Arc<TrustDomain>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MinVersion {
    Tls12,
    #[default]
    Tls13,
}

#[derive(Debug)]
pub struct AcceptorOptions {
    pub routes: Vec<Route>,
    /// Index into `routes` for clients without SNI or with a name that no route has.
    pub default_route: Option<usize>,
    pub alpn: Vec<Vec<u8>>,
    pub min_version: MinVersion,
    pub clock: Clock,
}

/// A listener's TLS side; immutable, shared by all shards.
#[derive(Debug)]
pub struct Acceptor {
    pub(super) config: Arc<rustls::ServerConfig>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AcceptorError(pub String);

impl Acceptor {
    pub fn new(_options: AcceptorOptions) -> Result<Self, AcceptorError> {
        todo!()
    }
}

/// A chain and its key from PEM.
pub fn load_certified_key(_chain: &[u8], _key: &[u8]) -> Result<Arc<CertifiedKey>, AcceptorError> {
    todo!()
}
