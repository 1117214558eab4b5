//! Where log lines go and what they look like: standard error, for people or as JSON.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{registry, reload};

use super::report::escaped;
use super::shards::Spread;
use crate::config::{ConfigError, LogFormat, LogLevel, LogOptions};
use crate::snapshot::{Changes, Expiry};

/// Changes of one kind that a line names.
const CHANGES_SHOWN_MAX: usize = 16;

/// Changes which lines are logged.
type SetLevel = Box<dyn Fn(LogLevel) -> bool + Send + Sync>;

static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

static WRITER: OnceLock<Pieces> = OnceLock::new();

/// Messages, of a line or several, that may wait for standard error; what finds no room is dropped and
/// counted.
const WAITING_MAX: usize = 4096;

/// Bytes of one of them.
pub(super) const MESSAGE_MAX: usize = 8 << 10;

/// What whoever reads the log slowly, or not at all, may cost.
const _: () = assert!(WAITING_MAX * MESSAGE_MAX <= 32 << 20);

/// Hands over in pieces what is longer than a message may be.
#[derive(Clone)]
struct Pieces(NonBlocking);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let counter = self.0.error_counter();
        let before = counter.dropped_lines();
        for piece in bytes.chunks(MESSAGE_MAX) {
            self.0.write_all(piece)?;
            // The rest of a line without its start could pass for a line of its own.
            if counter.dropped_lines() != before {
                break;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The thread that writes; dropped, it writes what waits and ends.
#[derive(Debug)]
pub struct Writing(#[expect(dead_code, reason = "held until the end")] WorkerGuard);

/// Logs the whole process's lines to standard error from here on. The first call counts.
pub fn init(options: LogOptions) {
    let (subscriber, set_level) = subscriber(options, writer);
    // A second call finds a subscriber in place: an embedding program's, which then stays.
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        let _ = SET_LEVEL.set(set_level);
    }
}

/// Has a thread of its own write the lines from here on: whoever reads them slowly holds up nobody.
/// The first call counts.
pub fn write_aside() -> Writing {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_MAX)
        .thread_name("ringgate-log")
        .finish(std::io::stderr());
    let _ = WRITER.set(Pieces(writer));
    Writing(guard)
}

/// Where lines go now.
pub(super) fn writer() -> Box<dyn Write> {
    match WRITER.get() {
        Some(writer) => Box::new(writer.clone()),
        None => Box::new(std::io::stderr()),
    }
}

/// Writes that found no room.
pub(super) fn dropped() -> u64 {
    let dropped = WRITER
        .get()
        .map(|writer| writer.0.error_counter().dropped_lines());
    dropped.unwrap_or_default() as u64
}

/// Logs lines of this level and above from here on; false where [`init`] had nothing to say.
pub(super) fn set_level(level: LogLevel) -> bool {
    SET_LEVEL.get().is_some_and(|set_level| set_level(level))
}

/// Logs what should not stay in a configuration.
pub fn warning(warning: &ConfigError) {
    let [problem, remedy] = [&warning.problem, &warning.remedy].map(|text| escaped(text));
    tracing::warn!(place = %warning.place, remedy, "{problem}");
}

/// Logs what expires, or has expired by `now`, in seconds since the Unix epoch.
pub(super) fn expiring(expiry: &Expiry, now: i64) {
    let (problem, remedy) = expiry.problem(now);
    tracing::warn!(remedy, "{}", escaped(&problem));
}

/// What is wrong with a configuration, in one line.
pub(super) fn error_line(error: &ConfigError) -> String {
    let [problem, remedy] = [&error.problem, &error.remedy].map(|text| escaped(text));
    format!("{}: {problem}; remedy: {remedy}", error.place)
}

/// Logs what is served from now on, as far as that is new.
pub(super) fn reloaded(changes: &Changes, cause: &str, generation: u64, took: Duration) {
    let took_s = took.as_secs_f64();
    if changes.is_empty() {
        tracing::info!(cause, generation, took_s, "reloaded, nothing changed");
        return;
    }
    let shown = |lines: &[String]| {
        let texts = lines.iter().take(CHANGES_SHOWN_MAX);
        let texts: Vec<String> = texts.map(|line| escaped(line)).collect();
        let mut text = texts.join("; ");
        if let more @ 1.. = lines.len().saturating_sub(CHANGES_SHOWN_MAX) {
            text += &format!("; and {more} more");
        }
        (!lines.is_empty()).then_some(text)
    };
    tracing::info!(
        cause,
        generation,
        took_s,
        listeners = shown(&changes.listeners),
        certificates = shown(&changes.certificates),
        anchors = shown(&changes.anchors),
        crls = shown(&changes.crls),
        rules = shown(&changes.rules),
        upstreams = shown(&changes.upstreams),
        settings = shown(&changes.settings),
        "reloaded"
    );
}

/// Logs what the terminator does without.
pub fn notes(notes: &[String]) {
    for note in notes {
        tracing::warn!("{note}");
    }
}

/// Logs where the shards run.
pub fn layout(layout: &str) {
    tracing::info!("layout: {}", escaped(layout));
}

/// Logs what the process gave up.
pub fn confinement(confinement: &str) {
    tracing::info!("confinement: {}", escaped(confinement));
}

/// Logs how connections were spread over the shards.
pub(super) fn spread(spread: &Spread) {
    let accepted: Vec<String> = spread.accepted.iter().map(u64::to_string).collect();
    tracing::info!(
        accepted = accepted.join(" "),
        skew = spread.skew(),
        "connections by shard"
    );
}

/// Logs that clients may come.
pub fn started(addresses: &[SocketAddr]) {
    for address in addresses {
        tracing::info!(%address, "listening");
    }
}

fn subscriber<W>(options: LogOptions, writer: W) -> (Box<dyn Subscriber + Send + Sync>, SetLevel)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(targets(options.level));
    let set_level = Box::new(move |level| handle.reload(targets(level)).is_ok());
    let lines = fmt::layer().with_target(false).with_writer(writer);
    let subscriber: Box<dyn Subscriber + Send + Sync> = match options.format {
        LogFormat::Human => Box::new(registry().with(lines.with_ansi(false).with_filter(filter))),
        LogFormat::Json => {
            Box::new(registry().with(lines.json().flatten_event(true).with_filter(filter)))
        }
    };
    (subscriber, set_level)
}

