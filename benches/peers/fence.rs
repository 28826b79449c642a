//! The fence around the benchmark: user, process and mount namespaces of its own,
//! so that nothing of it is left when it ends, however it ends, and so that it
//! runs without privileges.
//!
//! Three processes: the one that cargo started waits; its child makes the
//! namespaces; the grandchild is process 1 in them and does the work.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::error::{Context, Error, Result};
use crate::namespace::{self, CONGESTION_CONTROL};

/// Which of the three processes this is, in the environment.
const STAGE: &str = "GW_PEERS_STAGE";

/// The directory for the run's files, in the environment.
const SCRATCH: &str = "GW_PEERS_SCRATCH";

/// The kernel's list of congestion controls that every namespace may choose.
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// Runs `work` inside the fence; outside of it, sees to it that it is run.
pub(crate) fn run_inside(work: impl FnOnce() -> ExitCode) -> Result<ExitCode> {
    match std::env::var(STAGE).as_deref() {
        Err(_) => {
            namespace::raise_file_limit()?;
            let scratch = tempfile::tempdir().context(|| "making a directory".into())?;
            // From here on a signal ends the child, and this process tidies up.
            let signals = block_signals()?;
            let _restored_at_end = allow_congestion_control()?;
            run_stage("make", Some(signals), |command| {
                command.env(SCRATCH, scratch.path())
            })
        }
        Ok("make") => {
            ending_signals()
                .thread_unblock()
                .context(|| "unblocking signals".into())?;
            namespace::new_user_and(
                CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET,
            )?;
            namespace::die_with_parent()?;
            run_stage("work", None, |command| command)
        }
        Ok(_) => {
            namespace::die_with_parent()?;
            own_proc()?;
            let code = work();
            reap();
            Ok(code)
        }
    }
}

/// Where files of the run may be kept; removed at its end.
pub(crate) fn scratch() -> Result<PathBuf> {
    std::env::var_os(SCRATCH)
        .map(PathBuf::from)
        .ok_or_else(|| Error("there is no directory for the run's files".into()))
}

/// Starts this program again with the same arguments and returns its exit status.
/// One of `signals`, which are blocked, ends it.
fn run_stage(
    stage: &str,
    signals: Option<SigSet>,
    add: impl FnOnce(&mut Command) -> &mut Command,
) -> Result<ExitCode> {
    let program = std::env::current_exe().context(|| "finding this program".into())?;
    // The child inherits that they are blocked, and changes it.
    let mut child = add(Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(STAGE, stage))
    .spawn()
    .context(|| "starting this program again".into())?;
    if let Some(signals) = signals {
        let pid = i32::try_from(child.id()).context(|| "reading a process id".into())?;
        thread::spawn(move || {
            if signals.wait().is_ok() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        });
    }
    let status = child
        .wait()
        .context(|| "waiting for this program's child".into())?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The signals that end a program.
fn ending_signals() -> SigSet {
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])
}

/// Blocks them in this thread and those it starts.
fn block_signals() -> Result<SigSet> {
    let signals = ending_signals();
    signals
        .thread_block()
        .context(|| "blocking signals".into())?;
    Ok(signals)
}

/// Shows the processes of the new namespace under `/proc`.
fn own_proc() -> Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context(|| "making mounts private".into())?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)
        .context(|| "mounting /proc (not possible in a container that hides parts of it)".into())
}

/// Collects what ended.
fn reap() {
    while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
}

/// Restores [`ALLOWED`] when dropped.
#[derive(Debug)]
struct Restore(String);

impl Drop for Restore {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(ALLOWED, &self.0) {
            eprintln!(
                "warning: {ALLOWED} could not be set back to '{}': {error}",
                self.0.trim()
            );
        }
    }
}

/// Where the kernel's default is not cubic, namespaces may not choose it. As root
/// this is changed while the benchmark runs.
fn allow_congestion_control() -> Result<Option<Restore>> {
    if !Path::new(ALLOWED).exists() {
        return Ok(None);
    }
    let allowed = std::fs::read_to_string(ALLOWED).context(|| format!("reading {ALLOWED}"))?;
    if allowed
        .split_whitespace()
        .any(|name| name == CONGESTION_CONTROL)
    {
        return Ok(None);
    }
    std::fs::write(ALLOWED, format!("{} {CONGESTION_CONTROL}", allowed.trim())).map_err(
        |error| {
            Error(format!(
                "namespaces may not choose {CONGESTION_CONTROL} here ({ALLOWED}: {error}); as root \
             run: sysctl -w net.ipv4.tcp_allowed_congestion_control='{} {CONGESTION_CONTROL}'",
                allowed.trim()
            ))
        },
    )?;
    eprintln!("{ALLOWED}: {CONGESTION_CONTROL} added while the benchmark runs");
    Ok(Some(Restore(allowed)))
}
