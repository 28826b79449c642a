//! A child process as a link: frames go through its standard input and output.
//!
//! # Theory of operation
//!
//! The child gets one end of a socket pair as both its standard input and its
//! standard output; one message is one frame. Its standard error is ours. The
//! pair is of type `SOCK_SEQPACKET` unless asked otherwise: on such a pair each
//! side sees the end of the other. On one of type `SOCK_DGRAM`, which some
//! helpers expect, the child never reads an end of file.
//!
//! The child is told where it is by environment variables:
//!
//! | variable | value |
//! |---|---|
//! | `GW_FD`, `VPNFD` | `0`: the descriptor that carries frames, both ways |
//! | `GW_MEDIUM` | `ether` or `ip` |
//! | others | what the options say, see [`environment`] |
//!
//! **The end.** The child's death is seen through a pidfd, whatever it did with
//! its end of the pair. A child that closes its end, but lives on, is asked to
//! leave. Asking is SIGTERM to its process group, and SIGKILL after
//! [`PATIENCE`]; what is left of the group when the child has ended is killed
//! too. Then the link fails, with the child's status for a reason. The child is
//! also killed when this process ends, however that happens.
//!
//! **Again.** With [`Restart::Always`] a child that ended is followed by another,
//! after a pause that grows from 100 ms to [`LONGEST_PAUSE`] and is short again
//! after a child that lived for 10 s.

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::unistd::Pid;

use super::fd::{DatagramLink, Ends, SOCKET_BUFFER};
use super::retry::{Backoff, Timer};
use super::switch::{NewPort, PortSource};
use super::{Caps, Link, Medium, Offload, Received, sys};
use crate::net::AddressPlan;

/// Time between asking a child to leave and making it.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// Longest pause before a child is started again.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What to start, and how.
#[derive(Debug, Clone)]
pub struct ProcessOptions {
    /// What is started.
    pub command: ProcessCommand,
    /// What its frames are. Default Ethernet.
    pub medium: Medium,
    /// How frames are carried. Default [`PairType::SeqPacket`].
    pub pair: PairType,
    /// What follows its end. Default [`Restart::Never`].
    pub restart: Restart,
    /// Further environment variables; see [`environment`]. Default: none.
    pub environment: Vec<(OsString, OsString)>,
}

/// A program and its arguments, or a line for a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessCommand {
    /// A program, searched for in `PATH`, and its arguments, taken as they are.
    Program {
        /// The program.
        program: OsString,
        /// Its arguments.
        arguments: Vec<OsString>,
    },
    /// A line for `/bin/sh -c`.
    Shell(OsString),
}

/// The type of the socket pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PairType {
    /// `SOCK_SEQPACKET`: each side sees the end of the other. The default.
    #[default]
    SeqPacket,
    /// `SOCK_DGRAM`, for programs that want it.
    Datagram,
}

/// What follows the end of the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// Nothing. The default.
    #[default]
    Never,
    /// Another, after a pause.
    Always,
}

impl ProcessOptions {
    /// Starts `command` once, for Ethernet frames.
    #[must_use]
    pub const fn new(command: ProcessCommand) -> Self {
        Self {
            command,
            medium: Medium::Ethernet,
            pair: PairType::SeqPacket,
            restart: Restart::Never,
            environment: Vec::new(),
        }
    }
}

/// What a child may want to know of the network: `GW_MTU` in bytes,
/// `GW_GATEWAY_MAC`, and for each IP version `GW_NET4` (such as 10.0.2.0/24),
/// `GW_GATEWAY4`, `GW_DNS4` and `GW_GUEST4` (the address of a guest that is
/// configured by hand); likewise with a 6.
#[must_use]
pub fn environment(plan: &AddressPlan) -> Vec<(OsString, OsString)> {
    let mut variables = vec![
        ("GW_MTU", plan.mtu.get().to_string()),
        ("GW_GATEWAY_MAC", plan.gateway_mac.to_string()),
    ];
    if let Some(v4) = plan.v4 {
        variables.extend([
            ("GW_NET4", v4.net.to_string()),
            ("GW_GATEWAY4", v4.gateway.to_string()),
            ("GW_DNS4", v4.dns.to_string()),
            ("GW_GUEST4", v4.guest.to_string()),
        ]);
    }
    if let Some(v6) = plan.v6 {
        variables.extend([
            ("GW_NET6", v6.net.to_string()),
            ("GW_GATEWAY6", v6.gateway.to_string()),
            ("GW_DNS6", v6.dns.to_string()),
            ("GW_GUEST6", v6.guest.to_string()),
        ]);
    }
    let variables = variables.into_iter();
    variables.map(|(k, v)| (k.into(), v.into())).collect()
}

/// The child could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start '{program}': {source}; give a program that exists and may be executed")]
pub struct StartError {
    program: String,
    source: io::Error,
}

/// A child, carrying frames. Dropped, it is ended.
#[derive(Debug)]
pub struct ProcessLink {
    /// What polls readable for it does so for the pidfd and the timer, too.
    frames: DatagramLink,
    timer: Timer,
    child: Group,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// It has closed its end, and was asked to leave.
    Leaving,
}

/// A child with its process group.
#[derive(Debug)]
struct Group {
    child: Child,
    pidfd: OwnedFd,
    status: Option<ExitStatus>,
}

