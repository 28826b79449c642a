//! Makes a TAP inside a network namespace, from outside it.
//!
//! # Theory of operation
//!
//! A TAP belongs to the network namespace in which `/dev/net/tun` is opened, and
//! making it takes `CAP_NET_ADMIN` over that namespace. A program without
//! privileges has it in a namespace that belongs to a user namespace of its own
//! making, once it has joined that. Joining a user namespace cannot be undone
//! and needs a process with one thread; so a short-lived child joins, makes the
//! TAP, configures it, and hands its descriptor back over a socket pair. The
//! gateway itself stays where it was, where the host's network is.
//!
//! The user namespace is joined only when the network namespace cannot be
//! joined without: root keeps its privileges for the rest of the work.
//!
//! Nothing of the target is kept but the TAP and what [`Watch`] looks at.

mod handover;
mod setup;

pub use handover::{Handed, Received, handover_pair, receive, report};
pub use setup::{check_device, is_interface_name, make_here, make_tun_here};

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::{env, fmt, io};

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{fstat, stat};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::attach_error::{AttachError, JoinAction, NamespaceKind};
use super::{Medium, SocketOwners, SocketWatch, Tap, Watch, sys};
use crate::config::InterfaceConfig;
use crate::net::AddressPlan;

/// Where `ip netns` keeps its namespaces.
const SYSTEM_NETNS_DIR: &str = "/run/netns";

/// A network namespace, as a user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetnsTarget {
    /// That of a process.
    Pid(i32),
    /// A file, such as `/proc/PID/ns/net`.
    Path(PathBuf),
    /// A name in `/run/netns` or `$XDG_RUNTIME_DIR/netns`.
    Name(String),
}

impl fmt::Display for NetnsTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "process {pid}"),
            Self::Path(path) => write!(f, "'{}'", path.display()),
            Self::Name(name) => write!(f, "'{name}'"),
        }
    }
}

/// A TAP in the guest's namespace, ready to carry frames.
#[derive(Debug)]
pub struct Attached {
    /// The link.
    pub tap: Tap,
    /// Shows the namespace's sockets, if [`InterfaceConfig::guest_sockets`] asks
    /// for that.
    pub sockets: Option<SocketWatch>,
    /// Shows whose they are, if [`InterfaceConfig::processes`] asks for that.
    pub owners: Option<SocketOwners>,
    /// What was made.
    pub made: Made,
    /// Tells when it is no longer wanted.
    pub watch: Watch,
    /// To be dropped when there is time: the gateway need not wait for the end
    /// of the process that has made the TAP.
    pub helper: Helper,
}

/// A process that has done its work. Dropped, it is reaped.
#[derive(Debug)]
pub struct Helper(sys::Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}

/// What was made in the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The guest side's MAC address.
    pub guest_mac: [u8; 6],
    /// What did not go as asked but does not stand in the way, one line each.
    pub warnings: Vec<String>,
}

/// Makes a TAP in the namespace of `target`.
///
/// `userns` names the user namespace to join, for when the network namespace's
/// own is not the one to use. The process must have a single thread.
///
/// # Errors
/// [`AttachError`]; nothing is left behind then.
pub fn attach(
    target: &NetnsTarget,
    userns: Option<&Path>,
    interface: &InterfaceConfig,
    plan: &AddressPlan,
) -> Result<Attached, AttachError> {
    attach_as(Medium::Ethernet, target, userns, interface, plan)
}

/// The same with a TUN, which carries bare IP packets. Its routes have no
/// gateway: whatever the guest sends goes into it. [`super::IpEther`] makes an
/// Ethernet link of it.
///
/// # Errors
/// As [`attach`].
pub fn attach_tun(
    target: &NetnsTarget,
    userns: Option<&Path>,
    interface: &InterfaceConfig,
    plan: &AddressPlan,
) -> Result<Attached, AttachError> {
    attach_as(Medium::Ip, target, userns, interface, plan)
}

