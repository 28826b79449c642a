//! What the host's sockets may do: pings, low ports, how many there may be.

use std::fs;

use nix::sys::resource::{Resource, getrlimit};

use super::Check;
use crate::cli::host::{NO_PING, NO_PING_REMEDY, Ping, ping};
use crate::tap::sysctl;

const PINGS: &str = "pings";
const LOW_PORTS: &str = "low ports";
const OPEN_FILES: &str = "open files";

/// The first port for everybody where the kernel does not say (ip(7)).
const FIRST_COMMON_PORT: i64 = 1024;

/// `CAP_NET_BIND_SERVICE`'s bit (capabilities(7)).
const BIND_SERVICE: u32 = 10;

/// Open files below which a browser or a package manager in the guest may find no
/// room: what logins had before systemd 240.
const FEW_FILES: u64 = 4096;

/// What was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    ping: Ping,
    low_ports: LowPorts,
    /// The first port that everybody may bind.
    first_port: i64,
    /// Open files at most: the hard limit, to which gw raises its own. `None`:
    /// unknown.
    files: Option<u64>,
}

/// Whether ports below [`Facts::first_port`] can be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LowPorts {
    /// This process has the capability.
    Allowed,
    Denied,
}

impl Facts {
    /// Looks at the machine.
    pub(super) fn collect() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            ping: ping(),
            low_ports: if effective(&status) & (1 << BIND_SERVICE) != 0 {
                LowPorts::Allowed
            } else {
                LowPorts::Denied
            },
            first_port: sysctl("net.ipv4.ip_unprivileged_port_start").unwrap_or(FIRST_COMMON_PORT),
            files: getrlimit(Resource::RLIMIT_NOFILE)
                .ok()
                .map(|(_, hard)| hard),
        }
    }
}

/// The effective capabilities in the text of `/proc/self/status`; none where it
/// does not say.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

/// One for each.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let files = facts.files.map(open_files);
    [pings(facts.ping), low_ports(facts)]
        .into_iter()
        .chain(files)
        .collect()
}

fn pings(ping: Ping) -> Check {
    match ping {
        Ping::Allowed => Check::pass(PINGS, "can be sent"),
        Ping::Denied => Check::warning(PINGS, NO_PING, NO_PING_REMEDY),
    }
}

fn low_ports(facts: &Facts) -> Check {
    let first = facts.first_port;
    if facts.low_ports == LowPorts::Allowed || first <= 1 {
        return Check::pass(LOW_PORTS, "all ports of the host can be published");
    }
    Check::warning(
        LOW_PORTS,
        format!("ports of the host below {first} cannot be published"),
        "publish higher ones, or an administrator allows them with \
         'sysctl -w net.ipv4.ip_unprivileged_port_start=80'",
    )
}

fn open_files(hard: u64) -> Check {
    if hard >= FEW_FILES {
        return Check::pass(
            OPEN_FILES,
            format!("{hard} at most; each connection takes one"),
        );
    }
    Check::warning(
        OPEN_FILES,
        format!("{hard} at most, and each connection takes one"),
        "raise the hard limit: 'nofile' in /etc/security/limits.conf, LimitNOFILE= of a unit, \
         --ulimit of a container",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;
    use proptest::prelude::*;

    const WELL: Facts = Facts {
        ping: Ping::Allowed,
        low_ports: LowPorts::Denied,
        first_port: 0,
        files: Some(1 << 20),
    };

    fn statuses(facts: &Facts) -> Vec<Status> {
        checks(facts).iter().map(|check| check.status).collect()
    }

    #[test]
    fn each_says_what_it_found() {
        use Status::{Pass, Warning};
        assert_eq!(statuses(&WELL), [Pass; 3]);
        for (facts, expected) in [
            (
                Facts {
                    ping: Ping::Denied,
                    ..WELL
                },
                [Warning, Pass, Pass],
            ),
            (
                Facts {
                    first_port: 1024,
                    ..WELL
                },
                [Pass, Warning, Pass],
            ),
            (
                Facts {
                    first_port: 1024,
                    low_ports: LowPorts::Allowed,
                    ..WELL
                },
                [Pass, Pass, Pass],
            ),
            (
                Facts {
                    files: Some(1024),
                    ..WELL
                },
                [Pass, Pass, Warning],
            ),
        ] {
            assert_eq!(statuses(&facts), expected, "{facts:?}");
        }
        assert_eq!(
            statuses(&Facts {
                files: None,
                ..WELL
            }),
            [Pass; 2]
        );
    }

    #[test]
    fn capabilities_are_read() {
        let text = "Name:\tgw\nCapPrm:\tffffffffffffffff\nCapEff:\t0000000000000400\n";
        assert_eq!(effective(text), 1 << BIND_SERVICE);
        assert_eq!(effective("CapEff:\tnone"), 0);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(CapEff:)?\\PC{0,30}") {
            let _ = effective(&text);
        }
    }
}
