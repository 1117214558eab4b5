//! The upstream: what it was told, and what it answers.

use std::net::SocketAddr;

use ringgate::connection::Greeting;
use ringgate::connection::proxy_header::{Invalid, Progress, ProxyHeader};
use ringgate::limits::PROXY_HEADER_MAX;

use crate::proxy_v2::{self, Header};
use crate::rng::Rng;
use crate::scenario::{Scenario, UpstreamEnds};
use crate::wire::{End, Wire};

const FIXED_LEN: usize = 16;

pub struct Upstream {
    /// All that it means to say; an echo grows.
    pub data: Vec<u8>,
    pub said: usize,
    /// What it received.
    pub got: Vec<u8>,
    pub saw_fin: bool,
    /// Bytes of the header in front, once that is there.
    header_len: Option<usize>,
    over: bool,
}

impl Upstream {
    pub fn new(scenario: &Scenario, rng: &mut Rng) -> Self {
        let volume = if scenario.echo {
            0
        } else {
            scenario.upstream_volume
        };
        Self {
            data: rng.bytes(volume),
            said: 0,
            got: Vec::new(),
            saw_fin: false,
            header_len: (scenario.greeting == Greeting::Off).then_some(0),
            over: false,
        }
    }

    /// Bytes reach it, which must be the next of `expected`.
    pub fn reach(&mut self, bytes: &[u8], scenario: &Scenario, expected: &[u8]) {
        self.got.extend_from_slice(bytes);
        if self.header_len.is_none()
            && let Some(fixed) = self.got.get(..FIXED_LEN)
        {
            let len = FIXED_LEN + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
            self.header_len = (self.got.len() >= len).then_some(len);
        }
        let payload_len = self.payload().len();
        let new = &self.payload()[payload_len - bytes.len().min(payload_len)..];
        let before = payload_len - new.len();
        let wanted = expected.get(before..payload_len);
        assert_eq!(wanted, Some(new), "the upstream got other bytes");
        if scenario.echo {
            let new = new.to_vec();
            self.data.extend(new);
        }
    }

    /// What it received behind the header.
    pub fn payload(&self) -> &[u8] {
        self.header_len.map_or(&[], |len| &self.got[len..])
    }

    /// Checks the header, as far as it is there.
    pub fn check_header(&self, source: SocketAddr, unique_id: &str, client_id: &str) {
        match self.header_len {
            None | Some(0) => {}
            Some(len) => {
                self.check_header_can_be_accepted(len, source);
                let header = Header::read(&mut &self.got[..len]).unwrap();
                assert_eq!(header.source, Some(source));
                assert_eq!(header.text(proxy_v2::UNIQUE_ID), Some(unique_id));
                assert_eq!(header.text(proxy_v2::SPIFFE_ID), Some(client_id));
            }
        }
    }

    /// A terminator behind this one would accept the header, where it is not too long for it.
    fn check_header_can_be_accepted(&self, len: usize, source: SocketAddr) {
        let progress = ProxyHeader::default().receive(&self.got);
        match progress {
            Ok(Progress::Complete { addresses, taken }) => {
                assert_eq!(taken, len);
                assert_eq!(addresses.map(|addresses| addresses.client), Some(source));
            }
            other => {
                assert!(len > PROXY_HEADER_MAX);
                assert_eq!(other, Err(Invalid::TooLong(len)));
            }
        }
    }

    pub fn has_work(&self, scenario: &Scenario) -> bool {
        !self.over && (self.said < self.data.len() || self.ends(scenario))
    }

    fn ends(&self, scenario: &Scenario) -> bool {
        match scenario.upstream_ends {
            UpstreamEnds::AfterClient => self.saw_fin,
            UpstreamEnds::AfterSpeaking => !scenario.echo || self.saw_fin,
            UpstreamEnds::Never => false,
        }
    }

    pub fn work(&mut self, scenario: &Scenario, rng: &mut Rng, wire: &mut Wire) {
        let rest = &self.data[self.said..];
        if rest.is_empty() {
            self.over = true;
            return wire.finish(End::Fin);
        }
        let len = rng
            .magnitude(1 << 16)
            .max(scenario.upstream_volume / 256)
            .min(rest.len());
        wire.send(&rest[..len]);
        self.said += len;
    }
}
