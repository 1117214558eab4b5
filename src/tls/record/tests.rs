//! The application data and alerts of RFC 8448 section 3, with that handshake's traffic keys.

use aws_lc_rs::aead::AES_128_GCM;

use super::*;

const CLIENT_KEY: &str = "17422dda596ed5d9acd890e3c63f5051";
const CLIENT_IV: &str = "5b78923dee08579033e523d9";
const SERVER_KEY: &str = "9f02283b6c9c07efc26bb9f2ac92e356";
const SERVER_IV: &str = "cf782b88dd83549aadf1e984";

const CLIENT_DATA: &str = "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b\
                           9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aee\
                           bb21694915e4";
const CLIENT_ALERT: &str = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3";
const SERVER_DATA: &str = "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e3\
                           0efaf97d90e6dffc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd0\
                           32e167c2955d";
const SERVER_ALERT: &str = "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9";

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
        .collect()
}

fn key(key: &str, iv: &str, sequence: u64) -> RecordKey {
    let iv = bytes(iv).try_into().unwrap();
    RecordKey::from_parts(
        ProtocolVersion::TLSv1_3,
        &AES_128_GCM,
        &bytes(key),
        iv,
        sequence,
    )
    .unwrap()
}

/// The server's side. Its first record was a ticket.
fn server() -> Records {
    Records::from_keys(
        key(CLIENT_KEY, CLIENT_IV, 0),
        key(SERVER_KEY, SERVER_IV, 1),
        Captured::default(),
    )
}

fn payload() -> Vec<u8> {
    (0..50).collect()
}

#[test]
fn rfc_8448_client_records_open() {
    let mut pool = Pool::new(2, 2);
    let mut out = pool.take().unwrap();
    let input = [bytes(CLIENT_DATA), bytes(CLIENT_ALERT)].concat();
    let opened = server().open(&input, &mut pool, &mut out).unwrap();
    assert_eq!(
        opened,
        Opened {
            consumed: input.len(),
            closed: true
        }
    );
    assert_eq!(out.filled(), payload());
}

#[test]
fn rfc_8448_server_records_are_sealed_byte_for_byte() {
    let mut pool = Pool::new(1, 1);
    let mut out = pool.take().unwrap();
    let mut records = server();
    records.seal(&payload(), &mut out).unwrap();
    records.close_notify(&mut out).unwrap();
    assert_eq!(
        out.filled(),
        [bytes(SERVER_DATA), bytes(SERVER_ALERT)].concat()
    );
}

#[test]
fn debug_shows_no_key() {
    let shown = format!("{:?}", server());
    assert_eq!(shown, "Records { opened: 0, sealed: 1, closed: false, .. }");
}
