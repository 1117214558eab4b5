//! Session tickets: what they say, and the judgement each time one is offered.
//!
//! A ticket is `key name | nonce | AEAD(rustls's state | header)`. The state holds the client's
//! chain, and the header says where, so that it is there once; the header also holds the time of the
//! last full authentication and what the chain check found then. The scope, a listener and one of
//! its routes, is authenticated with it.
//!
//! rustls asks nobody whether a client may resume. So whoever offers a ticket is judged by today's
//! trust domain as if the chain had been presented: the whole check of the chain and the policy. As
//! long as the domain is the one that has checked the chain, and could only find the same again, its
//! finding in the ticket stands for the check. After a reload that touches the domain the chain is
//! checked anew, once: the next ticket says so. "No" is no ticket, and a full handshake follows.

use std::borrow::Cow;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::peer::Standing;
use super::refusal::seconds;
use super::stek::{OVERHEAD, Stek};
use super::{Authorized, ChainEntry, ChainSummary, TrustDomain, cache};
use crate::limits::{CHAIN_LEN_MAX, CLOCK_SKEW, TICKET_BYTES_MAX};

/// Counts the forms that a ticket's header has had.
const FORM: u64 = 2;

/// Where a ticket counts: a listener and one of its routes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TicketScope([u8; 32]);

impl TicketScope {
    pub fn new(listener: &str, route: &str) -> Self {
        let mut context = Context::new(&SHA256);
        // A ticket of another form does not open.
        context.update(&FORM.to_be_bytes());
        for name in [listener, route] {
            context.update(&(name.len() as u64).to_be_bytes());
            context.update(name.as_bytes());
        }
        let digest = context.finish();
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// A ticket that was offered and judged well.
#[derive(Clone, Debug)]
pub struct Resumption {
    /// What rustls resumes from.
    pub state: Vec<u8>,
    pub client: Authorized,
    /// When the client last proved that it holds its key; seconds since the Unix epoch.
    pub authenticated_at: i64,
}

/// Seals tickets and judges them.
#[derive(Clone, Debug)]
pub struct Tickets {
    stek: Stek,
    /// Seconds.
    cap: i64,
    /// How long what a check of a chain found stands for another one. Seconds.
    ttl: i64,
}

impl Tickets {
    /// Tickets that are good until `cap` after the last full authentication, however often the
    /// client has resumed since. The chain is checked again `ttl` after the last time.
    pub fn new(stek: Stek, cap: Duration, ttl: Duration) -> Self {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        Self {
            stek,
            cap: seconds(cap),
            ttl: seconds(ttl),
        }
    }

    /// How long a client should keep a ticket. Keys open for at least as long.
    pub fn lifetime(&self) -> Duration {
        let cap = Duration::from_secs(self.cap.unsigned_abs());
        cap.min(self.stek.rotation())
    }

    /// A ticket for `client`, which proved at `authenticated_at` that it holds its key. `None` where
    /// the client gets none: past the cap, or when its chain would make it too large.
    pub fn seal(
        &self,
        scope: &TicketScope,
        client: &Authorized,
        authenticated_at: i64,
        state: &[u8],
        now: UnixTime,
    ) -> Option<Vec<u8>> {
        if !self.is_recent(authenticated_at, seconds(now)) {
            return None;
        }
        let header = Header {
            authenticated_at,
            standing: Cow::Borrowed(client.peer().standing()),
            certificates: locate(client.peer().presented(), state)?,
        };
        let header = header.encode()?;
        if state.len() + header.len() + OVERHEAD > TICKET_BYTES_MAX {
            return None;
        }
        let now = Duration::from_secs(now.as_secs());
        self.stek.seal(&[state, &header], &scope.0, now)
    }

    /// Judges a ticket that was offered within `scope`, whose trust domain today is `domain`. `None`
    /// where a full handshake is to follow, whatever the reason: then the reason is found again.
    pub fn judge(
        &self,
        scope: &TicketScope,
        domain: &TrustDomain,
        ticket: &[u8],
        now: UnixTime,
    ) -> Option<Resumption> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let sealed_now = Duration::from_secs(now.as_secs());
        let mut state = self.stek.open(ticket, &scope.0, sealed_now)?;
        let (state_len, header) = Header::decode(&state)?;
        state.truncate(state_len);
        if !self.is_recent(header.authenticated_at, seconds(now)) {
            return None;
        }
        let certificates = header.certificates.iter();
        let chain: Vec<CertificateDer<'_>> = certificates
            .map(|place| state.get(place.start..place.end).map(CertificateDer::from))
            .collect::<Option<_>>()?;
        let (leaf, intermediates) = chain.split_first()?;
        let vouched = Some((header.standing.into_owned(), self.ttl));
        let client = cache::judge(domain, leaf, intermediates, now, vouched).ok()?;
        Some(Resumption {
            client,
            authenticated_at: header.authenticated_at,
            state,
        })
    }

    /// Whether a full authentication at `authenticated_at` still counts.
    fn is_recent(&self, authenticated_at: i64, now: i64) -> bool {
        let age = now.saturating_sub(authenticated_at);
        // One from the future is from before a clock was set back: who knows how old that is.
        (-CLOCK_SKEW.as_secs().cast_signed()..self.cap).contains(&age)
    }
}

/// Where a certificate stands in rustls's state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Place {
    start: usize,
    end: usize,
}

