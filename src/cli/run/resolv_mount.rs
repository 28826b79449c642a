//! A private /etc/resolv.conf in the calling process's mount namespace.
//!
//! # Theory of operation
//!
//! A file mounted over the host's resolv.conf is not enough: the kernel takes
//! such a mount away in every namespace as soon as the host replaces the file by
//! rename, which is how it is always written; and there is nothing to mount over
//! when it is missing or a link to nowhere. So the command gets an /etc of its
//! own: an overlay of the host's, with our file on top. Its names are its own, so
//! that nothing the host does to its files touches them.
//!
//! What the overlay keeps of writes depends on who the command is
//! ([`EtcWrites`]): never are they lost without a word that would have reached
//! the host's /etc before. resolv.conf itself can be written to in either case.
//! Files that the host changes in place are seen changed; of one that it replaces,
//! the command may go on to see the old text if it has looked at it before.
//!
//! Where there can be no overlay (kernels before 5.11 for users without
//! privileges, security modules, or something else mounted below /etc, as in
//! containers, which an overlay would lack), the file is mounted over the host's
//! after all. /etc is then what it was, and a replaced file shows through.
//!
//! The text lives in a tmpfs that is mounted for a moment over some directory,
//! only to be used as a layer: nothing is written to a file system of the host,
//! and nothing has to be cleaned up.

use std::env;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount as sys_mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::chdir;

const ETC: &str = "/etc";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Directories to be covered for a moment; the first that exists.
const STAGES: [&str; 4] = ["/tmp", "/run", "/mnt", "/var"];

/// Most that the command can write to a private /etc, and inodes for it.
const STAGE_OPTIONS: &str = "size=16m,nr_inodes=4k,mode=0755";

/// What becomes of the command's writes to /etc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EtcWrites {
    /// They fail: whoever may write to the host's /etc must not believe to have
    /// done so.
    Refused,
    /// They are the command's own, and end with it.
    Private,
}

/// The file is the host's, then.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolvMountError {
    /// There is nothing to mount over, and no overlay.
    #[error(
        "{RESOLV_CONF} does not exist ({missing}), so that the command finds no name servers; \
         make an empty one on the host, or allow overlay mounts ({overlay})"
    )]
    Missing {
        missing: nix::Error,
        overlay: Overlay,
    },
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

/// Why there is no overlay.
#[derive(Debug, thiserror::Error)]
pub(super) enum Overlay {
    /// It would lack what is mounted there.
    #[error("something is mounted below /etc")]
    Submounts,
    /// The kernel refuses.
    #[error("{}", .0.desc())]
    Refused(nix::Error),
}

/// Gives the calling process, and those it executes, a resolv.conf of this text.
pub(super) fn mount(text: &str, writes: EtcWrites) -> Result<(), ResolvMountError> {
    // Held open: the stage may cover the directory it is in.
    let hosts = open(RESOLV_CONF, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let none = None::<&str>;
    // What is mounted from now on stays in this namespace.
    sys_mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .map_err(failed("separate its mounts from the host's"))?;
    let stage = Stage::mount(text)?;
    match stage.overlay(writes) {
        Ok(()) => {
            reenter_etc();
            Ok(())
        }
        Err(why) => {
            tracing::debug!(%why, "no overlay on /etc: a resolv.conf replaced on the host shows");
            let hosts = hosts.map_err(|missing| ResolvMountError::Missing {
                missing,
                overlay: why,
            })?;
            stage.bind_over(&hosts)
        }
    }
}

/// A tmpfs with our resolv.conf, out of sight again when this is dropped.
#[derive(Debug)]
struct Stage(&'static Path);

impl Stage {
    fn mount(text: &str) -> Result<Self, ResolvMountError> {
        let dir = STAGES
            .iter()
            .map(Path::new)
            .find(|dir| dir.is_dir())
            .unwrap_or(Path::new(STAGES[0]));
        let tmpfs = Some("tmpfs");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        sys_mount(tmpfs, dir, tmpfs, flags, Some(STAGE_OPTIONS))
            .map_err(failed("mount a tmpfs"))?;
        let stage = Self(dir);
        stage.fill(text).map_err(|e| ResolvMountError::Failed {
            step: "write the text",
            errno: nix::Error::from_raw(e.raw_os_error().unwrap_or(libc::EIO)),
        })?;
        Ok(stage)
    }

    fn fill(&self, text: &str) -> io::Result<()> {
        fs::create_dir(self.layer())?;
        fs::create_dir(self.work())?;
        fs::write(self.file(), text)
    }

    fn layer(&self) -> PathBuf {
        self.0.join("etc")
    }

    fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    fn file(&self) -> PathBuf {
        self.layer().join("resolv.conf")
    }

    /// Lays our file and the host's /etc over one another.
    fn overlay(&self, writes: EtcWrites) -> Result<(), Overlay> {
        if has_mounts_below_etc() {
            return Err(Overlay::Submounts);
        }
        let (layer, work) = (self.layer(), self.work());
        let (layer, work) = (layer.display(), work.display());
        // `userxattr`: the layers' marks are such as users may make.
        let options = match writes {
            // Without an upper layer it is read-only.
            EtcWrites::Refused => format!("userxattr,lowerdir={layer}:{ETC}"),
            EtcWrites::Private => {
                format!("userxattr,lowerdir={ETC},upperdir={layer},workdir={work}")
            }
        };
        let overlay = Some("overlay");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        sys_mount(overlay, ETC, overlay, flags, Some(options.as_str()))
            .map_err(Overlay::Refused)?;
        if writes == EtcWrites::Refused {
            // Writable for whoever tries another name server. Where this fails,
            // the same text is there to be read.
            let _ = bind(&self.file(), Path::new(RESOLV_CONF));
        }
        Ok(())
    }

    /// Covers the host's file alone.
    fn bind_over(&self, hosts: &OwnedFd) -> Result<(), ResolvMountError> {
        let target = format!("/proc/self/fd/{}", hosts.as_raw_fd());
        bind(&self.file(), Path::new(&target)).map_err(failed("mount over it"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Left in the way it would be seen, in the command's namespace alone.
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

fn failed(step: &'static str) -> impl Fn(nix::Error) -> ResolvMountError {
    move |errno| ResolvMountError::Failed { step, errno }
}

fn bind(source: &Path, target: &Path) -> nix::Result<()> {
    let none = None::<&str>;
    sys_mount(Some(source), target, none, MsFlags::MS_BIND, none)
}

/// True when an overlay would hide mounts other than one on resolv.conf itself.
fn has_mounts_below_etc() -> bool {
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    mounts
        .split(|b| *b == b'\n')
        // The fifth field is the mount point (proc_pid_mountinfo(5)).
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .any(|at| at.starts_with(b"/etc/") && at != RESOLV_CONF.as_bytes())
}

/// A working directory in /etc is to be in the new one.
fn reenter_etc() {
    if let Ok(dir) = env::current_dir()
        && dir.starts_with(ETC)
    {
        let _ = chdir(&dir);
    }
}
