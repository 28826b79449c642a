//! The gateways that are compared, behind one trait.

mod baseline;
mod gw;
mod pasta;
mod slirp4netns;

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::agent::monotonic_nanos;
use crate::error::{Context, Error, Result};

pub(crate) use self::baseline::Baseline;
pub(crate) use self::gw::Gw;
pub(crate) use self::pasta::Pasta;
pub(crate) use self::slirp4netns::Slirp4netns;

/// The name of the TAP in the guest.
pub(crate) const TAP: &str = "tap0";

/// How long a gateway may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// How long a gateway may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// A program that connects a namespace.
pub(crate) trait Gateway {
    /// Its short name, as used in tables.
    fn name(&self) -> &'static str;

    /// Its version in one line.
    ///
    /// # Errors
    /// When the program is not there.
    fn version(&self) -> Result<String>;

    /// Connects the namespaces of process `guest`, with everything the program
    /// needs to configure the interface itself, and waits until it says that it
    /// is ready.
    ///
    /// # Errors
    /// When it does not start.
    fn start(&self, guest: u32, mtu: u16) -> Result<Running>;

    /// Whether it is one at all.
    fn role(&self) -> Role {
        Role::Gateway
    }

    /// How many descriptors the program has open per connection.
    fn descriptors_per_connection(&self) -> u64 {
        1
    }

    /// The guest's addresses for the host's loopback.
    fn host_loopback(&self) -> Addresses;
}

/// What takes part in the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A gateway.
    Gateway,
    /// None, to show what is possible without one.
    Baseline,
}

/// An IPv4 and an IPv6 address of the same thing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// IPv4.
    pub(crate) v4: Ipv4Addr,
    /// IPv6.
    pub(crate) v6: Ipv6Addr,
}

impl Addresses {
    /// The one of `family`.
    pub(crate) fn of(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A gateway at work; ended when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    /// Its process id; `None` where there is no gateway.
    pub(crate) pid: Option<u32>,
    /// When it was spawned, on the monotonic clock, in nanoseconds.
    pub(crate) spawned_nanos: u64,
    /// From spawning until it said that it is ready.
    pub(crate) ready_after: Duration,
    /// Our own child, unless it went into the background.
    child: Option<Child>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(pid) = self
            .pid
            .and_then(|pid| i32::try_from(pid).ok())
            .map(Pid::from_raw)
        else {
            return;
        };
        let _ = kill(pid, Signal::SIGTERM);
        let end = Instant::now() + STOP_LIMIT;
        while Instant::now() < end {
            if has_ended(pid) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        eprintln!("warning: process {pid} did not end on SIGTERM; killing it");
        let _ = kill(pid, Signal::SIGKILL);
        let _ = waitpid(pid, None);
        self.child = None;
    }
}

/// Whether a process that was ours, or became ours when its parent ended, is gone.
fn has_ended(pid: Pid) -> bool {
    !matches!(
        waitpid(pid, Some(WaitPidFlag::WNOHANG)),
        Ok(WaitStatus::StillAlive)
    )
}

/// A pipe whose write end a child inherits, to say that it is ready.
struct ReadyPipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl ReadyPipe {
    fn new() -> Result<Self> {
        // Without CLOEXEC: the child is to have it. Nothing else is started meanwhile.
        let (read, write) = nix::unistd::pipe().context(|| "making a pipe".into())?;
        Ok(Self { read, write })
    }

    /// The descriptor that the child writes to.
    fn child_fd(&self) -> RawFd {
        self.write.as_raw_fd()
    }

    /// Spawns `command` and waits for the byte.
    fn spawn(self, command: &mut Command) -> Result<Running> {
        let Self { read, write } = self;
        let (spawned_nanos, spawned) = (monotonic_nanos(), Instant::now());
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .context(|| format!("starting {command:?}"))?;
        let mut running = Running {
            pid: Some(child.id()),
            spawned_nanos,
            ready_after: Duration::ZERO,
            child: Some(child),
        };
        drop(write);
        wait_for_byte(read, command)?;
        running.ready_after = spawned.elapsed();
        Ok(running)
    }
}

/// Waits until a byte arrives on `pipe`.
fn wait_for_byte(pipe: OwnedFd, command: &Command) -> Result<()> {
    use std::os::fd::AsFd;
    let timeout = PollTimeout::try_from(READY_LIMIT).unwrap_or(PollTimeout::MAX);
    let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut polled, timeout).context(|| "waiting for a gateway".into())?;
    if ready == 0 {
        return Err(Error(format!(
            "{command:?} was not ready within {READY_LIMIT:?}"
        )));
    }
    let mut byte = [0];
    std::fs::File::from(pipe)
        .read_exact(&mut byte)
        .map_err(|_| Error(format!("{command:?} ended before it was ready")))
}

/// The first line of `program --version`.
fn version_line(program: &Path) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .context(|| format!("running {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// The version of a Debian package, where there is one.
fn debian_version(package: &str) -> Option<String> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Version}", package])
        .output()
        .ok()?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !version.is_empty()).then_some(version)
}
