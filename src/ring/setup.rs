//! Setting a ring up.

use std::io;
use std::thread;
use std::time::Duration;

use io_uring::IoUring;

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
}

impl Default for RingOptions {
    fn default() -> Self {
        Self {
            entries: 2048,
            receive_buffers: RECEIVE_BUFFERS,
            receive_buffer_len: BLOCK_LEN,
            descriptors: 4096,
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
        remedy: "a kernel of at least 6.1 is needed, and locked memory: raise LimitMEMLOCK=".into(),
        source,
    })?;
    // A saving only; kernels before 5.18 and a full table of ring descriptors do without.
    let _ = submitter.register_ring_fd();
    let uses_direct = probe::has_direct_descriptors();
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
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(options.entries * 4);
    let plain = builder.clone();
    match builder.setup_no_sqarray().build(options.entries) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => plain.build(options.entries),
        result => result,
    }
}