fn attach_as(
    medium: Medium,
    target: &NetnsTarget,
    userns: Option<&Path>,
    interface: &InterfaceConfig,
    plan: &AddressPlan,
) -> Result<Attached, AttachError> {
    let resolved = Resolved::find(target, userns)?;
    if is_own(resolved.net.as_fd(), NamespaceKind::Network) {
        return Err(AttachError::OwnNamespace {
            target: target.to_string(),
        });
    }
    let (ours, childs) = handover_pair()?;
    let mut child = sys::fork_child(|| {
        let made = resolved
            .join(target)
            .and_then(|()| setup::make(medium, interface, plan));
        match report(&childs, made) {
            Ok(()) => 0,
            Err(_) => 1,
        }
    })
    .map_err(|e| system("fork", e))?;
    drop(childs);
    match receive(&ours) {
        Ok(Received {
            tap,
            sockets,
            owners,
            made,
        }) => Ok(Attached {
            tap,
            sockets,
            owners,
            made,
            watch: resolved.watch,
            helper: Helper(child),
        }),
        Err(AttachError::HelperDied { status }) => {
            let status = child.wait().map_or(status, |s| format!("{s:?}"));
            Err(AttachError::HelperDied { status })
        }
        Err(error) => {
            drop(Helper(child));
            Err(error)
        }
    }
}

/// The user namespace that goes with `target`: `userns` if given, else that of
/// the process, else the one that owns the network namespace. `None` when it
/// cannot be found.
#[must_use]
pub fn user_namespace(target: &NetnsTarget, userns: Option<&Path>) -> Option<OwnedFd> {
    let resolved = Resolved::find(target, userns).ok()?;
    resolved
        .userns
        .or(resolved.process_userns)
        .or_else(|| sys::owning_userns(resolved.net.as_fd()).ok())
}

/// A target whose files are open.
#[derive(Debug)]
struct Resolved {
    net: OwnedFd,
    /// Must be joined, whether or not it is needed.
    userns: Option<OwnedFd>,
    /// Tried when the network namespace's owner is not to be had.
    process_userns: Option<OwnedFd>,
    watch: Watch,
}

impl Resolved {
    fn find(target: &NetnsTarget, userns: Option<&Path>) -> Result<Self, AttachError> {
        let userns = userns
            .map(|p| open_namespace(p, NamespaceKind::User))
            .transpose()?;
        match target {
            NetnsTarget::Pid(pid) => Self::of_process(*pid, userns),
            NetnsTarget::Path(path) => Self::of_path(path, userns),
            NetnsTarget::Name(name) => Self::of_path(&find_name(name)?, userns),
        }
    }

    fn of_process(pid: i32, userns: Option<OwnedFd>) -> Result<Self, AttachError> {
        let gone = |_| AttachError::PidGone { pid };
        if pid <= 0 {
            return Err(AttachError::PidGone { pid });
        }
        // The pidfd comes first: while it says that the process lives, the
        // number in /proc is not another's.
        let pidfd = sys::pidfd_open(Pid::from_raw(pid)).map_err(|e| match e.raw_os_error() {
            Some(libc::ESRCH | libc::EINVAL) => gone(e),
            _ => system("pidfd_open", e),
        })?;
        let dir = PathBuf::from(format!("/proc/{pid}/ns"));
        let net = open_file(&dir.join("net")).map_err(|e| match e.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => gone(e),
            Some(libc::EACCES | libc::EPERM) => AttachError::NotPermitted {
                action: JoinAction::OpenNamespace,
                target: format!("process {pid}"),
                errno: e.into(),
                remedy: "run as the user of that process, or as root".to_owned(),
            },
            _ => system("opening the process's network namespace", e),
        })?;
        let process_userns = open_file(&dir.join("user")).ok();
        Ok(Self {
            net,
            userns,
            process_userns,
            watch: Watch::process(pidfd),
        })
    }

    fn of_path(path: &Path, userns: Option<OwnedFd>) -> Result<Self, AttachError> {
        let net = open_namespace(path, NamespaceKind::Network)?;
        let watch = Watch::path(path).map_err(|e| AttachError::NoPath {
            path: path.to_owned(),
            errno: e.into(),
        })?;
        Ok(Self {
            net,
            userns,
            process_userns: None,
            watch,
        })
    }

    /// Joins the namespaces with the calling process.
    fn join(&self, target: &NetnsTarget) -> Result<(), AttachError> {
        let denied = |action, errno: nix::Error| AttachError::NotPermitted {
            action,
            target: target.to_string(),
            errno: errno.into(),
            remedy: "run as the user who made the namespace, or as root; \
                     --userns names the user namespace to join first"
                .to_owned(),
        };
        if let Some(userns) = &self.userns {
            // The kernel refuses to join the one that we are in already.
            if !is_own(userns.as_fd(), NamespaceKind::User) {
                setns(userns, CloneFlags::CLONE_NEWUSER)
                    .map_err(|e| denied(JoinAction::JoinUser, e))?;
            }
            return setns(&self.net, CloneFlags::CLONE_NEWNET)
                .map_err(|e| denied(JoinAction::JoinNet, e));
        }
        match setns(&self.net, CloneFlags::CLONE_NEWNET) {
            Ok(()) => return Ok(()),
            Err(nix::Error::EPERM) => {}
            Err(e) => return Err(denied(JoinAction::JoinNet, e)),
        }
        let owner = sys::owning_userns(self.net.as_fd()).ok();
        let mut candidates = owner.iter().chain(&self.process_userns);
        let mut result = Err(nix::Error::EPERM);
        if !candidates.any(|userns| {
            result = setns(userns, CloneFlags::CLONE_NEWUSER);
            result.is_ok()
        }) {
            return Err(denied(
                JoinAction::JoinUser,
                result.err().unwrap_or(nix::Error::EPERM),
            ));
        }
        setns(&self.net, CloneFlags::CLONE_NEWNET).map_err(|e| denied(JoinAction::JoinNet, e))
    }
}

