use proptest::prelude::*;

use super::*;

fn v4() -> Addresses {
    Addresses {
        client: "192.0.2.7:4711".parse().unwrap(),
        local: "198.51.100.1:443".parse().unwrap(),
    }
}

fn v6() -> Addresses {
    Addresses {
        client: "[2001:db8::7]:4711".parse().unwrap(),
        local: "[2001:db8::1]:443".parse().unwrap(),
    }
}

fn line(addresses: Addresses) -> Vec<u8> {
    let Addresses { client, local } = addresses;
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (ips, ports) = ([client.ip(), local.ip()], [client.port(), local.port()]);
    format!(
        "PROXY {family} {} {} {} {}\r\n",
        ips[0], ips[1], ports[0], ports[1]
    )
    .into_bytes()
}

fn block(addresses: Addresses) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    for address in [addresses.client, addresses.local] {
        match address.ip() {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
    }
    for address in [addresses.client, addresses.local] {
        bytes.extend(address.port().to_be_bytes());
    }
    let family = if addresses.client.is_ipv4() {
        TCP_OVER_IPV4
    } else {
        TCP_OVER_IPV6
    };
    (family, bytes)
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &len[..], value].concat()
}

fn binary(version_and_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
    let fixed = [version_and_command, family, len[0], len[1]];
    [&SIGNATURE[..], &fixed, rest].concat()
}

fn proxied(addresses: Addresses, tlvs: &[u8]) -> Vec<u8> {
    let (family, block) = block(addresses);
    binary(0x21, family, &[&block, tlvs].concat())
}

/// A checksum, in front of other TLVs, that is right.
fn summed(addresses: Addresses, others: &[u8]) -> Vec<u8> {
    let mut header = proxied(addresses, &[&tlv(TYPE_CRC32C, &[0; 4]), others].concat());
    let mut crc = Crc32c::default();
    crc.add(&header);
    let at = FIXED_LEN + block(addresses).1.len() + 3;
    header[at..at + 4].copy_from_slice(&crc.finish().to_be_bytes());
    header
}

/// All of `bytes` in pieces of these lengths, over and over; how many belong to the header.
fn receive(bytes: &[u8], pieces: &[usize]) -> Result<Option<Whole>, Invalid> {
    let mut header = ProxyHeader::default();
    let (mut at, mut lens) = (0, pieces.iter().cycle());
    while at < bytes.len() {
        let len = (*lens.next().unwrap()).clamp(1, bytes.len() - at);
        match header.receive(&bytes[at..at + len])? {
            Progress::Complete { addresses, taken } => return Ok(Some((addresses, at + taken))),
            Progress::Incomplete => at += len,
        }
        assert!(header.kept.len() <= PROXY_HEADER_MAX);
    }
    Ok(None)
}

fn whole(bytes: &[u8]) -> Result<Option<Whole>, Invalid> {
    receive(bytes, &[usize::MAX])
}

#[test]
fn headers_of_both_versions_introduce() {
    for addresses in [v4(), v6()] {
        for header in [
            line(addresses),
            proxied(addresses, &[]),
            proxied(addresses, &tlv(0xea, b"vpce")),
            summed(addresses, &tlv(0x04, &[0; 9])),
        ] {
            let told = Ok(Some((Some(addresses), header.len())));
            assert_eq!(whole(&header), told, "{header:x?}");
            let followed = [&header[..], &[22, 3, 1]].concat();
            assert_eq!(whole(&followed), told, "{header:x?}");
        }
    }
}

#[test]
fn what_names_nobody_leaves_the_addresses() {
    let (family, block) = block(v4());
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ff::1 \xff 0 x\r\n".to_vec(),
        binary(0x20, 0x00, &[]),
        binary(0x20, family, &block),
        binary(0x20, 0x31, b"neither addresses nor TLVs"),
        binary(0x21, 0x00, &[]),
        binary(0x21, 0x00, b"?"),
        binary(0x21, 0x12, &block),
        binary(0x21, 0x22, &[7; 36]),
        binary(0x21, 0x31, &[0; 216]),
        binary(0x21, 0x32, &[0; 216]),
    ] {
        assert_eq!(
            whole(&header),
            Ok(Some((None, header.len()))),
            "{header:x?}"
        );
    }
}

