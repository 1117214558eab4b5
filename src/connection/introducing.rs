//! What a load balancer says of its client, before the first byte of TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use super::proxy_header::{Invalid, Progress, ProxyHeader};
use super::{Addresses, Connection, Context, Event, Refused, Settings, Side, Stage};
use crate::close_reason::CloseReason;
use crate::tls::{Acceptor, Handshake};

/// A header that is still to come, and the handshake behind it.
pub(super) struct Introducing {
    header: ProxyHeader,
    handshake: Box<Handshake>,
}

impl Connection {
    /// A connection that was just accepted from a load balancer, which must say first who its client
    /// is. `addresses` are those of the socket; they stand where the balancer names nobody.
    pub fn introduced(
        acceptor: &Acceptor,
        settings: Arc<Settings>,
        addresses: Addresses,
        unique_id: u128,
        context: &mut Context<'_>,
    ) -> Self {
        let mut connection = Self::new(acceptor, settings, addresses, unique_id, context);
        connection.via = Some(Box::new(addresses.client));
        connection.stage = match std::mem::replace(&mut connection.stage, Stage::Closed(None)) {
            Stage::Handshaking(handshake) => Stage::Introducing(Box::new(Introducing {
                header: ProxyHeader::default(),
                handshake,
            })),
            ended => ended,
        };
        connection
    }

    /// The load balancer that the connection came from, where it had to introduce its client.
    pub fn via(&self) -> Option<SocketAddr> {
        self.via.as_deref().copied()
    }

    /// Whether who the client is is still to be said.
    pub fn is_introducing(&self) -> bool {
        matches!(self.stage, Stage::Introducing(_))
    }

    /// Takes what of `bytes` belongs to the header in front of a handshake, and says how many bytes
    /// that is: none where no header is to come.
    ///
    /// A driver that lets handshakes wait calls it before [`Event::Received`]: a header costs next to
    /// nothing, and it is what comes behind it that waits.
    pub fn introduce(&mut self, bytes: &[u8], context: &mut Context<'_>) -> usize {
        let Stage::Introducing(introducing) = &mut self.stage else {
            return 0;
        };
        match introducing.header.receive(bytes) {
            Ok(Progress::Incomplete) => bytes.len(),
            Ok(Progress::Complete { addresses, taken }) => {
                self.introduced_as(addresses);
                taken
            }
            Err(invalid) => {
                self.refuse_header(invalid, context);
                bytes.len()
            }
        }
    }

    pub(super) fn on_introducing(&mut self, event: Event<'_>, context: &mut Context<'_>) {
        match event {
            Event::Received(Side::Client, bytes) => {
                let taken = self.introduce(bytes, context);
                if taken < bytes.len() {
                    self.handshake(&mut bytes[taken..], context);
                }
            }
            // An end, and the deadline, mean what they mean in the handshake.
            event => self.on_handshaking(event, context),
        }
    }

    fn introduced_as(&mut self, addresses: Option<Addresses>) {
        if let Some(addresses) = addresses {
            self.addresses = addresses;
        }
        self.stage = match std::mem::replace(&mut self.stage, Stage::Closed(None)) {
            Stage::Introducing(introducing) => Stage::Handshaking(introducing.handshake),
            other => other,
        };
    }

    /// Nobody is there who would read an alert.
    fn refuse_header(&mut self, invalid: Invalid, context: &mut Context<'_>) {
        self.refused = Some(Box::new(Refused {
            detail: invalid.to_string(),
            claimed: None,
            server_name: None,
        }));
        self.close(CloseReason::ProxyHeaderInvalid, context);
    }
}
