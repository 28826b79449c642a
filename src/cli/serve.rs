//! `gw --netns`: serves a namespace that is there already.

use std::path::Path;

use nix::sys::signal::Signal;

use super::lifecycle::{Handles, Signals, exit_requested, raise_descriptor_limit};
use super::messages::{Audience, Voice, set_level};
use super::{Exit, Failure, runtime, summary};
use crate::config::Config;
use crate::forward::ForwardInfo;
use crate::gateway::{Gateway, Inherited, StopReason};
use crate::tap::netns::{Attached, NetnsTarget, attach};

/// Those that end the gateway in good order.
const ENDING: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

/// Serves `target` until it is gone or somebody says stop.
pub(super) fn serve(
    config: &Config,
    target: &NetnsTarget,
    userns: Option<&Path>,
    voice: Voice,
) -> Result<Exit, Failure> {
    let mut handles = Handles::adopt(config)?;
    let exit = handles.take_exit();
    let signals = Signals::block(&ENDING)?;
    handles.open_pid_file(config)?;
    let Attached {
        tap,
        sockets,
        made,
        watch,
        helper,
    } = attach(target, userns, &config.interface, &config.plan)?;
    raise_descriptor_limit();
    let runtime = runtime()?;
    let inherited = Inherited {
        passed: handles.take_passed(),
        sockets,
    };
    let ready = |forwards: &[ForwardInfo]| {
        for warning in made.warnings.iter().cloned().chain(handles.announce()) {
            voice.warn(&warning);
        }
        match voice.audience() {
            Audience::Person => voice.show(&summary::block(config, target, &made, forwards)),
            Audience::Log => {
                tracing::info!(
                    "serving {target}: {}",
                    summary::log_line(config, &made, forwards)
                );
            }
            Audience::Nobody => {}
        }
        // Long gone by now.
        drop(helper);
    };
    let stop = async {
        tokio::select! {
            // Where signals or the target cannot be waited for, stopping is
            // better than serving for ever.
            signal = signals.next() => match signal {
                Ok(info) => StopReason::Signal(i32::try_from(info.ssi_signo).unwrap_or(0)),
                Err(_) => StopReason::Signal(0),
            },
            () = exit_requested(exit.as_ref()) => StopReason::ExitFd,
            _ = watch.gone() => StopReason::TargetGone,
        }
    };
    let ended = runtime.block_on(async {
        let mut gateway = Gateway::new(config, Box::new(tap), inherited)?;
        gateway.on_log_level(Box::new(set_level));
        let forwards: Vec<ForwardInfo> = gateway.forwards().collect();
        gateway.run(|| ready(&forwards), stop).await
    })?;
    match ended.reason {
        Some(reason) => {
            tracing::info!(?reason, "stopped");
            Ok(Exit::Success)
        }
        None => Err(Failure::LinkGone),
    }
}
