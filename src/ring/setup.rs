//! Setting a ring up.

use std::io;
use std::thread;
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::squeue::Flags;
use io_uring::{IoUring, Submitter, opcode, types};

use super::buffers::BufferRing;
use super::descriptor::SlotTable;
use super::inflight::InFlightTable;
use super::queue::Queues;
use super::{Ring, RingCounters, probe};
use crate::limits::{BLOCK_LEN, RECEIVE_BUFFERS};

/// How large a ring is.
#[derive(Clone, Debug)]
pub struct RingOptions {
    /// Submission queue entries; a power of two. The completion queue has four times as many.
    pub entries: u32,
    /// Receive buffers lent to the kernel; a power of two.
    pub receive_buffers: u16,
    /// Bytes of each receive buffer.
    pub receive_buffer_len: usize,
    /// Direct descriptors; bounded by the process's descriptor limit.
    pub descriptors: u32,
    /// A kernel thread takes submissions, and sleeps when there were none for so long
    /// (IORING_SETUP_SQPOLL, whole milliseconds). `None`: the ring's own thread submits.
    pub sqpoll: Option<Duration>,
    /// A wait looks for packets at the network card itself for so long before it sleeps
    /// (IORING_REGISTER_NAPI, kernel 6.9, whole microseconds). `None`: interrupts tell.
    pub busy_poll: Option<Duration>,
    /// The ring takes no operation but those of this module, for good
    /// (IORING_REGISTER_RESTRICTIONS, kernel 5.10).
    pub restricted: bool,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self {
            entries: 2048,
            receive_buffers: RECEIVE_BUFFERS,
            receive_buffer_len: BLOCK_LEN,
            descriptors: 4096,
            sqpoll: None,
            busy_poll: None,
            restricted: true,
        }
    }
}

/// Why a ring could not be set up, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}; {remedy}")]
pub struct RingError {
    pub step: &'static str,
    pub remedy: String,
    #[source]
    pub source: io::Error,
}

pub(super) fn build(options: &RingOptions) -> Result<Ring, RingError> {
    let uring = io_uring(options).map_err(|source| RingError {
        step: "io_uring_setup",
        remedy: probe::setup_remedy(&source),
        source,
    })?;
    let mut queues = Queues::new(uring);
    let submitter = queues.submitter();
    submitter
        .register_files_sparse(options.descriptors)
        .map_err(|source| RingError {
            step: "registering direct descriptors",
            remedy: format!(
                "{} are wanted, the limit is RLIMIT_NOFILE: raise LimitNOFILE= or `ulimit -n`, or \
             lower limits.connections",
                options.descriptors
            ),
            source,
        })?;
    let buffers = BufferRing::new(options.receive_buffers, options.receive_buffer_len);
    buffers.register(submitter).map_err(|source| RingError {
        step: "registering the receive buffers",
        remedy: match source.raw_os_error() {
            Some(libc::ENOMEM) => probe::locked_memory_remedy(),
            _ => "a kernel of at least 6.1 is needed".into(),
        },
        source,
    })?;
    if let Some(time) = options.busy_poll {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let mut napi = types::Napi::new().set_busy_poll_timeout(micros);
        submitter
            .register_napi(&mut napi)
            .map_err(|source| RingError {
                step: "busy polling",
                remedy: "a kernel of at least 6.9 with CONFIG_NET_RX_BUSY_POLL is needed: leave \
                         ring.busy_poll_us out of the layout"
                    .into(),
                source,
            })?;
    }
    let uses_direct = probe::has_direct_descriptors();
    if options.restricted {
        restrict(submitter, uses_direct).map_err(|source| RingError {
            step: "restricting the ring",
            remedy: "a kernel of at least 6.1 is needed: or set confinement.rings = false".into(),
            source,
        })?;
    }
    // A saving only; kernels before 5.18 and a full table of ring descriptors do without.
    let _ = submitter.register_ring_fd();
    let limits_receives = probe::has_limited_receives();
    Ok(Ring {
        queues,
        buffers,
        slots: SlotTable::new(options.descriptors),
        in_flight: InFlightTable::new(),
        counters: RingCounters::default(),
        uses_direct,
        limits_receives,
    })
}

/// Registering a ring's descriptor with its thread, and the reverse (IORING_REGISTER_RING_FDS and
/// IORING_UNREGISTER_RING_FDS in include/uapi/linux/io_uring.h).
const RING_DESCRIPTOR: [u8; 2] = [20, 21];

