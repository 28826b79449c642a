//! `gw --netns`: serves a namespace that is there already. And what all ways to
//! serve one share.

use std::future::Future;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

use nix::sys::signal::Signal;

use super::closing::Closing;
use super::lifecycle::{Handles, Signals, exit_requested, raise_descriptor_limit};
use super::messages::{Audience, Voice, set_level};
use super::notify::Notifier;
use super::{Exit, Failure, runtime, summary};
use crate::config::Config;
use crate::forward::{ForwardInfo, Passed};
use crate::gateway::{End, Ended, Gateway, Inherited, StopReason};
use crate::observe::Sink;
use crate::tap::netns::{Attached, NetnsTarget, attach};
use crate::tap::{Link, Watch};

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
    let (mut starter, ending) = prepare(config, &[], voice)?;
    let Attached {
        tap,
        sockets,
        owners,
        made,
        watch,
        helper,
    } = attach(target, userns, &config.interface, &config.plan)?;
    let inherited = Inherited {
        passed: starter.take_passed(),
        sockets,
        owners,
        sinks: starter.take_sinks(),
    };
    let ready = |forwards: &[ForwardInfo]| {
        starter.announce(&format!("Serving {target}"), &made.warnings, voice);
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
    let stop = ending.happened(Some(&watch));
    let ended = carry(config, Box::new(tap), inherited, || Ok(()), ready, stop)?;
    starter.tell(&ended, voice);
    match ended.end {
        End::Asked(_) => Ok(Exit::Success),
        End::LinkGone(_) => Err(Failure::LinkGone),
    }
}

/// Whoever has started this process, and wants to hear that it serves. Dropped,
/// it takes the pid file along: to be kept to the end.
#[derive(Debug)]
pub(super) struct Starter {
    handles: Handles,
    closing: Closing,
    notifier: Option<Notifier>,
}

/// What ends a gateway that serves nobody's command.
#[derive(Debug)]
pub(super) struct Ending {
    exit: Option<OwnedFd>,
    signals: Signals,
}

/// Takes over what the process was handed, but for the descriptors `links`, and
/// sets up what ends it. To be called before anything else is opened.
pub(super) fn prepare(
    config: &Config,
    links: &[RawFd],
    voice: Voice,
) -> Result<(Starter, Ending), Failure> {
    let mut handles = Handles::adopt_beside(config, links)?;
    let exit = handles.take_exit();
    let signals = Signals::block(&ENDING)?;
    handles.open_pid_file(config)?;
    let closing = Closing::prepare(&config.observe)?;
    let notifier = Notifier::from_env().unwrap_or_else(|e| {
        voice.warn(&e.to_string());
        None
    });
    let starter = Starter {
        handles,
        closing,
        notifier,
    };
    Ok((starter, Ending { exit, signals }))
}

impl Starter {
    /// The service manager's sockets.
    pub(super) fn take_passed(&mut self) -> Passed {
        self.handles.take_passed()
    }

    /// Tells what is to be told of a gateway that has ended.
    pub(super) fn tell(self, ended: &Ended, voice: Voice) {
        self.closing.tell(&ended.figures, None, voice);
    }

    /// What takes what is told of flows.
    pub(super) fn take_sinks(&mut self) -> Vec<Box<dyn Sink>> {
        let mut sinks = self.handles.take_sinks();
        sinks.extend(self.closing.sinks());
        sinks
    }

    /// Says that traffic flows: to the process that waits for it, and to a
    /// service manager with a line of `status`. Then the warnings there are.
    pub(super) fn announce(&mut self, status: &str, warnings: &[String], voice: Voice) {
        for warning in warnings.iter().cloned().chain(self.handles.announce()) {
            voice.warn(&warning);
        }
        let told = self.notifier.take().map(|manager| manager.ready(status));
        if let Some(Err(e)) = told {
            voice.warn(&e.to_string());
        }
    }
}

impl Ending {
    /// Resolves when somebody says stop, or what `watch` looks at is gone.
    pub(super) async fn happened(&self, watch: Option<&Watch>) -> StopReason {
        let gone = async {
            match watch {
                // Where it cannot be waited for, stopping is better than serving
                // for ever.
                Some(watch) => watch.gone().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            signal = self.signals.next() => match signal {
                Ok(info) => StopReason::Signal(i32::try_from(info.ssi_signo).unwrap_or(0)),
                // The same.
                Err(_) => StopReason::Signal(0),
            },
            () = exit_requested(self.exit.as_ref()) => StopReason::ExitFd,
            _ = gone => StopReason::TargetGone,
        }
    }
}

/// Builds the gateway on `link` and serves until `stop` resolves, or the link is
/// gone. `settle` is called when all that the gateway needs is open, to give up
/// what it does not need; then `ready`, when traffic flows.
pub(super) fn carry(
    config: &Config,
    link: Box<dyn Link>,
    inherited: Inherited,
    settle: impl FnOnce() -> Result<(), Failure>,
    ready: impl FnOnce(&[ForwardInfo]),
    stop: impl Future<Output = StopReason>,
) -> Result<Ended, Failure> {
    raise_descriptor_limit();
    let ended = runtime()?.block_on(async {
        let mut gateway = Gateway::new(config, link, inherited)?;
        gateway.on_log_level(Box::new(set_level));
        settle()?;
        let forwards: Vec<ForwardInfo> = gateway.forwards().collect();
        Ok::<_, Failure>(gateway.run(|| ready(&forwards), stop).await?)
    })?;
    if let End::Asked(reason) = ended.end {
        tracing::info!(?reason, "stopped");
    }
    Ok(ended)
}
