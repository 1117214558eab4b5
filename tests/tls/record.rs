//! Records after the handshake: every way to cut them, and every way to break the rules.

use std::io::Read;

use ringgate::block::Pool;
use ringgate::close_reason::CloseReason;
use ringgate::limits::{
    BLOCK_LEN, EMPTY_RECORDS_MAX, RECORD_BODY_MAX_TLS12, RECORD_BODY_MAX_TLS13,
    RECORD_PLAINTEXT_MAX,
};
use ringgate::tls::{Established, Opened, Records};
use rustls::AlertDescription;

use crate::forged::*;
use crate::support::*;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

#[test]
fn records_split_at_every_byte() {
    for suite in SUITES {
        let mut forged = Forged::new(suite);
        let parts: [&[u8]; 4] = [b"one", b"", b"two and a half", &[3; 200]];
        let whole = parts.concat();
        for cut in 0..=400 {
            let input: Vec<u8> = parts
                .iter()
                .flat_map(|part| forged.client.data(part))
                .collect();
            let (head, tail) = input.split_at(cut.min(input.len()));
            let (first, mut plaintext) = forged.open(head).unwrap();
            assert_eq!(first.consumed, head.len());
            let (second, rest) = forged.open(tail).unwrap();
            assert_eq!(second.consumed, tail.len());
            plaintext.extend(rest);
            assert_eq!(plaintext, whole, "{suite:?} cut at {cut}");
            assert!(!forged.records.is_mid_record());
            assert_eq!(forged.pool.lent(), 0);
        }
    }
}

#[test]
fn records_byte_by_byte() {
    for suite in [TLS13, TLS12] {
        let mut forged = Forged::new(suite);
        let input: Vec<u8> = (1..40)
            .flat_map(|len| forged.client.data(&[len; 9]))
            .collect();
        let mut plaintext = Vec::new();
        for (index, byte) in input.iter().enumerate() {
            let (_, part) = forged.open(&[*byte]).unwrap();
            plaintext.extend(part);
            let len = input.len() / 39;
            assert_eq!(forged.records.is_mid_record(), (index + 1) % len != 0);
        }
        assert_eq!(plaintext.len(), 39 * 9);
        assert_eq!(forged.pool.lent(), 0);
    }
}

#[test]
fn four_full_records_open_into_one_empty_block() {
    for suite in SUITES {
        let mut forged = Forged::new(suite);
        let record_len = forged.client.data(&[1; RECORD_PLAINTEXT_MAX]).len();
        forged = Forged::new(suite);
        let mut input = Vec::new();
        for number in 1..=4 {
            input.extend(forged.client.data(&[number; RECORD_PLAINTEXT_MAX]));
        }
        let wire = input.len();
        input.extend(forged.client.data(b"what has no room"));
        input.extend(forged.client.data(&[5; 500]));

        let mut out = forged.pool.take().unwrap();
        let opened = forged
            .records
            .open(&input, &mut forged.pool, &mut out)
            .unwrap();
        let expected: Vec<u8> = (1..=4)
            .flat_map(|number| [number; RECORD_PLAINTEXT_MAX])
            .collect();
        assert!(out.filled().starts_with(&expected));
        assert!(opened.consumed >= wire && wire == 4 * record_len);
        // 88 bytes are left: the small record fits, the last one does not.
        assert!(opened.consumed < input.len());
        out.clear();
        let rest = &input[opened.consumed..];
        let opened = forged
            .records
            .open(rest, &mut forged.pool, &mut out)
            .unwrap();
        assert_eq!(opened.consumed, rest.len());
        assert!(out.filled().ends_with(&[5; 500]));
        forged.pool.give(out);
        assert_eq!(forged.pool.lent(), 0);
    }
}

