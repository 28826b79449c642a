//! From a configuration to a gateway that serves, in slirp4netns's life cycle.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;

use super::args::Target;
use super::banner::banner;
use super::pipes::Pipes;
use super::resolve::{Invocation, Sandbox, Seccomp};
use super::{complain, say};
use crate::cli::messages::Voice;
use crate::cli::serve::carry;
use crate::cli::{Exit, Failure};
use crate::config::Config;
use crate::forward::ForwardInfo;
use crate::gateway::{Inherited, StopReason};
use crate::tap::netns::{Attached, NetnsTarget, attach};
use crate::tap::{Link, Tap, sys};

/// Serves until the exit descriptor hangs up.
pub(super) fn serve(invocation: Invocation, voice: Voice) -> Result<Exit, Failure> {
    let Invocation {
        config,
        target,
        sandbox,
        seccomp,
        ..
    } = invocation;
    if (sandbox, seccomp) != (Sandbox::Off, Seccomp::Off) {
        voice.warn("--enable-sandbox and --enable-seccomp have no effect yet");
    }
    let Pipes { ready, exit } = Pipes::adopt(&config);
    let link = link(&config, target, voice)?;
    say(&banner(&config));
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
    let stopped = carry(
        &config,
        link,
        Inherited::default(),
        || Ok(()),
        announce,
        stop,
    );
    complain("do_slirp is exiting");
    match stopped? {
        Some(_) => Ok(Exit::Success),
        None => Err(Failure::LinkGone),
    }
}

/// The link to whoever is to be served.
fn link(config: &Config, target: Target, voice: Voice) -> Result<Box<dyn Link>, Failure> {
    let tap = match target {
        Target::Pid { pid, userns, .. } => {
            in_namespace(config, &NetnsTarget::Pid(pid), userns, voice)?
        }
        Target::Path { path, userns, .. } => {
            in_namespace(config, &NetnsTarget::Path(path), userns, voice)?
        }
        Target::TapFd(fd) => {
            let adopted = sys::adopt_fd(fd).and_then(Tap::from_fd);
            adopted.map_err(|source| Failure::TapFd { fd, source })?
        }
        Target::Bess(_) => return Err(Failure::LinkGone),
    };
    Ok(Box::new(tap))
}

fn in_namespace(
    config: &Config,
    target: &NetnsTarget,
    userns: Option<PathBuf>,
    voice: Voice,
) -> Result<Tap, Failure> {
    let Attached {
        tap,
        sockets: _,
        made,
        watch,
        helper,
    } = attach(target, userns.as_deref(), &config.interface, &config.plan)?;
    // The namespace's end is no reason to end.
    drop(watch);
    drop(helper);
    for warning in &made.warnings {
        voice.warn(warning);
    }
    let fd = tap.as_fd().as_raw_fd();
    complain(&format!("sent tapfd={fd} for {}", config.interface.name));
    complain(&format!("received tapfd={fd}"));
    Ok(tap)
}
