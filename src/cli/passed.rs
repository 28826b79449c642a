//! Takes over the sockets that a service manager passes (`sd_listen_fds(3)`).

use std::env;
use std::os::fd::RawFd;

use super::lifecycle::LifecycleError;
use crate::config::Config;
use crate::forward::{Passed, PassedSocket};
use crate::observe::LogTarget;
use crate::tap::sys;

/// The first descriptor that is passed.
const FIRST: RawFd = 3;

/// Most sockets that are taken over.
const MAX_PASSED: usize = 256;

/// What the environment says of them.
#[derive(Debug, PartialEq, Eq)]
struct Announced {
    fd: RawFd,
    name: String,
}

/// Takes them over. To be called before anything else is opened, and before other
/// descriptors, of `config` and those that `links` names, are taken over.
pub(super) fn adopt(config: &Config, links: &[RawFd]) -> Result<Passed, LifecycleError> {
    let variable = |name| env::var(name).unwrap_or_default();
    let announced = announced(
        std::process::id(),
        &variable("LISTEN_PID"),
        &variable("LISTEN_FDS"),
        &variable("LISTEN_FDNAMES"),
    );
    let mut sockets = Vec::with_capacity(announced.len());
    for Announced { fd, name } in announced {
        let own = [
            ("--ready-fd", config.ready_fd),
            ("--exit-fd", config.exit_fd),
            ("--flow-log fd", flow_log_fd(config)),
        ];
        let links = links.iter().map(|fd| ("--link fd", Some(*fd)));
        if let Some((option, _)) = own.into_iter().chain(links).find(|(_, o)| *o == Some(fd)) {
            return Err(LifecycleError::IsPassed { option, fd });
        }
        let socket = sys::adopt_fd(fd).map_err(|_| LifecycleError::NotPassed(fd))?;
        sockets.push(PassedSocket { name, socket });
    }
    Ok(Passed::new(sockets))
}

/// The descriptor that the flow log goes to.
fn flow_log_fd(config: &Config) -> Option<RawFd> {
    match config.observe.flow_log {
        Some(LogTarget::Fd(fd)) => Some(fd),
        _ => None,
    }
}

/// The passed descriptors with their names; none when they are for another
/// process.
fn announced(own_pid: u32, pid: &str, count: &str, names: &str) -> Vec<Announced> {
    if pid.parse() != Ok(own_pid) {
        return Vec::new();
    }
    let count = count.parse::<usize>().unwrap_or(0).min(MAX_PASSED);
    let names = names.split(':').filter(|name| !name.is_empty());
    // What has no name is called so by sd_listen_fds_with_names(3).
    let names = names
        .map(str::to_owned)
        .chain(std::iter::repeat("unknown".to_owned()));
    (FIRST..)
        .zip(names)
        .take(count)
        .map(|(fd, name)| Announced { fd, name })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_environment_says() {
        let named = |fd, name: &str| Announced {
            fd,
            name: name.to_owned(),
        };
        assert_eq!(
            announced(7, "7", "2", "web.socket:dns"),
            [named(3, "web.socket"), named(4, "dns")]
        );
        assert_eq!(
            announced(7, "7", "2", "web"),
            [named(3, "web"), named(4, "unknown")]
        );
        for (pid, count) in [("8", "2"), ("", "2"), ("7", ""), ("7", "-1"), ("7", "x")] {
            assert_eq!(announced(7, pid, count, ""), [], "{pid} {count}");
        }
        assert_eq!(announced(7, "7", "99999999", "").len(), MAX_PASSED);
    }
}
