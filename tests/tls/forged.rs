//! A terminator's records against a client that forges its own.

use ringgate::block::Pool;
use ringgate::close_reason::CloseReason;
use ringgate::tls::{Opened, RecordFailure, Records};
use rustls::{AlertDescription, CipherSuite};

use crate::support::*;

pub const TLS13: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;
pub const TLS12: CipherSuite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;

/// A terminator's records against a client that forges its own.
pub struct Forged {
    pub records: Records,
    pub pool: Pool,
    pub client: Forger,
    /// Reads what the terminator sends.
    pub reader: Forger,
}

impl Forged {
    pub fn new(suite: CipherSuite) -> Self {
        let (client, established, pool) = established(&Pki::new(), suite);
        let (client, reader) = Forger::pair(client);
        Self {
            records: established.records,
            pool,
            client,
            reader,
        }
    }

    pub fn open(&mut self, input: &[u8]) -> Result<(Opened, Vec<u8>), RecordFailure> {
        let mut out = self.pool.take().unwrap();
        let opened = self.records.open(input, &mut self.pool, &mut out);
        let plaintext = out.filled().to_vec();
        self.pool.give(out);
        Ok((opened?, plaintext))
    }

    /// `input` must end the connection; checks that it stays ended and holds no block.
    pub fn refuses(&mut self, input: &[u8]) -> RecordFailure {
        let failure = self.open(input).unwrap_err();
        assert_eq!(self.open(&self.client_data()).unwrap_err(), failure);
        assert_eq!(self.pool.lent(), 0);
        failure
    }

    fn client_data(&self) -> Vec<u8> {
        b"\x17\x03\x03\x00\x20 whatever comes after a failure ".to_vec()
    }

    /// The alert that [`RecordFailure::alert`] asks for, as the client reads it.
    pub fn alert_read(&mut self, failure: &RecordFailure) -> Vec<(u8, Vec<u8>)> {
        let mut out = self.pool.take().unwrap();
        self.records
            .alert(failure.alert.unwrap(), &mut out)
            .unwrap();
        let read = self.reader.read(out.filled());
        self.pool.give(out);
        read
    }
}

pub fn violation(failure: &RecordFailure, alert: AlertDescription) {
    assert_eq!(
        failure.reason,
        CloseReason::ProtocolViolation,
        "{failure:?}"
    );
    assert_eq!(failure.alert, Some(alert), "{failure:?}");
}
