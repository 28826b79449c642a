//! The file system as the sandbox sees it.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{SFlag, fstat, stat};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, pivot_root};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::links::{SHOWN, Trail};
use super::{SandboxError, Stage, sys};

/// Covered by the new root directory until it becomes that. Any directory does;
/// what is below it is taken before.
const PLACE: &str = "/tmp";

/// Size and number of files of the new root directory: some directories.
const ROOT_OPTIONS: &str = "size=64k,nr_inodes=256,mode=755";

/// Gives this process mounts of its own, to which the host's still come.
pub(super) fn separate() -> Result<(), SandboxError> {
    let stage = SandboxError::at(Stage::MountNamespace);
    unshare(CloneFlags::CLONE_NEWNS).map_err(&stage)?;
    // Not "private": a file system that the host mounts below /run is seen.
    let slave = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>).map_err(&stage)?;
    // Kernels without System V's IPC have nothing to separate.
    let _ = unshare(CloneFlags::CLONE_NEWIPC);
    Ok(())
}

/// Leaves nothing to see but [`SHOWN`] and `trail`.
pub(super) fn narrow(trail: &Trail) -> Result<(), SandboxError> {
    // All that is to be seen is taken before anything is covered.
    let shown = SHOWN.map(PathBuf::from).into_iter();
    let trees = shown
        .chain(trail.directory.clone())
        .filter(|path| path.is_dir())
        .map(|path| {
            Ok((
                copy_of(&path).map_err(SandboxError::io_at(Stage::Directory))?,
                path,
            ))
        })
        .collect::<Result<Vec<(OwnedFd, PathBuf)>, SandboxError>>()?;
    let directories = open_directories()?;
    let root = Root::make()?;
    // Before there is anything in it.
    let stage = SandboxError::io_at(Stage::OpenDirectories);
    let empty = copy_of(Path::new(PLACE)).map_err(&stage)?;
    for (tree, path) in &trees {
        root.show(tree, path)?;
    }
    for (path, target) in &trail.links {
        root.link(path, target)?;
    }
    for (fd, copy) in &directories {
        sys::replace(*fd, copy.as_ref().unwrap_or(&empty)).map_err(&stage)?;
    }
    root.change_to()
}

/// A copy of the mount at `path`, with all below it, attached to nothing: there
/// is no way up from it.
fn copy_of(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags)?)
}

/// Directories that this process holds open, each with a copy to replace it;
/// none for what has no path any more, or is the root.
fn open_directories() -> Result<Vec<(RawFd, Option<OwnedFd>)>, SandboxError> {
    let stage = SandboxError::io_at(Stage::OpenDirectories);
    let listing = fs::read_dir("/proc/self/fd").map_err(&stage)?;
    // All names first: the listing is itself an open directory, gone after this.
    let fds: Vec<RawFd> = listing
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let mut found = Vec::new();
    for fd in fds {
        let Ok(open) = sys::look_at(fd, |fd| fstat(fd)) else {
            continue;
        };
        if SFlag::from_bits_truncate(open.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFDIR {
            continue;
        }
        let path = fs::read_link(format!("/proc/self/fd/{fd}")).map_err(&stage)?;
        let same = stat(&path).is_ok_and(|at| (at.st_dev, at.st_ino) == (open.st_dev, open.st_ino));
        // A copy of everything would be no sandbox.
        let small = same && path != Path::new("/");
        let copy = small.then(|| copy_of(&path)).transpose().map_err(&stage)?;
        found.push((fd, copy));
    }
    Ok(found)
}

/// The new root directory, while it is at [`PLACE`].
struct Root;

impl Root {
    fn make() -> Result<Self, SandboxError> {
        let stage = SandboxError::at(Stage::Root);
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(
            Some("tmpfs"),
            PLACE,
            Some("tmpfs"),
            flags,
            Some(ROOT_OPTIONS),
        )
        .map_err(&stage)?;
        Ok(Self)
    }

    /// Where the host's `path` is in the new root.
    fn place(path: &Path) -> PathBuf {
        Path::new(PLACE).join(path.strip_prefix("/").unwrap_or(path))
    }

    fn make_directory(path: &Path) -> Result<(), SandboxError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .map_err(SandboxError::io_at(Stage::Root))
    }

    /// Shows the directory `tree`, of the host's `path`, there in the new root.
    fn show(&self, tree: &OwnedFd, path: &Path) -> Result<(), SandboxError> {
        let stage = SandboxError::io_at(Stage::Directory);
        let place = Self::place(path);
        Self::make_directory(&place)?;
        let restricted = sys::restrict(tree.as_fd()).map_err(&stage)?;
        move_mount(
            tree,
            "",
            CWD,
            &place,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .map_err(|e| stage(e.into()))?;
        if !restricted {
            restrict_top(&place)?;
        }
        Ok(())
    }

    fn link(&self, path: &Path, target: &Path) -> Result<(), SandboxError> {
        let place = Self::place(path);
        if let Some(parent) = place.parent() {
            Self::make_directory(parent)?;
        }
        symlink(target, place).map_err(SandboxError::io_at(Stage::Root))
    }

    /// Makes it the root directory, and the host's go away.
    fn change_to(self) -> Result<(), SandboxError> {
        let stage = SandboxError::at(Stage::PivotRoot);
        let read_only = MsFlags::MS_REMOUNT
            | MsFlags::MS_BIND
            | MsFlags::MS_RDONLY
            | MsFlags::MS_NOSUID
            | MsFlags::MS_NODEV
            | MsFlags::MS_NOEXEC;
        mount(None::<&str>, PLACE, None::<&str>, read_only, None::<&str>).map_err(&stage)?;
        chdir(PLACE).map_err(&stage)?;
        // Both at one place: the old one comes to lie on top of the new one,
        // and is taken away from there (pivot_root(2)). With all propagation
        // one-way, the host keeps its mounts.
        pivot_root(".", ".").map_err(&stage)?;
        umount2(".", MntFlags::MNT_DETACH).map_err(&stage)?;
        chdir("/").map_err(&stage)
    }
}

/// What [`sys::restrict`] does, for kernels without it: for the top only.
fn restrict_top(place: &Path) -> Result<(), SandboxError> {
    let stage = SandboxError::at(Stage::Directory);
    // Flags that are there must be named again (mount_namespaces(7)).
    let there = statvfs(place).map_err(&stage)?.flags();
    let mut flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    for (has, flag) in [
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ] {
        flags.set(flag, there.contains(has));
    }
    mount(None::<&str>, place, None::<&str>, flags, None::<&str>).map_err(&stage)
}