#[test]
fn lines_that_are_none() {
    for text in [
        "PROXY \r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY TCP5 192.0.2.7 192.0.2.1 1 2\r\n",
        "PROXY tcp4 192.0.2.7 192.0.2.1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.1 1\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.1 1 2 \r\n",
        "PROXY TCP4  192.0.2.7 192.0.2.1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.1 1 65536\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.1 01 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.1 00 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.1 +1 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.1  2\r\n",
        "PROXY TCP4 192.0.2.07 192.0.2.1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 2001:db8::1 1 2\r\n",
        "PROXY TCP6 192.0.2.7 192.0.2.1 1 2\r\n",
        "PROXY TCP6 2001:db8::7%1 2001:db8::1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.1 1 2\n\r\n",
    ] {
        assert_eq!(whole(text.as_bytes()), Err(Invalid::Line), "{text:?}");
    }
    let zero = b"PROXY TCP4 192.0.2.7 192.0.2.1 0 65535\r\n";
    assert!(matches!(whole(zero), Ok(Some((Some(_), _)))));
}

#[test]
fn a_line_has_at_most_107_bytes() {
    let line = |len: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(len - 16)).into_bytes();
    let longest = line(PROXY_HEADER_V1_MAX);
    assert_eq!(whole(&longest), Ok(Some((None, 107))));
    assert_eq!(whole(&line(108)), Err(Invalid::LineTooLong));
    assert_eq!(whole(&longest[..106]), Ok(None));
}

#[test]
fn a_binary_header_is_bounded_before_it_is_waited_for() {
    let header = |len: usize| binary(0x20, 0, &vec![0; len - FIXED_LEN]);
    let longest = header(PROXY_HEADER_MAX);
    assert_eq!(whole(&longest), Ok(Some((None, PROXY_HEADER_MAX))));
    let longer = header(PROXY_HEADER_MAX + 1);
    let refused = Err(Invalid::TooLong(PROXY_HEADER_MAX + 1));
    assert_eq!(whole(&longer[..FIXED_LEN]), refused);
    assert_eq!(whole(&longer), refused);
}

#[test]
fn binary_headers_that_are_none() {
    let (family, block) = block(v4());
    for (header, error) in [
        (binary(0x11, family, &block), Invalid::Version(1)),
        (binary(0x31, family, &block), Invalid::Version(3)),
        (binary(0x22, family, &block), Invalid::Command(2)),
        (binary(0x21, 0x01, &block), Invalid::Family(0x01)),
        (binary(0x21, 0x10, &block), Invalid::Family(0x10)),
        (binary(0x21, 0x13, &block), Invalid::Family(0x13)),
        (binary(0x21, 0x33, &[0; 216]), Invalid::Family(0x33)),
        (binary(0x21, 0x41, &block), Invalid::Family(0x41)),
        (binary(0x21, family, &block[1..]), Invalid::NoAddresses),
        (binary(0x21, 0x21, &block), Invalid::NoAddresses),
        (proxied(v4(), &[4]), Invalid::Tlv),
        (proxied(v4(), &[4, 0]), Invalid::Tlv),
        (proxied(v4(), &[4, 0, 2, 0]), Invalid::Tlv),
        (proxied(v4(), &tlv(TYPE_CRC32C, &[0; 3])), Invalid::Tlv),
        (proxied(v4(), &tlv(TYPE_CRC32C, &[0; 4])), Invalid::Checksum),
    ] {
        assert_eq!(whole(&header), Err(error), "{header:x?}");
    }
    let twice = summed(v4(), &tlv(TYPE_CRC32C, &[0; 4]));
    assert_eq!(whole(&twice), Err(Invalid::Tlv));
    assert_eq!(
        whole(b"\r\n\r\n\0\r\nQUIT\r"),
        Err(Invalid::NoHeader(b'\r'))
    );
    assert_eq!(whole(b"PROXY\r\n"), Err(Invalid::NoHeader(b'P')));
    assert_eq!(whole(&[22, 3, 1]), Err(Invalid::NoHeader(22)));
}

