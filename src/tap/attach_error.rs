//! Why no TAP could be made in a namespace, in words that say what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::sys::MAX_IFNAME;
use super::tun::TUN_DEVICE;

/// The setting by which AppArmor restricts user namespaces, when it is 1, to
/// programs whose profile allows them (Ubuntu 24.04 and later).
pub const APPARMOR_RESTRICTION: &str = "kernel.apparmor_restrict_unprivileged_userns";

/// An error number of the system, in a form that crosses process boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(nix::Error::from_raw(self.0).desc())
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<nix::Error> for Errno {
    fn from(error: nix::Error) -> Self {
        #[expect(
            clippy::as_conversions,
            reason = "the discriminants are the error numbers"
        )]
        Self(error as i32)
    }
}

/// Why attaching to a namespace failed. It is found in a helper process and
/// carried to the gateway's, hence the serialisable form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum AttachError {
    /// There is no such process.
    #[error("there is no process {pid}; give the id of a running one, or the path of a namespace")]
    PidGone {
        /// The process.
        pid: i32,
    },
    /// Nothing at the path.
    #[error("there is no network namespace at '{path}' ({errno}); check the path, or give a PID")]
    NoPath {
        /// The path.
        path: PathBuf,
        /// Of opening it.
        errno: Errno,
    },
    /// No namespace of that name.
    #[error(
        "there is no network namespace '{name}' in {searched}; 'ip netns add {name}' makes one"
    )]
    NoName {
        /// The name.
        name: String,
        /// Directories that were searched.
        searched: String,
    },
    /// Something else is at the path.
    #[error(
        "'{path}' is not a {kind} namespace; give a file such as /proc/PID/ns/{file}",
        file = kind.file()
    )]
    NotANamespace {
        /// The path.
        path: PathBuf,
        /// What it should have been.
        kind: NamespaceKind,
    },
    /// The namespace is the gateway's own.
    #[error(
        "{target} is in the network namespace that gw itself runs in, which has a network; \
         'gw run' makes a new one"
    )]
    OwnNamespace {
        /// What was named.
        target: String,
    },
    /// The namespace cannot be entered.
    #[error("not permitted to {action} of {target} ({errno}); {remedy}")]
    NotPermitted {
        /// What was tried.
        action: JoinAction,
        /// The namespace.
        target: String,
        /// What the system said.
        errno: Errno,
        /// What may help.
        remedy: String,
    },
    /// New namespaces cannot be made.
    #[error("cannot make a user namespace ({errno}); {remedy}")]
    Unshare {
        /// What the system said.
        errno: Errno,
        /// What may help.
        remedy: String,
    },
    /// The device is missing.
    #[error(
        "{TUN_DEVICE} is missing; load the module with 'modprobe tun', or pass the device into this container"
    )]
    TunMissing,
    /// The device cannot be opened.
    #[error(
        "{TUN_DEVICE} cannot be opened ({errno}); let this user read and write it, for example with 'chmod 666 {TUN_DEVICE}'"
    )]
    TunDenied {
        /// What the system said.
        errno: Errno,
    },
    /// The interface's name is none.
    #[error(
        "'{name}' cannot be an interface's name; use 1 to {MAX_IFNAME} characters other than '/', ':' and spaces"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// The interface exists and is no TAP.
    #[error(
        "the name '{name}' is taken by an interface that is not a TAP; choose another with --ifname"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Another program holds the TAP.
    #[error(
        "the TAP '{name}' is in use by another program; stop it, or choose another name with --ifname"
    )]
    NameBusy {
        /// The name.
        name: String,
    },
    /// The TAP cannot be made.
    #[error("cannot make the TAP '{name}' ({errno}); {remedy}")]
    TapRefused {
        /// Its name.
        name: String,
        /// What the system said.
        errno: Errno,
        /// What may help.
        remedy: String,
    },
    /// The interface cannot be set up.
    #[error(
        "cannot {step} on '{name}' ({errno}); with --no-configure the guest sets up its interface itself"
    )]
    Configure {
        /// What was to be done.
        step: String,
        /// The interface.
        name: String,
        /// What the system said.
        errno: Errno,
    },
    /// The helper process died.
    #[error(
        "the process that makes the TAP ended early ({status}); see whether the system killed it, and try again"
    )]
    HelperDied {
        /// How.
        status: String,
    },
    /// Something that should not fail did.
    #[error("{what} failed ({errno})")]
    System {
        /// What.
        what: String,
        /// What the system said.
        errno: Errno,
    },
}

