//! What is mounted where, as this process sees it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::DatasetError;

/// Of this thread: tests give theirs a namespace of its own.
const TABLE: &str = "/proc/thread-self/mountinfo";

/// One line of the table (proc_pid_mountinfo(5)).
pub(crate) struct Mounted {
    device: (u32, u32),
    pub(crate) at: PathBuf,
    pub(crate) is_zfs: bool,
    /// By zfs-fuse.
    pub(crate) is_fuse: bool,
    pub(crate) source: String,
}

/// All, in the order they were mounted.
pub(crate) fn mounts() -> Result<Vec<Mounted>, DatasetError> {
    let text = std::fs::read_to_string(TABLE).map_err(DatasetError::io("read", TABLE))?;
    Ok(text.lines().filter_map(parse).collect())
}

/// What is on top of a path.
pub(crate) fn on(path: &Path) -> Result<Option<Mounted>, DatasetError> {
    Ok(mounts()?.into_iter().rfind(|mount| mount.at == path))
}

/// The mount that a directory is in.
pub(crate) fn holding(directory: &Path) -> Result<Option<Mounted>, DatasetError> {
    let device = std::fs::metadata(directory).map_err(DatasetError::io("look at", directory))?.dev();
    let device = (rustix::fs::major(device), rustix::fs::minor(device));
    Ok(mounts()?.into_iter().rfind(|mount| mount.device == device && directory.starts_with(&mount.at)))
}

fn parse(line: &str) -> Option<Mounted> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(2);
    let (major, minor) = fields.next()?.split_once(':')?;
    let at = unescape(fields.nth(1)?);
    let mut fields = filesystem.split(' ');
    let kind = fields.next()?;
    Some(Mounted {
        device: (major.parse().ok()?, minor.parse().ok()?),
        at: at.into(),
        is_zfs: matches!(kind, "zfs" | "fuse.zfs"),
        is_fuse: kind == "fuse.zfs",
        source: unescape(fields.next()?),
    })
}

/// Blanks and backslashes are written as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let code = (*first == b'\\').then(|| more.get(..3)).flatten();
        let code = code.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() { &more[3..] } else { more };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_says_what_is_where() {
        let line = r"36 35 0:52 / /mnt/two\040words rw,relatime shared:9 - fuse.zfs tank/a rw,user_id=0";
        let mount = parse(line).unwrap();
        assert_eq!((mount.device, mount.at), ((0, 52), "/mnt/two words".into()));
        assert_eq!((mount.is_zfs, mount.is_fuse, mount.source.as_str()), (true, true, "tank/a"));
        assert!(!parse("25 1 252:0 / / rw - ext4 /dev/vda rw").unwrap().is_zfs);
        assert!(parse("nonsense").is_none());
    }
}
