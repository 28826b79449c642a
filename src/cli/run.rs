//! `gw run`: a command in a new user, network and mount namespace.
//!
//! # Theory of operation
//!
//! One child is forked before anything else runs. It makes the namespaces, the
//! TAP and its own /etc/resolv.conf, hands the TAP to the gateway, and waits. Once
//! the gateway serves, it is told to go on and becomes the command, so that the
//! command never sees a network that does not work yet.
//!
//! **Terminal.** The command stays in the gateway's process group. So keys that
//! send signals reach both: the gateway lets them pass, as the command has had
//! them; Ctrl-Z stops both and `fg` continues both; a pipeline with `gw run` in it
//! is one job. An interactive shell makes groups of its own as it always does.
//! Signals that a process sends to the gateway are passed on to the command.
//!
//! **End.** The gateway ends when the command does, whatever else the command
//! has left running. The command is killed when the gateway dies.

mod child;
pub(in crate::cli) mod namespaces;
mod resolv_mount;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::siginfo;
use nix::sys::socket::{MsgFlags, send};
use nix::sys::wait::WaitStatus;
use nix::unistd::{getpgrp, tcgetpgrp, tcsetpgrp};

use self::child::Plan;
use super::closing::Closing;
use super::lifecycle::{Handles, Signals, exit_requested, raise_descriptor_limit};
use super::messages::{Audience, Voice, set_level};
use super::resolve::RunMode;
use super::{Exit, Failure, resolv_conf, runtime, summary};
use crate::config::{Config, Configure};
use crate::forward::ForwardInfo;
use crate::gateway::{End, Gateway, Inherited, StopReason};
use crate::observe::Sink;
use crate::observe::report::{self, CommandEnd};
use crate::tap::netns::{Received, handover_pair, receive};
use crate::tap::sys::{self, Child};

/// Those that are passed on to the command.
const FORWARDED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// How long a command may take to end on SIGTERM, when `--exit-fd` ends it.
const GRACE: Duration = Duration::from_millis(500);

/// Runs a command in namespaces of its own and returns with its status.
pub(super) fn run(config: &Config, mode: &RunMode, voice: Voice) -> Result<Exit, Failure> {
    let mut handles = Handles::adopt(config)?;
    let exit = handles.take_exit();
    let signals = Signals::block(&FORWARDED)?;
    handles.open_pid_file(config)?;
    let closing = Closing::prepare(&config.observe)?;
    let terminal = Terminal::ours();
    let resolv_conf = resolv_conf::text(config);
    let (ours, childs) = handover_pair()?;
    let plan = Plan {
        config,
        mode,
        signals: &signals,
        resolv_conf: resolv_conf.as_deref(),
        voice,
    };
    let child = sys::fork_child(|| plan.carry_out(&ours, childs.as_fd())).map_err(Failure::Fork)?;
    drop(childs);
    let command = Command { child, terminal };
    // From here on a failure drops `command`, which ends and reaps the child.
    let Received {
        tap,
        sockets,
        owners,
        made,
    } = receive(&ours)?;
    let pidfd = sys::pidfd_open(command.child.pid()).map_err(Failure::Watch)?;
    raise_descriptor_limit();
    let runtime = runtime()?;
    let inherited = Inherited {
        passed: handles.take_passed(),
        sockets,
        owners,
        sinks: sinks(&mut handles, &closing),
    };
    let mut ready = |forwards: &[ForwardInfo]| {
        for warning in made.warnings.iter().cloned().chain(handles.announce()) {
            voice.warn(&warning);
        }
        if mode.command.is_empty()
            && voice.audience() == Audience::Person
            && config.interface.configure == Configure::Static
        {
            voice.show(&summary::shell_line(config));
        }
        let ports = summary::ports_line(config, forwards);
        for line in ports.into_iter().chain(summary::seeds_line(config)) {
            match voice.audience() {
                Audience::Person => voice.show(&format!("{line}\n")),
                Audience::Log => tracing::info!("{line}"),
                Audience::Nobody => {}
            }
        }
        // When it fails the child is gone, which the gateway will notice.
        let _ = send(ours.as_raw_fd(), b"1", MsgFlags::MSG_NOSIGNAL);
    };
    let stop = async {
        tokio::select! {
            // Where the child cannot be waited for this way, wait() below can.
            _ = sys::readable(pidfd.as_fd()) => StopReason::CommandEnded,
            () = exit_requested(exit.as_ref()) => StopReason::ExitFd,
            () = forward_signals(&signals, &command) => StopReason::CommandEnded,
        }
    };
    let ended = runtime.block_on(async {
        let mut gateway = Gateway::new(config, Box::new(tap), inherited)?;
        gateway.on_log_level(Box::new(set_level));
        let forwards: Vec<ForwardInfo> = gateway.forwards().collect();
        gateway.run(|| ready(&forwards), stop).await
    })?;
    let status = match ended.end {
        End::Asked(StopReason::CommandEnded) => command.wait(),
        End::Asked(_) | End::LinkGone(_) => command.terminate(&pidfd),
    };
    if let Ok(status) = &status {
        let command = report::Command::new(&child::words(&mode.command), end_of(*status));
        closing.tell(&ended.figures, Some(command), voice);
    }
    match ended.end {
        End::Asked(_) => Ok(exit_of(status?)),
        End::LinkGone(_) => Err(Failure::LinkGone),
    }
}