#[test]
fn what_has_no_room_waits() {
    let mut forged = Forged::new(TLS13);
    let input = [
        forged.client.data(&[1; 16_000]),
        forged.client.data(&[2; 16_000]),
    ]
    .concat();
    let mut out = forged.pool.take().unwrap();
    out.commit(BLOCK_LEN - 16_001);
    let opened = forged
        .records
        .open(&input, &mut forged.pool, &mut out)
        .unwrap();
    assert_eq!((opened.consumed, out.room()), (input.len() / 2, 1));

    // A record that waits inside while the caller has no room takes nothing more.
    let (head, tail) = input[opened.consumed..].split_at(100);
    assert_eq!(
        forged
            .records
            .open(head, &mut forged.pool, &mut out)
            .unwrap()
            .consumed,
        100
    );
    let opened = forged
        .records
        .open(tail, &mut forged.pool, &mut out)
        .unwrap();
    assert_eq!((opened.consumed, out.room()), (tail.len(), 1));
    let opened = forged
        .records
        .open(tail, &mut forged.pool, &mut out)
        .unwrap();
    assert_eq!((opened.consumed, forged.records.is_mid_record()), (0, true));
    out.clear();
    forged
        .records
        .open(&[], &mut forged.pool, &mut out)
        .unwrap();
    assert_eq!(
        (out.filled(), forged.records.is_mid_record()),
        (&[2; 16_000][..], false)
    );
}

#[test]
fn padding_is_stripped() {
    let mut forged = Forged::new(TLS13);
    let input = [
        forged.client.record(23, b"padded\0", 0),
        forged.client.record(23, b"\0\0more", 1000),
        forged.client.record(23, b"", RECORD_PLAINTEXT_MAX),
    ];
    let (_, plaintext) = forged.open(&input.concat()).unwrap();
    assert_eq!(plaintext, b"padded\0\0\0more");
}

#[test]
fn no_block_for_an_incomplete_record_is_an_end() {
    let mut forged = Forged::new(TLS13);
    forged.pool = Pool::new(1, 1);
    let mut out = forged.pool.take().unwrap();
    let input = forged.client.data(b"cut short");
    let failure = forged
        .records
        .open(&input[..9], &mut forged.pool, &mut out)
        .unwrap_err();
    assert_eq!(failure.reason, CloseReason::BufferLimit);
}

#[test]
fn truncation() {
    let mut forged = Forged::new(TLS13);
    let input = forged.client.data(b"cut short");
    assert!(!forged.records.is_mid_record());
    forged.open(&input[..input.len() - 1]).unwrap();
    assert!(forged.records.is_mid_record());
    assert_eq!(forged.pool.lent(), 1);
    forged.records.release(&mut forged.pool);
    assert_eq!(forged.pool.lent(), 0);
}

#[test]
fn bad_mac() {
    for suite in SUITES {
        for byte in [5, 12, 20] {
            let mut forged = Forged::new(suite);
            let mut input = forged.client.data(b"genuine");
            input[byte] ^= 1;
            let failure = forged.refuses(&input);
            assert_eq!(failure.reason, CloseReason::BadRecord);
            assert_eq!(failure.alert, Some(AlertDescription::BadRecordMac));
            assert_eq!(forged.alert_read(&failure), [(ALERT, vec![2, 20])]);
        }
        // Replayed, and too short to hold a tag.
        let mut forged = Forged::new(suite);
        let input = forged.client.data(b"once");
        forged.open(&input).unwrap();
        assert_eq!(forged.refuses(&input).reason, CloseReason::BadRecord);
        let mut forged = Forged::new(suite);
        assert_eq!(
            forged.refuses(&[23, 3, 3, 0, 3, 1, 2, 3]).reason,
            CloseReason::BadRecord
        );
    }
}

#[test]
fn record_too_long() {
    for (suite, max) in [
        (TLS13, RECORD_BODY_MAX_TLS13),
        (TLS12, RECORD_BODY_MAX_TLS12),
    ] {
        // The header alone is enough.
        let [.., high, low] = (max + 1).to_be_bytes();
        let failure = Forged::new(suite).refuses(&[23, 3, 3, high, low]);
        assert_eq!(failure.reason, CloseReason::RecordTooLong);
        assert_eq!(failure.alert, Some(AlertDescription::RecordOverflow));
        let [.., high, low] = max.to_be_bytes();
        assert!(Forged::new(suite).open(&[23, 3, 3, high, low]).is_ok());

        let mut forged = Forged::new(suite);
        let input = forged.client.data(&[0; RECORD_PLAINTEXT_MAX + 1]);
        let failure = forged.refuses(&input);
        assert_eq!(failure.reason, CloseReason::RecordTooLong);
        assert_eq!(failure.alert, Some(AlertDescription::RecordOverflow));
    }
    let mut forged = Forged::new(TLS13);
    let input = forged
        .client
        .record(23, &[1; 100], RECORD_PLAINTEXT_MAX - 99);
    assert_eq!(forged.refuses(&input).reason, CloseReason::RecordTooLong);
}

