//! What tells one snapshot from every other, on any machine: 128 random bits. Its copies that were sent have the same, which is
//! how a difference finds what it is from.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;

use crate::error::DatasetError;

/// On a snapshot's root; no stamp.
const ATTRIBUTE: &str = "trusted.coppice-id";
const SOURCE: &str = "/dev/urandom";
const BYTES: usize = 16;

pub(crate) fn new() -> Result<String, DatasetError> {
    let mut random = [0u8; BYTES];
    File::open(SOURCE).and_then(|mut file| file.read_exact(&mut random)).map_err(DatasetError::io("read", SOURCE))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(crate) fn is_one(text: &str) -> bool {
    text.len() == 2 * BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// That of a snapshot's tree.
pub(crate) fn read(tree: impl AsFd) -> Option<String> {
    let mut value = [0u8; 2 * BYTES];
    let len = fgetxattr(tree, ATTRIBUTE, &mut value).ok()?;
    std::str::from_utf8(&value[..len]).ok().filter(|text| is_one(text)).map(str::to_owned)
}

pub(crate) fn write(tree: impl AsFd, id: &str) -> Result<(), Errno> {
    fsetxattr(tree, ATTRIBUTE, id.as_bytes(), XattrFlags::empty())
}
