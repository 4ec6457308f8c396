//! Memory that is free, and still the process's.

/// Gives free memory back to the kernel. After a job that takes much once, as reading the kernel's type information
/// does: glibc keeps what a thread frees for other threads, which may never want as much.
pub fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks and touches free memory alone.
    unsafe {
        libc::malloc_trim(0);
    }
}
