//! What this host allows, found out by trying it; each lack with its remedy.

use std::io;

use io_uring::{IoUring, Probe, opcode, types};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::operation::receive;
use super::setup::{RingOptions, io_uring, restrict};

/// The outcome of one check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Finding {
    /// Works; with a figure or version where there is one.
    Fine(String),
    /// Not here, and not needed: what is lost.
    Lacking(String),
    /// Not here, and needed: cause and remedy.
    Missing(String),
}

/// One thing that was checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    pub name: &'static str,
    pub finding: Finding,
}

impl Check {
    /// Whether a start will fail for this.
    pub fn is_missing(&self) -> bool {
        matches!(self.finding, Finding::Missing(_))
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (mark, text) = match &self.finding {
            Finding::Fine(text) => ("ok     ", text),
            Finding::Lacking(text) => ("lacking", text),
            Finding::Missing(text) => ("MISSING", text),
        };
        write!(f, "{mark}  {}: {text}", self.name)
    }
}

/// Everything that `ringgate doctor` prints.
pub fn checks() -> Vec<Check> {
    let mut checks = vec![
        Check {
            name: "kernel",
            finding: kernel(),
        },
        Check {
            name: "io_uring_disabled",
            finding: disabled(),
        },
        Check {
            name: "locked memory",
            finding: locked_memory(),
        },
        Check {
            name: "descriptors",
            finding: descriptors(),
        },
    ];
    let uring = match io_uring(&RingOptions {
        entries: 8,
        ..RingOptions::default()
    }) {
        Ok(uring) => uring,
        Err(error) => {
            let cause = format!("io_uring_setup: {error}; {}", setup_remedy(&error));
            checks.push(Check {
                name: "ring",
                finding: Finding::Missing(cause),
            });
            return checks;
        }
    };
    checks.push(Check {
        name: "ring",
        finding: Finding::Fine("SINGLE_ISSUER, DEFER_TASKRUN, TASKRUN_FLAG, SUBMIT_ALL".into()),
    });
    checks.extend(opcodes(&uring));
    checks.push(Check {
        name: "ring restrictions",
        finding: match restrict(&uring.submitter(), has_direct_descriptors()) {
            Ok(()) => Finding::Fine("a ring takes no operations but those that are used".into()),
            Err(error) => Finding::Missing(format!(
                "{error}: 6.1 or newer is needed, or confinement.rings = false"
            )),
        },
    });
    checks.push(Check {
        name: "direct descriptors",
        finding: direct_descriptors(),
    });
    checks.push(Check {
        name: "limited receives",
        finding: limited_receives(),
    });
    checks
}

/// Why `io_uring_setup` fails and what to do about it.
pub(super) fn setup_remedy(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            "this kernel has no io_uring, or a seccomp filter hides it: kernel 6.1 or newer, and in \
             a container a seccomp profile that allows io_uring_setup, io_uring_enter and \
             io_uring_register"
                .into()
        }
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is forbidden here: set sysctl kernel.io_uring_disabled=0 (or 1 with this user \
             in kernel.io_uring_group), or allow it in the container's seccomp profile"
                .into()
        }
        Some(libc::EINVAL) => "the kernel lacks DEFER_TASKRUN: 6.1 or newer is needed".into(),
        Some(libc::ENOMEM) => locked_memory_remedy(),
        Some(libc::EMFILE | libc::ENFILE) => {
            "no descriptor is left: raise LimitNOFILE= or `ulimit -n`".into()
        }
        _ => "see `ringgate doctor`".into(),
    }
}

/// What to do where the kernel has no memory for a ring. It may count rings as memory that their user
/// locked, and then every process of that user takes from the one limit, in other containers too.
pub(super) fn locked_memory_remedy() -> String {
    let limit = match getrlimit(Resource::Memlock).current {
        None => "unlimited".to_owned(),
        Some(bytes) => format!("{} KiB", bytes >> 10),
    };
    format!(
        "rings count as locked memory, of which all processes of this user on the host may have \
         {limit} together: raise it by LimitMEMLOCK=infinity in the unit, `ulimit -l unlimited`, \
         --ulimit memlock=-1 for a container, or for a pod LimitMEMLOCK=infinity in the container \
         runtime's own unit; where it is unlimited, raise the memory limit of the container"
    )
}

fn kernel() -> Finding {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (6, 1) => Finding::Fine(release),
        _ => Finding::Missing(format!(
            "{release} is older than 6.1: a newer kernel is needed"
        )),
    }
}

fn disabled() -> Finding {
    match std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
        Ok(value) if value.trim() == "2" => Finding::Missing(
            "kernel.io_uring_disabled is 2: sysctl kernel.io_uring_disabled=0".into(),
        ),
        Ok(value) if value.trim() == "1" => Finding::Lacking(
            "kernel.io_uring_disabled is 1: only members of kernel.io_uring_group may start".into(),
        ),
        Ok(value) => Finding::Fine(value.trim().into()),
        Err(_) => Finding::Fine("no such sysctl (before kernel 6.6)".into()),
    }
}

