//! KeyUpdate in both directions, the rules it must keep, and when we ask for it.

use std::io::Write;

use ringgate::block::{Block, Pool};
use ringgate::close_reason::CloseReason;
use ringgate::limits::{
    BLOCK_LEN, KEY_UPDATE_WINDOW_RECORDS, KEY_UPDATES_PER_WINDOW_MAX, RECORD_PLAINTEXT_MAX,
};
use ringgate::tls::{Established, RecordFailure, Records};
use rustls::{AlertDescription, ClientConnection};

use crate::forged::*;
use crate::support::*;

const HANDSHAKE: u8 = 22;
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const KEY_UPDATE_REQUEST: [u8; 5] = [24, 0, 0, 1, 1];

/// A client, our records and a pool, for tests of a genuine client.
struct Genuine {
    client: ClientConnection,
    records: Records,
    pool: Pool,
}

impl Genuine {
    fn new() -> Self {
        let (client, established, pool) = established(&Pki::new(), TLS13);
        let Established { records, .. } = *established;
        Self {
            client,
            records,
            pool,
        }
    }

    fn upload(&mut self, data: &[u8]) -> Result<Vec<u8>, RecordFailure> {
        self.client.writer().write_all(data).unwrap();
        let input = take_output(&mut self.client);
        let mut out = self.pool.take().unwrap();
        let opened = self.records.open(&input, &mut self.pool, &mut out);
        let plaintext = out.filled().to_vec();
        self.pool.give(out);
        opened.map(|_| plaintext)
    }

    fn download(&mut self, data: &[u8]) -> Vec<u8> {
        let mut out = self.pool.take().unwrap();
        assert_eq!(self.records.seal(data, &mut out).unwrap(), data.len());
        self.deliver(out, data.len())
    }

    fn deliver(&mut self, out: Block, len: usize) -> Vec<u8> {
        let received = read_all(&mut self.client, out.filled());
        self.pool.give(out);
        assert_eq!(received.len(), len);
        received
    }
}

#[test]
fn key_update_once_both_ways() {
    let mut genuine = Genuine::new();
    for round in 0..3 {
        // A rustls client asks for an answer.
        genuine.client.refresh_traffic_keys().unwrap();
        assert!(!genuine.records.wants_flush());
        assert_eq!(
            genuine.upload(b"under a new key").unwrap(),
            b"under a new key"
        );
        assert!(genuine.records.wants_flush());
        if round == 1 {
            // Flushed alone; otherwise it goes before the next data.
            let mut out = genuine.pool.take().unwrap();
            genuine.records.flush(&mut out).unwrap();
            assert!(!out.is_empty());
            genuine.deliver(out, 0);
            assert!(!genuine.records.wants_flush());
        }
        let expected = genuine.records.sealed_len(9);
        assert_eq!(expected == 9 + 22, round == 1);
        assert_eq!(genuine.download(b"our new k"), b"our new k");
        assert!(!genuine.records.wants_flush());
    }
}

#[test]
fn key_updates_that_wait_are_answered_once() {
    let mut genuine = Genuine::new();
    for _ in 0..5 {
        genuine.client.refresh_traffic_keys().unwrap();
        genuine.upload(b"").unwrap();
    }
    let mut out = genuine.pool.take().unwrap();
    genuine.records.flush(&mut out).unwrap();
    assert_eq!(out.filled().len(), 27);
    genuine.deliver(out, 0);
    assert_eq!(genuine.download(b"one new key"), b"one new key");
    assert_eq!(genuine.upload(b"five new keys").unwrap(), b"five new keys");
}

#[test]
fn key_update_flood() {
    for data in [&b""[..], b"data between them does not help"] {
        let mut genuine = Genuine::new();
        for _ in 0..KEY_UPDATES_PER_WINDOW_MAX {
            genuine.client.refresh_traffic_keys().unwrap();
            assert_eq!(genuine.upload(data).unwrap(), data);
        }
        genuine.client.refresh_traffic_keys().unwrap();
        let failure = genuine.upload(data).unwrap_err();
        assert_eq!(failure.reason, CloseReason::KeyUpdateFlood);
        assert_eq!(failure.alert, Some(AlertDescription::UnexpectedMessage));
    }
}

#[test]
fn key_updates_at_a_fair_rate_go_on() {
    let mut genuine = Genuine::new();
    let pace = usize::try_from(KEY_UPDATE_WINDOW_RECORDS).unwrap()
        / usize::try_from(KEY_UPDATES_PER_WINDOW_MAX).unwrap();
    for _ in 0..3 * KEY_UPDATES_PER_WINDOW_MAX {
        genuine.client.refresh_traffic_keys().unwrap();
        for _ in 0..pace {
            genuine.upload(b"x").unwrap();
        }
    }
}

#[test]
fn key_updates_without_data_are_not_forgiven_by_the_window() {
    let mut genuine = Genuine::new();
    let half = u64::from(KEY_UPDATES_PER_WINDOW_MAX / 2);
    for _ in 0..KEY_UPDATE_WINDOW_RECORDS - half {
        genuine.upload(b"x").unwrap();
    }
    for _ in 0..KEY_UPDATES_PER_WINDOW_MAX {
        genuine.client.refresh_traffic_keys().unwrap();
        genuine.upload(b"").unwrap();
    }
    genuine.client.refresh_traffic_keys().unwrap();
    assert_eq!(
        genuine.upload(b"").unwrap_err().reason,
        CloseReason::KeyUpdateFlood
    );
}

