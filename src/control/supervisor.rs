//! Telling the service manager how the process is (sd_notify(3)): ready, reloading, stopping, alive.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::pulse::Pulse;
use super::reload::Status;
use super::report::escaped;
use crate::limits::SHARD_PATIENCE;

/// The service manager, if one wants to know.
#[derive(Debug, Default)]
pub(super) struct Supervisor {
    channel: Option<Channel>,
    watchdog: Option<Watchdog>,
    /// Loads that it has been told of.
    loads: u64,
    is_reloading: bool,
    is_stopping: bool,
}

/// Where it listens.
#[derive(Debug)]
struct Channel {
    socket: UnixDatagram,
    address: SocketAddr,
}

/// It ends a process that has not given a sign of life for this long.
#[derive(Debug)]
struct Watchdog {
    interval: Duration,
    beat_at: Option<Instant>,
}

impl Supervisor {
    /// The one that NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID tell of.
    pub(super) fn from_environment() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else {
            return Self::default();
        };
        match Channel::open(&name) {
            Ok(channel) => Self::with(channel, watchdog_interval()),
            Err(error) => {
                let name = name.to_string_lossy();
                tracing::warn!(
                    %error,
                    "NOTIFY_SOCKET is {}, where nobody can be told anything: unset it, or start \
                     from a unit with Type=notify-reload",
                    escaped(&name)
                );
                Self::default()
            }
        }
    }

    fn with(channel: Channel, interval: Option<Duration>) -> Self {
        let watchdog = interval.map(|interval| Watchdog {
            interval,
            beat_at: None,
        });
        Self {
            channel: Some(channel),
            watchdog,
            ..Self::default()
        }
    }

    /// Every listener accepts.
    pub(super) fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving");
    }

    /// Tells of the reloads that began or ended since the last call. `loads` counts those that began;
    /// each is told by itself, as the manager waits for one that is younger than its signal.
    pub(super) fn reloads(&mut self, loads: u64, is_going: bool, status: &Status) {
        if self.channel.is_none() || self.is_stopping {
            return;
        }
        if loads != self.loads {
            self.loads = loads;
            self.is_reloading = true;
            let now = clock_gettime(ClockId::Monotonic);
            let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
            self.tell(&format!(
                "RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reloading"
            ));
        }
        if self.is_reloading && !is_going {
            self.is_reloading = false;
            let generation = status.generation;
            self.tell(&match status.errors.first() {
                None => format!("READY=1\nSTATUS=serving generation {generation}"),
                Some(error) => format!(
                    "READY=1\nSTATUS=reload failed, serving generation {generation}: {}",
                    escaped(error)
                ),
            });
        }
    }

    /// The process ends, `within` this time.
    pub(super) fn stopping(&mut self, within: Duration) {
        self.is_stopping = true;
        self.tell(&format!(
            "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={}",
            within.as_micros()
        ));
    }

    /// Gives a sign of life at half of the interval, unless a shard has given none for too long.
    pub(super) fn beat(&mut self, now: Instant, pulse: &Pulse) {
        let Some(watchdog) = &mut self.watchdog else {
            return;
        };
        let patience = watchdog.interval.max(SHARD_PATIENCE);
        let is_alive = pulse.stands_still(now, patience).is_none();
        let is_due = |at| now.saturating_duration_since(at) >= watchdog.interval / 2;
        if is_alive && watchdog.beat_at.is_none_or(is_due) {
            watchdog.beat_at = Some(now);
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, text: &str) {
        if let Some(channel) = &self.channel {
            // A manager that is gone or does not read is no reason to do anything else.
            let _ = channel.tell(text);
        }
    }
}

impl Channel {
    /// By a path, or where it begins with `@`, by a name in the network namespace.
    fn open(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }

    fn tell(&self, text: &str) -> io::Result<()> {
        self.socket
            .send_to_addr(text.as_bytes(), &self.address)
            .map(drop)
    }
}

