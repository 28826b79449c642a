//! From a configuration to a gateway that serves, in slirp4netns's life cycle.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use super::args::Target;
use super::banner::banner;
use super::pipes::Pipes;
use super::resolve::{Invocation, Sandbox, Seccomp};
use super::{complain, in_our_words, say};
use crate::cli::messages::Voice;
use crate::cli::resolve::RESOLV_CONF;
use crate::cli::serve::carry;
use crate::cli::{Exit, Failure};
use crate::config::Config;
use crate::forward::ForwardInfo;
use crate::gateway::{End, Inherited, StopReason};
use crate::sandbox::{self, Power};
use crate::tap::netns::{Attached, NetnsTarget, attach, user_namespace};
use crate::tap::{Bess, Link, Tap, sys};

/// Serves until the exit descriptor hangs up.
pub(super) fn serve(invocation: Invocation, voice: Voice) -> Result<Exit, Failure> {
    let Invocation {
        config,
        target,
        sandbox,
        seccomp,
        ..
    } = invocation;
    let Pipes { ready, exit } = Pipes::adopt(&config);
    let link = link(&config, &target, voice)?;
    let power = match sandbox {
        Sandbox::Off => None,
        Sandbox::On => Some(Power::choose(userns_of(&target))),
    };
    say(&banner(&config));
    let settle = || {
        if let Some(power) = power {
            sandbox::enter(&power, Path::new(RESOLV_CONF))?;
        }
        if seccomp == Seccomp::On {
            let names: Vec<_> = sandbox::forbidden().collect();
            sandbox::forbid_system_calls()?;
            say(&format!(
                "seccomp: The following syscalls are blocked: {}\n",
                names.join(" ")
            ));
        }
        Ok(())
    };
    let announce = |_: &[ForwardInfo]| {
        if let Err(e) = ready.tell() {
            voice.warn(&format!("cannot write to --ready-fd: {e}"));
        }
    };
    let stop = async {
        exit.happened().await;
        complain("exitfd event");
        StopReason::ExitFd
    };
    let stopped = carry(&config, link, Inherited::default(), settle, announce, stop);
    complain("do_slirp is exiting");
    match stopped?.end {
        End::Asked(_) => Ok(Exit::Success),
        End::LinkGone(_) => Err(Failure::LinkGone),
    }
}

/// The user namespace of whoever is to be served, if it can be known.
fn userns_of(target: &Target) -> Option<OwnedFd> {
    match target {
        Target::Pid { pid, userns, .. } => {
            user_namespace(&NetnsTarget::Pid(*pid), userns.as_deref())
        }
        Target::Path { path, userns, .. } => {
            user_namespace(&NetnsTarget::Path(path.clone()), userns.as_deref())
        }
        Target::TapFd(_) | Target::Bess(_) => None,
    }
}

/// The link to whoever is to be served. To be called before anything else is
/// opened: one of them is a descriptor of the caller's.
fn link(config: &Config, target: &Target, voice: Voice) -> Result<Box<dyn Link>, Failure> {
    let tap = match target {
        Target::Pid { pid, userns, .. } => {
            in_namespace(config, &NetnsTarget::Pid(*pid), userns.as_deref(), voice)?
        }
        Target::Path { path, userns, .. } => {
            let target = NetnsTarget::Path(path.clone());
            in_namespace(config, &target, userns.as_deref(), voice)?
        }
        Target::TapFd(fd) => {
            let adopted = sys::adopt_fd(*fd).and_then(Tap::from_fd);
            adopted.map_err(|source| Failure::TapFd { fd: *fd, source })?
        }
        Target::Bess(path) => {
            let bess = Bess::listen(path).map_err(|source| Failure::Bess {
                path: path.clone(),
                source,
            })?;
            complain(&format!("Waiting for connection to {}", path.display()));
            return Ok(Box::new(bess));
        }
    };
    Ok(Box::new(tap))
}

fn in_namespace(
    config: &Config,
    target: &NetnsTarget,
    userns: Option<&Path>,
    voice: Voice,
) -> Result<Tap, Failure> {
    let Attached {
        tap,
        sockets: _,
        owners: _,
        made,
        watch,
        helper,
    } = attach(target, userns, &config.interface, &config.plan)?;
    // The namespace's end is no reason to end.
    drop(watch);
    drop(helper);
    for warning in made.warnings {
        voice.warn(&in_our_words(warning));
    }
    let fd = tap.as_fd().as_raw_fd();
    complain(&format!("sent tapfd={fd} for {}", config.interface.name));
    complain(&format!("received tapfd={fd}"));
    Ok(tap)
}
