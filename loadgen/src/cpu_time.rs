//! CPU time of threads in nanoseconds, from the scheduler's own accounts.

use std::path::PathBuf;
use std::time::Duration;

/// Whose CPU time.
#[derive(Clone, Debug)]
pub enum Watched {
    /// All threads of a process.
    Process(u32),
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

impl Watched {
    /// Time on a CPU since each thread began. For a process, threads that have ended no longer
    /// count: take it between two moments with the same threads.
    pub fn cpu_time(&self) -> Result<Duration, CpuTimeError> {
        match self {
            Self::Process(pid) => {
                let tasks = PathBuf::from(format!("/proc/{pid}/task"));
                let entries = std::fs::read_dir(&tasks).map_err(|error| failed(&tasks, &error))?;
                let mut sum = Duration::ZERO;
                for entry in entries {
                    let path = entry.map_err(|error| failed(&tasks, &error))?.path();
                    // A thread may end between the listing and the reading.
                    sum += read(&path.join("schedstat")).unwrap_or_default();
                }
                Ok(sum)
            }
            Self::Threads(tids) => tids
                .iter()
                .map(|tid| read(&PathBuf::from(format!("/proc/self/task/{tid}/schedstat"))))
                .sum(),
        }
    }
}

/// CPU time of the calling thread.
pub fn of_this_thread() -> Duration {
    read(&PathBuf::from("/proc/thread-self/schedstat")).unwrap_or_default()
}

/// The first field is the time on a CPU in ns (Documentation/scheduler/sched-stats.rst).
fn read(path: &PathBuf) -> Result<Duration, CpuTimeError> {
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

fn failed(path: &std::path::Path, error: &std::io::Error) -> CpuTimeError {
    CpuTimeError {
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn work_shows_in_thread_and_process() {
        let process = Watched::Process(std::process::id());
        let before = (of_this_thread(), process.cpu_time().unwrap());
        let begun = Instant::now();
        while of_this_thread() - before.0 < Duration::from_millis(5) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "CPU time stands still"
            );
            std::hint::spin_loop();
        }
        assert!(process.cpu_time().unwrap() > before.1);
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let error = Watched::Process(u32::MAX)
            .cpu_time()
            .unwrap_err()
            .to_string();
        assert!(error.contains("/proc/4294967295/task"), "{error}");
        assert!(Watched::Threads(vec![-1]).cpu_time().is_err());
    }
}
