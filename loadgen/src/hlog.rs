//! Interval logs as the tools of HdrHistogram read them, in nanoseconds: units of each interval
//! without a tag, and the phases of connections, each tagged, over the whole run.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{
    IntervalLogHistogram, IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag,
};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};

use crate::run::Measured;
use crate::statistics::Latency;

/// What the maximum of each line is divided by, for people: milliseconds.
const DIVISOR: f64 = 1e6;

/// Bytes of a log that is read.
const LOG_BYTES_MAX: u64 = 1 << 30;

/// One line of a log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// `None` for whole units.
    pub tag: Option<String>,
    /// Since the Unix epoch.
    pub at: Duration,
    pub lasts: Duration,
    pub latency: Latency,
}

/// What a log of `measured` holds.
pub fn entries(measured: &Measured) -> Vec<Entry> {
    let started = measured
        .started
        .unwrap_or(SystemTime::UNIX_EPOCH)
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let statistics = &measured.statistics;
    let len = measured.series.len;
    let intervals = measured.series.intervals.iter().map(|interval| Entry {
        tag: None,
        at: started + len * interval.number,
        lasts: len,
        latency: interval.latency.clone(),
    });
    let phases = [
        ("connect", &statistics.connect),
        ("tls", &statistics.tls),
        ("tls_full", &statistics.full.tls),
        ("tls_resumed", &statistics.resumed.tls),
        ("confirm", &statistics.confirm),
        ("first_byte", &statistics.first_byte),
        ("unit_from_begun", &statistics.plain),
    ];
    let phases = phases
        .into_iter()
        .filter(|(_, latency)| latency.count() > 0);
    let phases = phases.map(|(name, latency)| Entry {
        tag: Some(name.to_owned()),
        at: started,
        lasts: measured.duration,
        latency: latency.clone(),
    });
    intervals.chain(phases).collect()
}

/// Writes a log.
pub fn write(path: &Path, entries: &[Entry]) -> Result<(), String> {
    let text = encode(entries)?;
    std::fs::write(path, text).map_err(|error| {
        format!(
            "{}: {error}; name a file that can be written",
            path.display()
        )
    })
}

fn encode(entries: &[Entry]) -> Result<Vec<u8>, String> {
    let began = entries.iter().map(|entry| entry.at).min();
    let began = SystemTime::UNIX_EPOCH + began.unwrap_or_default();
    let mut text = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    builder
        .add_comment("[Logged by ringgate-loadgen; values in nanoseconds]")
        .with_start_time(began)
        .with_base_time(began)
        .with_max_value_divisor(DIVISOR);
    let mut log = builder
        .begin_log_with(&mut text, &mut serializer)
        .map_err(|error| format!("the histogram log: {error}"))?;
    for entry in entries {
        let since = entry.at.saturating_sub(
            began
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
        );
        let tag = entry.tag.as_deref().and_then(Tag::new);
        log.write_histogram(entry.latency.histogram(), since, entry.lasts, tag)
            .map_err(|error| format!("the histogram log: {error:?}"))?;
    }
    drop(log);
    Ok(text)
}

/// Reads a log, of this program or of another that counts in nanoseconds.
pub fn read(path: &Path) -> Result<Vec<Entry>, String> {
    let named = |reason: String| {
        format!(
            "{}: {reason}; expected a log written with --hlog",
            path.display()
        )
    };
    let len = std::fs::metadata(path).map_err(|error| named(error.to_string()))?;
    if len.len() > LOG_BYTES_MAX {
        return Err(named(format!("{} bytes are too many", len.len())));
    }
    let text = std::fs::read(path).map_err(|error| named(error.to_string()))?;
    decode(&text).map_err(named)
}

