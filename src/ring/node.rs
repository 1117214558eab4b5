//! Which memory node a thread's memory comes from (set_mempolicy(2), numa(7)).

use std::io;

/// Nodes that a mask has room for; no kernel is built with more (`CONFIG_NODES_SHIFT` ends at 10).
const NODES_MAX: u32 = 1024;

/// Modes of set_mempolicy (include/uapi/linux/mempolicy.h).
const MPOL_BIND: libc::c_int = 2;
const MPOL_LOCAL: libc::c_int = 4;

/// Where a thread's memory comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MemoryPolicy {
    /// This node alone.
    Bind(u32),
    /// The node of the CPU that it runs on, while that has some, whatever the process was started
    /// with.
    Local,
}

/// Has the calling thread's memory come from where `policy` says, as far as it is not there yet.
///
/// # Errors
///
/// When there is no such node, or the cgroup's `cpuset.mems` does not have it. A kernel without
/// memory nodes has one place for everything: that is no error.
pub fn set_memory_policy(policy: MemoryPolicy) -> io::Result<()> {
    const WORD_BITS: u32 = libc::c_ulong::BITS;
    let mut mask = [0; (NODES_MAX / WORD_BITS) as usize];
    let (mode, bits) = match policy {
        MemoryPolicy::Local => (MPOL_LOCAL, 0),
        MemoryPolicy::Bind(node) if node >= NODES_MAX => {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        MemoryPolicy::Bind(node) => {
            mask[(node / WORD_BITS) as usize] = 1 << (node % WORD_BITS);
            // The kernel takes one bit fewer than it is told.
            (MPOL_BIND, libc::c_ulong::from(NODES_MAX) + 1)
        }
    };
    let words: *const libc::c_ulong = match policy {
        MemoryPolicy::Bind(_) => mask.as_ptr(),
        MemoryPolicy::Local => std::ptr::null(),
    };
    // SAFETY: the call reads as many bits of the mask as it is told, less one, which are there, or
    // nothing where there is none; it writes nothing of ours.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, words, bits) };
    if result == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOSYS) && policy == MemoryPolicy::Local => {
            Ok(())
        }
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The policy of a page of this thread's, as the kernel shows it.
    fn policies() -> Option<String> {
        std::fs::read_to_string("/proc/thread-self/numa_maps").ok()
    }

    #[test]
    fn memory_is_bound_to_a_node_that_is_there() {
        // A thread of its own: the policy is the thread's.
        let bound = std::thread::spawn(|| {
            let result = set_memory_policy(MemoryPolicy::Bind(0));
            (result, policies())
        });
        let (result, maps) = bound.join().unwrap();
        match (result, maps) {
            (Ok(()), Some(maps)) => assert!(maps.contains(" bind:0 "), "{maps}"),
            (Err(error), None) => println!("SKIPPED: no memory nodes here: {error}"),
            (result, maps) => panic!("{result:?}, {maps:?}"),
        }
    }

    #[test]
    fn a_node_that_is_not_there_is_an_error() {
        for node in [NODES_MAX - 1, NODES_MAX, u32::MAX] {
            assert!(
                set_memory_policy(MemoryPolicy::Bind(node)).is_err(),
                "{node}"
            );
        }
    }

    #[test]
    fn local_memory_is_always_to_be_had() {
        assert!(set_memory_policy(MemoryPolicy::Local).is_ok());
    }
}