/// True when `namespace` is this process's own of its kind.
fn is_own(namespace: BorrowedFd<'_>, kind: NamespaceKind) -> bool {
    let own = format!("/proc/self/ns/{}", kind.file());
    match (fstat(namespace), stat(own.as_str())) {
        (Ok(theirs), Ok(own)) => (theirs.st_dev, theirs.st_ino) == (own.st_dev, own.st_ino),
        // Not to be told apart where /proc is missing.
        _ => false,
    }
}

/// Finds the file of a named namespace.
fn find_name(name: &str) -> Result<PathBuf, AttachError> {
    let mut dirs = vec![PathBuf::from(SYSTEM_NETNS_DIR)];
    dirs.extend(env::var_os("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("netns")));
    let plain = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    let found = dirs
        .iter()
        .map(|dir| dir.join(name))
        .find(|path| plain && path.exists());
    found.ok_or_else(|| AttachError::NoName {
        name: name.to_owned(),
        searched: dirs
            .iter()
            .map(|d| d.display().to_string())
            .collect::<Vec<_>>()
            .join(" or "),
    })
}

fn open_file(path: &Path) -> io::Result<OwnedFd> {
    // O_NONBLOCK: a path that is a named pipe must not hold us up.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    Ok(file.into())
}

fn open_namespace(path: &Path, kind: NamespaceKind) -> Result<OwnedFd, AttachError> {
    let fd = open_file(path).map_err(|e| AttachError::NoPath {
        path: path.to_owned(),
        errno: e.into(),
    })?;
    let expected = match kind {
        NamespaceKind::Network => libc::CLONE_NEWNET,
        NamespaceKind::User => libc::CLONE_NEWUSER,
    };
    match sys::namespace_type(fd.as_fd()) {
        Ok(found) if found == expected => Ok(fd),
        _ => Err(AttachError::NotANamespace {
            path: path.to_owned(),
            kind,
        }),
    }
}

fn system(what: &str, error: io::Error) -> AttachError {
    AttachError::System {
        what: what.to_owned(),
        errno: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_are_not_there_are_named() {
        let message = |target| {
            Resolved::find(&target, None)
                .expect_err("refused")
                .to_string()
        };
        assert!(message(NetnsTarget::Pid(0)).contains("no process 0"));
        assert!(message(NetnsTarget::Pid(i32::MAX)).contains("no process 2147483647"));
        assert!(message(NetnsTarget::Path("/nowhere".into())).contains("'/nowhere' (No such file"));
        let text = message(NetnsTarget::Path("/dev/null".into()));
        assert!(
            text.contains("'/dev/null' is not a network namespace"),
            "{text}"
        );
        let text = message(NetnsTarget::Path("/proc/self/ns/user".into()));
        assert!(text.contains("is not a network namespace"), "{text}");
        let text = message(NetnsTarget::Name("gw-none".into()));
        assert!(
            text.contains("no network namespace 'gw-none' in /run/netns"),
            "{text}"
        );
        assert!(message(NetnsTarget::Name("../x".into())).contains("'../x'"));
    }
}