fn decode(text: &[u8]) -> Result<Vec<Entry>, String> {
    let mut base = Duration::ZERO;
    let mut entries = Vec::new();
    for item in IntervalLogIterator::new(text) {
        match item.map_err(|error| format!("{error:?}"))? {
            LogEntry::StartTime(_) => {}
            LogEntry::BaseTime(time) => base = time,
            LogEntry::Interval(interval) => entries.push(Entry {
                tag: interval.tag().map(|tag| tag.as_str().to_owned()),
                at: base + interval.start_timestamp(),
                lasts: interval.duration(),
                latency: histogram(&interval)?,
            }),
        }
    }
    if entries.is_empty() {
        return Err("there is no histogram in it".to_owned());
    }
    Ok(entries)
}

fn histogram(interval: &IntervalLogHistogram<'_>) -> Result<Latency, String> {
    let bytes = unbase64(interval.encoded_histogram()).ok_or("a histogram is not base64")?;
    let histogram: Histogram<u64> = Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|error| format!("a histogram is cut short or not one: {error:?}"))?;
    let mut latency = Latency::default();
    latency.add_histogram(&histogram);
    Ok(latency)
}

/// RFC 4648 section 4, with or without padding.
fn unbase64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for symbol in text.trim_end_matches('=').bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count).to_le_bytes()[0]);
        }
    }
    Some(bytes)
}

/// All that the logs of several hosts say together, by tag.
pub fn merge(logs: &[Vec<Entry>]) -> BTreeMap<Option<String>, Latency> {
    let mut merged: BTreeMap<Option<String>, Latency> = BTreeMap::new();
    for entry in logs.iter().flatten() {
        merged
            .entry(entry.tag.clone())
            .or_default()
            .add(&entry.latency);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::{Interval, Series};

    fn measured(us: u64) -> Measured {
        let mut measured = Measured {
            duration: Duration::from_secs(2),
            started: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)),
            series: Series::new(Duration::from_secs(1)),
            ..Measured::default()
        };
        for number in 0..2 {
            let mut interval = Interval {
                number,
                ..Interval::default()
            };
            for step in 1..=1_000 {
                let latency = Duration::from_micros(us + step);
                interval.latency.record(latency);
                measured.statistics.connect.record(latency / 2);
            }
            measured.series.add(&interval, 2);
        }
        measured
    }

    #[test]
    fn what_is_written_reads_back() {
        let entries = entries(&measured(1_000));
        let text = encode(&entries).unwrap();
        let back = decode(&text).unwrap();
        assert_eq!(back.len(), 3);
        assert_eq!(back[1].at, Duration::from_secs(1_800_000_001));
        assert_eq!(back[2].tag.as_deref(), Some("connect"));
        for (entry, back) in entries.iter().zip(&back) {
            assert_eq!(entry.latency.count(), back.latency.count());
            assert_eq!(
                entry.latency.quantile_us(0.99),
                back.latency.quantile_us(0.99)
            );
        }
    }

    #[test]
    fn histograms_add_and_percentiles_do_not_average() {
        let logs = [entries(&measured(1_000)), entries(&measured(100_000))];
        let merged = merge(&logs);
        let units = &merged[&None];
        assert_eq!(units.count(), 4_000);
        // The upper half is all of the second host.
        let p90 = units.quantile_us(0.9).unwrap();
        assert!((100_700.0..=100_900.0).contains(&p90), "{p90}");
        assert_eq!(merged[&Some("connect".to_owned())].count(), 4_000);
    }

    #[test]
    fn a_log_that_is_cut_short_is_refused_at_any_place() {
        let text = encode(&entries(&measured(1_000))).unwrap();
        let mut refused = 0;
        for len in (0..text.len()).step_by(7) {
            refused += u32::from(decode(&text[..len]).is_err());
        }
        assert!(refused > 0);
        assert!(decode(b"").is_err() && decode(b"no log\n").is_err());
        let path = std::env::temp_dir().join("ringgate-no-such-log.hlog");
        assert!(read(&path).unwrap_err().contains("--hlog"));
    }
}