#[test]
fn empty_records() {
    for suite in SUITES {
        let mut forged = Forged::new(suite);
        for _ in 0..3 {
            for _ in 0..EMPTY_RECORDS_MAX {
                let input = forged.client.data(b"");
                forged.open(&input).unwrap();
            }
            let input = forged.client.data(b"something");
            forged.open(&input).unwrap();
        }
        let input: Vec<u8> = (0..=EMPTY_RECORDS_MAX)
            .flat_map(|_| forged.client.data(b""))
            .collect();
        violation(&forged.refuses(&input), AlertDescription::UnexpectedMessage);
    }
}

#[test]
fn wrong_type() {
    // In the clear: a ChangeCipherSpec, an alert, a handshake record, and what is no record.
    for header in [
        [20, 3, 3, 0, 1],
        [21, 3, 3, 0, 2],
        [22, 3, 3, 0, 9],
        [0; 5],
        [0xff; 5],
    ] {
        violation(
            &Forged::new(TLS13).refuses(&header),
            AlertDescription::UnexpectedMessage,
        );
    }
    for header in [[20, 3, 3, 0, 1], [24, 3, 3, 0, 2]] {
        violation(
            &Forged::new(TLS12).refuses(&header),
            AlertDescription::UnexpectedMessage,
        );
    }
    // Inside.
    for content_type in [0, 20, 24, 255] {
        let mut forged = Forged::new(TLS13);
        let input = forged.client.record(content_type, &[content_type; 3], 0);
        violation(&forged.refuses(&input), AlertDescription::UnexpectedMessage);
    }
    // Nothing but padding.
    let mut forged = Forged::new(TLS13);
    let input = forged.client.record(0, b"", 10);
    violation(&forged.refuses(&input), AlertDescription::UnexpectedMessage);
}

#[test]
fn alert_then_data() {
    for suite in SUITES {
        let mut forged = Forged::new(suite);
        let input = [
            forged.client.data(b"last words"),
            forged.client.record(ALERT, &[1, 0], 0),
            forged.client.data(b"never opened"),
            vec![1, 2, 3],
        ]
        .concat();
        let (opened, plaintext) = forged.open(&input).unwrap();
        assert_eq!(
            opened,
            Opened {
                consumed: input.len(),
                closed: true
            }
        );
        assert_eq!(plaintext, b"last words");
        let (opened, plaintext) = forged.open(&[23; 500]).unwrap();
        assert_eq!(
            opened,
            Opened {
                consumed: 500,
                closed: true
            }
        );
        assert!(plaintext.is_empty() && !forged.records.is_mid_record());
        assert_eq!(forged.pool.lent(), 0);
    }
}

#[test]
fn alerts() {
    for suite in SUITES {
        let is_tls13 = SUITES[..3].contains(&suite);
        let mut forged = Forged::new(suite);
        let input = forged.client.record(ALERT, &[2, 80], 0);
        let failure = forged.refuses(&input);
        assert_eq!(
            (failure.reason, failure.alert),
            (CloseReason::ClientAlert, None)
        );
        assert!(
            failure.detail.contains("InternalError"),
            "{}",
            failure.detail
        );

        let mut forged = Forged::new(suite);
        let input = forged.client.record(ALERT, &[1, 90], 0);
        forged.open(&input).unwrap();
        // A warning is one in TLS 1.2 only.
        let input = forged.client.record(ALERT, &[1, 100], 0);
        assert_eq!(forged.open(&input).is_err(), is_tls13);

        for (content, alert) in [
            (&[][..], AlertDescription::UnexpectedMessage),
            (&[1], AlertDescription::DecodeError),
            (&[1, 0, 0], AlertDescription::DecodeError),
        ] {
            let mut forged = Forged::new(suite);
            let input = forged.client.record(ALERT, content, 0);
            violation(&forged.refuses(&input), alert);
        }
    }
    let mut forged = Forged::new(TLS12);
    let input: Vec<u8> = (0..=EMPTY_RECORDS_MAX)
        .flat_map(|_| forged.client.record(ALERT, &[1, 90], 0))
        .collect();
    violation(&forged.refuses(&input), AlertDescription::UnexpectedMessage);
}