/// What takes what is told of flows.
fn sinks(handles: &mut Handles, closing: &Closing) -> Vec<Box<dyn Sink>> {
    let mut sinks = handles.take_sinks();
    sinks.extend(closing.sinks());
    sinks
}

/// Passes signals on to the command for as long as there are any.
async fn forward_signals(signals: &Signals, command: &Command) {
    while let Ok(info) = signals.next().await {
        if is_for_gateway_only(&info)
            && let Ok(signal) = i32::try_from(info.ssi_signo)
            && let Ok(signal) = Signal::try_from(signal)
        {
            let _ = kill(command.child.pid(), signal);
        }
    }
    // Signals cannot be received: the command's end still can.
    std::future::pending().await
}

/// False for a signal that the terminal sent: it went to the whole foreground
/// process group, so that the command has had it too.
const fn is_for_gateway_only(info: &siginfo) -> bool {
    // Codes above 0 are the kernel's (sigaction(2)); processes send the others.
    info.ssi_code <= 0
}

/// The forked command. Dropped, it is killed and reaped.
#[derive(Debug)]
struct Command {
    child: Child,
    terminal: Terminal,
}

impl Command {
    /// Waits for its end.
    fn wait(mut self) -> Result<WaitStatus, Failure> {
        let status = self.child.wait().map_err(Failure::Watch)?;
        self.terminal.take_back();
        Ok(status)
    }

    /// Asks it to end, then makes it.
    fn terminate(self, pidfd: &OwnedFd) -> Result<WaitStatus, Failure> {
        let _ = kill(self.child.pid(), Signal::SIGTERM);
        let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let grace = PollTimeout::try_from(GRACE).unwrap_or(PollTimeout::ZERO);
        if !matches!(poll(&mut ended, grace), Ok(n) if n > 0) {
            let _ = kill(self.child.pid(), Signal::SIGKILL);
        }
        self.wait()
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if !self.child.is_reaped() {
            let _ = kill(self.child.pid(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn exit_of(status: WaitStatus) -> Exit {
    let code = match status {
        WaitStatus::Exited(_, code) => code,
        #[expect(
            clippy::as_conversions,
            reason = "the discriminants are the signal numbers"
        )]
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => 1,
    };
    Exit::Command(u8::try_from(code).unwrap_or(1))
}

/// The same for reports.
fn end_of(status: WaitStatus) -> CommandEnd {
    match status {
        #[expect(
            clippy::as_conversions,
            reason = "the discriminants are the signal numbers"
        )]
        WaitStatus::Signaled(_, signal, _) => CommandEnd::Signal(signal as i32),
        WaitStatus::Exited(_, code) => CommandEnd::ExitStatus(code),
        _ => CommandEnd::ExitStatus(1),
    }
}

/// Whether the terminal's foreground is ours, to be taken back from a shell
/// that was killed before it could give it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Terminal {
    Ours,
    NotOurs,
}

impl Terminal {
    fn ours() -> Self {
        match tcgetpgrp(std::io::stdin()) {
            Ok(group) if group == getpgrp() => Self::Ours,
            _ => Self::NotOurs,
        }
    }

    fn take_back(self) {
        if self == Self::NotOurs || tcgetpgrp(std::io::stdin()) == Ok(getpgrp()) {
            return;
        }
        // A background process that does this is stopped, unless it blocks the
        // signal for that (tcsetpgrp(3)).
        let ttou: SigSet = [Signal::SIGTTOU].into_iter().collect();
        if ttou.thread_block().is_ok() {
            let _: Result<(), Errno> = tcsetpgrp(std::io::stdin(), getpgrp());
            let _ = ttou.thread_unblock();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Pid;

    #[test]
    fn statuses() {
        let pid = Pid::from_raw(1);
        assert_eq!(exit_of(WaitStatus::Exited(pid, 3)), Exit::Command(3));
        let killed = WaitStatus::Signaled(pid, Signal::SIGTERM, false);
        assert_eq!(exit_of(killed), Exit::Command(143));
    }
}
