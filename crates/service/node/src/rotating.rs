//! A file that is written to its size and then put aside: `file`, `file.1`, `file.2`, …, the newest first.
//!
//! What is given in one write stays together, so that lines that are written whole are found whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The end of such a file.
pub(crate) struct RotatingFile {
    path: PathBuf,
    file: File,
    len: u64,
    max_size: u64,
    max_files: u32,
}

impl RotatingFile {
    /// Appends to `path`. `max_size`: bytes, which only a write that is larger by itself exceeds; `max_files`: at least one,
    /// the current one included.
    pub(crate) fn open(path: PathBuf, max_size: u64, max_files: u32) -> io::Result<Self> {
        let file = append(&path)?;
        Ok(Self { len: file.metadata()?.len(), path, file, max_size, max_files })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let at = |number| if number == 0 { self.path.clone() } else { rotated(&self.path, number) };
        for number in (1..self.max_files).rev() {
            match fs::rename(at(number - 1), at(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.max_files < 2 {
            fs::remove_file(&self.path)?;
        }
        self.file = append(&self.path)?;
        self.len = 0;
        Ok(())
    }
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.len > 0 && self.len + bytes.len() as u64 > self.max_size {
            self.rotate()?;
        }
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The file that was put aside so many times.
pub(crate) fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_to_their_size_and_number_and_what_was_written_at_once_stays_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut file = RotatingFile::open(path.clone(), 10, 3).unwrap();
        for text in ["one\n", "two\n", "three\n", "longer than ten\n", "four\n"] {
            file.write_all(text.as_bytes()).unwrap();
        }
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(read(&path), "four\n");
        assert_eq!(
            (read(&rotated(&path, 1)), read(&rotated(&path, 2))),
            ("longer than ten\n".into(), "three\n".into())
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        // Another process goes on where this one ended.
        let mut again = RotatingFile::open(path.clone(), 10, 1).unwrap();
        again.write_all(b"five\n").unwrap();
        assert_eq!(read(&path), "four\nfive\n");
        again.write_all(b"six\n").unwrap();
        assert_eq!(read(&path), "six\n");
    }
}