/// Has the ring run, and take nothing but what the operations of this module are made of. What is
/// to be registered with it otherwise is, by now. `uses_direct` where sockets may be in the ring's own
/// table: it takes an operation (6.8) whose number older kernels refuse even here.
pub(super) fn restrict(submitter: &Submitter<'_>, uses_direct: bool) -> io::Result<()> {
    let install = uses_direct.then_some(opcode::FixedFdInstall::CODE);
    let operations = [
        opcode::Accept::CODE,
        opcode::AsyncCancel::CODE,
        opcode::Close::CODE,
        opcode::Connect::CODE,
        opcode::PollAdd::CODE,
        opcode::Recv::CODE,
        opcode::Send::CODE,
        opcode::SetSockOpt::CODE,
        opcode::Socket::CODE,
    ];
    let flags = Flags::BUFFER_SELECT | Flags::FIXED_FILE | Flags::IO_LINK | Flags::SKIP_SUCCESS;
    let operations = operations.into_iter().chain(install);
    let operations = operations.map(Restriction::sqe_op);
    let registers = RING_DESCRIPTOR.into_iter().map(Restriction::register_op);
    let flags = [Restriction::sqe_flags_allowed(flags.bits())];
    let mut all: Vec<Restriction> = operations.chain(registers).chain(flags).collect();
    submitter.register_restrictions(&mut all)?;
    submitter.register_enable_rings()
}

/// How often a ring is asked for whose memory the kernel did not find, and the pause between.
const SETUP_ATTEMPTS: usize = 20;
const SETUP_PAUSE: Duration = Duration::from_millis(10);

/// With the flags of the design. Where files fill the memory (page cache), the kernel gives up
/// (`ENOMEM`) before it has taken enough of it back, and finds it when it is asked again.
pub(super) fn io_uring(options: &RingOptions) -> io::Result<IoUring> {
    for _ in 1..SETUP_ATTEMPTS {
        match io_uring_once(options) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => thread::sleep(SETUP_PAUSE),
            result => return result,
        }
    }
    io_uring_once(options)
}

/// `NO_SQARRAY` (kernel 6.6) is left out where it is not known.
fn io_uring_once(options: &RingOptions) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .dontfork()
        .setup_single_issuer()
        .setup_submit_all()
        .setup_cqsize(options.entries * 4);
    match options.sqpoll {
        // The thread does the work that would be deferred: the kernel takes one or the other.
        Some(idle) => {
            builder.setup_sqpoll(u32::try_from(idle.as_millis()).unwrap_or(u32::MAX));
        }
        None => {
            builder.setup_defer_taskrun().setup_taskrun_flag();
        }
    }
    if options.restricted {
        // Restrictions are for rings that do not run yet.
        builder.setup_r_disabled();
    }
    let plain = builder.clone();
    match builder.setup_no_sqarray().build(options.entries) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => plain.build(options.entries),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of an operation that no shard asks for.
    fn nop(restricted: bool) -> i32 {
        let options = RingOptions {
            entries: 8,
            restricted,
            ..RingOptions::default()
        };
        let mut uring = io_uring(&options).unwrap();
        if restricted {
            restrict(&uring.submitter(), true).unwrap();
        }
        // SAFETY: the entry points to nothing.
        unsafe { uring.submission().push(&opcode::Nop::new().build()) }.unwrap();
        uring.submit_and_wait(1).unwrap();
        uring.completion().next().unwrap().result()
    }

    /// A ring as a shard has it, not one that only this test has restricted.
    #[test]
    fn a_ring_that_is_built_is_restricted_where_that_is_wanted() {
        for (restricted, error) in [(true, libc::EACCES), (false, libc::EBUSY)] {
            let options = RingOptions {
                entries: 8,
                descriptors: 8,
                restricted,
                ..RingOptions::default()
            };
            let mut ring = build(&options).unwrap();
            // It has such a table already.
            let again = ring.queues.submitter().register_files_sparse(8);
            assert_eq!(again.unwrap_err().raw_os_error(), Some(error));
        }
    }

    #[test]
    fn a_restricted_ring_refuses_what_is_not_asked_of_it() {
        assert_eq!(nop(false), 0);
        assert_eq!(nop(true), -libc::EACCES);
        let uring = io_uring(&RingOptions::default()).unwrap();
        restrict(&uring.submitter(), true).unwrap();
        let forbidden = uring.submitter().register_files_sparse(1).unwrap_err();
        assert_eq!(forbidden.raw_os_error(), Some(libc::EACCES));
    }

    /// Whose limit it is that others have used up is not to be guessed.
    #[test]
    fn a_ring_without_memory_names_the_limit_and_who_shares_it() {
        let remedy = probe::setup_remedy(&io::Error::from_raw_os_error(libc::ENOMEM));
        for part in [
            "all processes of this user",
            "LimitMEMLOCK=infinity",
            "ulimit -l",
            "memlock=-1",
            "runtime's own unit",
        ] {
            assert!(remedy.contains(part), "{part}: {remedy}");
        }
    }
}
