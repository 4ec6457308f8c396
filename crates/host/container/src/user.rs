//! Who a process runs as: `name|uid[:group|gid]` against the container's own /etc/passwd and /etc/group.
//!
//! Both files are the image's, so they are hostile: opened by fd inside the container without blocking, regular
//! files only, read to a bound, and ids outside the container's range are refused.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use coppice_linux::Tree;
use rustix::fs::{FileType, OFlags, fstat};

/// Largest /etc/passwd or /etc/group read. A directory of 100 000 users is about 8 MB.
pub const FILE_MAX: u64 = 16 << 20;

/// Supplementary groups a process can have (`NGROUPS_MAX` of linux/limits.h).
pub const GROUPS_MAX: usize = 65_536;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    #[error("no user {0:?} in the container's /etc/passwd: write a user it has, or a number")]
    NoUser(String),
    #[error("no group {0:?} in the container's /etc/group: write a group it has, or a number")]
    NoGroup(String),
    #[error("id {id} is outside the {count} ids of the container")]
    OutOfRange { id: u64, count: u32 },
    #[error("{file} of the container is not a regular file")]
    NotRegular { file: &'static str },
    #[error("{file} of the container is larger than {FILE_MAX} bytes")]
    TooLarge { file: &'static str },
    #[error("{file} of the container cannot be read: {why}")]
    Unreadable { file: &'static str, why: String },
    #[error("more than {GROUPS_MAX} groups")]
    TooManyGroups,
}

/// Looks `user` up. `groups` are extra groups by name or number; `count` is how many ids the container has.
pub fn resolve<Fd: AsFd>(tree: &Tree<Fd>, user: &str, groups: &[String], count: u32) -> Result<User, UserError> {
    let passwd = read(tree, "/etc/passwd")?;
    let group = read(tree, "/etc/group")?;
    resolve_in(&passwd, &group, user, groups, count)
}

fn read<Fd: AsFd>(tree: &Tree<Fd>, file: &'static str) -> Result<String, UserError> {
    let unreadable = |why: String| UserError::Unreadable { file, why };
    let fd: OwnedFd = match tree.open(Path::new(file), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(fd) => fd,
        Err(e) if matches!(e.errno, rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(e) => return Err(unreadable(e.errno.to_string())),
    };
    let stat = fstat(&fd).map_err(|e| unreadable(e.to_string()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(UserError::NotRegular { file });
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fd).take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|e| unreadable(e.to_string()))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(UserError::TooLarge { file });
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn resolve_in(passwd: &str, group: &str, user: &str, extra: &[String], count: u32) -> Result<User, UserError> {
    let (who, of_group) = match user.split_once(':') {
        Some((who, of_group)) => (who, Some(of_group)),
        None => (user, None),
    };
    let who = if who.is_empty() { "0" } else { who };
    let entry = passwd.lines().filter_map(Passwd::parse).find(|entry| match who.parse::<u64>() {
        Ok(uid) => u64::from(entry.uid) == uid,
        Err(_) => entry.name == who,
    });
    let uid = match (&entry, who.parse::<u64>()) {
        (Some(entry), _) => u64::from(entry.uid),
        (None, Ok(uid)) => uid,
        (None, Err(_)) => return Err(UserError::NoUser(who.to_owned())),
    };
    let gid = match of_group {
        Some(name) if !name.is_empty() => find_group(group, name)?,
        _ => entry.as_ref().map_or(0, |entry| u64::from(entry.gid)),
    };
    let mut groups = Vec::new();
    // As docker: a group named outright replaces those that /etc/group would give.
    if of_group.is_none_or(str::is_empty)
        && let Some(entry) = &entry
    {
        for (_, gid, members) in group.lines().filter_map(parse_group) {
            if members.split(',').any(|member| member == entry.name) {
                groups.push(u64::from(gid));
            }
        }
    }
    for name in extra {
        groups.push(find_group(group, name)?);
    }
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    if groups.len() > GROUPS_MAX {
        return Err(UserError::TooManyGroups);
    }
    let within = |id: u64| match u32::try_from(id) {
        Ok(id) if id < count => Ok(id),
        _ => Err(UserError::OutOfRange { id, count }),
    };
    Ok(User {
        uid: within(uid)?,
        gid: within(gid)?,
        groups: groups.into_iter().map(within).collect::<Result<_, _>>()?,
        home: entry.map_or("/", |entry| if entry.home.is_empty() { "/" } else { entry.home }).to_owned(),
    })
}

fn find_group(group: &str, name: &str) -> Result<u64, UserError> {
    // A number is itself, unless a group has that name.
    let named = group.lines().filter_map(parse_group).find(|(known, ..)| *known == name).map(|(_, gid, _)| gid.into());
    named.or_else(|| name.parse().ok()).ok_or_else(|| UserError::NoGroup(name.to_owned()))
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Passwd<'a> {
    /// `name:password:uid:gid:comment:home:shell`; a line that is anything else is passed over.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        fields.next()?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        fields.next();
        Some(Self { name, uid, gid, home: fields.next().unwrap_or("/") })
    }
}

/// `name:password:gid:member,member`.
fn parse_group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    fields.next()?;
    let gid = fields.next()?.parse().ok()?;
    Some((name, gid, fields.next().unwrap_or("")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:101:102:Web:/srv:/bin/false\n:::::\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlog:x:7:web,other\n99:x:40:\nfar:x:70000:\n";

    fn resolve(user: &str, extra: &[&str]) -> Result<User, UserError> {
        let extra: Vec<String> = extra.iter().map(|&e| e.to_owned()).collect();
        resolve_in(PASSWD, GROUP, user, &extra, 65_536)
    }

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<User, UserError> {
        Ok(User { uid, gid, groups: groups.to_vec(), home: home.to_owned() })
    }

    #[test]
    fn users_and_groups_are_what_the_containers_files_say() {
        assert_eq!(resolve("", &[]), user(0, 0, &[0], "/root"));
        assert_eq!(resolve("web", &[]), user(101, 102, &[7, 102], "/srv"));
        assert_eq!(resolve("101", &[]), user(101, 102, &[7, 102], "/srv"));
        assert_eq!(resolve("web:log", &[]), user(101, 7, &[7], "/srv"));
        assert_eq!(resolve("5000:6000", &[]), user(5000, 6000, &[6000], "/"));
        assert_eq!(resolve("5000", &["log", "12"]), user(5000, 0, &[0, 7, 12], "/"));
        assert_eq!(resolve("0:99", &[]), user(0, 40, &[40], "/root"));
    }

    #[test]
    fn unknown_names_and_ids_beyond_the_range_are_refused() {
        assert_eq!(resolve("nobody", &[]), Err(UserError::NoUser("nobody".into())));
        assert_eq!(resolve("web:wheel", &[]), Err(UserError::NoGroup("wheel".into())));
        assert_eq!(resolve("65536", &[]), Err(UserError::OutOfRange { id: 65_536, count: 65_536 }));
        assert_eq!(resolve("0:far", &[]), Err(UserError::OutOfRange { id: 70_000, count: 65_536 }));
        assert_eq!(resolve("18446744073709551616", &[]), Err(UserError::NoUser("18446744073709551616".into())));
        assert_eq!(resolve("-1", &[]), Err(UserError::NoUser("-1".into())));
    }
}
