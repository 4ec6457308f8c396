//! Ctrl-C: what a task has standing on the machine is taken down before it ends.
//!
//! A task that leaves something behind when it dies (a node that runs, a folder of gigabytes) says here how to undo it.
//! The first SIGINT, SIGTERM or SIGHUP runs that on a thread of its own, and the task ends with 128 + the signal; the
//! second ends it at once. Without a word here, a signal ends the task as it ends any program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

/// Whether somebody wants this task to end.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on, the first signal runs `undo`.
    pub(crate) fn undone_by(undo: impl FnOnce() + Send + 'static) -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the flag is not up yet when the first signal looks at it.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))
                .and_then(|_| flag::register(signal, Arc::clone(&asked)))
                .context("cannot listen for Ctrl-C")?;
        }
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for Ctrl-C")?;
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                undo();
                std::process::exit(128 + signal);
            }
        });
        Ok(Self(asked))
    }

    /// Returns unless the task is ending: a step that fails then failed because of the signal, which killed what it
    /// waited for, and has nothing to say.
    pub(crate) fn or_park(&self) {
        while self.0.load(Ordering::SeqCst) {
            thread::park_timeout(Duration::from_secs(60));
        }
    }
}
