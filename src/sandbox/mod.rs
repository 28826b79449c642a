//! Giving up what serving does not need: the file system, capabilities, system
//! calls.
//!
//! # Theory of operation
//!
//! The gateway reads packets that anybody may have written, and hands them to C
//! code. [`enter`] and [`forbid_system_calls`] see to it that who takes it over
//! has taken little. Both are for the moment at which everything is set up and
//! nothing is served yet: sockets and descriptors that are open stay so, new ones
//! of the file system's cannot be had. They act on the calling process, which
//! must have a single thread, and cannot be undone.
//!
//! [`enter`], in stages:
//!
//! 1. **Power.** Making a mount namespace takes `CAP_SYS_ADMIN`. Who is not root
//!    joins a user namespace in which it has that, or makes one ([`Power`]).
//! 2. **Namespaces** of its own: mounts, and IPC where there is such a thing.
//!    Mounts of the host arrive here, none of ours goes there.
//! 3. **View.** A root directory in memory, read-only, with /etc and /run of the
//!    host in it, read-only, with everything mounted below them. They are the
//!    host's own directories, so that a resolv.conf replaced by rename(2) is seen.
//!    Where resolv.conf is a symbolic link that leaves the two, the links on the
//!    way are there as well, and the last directory, without the rest of its file
//!    system: the directory and not the file, for the same reason.
//! 4. **Directories** that are open would be a way out (`openat(fd, "../..")`).
//!    Each is replaced by a copy that ends at itself, so that what is in it can
//!    still be reached, such as the file of a socket that is to be removed.
//! 5. **Privileges.** No new ones, and no capability but `CAP_NET_BIND_SERVICE`
//!    if it was there, for forwards of ports below 1024. The session's keys are
//!    left behind.
//!
//! [`forbid_system_calls`] installs filters that kill the process when it makes a
//! call of [`forbidden`]: those that start programs, make namespaces and mounts,
//! reach into other processes or the kernel. It is a list of what is forbidden,
//! not of what is allowed: a gateway that dies of a call that nobody foresaw is
//! worth less than one whose kernel has a larger surface.
//!
//! Not handled: a resolv.conf whose link is turned to another directory outside
//! of /etc and /run later on; what was read before stays in force.

mod calls;
mod filter;
mod links;
mod privileges;
mod sys;
mod view;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

pub use calls::forbidden;
pub use filter::forbid_system_calls;

/// Where the capability to make a mount namespace comes from.
#[derive(Debug)]
pub enum Power {
    /// The process has it.
    Own,
    /// From this user namespace, to be joined.
    Join(OwnedFd),
    /// From a new user namespace in which this user is itself and nobody else.
    New,
}

impl Power {
    /// The least that does: the process's own where it has it, else `userns`,
    /// unless that is the process's own.
    #[must_use]
    pub fn choose(userns: Option<OwnedFd>) -> Self {
        if privileges::is_sufficient() {
            return Self::Own;
        }
        match userns {
            Some(userns) if !privileges::is_own_userns(&userns) => Self::Join(userns),
            _ => Self::New,
        }
    }
}

/// A step on the way into the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Looking at the process itself.
    Threads,
    /// Joining or making a user namespace.
    UserNamespace,
    /// Making a mount namespace.
    MountNamespace,
    /// Making the new root directory.
    Root,
    /// Showing a directory of the host in it.
    Directory,
    /// Changing to it.
    PivotRoot,
    /// Closing in the open directories.
    OpenDirectories,
    /// Giving up capabilities.
    Capabilities,
    /// Installing the filter.
    Filter,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Threads => "being one thread",
            Self::UserNamespace => "joining a user namespace",
            Self::MountNamespace => "making a mount namespace",
            Self::Root => "making a root directory in memory",
            Self::Directory => "showing a directory of the host",
            Self::PivotRoot => "changing the root directory",
            Self::OpenDirectories => "closing in open directories",
            Self::Capabilities => "giving up capabilities",
            Self::Filter => "forbidding system calls",
        })
    }
}

/// The sandbox cannot be entered. Part of it may have been: the process should
/// end.
#[derive(Debug, thiserror::Error)]
#[error("cannot enter the sandbox: {stage} failed: {source}; {}", remedy(*stage))]
pub struct SandboxError {
    /// What failed.
    pub stage: Stage,
    /// Why.
    pub source: io::Error,
}

fn remedy(stage: Stage) -> &'static str {
    match stage {
        Stage::Filter => {
            "the kernel needs CONFIG_SECCOMP_FILTER; leave --enable-seccomp out to do without"
        }
        Stage::Threads => "this is a mistake in gw, please report it",
        _ => {
            "it takes Linux 5.3 and the right to make mount namespaces, which a container's \
             seccomp or AppArmor profile may refuse; leave --enable-sandbox out to do without"
        }
    }
}

impl SandboxError {
    fn at(stage: Stage) -> impl Fn(nix::Error) -> Self {
        move |errno| Self {
            stage,
            source: errno.into(),
        }
    }

    fn io_at(stage: Stage) -> impl Fn(io::Error) -> Self {
        move |source| Self { stage, source }
    }
}

/// Enters the sandbox. `resolv_conf` stays readable and followed, wherever its
/// links lead.
///
/// # Errors
/// [`SandboxError`]; the process should end then.
pub fn enter(power: &Power, resolv_conf: &Path) -> Result<(), SandboxError> {
    sys::require_single_thread()?;
    let death_signal = privileges::DeathSignal::now();
    privileges::take_power(power)?;
    view::separate()?;
    view::narrow(&links::trail(resolv_conf))?;
    privileges::give_up()?;
    death_signal.restore();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_stage_and_a_remedy() {
        let error = SandboxError {
            stage: Stage::MountNamespace,
            source: io::Error::from_raw_os_error(libc::EPERM),
        };
        let text = error.to_string();
        assert!(text.starts_with("cannot enter the sandbox: making a mount namespace failed: "));
        assert!(text.contains("leave --enable-sandbox out"), "{text}");
    }

    #[test]
    fn it_is_not_for_processes_with_threads() {
        // The test harness has a thread of its own beside this one.
        let other = std::thread::spawn(std::thread::park);
        let error = enter(&Power::Own, Path::new("/etc/resolv.conf")).expect_err("refused");
        assert_eq!(error.stage, Stage::Threads);
        other.thread().unpark();
        other.join().expect("joined");
    }
}