#[test]
fn every_bit_counts_in_what_is_summed() {
    let header = summed(v6(), &tlv(0x02, b"app.example"));
    for at in FIXED_LEN..header.len() {
        let mut flipped = header.clone();
        flipped[at] ^= 0x10;
        let outcome = whole(&flipped);
        let is_checksums_type = at == FIXED_LEN + 36;
        assert_eq!(
            outcome.is_err(),
            !is_checksums_type,
            "byte {at}: {outcome:?}"
        );
    }
}

/// The check value of CRC-32/ISCSI in the catalogue of parametrised CRC algorithms.
#[test]
fn the_checksum_is_crc32c() {
    let mut crc = Crc32c::default();
    crc.add(b"123456789");
    assert_eq!(crc.finish(), 0xe306_9283);
}

#[test]
fn errors_name_what_was_expected() {
    for (error, part) in [
        (Invalid::NoHeader(22), "the first bytes are TLS"),
        (Invalid::NoHeader(0x47), "something else (0x47)"),
        (Invalid::Family(0x13), "expected TCP over IPv4"),
        (Invalid::TooLong(5000), "of 5000 bytes: at most 4096"),
        (Invalid::LineTooLong, "107 bytes"),
    ] {
        let text = error.to_string();
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// Headers that are right, nearly right, and none.
fn beginnings() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..200);
    let good = (prop::bool::ANY, prop::bool::ANY, prop::bool::ANY).prop_map(|(six, text, sum)| {
        let addresses = if six { v6() } else { v4() };
        match (text, sum) {
            (true, _) => line(addresses),
            (false, true) => summed(addresses, &tlv(0x02, b"app.example")),
            (false, false) => proxied(addresses, &tlv(0xea, b"vpce")),
        }
    });
    let bent = (good.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
        |(mut header, at, byte)| {
            let at = at.index(header.len());
            header[at] = byte;
            header
        },
    );
    let shaped = (any::<u8>(), any::<u8>(), noise.clone())
        .prop_map(|(command, family, rest)| binary(0x20 | (command & 1), family & 0x33, &rest));
    let text = "PROXY (TCP4|TCP6|UNKNOWN)[ -~]{0,120}\r?\n?".prop_map(String::into_bytes);
    prop_oneof![noise, good, bent, shaped, text]
}

proptest! {
    #[test]
    fn every_cut_has_the_same_outcome(
        header in beginnings(),
        behind in prop::collection::vec(any::<u8>(), 0..200),
        pieces in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let bytes = [header, behind].concat();
        let at_once = whole(&bytes);
        prop_assert_eq!(receive(&bytes, &pieces), at_once);
        prop_assert_eq!(receive(&bytes, &[1]), at_once);
    }

    #[test]
    fn addresses_come_back_from_both_versions(
        client in any::<SocketAddr>(),
        local in any::<SocketAddr>(),
    ) {
        prop_assume!(client.is_ipv4() == local.is_ipv4());
        // Scope and flow are not part of a header.
        let plain = |address: SocketAddr| SocketAddr::new(address.ip(), address.port());
        let addresses = Addresses { client: plain(client), local: plain(local) };
        for header in [line(addresses), proxied(addresses, &[]), summed(addresses, &[])] {
            prop_assert_eq!(whole(&header), Ok(Some((Some(addresses), header.len()))));
        }
    }
}