#[test]
fn renegotiation() {
    for suite in &SUITES[3..] {
        let mut forged = Forged::new(*suite);
        let input = forged.client.record(HANDSHAKE, &[1, 0, 0, 2, 3, 3], 0);
        let failure = forged.refuses(&input);
        violation(&failure, AlertDescription::NoRenegotiation);
        assert_eq!(forged.alert_read(&failure), [(ALERT, vec![1, 100])]);
    }
}

#[test]
fn close_notify_ends_our_side() {
    for suite in SUITES {
        let (mut client, established, mut pool) = established(&Pki::new(), suite);
        let mut records = established.records;
        let mut out = pool.take().unwrap();
        records.seal(b"bye", &mut out).unwrap();
        records.close_notify(&mut out).unwrap();
        let len = out.filled().len();
        records.close_notify(&mut out).unwrap();
        assert_eq!(out.filled().len(), len, "said twice");
        assert!(records.seal(b"more", &mut out).is_err());

        client.read_tls(&mut out.filled()).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed());
        let mut text = String::new();
        client.reader().read_to_string(&mut text).unwrap();
        assert_eq!(text, "bye");
    }
}

#[test]
fn sealed_len_is_exact() {
    const MAX: usize = RECORD_PLAINTEXT_MAX;
    for suite in SUITES {
        let (mut client, established, mut pool) = established(&Pki::new(), suite);
        let mut records = established.records;
        for len in [0, 1, 100, MAX - 1, MAX, MAX + 1, 2 * MAX, 3 * MAX + 7] {
            let mut out = pool.take().unwrap();
            let expected = records.sealed_len(len);
            assert_eq!(records.seal(&vec![7; len], &mut out).unwrap(), len);
            assert_eq!(out.filled().len(), expected);
            let received = read_all(&mut client, out.filled());
            assert_eq!(received, vec![7; len]);
            pool.give(out);
        }
    }
}

#[test]
fn seal_takes_what_has_room() {
    for suite in SUITES {
        let mut forged = Forged::new(suite);
        let overhead = forged.records.sealed_len(1) - 1;
        for room in [0, 1, overhead, overhead + 1, 500, 20_000] {
            let mut out = forged.pool.take().unwrap();
            out.commit(BLOCK_LEN - room);
            let taken = forged.records.seal(&[1; 50_000], &mut out).unwrap();
            let records = taken.div_ceil(RECORD_PLAINTEXT_MAX);
            assert!(taken + records * overhead <= room);
            assert!(
                room - (taken + records * overhead) <= overhead,
                "{room} used for {taken}"
            );
            out.consume(BLOCK_LEN - room);
            let read: usize = forged
                .reader
                .read(out.filled())
                .iter()
                .map(|(_, content)| content.len())
                .sum();
            assert_eq!(read, taken);
            forged.pool.give(out);
        }
    }
}

#[test]
fn tls12_ends_at_the_limit_of_its_key() {
    let mut forged = Forged::new(TLS12);
    forged.records.set_records_per_key_max(3);
    let mut out = forged.pool.take().unwrap();
    // The server's Finished was the first record.
    forged.records.seal(b"1", &mut out).unwrap();
    forged.records.seal(b"2", &mut out).unwrap();
    let failure = forged.records.seal(b"3", &mut out).unwrap_err();
    assert_eq!(failure.reason, CloseReason::Internal);
    forged.records.close_notify(&mut out).unwrap();
    let read = forged.reader.read(out.filled());
    assert_eq!(read.last().unwrap(), &(ALERT, vec![1, 0]));
}

#[test]
fn an_idle_connection_is_small() {
    let (_, established, pool) = established(&Pki::new(), TLS13);
    assert_eq!(pool.lent(), 0);
    assert_eq!(size_of_val(&established.records), size_of::<usize>());
    assert!(
        size_of::<Established>() <= 256,
        "{} bytes",
        size_of::<Established>()
    );
    const { assert!(Records::STATE_LEN <= 768) };
}
