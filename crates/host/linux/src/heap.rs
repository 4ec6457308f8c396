//! Memory that a process has and does not need.

/// What `malloc` takes from the kernel apart, in bytes, and gives back as soon as it is freed: glibc's own default, which
/// it raises to the largest block that was ever freed unless it is set.
#[cfg(target_env = "gnu")]
const APART: libc::c_int = 128 << 10;

/// Has large blocks given back when they are freed, however large those before them were. To be called before a job that
/// takes much once, and [`return_idle_memory`] after it.
pub fn keep_large_blocks_apart() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number of the allocator's, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, APART);
    }
}

/// Gives back to the kernel what is free (glibc keeps what a thread frees for other threads, which may never want as much)
/// and pages of code: those that are still used come back by themselves, those that only starting needed do not. After a
/// job that takes much once, as reading the kernel's type information does.
pub fn return_idle_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks and touches free memory alone.
    unsafe {
        libc::malloc_trim(0);
    }
    // Without the list of mappings nothing is given back, and nothing else changes.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, len) in maps.lines().filter_map(code) {
        // SAFETY: a private mapping of a file that can only be read and executed has no page of its own that could be
        // lost: what is touched next is read from the file's pages again.
        unsafe {
            libc::madvise(start as *mut libc::c_void, len, libc::MADV_DONTNEED);
        }
    }
}

/// Start and length of a mapping of a file's code, out of a line of `/proc/PID/maps` (proc(5)).
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, mode) = (fields.next()?, fields.next()?);
    let (_offset, _device, inode) = (fields.next()?, fields.next()?, fields.next()?);
    if mode != "r-xp" || inode == "0" {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_that_is_in_a_file_is_given_back() {
        let of = |mode: &str, inode: &str| code(&format!("00400000-00403000 {mode} 00001000 fe:00 {inode}   /bin/x"));
        assert_eq!(of("r-xp", "17"), Some((0x40_0000, 0x3000)));
        assert_eq!((of("r--p", "17"), of("rwxp", "17"), of("r-xs", "17"), of("r-xp", "0")), (None, None, None, None));
        assert_eq!((code(""), code("nothing of the kind")), (None, None));
    }

    #[test]
    fn a_process_goes_on_with_less() {
        keep_large_blocks_apart();
        let large = vec![1u8; 64 << 20];
        let small: Vec<Vec<u8>> = (0..1000).map(|n| vec![7; n]).collect();
        drop(large);
        let field = |key: &str| {
            let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
            line.split_ascii_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let before = field("Rss:");
        return_idle_memory();
        assert!(field("Rss:") < before, "{} kB of {before} kB", field("Rss:"));
        assert!(small.iter().enumerate().all(|(n, bytes)| bytes.len() == n && bytes.iter().all(|byte| *byte == 7)));
    }
}
