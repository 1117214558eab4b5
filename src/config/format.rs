//! How values are written: durations, sizes, digests.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

const SIZE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// `"500ms"`, `"10s"`, `"5m"`, `"1h"`: a whole number and its unit.
pub(super) fn duration(text: &str) -> Option<Duration> {
    number_and_unit(text, &DURATION_UNITS).map(Duration::from_millis)
}

/// `"64KiB"`, `"256MiB"`, `"1GB"`: a whole number and its unit, in bytes.
pub(super) fn size(text: &str) -> Option<u64> {
    number_and_unit(text, &SIZE_UNITS)
}

/// The shortest way to write a duration that [`duration`] reads.
pub fn show_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let (unit, factor) = DURATION_UNITS
        .iter()
        .rev()
        .find(|(_, factor)| ms != 0 && ms.is_multiple_of(u128::from(*factor)))
        .unwrap_or(&DURATION_UNITS[1]);
    format!("{}{unit}", ms / u128::from(*factor))
}

/// The shortest way to write a size that [`size`] reads, in binary units.
pub fn show_size(bytes: u64) -> String {
    let (unit, factor) = SIZE_UNITS[..4]
        .iter()
        .rev()
        .find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor))
        .unwrap_or(&SIZE_UNITS[0]);
    format!("{}{unit}", bytes / factor)
}

fn number_and_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = text[digits..].trim_start_matches(' ');
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    text[..digits].parse::<u64>().ok()?.checked_mul(*factor)
}

/// A SHA-256 digest in hexadecimal, with or without colons between the bytes.
pub(super) fn hex_digest(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = match text.len() {
        64 => text.bytes().collect(),
        95 if text.bytes().skip(2).step_by(3).all(|byte| byte == b':') => text
            .bytes()
            .enumerate()
            .filter(|(at, _)| at % 3 != 2)
            .map(|(_, byte)| byte)
            .collect(),
        _ => return None,
    };
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_value(pair[0])? << 4 | hex_value(pair[1])?;
    }
    Some(digest)
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// A SHA-256 digest in base64 (RFC 4648 section 4): 43 characters and one `=`.
pub(super) fn base64_digest(text: &str) -> Option<[u8; 32]> {
    let symbols = text.strip_suffix('=')?.as_bytes();
    if symbols.len() != 43 {
        return None;
    }
    let mut digest = [0; 32];
    for (bytes, quad) in digest.chunks_mut(3).zip(symbols.chunks(4)) {
        let mut bits = 0_u32;
        for &symbol in quad {
            bits = bits << 6 | base64_value(symbol)?;
        }
        // The last group has three symbols: 16 bits of digest and two that must be zero.
        bits <<= 6 * (4 - quad.len());
        let [_, decoded @ ..] = bits.to_be_bytes();
        bytes.copy_from_slice(&decoded[..bytes.len()]);
        if decoded[bytes.len()..].iter().any(|&rest| rest != 0) {
            return None;
        }
    }
    Some(digest)
}

fn base64_value(symbol: u8) -> Option<u32> {
    match symbol {
        b'A'..=b'Z' => Some(u32::from(symbol - b'A')),
        b'a'..=b'z' => Some(u32::from(symbol - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(symbol - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_survive_showing() {
        for (text, ms) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
        ] {
            let read = duration(text).unwrap();
            assert_eq!(
                (read, show_duration(read).as_str()),
                (Duration::from_millis(ms), text)
            );
        }
        for text in [
            "",
            "10",
            "s",
            "-1s",
            "1.5s",
            "10 days",
            "1s ",
            "99999999999999999999s",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(
            duration("18446744073709551615h"),
            None,
            "the product overflows"
        );
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn sizes_need_a_unit_and_survive_showing() {
        for (text, bytes) in [
            ("1B", 1),
            ("64KiB", 65_536),
            ("256MiB", 256 << 20),
            ("3GiB", 3 << 30),
        ] {
            assert_eq!((size(text), show_size(bytes).as_str()), (Some(bytes), text));
        }
        assert_eq!(size("1MB"), Some(1_000_000));
        for text in ["1", "1M", "MiB", "1mib", "17179869184GiB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn digests_in_hex_and_base64_agree() {
        let mut digest = [0; 32];
        for (at, byte) in digest.iter_mut().enumerate() {
            *byte = u8::try_from(at * 8).unwrap();
        }
        let hex = "0008101820283038404850586068707880889098a0a8b0b8c0c8d0d8e0e8f0f8";
        let pairs: Vec<_> = hex
            .as_bytes()
            .chunks(2)
            .map(String::from_utf8_lossy)
            .collect();
        assert_eq!(hex_digest(hex), Some(digest));
        assert_eq!(hex_digest(&pairs.join(":").to_uppercase()), Some(digest));
        let base64 = "AAgQGCAoMDhASFBYYGhweICIkJigqLC4wMjQ2ODo8Pg=";
        assert_eq!(base64_digest(base64), Some(digest));
        for text in [
            "",
            "=",
            &base64[1..],
            &base64.replace("g=", "h="),
            &base64.replace('A', "-"),
        ] {
            assert_eq!(base64_digest(text), None, "{text}");
        }
        for text in [
            "",
            "00",
            &hex[1..],
            &"g".repeat(64),
            &"é".repeat(32),
            &pairs.join("-"),
        ] {
            assert_eq!(hex_digest(text), None, "{text}");
        }
    }
}
