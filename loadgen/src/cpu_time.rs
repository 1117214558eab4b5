//! CPU time of threads in nanoseconds, from the scheduler's own accounts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What one tick of `/proc/PID/stat` is worth: USER_HZ, which is 100 on every architecture that
/// Ringgate runs on.
const TICK: Duration = Duration::from_millis(10);

/// Processes that are followed at most, children included.
const PROCESSES_MAX: usize = 4096;

/// Whose CPU time.
#[derive(Clone, Debug)]
pub enum Watched {
    /// All threads of these processes and of the children that they have.
    Processes(Vec<u32>),
    /// Some threads of this process, by their kernel ids.
    Threads(Vec<i32>),
}

/// Why CPU time could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}; is the process still there, and is /proc mounted?")]
pub struct CpuTimeError {
    path: String,
    reason: String,
}

/// The beginning of the name of a thread that serves connections, in Ringgate.
const SHARD: &str = "shard-";

/// Threads that took less than this part of all the time are not taken for those that serve, where
/// no name tells.
const HOUSEKEEPING_MAX: f64 = 0.01;

/// How a server's work was spread over the threads that serve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Threads that serve: those named `shard-…` where there are such; else those that took at
    /// least a hundredth of the time, so that a thread which got nothing at all is not seen.
    pub threads: usize,
    /// CPU time of the busiest over the mean: 1 is even.
    pub skew: f64,
}

/// CPU time at one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// By process and thread, in nanoseconds.
    threads: BTreeMap<(u32, u32), Duration>,
    /// Those of them that are known to serve.
    shards: BTreeSet<(u32, u32)>,
    /// Of whole processes, threads and children that have ended included; in steps of a tick.
    processes: Duration,
}

impl Reading {
    /// CPU time between `earlier` and this. To the nanosecond where the threads are the same, as
    /// in a server with a fixed set; where threads or processes came or went, to the tick.
    pub fn since(&self, earlier: &Self) -> Duration {
        if self.threads.keys().eq(earlier.threads.keys()) {
            let sum = |reading: &Self| reading.threads.values().sum::<Duration>();
            sum(self).saturating_sub(sum(earlier))
        } else {
            self.processes.saturating_sub(earlier.processes)
        }
    }

    /// How the work between `earlier` and this was spread. `None` where threads came or went, or
    /// nothing was done.
    pub fn spread_since(&self, earlier: &Self) -> Option<Spread> {
        if !self.threads.keys().eq(earlier.threads.keys()) {
            return None;
        }
        let spent: Vec<(bool, f64)> = self
            .threads
            .iter()
            .zip(earlier.threads.values())
            .map(|((thread, now), then)| {
                let spent = now.saturating_sub(*then).as_secs_f64();
                (self.shards.contains(thread), spent)
            })
            .collect();
        let all: f64 = spent.iter().map(|(_, spent)| spent).sum();
        let serves = |&(is_shard, spent): &(bool, f64)| match self.shards.is_empty() {
            true => spent >= HOUSEKEEPING_MAX * all,
            false => is_shard,
        };
        let spent: Vec<f64> = spent.into_iter().filter(serves).map(|it| it.1).collect();
        let busiest = spent.iter().copied().fold(0.0, f64::max);
        #[expect(clippy::cast_precision_loss, reason = "threads fit 52 bits")]
        let mean = spent.iter().sum::<f64>() / spent.len() as f64;
        (mean > 0.0).then(|| Spread {
            threads: spent.len(),
            skew: busiest / mean,
        })
    }
}

impl Watched {
    /// Reads it now.
    pub fn read(&self) -> Result<Reading, CpuTimeError> {
        let mut reading = Reading::default();
        match self {
            Self::Processes(roots) => {
                for pid in with_children(roots)? {
                    // A child may end between the listing and the reading; a root must be there.
                    match read_process(pid, &mut reading) {
                        Err(error) if roots.contains(&pid) => return Err(error),
                        _ => {}
                    }
                }
            }
            Self::Threads(tids) => {
                for tid in tids {
                    let path = PathBuf::from(format!("/proc/self/task/{tid}/schedstat"));
                    let key = (0, tid.unsigned_abs());
                    reading.threads.insert(key, read_schedstat(&path)?);
                    reading.shards.insert(key);
                }
            }
        }
        Ok(reading)
    }
}

