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

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::peer::Standing;
use super::refusal::seconds;
use super::stek::{OVERHEAD, Stek};
use super::{Authorized, TrustDomain, cache};
use crate::limits::{CHAIN_LEN_MAX, CLOCK_SKEW, TICKET_BYTES_MAX};

/// Where a ticket counts: a listener and one of its routes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TicketScope([u8; 32]);

impl TicketScope {
    pub fn new(listener: &str, route: &str) -> Self {
        let mut context = Context::new(&SHA256);
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
}

impl Tickets {
    /// Tickets that are good until `cap` after the last full authentication, however often the
    /// client has resumed since.
    pub fn new(stek: Stek, cap: Duration) -> Self {
        Self {
            stek,
            cap: i64::try_from(cap.as_secs()).unwrap_or(i64::MAX),
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
            standing: *client.peer().standing(),
            certificates: locate(client.peer().chain(), state)?,
        };
        let header = header.encode();
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
        let (header, state_len) = Header::decode(&state)?;
        state.truncate(state_len);
        if !self.is_recent(header.authenticated_at, seconds(now)) {
            return None;
        }
        let certificates = header.certificates.iter();
        let chain: Vec<CertificateDer<'_>> = certificates
            .map(|place| state.get(place.start..place.end).map(CertificateDer::from))
            .collect::<Option<_>>()?;
        let (leaf, intermediates) = chain.split_first()?;
        let vouched = Some(header.standing);
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

/// What a ticket says beside rustls's state. It stands behind it, and is read from its end: places,
/// how many, then what is always as long.
#[derive(Debug, Eq, PartialEq)]
struct Header {
    authenticated_at: i64,
    standing: Standing,
    certificates: Vec<Place>,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 * self.certificates.len() + 128);
        for place in &self.certificates {
            for position in [place.start, place.end] {
                // A ticket is far smaller than 4 GiB, and else not sealed.
                let position = u32::try_from(position).unwrap_or(u32::MAX);
                bytes.extend_from_slice(&position.to_be_bytes());
            }
        }
        bytes.push(u8::try_from(self.certificates.len()).unwrap_or(u8::MAX));
        let standing = &self.standing;
        for time in [
            self.authenticated_at,
            standing.not_before,
            standing.not_after,
            standing.revocation_until,
            standing.verified_at,
        ] {
            bytes.extend_from_slice(&time.to_be_bytes());
        }
        bytes.extend_from_slice(&standing.domain);
        bytes.extend_from_slice(&standing.anchor_spki);
        bytes
    }

    /// The header at the end of `bytes`, and where it starts.
    fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let (bytes, &anchor_spki) = bytes.split_last_chunk()?;
        let (bytes, &domain) = bytes.split_last_chunk()?;
        let (bytes, verified_at) = split_time(bytes)?;
        let (bytes, revocation_until) = split_time(bytes)?;
        let (bytes, not_after) = split_time(bytes)?;
        let (bytes, not_before) = split_time(bytes)?;
        let (bytes, authenticated_at) = split_time(bytes)?;
        let (&count, bytes) = bytes.split_last()?;
        let count = usize::from(count);
        if count > CHAIN_LEN_MAX {
            return None;
        }
        let (state, places) = bytes.split_at_checked(bytes.len().checked_sub(8 * count)?)?;
        let certificates = places.as_chunks::<8>().0.iter().map(|place| Place {
            start: position(place[..4].try_into().expect("half of eight bytes")),
            end: position(place[4..].try_into().expect("half of eight bytes")),
        });
        let header = Self {
            authenticated_at,
            standing: Standing {
                domain,
                anchor_spki,
                not_before,
                not_after,
                revocation_until,
                verified_at,
            },
            certificates: certificates.collect(),
        };
        Some((header, state.len()))
    }
}

fn split_time(bytes: &[u8]) -> Option<(&[u8], i64)> {
    let (rest, &time) = bytes.split_last_chunk()?;
    Some((rest, i64::from_be_bytes(time)))
}

fn position(bytes: [u8; 4]) -> usize {
    usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(certificates: usize) -> Header {
        let places = (0..certificates).map(|at| Place {
            start: at,
            end: at + 7,
        });
        Header {
            authenticated_at: -1,
            standing: Standing {
                domain: [1; 32],
                anchor_spki: [2; 32],
                not_before: i64::MIN,
                not_after: 3,
                revocation_until: i64::MAX,
                verified_at: 4,
            },
            certificates: places.collect(),
        }
    }

    #[test]
    fn headers_come_back_as_they_were() {
        for certificates in 0..=CHAIN_LEN_MAX {
            let bytes = [b"state", &header(certificates).encode()[..]].concat();
            assert_eq!(Header::decode(&bytes), Some((header(certificates), 5)));
            // Cut at the front: the places do not fit any more.
            assert_eq!(Header::decode(&bytes[6..]), None);
        }
        assert_eq!(Header::decode(&header(CHAIN_LEN_MAX + 1).encode()), None);
        assert_eq!(Header::decode(b""), None);
    }

    #[test]
    fn certificates_are_found_one_behind_the_other() {
        let chain: [CertificateDer<'_>; 2] = [[1, 2][..].into(), [2, 1][..].into()];
        let places = |state: &[u8]| {
            locate(&chain, state).map(|places| {
                let places = places.into_iter();
                places
                    .map(|place| (place.start, place.end))
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(places(&[0, 1, 2, 1, 2, 1]), Some(vec![(1, 3), (4, 6)]));
        assert_eq!(places(&[2, 1, 1, 2]), None);
        assert_eq!(places(&[1, 2, 2]), None);
        assert_eq!(places(&[]), None);
    }
}
