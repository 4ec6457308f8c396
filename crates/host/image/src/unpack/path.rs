//! An entry's path, taken apart and judged before anything touches the disk.

use crate::limits::LayerLimits;

/// Longest file name (`NAME_MAX`).
const NAME_MAX: usize = 255;

/// A clean relative path: no empty, `.` or `..` components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    path: Vec<u8>,
    /// Where the last component starts.
    name_at: usize,
}

impl Place {
    /// The directory, empty for the root.
    pub(crate) fn parent(&self) -> &[u8] {
        &self.path[..self.name_at.saturating_sub(1)]
    }

    /// The last component; `None` when the path is the root itself.
    pub(crate) fn name(&self) -> Option<&[u8]> {
        let name = &self.path[self.name_at..];
        (!name.is_empty()).then_some(name)
    }

    pub(crate) fn path(&self) -> Vec<u8> {
        self.path.clone()
    }
}

/// Cleans `raw`: leading slashes and `.` go (absolute names are taken as relative to the layer's root).
pub(crate) fn split(raw: &[u8], limits: &LayerLimits) -> Result<Place, &'static str> {
    if raw.len() >= limits.path {
        return Err("its path is too long");
    }
    if raw.contains(&0) {
        return Err("its path has a NUL");
    }
    let mut path = Vec::with_capacity(raw.len());
    let mut name_at = 0;
    let mut depth = 0;
    for part in raw.split(|&b| b == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err("its path has \"..\""),
            _ if part.len() > NAME_MAX => return Err("a name in its path is longer than 255 bytes"),
            _ => {}
        }
        if path[name_at..].starts_with(b".wh.") {
            return Err("its path goes through a whiteout");
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        name_at = path.len();
        path.extend_from_slice(part);
        depth += 1;
    }
    if depth > limits.depth {
        return Err("its path has too many directories");
    }
    Ok(Place { path, name_at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_what_points_up_is_refused() {
        let limits = LayerLimits::default();
        let place = split(b"//./a//b/./c/", &limits).unwrap();
        assert_eq!((place.parent(), place.name()), (&b"a/b"[..], Some(&b"c"[..])));
        let place = split(b"c", &limits).unwrap();
        assert_eq!((place.parent(), place.name()), (&b""[..], Some(&b"c"[..])));
        for root in [&b"./"[..], b"/", b".", b""] {
            assert_eq!(split(root, &limits).unwrap().name(), None);
        }
        for bad in [&b"../a"[..], b"a/../b", b"/..", b"a\0b", b".wh.a/b", &[b'n'; 256], &[b'/'; 5000]] {
            assert!(split(bad, &limits).is_err());
        }
        assert!(split(&b"d/".repeat(300), &limits).is_err());
    }
}