/// `roots`, their children, and so on.
fn with_children(roots: &[u32]) -> Result<BTreeSet<u32>, CpuTimeError> {
    let mut found: BTreeSet<u32> = BTreeSet::new();
    let mut waiting: Vec<u32> = roots.to_vec();
    while let Some(pid) = waiting.pop() {
        if found.len() >= PROCESSES_MAX || !found.insert(pid) {
            continue;
        }
        for task in tasks(pid).unwrap_or_default() {
            // Only there if the kernel has CONFIG_PROC_CHILDREN, as those of distributions have.
            let children = std::fs::read_to_string(task.join("children")).unwrap_or_default();
            waiting.extend(
                children
                    .split_ascii_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
    }
    Ok(found)
}

fn tasks(pid: u32) -> Result<Vec<PathBuf>, CpuTimeError> {
    let folder = PathBuf::from(format!("/proc/{pid}/task"));
    let entries = std::fs::read_dir(&folder).map_err(|error| failed(&folder, &error))?;
    entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(|error| failed(&folder, &error))
}

fn read_process(pid: u32, reading: &mut Reading) -> Result<(), CpuTimeError> {
    for task in tasks(pid)? {
        let tid = task
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        // A thread may end between the listing and the reading.
        if let (Some(tid), Ok(time)) = (tid, read_schedstat(&task.join("schedstat"))) {
            reading.threads.insert((pid, tid), time);
            let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
            if name.starts_with(SHARD) {
                reading.shards.insert((pid, tid));
            }
        }
    }
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let text = std::fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
    let ticks = ticks_of_stat(&text).ok_or_else(|| CpuTimeError {
        path: path.display().to_string(),
        reason: format!("{text:?} is not what proc_pid_stat(5) says"),
    })?;
    reading.processes += TICK * ticks;
    Ok(())
}

/// utime, stime, cutime and cstime: fields 14 to 17 of proc_pid_stat(5). The name before them may
/// hold spaces and brackets.
fn ticks_of_stat(text: &str) -> Option<u32> {
    let (_, fields) = text.rsplit_once(") ")?;
    let times = fields.split(' ').skip(11).take(4);
    let times: Vec<u32> = times.map(str::parse).collect::<Result<_, _>>().ok()?;
    (times.len() == 4).then(|| times.iter().sum())
}

/// CPU time of the calling thread.
pub fn of_this_thread() -> Duration {
    read_schedstat(Path::new("/proc/thread-self/schedstat")).unwrap_or_default()
}

/// Times of the calling thread since it began.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadTimes {
    pub on_cpu: Duration,
    /// Ready to run, but others had the CPU.
    pub waiting: Duration,
}

impl ThreadTimes {
    /// Now; zeros where the scheduler keeps no accounts.
    pub fn now() -> Self {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let mut fields = text
            .split_ascii_whitespace()
            .map(|field| field.parse().map(Duration::from_nanos).unwrap_or_default());
        Self {
            on_cpu: fields.next().unwrap_or_default(),
            waiting: fields.next().unwrap_or_default(),
        }
    }
}

/// The first field is the time on a CPU in ns (Documentation/scheduler/sched-stats.rst).
fn read_schedstat(path: &Path) -> Result<Duration, CpuTimeError> {
    let text = std::fs::read_to_string(path).map_err(|error| failed(path, &error))?;
    let ns = text
        .split_ascii_whitespace()
        .next()
        .and_then(|field| field.parse().ok());
    ns.map(Duration::from_nanos).ok_or_else(|| CpuTimeError {
        path: path.display().to_string(),
        reason: format!("{text:?} does not start with a number"),
    })
}

fn failed(path: &Path, error: &std::io::Error) -> CpuTimeError {
    CpuTimeError {
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn spin(time: Duration) {
        let (begun, before) = (Instant::now(), of_this_thread());
        while of_this_thread() - before < time {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "CPU time stands still"
            );
            std::hint::spin_loop();
        }
    }

    #[test]
    fn work_shows_in_thread_and_process() {
        let process = Watched::Processes(vec![std::process::id()]);
        let before = process.read().unwrap();
        spin(Duration::from_millis(30));
        let spent = process.read().unwrap().since(&before);
        assert!(spent >= Duration::from_millis(10), "{spent:?}");
    }

    #[test]
    fn a_thread_that_has_ended_still_counts() {
        let process = Watched::Processes(vec![std::process::id()]);
        let thread = std::thread::spawn(|| {
            let (begun, done) = std::sync::mpsc::channel::<()>();
            let _ = done.recv_timeout(Duration::from_millis(1));
            drop(begun);
            spin(Duration::from_millis(100));
        });
        let before = process.read().unwrap();
        thread.join().unwrap();
        let spent = process.read().unwrap().since(&before);
        assert!(spent >= Duration::from_millis(50), "{spent:?}");
    }

    #[test]
    fn children_are_found() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let found = with_children(&[std::process::id()]).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&child.id()), "{found:?}");
    }

    #[test]
    fn the_spread_is_that_of_the_threads_that_serve() {
        let reading = |shards: &[u32], spent: &[(u32, u64)]| Reading {
            threads: spent
                .iter()
                .map(|&(thread, ms)| ((1, thread), Duration::from_millis(ms)))
                .collect(),
            shards: shards.iter().map(|&thread| (1, thread)).collect(),
            ..Reading::default()
        };
        let of = |shards: &[u32], after: &[(u32, u64)]| {
            let before: Vec<_> = after.iter().map(|&(thread, _)| (thread, 7)).collect();
            let after: Vec<_> = after.iter().map(|&(thread, ms)| (thread, ms + 7)).collect();
            let spread = reading(shards, &after).spread_since(&reading(shards, &before));
            spread.map(|spread| (spread.threads, (spread.skew * 1e6).round() / 1e6))
        };
        assert_eq!(of(&[], &[(1, 1), (2, 300), (3, 100)]), Some((2, 1.5)));
        // A shard that got nothing counts, and what is no shard does not.
        assert_eq!(of(&[2, 3], &[(1, 500), (2, 300), (3, 0)]), Some((2, 2.0)));
        assert_eq!(of(&[], &[(1, 0)]), None);
        let fewer = reading(&[], &[(1, 5)]);
        assert_eq!(reading(&[], &[(1, 5), (2, 5)]).spread_since(&fewer), None);
    }

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 0 1 2 3 4 10 20 30 40 20 0 1";
        assert_eq!(ticks_of_stat(stat), Some(100));
        assert_eq!(ticks_of_stat("7 (a) S 1"), None);
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let error = Watched::Processes(vec![u32::MAX]).read().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/proc/4294967295/task"), "{text}");
        assert!(Watched::Threads(vec![-1]).read().is_err());
    }
}
