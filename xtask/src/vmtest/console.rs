//! What the machine says on its serial line: kernel messages, the tests' output, and for each program one line when
//! it begins and one with its exit code when it ends.

/// A program that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) name: String,
    pub(crate) code: i32,
    /// Sums of the test runner's result lines.
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// Everything between begin and end.
    pub(crate) said: String,
}

/// The lines the machine's init prints start with this; tests do not.
pub(crate) const MARK: &str = "@vmtest";

/// Whether the kernel said this line, `[  12.345678] …`, and not a program.
pub(crate) fn is_kernels(line: &str) -> bool {
    let time = line.trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(time, _)| time.trim());
    time.is_some_and(|time| time.contains('.') && time.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// Every program that began and ended, in order.
pub(crate) fn read(console: &str) -> Vec<End> {
    let mut ends = Vec::new();
    let mut current: Option<End> = None;
    for line in console.lines().map(str::trim_end) {
        // The mark need not start the line: a test may have left one unfinished, the kernel may have cut in.
        let words: Option<Vec<&str>> = line.find(MARK).map(|at| line[at..].split_whitespace().collect());
        match words.as_deref() {
            Some([_, "begin", name]) => {
                let name = (*name).to_owned();
                current = Some(End { name, code: -1, passed: 0, failed: 0, said: String::new() });
            }
            Some([_, "end", name, code]) => {
                if let Some(mut end) = current.take().filter(|end| end.name == *name) {
                    end.code = code.parse().unwrap_or(-1);
                    ends.push(end);
                }
            }
            _ => {
                if let Some(end) = &mut current {
                    if line.contains("test result: ") {
                        end.passed += count(line, " passed");
                        end.failed += count(line, " failed");
                    }
                    end.said.push_str(line);
                    end.said.push('\n');
                }
            }
        }
    }
    ends
}

/// The number before a word.
fn count(line: &str, word: &str) -> usize {
    let before = line.split(word).next().unwrap_or_default();
    before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_and_noise_is_kept_apart() {
        let text = "[ 0.1] Linux\r\n@vmtest begin a::b\r\nrunning 2 tests\r\n\
                    test result: ok. 12 passed; 1 failed; 0 ignored\r\nhalf a line @vmtest end a::b 101\r\n[ 9] off\r\n";
        let ends = read(text);
        assert_eq!(ends.len(), 1);
        assert_eq!((ends[0].code, ends[0].passed, ends[0].failed), (101, 12, 1));
        assert!(ends[0].said.starts_with("running 2 tests\n"));
    }

    #[test]
    fn the_kernels_lines_are_told_from_the_programs() {
        assert!(is_kernels("[  173.857151] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!\r\n"));
        assert!(!is_kernels("test [1.0] holds ... ok") && !is_kernels("[a.b] said") && !is_kernels(""));
    }

    #[test]
    fn a_program_that_never_ends_is_not_an_end() {
        assert_eq!(read("@vmtest begin a\nKernel panic\n"), []);
    }
}