/// What was tried with a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAction {
    /// Reading `/proc/PID/ns`.
    OpenNamespace,
    /// Joining its user namespace.
    JoinUser,
    /// Joining the network namespace.
    JoinNet,
}

impl fmt::Display for JoinAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenNamespace => "open the namespaces",
            Self::JoinUser => "join the user namespace",
            Self::JoinNet => "join the network namespace",
        })
    }
}

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceKind {
    /// Of network stacks.
    Network,
    /// Of users.
    User,
}

impl NamespaceKind {
    /// Its file's name in `/proc/PID/ns`.
    pub(super) const fn file(self) -> &'static str {
        match self {
            Self::Network => "net",
            Self::User => "user",
        }
    }
}

impl fmt::Display for NamespaceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "network",
            Self::User => "user",
        })
    }
}

/// What may help when user namespaces cannot be made or used. Looks at the
/// system's settings.
#[must_use]
pub fn userns_remedy() -> String {
    userns_remedy_from(sysctl)
}

/// The number that the kernel's setting `name`, such as `net.core.somaxconn`,
/// has; `None` where there is no such setting.
#[must_use]
pub fn sysctl(name: &str) -> Option<i64> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn userns_remedy_from(setting: impl Fn(&str) -> Option<i64>) -> String {
    // The value that stands in the way, and the one that does not.
    const SWITCHES: [(&str, i64, &str, &str); 3] = [
        (
            "user.max_user_namespaces",
            0,
            "15000",
            "user namespaces are switched off",
        ),
        (
            "kernel.unprivileged_userns_clone",
            0,
            "1",
            "only root may make user namespaces on this system",
        ),
        (
            APPARMOR_RESTRICTION,
            1,
            "0",
            "AppArmor restricts user namespaces to programs that have a profile with 'userns,' \
             (gw's Debian package brings one for /usr/bin/gw)",
        ),
    ];
    SWITCHES
        .iter()
        .find(|(name, bad, ..)| setting(name) == Some(*bad))
        .map_or_else(
            || {
                "run as root, or where user namespaces are allowed \
                 (a container's seccomp profile may forbid them; in a chroot there are none)"
                    .to_owned()
            },
            |(name, _, good, why)| {
                format!("{why}; an administrator allows them with 'sysctl -w {name}={good}'")
            },
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_names_the_switch_that_is_off() {
        let with = |name: &'static str, value| {
            userns_remedy_from(move |asked| (asked == name).then_some(value))
        };
        assert!(
            with("user.max_user_namespaces", 0)
                .contains("sysctl -w user.max_user_namespaces=15000")
        );
        assert!(
            with("kernel.unprivileged_userns_clone", 0).contains("unprivileged_userns_clone=1")
        );
        let apparmor = "kernel.apparmor_restrict_unprivileged_userns";
        assert!(with(apparmor, 1).contains("apparmor_restrict_unprivileged_userns=0"));
        assert!(with(apparmor, 0).contains("seccomp"));
    }

    #[test]
    fn errors_cross_the_process_boundary_unchanged() {
        let error = AttachError::NotPermitted {
            action: JoinAction::JoinNet,
            target: "process 7".into(),
            errno: Errno(libc::EPERM),
            remedy: "run as root".into(),
        };
        let text = serde_json::to_string(&error).expect("serialises");
        assert_eq!(
            serde_json::from_str::<AttachError>(&text).expect("reads back"),
            error
        );
        assert_eq!(
            error.to_string(),
            "not permitted to join the network namespace of process 7 \
             (Operation not permitted); run as root"
        );
    }
}
