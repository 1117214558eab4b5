//! Blocks of bytes and the pool that a shard takes them from. A connection that is idle owns none.

use crate::limits::BLOCK_LEN;

/// Blocks that are let go of at a time.
const TRIMMED_MAX: usize = 64;

/// [`BLOCK_LEN`] bytes of which `start..end` are filled. Its address does not change while it
/// moves between owners, so the kernel may read from it while the ring owns it.
pub struct Block {
    storage: Box<[u8; BLOCK_LEN]>,
    start: usize,
    end: usize,
}

impl Block {
    fn new() -> Self {
        Self {
            // Not by way of the stack, where an array would be made first.
            storage: vec![0; BLOCK_LEN].try_into().expect("its length"),
            start: 0,
            end: 0,
        }
    }

    /// The bytes that are filled and not yet consumed.
    pub fn filled(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    /// The same, to be worked on in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.end]
    }

    /// Whether nothing is filled.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many bytes can still be appended.
    pub fn room(&self) -> usize {
        self.storage.len() - self.end
    }

    /// What follows the filled bytes; write there, then [`Block::commit`].
    pub fn unfilled(&mut self) -> &mut [u8] {
        &mut self.storage[self.end..]
    }

    /// Counts the first `len` bytes of [`Block::unfilled`] as filled.
    ///
    /// # Panics
    ///
    /// When `len` exceeds [`Block::room`].
    pub fn commit(&mut self, len: usize) {
        assert!(
            len <= self.room(),
            "commit of {len} bytes with room for {}",
            self.room()
        );
        self.end += len;
    }

    /// Copies as many of `bytes` as there is room for and returns how many.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.room());
        self.unfilled()[..len].copy_from_slice(&bytes[..len]);
        self.end += len;
        len
    }

    /// Forgets the first `len` filled bytes.
    ///
    /// # Panics
    ///
    /// When fewer are filled.
    pub fn consume(&mut self, len: usize) {
        assert!(
            len <= self.end - self.start,
            "consume of {len} of {}",
            self.end - self.start
        );
        self.start += len;
    }

    /// Forgets the filled bytes after the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start + len);
    }

    /// Moves the filled bytes to the front, so that all other bytes are room.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.storage.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the bytes: they may be plaintext.
        f.debug_struct("Block")
            .field("filled", &(self.end - self.start))
            .finish_non_exhaustive()
    }
}

/// A bounded, last-in-first-out pool of blocks; the block given back last is the warmest.
#[derive(Debug)]
pub struct Pool {
    free: Vec<Block>,
    lent: usize,
    lent_max: usize,
    capacity: usize,
    kept: usize,
    /// The least number of free blocks since the last [`Pool::trim`]: so many nobody needed.
    spare: usize,
}

impl Pool {
    /// A pool that lends at most `capacity` blocks. It keeps those given back, because making one
    /// costs as much as relaying several requests; [`Pool::trim`] leaves `kept` at least.
    pub fn new(capacity: usize, kept: usize) -> Self {
        Self {
            free: Vec::new(),
            lent: 0,
            lent_max: 0,
            capacity,
            kept,
            spare: 0,
        }
    }

    /// An empty block, or `None` when `capacity` are out.
    pub fn take(&mut self) -> Option<Block> {
        if self.lent >= self.capacity {
            return None;
        }
        self.lent += 1;
        self.lent_max = self.lent_max.max(self.lent);
        let block = self.free.pop();
        self.spare = self.spare.min(self.free.len());
        Some(block.unwrap_or_else(Block::new))
    }

    /// Takes a block back.
    pub fn give(&mut self, mut block: Block) {
        self.lent = self.lent.saturating_sub(1);
        if self.lent + self.free.len() < self.capacity {
            block.clear();
            self.free.push(block);
        }
    }

    /// Lets go of half of the blocks that nobody needed since the last time, the coldest first, and
    /// of no more than it takes little time to.
    pub fn trim(&mut self) {
        let surplus = self.free.len().saturating_sub(self.kept);
        let unneeded = self.spare.min(surplus).div_ceil(2);
        self.free.drain(..unneeded.min(TRIMMED_MAX));
        self.spare = self.free.len();
    }

    /// Lets go of all blocks that were given back.
    pub fn release_free(&mut self) {
        (self.free, self.spare) = (Vec::new(), 0);
    }

    /// Lends at most `capacity` blocks from now on; what is out beyond it comes back in time.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.free.truncate(capacity.saturating_sub(self.lent));
        self.spare = self.spare.min(self.free.len());
    }

    /// How many blocks can be taken.
    pub fn free(&self) -> usize {
        self.capacity.saturating_sub(self.lent)
    }

    /// How many blocks are out.
    pub fn lent(&self) -> usize {
        self.lent
    }

    /// How many blocks were out at once at most.
    pub fn lent_max(&self) -> usize {
        self.lent_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_lends_no_more_than_its_capacity() {
        let mut pool = Pool::new(2, 1);
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        assert!(pool.take().is_none());
        pool.give(first);
        pool.give(second);
        assert_eq!((pool.lent(), pool.lent_max(), pool.free.len()), (0, 2, 2));
    }

    #[test]
    fn blocks_that_nobody_needs_any_more_go() {
        let mut pool = Pool::new(9, 1);
        let take = |pool: &mut Pool, count| {
            let blocks: Vec<_> = (0..count).filter_map(|_| pool.take()).collect();
            blocks.into_iter().for_each(|block| pool.give(block));
            pool.trim();
            pool.free.len()
        };
        // All were out, so none is too many yet.
        assert_eq!(take(&mut pool, 9), 9);
        // Then five of them were not, and in the end two stay because they are used.
        assert_eq!(
            [4, 2, 2, 2].map(|count| take(&mut pool, count)),
            [6, 4, 3, 2]
        );
        assert_eq!([0, 0].map(|count| take(&mut pool, count)), [1, 1]);
    }

    #[test]
    fn no_more_are_kept_than_may_be_lent() {
        let mut pool = Pool::new(3, 0);
        let blocks = [(); 3].map(|()| pool.take().unwrap());
        pool.set_capacity(1);
        blocks.into_iter().for_each(|block| pool.give(block));
        assert_eq!(pool.free.len(), 1);
        pool.set_capacity(0);
        assert_eq!((pool.free.len(), pool.spare), (0, 0));
    }

    #[test]
    fn a_pool_at_rest_holds_no_memory() {
        let mut pool = Pool::new(2, 2);
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        pool.give(first);
        assert_eq!(pool.free.len(), 1);
        pool.release_free();
        assert_eq!((pool.free.capacity(), pool.lent(), pool.free()), (0, 1, 1));
        pool.give(second);
        assert_eq!((pool.free.len(), pool.lent(), pool.free()), (1, 0, 2));
    }

    #[test]
    fn a_block_comes_back_empty() {
        let mut pool = Pool::new(1, 1);
        let mut block = pool.take().unwrap();
        assert_eq!(block.append(&[7; BLOCK_LEN + 1]), BLOCK_LEN);
        block.consume(3);
        assert_eq!((block.filled().len(), block.room()), (BLOCK_LEN - 3, 0));
        block.filled_mut()[0] = 8;
        block.compact();
        assert_eq!(
            (block.filled()[..2].to_vec(), block.room()),
            (vec![8, 7], 3)
        );
        pool.give(block);
        assert!(pool.take().unwrap().is_empty());
    }
}
