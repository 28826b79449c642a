//! `gw --netns`: serves a namespace that is there already. And what all ways to
//! serve one share.

use std::future::Future;
use std::path::Path;

use nix::sys::signal::Signal;

use super::lifecycle::{Handles, Signals, exit_requested, raise_descriptor_limit};
use super::messages::{Audience, Voice, set_level};
use super::notify::Notifier;
use super::{Exit, Failure, runtime, summary};
use crate::config::Config;
use crate::forward::ForwardInfo;
use crate::gateway::{Gateway, Inherited, StopReason};
use crate::tap::Link;
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
    let notifier = Notifier::from_env().unwrap_or_else(|e| {
        voice.warn(&e.to_string());
        None
    });
    let Attached {
        tap,
        sockets,
        made,
        watch,
        helper,
    } = attach(target, userns, &config.interface, &config.plan)?;
    let inherited = Inherited {
        passed: handles.take_passed(),
        sockets,
    };
    let ready = |forwards: &[ForwardInfo]| {
        for warning in made.warnings.iter().cloned().chain(handles.announce()) {
            voice.warn(&warning);
        }
        let told = notifier.map(|manager| manager.ready(&format!("Serving {target}")));
        if let Some(Err(e)) = told {
            voice.warn(&e.to_string());
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
    match carry(config, Box::new(tap), inherited, || Ok(()), ready, stop)? {
        Some(_) => Ok(Exit::Success),
        None => Err(Failure::LinkGone),
    }
}

/// Builds the gateway on `link` and serves until `stop` resolves, or the link is
/// gone (`None`). `settle` is called when all that the gateway needs is open, to
/// give up what it does not need; then `ready`, when traffic flows.
pub(super) fn carry(
    config: &Config,
    link: Box<dyn Link>,
    inherited: Inherited,
    settle: impl FnOnce() -> Result<(), Failure>,
    ready: impl FnOnce(&[ForwardInfo]),
    stop: impl Future<Output = StopReason>,
) -> Result<Option<StopReason>, Failure> {
    raise_descriptor_limit();
    let ended = runtime()?.block_on(async {
        let mut gateway = Gateway::new(config, link, inherited)?;
        gateway.on_log_level(Box::new(set_level));
        settle()?;
        let forwards: Vec<ForwardInfo> = gateway.forwards().collect();
        Ok::<_, Failure>(gateway.run(|| ready(&forwards), stop).await?)
    })?;
    if let Some(reason) = ended.reason {
        tracing::info!(?reason, "stopped");
    }
    Ok(ended.reason)
}
