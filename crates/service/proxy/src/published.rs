//! What one thread publishes and the workers read: a value that is replaced whole, and a number that tells a reader,
//! without a lock, that there is a newer one.
//!
//! Value and number travel together, under one lock. Were they read one after the other, a reader that begins while the
//! owner publishes could take the old value for the new number, and would serve it until the next change.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A value with its number; the first has 0.
type Numbered<T> = (u64, Arc<T>);

pub(crate) struct Published<T> {
    newest: Mutex<Numbered<T>>,
    /// The number of `newest`, written while that is locked.
    number: AtomicU64,
}

/// A thread's own hold of the newest value it has seen.
pub(crate) struct Reader<T>(RefCell<Numbered<T>>);

impl<T> Published<T> {
    pub(crate) fn new(first: T) -> Self {
        Self { newest: Mutex::new((0, Arc::new(first))), number: AtomicU64::new(0) }
    }

    /// Replaces the value: whoever reads after this returns sees `value`, or a later one.
    pub(crate) fn publish(&self, value: T) {
        let mut newest = self.lock();
        *newest = (newest.0 + 1, Arc::new(value));
        self.number.store(newest.0, Ordering::Release);
    }

    pub(crate) fn newest(&self) -> Arc<T> {
        Arc::clone(&self.lock().1)
    }

    /// Grows with each change.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    pub(crate) fn reader(&self) -> Reader<T> {
        Reader(RefCell::new(self.lock().clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Numbered<T>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Reader<T> {
    /// Shows the newest value. Lent, not given: a shared count would be written by all threads for each request.
    pub(crate) fn see<R>(&self, published: &Published<T>, see: impl FnOnce(&T) -> R) -> R {
        let mut known = self.0.borrow_mut();
        if known.0 != published.number() {
            *known = published.lock().clone();
        }
        see(&known.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_begins_while_values_are_published_has_the_number_of_its_value() {
        const VALUES: u64 = 200_000;
        let published = Published::new(0);
        std::thread::scope(|scope| {
            // Each value is its own number.
            scope.spawn(|| (1..=VALUES).for_each(|value| published.publish(value)));
            let mut last = 0;
            while last < VALUES {
                let reader = published.reader();
                let known = reader.0.borrow();
                assert_eq!(known.0, *known.1, "it would show the older value until the next change");
                last = known.0;
            }
        });
    }

    #[test]
    fn a_reader_sees_each_change_once_it_is_published() {
        let published = Published::new(0);
        let reader = published.reader();
        for round in 1..4 {
            published.publish(round);
            assert_eq!(reader.see(&published, |value| *value), round);
            assert_eq!((published.number(), *published.newest()), (round, round));
        }
    }
}
