//! A small PID 1: reaps whatever ends below it, hands signals on to the program, and ends as the program ends.
//!
//! It is the child itself, split in two by a fork, so no file of the container is executed for it. It has the
//! program's identity and seccomp filter, no fd but the standard streams, and cannot be traced.

use coppice_linux::{
    SignalSet, SingleThread, SyscallResult, Wait, block_all_signals, close_others, exit_now, fork, kill, set_dumpable,
    wait_any_child, wait_signal,
};

/// Becomes init in the parent (and never returns there); returns in the child.
pub(crate) fn split(thread: &SingleThread) -> SyscallResult<()> {
    set_dumpable(false)?;
    let signals = block_all_signals();
    match fork(thread)? {
        None => Ok(()),
        Some(pid) => {
            // Init keeps no copy of the channel, whose end says that the program started. Should this fail, the start
            // is never answered with success.
            let _ = close_others(&[]);
            serve(pid, &signals)
        }
    }
}

fn serve(program: u32, signals: &SignalSet) -> ! {
    loop {
        let signal = wait_signal(signals);
        if signal == libc::SIGCHLD {
            while let Some((pid, wait)) = wait_any_child(false) {
                if pid == program {
                    exit_now(match wait {
                        Wait::Exited(code) => code.into(),
                        Wait::Killed(signal) => 128 + signal,
                    });
                }
            }
        } else {
            // The program may be gone already; its SIGCHLD is next.
            let _ = kill(program, signal);
        }
    }
}
