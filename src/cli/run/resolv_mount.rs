//! A private /etc/resolv.conf in the calling process's mount namespace.
//!
//! The text lives in a small tmpfs that is mounted for a moment over some
//! directory, only to be bound to its place: nothing is written to a file
//! system of the host, and nothing has to be cleaned up.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount as sys_mount, umount2};
use nix::sys::stat::Mode;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Directories to be covered for a moment; the first that exists.
const STAGES: [&str; 4] = ["/tmp", "/run", "/mnt", "/etc"];

/// The file is the host's, then.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolvMountError {
    /// There is nothing to mount over.
    #[error(
        "{RESOLV_CONF} does not exist ({0}), so that the command finds no name servers; \
         make an empty one on the host"
    )]
    Missing(io::Error),
    /// A step failed.
    #[error(
        "the command sees the host's {RESOLV_CONF}: cannot {step} ({desc}); \
         names may not resolve",
        desc = errno.desc()
    )]
    Failed {
        step: &'static str,
        errno: nix::Error,
    },
}

/// Covers /etc/resolv.conf, or what it links to, with a file of this text.
pub(super) fn mount(text: &str) -> Result<(), ResolvMountError> {
    let failed = |step| move |errno| ResolvMountError::Failed { step, errno };
    let target = fs::canonicalize(RESOLV_CONF).map_err(ResolvMountError::Missing)?;
    // Held open: the stage may cover the directory it is in.
    let target = open(&target, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(failed("open it"))?;
    let none = None::<&str>;
    // What is mounted from now on stays in this namespace.
    sys_mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .map_err(failed("separate its mounts from the host's"))?;
    let stage = STAGES
        .iter()
        .map(Path::new)
        .find(|dir| dir.is_dir())
        .unwrap_or(Path::new("/tmp"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    sys_mount(
        Some("tmpfs"),
        stage,
        Some("tmpfs"),
        flags,
        Some("size=64k,mode=0755"),
    )
    .map_err(failed("mount a tmpfs"))?;
    let bound = bind(&stage.join("resolv.conf"), text, &target);
    let unmounted = umount2(stage, MntFlags::MNT_DETACH).map_err(failed("unmount the tmpfs"));
    bound.and(unmounted)
}

fn bind(source: &PathBuf, text: &str, target: &impl AsRawFd) -> Result<(), ResolvMountError> {
    let failed = |step| move |errno| ResolvMountError::Failed { step, errno };
    fs::write(source, text).map_err(|e| ResolvMountError::Failed {
        step: "write the text",
        errno: nix::Error::from_raw(e.raw_os_error().unwrap_or(libc::EIO)),
    })?;
    let target = PathBuf::from(format!("/proc/self/fd/{}", target.as_raw_fd()));
    sys_mount(
        Some(source),
        &target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(failed("mount over it"))
}
