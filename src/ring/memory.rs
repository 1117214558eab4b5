//! Keeping secrets out of swap.

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
