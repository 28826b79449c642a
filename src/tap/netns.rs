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

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs, io};

use nix::cmsg_space;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    recvmsg, sendmsg, socketpair,
};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::attach_error::{AttachError, Errno, JoinAction, NamespaceKind, userns_remedy};
use super::rtnl::{Change, LinkKind, Rtnl};
use super::tun::{OpenError, open_tap};
use super::{Tap, Watch, sys};
use crate::config::{Configure, InterfaceConfig};
use crate::net::{AddressPlan, MacAddr};

/// Bytes of the child's report: an error with two paths in it, escaped.
const MAX_REPORT: usize = 64 << 10;

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
    /// What was made.
    pub made: Made,
    /// Tells when it is no longer wanted.
    pub watch: Watch,
}

/// What was made in the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The guest side's MAC address.
    pub guest_mac: Option<[u8; 6]>,
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
    let resolved = Resolved::find(target, userns)?;
    let (ours, childs) = handover_pair()?;
    let mut child = sys::fork_child(|| {
        let made = resolved
            .join(target)
            .and_then(|()| make_here(interface, plan));
        match report(&childs, made) {
            Ok(()) => 0,
            Err(_) => 1,
        }
    })
    .map_err(|e| system("fork", e))?;
    drop(childs);
    let received = receive(&ours);
    let status = child.wait();
    let (tap, made) = received.map_err(|error| match (error, status) {
        (AttachError::HelperDied { .. }, Ok(status)) => AttachError::HelperDied {
            status: format!("{status:?}"),
        },
        (error, _) => error,
    })?;
    Ok(Attached {
        tap,
        made,
        watch: resolved.watch,
    })
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
            setns(userns, CloneFlags::CLONE_NEWUSER)
                .map_err(|e| denied(JoinAction::JoinUser, e))?;
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

/// Makes and configures the TAP in the *current* network namespace.
///
/// # Errors
/// [`AttachError`]; the TAP is gone again then, unless it was there before.
pub fn make_here(
    interface: &InterfaceConfig,
    plan: &AddressPlan,
) -> Result<(OwnedFd, Made), AttachError> {
    let name = &interface.name;
    check_name(name)?;
    let rtnl = Rtnl::open().map_err(|e| system("opening rtnetlink", e))?;
    let tap = open_tap(name).map_err(|e| explain_open(e, name, &rtnl))?;
    let link = rtnl
        .link(name)
        .and_then(|link| link.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV)))
        .map_err(|e| system("finding the new TAP", e))?;
    let mut made = Made {
        guest_mac: link.mac.map(|m| m.0),
        warnings: Vec::new(),
    };
    match interface.configure {
        Configure::LeaveAlone => {}
        Configure::Static => {
            if let Some(MacAddr(mac)) = interface.mac {
                made.guest_mac = Some(mac);
            }
            let setup = Setup {
                rtnl: &rtnl,
                interface,
                plan,
                index: link.index,
            };
            made.warnings = setup.run()?;
        }
    }
    Ok((tap, made))
}

fn check_name(name: &str) -> Result<(), AttachError> {
    if is_interface_name(name) {
        Ok(())
    } else {
        Err(AttachError::BadName {
            name: name.to_owned(),
        })
    }
}

/// True for what the kernel takes as an interface's name (`dev_valid_name`),
/// less `%`, which it takes as a pattern.
#[must_use]
pub fn is_interface_name(name: &str) -> bool {
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
    (1..=sys::MAX_IFNAME).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(bad)
}

fn explain_open(error: OpenError, name: &str, rtnl: &Rtnl) -> AttachError {
    let name = name.to_owned();
    match error {
        OpenError::Device(e) => match e.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => AttachError::TunMissing,
            _ => AttachError::TunDenied { errno: e.into() },
        },
        OpenError::Interface(e) => match e.raw_os_error() {
            Some(libc::EBUSY) => AttachError::NameBusy { name },
            Some(libc::EPERM | libc::EACCES) => AttachError::TapRefused {
                name,
                errno: e.into(),
                remedy: userns_remedy(),
            },
            _ if is_foreign(rtnl, &name) => AttachError::NameTaken { name },
            _ => AttachError::TapRefused {
                name,
                errno: e.into(),
                remedy: "if it is a TUN interface, choose another name with --ifname".to_owned(),
            },
        },
    }
}

