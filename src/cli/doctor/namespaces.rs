//! The TUN device, namespaces, and the TAP between them.

use nix::sys::wait::WaitStatus;
use nix::unistd::geteuid;

use super::{Check, DoctorError, Status};
use crate::cli::resolve::Identity;
use crate::cli::run::namespaces::{enter_new, enter_user};
use crate::config::Config;
use crate::tap::netns::{Received, check_device, handover_pair, make_here, receive, report};
use crate::tap::{
    APPARMOR_RESTRICTION, AttachError, Caps, Errno, Link as _, sys, sysctl, userns_remedy,
};

const DEVICE: &str = "/dev/net/tun";
const USERNS: &str = "user namespaces";
const TAP: &str = "TAP interface";
const OFFLOADS: &str = "kernel offloads";

/// What was found.
#[derive(Debug)]
pub(super) struct Facts {
    device: Result<(), AttachError>,
    userns: Result<(), AttachError>,
    tap: Result<Granted, AttachError>,
    user: User,
    apparmor: AppArmor,
}

/// A TAP that was made.
#[derive(Debug)]
struct Granted {
    caps: Caps,
    warnings: Vec<String>,
}

/// Who runs this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    Root,
    Common,
}

/// Whether AppArmor restricts user namespaces to programs with a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AppArmor {
    Restricts,
    LeavesAlone,
}

impl Facts {
    /// Makes namespaces and a TAP as `gw run` would with `config`, in children.
    pub(super) fn collect(config: &Config) -> Result<Self, DoctorError> {
        Ok(Self {
            device: check_device(),
            userns: try_userns()?,
            tap: try_tap(config)?,
            user: if geteuid().is_root() {
                User::Root
            } else {
                User::Common
            },
            apparmor: if sysctl(APPARMOR_RESTRICTION) == Some(1) {
                AppArmor::Restricts
            } else {
                AppArmor::LeavesAlone
            },
        })
    }
}

/// Makes a user namespace. The outer error is that it could not be tried.
fn try_userns() -> Result<Result<(), AttachError>, DoctorError> {
    let mut child = sys::fork_child(|| match enter_user() {
        Ok(()) => 0,
        Err(AttachError::Unshare { errno, .. }) => errno.0,
        Err(_) => libc::EIO,
    })
    .map_err(DoctorError::Fork)?;
    Ok(match child.wait().map_err(DoctorError::Fork)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Exited(_, errno) => Err(AttachError::Unshare {
            errno: Errno(errno),
            remedy: userns_remedy(),
        }),
        other => Err(AttachError::HelperDied {
            status: format!("{other:?}"),
        }),
    })
}

/// Makes a TAP in new namespaces.
fn try_tap(config: &Config) -> Result<Result<Granted, AttachError>, DoctorError> {
    let (ours, childs) = handover_pair().map_err(DoctorError::Handover)?;
    let mut child = sys::fork_child(|| {
        let made =
            enter_new(Identity::Same).and_then(|()| make_here(&config.interface, &config.plan));
        i32::from(report(&childs, made).is_err())
    })
    .map_err(DoctorError::Fork)?;
    drop(childs);
    let received = receive(&ours);
    child.wait().map_err(DoctorError::Fork)?;
    Ok(received.map(|Received { tap, made, .. }| Granted {
        caps: tap.caps(),
        warnings: made.warnings,
    }))
}

/// One after the other, each only where those before make sense of it.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![device(facts), userns(facts)];
    match &facts.tap {
        Ok(granted) => {
            checks.push(tap(granted));
            checks.push(offloads(&granted.caps));
        }
        // Said already, or not to be tried without.
        Err(_) if facts.device.is_err() || facts.userns.is_err() => {}
        Err(error) => checks.push(Check::from_text(TAP, Status::Failure, error)),
    }
    checks
}

fn device(facts: &Facts) -> Check {
    match &facts.device {
        Ok(()) => Check::pass(DEVICE, "can be opened"),
        Err(error) => Check::from_text(DEVICE, Status::Failure, error),
    }
}

fn userns(facts: &Facts) -> Check {
    match (&facts.userns, &facts.tap) {
        (Ok(()), _) => {
            let restricted = facts.apparmor == AppArmor::Restricts && facts.user == User::Common;
            Check::pass(
                USERNS,
                if restricted {
                    "can be made: AppArmor restricts them, but not for this program"
                } else {
                    "can be made"
                },
            )
        }
        // Root does without.
        (Err(error), Ok(_)) => Check::from_text(USERNS, Status::Warning, error),
        (Err(error), Err(_)) => Check::from_text(USERNS, Status::Failure, error),
    }
}

