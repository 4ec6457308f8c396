//! `volumes` and `tmpfs` of a workload: what is mounted where.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use coppice_base::{Bytes, Name};
use coppice_spec::{MountSource, VolumeMount};

use crate::diagnostic::{Report, quoted};
use crate::fields::{Fields, Placed};
use crate::parse::Input;

const FORMS: &str = "write \"name:/path\", \"./dir:/path\" or \"/dir:/path:ro\"";

/// The `volumes` of a workload.
pub(crate) fn volumes(fields: &Fields<'_>, input: &Input<'_, '_>, report: &mut Report<'_>) -> Vec<Placed<VolumeMount>> {
    let mut mounts: Vec<Placed<VolumeMount>> = Vec::new();
    let mut targets = BTreeSet::new();
    for item in fields.texts("volumes", report).unwrap_or_default() {
        match parse(&item.value, &input.dir(&item.span, report)) {
            Ok(mount) if !targets.insert(mount.target.clone()) => {
                let message = format!("{} is mounted twice in {}", quoted(&mount.target), fields.title);
                report.error(&item.span, message, "give one of the two another path");
            }
            Ok(mount) => mounts.push(Placed::new(mount, &item.span)),
            Err((message, help)) => report.error(&item.span, message, help),
        }
    }
    mounts
}

/// The `tmpfs` of a workload; `mounts` may not hold the same path.
pub(crate) fn tmpfs(
    fields: &Fields<'_>,
    mounts: &[Placed<VolumeMount>],
    report: &mut Report<'_>,
) -> BTreeMap<String, Option<Bytes>> {
    let mut found = BTreeMap::new();
    let mounted: BTreeSet<&str> = mounts.iter().map(|mount| mount.value.target.as_str()).collect();
    for item in fields.texts("tmpfs", report).unwrap_or_default() {
        match parse_tmpfs(&item.value) {
            Ok((path, size)) => {
                let taken = mounted.contains(path.as_str());
                if taken || found.insert(path.clone(), size).is_some() {
                    let message = format!("{} is mounted twice in {}", quoted(&path), fields.title);
                    report.error(&item.span, message, "give one of the two another path");
                }
            }
            Err((message, help)) => report.error(&item.span, message, help),
        }
    }
    found
}

/// One entry of `volumes`, or what is wrong with it and the fix.
pub(crate) fn parse(text: &str, dir: &Path) -> Result<VolumeMount, (String, String)> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, None),
        [source, target] => (Some(source), target, None),
        [source, target, options] => (Some(source), target, Some(options)),
        _ => return Err((format!("volume {} has too many colons", quoted(text)), FORMS.to_owned())),
    };
    let read_only = match options {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(other) => {
            let message = format!("{} is not an option of volume {}", quoted(other), quoted(text));
            return Err((message, "end it with :ro for read-only, or with nothing".to_owned()));
        }
    };
    let source = match source {
        None if !target.starts_with('/') => {
            let message = format!("volume {} does not say where it is mounted", quoted(text));
            return Err((message, FORMS.to_owned()));
        }
        None => MountSource::Anonymous,
        Some(source) => parse_source(source, dir)?,
    };
    Ok(VolumeMount { source, target: container_path(target, "a volume's path in the container")?, read_only })
}

fn parse_source(source: &str, dir: &Path) -> Result<MountSource, (String, String)> {
    if source.is_empty() {
        return Err(("a volume has nothing before its first colon".to_owned(), FORMS.to_owned()));
    }
    if let Some(rest) = source.strip_prefix('~') {
        let message = format!("`~` is not expanded in volume source {}", quoted(source));
        return Err((message, format!("write ${{HOME}}{rest}")));
    }
    if source.starts_with('/')
        || source == "."
        || source == ".."
        || source.starts_with("./")
        || source.starts_with("../")
    {
        return host_path(source, dir).map(MountSource::Host);
    }
    if source.contains('/') {
        let message = format!("volume source {} is neither a name nor a path", quoted(source));
        return Err((message, format!("for a directory beside the manifest write ./{source}")));
    }
    Name::new(source).map(MountSource::Volume).map_err(|_| {
        let message = format!("{} is not a name for a volume", quoted(source));
        let near = crate::starter::app_name(source);
        (message, format!("use a-z, 0-9, '-', '_' and '.', as in \"{near}\"; a path starts with / or ./"))
    })
}

