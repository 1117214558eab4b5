//! Disclosing the secrets of sessions to whoever looks into recorded traffic (the NSS key log
//! format, draft-ietf-tls-keylogfile). Off unless [`to`] was called; it cannot be undone.

use std::fmt::Write;
use std::sync::OnceLock;

/// Where lines go. It must not block: shards call it.
type Sink = Box<dyn Fn(&str) + Send + Sync>;

static SINK: OnceLock<Sink> = OnceLock::new();

/// From here on each session's secrets go to `sink`, a line for each. The first call counts.
pub fn to(sink: impl Fn(&str) + Send + Sync + 'static) {
    let _ = SINK.set(Box::new(sink));
}

/// Whether secrets are disclosed.
pub(super) fn is_on() -> bool {
    SINK.get().is_some()
}

/// Discloses `secret`, if that was asked for.
pub(super) fn line(label: &str, client_random: &[u8], secret: &[u8]) {
    let Some(sink) = SINK.get() else {
        return;
    };
    let mut line = format!("{label} ");
    for byte in client_random {
        let _ = write!(line, "{byte:02x}");
    }
    line.push(' ');
    for byte in secret {
        let _ = write!(line, "{byte:02x}");
    }
    line.push('\n');
    sink(&line);
}
