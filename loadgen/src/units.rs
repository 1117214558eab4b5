//! Durations, sizes, rates and ratios as people write them on a command line.

use std::str::FromStr;
use std::time::Duration;

use crate::client::Step;

/// Why a text is no quantity.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is no {what}; write it as in {example}")]
pub struct UnitError {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// `10s`, `500ms`, `20us`, `2m`, `1h`, `100ns`. At most a day.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    const DAY_SECONDS: f64 = 86_400.0;
    let wrong = || UnitError {
        text: text.to_owned(),
        what: "duration",
        example: "10s or 500ms",
    };
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let scale = match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let seconds = number * scale;
    if seconds > DAY_SECONDS {
        Err(wrong())
    } else {
        Ok(Duration::from_secs_f64(seconds))
    }
}

/// `512`, `1KiB`, `64KiB`, `1MiB`, `1kB`. At least one byte, at most 64 MiB.
pub fn size(text: &str) -> Result<usize, UnitError> {
    const SIZE_MAX: u64 = 64 << 20;
    let wrong = || UnitError {
        text: text.to_owned(),
        what: "size from 1 byte to 64MiB",
        example: "1KiB or 64KiB",
    };
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit {
        "" | "B" => 1,
        "kB" => 1_000,
        "K" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        _ => return Err(wrong()),
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(scale));
    let bytes = bytes
        .filter(|bytes| (1..=SIZE_MAX).contains(bytes))
        .ok_or_else(wrong)?;
    usize::try_from(bytes).map_err(|_| wrong())
}

/// `5000`, `50k`, `1.5k`: units a second, more than none and at most 100 million.
pub fn rate(text: &str) -> Result<f64, UnitError> {
    let wrong = || UnitError {
        text: text.to_owned(),
        what: "rate a second",
        example: "5000 or 5k",
    };
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let scale = match unit {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        _ => return Err(wrong()),
    };
    let rate = number * scale;
    if rate > 0.0 && rate <= 1e8 {
        Ok(rate)
    } else {
        Err(wrong())
    }
}

/// `500M`, `1.5G`: bytes a second, up to 10 TB.
pub fn bytes_per_s(text: &str) -> Result<f64, UnitError> {
    let wrong = || UnitError {
        text: text.to_owned(),
        what: "number of bytes a second",
        example: "500M or 1.5G",
    };
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let scale = match unit {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        _ => return Err(wrong()),
    };
    let bytes = number * scale;
    if bytes > 0.0 && bytes <= 1e13 {
        Ok(bytes)
    } else {
        Err(wrong())
    }
}

/// `1k:20k:1k/10s`: rates from the first to the second in steps of the third, each for the time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    from: f64,
    to: f64,
    by: f64,
    each: Duration,
    count: u32,
}

impl Ramp {
    const STEPS_MAX: f64 = 1_000.0;

    pub fn steps(&self) -> Vec<Step> {
        let step = |number: u32| Step {
            rate: (self.from + self.by * f64::from(number))
                .clamp(self.from.min(self.to), self.from.max(self.to)),
            lasts: self.each,
        };
        (0..self.count).map(step).collect()
    }

    /// All steps together.
    pub fn lasts(&self) -> Duration {
        self.each * self.count
    }
}

impl FromStr for Ramp {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || UnitError {
            text: text.to_owned(),
            what: "ramp of at most 1000 steps of at least 1s each",
            example: "1k:20k:1k/10s",
        };
        let (rates, each) = text.split_once('/').ok_or_else(wrong)?;
        let each = duration(each).map_err(|_| wrong())?;
        let rates: Vec<f64> = rates
            .split(':')
            .map(rate)
            .collect::<Result<_, _>>()
            .map_err(|_| wrong())?;
        let [from, to, by] = rates[..] else {
            return Err(wrong());
        };
        let count = ((to - from).abs() / by).ceil() + 1.0;
        if count > Self::STEPS_MAX || each < Duration::from_secs(1) {
            return Err(wrong());
        }
        Ok(Self {
            from,
            to,
            by: if to < from { -by } else { by },
            each,
            // Checked right above.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            count: count as u32,
        })
    }
}

/// `0.1%` or `0.001`; from 0 to 1.
pub fn ratio(text: &str) -> Result<f64, UnitError> {
    let wrong = || UnitError {
        text: text.to_owned(),
        what: "ratio",
        example: "0.1% or 0.001",
    };
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let ratio = match unit {
        "" => number,
        "%" => number / 100.0,
        _ => return Err(wrong()),
    };
    if ratio <= 1.0 {
        Ok(ratio)
    } else {
        Err(wrong())
    }
}

/// A decimal number that is not negative, and what follows it.
fn split(text: &str) -> Option<(f64, &str)> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1.5ms"), Ok(Duration::from_micros(1_500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(size("1KiB"), Ok(1024));
        assert_eq!(size("64"), Ok(64));
        assert_eq!(rate("1.5k"), Ok(1500.0));
        assert_eq!(bytes_per_s("1.5G"), Ok(1.5e9));
        assert!(bytes_per_s("0").is_err() && bytes_per_s("1T").is_err());
        assert_eq!(ratio("0.5%"), Ok(0.005));
        assert_eq!(ratio("0.99"), Ok(0.99));
    }

    #[test]
    fn ramps_go_up_and_down_and_end_where_they_say() {
        let rates = |text: &str| {
            let ramp: Ramp = text.parse().unwrap();
            ramp.steps()
                .iter()
                .map(|step| step.rate)
                .collect::<Vec<_>>()
        };
        assert_eq!(rates("1k:3k:1k/10s"), [1_000.0, 2_000.0, 3_000.0]);
        assert_eq!(rates("1k:2.5k:1k/1s"), [1_000.0, 2_000.0, 2_500.0]);
        assert_eq!(rates("30:10:10/1s"), [30.0, 20.0, 10.0]);
        assert_eq!(rates("5:5:1/1s"), [5.0]);
        let ramp: Ramp = "1k:3k:1k/10s".parse().unwrap();
        assert_eq!(ramp.lasts(), Duration::from_secs(30));
        for text in [
            "",
            "1k:2k/10s",
            "1k:2k:1k",
            "1:1M:1/1s",
            "1:2:0/1s",
            "1:2:1/1ms",
        ] {
            assert!(text.parse::<Ramp>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "", "s", "10", "10 s", "-1s", "1d", "1e9s", "25h", ".s", "NaNs", "infs",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in [
            "",
            "0",
            "-1",
            "1.5KiB",
            "65MiB",
            "99999999999999999999",
            "KiB",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
        for text in ["0", "-5", "k", "1G", "200M"] {
            assert!(rate(text).is_err(), "{text}");
        }
        for text in ["1.01", "101%", "5x"] {
            assert!(ratio(text).is_err(), "{text}");
        }
        let message = duration("10").unwrap_err().to_string();
        assert_eq!(
            message,
            "\"10\" is no duration; write it as in 10s or 500ms"
        );
    }
}
