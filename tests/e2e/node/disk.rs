//! Nodes whose root lies on a filesystem of its own, and filling that to the last byte.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::{Node, Output};

/// Names, in the root, of what takes the room.
const FILLER: &str = "filler";
/// What a filesystem that packs small files (btrfs) puts beside its own records: there can be room when there is none for data.
const SMALL: usize = 512;

impl Node {
    /// A node whose root is a filesystem in memory of `size` bytes, to be filled.
    pub fn on_small_disk(size: u64) -> Self {
        Self::prepare(Some(size))
    }

    /// A node whose root is on btrfs of `size` bytes, which are taken as they are written.
    pub fn on_btrfs(size: u64) -> Self {
        Self::on_image(size, "mkfs.btrfs", &["-q"])
    }

    /// The same, small enough to be filled: data and what btrfs keeps of it share their room, so that both run out.
    pub fn on_small_btrfs(size: u64) -> Self {
        Self::on_image(size, "mkfs.btrfs", &["-q", "--mixed"])
    }

    /// A node whose root is on ext4 of `size` bytes, of which root has none for itself.
    pub fn on_ext4(size: u64) -> Self {
        Self::on_image(size, "mkfs.ext4", &["-q", "-m", "0"])
    }

    fn on_image(size: u64, program: &str, words: &[&str]) -> Self {
        let node = Self::new();
        let image = node.file("image", "");
        File::options().write(true).open(&image).unwrap().set_len(size).unwrap();
        let mut make = node.inside(program);
        make.args(words).arg(&image);
        Output::of(make).succeeded();
        let mut mount = node.inside("mount");
        mount.args(["-o", "loop"]).arg(&image).arg(node.root());
        Output::of(mount).succeeded();
        node
    }

    fn filler(&self, part: &str) -> PathBuf {
        self.see(&self.root().join(format!("{FILLER}{part}")))
    }

    /// Takes all the room that there is on the root's filesystem, down to the last byte; also what came back since.
    pub fn fill(&self) {
        let mut file = File::options().append(true).create(true).open(self.filler("")).unwrap();
        let mut len = file.metadata().unwrap().len();
        let mut piece = 1 << 26;
        while piece >= 4096 {
            match fallocate(&file, FallocateFlags::empty(), len, piece) {
                Ok(()) => len += piece,
                Err(Errno::NOSPC) => piece /= 2,
                Err(errno) => panic!("the filler cannot grow: {errno}"),
            }
        }
        let mut grew = false;
        for size in [4096, SMALL, 1] {
            while file.write_all(&vec![0; size]).is_ok() {
                grew = true;
            }
        }
        if grew {
            let _ = file.sync_all();
        }
        let room = |part: &PathBuf| std::fs::write(part, [0; SMALL]).is_ok();
        let mut parts = (0..).map(|number| self.filler(&format!("-{number}"))).filter(|part| !part.exists());
        while parts.next().is_some_and(|part| room(&part)) {}
    }

    /// Gives it back.
    pub fn free(&self) {
        std::fs::remove_file(self.filler("")).unwrap();
        let parts = (0..).map(|number| self.filler(&format!("-{number}"))).take_while(|part| part.exists());
        parts.for_each(|part| std::fs::remove_file(part).unwrap());
    }
}
