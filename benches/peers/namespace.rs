//! Namespaces: made by the process that lives in them, never the machine's own.
//!
//! ```text
//!   guest ──TAP── gateway ── host ──veth── remote
//!   10.0.2.100    (a process  lo           192.0.2.254, fd01::fe
//!   or 192.0.2.1   in host)   192.0.2.1    198.18.0.0/16, fd02::/64 (all local)
//! ```

use std::fs;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{getegid, geteuid};

use crate::error::{Context, Error, Result};

/// The congestion control of every namespace. Another default, such as bbr,
/// which paces even loopback, would be measured instead of the gateways.
pub(crate) const CONGESTION_CONTROL: &str = "cubic";

/// Which namespaces an agent makes for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Namespaces {
    /// None: it stays in the host's.
    Host,
    /// A network namespace: the remote.
    Remote,
    /// A user and a network namespace, as an unprivileged container has: the guest.
    Guest,
}

impl Namespaces {
    const ALL: [Self; 3] = [Self::Host, Self::Remote, Self::Guest];

    /// The name by which an agent is told.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Remote => "remote",
            Self::Guest => "guest",
        }
    }

    /// The reverse of [`Namespaces::name`].
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|namespaces| namespaces.name() == name)
    }
}

/// Moves the calling process, which must have one thread, into new namespaces
/// and ties its life to its parent's.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn enter(namespaces: Namespaces) -> Result<()> {
    match namespaces {
        Namespaces::Host => {}
        Namespaces::Remote => new_network()?,
        Namespaces::Guest => {
            new_user_and(CloneFlags::CLONE_NEWNET)?;
            tune()?;
        }
    }
    die_with_parent()
}

/// Has the kernel kill this process when its parent ends. To be called after
/// [`new_user_and`], which undoes it (a change of credentials does).
pub(crate) fn die_with_parent() -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context(|| "tying a process to its parent".into())
}

/// Makes a user namespace in which the caller is root, and `others` with it.
pub(crate) fn new_user_and(others: CloneFlags) -> Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | others).context(|| {
        "making a user namespace (allow it with sysctl kernel.unprivileged_userns_clone=1, \
         and user.max_user_namespaces above 0)"
            .into()
    })?;
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", &format!("0 {gid} 1"))
}

/// Moves the calling thread, and what it starts, into a fresh network namespace.
pub(crate) fn new_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context(|| "making a network namespace".into())?;
    tune()
}

/// Settings that every namespace of the benchmark has.
fn tune() -> Result<()> {
    ip("link set lo up")?;
    write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535")?;
    write(
        "/proc/sys/net/ipv4/tcp_congestion_control",
        CONGESTION_CONTROL,
    )?;
    let actual = read("/proc/sys/net/ipv4/tcp_congestion_control")?;
    if actual.trim() != CONGESTION_CONTROL {
        return Err(Error(format!(
            "a namespace uses congestion control {}, not {CONGESTION_CONTROL}",
            actual.trim()
        )));
    }
    Ok(())
}

/// Joins the host's namespace (the caller's) and the remote's with a veth.
///
/// # Errors
/// When `ip` fails.
pub(crate) fn join_host_and_remote(remote: u32) -> Result<()> {
    ip(&format!(
        "link add up0 type veth peer name up1 netns {remote}"
    ))?;
    for command in [
        "addr add 192.0.2.1/24 dev up0",
        "addr add fd01::1/64 dev up0 nodad",
        "link set up0 up",
    ] {
        ip(command)?;
    }
    for command in [
        "addr add 192.0.2.254/24 dev up1",
        "addr add fd01::fe/64 dev up1 nodad",
        "link set up1 up",
        "route add local 198.18.0.0/16 dev lo",
        "-6 route add local fd02::/64 dev lo",
    ] {
        ip_in(remote, command)?;
    }
    ip("route add default via 192.0.2.254")?;
    ip("-6 route add default via fd01::fe")
}

/// The MTU of `interface` in the calling process's namespace.
///
/// # Errors
/// When there is no such interface.
pub(crate) fn mtu(interface: &str) -> Result<u32> {
    let output = Command::new("ip")
        .args(["-o", "link", "show", "dev", interface])
        .output()
        .context(|| "running ip".into())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace().skip_while(|&word| word != "mtu");
    words
        .nth(1)
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| Error(format!("the guest has no interface {interface}")))
}

/// Open files that each process should be allowed: pasta uses two descriptors per
/// connection.
const OPEN_FILES: u64 = 65_536;

/// Raises the limit of open files to [`OPEN_FILES`], or as far as is allowed, for
/// this process and those it starts.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn raise_file_limit() -> Result<()> {
    let (_, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context(|| "reading the file limit".into())?;
    // Above the hard limit only root may go.
    let wanted = hard.max(OPEN_FILES);
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context(|| "raising the file limit".into())
}

/// Open files that this process and those it starts are allowed.
///
/// # Errors
/// When the kernel does not say.
pub(crate) fn file_limit() -> Result<u64> {
    let (soft, _) =
        getrlimit(Resource::RLIMIT_NOFILE).context(|| "reading the file limit".into())?;
    Ok(soft)
}

/// Runs `ip` in the caller's namespace.
fn ip(arguments: &str) -> Result<()> {
    run(Command::new("ip").args(arguments.split_whitespace()))
}

/// Runs `ip` in the network namespace of process `pid`.
fn ip_in(pid: u32, arguments: &str) -> Result<()> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net")).arg("ip");
    run(command.args(arguments.split_whitespace()))
}

/// Runs a command that must succeed.
fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .context(|| format!("running {command:?} (install iproute2 and util-linux)"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(Error(format!("{command:?} failed: {}", why.trim())))
}

/// Reads a small file.
fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).context(|| format!("reading {path}"))
}

/// Writes a small file.
fn write(path: &str, text: &str) -> Result<()> {
    fs::write(path, text).context(|| format!("writing '{text}' to {path}"))
}
