//! The provided buffer ring: receive buffers that are lent to the kernel.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::{Submitter, types::BufRingEntry};

/// The buffer group that receives select from.
pub(super) const GROUP: u16 = 0;

/// The kernel wants the ring of entries aligned to a page.
const PAGE: usize = 4096;

/// Bytes that arrived in a receive buffer. Return it with [`super::Ring::give_back`].
#[derive(Debug)]
pub struct Received {
    id: u16,
    len: u32,
}

impl Received {
    /// How many bytes arrived.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Equal buffers in one allocation, and the ring of entries through which the kernel takes them.
/// The buffer that came back last is lent first, because it is the one still in the cache.
pub(super) struct BufferRing {
    entries: *mut BufRingEntry,
    entries_layout: Layout,
    storage: *mut u8,
    storage_layout: Layout,
    buffer_len: usize,
    count: u16,
    /// Buffers that the kernel may take, the next one last.
    free: Vec<u16>,
    /// Which buffers are with a caller.
    held: Vec<bool>,
    /// Buffers that the kernel has taken so far; where it takes the next one.
    taken: u16,
    changed: bool,
}

impl BufferRing {
    pub(super) fn new(count: u16, buffer_len: usize) -> Self {
        assert!(
            count.is_power_of_two(),
            "{count} receive buffers are no power of two"
        );
        assert!(buffer_len > 0, "a receive buffer has at least a byte");
        let storage_len = usize::from(count)
            .checked_mul(buffer_len)
            .expect("all receive buffers together fit the address space");
        let entries_layout =
            Layout::from_size_align(usize::from(count) * size_of::<BufRingEntry>(), PAGE)
                .expect("a small layout aligned to a page is valid");
        let storage_layout = Layout::from_size_align(storage_len, PAGE)
            .expect("a layout of at most 4 GiB aligned to a page is valid");
        Self {
            entries: allocate(entries_layout).cast(),
            entries_layout,
            storage: allocate(storage_layout),
            storage_layout,
            buffer_len,
            count,
            free: (0..count).rev().collect(),
            held: vec![false; usize::from(count)],
            taken: 0,
            changed: true,
        }
    }

    pub(super) fn register(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        // SAFETY: the entries are zeroed, page-aligned, `count` long, and live until this value is
        // dropped, which `Ring` does after its queues (and so the kernel's ring) are gone or leaks.
        unsafe { submitter.register_buf_ring_with_flags(self.entries as u64, self.count, GROUP, 0) }
    }

    /// Writes the free buffers into the ring's entries, the warmest first.
    ///
    /// With `DEFER_TASKRUN` the kernel takes buffers only while this thread is inside it, so once
    /// every completion was seen, all entries from `taken` on are ours to order. Before that they
    /// are not: a buffer whose completion still waits would be lent twice.
    pub(super) fn publish(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let mask = self.count - 1;
        let len = self.buffer_len();
        for (position, &id) in self.free.iter().rev().enumerate() {
            let offset = u16::try_from(position).expect("at most 2^15 buffers are free");
            let index = usize::from(self.taken.wrapping_add(offset) & mask);
            // SAFETY: `index` is masked to the allocation's `count` entries; `id` is below `count`,
            // so the address stays within the storage.
            unsafe {
                let entry = &mut *self.entries.add(index);
                entry.set_addr(self.storage.add(usize::from(id) * self.buffer_len) as u64);
                entry.set_len(len);
                entry.set_bid(id);
            }
        }
        let free = u16::try_from(self.free.len()).expect("at most 2^15 buffers are free");
        // SAFETY: the tail lies in the first entry's reserved field, which `set_*` never write, is
        // two bytes long and aligned; the kernel only reads it.
        let tail = unsafe { &*BufRingEntry::tail(self.entries).cast::<AtomicU16>() };
        tail.store(self.taken.wrapping_add(free), Ordering::Release);
    }

    /// Accounts for a buffer that a completion names.
    pub(super) fn take(&mut self, id: u16, len: usize) -> Received {
        self.free.retain(|&free| free != id);
        self.held[usize::from(id)] = true;
        self.taken = self.taken.wrapping_add(1);
        Received {
            id,
            len: u32::try_from(len.min(self.buffer_len)).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn bytes(&mut self, received: &Received) -> &mut [u8] {
        let (id, len) = (usize::from(received.id), received.len as usize);
        assert!(
            self.held.get(id) == Some(&true) && len <= self.buffer_len,
            "buffer {id} is not of this ring"
        );
        // SAFETY: the buffer is held, so the kernel does not write to it; `id` and `len` are within
        // the storage, which is initialised; the borrow of `self` keeps it exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.storage.add(id * self.buffer_len), len) }
    }

    pub(super) fn give_back(&mut self, received: Received) {
        let held = std::mem::take(&mut self.held[usize::from(received.id)]);
        assert!(held, "buffer {} is not of this ring", received.id);
        self.free.push(received.id);
        self.changed = true;
    }

    /// Bytes of each buffer.
    pub(super) fn buffer_len(&self) -> u32 {
        u32::try_from(self.buffer_len).expect("receive buffers are smaller than 4 GiB")
    }

    pub(super) fn lent(&self) -> usize {
        self.free.len()
    }

    /// Keeps the memory when this value is dropped.
    pub(super) fn leak(&mut self) {
        self.entries = std::ptr::null_mut();
    }
}

fn allocate(layout: Layout) -> *mut u8 {
    // SAFETY: the layout has a size above zero: there is at least one buffer of at least a byte.
    let pointer = unsafe { alloc_zeroed(layout) };
    if pointer.is_null() {
        handle_alloc_error(layout);
    }
    pointer
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        if self.entries.is_null() {
            return;
        }
        // SAFETY: both were allocated with these layouts and are freed once; nothing is in flight
        // any more, or `leak` was called.
        unsafe {
            dealloc(self.entries.cast(), self.entries_layout);
            dealloc(self.storage, self.storage_layout);
        }
    }
}