fn tap(granted: &Granted) -> Check {
    match granted.warnings.first() {
        None => Check::pass(TAP, "can be made in a new namespace, and set up"),
        Some(warning) => Check::from_text(TAP, Status::Warning, warning),
    }
}

fn offloads(caps: &Caps) -> Check {
    let offloads = [
        (caps.checksum, "checksums"),
        (caps.tso, "TCP segmentation (TSO)"),
        (caps.uso, "UDP segmentation (USO)"),
    ];
    let list = |wanted: bool| {
        let names = offloads.iter().filter(|(has, _)| *has == wanted);
        names.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
    };
    let missing = list(false);
    if missing.is_empty() {
        return Check::pass(OFFLOADS, list(true));
    }
    let remedy = if caps.tso {
        "gw does it itself, and bulk UDP is slower; Linux 6.2 and later have it"
    } else {
        "gw does it itself, and all traffic is slower; try a kernel that nobody has cut down"
    };
    Check::warning(OFFLOADS, format!("the kernel lacks {missing}"), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tap::Medium;

    fn facts() -> Facts {
        Facts {
            device: Ok(()),
            userns: Ok(()),
            tap: Ok(Granted {
                caps: caps(true, true),
                warnings: Vec::new(),
            }),
            user: User::Common,
            apparmor: AppArmor::LeavesAlone,
        }
    }

    fn caps(tso: bool, uso: bool) -> Caps {
        Caps {
            medium: Medium::Ethernet,
            checksum: true,
            tso,
            uso,
        }
    }

    fn unshare() -> AttachError {
        AttachError::Unshare {
            errno: Errno(libc::EPERM),
            remedy: "ask root".into(),
        }
    }

    /// Names and statuses.
    fn seen(facts: &Facts) -> Vec<(&'static str, Status)> {
        let checks = checks(facts);
        for check in &checks {
            assert_eq!(
                check.remedy.is_none(),
                check.status == Status::Pass,
                "{check:?}"
            );
        }
        checks.iter().map(|c| (c.name, c.status)).collect()
    }

    #[test]
    fn all_is_well() {
        use Status::Pass;
        assert_eq!(
            seen(&facts()),
            [
                (DEVICE, Pass),
                (USERNS, Pass),
                (TAP, Pass),
                (OFFLOADS, Pass)
            ]
        );
    }

    #[test]
    fn one_cause_is_one_failure() {
        use Status::{Failure, Pass, Warning};
        let denied = AttachError::TunDenied {
            errno: Errno(libc::EACCES),
        };
        let no_device = Facts {
            device: Err(denied.clone()),
            tap: Err(denied),
            ..facts()
        };
        assert_eq!(seen(&no_device), [(DEVICE, Failure), (USERNS, Pass)]);
        let no_userns = Facts {
            userns: Err(unshare()),
            tap: Err(unshare()),
            ..facts()
        };
        assert_eq!(seen(&no_userns), [(DEVICE, Pass), (USERNS, Failure)]);
        let root_without = Facts {
            userns: Err(unshare()),
            user: User::Root,
            ..facts()
        };
        assert_eq!(seen(&root_without)[1], (USERNS, Warning));
        let refused = Facts {
            tap: Err(AttachError::TapRefused {
                name: "tap0".into(),
                errno: Errno(libc::EPERM),
                remedy: "ask root".into(),
            }),
            ..facts()
        };
        assert_eq!(seen(&refused)[2], (TAP, Failure));
    }

    #[test]
    fn what_the_kernel_lacks_is_named() {
        let check = offloads(&caps(true, false));
        assert_eq!(check.detail, "the kernel lacks UDP segmentation (USO)");
        assert!(check.remedy.is_some_and(|r| r.contains("6.2")));
        let check = offloads(&caps(false, false));
        assert!(check.detail.contains("TSO"), "{check:?}");
        assert_eq!(check.status, Status::Warning);
    }

    #[test]
    fn a_tap_without_ipv6_is_a_warning() {
        let mut facts = facts();
        facts.tap = Ok(Granted {
            caps: caps(true, true),
            warnings: vec!["'tap0' has no IPv6; use --no-ipv6".into()],
        });
        let checks = checks(&facts);
        assert_eq!(checks[2].status, Status::Warning);
        assert_eq!(checks[2].remedy.as_deref(), Some("use --no-ipv6"));
    }

    #[test]
    fn an_exception_of_apparmor_is_told() {
        let facts = Facts {
            apparmor: AppArmor::Restricts,
            ..facts()
        };
        assert!(userns(&facts).detail.contains("AppArmor"));
    }
}