/// Finds the certificates of `chain` in `state`, one behind the other.
fn locate(chain: &[CertificateDer<'_>], state: &[u8]) -> Option<Vec<Place>> {
    let mut from = 0;
    chain
        .iter()
        .map(|der| {
            let mut windows = state.get(from..)?.windows(der.len());
            let start = from + windows.position(|window| window == der.as_ref())?;
            from = start + der.len();
            Some(Place { start, end: from })
        })
        .collect()
}

/// What a ticket says beside rustls's state. It stands behind it, and its length at the very end.
#[derive(Debug, Eq, PartialEq)]
struct Header<'a> {
    authenticated_at: i64,
    standing: Cow<'a, Standing>,
    certificates: Vec<Place>,
}

impl Header<'_> {
    /// `None` where something in it is longer than ever seen.
    fn encode(&self) -> Option<Vec<u8>> {
        let Standing {
            domain,
            chain,
            revocation_until,
            verified_at,
        } = &*self.standing;
        let mut bytes = Vec::with_capacity(512);
        for digest in [domain, &chain.anchor, &chain.anchor_spki] {
            bytes.extend_from_slice(digest);
        }
        for time in [
            self.authenticated_at,
            chain.not_before,
            chain.not_after,
            *revocation_until,
            *verified_at,
        ] {
            bytes.extend_from_slice(&time.to_be_bytes());
        }
        bytes.push(u8::try_from(self.certificates.len()).ok()?);
        for place in &self.certificates {
            for position in [place.start, place.end] {
                bytes.extend_from_slice(&u32::try_from(position).ok()?.to_be_bytes());
            }
        }
        bytes.push(u8::try_from(chain.entries.len()).ok()?);
        for entry in &chain.entries {
            bytes.extend_from_slice(&entry.issuer);
            bytes.extend_from_slice(&entry.key);
            bytes.push(u8::try_from(entry.serial.len()).ok()?);
            bytes.extend_from_slice(&entry.serial);
        }
        let len = u16::try_from(bytes.len()).ok()?;
        bytes.extend_from_slice(&len.to_be_bytes());
        Some(bytes)
    }

    /// How many bytes of `bytes` are in front of the header, and the header.
    fn decode(bytes: &[u8]) -> Option<(usize, Self)> {
        let (bytes, &len) = bytes.split_last_chunk()?;
        let state_len = bytes.len().checked_sub(u16::from_be_bytes(len).into())?;
        let mut reader = Reader(bytes.get(state_len..)?);
        let [domain, anchor, anchor_spki] = [reader.take()?, reader.take()?, reader.take()?];
        let authenticated_at = reader.time()?;
        let [not_before, not_after] = [reader.time()?, reader.time()?];
        let [revocation_until, verified_at] = [reader.time()?, reader.time()?];
        let certificates = reader.list(|reader| {
            let [start, end] = [reader.position()?, reader.position()?];
            Some(Place { start, end })
        })?;
        let entries = reader.list(|reader| {
            Some(ChainEntry {
                issuer: reader.take()?,
                key: reader.take()?,
                serial: reader.short_bytes()?.into(),
            })
        })?;
        let chain = ChainSummary {
            entries,
            anchor,
            anchor_spki,
            not_before,
            not_after,
        };
        let standing = Standing {
            domain,
            chain,
            revocation_until,
            verified_at,
        };
        let header = Self {
            authenticated_at,
            standing: Cow::Owned(standing),
            certificates,
        };
        reader.0.is_empty().then_some((state_len, header))
    }
}