fn is_foreign(rtnl: &Rtnl, name: &str) -> bool {
    matches!(rtnl.link(name), Ok(Some(link)) if link.kind == LinkKind::Other)
}

/// The static set-up of a guest's interface.
struct Setup<'a> {
    rtnl: &'a Rtnl,
    interface: &'a InterfaceConfig,
    plan: &'a AddressPlan,
    index: u32,
}

/// A step and what to do when it fails.
struct Step {
    change: Change,
    what: String,
    when_failing: WhenFailing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhenFailing {
    /// Give up.
    Stop,
    /// A default route that is there already stays; say so.
    KeepOther,
    /// The kernel may be without IPv6; say so.
    WithoutIpv6,
}

impl Setup<'_> {
    /// Returns warnings.
    fn run(&self) -> Result<Vec<String>, AttachError> {
        if self.plan.v6.is_some() {
            self.prepare_ipv6();
        }
        let steps = self.steps();
        let changes: Vec<Change> = steps.iter().map(|step| step.change).collect();
        let results = self
            .rtnl
            .apply(&changes)
            .map_err(|e| system("configuring through rtnetlink", e))?;
        let mut warnings = Vec::new();
        for (step, result) in steps.into_iter().zip(results) {
            if let Err(errno) = result {
                warnings.extend(self.failed(step, errno)?);
            }
        }
        Ok(warnings)
    }

    fn steps(&self) -> Vec<Step> {
        let index = self.index;
        let step = |change, what: String, when_failing| Step {
            change,
            what,
            when_failing,
        };
        let set_up = Change::SetUp {
            index,
            mac: self.interface.mac,
            mtu: self.plan.mtu,
        };
        let mut steps = vec![
            // The loopback interface is the first in every namespace.
            step(
                Change::Up { index: 1 },
                "bring 'lo' up".into(),
                WhenFailing::Stop,
            ),
            step(
                set_up,
                "set the MTU and MAC address".into(),
                WhenFailing::Stop,
            ),
        ];
        if let Some(v4) = self.plan.v4 {
            let (addr, prefix_len) = (v4.guest.into(), v4.net.prefix_len());
            steps.push(step(
                Change::Address {
                    index,
                    addr,
                    prefix_len,
                },
                format!("add the address {addr}"),
                WhenFailing::Stop,
            ));
            let gateway = v4.gateway.into();
            steps.push(step(
                Change::DefaultRoute { index, gateway },
                "add the default IPv4 route".into(),
                WhenFailing::KeepOther,
            ));
        }
        if let Some(v6) = self.plan.v6 {
            let (addr, prefix_len) = (v6.guest.into(), v6.net.prefix_len());
            steps.push(step(
                Change::Address {
                    index,
                    addr,
                    prefix_len,
                },
                format!("add the address {addr}"),
                WhenFailing::WithoutIpv6,
            ));
            let gateway = v6.gateway.into();
            steps.push(step(
                Change::DefaultRoute { index, gateway },
                "add the default IPv6 route".into(),
                WhenFailing::WithoutIpv6,
            ));
        }
        steps
    }