/// What is logged at `level`.
fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Warn => LevelFilter::WARN,
    };
    // What the libraries say below a warning helps nobody who runs this.
    let libraries = level.min(LevelFilter::WARN);
    Targets::new()
        .with_target("ringgate", level)
        .with_default(libraries)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    pub(in crate::control) struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Memory {
        pub(in crate::control) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What `work` logs.
    pub(in crate::control) fn logged(options: LogOptions, work: impl FnOnce()) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        tracing::subscriber::with_default(subscriber(options, move || writer.clone()).0, work);
        memory.text()
    }

    /// Notes how long each write is, once it is let.
    struct Held(Receiver<()>, Sender<usize>);

    impl Write for Held {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_long_goes_in_pieces_and_not_on_once_one_is_lost() {
        let ((let_go, held), (sender, lengths)) = (channel(), channel());
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(2)
            .finish(Held(held, sender));
        let mut pieces = Pieces(writer);
        let long = vec![b'x'; 8 * MESSAGE_MAX + 1];
        pieces.write_all(&long[..MESSAGE_MAX + 1]).unwrap();
        for expected in [MESSAGE_MAX, 1] {
            let_go.send(()).unwrap();
            assert_eq!(lengths.recv(), Ok(expected));
        }
        // Two wait, and one more where the thread has taken the first by then.
        pieces.write_all(&long).unwrap();
        assert_eq!(pieces.0.error_counter().dropped_lines(), 1);
        drop(let_go);
        drop((pieces, guard));
        let lengths: Vec<usize> = lengths.iter().collect();
        assert!((2..=3).contains(&lengths.len()), "{lengths:?}");
    }

    #[test]
    fn levels_and_formats_are_obeyed() {
        let options = |format, level| LogOptions {
            format,
            level,
            access: false,
            access_rate: 1000,
            refusal_rate: 1000,
        };
        let work = || {
            tracing::info!(answer = 42, "quiet");
            tracing::warn!(target: "ringgate::shard", "loud");
            tracing::info!(target: "glommio", "chatter");
        };
        let text = logged(options(LogFormat::Human, LogLevel::Warn), work);
        assert!(text.contains("loud") && !text.contains("quiet"), "{text}");
        let text = logged(options(LogFormat::Json, LogLevel::Info), work);
        let mut lines = text.lines();
        assert!(
            lines.all(|line| line.starts_with('{') && line.ends_with('}')),
            "{text}"
        );
        assert!(
            text.contains("\"answer\":42") && !text.contains("chatter"),
            "{text}"
        );
    }
}
