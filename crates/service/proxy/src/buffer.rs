//! Buffers that connections borrow while they have something to hold, kept by each thread for the next one.

use std::cell::RefCell;
use std::ops::Range;

/// Bytes of a read buffer: a request's head fits, and a body goes through in pieces of it.
pub const SIZE: usize = 32 << 10;
/// Buffers a thread keeps for later.
const KEPT: usize = 256;

thread_local! {
    static READ: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static WRITE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A header field's place in a buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) name: (u32, u32),
    pub(crate) value: (u32, u32),
}

/// A read buffer: bytes from `start` to `end` wait to be understood. Holds no memory until something is read.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    data: Vec<u8>,
    start: usize,
    end: usize,
    /// How far a head's end was looked for.
    pub(crate) scanned: usize,
}

impl Buffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether nothing more can be read into it before something is consumed.
    pub(crate) fn is_full(&self) -> bool {
        self.end - self.start == SIZE
    }

    pub(crate) fn slice(&self, range: Range<usize>) -> &[u8] {
        &self.bytes()[range]
    }

    /// Where to read into. Empty only when the buffer is full.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.data.is_empty() {
            self.data = READ.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE]);
        }
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        } else if self.end == SIZE && self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.data[self.end..]
    }

    pub(crate) fn filled(&mut self, count: usize) {
        self.end += count;
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        self.scanned = 0;
        debug_assert!(self.start <= self.end);
    }

    /// Gives the memory back where nothing is in it.
    pub(crate) fn rest(&mut self) {
        if self.is_empty() && !self.data.is_empty() {
            let data = std::mem::take(&mut self.data);
            (self.start, self.end, self.scanned) = (0, 0, 0);
            keep(&READ, data);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.data.is_empty() {
            keep(&READ, std::mem::take(&mut self.data));
        }
    }
}

fn keep(pool: &'static std::thread::LocalKey<RefCell<Vec<Vec<u8>>>>, data: Vec<u8>) {
    // A thread that ends has no pool any more.
    let _ = pool.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < KEPT {
            pool.push(data);
        }
    });
}

/// An empty vector to write into, with memory of an earlier use.
pub(crate) fn writer() -> Vec<u8> {
    WRITE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(2048))
}

/// Takes a writer back.
pub(crate) fn done(mut data: Vec<u8>) {
    if data.capacity() > 0 && data.capacity() <= SIZE {
        data.clear();
        keep(&WRITE, data);
    }
}
