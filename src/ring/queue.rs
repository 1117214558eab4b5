//! Submission and completion queue of one ring, split once for its whole life.
//!
//! A registered ring descriptor belongs to one `Submitter`, so the three parts are made once and
//! kept; each `IoUring::submit` would make a fresh one without it.

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::time::Duration;

use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, squeue, types};

use super::RingCounters;

pub(super) struct Queues {
    // Declared before `owner`'s release in `drop`; they borrow from it.
    submitter: ManuallyDrop<Submitter<'static>>,
    submission: ManuallyDrop<SubmissionQueue<'static>>,
    completion: ManuallyDrop<CompletionQueue<'static>>,
    owner: *mut IoUring,
    /// Chains for which the submission queue had no room.
    backlog: VecDeque<Vec<squeue::Entry>>,
}

impl Queues {
    pub(super) fn new(uring: IoUring) -> Self {
        let owner = Box::into_raw(Box::new(uring));
        // SAFETY: `owner` comes from a box that is freed only in `drop`, after the three parts are
        // gone, and it is not touched otherwise, so the exclusive borrow lasts as long as they do.
        let (submitter, submission, completion) = unsafe { &mut *owner }.split();
        Self {
            submitter: ManuallyDrop::new(submitter),
            submission: ManuallyDrop::new(submission),
            completion: ManuallyDrop::new(completion),
            owner,
            backlog: VecDeque::new(),
        }
    }

    pub(super) fn submitter(&mut self) -> &mut Submitter<'static> {
        &mut self.submitter
    }

    /// Queues `chain` so that it is submitted in one piece.
    ///
    /// # Safety
    ///
    /// Everything that the entries point to must stay valid and in place until their last
    /// completion.
    pub(super) unsafe fn push(&mut self, chain: &[squeue::Entry], counters: &mut RingCounters) {
        counters.submissions += chain.len() as u64;
        if self.backlog.is_empty() {
            // SAFETY: passed on to the caller.
            if unsafe { self.submission.push_multiple(chain) }.is_ok() {
                return;
            }
            self.submit_now(counters);
            // SAFETY: passed on to the caller.
            if unsafe { self.submission.push_multiple(chain) }.is_ok() {
                return;
            }
        }
        self.backlog.push_back(chain.to_vec());
    }

    /// Submits without waiting; errors show again at the next wait.
    fn submit_now(&mut self, counters: &mut RingCounters) {
        self.submission.sync();
        counters.enters += 1;
        let _ = self.submitter.submit();
        self.submission.sync();
    }

    fn push_backlog(&mut self) {
        while let Some(chain) = self.backlog.front() {
            // SAFETY: the chain was accepted by `push`, whose caller keeps what it points to valid
            // until its completion, which cannot come before it is submitted.
            if unsafe { self.submission.push_multiple(chain) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Submits and waits for one completion, for at most `timeout`.
    pub(super) fn wait(
        &mut self,
        timeout: Option<Duration>,
        counters: &mut RingCounters,
    ) -> io::Result<()> {
        self.push_backlog();
        self.submission.sync();
        self.completion.sync();
        if self.submission.cq_overflow() {
            counters.overflows += 1;
        }
        let want = usize::from(
            self.completion.is_empty()
                && self.backlog.is_empty()
                && timeout != Some(Duration::ZERO),
        );
        counters.enters += 1;
        let result = match timeout {
            Some(timeout) if want > 0 => {
                let timespec = types::Timespec::from(timeout);
                self.submitter
                    .submit_with_args(want, &types::SubmitArgs::new().timespec(&timespec))
            }
            _ => self.submitter.submit_and_wait(want),
        };
        self.submission.sync();
        self.completion.sync();
        match result {
            Ok(_) => Ok(()),
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether every completion that the kernel has made was taken.
    pub(super) fn is_drained(&mut self) -> bool {
        self.completion.sync();
        self.completion.is_empty() && !self.submission.cq_overflow()
    }

    pub(super) fn next_entry(&mut self) -> Option<cqueue::Entry> {
        let entry = self.completion.next();
        if entry.is_none() {
            self.completion.sync();
            return self.completion.next();
        }
        entry
    }
}

/// Whether waiting again is all there is to do: the timeout passed, a signal came, completions
/// must be taken first, or the kernel had no memory to keep one (EBADR): one operation then waits
/// for its deadline, the others go on.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::EBADR)
    )
}

impl Drop for Queues {
    fn drop(&mut self) {
        // The thread's registration is a reference of its own and would keep the ring, and with it
        // every direct descriptor, until the thread ends.
        let _ = self.submitter.unregister_ring_fd();
        // SAFETY: the parts are dropped exactly once, here, and not used afterwards; only then is
        // the box freed that they borrow from, which `new` made with `Box::into_raw`.
        unsafe {
            ManuallyDrop::drop(&mut self.submitter);
            ManuallyDrop::drop(&mut self.submission);
            ManuallyDrop::drop(&mut self.completion);
            drop(Box::from_raw(self.owner));
        }
    }
}