impl ProcessLink {
    /// Starts the child.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(options: &ProcessOptions) -> Result<Self, StartError> {
        Self::try_start(options).map_err(|source| StartError {
            program: program(&options.command),
            source,
        })
    }

    fn try_start(options: &ProcessOptions) -> io::Result<Self> {
        let (ours, theirs) = pair(options.pair)?;
        let mut command = command(options);
        command
            .stdin(Stdio::from(theirs.try_clone()?))
            .stdout(Stdio::from(theirs));
        let child = sys::spawn_to_die_with_us(&mut command)?;
        // Its ends must be the child's alone, for the end of file to be seen.
        drop(command);
        let child = Group::new(child)?;
        let frames = DatagramLink::new(Ends::one(ours)?, options.medium)?;
        let timer = Timer::new()?;
        let readable = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
        frames.epoll().add(&child.pidfd, readable())?;
        frames.epoll().add(&timer, readable())?;
        Ok(Self {
            frames,
            timer,
            child,
            state: State::Running,
        })
    }

    /// The child's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.child.id()
    }

    /// The child has closed its end.
    fn ask_to_leave(&mut self) -> io::Result<()> {
        self.state = State::Leaving;
        self.frames.epoll().delete(self.frames.input())?;
        self.child.signal(Signal::SIGTERM);
        self.timer.set(PATIENCE)
    }

    fn look_at_child(&mut self) -> io::Result<()> {
        if self.timer.has_expired() {
            self.child.signal(Signal::SIGKILL);
        }
        match self.child.ended()? {
            Some(status) => Err(io::Error::other(format!("the command ended with {status}"))),
            None => Ok(()),
        }
    }
}

impl Link for ProcessLink {
    fn caps(&self) -> Caps {
        self.frames.caps()
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.frames.readiness()
    }

    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        if self.state == State::Running {
            match self.frames.recv(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
                Err(_) => self.ask_to_leave()?,
                received => return received,
            }
        }
        self.look_at_child()?;
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        self.frames.send(offload, frame)
    }
}

impl Group {
    fn new(mut child: Child) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        match sys::pidfd_open(Pid::from_raw(pid)) {
            Ok(pidfd) => Ok(Self {
                child,
                pidfd,
                status: None,
            }),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(e)
            }
        }
    }

    /// To all of the group. Its number is not another's before the child has
    /// been waited for.
    fn signal(&self, signal: Signal) {
        if self.status.is_none()
            && let Ok(pid) = i32::try_from(self.child.id())
        {
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }

    fn has_ended(&self, wait: PollTimeout) -> bool {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, wait).is_ok_and(|ready| ready > 0)
    }

    /// How the child has ended, if it has; nothing of its group is left then.
    fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() && self.has_ended(PollTimeout::ZERO) {
            self.signal(Signal::SIGKILL);
            self.status = Some(self.child.wait()?);
        }
        Ok(self.status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.status.is_some() {
            return;
        }
        self.signal(Signal::SIGTERM);
        let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::ZERO);
        self.has_ended(patience);
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Starts a child, and another when it ends if that was asked for.
#[derive(Debug)]
pub struct ProcessSource {
    options: ProcessOptions,
    name: String,
    timer: Timer,
    backoff: Backoff,
    /// The first, on its way into the switch.
    first: Option<ProcessLink>,
    running: Option<Instant>,
}

impl ProcessSource {
    /// Starts the first child.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(options: ProcessOptions) -> Result<Self, StartError> {
        let failed = |source| StartError {
            program: program(&options.command),
            source,
        };
        let timer = Timer::new().map_err(failed)?;
        let first = ProcessLink::start(&options)?;
        Ok(Self {
            name: format!("exec:{}", program(&options.command)),
            options,
            timer,
            backoff: Backoff::new(LONGEST_PAUSE),
            first: Some(first),
            running: None,
        })
    }

    fn start_later(&mut self) {
        // It fails for times that are none only.
        let _ = self.timer.set(self.backoff.pause());
    }
}

impl PortSource for ProcessSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    fn poll(&mut self) -> io::Result<Option<NewPort>> {
        let link = match self.first.take() {
            Some(link) => link,
            None if self.timer.has_expired() => match ProcessLink::start(&self.options) {
                Ok(link) => link,
                Err(e) => {
                    self.start_later();
                    return Err(io::Error::other(e));
                }
            },
            None => return Ok(None),
        };
        self.running = Some(Instant::now());
        Ok(Some(NewPort {
            link: Box::new(link),
            name: self.name.clone(),
        }))
    }

    fn lost(&mut self, _reason: &io::Error) {
        if let Some(since) = self.running.take() {
            self.backoff.lived(since.elapsed());
        }
        match self.options.restart {
            Restart::Never => {}
            Restart::Always => self.start_later(),
        }
    }
}

/// Both ends: ours, and the child's, which blocks as programs expect.
fn pair(kind: PairType) -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = match kind {
        PairType::SeqPacket => SockType::SeqPacket,
        PairType::Datagram => SockType::Datagram,
    };
    let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)?;
    for end in [&ours, &theirs] {
        setsockopt(end, sockopt::SndBuf, &SOCKET_BUFFER)?;
        setsockopt(end, sockopt::RcvBuf, &SOCKET_BUFFER)?;
    }
    Ok((ours, theirs))
}

fn command(options: &ProcessOptions) -> Command {
    let mut command = match &options.command {
        ProcessCommand::Program { program, arguments } => {
            let mut command = Command::new(program);
            command.args(arguments);
            command
        }
        ProcessCommand::Shell(line) => {
            let mut command = Command::new("/bin/sh");
            command.arg("-c").arg(line);
            command
        }
    };
    let medium = match options.medium {
        Medium::Ethernet => "ether",
        Medium::Ip => "ip",
    };
    command
        .env("GW_FD", "0")
        .env("VPNFD", "0")
        .env("GW_MEDIUM", medium)
        .envs(options.environment.iter().map(|(k, v)| (k, v)));
    command
}

/// What messages call it.
fn program(command: &ProcessCommand) -> String {
    match command {
        ProcessCommand::Program { program, .. } => program.to_string_lossy().into_owned(),
        ProcessCommand::Shell(line) => line.to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests;