#[test]
fn our_own_key_update_comes_before_the_limit() {
    let mut genuine = Genuine::new();
    genuine.records.set_records_per_key_max(3);
    let data = vec![9; 8 * RECORD_PLAINTEXT_MAX];
    for part in data.chunks(3 * RECORD_PLAINTEXT_MAX) {
        let mut out = genuine.pool.take().unwrap();
        let expected = genuine.records.sealed_len(part.len());
        assert_eq!(genuine.records.seal(part, &mut out).unwrap(), part.len());
        assert_eq!(out.filled().len(), expected);
        assert_eq!(genuine.deliver(out, part.len()), part);
    }
    // Nothing is sealed and nothing lost where there is no room for the KeyUpdate.
    genuine.download(&[1]);
    let mut out = genuine.pool.take().unwrap();
    out.commit(BLOCK_LEN - 26);
    assert_eq!(genuine.records.seal(b"later", &mut out).unwrap(), 0);
    genuine.pool.give(out);
    assert_eq!(genuine.download(b"later"), b"later");
}

#[test]
fn a_peer_is_asked_for_a_new_key_in_time() {
    let mut genuine = Genuine::new();
    genuine.records.set_records_per_key_max(4);
    for _ in 0..3 {
        let mut asked = 0;
        for _ in 0..4 {
            assert!(!genuine.records.wants_flush());
            genuine.upload(b"x").unwrap();
        }
        if genuine.records.wants_flush() {
            asked += 1;
            let mut out = genuine.pool.take().unwrap();
            genuine.records.flush(&mut out).unwrap();
            genuine.deliver(out, 0);
        }
        assert_eq!(asked, 1);
        // Asked once, not again for every record.
        assert!(!genuine.records.wants_flush());
        // rustls answers with a KeyUpdate before its next data.
        assert_eq!(genuine.upload(b"answered").unwrap(), b"answered");
        for _ in 0..2 {
            genuine.upload(b"x").unwrap();
        }
        assert!(!genuine.records.wants_flush());
        genuine.upload(b"x").unwrap();
        assert!(genuine.records.wants_flush());
        genuine.client.refresh_traffic_keys().unwrap();
        genuine.upload(b"").unwrap();
        let mut out = genuine.pool.take().unwrap();
        genuine.records.flush(&mut out).unwrap();
        genuine.deliver(out, 0);
    }
}

#[test]
fn a_peer_that_does_not_answer_is_not_asked_for_every_record() {
    let mut forged = Forged::new(TLS13);
    forged.records.set_records_per_key_max(4);
    for number in 1..20 {
        let input = forged.client.data(b"x");
        forged.open(&input).unwrap();
        // The Finished was under another key.
        assert_eq!(forged.records.wants_flush(), number == 4, "record {number}");
        let mut out = forged.pool.take().unwrap();
        forged.records.flush(&mut out).unwrap();
        if number == 4 {
            let read = forged.reader.read(out.filled());
            assert_eq!(read, [(HANDSHAKE, KEY_UPDATE_REQUEST.to_vec())]);
        }
        forged.pool.give(out);
    }
}

#[test]
fn a_peer_that_renews_its_key_is_not_asked_to() {
    let mut forged = Forged::new(TLS13);
    forged.records.set_records_per_key_max(1);
    let input = forged.client.data(b"x");
    forged.open(&input).unwrap();
    assert!(forged.records.wants_flush());
    let input = forged.client.record(HANDSHAKE, &KEY_UPDATE, 0);
    forged.open(&input).unwrap();
    assert!(!forged.records.wants_flush());
}

#[test]
fn key_update_spread_over_records_at_every_byte() {
    for cut in 1..5 {
        let mut forged = Forged::new(TLS13);
        let head = forged
            .client
            .record(HANDSHAKE, &KEY_UPDATE_REQUEST[..cut], 0);
        let tail = forged
            .client
            .record(HANDSHAKE, &KEY_UPDATE_REQUEST[cut..], 0);
        forged.open(&head).unwrap();
        assert!(forged.records.is_mid_record() && !forged.records.wants_flush());
        forged.open(&tail).unwrap();
        assert!(!forged.records.is_mid_record() && forged.records.wants_flush());

        let mut out = forged.pool.take().unwrap();
        forged.records.flush(&mut out).unwrap();
        assert_eq!(
            forged.reader.read(out.filled()),
            [(HANDSHAKE, KEY_UPDATE.to_vec())]
        );
        forged.pool.give(out);

        let mut forged = Forged::new(TLS13);
        let head = forged
            .client
            .record(HANDSHAKE, &KEY_UPDATE_REQUEST[..cut], 0);
        let between = forged.client.data(b"in between");
        let failure = forged.refuses(&[head, between].concat());
        violation(&failure, AlertDescription::UnexpectedMessage);
    }
}

#[test]
fn malformed_handshake_messages() {
    let trailing = [&KEY_UPDATE[..], &[0]].concat();
    let two = [KEY_UPDATE, KEY_UPDATE].concat();
    for (content, alert) in [
        (&[][..], AlertDescription::UnexpectedMessage),
        (&[24, 0, 0, 1, 2], AlertDescription::IllegalParameter),
        (&[24, 0, 0, 0], AlertDescription::DecodeError),
        (&[24, 0, 0, 2, 0, 0], AlertDescription::DecodeError),
        (&trailing, AlertDescription::UnexpectedMessage),
        (&two, AlertDescription::UnexpectedMessage),
        (&[1], AlertDescription::UnexpectedMessage),
        (
            &[4, 0, 0, 5, 1, 2, 3, 4, 5],
            AlertDescription::UnexpectedMessage,
        ),
        (&[13, 0, 0, 0], AlertDescription::UnexpectedMessage),
    ] {
        let mut forged = Forged::new(TLS13);
        let input = forged.client.record(HANDSHAKE, content, 0);
        violation(&forged.refuses(&input), alert);
    }
}