/// How often the manager wants a sign of life of this process at least.
fn watchdog_interval() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = match env::var_os("WATCHDOG_PID") {
        Some(_) => number("WATCHDOG_PID") == Some(std::process::id().into()),
        None => true,
    };
    let micros = number("WATCHDOG_USEC").filter(|&micros| is_ours && micros > 0)?;
    Some(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(name: &str) -> (UnixDatagram, Channel) {
        let name = format!("@ringgate-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        manager.set_nonblocking(true).unwrap();
        (manager, Channel::open(OsStr::new(&name)).unwrap())
    }

    fn told(manager: &UnixDatagram) -> Vec<String> {
        let one = || {
            let mut bytes = [0; 512];
            let len = manager.recv(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes[..len]).into_owned())
        };
        std::iter::from_fn(one).collect()
    }

    #[test]
    fn it_beats_at_half_of_the_interval_while_every_shard_turns() {
        let (manager, channel) = listening("beats");
        let interval = SHARD_PATIENCE * 2;
        let mut supervisor = Supervisor::with(channel, Some(interval));
        let mut pulse = Pulse::default();
        let start = Instant::now();
        let mut before = (0, [None, None]);
        for (quarters, turns, beats) in [
            (0, [Some(0), Some(7)], 1),
            (1, [Some(1), Some(8)], 0),
            (2, [Some(2), Some(9)], 1),
            // The second shard turns no more.
            (4, [Some(3), Some(9)], 1),
            (6, [Some(4), Some(9)], 0),
            (8, [Some(5), Some(9)], 0),
            // It does again.
            (9, [Some(6), Some(10)], 1),
            // It has ended: that is the control plane's to tell.
            (20, [Some(7), None], 1),
            (30, [Some(8), None], 1),
        ] {
            let now = start + interval * quarters / 4;
            // In between nothing turns.
            for quarter in before.0..quarters {
                pulse.feel(start + interval * quarter / 4, before.1.into_iter());
            }
            before = (quarters, turns);
            pulse.feel(now, turns.into_iter());
            supervisor.beat(now, &pulse);
            assert_eq!(told(&manager), vec!["WATCHDOG=1"; beats], "at {quarters}");
        }
    }

    #[test]
    fn an_interval_shorter_than_a_rest_does_not_end_a_shard_that_rests() {
        let (manager, channel) = listening("rests");
        let mut supervisor = Supervisor::with(channel, Some(SHARD_PATIENCE / 4));
        let mut pulse = Pulse::default();
        let start = Instant::now();
        for (eighths, beats) in [(0, 1), (3, 1), (7, 1), (8, 0), (20, 0)] {
            let now = start + SHARD_PATIENCE * eighths / 8;
            for eighth in 0..=eighths {
                pulse.feel(start + SHARD_PATIENCE * eighth / 8, [Some(1)].into_iter());
            }
            supervisor.beat(now, &pulse);
            assert_eq!(told(&manager).len(), beats, "at {eighths}");
        }
    }

    #[test]
    fn each_reload_is_told_by_itself() {
        let (manager, channel) = listening("reloads");
        let mut supervisor = Supervisor::with(channel, None);
        let mut status = Status {
            generation: 2,
            ..Status::default()
        };
        supervisor.reloads(0, false, &status);
        assert!(told(&manager).is_empty());
        supervisor.reloads(1, true, &status);
        assert!(told(&manager)[0].starts_with("RELOADING=1\nMONOTONIC_USEC="));
        supervisor.reloads(1, true, &status);
        supervisor.reloads(1, false, &status);
        supervisor.reloads(1, false, &status);
        assert_eq!(told(&manager), ["READY=1\nSTATUS=serving generation 2"]);
        // One that fails at once.
        status.errors.push("a file\nis broken".to_owned());
        supervisor.reloads(2, false, &status);
        let told = told(&manager);
        assert!(told[0].starts_with("RELOADING=1"), "{told:?}");
        let failed = "READY=1\nSTATUS=reload failed, serving generation 2: a file";
        assert!(told[1].starts_with(failed), "{told:?}");
        assert_eq!(told[1].lines().count(), 2, "{told:?}");
    }
}
