//! Makes a TAP or TUN in the current network namespace and configures it.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use nix::net::if_::if_nametoindex;

use super::{Handed, Made, system};
use crate::config::{Configure, GuestSockets, InterfaceConfig};
use crate::net::{AddressPlan, MacAddr};
use crate::tap::attach_error::{AttachError, Errno, userns_remedy};
use crate::tap::ip_ether::random_mac;
use crate::tap::listening;
use crate::tap::rtnl::{Change, IpVersion, LinkKind, Rtnl};
use crate::tap::tun::{OpenError, open_device, open_interface};
use crate::tap::{Medium, sys};

/// Makes and configures the TAP in the *current* network namespace.
///
/// # Errors
/// [`AttachError`]; the TAP is gone again then, unless it was there before.
pub fn make_here(
    interface: &InterfaceConfig,
    plan: &AddressPlan,
) -> Result<(Handed, Made), AttachError> {
    make(Medium::Ethernet, interface, plan)
}

/// The same with a TUN, as [`super::attach_tun`].
///
/// # Errors
/// As [`make_here`].
pub fn make_tun_here(
    interface: &InterfaceConfig,
    plan: &AddressPlan,
) -> Result<(Handed, Made), AttachError> {
    make(Medium::Ip, interface, plan)
}

/// The same for a TAP or, for [`Medium::Ip`], a TUN. A TUN has no MAC address:
/// the one of [`Made`] is for [`super::super::IpEther`], and made up unless
/// `interface` has one.
pub(super) fn make(
    medium: Medium,
    interface: &InterfaceConfig,
    plan: &AddressPlan,
) -> Result<(Handed, Made), AttachError> {
    let name = &interface.name;
    check_name(name)?;
    let rtnl = Rtnl::open().map_err(|e| system("opening rtnetlink", e))?;
    let tap = open_interface(name, medium).map_err(|e| explain_open(e, name, &rtnl))?;
    let mac = match medium {
        Medium::Ethernet => {
            sys::tun_get_mac(tap.as_fd()).map_err(|e| system("reading the TAP's address", e))?
        }
        Medium::Ip => match interface.mac {
            Some(mac) => mac,
            None => random_mac().map_err(|e| system("making up a MAC address", e))?,
        },
    };
    let mut made = Made {
        guest_mac: mac.0,
        warnings: Vec::new(),
    };
    match interface.configure {
        Configure::LeaveAlone => {}
        Configure::Static => {
            if let Some(MacAddr(mac)) = interface.mac {
                made.guest_mac = mac;
            }
            let index = if_nametoindex(name.as_str())
                .map_err(|e| system("finding the new TAP", e.into()))?;
            let setup = Setup {
                rtnl: &rtnl,
                interface,
                plan,
                index,
                medium,
            };
            made.warnings = setup.run()?;
        }
    }
    let sockets = match interface.guest_sockets {
        GuestSockets::Unseen => None,
        GuestSockets::Followed => {
            let socket = listening::open();
            Some(socket.map_err(|e| system("opening a socket of sock_diag", e))?)
        }
    };
    // Where there is none, flows have no processes: nothing that stands in the way.
    let owners = match interface.processes {
        GuestSockets::Unseen => None,
        GuestSockets::Followed => listening::open().ok(),
    };
    let handed = Handed {
        tap,
        sockets,
        owners,
    };
    Ok((handed, made))
}

/// Whether the device from which a TAP is made is there and can be opened.
///
/// # Errors
/// [`AttachError::TunMissing`] or [`AttachError::TunDenied`].
pub fn check_device() -> Result<(), AttachError> {
    open_device().map(drop).map_err(explain_device)
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
        OpenError::Device(e) => explain_device(e),
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
                remedy: "if it is of the other kind, TUN or TAP, choose another name with --ifname"
                    .to_owned(),
            },
        },
    }
}

fn explain_device(error: io::Error) -> AttachError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => AttachError::TunMissing,
        _ => AttachError::TunDenied {
            errno: error.into(),
        },
    }
}

fn is_foreign(rtnl: &Rtnl, name: &str) -> bool {
    matches!(rtnl.kind(name), Ok(Some(LinkKind::Other)))
}

/// The static set-up of a guest's interface.
struct Setup<'a> {
    rtnl: &'a Rtnl,
    interface: &'a InterfaceConfig,
    plan: &'a AddressPlan,
    index: u32,
    medium: Medium,
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
            mac: self.mac(),
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
            steps.push(step(
                self.default_route(v4.gateway.into()),
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
            steps.push(step(
                self.default_route(v6.gateway.into()),
                "add the default IPv6 route".into(),
                WhenFailing::WithoutIpv6,
            ));
        }
        steps
    }

    /// The MAC address to set, where there is one.
    fn mac(&self) -> Option<MacAddr> {
        match self.medium {
            Medium::Ethernet => self.interface.mac,
            Medium::Ip => None,
        }
    }

    fn default_route(&self, gateway: IpAddr) -> Change {
        let index = self.index;
        match (self.medium, gateway) {
            (Medium::Ethernet, gateway) => Change::DefaultRoute { index, gateway },
            (Medium::Ip, IpAddr::V4(_)) => Change::DeviceRoute {
                index,
                version: IpVersion::V4,
            },
            (Medium::Ip, IpAddr::V6(_)) => Change::DeviceRoute {
                index,
                version: IpVersion::V6,
            },
        }
    }

    /// Decides about a failed step: a warning, nothing, or the end.
    fn failed(&self, step: Step, errno: Errno) -> Result<Option<String>, AttachError> {
        let name = &self.interface.name;
        let route = matches!(
            step.change,
            Change::DefaultRoute { .. } | Change::DeviceRoute { .. }
        );
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
}
