//! Descriptors that whoever started the program passed to it (sd_listen_fds(3)).

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

use crate::limits::INHERITED_SOCKETS_MAX;

/// The number of the first one (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;

/// They are handed out once.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A descriptor that the program was started with.
#[derive(Debug)]
pub struct Passed {
    pub fd: OwnedFd,
    /// What LISTEN_FDNAMES calls it.
    pub name: Option<String>,
}

/// Why what the environment says of passed descriptors cannot be so.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    #[error(
        "LISTEN_FDS is `{0}`, which is no number up to {INHERITED_SOCKETS_MAX}: unset it, or start \
         from a socket unit"
    )]
    Count(String),
    #[error(
        "LISTEN_FDS promises descriptor {fd}, which is not open ({source}): unset LISTEN_FDS, or \
         start from a socket unit"
    )]
    NotOpen { fd: RawFd, source: io::Error },
    #[error("LISTEN_PID is `{0}`, which is no process: unset it, or start from a socket unit")]
    Process(String),
}

/// What LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES say was passed to this very process; nothing
/// without them, and from the second call on. Descriptors no longer pass on to programs that this
/// one starts.
///
/// # Errors
///
/// When the variables are wrong. What is open stays as it is then.
pub fn passed_descriptors() -> Result<Vec<Passed>, PassedError> {
    let variable = |name| std::env::var_os(name).map(|it| it.to_string_lossy().into_owned());
    let (Some(process), Some(count)) = (variable("LISTEN_PID"), variable("LISTEN_FDS")) else {
        return Ok(Vec::new());
    };
    match process.parse::<u32>() {
        Ok(process) if process == std::process::id() => {}
        // Meant for the program that started this one.
        Ok(_) => return Ok(Vec::new()),
        Err(_) => return Err(PassedError::Process(process)),
    }
    let count = match count.parse::<usize>() {
        Ok(count) if count <= INHERITED_SOCKETS_MAX => count,
        _ => return Err(PassedError::Count(count)),
    };
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let numbers = (FIRST..).take(count);
    for fd in numbers.clone() {
        // SAFETY: it is borrowed for this call alone, which fails where the number is not open.
        let open = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl_getfd(open).map_err(|error| {
            let source = error.into();
            PassedError::NotOpen { fd, source }
        })?;
    }
    let passed = numbers.map(|fd| {
        // SAFETY: it is open, and LISTEN_PID says that whoever started this process opened it for
        // this process to own. Nobody else is given it: this is reached once.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // Fails for what is not open alone.
        let _ = fcntl_setfd(&fd, FdFlags::CLOEXEC);
        let name = names.next().filter(|name| !name.is_empty());
        Passed {
            fd,
            name: name.map(str::to_owned),
        }
    });
    Ok(passed.collect())
}