/// What is left of a header.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (&chunk, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(chunk)
    }

    fn time(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }

    fn position(&mut self) -> Option<usize> {
        usize::try_from(u32::from_be_bytes(self.take()?)).ok()
    }

    fn short_bytes(&mut self) -> Option<&'a [u8]> {
        let [len] = self.take()?;
        let (bytes, rest) = self.0.split_at_checked(len.into())?;
        self.0 = rest;
        Some(bytes)
    }

    /// A list of as many as a chain may have.
    fn list<T>(&mut self, read: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let [count] = self.take()?;
        let bounded = usize::from(count) <= CHAIN_LEN_MAX;
        bounded.then(|| (0..count).map(|_| read(self)).collect())?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;
    use crate::trust::domain::TrustSources;
    use crate::trust::policy::{Effect, Matcher, Policy, Rule};
    use crate::trust::stek::Secret;
    use crate::trust::{Identity, VerifiedPeer};

    /// A ticket says of a chain, which would not be let in, that it was checked: how long it is
    /// believed shows when the chain is checked again.
    #[test]
    fn what_a_ticket_says_of_its_chain_is_believed_for_the_configured_time() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = || params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let rule = Rule {
            name: "in".into(),
            effect: Effect::Allow,
            matchers: vec![Matcher::Any],
        };
        let domain = TrustDomain::new(TrustSources {
            anchors: vec![certificate().der().clone()],
            policy: Policy { rules: vec![rule] },
            ..TrustSources::default()
        })
        .unwrap();
        let leaf = certificate().der().clone();
        let mut standing = header(1).standing.into_owned();
        standing.domain = domain.digest();
        (standing.chain.not_after, standing.verified_at) = (i64::MAX, 1_000_000);
        let identity = Arc::new(Identity::from_der(&leaf).unwrap());
        let peer = VerifiedPeer::new(identity, Box::new([leaf.clone()]), standing).unwrap();
        let client = Authorized::by_rule(peer, "in".into());

        let scope = TicketScope::new("front", "only");
        let hour = Duration::from_secs(3600);
        let stek = Stek::new(Arc::new(Secret::random()), hour);
        for ttl in [60, 1800] {
            let tickets = Tickets::new(stek.clone(), hour, Duration::from_secs(ttl));
            let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(1_000_000 + seconds));
            let ticket = tickets
                .seal(&scope, &client, 1_000_000, &leaf, at(0))
                .unwrap();
            let judged = |seconds| tickets.judge(&scope, &domain, &ticket, at(seconds));
            assert!(judged(ttl - 1).is_some());
            assert!(judged(ttl).is_none());
        }
    }

    fn header(certificates: usize) -> Header<'static> {
        let places = (0..certificates).map(|at| Place {
            start: at,
            end: at + 7,
        });
        let entries = (0..certificates).map(|at| ChainEntry {
            issuer: [4; 32],
            key: [6; 32],
            serial: vec![5; at].into(),
        });
        Header {
            authenticated_at: -1,
            standing: Cow::Owned(Standing {
                domain: [1; 32],
                chain: ChainSummary {
                    entries: entries.collect(),
                    anchor: [2; 32],
                    anchor_spki: [3; 32],
                    not_before: i64::MIN,
                    not_after: 3,
                },
                revocation_until: i64::MAX,
                verified_at: 4,
            }),
            certificates: places.collect(),
        }
    }

    #[test]
    fn headers_come_back_as_they_were() {
        for certificates in 0..=CHAIN_LEN_MAX {
            let encoded = header(certificates).encode().unwrap();
            let bytes = [b"state", &encoded[..]].concat();
            assert_eq!(Header::decode(&bytes), Some((5, header(certificates))));
            assert_eq!(Header::decode(&bytes[6..]), None);
            for len in 0..bytes.len() {
                assert_eq!(Header::decode(&bytes[..len]), None);
            }
        }
        let too_many = header(CHAIN_LEN_MAX + 1).encode().unwrap();
        assert_eq!(Header::decode(&too_many), None);
        let mut long_serial = header(1);
        long_serial.standing.to_mut().chain.entries[0].serial = vec![1; 256].into();
        assert_eq!(long_serial.encode(), None);
    }

    #[test]
    fn certificates_are_found_one_behind_the_other() {
        let chain: [CertificateDer<'_>; 2] = [[1, 2][..].into(), [2, 1][..].into()];
        let places = |state: &[u8]| {
            let places = locate(&chain, state)?.into_iter();
            Some(places.map(|place| (place.start, place.end)).collect())
        };
        let found: Option<Vec<_>> = places(&[0, 1, 2, 1, 2, 1]);
        assert_eq!(found, Some(vec![(1, 3), (4, 6)]));
        for state in [&[2, 1, 1, 2][..], &[1, 2, 2], &[]] {
            assert_eq!(places(state), None);
        }
    }
}
