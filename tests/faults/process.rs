//! What the kernel says of a running process.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Pid;

fn read(id: Pid, file: &str) -> String {
    fs::read_to_string(format!("/proc/{id}/{file}")).unwrap()
}

/// Bytes of memory that are its own and not a file's.
pub fn memory(id: Pid) -> usize {
    let status = read(id, "status");
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() << 10
}

/// Numbers of the file descriptors that are open.
pub fn descriptors(id: Pid) -> Vec<u64> {
    let files = fs::read_dir(format!("/proc/{id}/fd")).unwrap();
    let names = files.map(|file| file.unwrap().file_name());
    names
        .map(|name| name.to_str().unwrap().parse().unwrap())
        .collect()
}

/// CPU time of all its threads, those that ended aside.
pub fn cpu(id: Pid) -> Duration {
    let threads = fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let nanos = threads.filter_map(|thread| {
        // A thread may end meanwhile.
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Asserts that it takes little CPU time while nothing is asked of it.
#[track_caller]
pub fn assert_idle(id: Pid) {
    const LOOK: Duration = Duration::from_millis(400);
    const LOOKS: usize = 10;
    // What was asked of it before may still go on.
    let mut shares = Vec::new();
    for _ in 0..LOOKS {
        let (began, before) = (Instant::now(), cpu(id));
        std::thread::sleep(LOOK);
        let (took, spent) = (began.elapsed(), cpu(id).saturating_sub(before));
        if spent * 4 < took {
            return;
        }
        shares.push((spent, took));
    }
    panic!("it spins: CPU time of {shares:?}");
}
