//! Keeping secrets out of swap, and giving back what is not needed.

use std::io;

/// Locks the pages of `bytes` into memory, for as long as the process lives: other secrets may stand
/// in the same pages.
///
/// # Errors
///
/// When RLIMIT_MEMLOCK does not allow it.
pub fn lock_memory(bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the range is that of a slice, so it is mapped; locking changes neither what stands
    // there nor who may access it.
    unsafe { rustix::mm::mlock(bytes.as_ptr().cast_mut().cast(), bytes.len()) }?;
    Ok(())
}

/// Has the allocator give back to the system what this thread freed and it keeps in case it is
/// needed again. By itself mimalloc does so only while it is used: what a burst of handshakes took
/// would stay with a shard that rests after it. With another allocator this does nothing.
pub fn give_back_freed_memory() {
    #[cfg(feature = "mimalloc")]
    mimalloc_calls::mi_collect(true);
}

#[cfg(feature = "mimalloc")]
mod mimalloc_calls {
    // Brings the library along.
    use mimalloc as _;

    // SAFETY: as in mimalloc.h. It may be called at any time, by any thread.
    unsafe extern "C" {
        /// Frees the calling thread's pages in which nothing is left, and gives back what is free;
        /// `force`: however short a time ago it became so.
        pub safe fn mi_collect(force: bool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_locked() {
        let locked_kib = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("VmLck:"));
            let kib = line.unwrap().split_whitespace().nth(1).unwrap();
            kib.parse::<u64>().unwrap()
        };
        // Pages that nothing else is in.
        let secret = vec![7; 1 << 16];
        let before = locked_kib();
        match lock_memory(&secret) {
            Ok(()) => assert!(locked_kib() >= before + 64),
            // Rings account to the same limit on old kernels.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::OutOfMemory, "{error}"),
        }
    }
}
