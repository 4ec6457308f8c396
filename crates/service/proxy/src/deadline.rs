//! Deadlines of thousands of connections at the cost of writing a number.
//!
//! A timer that is armed and disarmed for every request costs more than the request's own bookkeeping. Here a deadline is
//! a field; a tick every [`TICK`] walks over all of them and wakes whose time has come. Deadlines are therefore kept to a
//! tick, and never early.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use coppice_base::Timestamp;

use crate::plan;

pub(crate) const TICK: Duration = Duration::from_millis(100);

const NEVER: u64 = u64::MAX;

pub(crate) struct Deadlines {
    base: Instant,
    entries: RefCell<Vec<Entry>>,
    free: RefCell<Vec<u32>>,
    now: Cell<u64>,
    count: Cell<usize>,
}

struct Entry {
    at: u64,
    waker: Option<Waker>,
}

impl Deadlines {
    /// `base` is where time begins.
    pub(crate) fn new(base: Instant) -> Rc<Self> {
        Rc::new(Self {
            base,
            entries: RefCell::default(),
            free: RefCell::default(),
            now: Cell::new(0),
            count: Cell::new(0),
        })
    }

    pub(crate) fn watch(self: &Rc<Self>) -> Watch {
        if self.count.get() == 0 {
            // Nobody had asked for the time: it may be long ago that it was told.
            self.now.set(plan::since(self.base).0);
        }
        self.count.set(self.count.get() + 1);
        let mut entries = self.entries.borrow_mut();
        let empty = Entry { at: NEVER, waker: None };
        let key = match self.free.borrow_mut().pop() {
            Some(key) => {
                entries[key as usize] = empty;
                key
            }
            None => {
                entries.push(empty);
                u32::try_from(entries.len() - 1).unwrap_or(u32::MAX)
            }
        };
        Watch { key, of: Rc::clone(self) }
    }

    /// The time passes to `now`. `all` wakes everyone, whatever their deadline: something else has changed.
    pub(crate) fn tick(&self, now: Timestamp, all: bool) {
        self.now.set(now.0);
        for entry in self.entries.borrow().iter() {
            if (all || entry.at <= now.0)
                && let Some(waker) = &entry.waker
            {
                waker.wake_by_ref();
            }
        }
    }

    /// It is `now`, though nobody is woken for it.
    pub(crate) fn note(&self, now: Timestamp) {
        self.now.set(now.0);
    }

    /// The time that was last told.
    pub(crate) fn noted(&self) -> Timestamp {
        Timestamp(self.now.get())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count.get() == 0
    }
}

/// The deadline of one task.
pub(crate) struct Watch {
    key: u32,
    of: Rc<Deadlines>,
}

impl Watch {
    pub(crate) fn set(&self, from_now: Duration) {
        let after = u64::try_from((from_now + TICK).as_millis()).unwrap_or(NEVER);
        self.of.entries.borrow_mut()[self.key as usize].at = self.of.now.get().saturating_add(after);
    }

    pub(crate) fn clear(&self) {
        self.of.entries.borrow_mut()[self.key as usize].at = NEVER;
    }

    /// Whether the deadline is over; if not, the task is woken when it is (or when something else has changed).
    pub(crate) fn expired(&self, cx: &Context<'_>) -> bool {
        let mut entries = self.of.entries.borrow_mut();
        let entry = &mut entries[self.key as usize];
        if entry.at <= self.of.now.get() {
            return true;
        }
        if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            entry.waker = Some(cx.waker().clone());
        }
        false
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let entry = &mut self.of.entries.borrow_mut()[self.key as usize];
        (entry.at, entry.waker) = (NEVER, None);
        self.of.free.borrow_mut().push(self.key);
        self.of.count.set(self.of.count.get() - 1);
    }
}
