//! Whoever disturbs is not to be what delays those who are measured.

use std::process::{Command, Stdio};

use rustix::process::setpriority_process;
use rustix::thread::gettid;

/// Lets the calling thread, and those that it starts, run only while nobody else wants to; how.
pub fn give_way() -> &'static str {
    let thread = gettid().as_raw_nonzero().to_string();
    let mut idle = Command::new("chrt");
    idle.args(["--idle", "--pid", "0", &thread]);
    idle.stdout(Stdio::null()).stderr(Stdio::null());
    if idle.status().is_ok_and(|status| status.success()) {
        return "SCHED_IDLE";
    }
    match setpriority_process(None, 19) {
        Ok(()) => "nice 19",
        Err(_) => "the same priority as the requests",
    }
}
