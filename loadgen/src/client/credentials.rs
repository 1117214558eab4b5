//! Who the clients say they are.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;

use super::resumption::{KeepOnly, Sessions};
use super::verifier::OnceVerifier;
use super::{BadKind, Offer, Presents, ServerTrust};
use crate::pki::Credential;

/// Why a configuration for clients could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("the CA certificates of --ca cannot be used: {0}")]
    Anchors(#[from] rustls::client::VerifierBuilderError),
    #[error("client certificate {name}: {reason}; does its key belong to it?")]
    Credential { name: String, reason: rustls::Error },
    #[error("the versions, cipher suites and groups do not fit together: {0}")]
    Protocol(rustls::Error),
}

/// The identities of a run, each with sessions of its own.
#[derive(Debug)]
pub struct Credentials {
    identities: Vec<Identity>,
    bad: Vec<BadPool>,
    offer: Offer,
    verifier: Arc<OnceVerifier>,
    pub insecure: bool,
}

/// Identities that must be refused, and the share of connections that presents them.
#[derive(Debug)]
struct BadPool {
    kind: BadKind,
    share: f64,
    identities: Vec<Identity>,
}

/// What one client presents.
#[derive(Debug)]
pub struct Identity {
    /// For full handshakes.
    full: Arc<ClientConfig>,
    /// For resumptions, and what there is to resume.
    resuming: Option<(Arc<ClientConfig>, Arc<Sessions>)>,
    /// `None` where no certificate is presented.
    pub fingerprint: Option<[u8; 32]>,
    pub spiffe_id: Option<String>,
}

impl Credentials {
    /// Configurations for `pool`, which resume nothing; with an empty pool one client without a
    /// certificate.
    pub fn new(
        pool: &[Credential],
        trust: ServerTrust,
        offer: &Offer,
    ) -> Result<Self, CredentialsError> {
        // The first random number of a process takes some 100 ms of gathering entropy: not of a run.
        let _ = offer.provider.secure_random.fill(&mut [0; 32]);
        let insecure = matches!(trust, ServerTrust::Insecure);
        let verifier = Arc::new(OnceVerifier::new(trust, &offer.provider)?);
        let presented: Vec<Option<&Credential>> = match pool {
            [] => vec![None],
            pool => pool.iter().map(Some).collect(),
        };
        let identities = presented
            .into_iter()
            .map(|credential| Identity::new(credential, offer, &verifier))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            identities,
            bad: Vec::new(),
            offer: offer.clone(),
            verifier,
            insecure,
        })
    }

    /// Lets every identity keep sessions to resume, enough for `connections` at a time.
    pub fn keep_sessions(&mut self, connections: usize) {
        // A server may give two tickets for each that was used; what stays is twice what can be in
        // use, and never so little that one connection spoils the next.
        let tickets_max = 2 + 2 * connections.div_ceil(self.identities.len());
        for identity in &mut self.identities {
            identity.keep_sessions(tickets_max);
        }
    }

    /// Has this share of connections present what must be refused: those of `pool`, or no
    /// certificate where it is empty.
    pub fn add_bad(
        &mut self,
        kind: BadKind,
        share: f64,
        pool: &[Credential],
    ) -> Result<(), CredentialsError> {
        let presented: Vec<Option<&Credential>> = match pool {
            [] => vec![None],
            pool => pool.iter().map(Some).collect(),
        };
        let identities = presented
            .into_iter()
            .map(|credential| Identity::new(credential, &self.offer, &self.verifier))
            .collect::<Result<_, _>>()?;
        self.bad.push(BadPool {
            kind,
            share,
            identities,
        });
        Ok(())
    }

    /// Share and size of each pool that must be refused.
    pub(super) fn bad_shares(&self) -> Vec<(f64, usize)> {
        let pools = self.bad.iter();
        pools
            .map(|pool| (pool.share, pool.identities.len()))
            .collect()
    }

    /// What is presented, and why it must be refused if it must. The numbers are those of this
    /// value's identities.
    pub fn identity(&self, presents: Presents) -> (&Identity, Option<BadKind>) {
        match presents {
            Presents::Good(number) => (&self.identities[number], None),
            Presents::Bad(pool, number) => {
                let pool = &self.bad[pool];
                (&pool.identities[number], Some(pool.kind))
            }
        }
    }

    /// The configuration of a good client that resumes nothing.
    pub fn plain_config(&self) -> Arc<ClientConfig> {
        self.identities[0].full.clone()
    }

    pub fn count(&self) -> usize {
        self.identities.len()
    }
}

impl Identity {
    fn new(
        credential: Option<&Credential>,
        offer: &Offer,
        verifier: &Arc<OnceVerifier>,
    ) -> Result<Self, CredentialsError> {
        let builder = ClientConfig::builder_with_provider(offer.provider.clone())
            .with_protocol_versions(&offer.versions)
            .map_err(CredentialsError::Protocol)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let mut config = match credential {
            None => builder.with_no_client_auth(),
            Some(credential) => builder
                .with_client_auth_cert(credential.chain.clone(), credential.key.clone_key())
                .map_err(|reason| CredentialsError::Credential {
                    name: credential.name.clone(),
                    reason,
                })?,
        };
        config.resumption = Resumption::disabled();
        Ok(Self {
            full: Arc::new(config),
            resuming: None,
            fingerprint: credential.map(Credential::fingerprint),
            spiffe_id: credential.and_then(|credential| credential.spiffe_id.clone()),
        })
    }

    /// The two configurations share verifier and certificate, without which rustls resumes nothing.
    fn keep_sessions(&mut self, tickets_max: usize) {
        let sessions = Arc::new(Sessions::new(tickets_max));
        let mut full = (*self.full).clone();
        let mut resuming = full.clone();
        full.resumption = Resumption::store(Arc::new(KeepOnly(sessions.clone())));
        resuming.resumption = Resumption::store(sessions.clone());
        self.full = Arc::new(full);
        self.resuming = Some((Arc::new(resuming), sessions));
    }

    /// The configuration of the next connection, which resumes if that is wished and there is a
    /// session; and whether it will offer one.
    pub(super) fn config(&self, resume: bool) -> (&Arc<ClientConfig>, bool) {
        match &self.resuming {
            Some((resuming, sessions)) if resume && sessions.any() => (resuming, true),
            _ => (&self.full, false),
        }
    }
}
