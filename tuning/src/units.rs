//! Values with units, as they are typed, and counts, as they are said.

use std::time::Duration;

/// Microseconds of `367us`, `0.4ms` or `2s`; more than nothing.
///
/// # Errors
///
/// Says what was expected.
pub fn micros(text: &str) -> Result<f64, String> {
    let expected =
        || format!("`{text}`: expected a time above 0 with its unit, as in 367us, 2ms or 2s");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(digits.ok_or_else(expected)?);
    let factor = match unit {
        "us" | "µs" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return Err(expected()),
    };
    match number.parse::<f64>() {
        Ok(value) if value > 0.0 && value * factor <= 1e12 => Ok(value * factor),
        _ => Err(expected()),
    }
}

/// As [`micros`].
///
/// # Errors
///
/// As [`micros`].
pub fn duration(text: &str) -> Result<Duration, String> {
    micros(text).map(|us| Duration::from_secs_f64(us / 1e6))
}

/// Events a second, as in `1500` or `1.5k`; more than none.
///
/// # Errors
///
/// Says what was expected.
pub fn rate(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let (number, factor) = match text.strip_suffix('k') {
        Some(number) => (number, 1e3),
        None => (text, 1.0),
    };
    match number.parse::<f64>() {
        Ok(value) if value > 0.0 && value * factor <= 1e9 => Ok(value * factor),
        _ => Err(format!(
            "`{text}`: expected a rate a second above 0, as in 1500 or 1.5k"
        )),
    }
}

/// `1 shard`, `2 shards`.
pub(crate) fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(micros("367us"), Ok(367.0));
        assert_eq!(micros("0.5ms"), Ok(500.0));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        for odd in [
            "", "5", "us", "-1us", "1..2us", "1h", "0s", "1e9s", "inf", "9999999s",
        ] {
            assert!(micros(odd).unwrap_err().contains(odd), "{odd}");
        }
    }

    #[test]
    fn rates_may_be_in_thousands() {
        assert_eq!(rate("1500"), Ok(1500.0));
        assert_eq!(rate("1.5k"), Ok(1500.0));
        for odd in ["", "0", "-1", "k", "NaN", "inf", "1m"] {
            assert!(rate(odd).is_err(), "{odd}");
        }
    }
}