fn locked_memory() -> Finding {
    let limit = getrlimit(Resource::Memlock).current;
    match limit {
        None => Finding::Fine("unlimited".into()),
        Some(bytes) => {
            let shared = format!(
                "{} KiB, which all processes of this user on the host share",
                bytes >> 10
            );
            if bytes < 1 << 20 {
                Finding::Lacking(format!(
                    "{shared}: kernels that charge rings to it refuse large ones; \
                     LimitMEMLOCK=infinity"
                ))
            } else {
                Finding::Fine(shared)
            }
        }
    }
}

fn descriptors() -> Finding {
    match getrlimit(Resource::Nofile).maximum {
        None => Finding::Fine("unlimited".into()),
        Some(limit) if limit < 4096 => Finding::Lacking(format!(
            "at most {limit}: {} connections; LimitNOFILE=1048576",
            limit / 2
        )),
        Some(limit) => Finding::Fine(format!("at most {limit}")),
    }
}

/// Raises the soft limit of descriptors to the hard one and returns it; `None` is unlimited.
pub fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        limit.maximum
    } else {
        limit.current
    }
}

fn opcodes(uring: &IoUring) -> Vec<Check> {
    let needed: [(&'static str, u8); 8] = [
        ("opcode accept", opcode::Accept::CODE),
        ("opcode cancel", opcode::AsyncCancel::CODE),
        ("opcode close", opcode::Close::CODE),
        ("opcode connect", opcode::Connect::CODE),
        ("opcode poll", opcode::PollAdd::CODE),
        ("opcode receive", opcode::Recv::CODE),
        ("opcode send", opcode::Send::CODE),
        ("opcode socket", opcode::Socket::CODE),
    ];
    let mut probe = Probe::new();
    if let Err(error) = uring.submitter().register_probe(&mut probe) {
        let cause = format!("the ring cannot be probed: {error}");
        return vec![Check {
            name: "opcodes",
            finding: Finding::Missing(cause),
        }];
    }
    let missing = needed
        .into_iter()
        .filter(|&(_, code)| !probe.is_supported(code));
    let mut checks: Vec<Check> = missing
        .map(|(name, _)| Check {
            name,
            finding: Finding::Missing("not in this kernel: 6.1 or newer is needed".into()),
        })
        .collect();
    if checks.is_empty() {
        checks.push(Check {
            name: "opcodes",
            finding: Finding::Fine(format!("all {} that are used", needed.len())),
        });
    }
    checks
}

fn direct_descriptors() -> Finding {
    if has_direct_descriptors() {
        Finding::Fine("accepted and upstream sockets need no file descriptor".into())
    } else {
        Finding::Lacking("before kernel 6.8: every socket costs a few more system calls".into())
    }
}

fn limited_receives() -> Finding {
    if has_limited_receives() {
        Finding::Fine("a peer that sends much is stopped after two buffers".into())
    } else {
        Finding::Lacking(
            "before kernel 6.17: a peer that sends much may fill 16 buffers before it is stopped"
                .into(),
        )
    }
}

pub(super) fn has_limited_receives() -> bool {
    receive::knows_limit().unwrap_or(false)
}

/// Whether a direct descriptor can be set up and shut down: socket options through the ring (kernel
/// 6.7), found out by setting one, and file descriptors for direct ones (6.8).
pub(super) fn has_direct_descriptors() -> bool {
    has_fd_install().unwrap_or(false) && try_socket_option().unwrap_or(false)
}

fn has_fd_install() -> io::Result<bool> {
    let mut probe = Probe::new();
    IoUring::new(2)?.submitter().register_probe(&mut probe)?;
    Ok(probe.is_supported(opcode::FixedFdInstall::CODE))
}

fn try_socket_option() -> io::Result<bool> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    let mut uring = IoUring::new(2)?;
    static ENABLED: libc::c_int = 1;
    let entry = opcode::SetSockOpt::new(
        types::Fd(std::os::fd::AsRawFd::as_raw_fd(&socket)),
        libc::IPPROTO_TCP.unsigned_abs(),
        libc::TCP_NODELAY.unsigned_abs(),
        (&raw const ENABLED).cast(),
        u32::try_from(size_of_val(&ENABLED)).expect("an int is small"),
    )
    .build();
    // SAFETY: the option's value is static.
    unsafe { uring.submission().push(&entry) }.map_err(|_| io::ErrorKind::WouldBlock)?;
    uring.submit_and_wait(1)?;
    Ok(uring
        .completion()
        .next()
        .is_some_and(|entry| entry.result() == 0))
}