    /// Decides about a failed step: a warning, nothing, or the end.
    fn failed(&self, step: Step, errno: Errno) -> Result<Option<String>, AttachError> {
        let name = &self.interface.name;
        let route = matches!(step.change, Change::DefaultRoute { .. });
        match (step.when_failing, errno.0) {
            (WhenFailing::KeepOther | WhenFailing::WithoutIpv6, libc::EEXIST) if route => {
                Ok(Some(format!(
                    "cannot {}: the namespace has one already, which stays; \
                     remove it to send traffic through '{name}'",
                    step.what
                )))
            }
            (
                WhenFailing::WithoutIpv6,
                libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EACCES | libc::EPERM,
            ) => {
                // One line is enough for an interface without IPv6.
                let what = format!(
                    "'{name}' has no IPv6 ({errno}): it is switched off in the namespace; \
                     set net.ipv6.conf.{name}.disable_ipv6=0 there, or use --no-ipv6"
                );
                Ok((!route).then_some(what))
            }
            (WhenFailing::WithoutIpv6, _) if route => {
                Ok(Some(format!("cannot {} on '{name}' ({errno})", step.what)))
            }
            _ => Err(AttachError::Configure {
                step: step.what,
                name: name.clone(),
                errno,
            }),
        }
    }

    /// Settings that rtnetlink has no words for. Each is a convenience: where
    /// /proc is not to be had or read-only, things work, a second later.
    fn prepare_ipv6(&self) {
        let dir = Path::new("/proc/sys/net/ipv6/conf").join(&self.interface.name);
        for (setting, value) in [
            // Namespaces inherit this from the host.
            ("disable_ipv6", "0"),
            // Nobody else is on this link: addresses are good at once.
            ("accept_dad", "0"),
            // Address and route are set here; advertisements would add others.
            ("accept_ra", "0"),
        ] {
            let _ = fs::write(dir.join(setting), value);
        }
    }
}

/// The two ends over which a TAP is handed from a child to its parent.
///
/// # Errors
/// When there is no room for descriptors.
pub fn handover_pair() -> Result<(OwnedFd, OwnedFd), AttachError> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(|e| system("socketpair", e.into()))
}

/// Sends what a child has made, or why it could not.
///
/// # Errors
/// When the parent is gone.
pub fn report(socket: &impl AsRawFd, made: Result<(OwnedFd, Made), AttachError>) -> io::Result<()> {
    let (tap, made) = match made {
        Ok((tap, made)) => (Some(tap), Ok(made)),
        Err(e) => (None, Err(e)),
    };
    let text = serde_json::to_vec(&made)?;
    let fds: Vec<RawFd> = tap.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(&text)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Waits for what a child sends by [`report`].
///
/// # Errors
/// The child's own, or [`AttachError::HelperDied`].
pub fn receive(socket: &OwnedFd) -> Result<(Tap, Made), AttachError> {
    let mut text = vec![0; MAX_REPORT];
    let mut control = cmsg_space!(RawFd);
    let (len, tap) = {
        let mut parts = [IoSliceMut::new(&mut text)];
        let message = loop {
            match recvmsg::<UnixAddr>(
                socket.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            ) {
                Err(nix::Error::EINTR) => {}
                result => break result.map_err(|e| system("receiving the TAP", e.into()))?,
            }
        };
        let mut fds = message
            .cmsgs()
            .map_err(|e| system("receiving the TAP", e.into()))?;
        let tap = fds.find_map(|c| match c {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        (message.bytes, tap)
    };
    // SAFETY: the kernel has just made this descriptor for us, and there is
    // room for one only.
    let tap = tap.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    if len == 0 {
        return Err(AttachError::HelperDied {
            status: "it said nothing".to_owned(),
        });
    }
    let made: Result<Made, AttachError> =
        serde_json::from_slice(&text[..len]).map_err(|e| AttachError::HelperDied {
            status: e.to_string(),
        })?;
    match (made?, tap) {
        (made, Some(tap)) => {
            let tap = Tap::from_fd(tap).map_err(|e| system("taking over the TAP", e))?;
            Ok((tap, made))
        }
        (_, None) => Err(AttachError::HelperDied {
            status: "it sent no TAP".to_owned(),
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
    fn interface_names() {
        for name in ["tap0", "a", "fifteen-chars-x", "eth0.1", "ünï"] {
            assert!(is_interface_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "sixteen-chars-xx",
            "a b",
            "a/b",
            "a:b",
            "tap%d",
            "a\0b",
        ] {
            assert!(!is_interface_name(name), "{name:?}");
        }
    }

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
