//! Where the hierarchies are mounted and where this process is in them, read from `/proc/self/mountinfo`
//! (proc_pid_mountinfo(5)) and `/proc/self/cgroup` (cgroups(7)). Pure: text in, facts out.

use std::path::{Path, PathBuf};

/// What the crate uses of cgroups. `Unified` is the v2 hierarchy itself; the others are v1 controllers, or, under
/// [`Kind::V2`], files of the unified hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    Cpu,
    Cpuacct,
    Memory,
    Pids,
    Devices,
    Freezer,
    Cpuset,
    Blkio,
    Unified,
}

impl Controller {
    fn named(text: &str) -> Option<Self> {
        Some(match text {
            "cpu" => Self::Cpu,
            "cpuacct" => Self::Cpuacct,
            "memory" => Self::Memory,
            "pids" => Self::Pids,
            "devices" => Self::Devices,
            "freezer" => Self::Freezer,
            "cpuset" => Self::Cpuset,
            "blkio" => Self::Blkio,
            _ => return None,
        })
    }

    /// The kernel's name, for messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
            Self::Cpuset => "cpuset",
            Self::Blkio => "blkio",
            Self::Unified => "unified",
        }
    }
}

/// Which hierarchies carry the controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    V1,
    V2,
    /// Controllers on v1; v2 mounted too, for freezing, killing and pressure.
    Hybrid,
    /// No cgroup filesystem is mounted.
    None,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub controllers: Vec<Controller>,
    pub point: PathBuf,
    /// This process's cgroup, as a path below `point`; empty: the mount's own root, or a place the mount does not show.
    pub own: PathBuf,
}

/// All hierarchies this crate uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub kind: Kind,
    pub mounts: Vec<Mount>,
}

impl Layout {
    /// Reads the two files' texts. Lines it does not know are passed over: new kernels add some.
    pub fn read(mountinfo: &str, own_cgroups: &str) -> Self {
        let mut mounts: Vec<Mount> = Vec::new();
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let mut fields = before.split(' ').skip(3);
            let (Some(root), Some(point)) = (fields.next(), fields.next()) else { continue };
            let mut tail = after.split(' ');
            let (Some(fs), _source, Some(options)) = (tail.next(), tail.next(), tail.next()) else { continue };
            let controllers: Vec<Controller> = match fs {
                "cgroup2" => vec![Controller::Unified],
                "cgroup" => options.split(',').filter_map(Controller::named).collect(),
                _ => continue,
            };
            if controllers.is_empty() || mounts.iter().any(|m| m.controllers == controllers) {
                continue;
            }
            let own = own_cgroups
                .lines()
                .find_map(|line| own_path(line, controllers[0]))
                .and_then(|path| Path::new(path).strip_prefix(unescape(root)).ok().map(Path::to_path_buf))
                .filter(|path| path.components().all(|c| matches!(c, std::path::Component::Normal(_))))
                .unwrap_or_default();
            mounts.push(Mount { controllers, point: unescape(point), own });
        }
        let unified = mounts.iter().any(|m| m.controllers == [Controller::Unified]);
        let kind = match (unified, mounts.len() - usize::from(unified)) {
            (true, 0) => Kind::V2,
            (true, _) => Kind::Hybrid,
            (false, 0) => Kind::None,
            (false, _) => Kind::V1,
        };
        Self { kind, mounts }
    }
}

/// The path of a `/proc/self/cgroup` line, when the line is about `controller`.
fn own_path(line: &str, controller: Controller) -> Option<&str> {
    let mut parts = line.splitn(3, ':');
    let (id, names, path) = (parts.next()?, parts.next()?, parts.next()?);
    let ours = match controller {
        Controller::Unified => id == "0" && names.is_empty(),
        _ => names.split(',').any(|name| name == controller.as_str()),
    };
    ours.then_some(path)
}

/// mountinfo writes space, tab, newline and backslash as `\ooo`.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal =
            bytes.get(at + 1..at + 4).filter(|d| bytes[at] == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        if let Some(digits) = octal {
            let value = digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            out.push(value as u8);
            at += 4;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v2_machine_has_one_mount_and_knows_its_own_place() {
        let layout = Layout::read(
            "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n30 23 0:5 / /dev rw - devtmpfs udev rw",
            "0::/system.slice/coppice.service\n",
        );
        assert_eq!(layout.kind, Kind::V2);
        assert_eq!(layout.mounts[0].own, Path::new("system.slice/coppice.service"));
    }

    #[test]
    fn co_mounted_controllers_are_one_mount_and_named_hierarchies_are_passed_over() {
        let layout = Layout::read(
            "1 2 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             2 2 0:2 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
             3 2 0:3 / /sys/fs/cgroup/with\\040space rw - cgroup cgroup rw,memory",
            "4:memory:/user\n3:cpu,cpuacct:/\n1:name=systemd:/",
        );
        assert_eq!(layout.kind, Kind::V1);
        assert_eq!(layout.mounts.len(), 2);
        assert_eq!(layout.mounts[0].controllers, [Controller::Cpu, Controller::Cpuacct]);
        assert_eq!(layout.mounts[1].point, Path::new("/sys/fs/cgroup/with space"));
        assert_eq!(layout.mounts[1].own, Path::new("user"));
    }

    #[test]
    fn v2_without_controllers_beside_v1_is_hybrid() {
        let layout = Layout::read(
            "1 2 0:1 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n2 2 0:2 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
            "1:pids:/\n0::/",
        );
        assert_eq!(layout.kind, Kind::Hybrid);
    }

    #[test]
    fn a_place_outside_the_mount_or_with_dots_is_taken_as_the_mounts_root() {
        for own in ["0::/../other", "0::/elsewhere", ""] {
            let layout = Layout::read("1 2 0:1 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw", own);
            assert_eq!(layout.mounts[0].own, Path::new(""), "{own}");
        }
        let inside = Layout::read("1 2 0:1 /docker/abc /cg rw - cgroup2 none rw", "0::/docker/abc/x");
        assert_eq!(inside.mounts[0].own, Path::new("x"));
    }

    #[test]
    fn nothing_mounted_is_none_and_broken_lines_do_not_panic() {
        for text in ["", "garbage", "1 2 3 - cgroup", "1 2 3 / - cgroup2 x", "a - b - c \\"] {
            assert_eq!(Layout::read(text, "x:y").kind, Kind::None, "{text}");
        }
    }
}