/// A host path, absolute and without `.` and `..`; a relative one starts at `dir`.
pub(crate) fn host_path(path: &str, dir: &Path) -> Result<String, (String, String)> {
    let mut whole = PathBuf::new();
    for part in dir.join(path).components() {
        match part {
            Component::ParentDir => {
                whole.pop();
            }
            Component::CurDir => {}
            other => whole.push(other),
        }
    }
    whole.into_os_string().into_string().map_err(|_| {
        let message = format!("the manifest's directory is not UTF-8, so {} cannot be resolved", quoted(path));
        (message, "write an absolute path, or move the manifest".to_owned())
    })
}

/// An absolute path inside a container: no `..`, not the root, single slashes.
pub(crate) fn container_path(path: &str, what: &str) -> Result<String, (String, String)> {
    if !path.starts_with('/') {
        let message = format!("{what} must be absolute, and {} is not", quoted(path));
        return Err((message, format!("write /{}", path.trim_start_matches("./"))));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err((format!("{what} {} holds `..`", quoted(path)), "write the path without `..`".to_owned()));
    }
    if parts.is_empty() {
        return Err((format!("{what} cannot be /"), "mount it on a directory below".to_owned()));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// One entry of `tmpfs`: `/path` or `/path:size=64m`.
pub(crate) fn parse_tmpfs(text: &str) -> Result<(String, Option<Bytes>), (String, String)> {
    let (path, options) = text.split_once(':').map_or((text, None), |(path, options)| (path, Some(options)));
    let path = container_path(path, "a tmpfs path")?;
    let Some(options) = options else { return Ok((path, None)) };
    let size = options.strip_prefix("size=").and_then(|size| size.parse::<Bytes>().ok()).filter(|size| size.0 > 0);
    match size {
        Some(size) => Ok((path, Some(size))),
        None => {
            let message = format!("{} is not an option of tmpfs {}", quoted(options), quoted(&path));
            Err((message, format!("write \"{path}\" or \"{path}:size=64m\"")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<VolumeMount, String> {
        parse(text, Path::new("/srv/shop")).map_err(|(message, _)| message)
    }

    #[test]
    fn every_form_of_a_volume_is_read() {
        let mount = |source, target: &str, read_only| VolumeMount { source, target: target.to_owned(), read_only };
        let named = MountSource::Volume(Name::new("data").unwrap());
        assert_eq!(read("data:/var/lib/x"), Ok(mount(named.clone(), "/var/lib/x", false)));
        assert_eq!(read("data:/x:rw"), Ok(mount(named, "/x", false)));
        assert_eq!(read("./src:/app:ro"), Ok(mount(MountSource::Host("/srv/shop/src".into()), "/app", true)));
        assert_eq!(read("../up/./x:/app"), Ok(mount(MountSource::Host("/srv/up/x".into()), "/app", false)));
        assert_eq!(read(".:/app/"), Ok(mount(MountSource::Host("/srv/shop".into()), "/app", false)));
        assert_eq!(read("/abs:/x//y"), Ok(mount(MountSource::Host("/abs".into()), "/x/y", false)));
        assert_eq!(read("/only"), Ok(mount(MountSource::Anonymous, "/only", false)));
    }

    #[test]
    fn a_bad_volume_says_what_is_bad() {
        for (text, part) in [
            ("data", "does not say where"),
            ("data:x", "must be absolute"),
            ("data:/", "cannot be /"),
            ("data:/a/../b", "holds `..`"),
            ("~/x:/x", "`~` is not expanded"),
            ("src/app:/x", "neither a name nor a path"),
            ("Data:/x", "not a name"),
            (":/x", "nothing before"),
            ("a:/b:z", "`z` is not an option"),
            ("a:/b:ro:c", "too many colons"),
        ] {
            assert!(read(text).unwrap_err().contains(part), "{text}");
        }
    }

    #[test]
    fn a_tmpfs_has_a_path_and_maybe_a_size() {
        assert_eq!(parse_tmpfs("/tmp"), Ok(("/tmp".to_owned(), None)));
        assert_eq!(parse_tmpfs("/run:size=16m"), Ok(("/run".to_owned(), Some(Bytes(16 << 20)))));
        assert!(parse_tmpfs("/run:mode=755").is_err());
        assert!(parse_tmpfs("run").is_err());
    }
}
