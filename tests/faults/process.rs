//! What the kernel says of a running process.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::program::until;

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

/// Direct descriptors that are in use in its rings.
pub fn direct_descriptors(id: Pid) -> usize {
    let files = descriptors(id);
    let infos = files.iter().filter_map(|number| {
        let target = fs::read_link(format!("/proc/{id}/fd/{number}")).ok()?;
        let is_ring = target.to_string_lossy().contains("io_uring");
        is_ring.then(|| fs::read_to_string(format!("/proc/{id}/fdinfo/{number}")).ok())?
    });
    let in_use = infos.map(|info| {
        let files = info
            .lines()
            .skip_while(|line| !line.starts_with("UserFiles"));
        let files = files.skip(1).take_while(|line| line.starts_with(' '));
        files.count()
    });
    in_use.sum()
}

/// Stops it between two instructions of each thread, until it is told to go on.
pub fn stop(id: Pid) {
    kill_process(id, Signal::STOP).unwrap();
    until("a stopped process", || {
        let threads = fs::read_dir(format!("/proc/{id}/task")).unwrap();
        let mut states = threads.map(|thread| {
            let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        });
        states.all(|is_stopped| is_stopped).then_some(())
    });
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
