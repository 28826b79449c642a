//! Where a file's symbolic links lead, as far as that is outside of the
//! directories that the sandbox shows anyway.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Directories of the host that are always shown.
pub(super) const SHOWN: [&str; 2] = ["/etc", "/run"];

/// Links followed, as many as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// What must be in the new root directory besides [`SHOWN`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Trail {
    /// Links, each with what it says.
    pub(super) links: Vec<(PathBuf, PathBuf)>,
    /// The directory that the file is in.
    pub(super) directory: Option<PathBuf>,
}

/// Follows `file`, an absolute path. What cannot be followed is nowhere.
pub(super) fn trail(file: &Path) -> Trail {
    let mut trail = Trail::default();
    let mut left: VecDeque<OsString> = names(file);
    let mut at = PathBuf::from("/");
    let mut followed = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let Ok(target) = fs::read_link(&next) else {
            if left.is_empty() {
                trail.directory = (!is_shown(&at) && at != Path::new("/")).then_some(at);
                return trail;
            }
            at = next;
            continue;
        };
        followed += 1;
        if followed > MAX_LINKS {
            return Trail::default();
        }
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        for name in names(&target).into_iter().rev() {
            left.push_front(name);
        }
        if !is_shown(&next) && !trail.links.iter().any(|(path, _)| *path == next) {
            trail.links.push((next, target));
        }
    }
    trail
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn is_shown(path: &Path) -> bool {
    SHOWN.iter().any(|shown| path.starts_with(shown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn files_within_what_is_shown_need_nothing() {
        assert_eq!(trail(Path::new("/etc/passwd")), Trail::default());
        assert_eq!(trail(Path::new("/run/no/such/file")), Trail::default());
        assert_eq!(trail(Path::new("/etc/../run/x")), Trail::default());
    }

    #[test]
    fn links_are_followed_outside() {
        let dir = tempfile::tempdir().expect("directory");
        let at = |name: &str| dir.path().canonicalize().expect("real").join(name);
        fs::create_dir(at("real")).expect("made");
        fs::write(at("real/resolv.conf"), "").expect("written");
        symlink("real", at("way")).expect("linked");
        symlink(at("way/resolv.conf"), at("conf")).expect("linked");
        symlink("./way/../conf", at("first")).expect("linked");
        let found = trail(&at("first"));
        assert_eq!(found.directory, Some(at("real")));
        let links: Vec<_> = found.links.iter().map(|(path, _)| path.clone()).collect();
        assert_eq!(links, [at("first"), at("way"), at("conf")]);
        assert_eq!(found.links[1].1, Path::new("real"));

        symlink("/run/x/resolv.conf", at("back")).expect("linked");
        let found = trail(&at("back"));
        assert_eq!(found.directory, None, "ends in what is shown");
        assert_eq!(found.links, [(at("back"), "/run/x/resolv.conf".into())]);
    }

    #[test]
    fn loops_end() {
        let dir = tempfile::tempdir().expect("directory");
        let at = |name: &str| dir.path().join(name);
        symlink("b", at("a")).expect("linked");
        symlink("a", at("b")).expect("linked");
        assert_eq!(trail(&at("a")), Trail::default());
    }

    #[test]
    fn the_root_directory_is_never_shown() {
        assert_eq!(trail(Path::new("/resolv.conf")).directory, None);
    }
}
